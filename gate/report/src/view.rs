//! What the formats share: figures, findings and counts in words.

use std::{cmp::Reverse, collections::BTreeMap};

use memgate_evidence::{Environment, platform::Platform};
use memgate_verdict::{
    metric::Unit,
    results::{GateResult, Report, ServiceFailure, ServiceResult, Verdict},
    summarise::{SignalNote, Site, SiteKind, SourceLocation, Trust},
};

use super::text;

/// Stands for a missing figure.
const NO_FIGURE: &str = "-";

/// Something to report: a gate that is not a plain pass, or a verdict that no gate explains.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finding<'a> {
    /// `uaa on linux/amd64`; `memgate` for the whole report.
    pub(super) subject: String,
    /// The metric's name; `verdict` if no gate explains the finding.
    pub(super) name: String,
    pub(super) verdict: Verdict,
    /// One line, safe to show.
    pub(super) reason: String,
    pub(super) gate: Option<&'a GateResult>,
    /// The gate's call sites as [`site_lines`] gives them.
    pub(super) sites: Vec<String>,
    /// Repeats the run locally; one line, safe to show.
    pub(super) repeat: Option<String>,
}

/// The command that repeats a run locally: `memgate check --service uaa --platform linux/amd64 --tier T0`.
///
/// Each word is quoted for a shell if necessary, so the line can be copied whatever it holds.
pub fn repeat_command(result: &ServiceResult) -> String {
    command(&result.service, result.platform, &result.options)
}

fn command(service: &str, platform: Platform, options: &[String]) -> String {
    let word = |word: &str| text::visible(&text::shell_word(word));
    let options: String = options.iter().map(|option| format!(" {}", word(option))).collect();
    format!("memgate check --service {} --platform {platform}{options}", word(service))
}

/// The name of an outcome without a verdict, beside the names of verdicts.
pub(super) const FAILED: &str = "failed";

/// A service that could not be judged; every text is safe to show.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Failed {
    /// `uaa on linux/amd64`.
    pub(super) subject: String,
    /// The step that failed, such as `build`.
    pub(super) stage: String,
    /// What happened, in one line: `build: the program does not compile`.
    pub(super) reason: String,
    /// More lines of that, such as a compiler's output, then each cause, then what to do. Each begins with a word of
    /// memgate's own.
    pub(super) details: Vec<String>,
    /// Repeats the run locally.
    pub(super) repeat: String,
}

/// The services that could not be judged.
pub(super) fn failed(report: &Report) -> Vec<Failed> {
    report.failures.iter().map(of_failure).collect()
}

fn of_failure(failed: &ServiceFailure) -> Failed {
    let ServiceFailure { service, platform, options, failure } = failed;
    let causes = failure.causes.iter().map(|cause| format!("cause: {cause}"));
    let help = failure.help.iter().map(|help| format!("help: {help}"));
    let message = format!("{}: {}", failure.stage, failure.message);
    let mut lines = [message].into_iter().chain(causes).chain(help).flat_map(|text| lines(&text));
    Failed {
        subject: format!("{} on {platform}", text::visible(service)),
        stage: failure.stage.to_string(),
        reason: lines.next().unwrap_or_default(),
        details: lines.collect(),
        repeat: command(service, *platform, options),
    }
}

/// The lines of a text, safe to show. All but the first begin with a bar.
fn lines(text: &str) -> Vec<String> {
    let lines = text.lines().map(text::visible).enumerate();
    let barred =
        |(index, line): (usize, String)| if index == 0 || line.starts_with("| ") { line } else { format!("| {line}") };
    lines.map(barred).collect()
}

/// The verdict's name, or [`FAILED`] if there is none.
pub(super) fn outcome(report: &Report) -> &'static str {
    report.verdict.map_or(FAILED, Verdict::name)
}

/// `uaa on linux/amd64`, safe to show.
pub(super) fn subject(result: &ServiceResult) -> String {
    format!("{} on {}", text::visible(&result.service), result.platform)
}

/// `1 run`, `3 gates`.
pub(super) fn counted(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// `3 runs`.
pub(super) fn runs(result: &ServiceResult) -> String {
    counted(usize::try_from(result.runs).unwrap_or(usize::MAX), "run")
}

/// `built with -race=true GOAMD64=v3`, and `run with GOGC=50`: what moves the figures, if there is anything.
pub(super) fn build(environment: &Environment) -> Vec<String> {
    let settings = |title: &str, settings: &BTreeMap<String, String>| {
        let pairs: Vec<_> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        (!pairs.is_empty()).then(|| format!("{title} {}", pairs.join(" ")))
    };
    [settings("built with", &environment.build), settings("run with", &environment.variables)]
        .into_iter()
        .flatten()
        .collect()
}

/// A figure, or a dash.
pub(super) fn figure(value: Option<f64>, unit: Unit) -> String {
    value.map_or_else(|| NO_FIGURE.to_owned(), |value| memgate_verdict::units::format(value, unit))
}

/// The measured figure, with its interval if that is wide enough to show.
pub(super) fn measured(gate: &GateResult) -> String {
    let [measured, low, high] = [gate.measured, gate.low, gate.high].map(|value| figure(value, gate.unit));
    if gate.measured.is_none() || (gate.low.is_none() && gate.high.is_none()) || (low == measured && high == measured) {
        return measured;
    }
    format!("{measured} ({low} to {high})")
}

/// `measured 61ms (58ms to 64ms), limit 50ms, baseline 1.2ms`; `, anchor 1.1ms` follows if there is one, and
/// `, notices 55ms` if the gate holds.
pub(super) fn figures(gate: &GateResult) -> String {
    let noticed = gate.noticed.map(|noticed| format!(", notices {}", figure(Some(noticed), gate.unit)));
    let (measured, baseline) = (measured(gate), figure(gate.baseline, gate.unit));
    let compared = match &gate.against {
        None => format!("limit {}, baseline {baseline}", figure(gate.limit, gate.unit)),
        Some(against) => format!("{}: {baseline}", text::visible(against)),
    };
    let anchor = gate.anchor.map(|anchor| format!(", anchor {}", figure(Some(anchor), gate.unit)));
    format!("measured {measured}, {compared}{}{}", anchor.unwrap_or_default(), noticed.unwrap_or_default())
}

/// The name of a gate, which no other gate of the result has.
pub(super) fn name(gate: &GateResult) -> String {
    match &gate.against {
        None => gate.metric.name().to_owned(),
        Some(against) => format!("{} against {}", gate.metric, text::visible(against)),
    }
}

/// The name of the build that a result is compared with, if there is one; safe to show.
pub(super) fn against(result: &ServiceResult) -> Option<String> {
    result.gates.iter().find_map(|gate| gate.against.as_deref()).map(text::visible)
}

/// The call sites of a gate: a title, then one line for each site; empty if there are none. Safe to show.
pub fn site_lines(runs: u32, gate: &GateResult) -> Vec<String> {
    let title = match (runs, &gate.against) {
        _ if gate.sites.is_empty() => return Vec::new(),
        (runs, Some(_)) => format!("call sites that have more than in the other build, in {runs} runs together:"),
        (1, None) => "call sites:".to_owned(),
        (runs, None) => format!("call sites of {runs} runs together:"),
    };
    [title].into_iter().chain(gate.sites.iter().map(site)).collect()
}

/// `heap 1.84MiB (61%; 37 samples, within 33%): main.(*store).put, store/store.go:42`; one line, safe to show.
fn site(site: &Site) -> String {
    let amount = memgate_verdict::units::format(site.amount, site.unit);
    let what = match (site.kind, site.unit) {
        (SiteKind::Heap, Unit::Count) => format!("heap {amount} objects"),
        (SiteKind::Heap, _) => format!("heap {amount}"),
        (SiteKind::OffHeap, _) => format!("off-heap {amount}"),
        (SiteKind::Goroutines, _) => format!("goroutines {amount}"),
    };
    let share = figure(Some(site.share), Unit::Ratio);
    let doubt = site.samples.zip(site.error).map(|(samples, error)| {
        let samples = counted(usize::try_from(samples).unwrap_or(usize::MAX), "sample");
        format!("; {samples}, within {}", figure(Some(error), Unit::Ratio))
    });
    let starts = site.starts.as_ref().map(|function| format!("go {} at ", text::visible(function)));
    let own = site.own.as_ref().filter(|own| **own != site.at).map(|own| format!("; reached from {}", place(own)));
    format!(
        "{what} ({share}{}): {}{}{}",
        doubt.unwrap_or_default(),
        starts.unwrap_or_default(),
        place(&site.at),
        own.unwrap_or_default()
    )
}

/// `main.(*store).put, store/store.go:42`, as far as the place is known.
fn place(place: &SourceLocation) -> String {
    let function = text::visible(&place.function);
    match (place.file.as_str(), place.line) {
        ("", _) => function,
        (file, 0) => format!("{function}, {}", text::visible(file)),
        (file, line) => format!("{function}, {}:{line}", text::visible(file)),
    }
}

/// `tier T2; 14 signals exact, 3 sampled, 1 missing: mmap_latency (no uprobes)`; one line, safe to show.
pub(super) fn trust(result: &ServiceResult) -> String {
    let counts: Vec<String> = Trust::ALL.into_iter().filter_map(|trust| of_trust(&result.signals, trust)).collect();
    let signals = if counts.is_empty() { "no signals".to_owned() } else { counts.join(", ") };
    format!("tier {}; {signals}", result.tier)
}

/// The most metrics without a gate that are named.
const MOST_UNGATED: usize = 8;

/// How old the baseline is, and what has no gate.
pub(super) fn baseline(result: &ServiceResult) -> String {
    let recorded = match &result.recording {
        None => "none".to_owned(),
        Some(recording) => {
            let runs = counted(usize::try_from(recording.runs).unwrap_or(usize::MAX), "run");
            format!("recorded on {}, {runs}", text::visible(&recording.day))
        }
    };
    let names: Vec<&str> = result.ungated.iter().map(|metric| metric.name()).collect();
    match names.len() {
        0 => recorded,
        1..=MOST_UNGATED => format!("{recorded}; no gate on {}", names.join(", ")),
        many => format!("{recorded}; no gate on {many} metrics"),
    }
}

/// The number of signals with this degree of trust; unless they are exact or sampled, also their names and reasons.
fn of_trust(signals: &[SignalNote], trust: Trust) -> Option<String> {
    let of_trust: Vec<&SignalNote> = signals.iter().filter(|signal| signal.exactness == trust).collect();
    let count = match (of_trust.len(), trust) {
        (0, _) => return None,
        (count, Trust::Exact) => format!("{} exact", counted(count, "signal")),
        (count, Trust::Sampled | Trust::Bucketed | Trust::Inexact | Trust::Missing) => {
            format!("{count} {}", trust.name())
        }
    };
    match trust {
        Trust::Exact | Trust::Sampled => return Some(count),
        Trust::Bucketed | Trust::Inexact | Trust::Missing => {}
    }
    // Missing signals mostly have the same reason.
    let why = of_trust.chunk_by(|one, next| one.reason == next.reason).map(|alike| {
        let names: Vec<String> = alike.iter().map(|signal| text::visible(&signal.name)).collect();
        let reason = alike.first().and_then(|signal| signal.reason.as_deref()).unwrap_or("no reason is given");
        format!("{} ({})", names.join(", "), text::visible(reason))
    });
    Some(format!("{count}: {}", why.collect::<Vec<_>>().join(", ")))
}

/// The place for the gate's annotation: the service's own code in the first call site, if that is in the repository.
pub(super) fn annotated(gate: &GateResult) -> Option<&SourceLocation> {
    gate.sites.first()?.own.as_ref().filter(|own| own.in_repository && own.line > 0)
}

/// The findings of one result, worst first. Equal ones keep the order of the gates.
pub(super) fn findings(result: &ServiceResult) -> Vec<Finding<'_>> {
    let repeat = Some(repeat_command(result));
    let gates = result.gates.iter().filter(|gate| gate.verdict != Verdict::Pass);
    let mut findings: Vec<_> = unexplained(result)
        .into_iter()
        .chain(gates.map(|gate| Finding {
            subject: subject(result),
            name: name(gate),
            verdict: gate.verdict,
            reason: text::visible(&gate.reason),
            gate: Some(gate),
            sites: site_lines(result.runs, gate),
            repeat: repeat.clone(),
        }))
        .collect();
    findings.sort_by_key(|finding| Reverse(finding.verdict));
    findings
}

/// The verdict of a result whose gates do not explain it: there are none, or all are better. Without this finding, a
/// format that lists only gates would show a failure as success.
pub(super) fn unexplained(result: &ServiceResult) -> Option<Finding<'static>> {
    let worst = result.gates.iter().map(|gate| gate.verdict).max();
    let explained = worst.is_some_and(|worst| worst >= result.verdict);
    let reason =
        if result.gates.is_empty() { "No gate was judged." } else { "The verdict is worse than every gate's." };
    (!explained).then(|| Finding {
        subject: subject(result),
        name: "verdict".to_owned(),
        verdict: result.verdict,
        reason: reason.to_owned(),
        gate: None,
        sites: Vec::new(),
        repeat: Some(repeat_command(result)),
    })
}

/// The verdict of a report whose results and failures do not explain it.
pub(super) fn unexplained_report(report: &Report) -> Option<Finding<'static>> {
    let worst = report.results.iter().map(|result| result.verdict).max();
    let explained = match report.verdict {
        Some(verdict) => worst.is_some_and(|worst| worst >= verdict),
        None => !report.failures.is_empty(),
    };
    let reason = match report.verdict {
        _ if report.results.is_empty() => "No service was judged.",
        Some(_) => "The verdict is worse than every service's.",
        None => "There is no verdict, and no failure explains it.",
    };
    (!explained).then(|| Finding {
        subject: "memgate".to_owned(),
        name: "verdict".to_owned(),
        verdict: report.verdict.unwrap_or(Verdict::Inconclusive),
        reason: reason.to_owned(),
        gate: None,
        sites: Vec::new(),
        repeat: None,
    })
}

/// The findings of all results, worst first.
pub(super) fn all_findings(report: &Report) -> Vec<Finding<'_>> {
    let mut findings: Vec<_> =
        unexplained_report(report).into_iter().chain(report.results.iter().flat_map(findings)).collect();
    findings.sort_by_key(|finding| Reverse(finding.verdict));
    findings
}

/// The notes of a result, one a line, safe to show.
pub(super) fn notes(result: &ServiceResult) -> String {
    result.notes.iter().map(|note| text::visible(note)).collect::<Vec<_>>().join("\n")
}

/// `1 service failed; gates: 2 regressed, 1 inconclusive, 9 pass`: the services that could not be judged, and the gates
/// of all results by verdict, worst first.
pub(super) fn counts(report: &Report) -> String {
    match report.failures.len() {
        0 => gate_counts(report),
        failed => format!("{} failed; {}", counted(failed, "service"), gate_counts(report)),
    }
}

fn gate_counts(report: &Report) -> String {
    let gates: Vec<_> = report.results.iter().flat_map(|result| &result.gates).collect();
    let counts: Vec<_> = Verdict::ALL
        .into_iter()
        .rev()
        .map(|verdict| (verdict, gates.iter().filter(|gate| gate.verdict == verdict).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(verdict, count)| format!("{count} {}", verdict.name()))
        .collect();
    if counts.is_empty() { "no gates".to_owned() } else { format!("gates: {}", counts.join(", ")) }
}
