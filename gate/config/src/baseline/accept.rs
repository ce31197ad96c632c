//! New figures in a baseline file that people wrote. Every other byte stays.

use std::{collections::BTreeSet, ops::Range, path::Path};

use memgate_evidence::{
    error::{InputError, Result},
    platform::Platform,
};
use memgate_verdict::{
    baseline::{Baseline, BaselineEnvironment, Expectation, Waiver},
    judge::{is_change, misfit},
    metric::Metric,
    summarise::{Summary, pooled_deviation},
    units::{format_exact, parse},
};

use super::{
    load,
    memory::{self, Spread},
    render::{page_size, quoted, recorded_figure},
};
use crate::yaml::{KeyPath, Problem, Source};

/// A baseline file with other figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The whole text.
    pub text: String,
    /// The figures that differ, in the order of the metrics.
    pub changes: Vec<Change>,
    /// Metrics whose figure stays because a run could not measure them, with the reason.
    pub kept: Vec<(Metric, String)>,
}

/// A recorded figure and the one in its place, in the metric's unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// The metric.
    pub metric: Metric,
    /// The figure of the file.
    pub before: f64,
    /// The mean of the runs, with as many digits as the file has.
    pub after: f64,
}

/// Puts the figures of these runs into the text of a baseline file: `baseline`, and `noise` where the file has it. With
/// all metrics, `environment` says where they come from. With some, only these change, and the runs must fit the file.
/// `recorded` is the day, such as `2026-11-23`.
///
/// Comments, order, anchors, indentation and line ends stay. A figure that stands behind an alias is an error, because
/// another place has it too.
///
/// # Errors
/// When the text is no baseline of the service and platform, when a metric that is named is not in it or was not
/// measured, when there are fewer than two runs, when figures stay and the runs do not fit, or when a value cannot be
/// replaced alone.
pub fn accept(
    path: &Path,
    text: &str,
    summary: &Summary,
    recorded: &str,
    metrics: &BTreeSet<Metric>,
) -> Result<Accepted> {
    let source = Source::new(path.display().to_string(), text);
    let before = load::from_source(&source, summary.platform, &summary.baseline)?;
    check_runs(path, summary)?;
    check_asked(&source, &before, metrics, ADD_A_FIGURE)?;
    let is_asked = |metric: &Metric| metrics.is_empty() || metrics.contains(metric);
    let mut figures = Figures::of(&before, summary, is_asked, Noise::OfTheseRuns);
    check_fit(&source, &before, summary, metrics, &figures.kept)?;
    if metrics.is_empty() {
        let now = environment(&before.environment, summary, recorded);
        figures.edits.extend(of_environment(&now));
        figures.expected.environment = now;
    } else {
        figures.lower_occasions(summary);
    }
    figures.written(&source, path, text, summary)
}

/// Puts the figures of these metrics of the runs into the text of a baseline file, and no others; none if there are
/// none. Where the file has `noise`, it becomes that of the recorded runs and of these together: the file says of how
/// many runs its figures are, and the deviation of fewer is hardly known.
///
/// # Errors
/// As for [`accept`] with metrics. The runs must fit the file even if no figure changes.
pub fn tighten(path: &Path, text: &str, summary: &Summary, metrics: &BTreeSet<Metric>) -> Result<Accepted> {
    let source = Source::new(path.display().to_string(), text);
    let before = load::from_source(&source, summary.platform, &summary.baseline)?;
    check_runs(path, summary)?;
    check_asked(&source, &before, metrics, ADD_A_FIGURE)?;
    if let Some(misfit) = misfit(summary, &before) {
        let help = "accept the figures of all metrics together: `memgate baseline accept`";
        let problem = Problem::new(misfit, "recorded elsewhere", help);
        return Err(source.error(&KeyPath::root().key("environment"), problem));
    }
    let mut figures = Figures::of(&before, summary, |metric| metrics.contains(metric), Noise::OfAllRuns);
    check_fit(&source, &before, summary, metrics, &figures.kept)?;
    if !metrics.is_empty() {
        figures.lower_occasions(summary);
    }
    figures.written(&source, path, text, summary)
}

/// Which runs the noise in the file is of.
#[derive(Debug, Clone, Copy)]
enum Noise {
    /// Those whose figures the file gets.
    OfTheseRuns,
    /// These, and those whose figures the file had.
    OfAllRuns,
}

/// The figures of runs in place of recorded ones.
struct Figures {
    /// What the file will say.
    expected: Baseline,
    edits: Vec<(KeyPath, String)>,
    /// Keys that a metric's entry does not have: the key before each, and its text.
    added: Vec<(Metric, &'static str, String)>,
    changes: Vec<Change>,
    kept: Vec<(Metric, String)>,
}

impl Figures {
    fn of(before: &Baseline, summary: &Summary, is_asked: impl Fn(&Metric) -> bool, noise_is: Noise) -> Self {
        let recorded_runs = f64::from(before.environment.runs);
        let has_memory = before.environment.occasions.is_some();
        let mut figures =
            Self { expected: before.clone(), edits: vec![], added: vec![], changes: vec![], kept: vec![] };
        let Self { expected, edits, changes, kept, .. } = &mut figures;
        for (&metric, expectation) in expected.metrics.iter_mut().filter(|(metric, _)| is_asked(metric)) {
            let Some(figure) = &mut expectation.baseline else { continue };
            let (mean, noise) = match mean_and_noise(summary, metric, has_memory) {
                Ok(figure) => figure,
                Err(reason) => {
                    kept.push((metric, reason));
                    continue;
                }
            };
            let place = KeyPath::root().key("metrics").key(metric.name());
            let mut put = |key: &str, old: &mut f64, new: f64| {
                let text = format_exact(new, metric.unit());
                // What the file will say, with as many digits as it has.
                *old = parse(&text, metric.unit()).unwrap_or(f64::NAN);
                edits.push((place.key(key), text));
            };
            let recorded = *figure;
            put("baseline", figure, mean);
            if recorded != *figure {
                changes.push(Change { metric, before: recorded, after: *figure });
            }
            // A file with a memory gets its noise below.
            if let Some(old) = expectation.noise.as_mut().filter(|_| !has_memory) {
                let parts = [(*old, recorded_runs - 1.0), (noise, summary.runs.len() as f64 - 1.0)];
                let noise = match noise_is {
                    Noise::OfTheseRuns => noise,
                    Noise::OfAllRuns => pooled_deviation(parts).map_or(noise, |(deviation, _)| deviation),
                };
                put("noise", old, noise);
            }
        }
        if let Some(occasions) = before.environment.occasions {
            figures.remember(before, summary, occasions);
        }
        figures
    }

    /// Pools how the runs differ with how the recorded ones did, and the step to their mean with how occasions differ.
    /// A step that is a change of the service says nothing of occasions. Neither does a figure that is the recorded one to
    /// its last digit: it is of the recorded runs.
    fn remember(&mut self, before: &Baseline, summary: &Summary, occasions: u32) {
        let runs = before.environment.runs;
        for Change { metric, before: figure, .. } in self.changes.clone() {
            let (Some(old), Ok(now)) = (before.metrics.get(&metric), memory::Recorded::of(summary, metric)) else {
                continue;
            };
            let spread = |deviation: Option<f64>, freedom: Option<u32>| {
                Some(Spread { deviation: deviation?, freedom: freedom.filter(|freedom| *freedom > 0)? })
            };
            let freedom = old.noise_freedom.or(Some(runs.saturating_sub(occasions)));
            let within = memory::pooled([spread(old.noise, freedom), now.within]);
            let step = (!is_change(metric, summary, before)).then(|| now.by_step(figure, occasions));
            let between = memory::pooled([spread(old.between, old.between_freedom), now.between, step]);
            let mut after = "baseline";
            if old.noise.is_some() && within.is_some() {
                self.spread(metric, ["noise", "noise_freedom"], after, within);
                after = "noise_freedom";
            }
            self.spread(metric, ["between", "between_freedom"], after, between);
        }
    }

    /// Puts a deviation and its degrees of freedom into a metric's entry, behind this key if it has none.
    fn spread(
        &mut self,
        metric: Metric,
        [key, of_freedom]: [&'static str; 2],
        after: &'static str,
        spread: Option<Spread>,
    ) {
        let (Some(Spread { deviation, freedom }), Some(expectation)) = (spread, self.expected.metrics.get_mut(&metric))
        else {
            return;
        };
        let text = format_exact(deviation, metric.unit());
        let read = parse(&text, metric.unit()).ok();
        let Expectation { noise, noise_freedom, between, between_freedom, .. } = expectation;
        let (of_key, of_its_freedom) = if key == "noise" { (noise, noise_freedom) } else { (between, between_freedom) };
        let had = [of_key.is_some(), of_its_freedom.is_some()];
        (*of_key, *of_its_freedom) = (read, Some(freedom));
        let place = KeyPath::root().key("metrics").key(metric.name());
        for (key, after, had, text) in [(key, after, had[0], text), (of_freedom, key, had[1], freedom.to_string())] {
            match had {
                true => self.edits.push((place.key(key), text)),
                false => self.added.push((metric, after, format!("{key}: {text}"))),
            }
        }
    }

    /// Figures of fewer occasions now stand beside the others, and the file says so of all.
    fn lower_occasions(&mut self, summary: &Summary) {
        let now = memory::occasions(summary);
        if let Some(occasions) = self.expected.environment.occasions.as_mut().filter(|occasions| **occasions > now) {
            *occasions = now;
            self.edits.push((KeyPath::root().key("environment").key("occasions"), now.to_string()));
        }
    }

    /// The text with these figures.
    fn written(self, source: &Source, path: &Path, text: &str, summary: &Summary) -> Result<Accepted> {
        let Self { expected, edits, added, changes, kept } = self;
        let mut text = edited(source, text, edits)?;
        for (metric, after, added) in added {
            let place = KeyPath::root().key("metrics").key(metric.name());
            let source = Source::new(path.display().to_string(), text.as_str());
            let values = source.parse()?;
            text = with_a_key_after(&text, &place, after, &values, &added).ok_or_else(|| {
                let help = format!("add it yourself: `{added}`");
                source.error(&place, Problem::new("this entry cannot get another key", "an unusual form", help))
            })?;
        }
        // memgate must not damage a file.
        if load::parse(path, &text, summary.platform, &summary.baseline)? != expected {
            let what = "its figures cannot be replaced without a change of something else";
            let help = "write the figures of `memgate baseline diff` into the file yourself";
            return Err(InputError::new(format!("{}: {what}", path.display()), help).into());
        }
        Ok(Accepted { text, changes, kept })
    }
}

/// The figure of a metric and the deviation of all runs, as they are recorded. In a file that keeps occasions apart,
/// each counts as much as another, whatever the number of its runs.
fn mean_and_noise(summary: &Summary, metric: Metric, has_memory: bool) -> Result<(f64, f64), String> {
    let (mean, noise) = recorded_figure(summary, metric)?;
    let of_occasions = has_memory && memory::occasions(summary) > 1;
    let mean = if of_occasions { memory::Recorded::of(summary, metric)?.mean } else { mean };
    Ok((mean, noise.unwrap_or_default()))
}

/// Checks that there are enough runs for a deviation.
fn check_runs(path: &Path, summary: &Summary) -> Result<()> {
    if summary.runs.len() >= 2 {
        return Ok(());
    }
    let message = format!("{}: one run of {} has no noise", path.display(), summary.service);
    Err(InputError::new(message, "record more runs: `memgate record --runs 6`").into())
}

/// Gives a metric a waiver in the text of a baseline file, in place of one that it has. Every other byte stays.
///
/// # Errors
/// When the text is no baseline of the service and platform, when the metric has no entry in it, or when the entry cannot
/// get another key.
pub fn waive(
    path: &Path,
    text: &str,
    (platform, service): (Platform, &str),
    metric: Metric,
    waiver: &Waiver,
) -> Result<String> {
    let source = Source::new(path.display().to_string(), text);
    let before = load::from_source(&source, platform, service)?;
    let place = KeyPath::root().key("metrics").key(metric.name());
    let Some(entry) = before.metrics.get(&metric) else {
        let what = format!("{metric} has no entry here");
        let help = format!("add one first, such as `{metric}: {{ limit: … }}` with its default limit");
        return Err(source.error(&KeyPath::root().key("metrics"), Problem::new(what, "no entry", help)));
    };
    let Waiver { reason, owner, expires } = waiver;
    let text = match entry.waiver {
        Some(_) => {
            let of = |key: &str, value: &str| (place.key("waiver").key(key), value.to_owned());
            edited(&source, text, vec![of("reason", reason), of("owner", owner), of("expires", expires)])?
        }
        None => {
            let added =
                format!("waiver: {{ reason: {}, owner: {}, expires: {expires} }}", quoted(reason), quoted(owner));
            with_a_key(text, &place, &source.parse()?, &added).ok_or_else(|| {
                let help = format!("add it yourself: `{added}`");
                source.error(&place, Problem::new("this entry cannot get a waiver", "an unusual form", help))
            })?
        }
    };
    let mut expected = before;
    expected.metrics.entry(metric).or_default().waiver = Some(waiver.clone());
    if load::parse(path, &text, platform, service)? != expected {
        let message = format!("{}: {metric} cannot get a waiver without a change of something else", path.display());
        return Err(InputError::new(message, "write the waiver into the file yourself").into());
    }
    Ok(text)
}

/// The text with one more key at the end of a map whose last value is a scalar; `None` if it is not.
pub(super) fn with_a_key(text: &str, place: &KeyPath, values: &serde_yaml::Value, added: &str) -> Option<String> {
    let (last, _) = place.value(values)?.as_mapping()?.iter().last()?;
    with_a_key_after(text, place, last.as_str()?, values, added)
}

/// The text with one more key after this one of a map, whose value is a scalar; `None` if it is not.
pub(super) fn with_a_key_after(
    text: &str,
    place: &KeyPath,
    key: &str,
    values: &serde_yaml::Value,
    added: &str,
) -> Option<String> {
    let (mark, body) = without_mark(text);
    let is_flow = body[place.find(body)?..].starts_with('{');
    let last = place.key(key);
    let end = span(body, &last, values)?.end;
    let (at, added) = if is_flow {
        (end, format!(", {added}"))
    } else {
        let key = last.at_key().find(body)?;
        let line = body[..key].rfind('\n').map_or(0, |at| at + 1);
        let indent = body[line..key].chars().all(|character| character == ' ').then_some(&body[line..key])?;
        let rest = &body[end..];
        let ends = rest.find('\n').map_or(rest.len(), |at| if rest[..at].ends_with('\r') { at - 1 } else { at });
        let line_end = if body.contains("\r\n") { "\r\n" } else { "\n" };
        (end + ends, format!("{line_end}{indent}{added}"))
    };
    Some([mark, &body[..at], &added, &body[at..]].concat())
}

/// What to do about a metric without a figure to replace.
const ADD_A_FIGURE: &str = "add `baseline: …` with the figure of `memgate baseline diff`, or name another metric";

/// Checks that each metric that is asked for has a recorded figure. The error says what to do about one that has none.
pub(super) fn check_asked(
    source: &Source,
    before: &Baseline,
    metrics: &BTreeSet<Metric>,
    help: &'static str,
) -> Result<()> {
    let has_figure = |metric: &Metric| before.metrics.get(metric).is_some_and(|one| one.baseline.is_some());
    let Some(missing) = metrics.iter().find(|metric| !has_figure(metric)) else { return Ok(()) };
    let what = format!("{missing} has no recorded figure here");
    Err(source.error(&KeyPath::root().key("metrics"), Problem::new(what, "no recorded figure", help)))
}

/// Checks that figures that stay may stand beside those of these runs, and that what is asked for by name was measured.
fn check_fit(
    source: &Source,
    before: &Baseline,
    summary: &Summary,
    metrics: &BTreeSet<Metric>,
    kept: &[(Metric, String)],
) -> Result<()> {
    if let Some((metric, reason)) = kept.iter().find(|(metric, _)| metrics.contains(metric)) {
        let place = KeyPath::root().key("metrics").key(metric.name());
        let what = format!("the runs have no figure to accept: {reason}");
        return Err(source.error(&place, Problem::new(what, "not measured", "record it again, or leave it out")));
    }
    if before.environment.dependencies.is_none() && !summary.environment.dependencies.is_empty() {
        let what = "something ran beside the service or before it, and the file has no place for that";
        let help = "add `dependencies: none` to `environment`; memgate replaces `none`";
        let place = KeyPath::root().key("environment");
        return Err(source.error(&place, Problem::new(what, "has no key `dependencies`", help)));
    }
    let misfit = if metrics.is_empty() && kept.is_empty() { None } else { misfit(summary, before) };
    let Some(misfit) = misfit else { return Ok(()) };
    let (what, help) = match kept.first() {
        None => (misfit, "accept the figures of all metrics together: leave --metric out".to_owned()),
        Some((metric, reason)) => (
            format!("{misfit}; and {metric}, whose figure would stay, was not measured: {reason}"),
            format!("record runs that have {metric}, or take its line out of the file"),
        ),
    };
    Err(source.error(&KeyPath::root().key("environment"), Problem::new(what, "recorded elsewhere", help)))
}

/// Where the figures come from, as far as the file said so before.
fn environment(before: &BaselineEnvironment, summary: &Summary, recorded: &str) -> BaselineEnvironment {
    let (now, runs, occasions) = (&summary.environment, summary.runs.len(), memory::occasions(summary));
    let known = |before: &Option<String>, now: String| before.is_some().then_some(now).filter(|now| !now.is_empty());
    BaselineEnvironment {
        go: now.go.clone(),
        kernel: now.kernel.clone(),
        page_size: now.page_size,
        thp: now.thp.clone(),
        cpu: now.cpu.clone(),
        cpus: now.cpus,
        runner: now.runner,
        recorded: recorded.to_owned(),
        runs: u32::try_from(runs).unwrap_or(u32::MAX),
        occasions: before.occasions.map(|_| occasions),
        build: known(&before.build, now.build_text()),
        variables: known(&before.variables, now.variables_text()),
        // Evidence of an older memgate does not know them. What the file says stays.
        load: known(&before.load, now.load.clone()).or_else(|| before.load.clone()),
        phases: known(&before.phases, now.phases.clone()).or_else(|| before.phases.clone()),
        dependencies: known(&before.dependencies, now.dependencies_text()),
    }
}

fn of_environment(environment: &BaselineEnvironment) -> impl Iterator<Item = (KeyPath, String)> {
    let environment = environment.clone();
    let always = [
        ("go", environment.go),
        ("kernel", environment.kernel),
        ("page_size", page_size(environment.page_size)),
        ("thp", environment.thp),
        ("cpu", environment.cpu),
        ("cpus", environment.cpus.to_string()),
        ("runner", environment.runner.to_string()),
        ("recorded", environment.recorded),
        ("runs", environment.runs.to_string()),
    ];
    let optional = [
        ("occasions", environment.occasions.map(|occasions| occasions.to_string())),
        ("build", environment.build),
        ("variables", environment.variables),
        ("load", environment.load),
        ("phases", environment.phases),
        ("dependencies", environment.dependencies),
    ];
    let optional = optional.into_iter().filter_map(|(key, text)| Some((key, text?)));
    let place = KeyPath::root().key("environment");
    always.into_iter().chain(optional).map(move |(key, text)| (place.key(key), text))
}

/// The text with these values in place of those at the places.
pub(super) fn edited(source: &Source, text: &str, edits: Vec<(KeyPath, String)>) -> Result<String> {
    let (mark, body) = without_mark(text);
    let values: serde_yaml::Value = source.parse()?;
    let mut spans = Vec::new();
    for (place, value) in edits {
        let span = span(body, &place, &values).ok_or_else(|| {
            let what = "this value cannot be replaced alone, because it is an alias or lies on several lines";
            let help = format!("write it out on one line, such as `{value}`");
            source.error(&place, Problem::new(what, "an alias, or several lines", help))
        })?;
        spans.push((span, value));
    }
    spans.sort_by_key(|(span, _)| span.start);
    let mut written = mark.to_owned();
    let mut end = 0;
    for (span, value) in spans {
        written.push_str(&body[end..span.start]);
        written.push_str(&in_the_style_of(&body[span.clone()], &value));
        end = span.end;
    }
    written.push_str(&body[end..]);
    Ok(written)
}

/// The byte order mark, if there is one, and the rest. The parser does not count it.
fn without_mark(text: &str) -> (&str, &str) {
    text.split_at(if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 })
}

/// The bytes of the scalar at the place; `None` if it is not a scalar that stands there alone, on one line.
fn span(text: &str, place: &KeyPath, values: &serde_yaml::Value) -> Option<Range<usize>> {
    let mut start = place.find(text)?;
    // An anchor belongs to the place, and not to the value.
    if text[start..].starts_with('&') {
        let name = text[start..].find(char::is_whitespace)?;
        start += name + text[start + name..].find(|character: char| character != ' ')?;
    }
    let rest = &text[start..];
    let length = match rest.chars().next()? {
        '*' | '|' | '>' | '!' | '[' | '{' => return None,
        '"' => end_of_double_quoted(rest)?,
        '\'' => end_of_single_quoted(rest)?,
        _ => match place.value(values)? {
            serde_yaml::Value::String(text) => rest.starts_with(text.as_str()).then_some(text.len())?,
            _ => rest
                .find(|character: char| character.is_whitespace() || ",]}".contains(character))
                .unwrap_or(rest.len()),
        },
    };
    (length > 0 && !rest[..length].contains(['\n', '\r'])).then(|| start..start + length)
}

fn end_of_double_quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    let is_end = |character: char| {
        let ends = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        ends
    };
    Some(text[1..].find(is_end)? + 2)
}

/// Two quotes stand for one.
fn end_of_single_quoted(text: &str) -> Option<usize> {
    let mut at = 1;
    loop {
        at += text[at..].find('\'')? + 1;
        if !text[at..].starts_with('\'') {
            return Some(at);
        }
        at += 1;
    }
}

/// The value as a scalar, quoted as the old one was. A plain one stays plain if it can.
pub(super) fn in_the_style_of(old: &str, value: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "./%-_+µ".contains(character);
    match old.chars().next() {
        Some('\'') if value.chars().all(|character| (' '..='~').contains(&character)) => {
            format!("'{}'", value.replace('\'', "''"))
        }
        Some('"' | '\'') => quoted(value),
        _ if value.chars().all(is_plain) => value.to_owned(),
        _ => quoted(value),
    }
}
