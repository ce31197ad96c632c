//! Turns the evidence of several runs into one summary.

use std::collections::BTreeMap;

use memgate_evidence::{Environment, Evidence, Series, Signal, error::InputError};

use super::{
    Estimate, Measurement, RunSummary, Summary, Unavailable, contradictions,
    filling::Filling,
    growth, occasions, pauses, rates, requests,
    run::Run,
    series::seconds,
    sites::{self, Profiles},
    spans,
    stats::Interval,
    stops, totals, trust,
};
use crate::metric::{Metric, Unit};

/// The metrics of all runs of one service on one platform, in the order of the run numbers.
///
/// # Errors
/// When there is no run, when two runs have the same number, or when the runs differ in service, platform, baseline or
/// environment (Go version, build, variables, load, phases, page size and runner), or in the length of their measuring
/// phase.
#[expect(clippy::result_large_err, reason = "such an error ends the command, so its size is of no account")]
pub fn summarise(runs: &[Evidence]) -> Result<Summary, InputError> {
    let mut sorted: Vec<Run<'_>> = runs.iter().map(Run).collect();
    sorted.sort_by_key(|run| run.0.run);
    let first = check(&sorted).map_err(|error| *error)?;
    let profiles: Vec<Profiles<'_>> = sorted.iter().map(|run| Profiles::of(*run)).collect();
    let occasions = occasions(&sorted.iter().map(|run| run.0).collect::<Vec<_>>());
    let filling = Filling::of(&sorted);
    let alone = |((run, profiles), occasion): ((&Run<'_>, &Profiles<'_>), usize)| RunSummary {
        run: run.0.run,
        occasion,
        metrics: metrics(*run, &filling),
        sites: sites::by_metric(std::slice::from_ref(profiles)),
    };
    let summaries: Vec<RunSummary> = sorted.iter().zip(&profiles).zip(occasions).map(alone).collect();
    Ok(Summary {
        service: first.service.clone(),
        platform: first.platform,
        baseline: first.baseline.clone(),
        day: sorted.iter().map(|run| day(&run.0.started_at)).max().unwrap_or_default().to_owned(),
        environment: first.environment.clone(),
        runs: summaries,
        sites: sites::by_metric(&profiles),
        options: first.options.clone(),
        tier: sorted.iter().map(|run| run.0.tier).min().unwrap_or(first.tier),
        signals: trust::notes(&sorted),
        notes: notes(&sorted, &profiles),
    })
}

/// `2026-11-23` of `2026-11-23T15:30:00Z`.
fn day(time: &str) -> &str {
    time.split('T').next().unwrap_or_default()
}

/// Every metric of one run. Metrics of signals that contradict each other have no figure.
fn metrics(run: Run<'_>, filling: &Filling) -> BTreeMap<Metric, Measurement> {
    let contradictions = contradictions::find(run);
    let metric = |metric| {
        let spoilt = contradictions.iter().find_map(|contradiction| contradiction.spoils(metric));
        let measured = || measure(metric, run, filling).and_then(|figure| at_rate(metric, run, figure));
        (metric, spoilt.map_or_else(measured, Err))
    };
    Metric::ALL.into_iter().map(metric).collect()
}

/// A figure per time as it would be at the rate of the load, which a slow guest does not reach.
fn at_rate(metric: Metric, run: Run<'_>, figure: Estimate) -> Measurement {
    let is_per_time = match metric.unit() {
        Unit::BytesPerSecond | Unit::BytesPerMinute | Unit::CountPerMinute => true,
        Unit::Nanoseconds | Unit::Ratio | Unit::Count | Unit::CountPerRequest | Unit::Bytes | Unit::BytesPerRequest => {
            false
        }
    };
    let share = if is_per_time { run.share_of_rate()? } else { 1.0 };
    let of = |value: f64| value / share;
    Ok(Estimate { measured: of(figure.measured), low: of(figure.low), high: of(figure.high), ..figure })
}

/// One metric of one run.
fn measure(metric: Metric, run: Run<'_>, filling: &Filling) -> Measurement {
    let signals = run.signals();
    match metric {
        Metric::GcPauseP99 => {
            pauses::bucketed(run, pauses::durations(run).and_then(|all| pauses::pause_percentile(&all, 99)))
        }
        Metric::GcPauseP90 => {
            pauses::bucketed(run, pauses::durations(run).and_then(|all| pauses::pause_percentile(&all, 90)))
        }
        Metric::GcPauseMax => pauses::bucketed(run, pauses::durations(run).and_then(|all| pauses::longest(&all))),
        Metric::GcStwFraction => {
            pauses::bucketed(run, pauses::stopped_blocks(run).and_then(|blocks| pauses::stopped_share(&blocks)))
        }
        Metric::GcPauseHiddenTailP99 => stops::hidden_tails(run).and_then(|tails| stops::p99(&tails, "stops")),
        Metric::GcMarkP99 => stops::mark_phases(run).and_then(|phases| stops::p99(&phases, "mark phases")),
        Metric::GcCpuFraction => rates::gc_cpu(run).and_then(|windows| rates::share_of_totals(&windows)),
        Metric::GcCycles => rates::cycles(run).and_then(|cycles| rates::cycles_per_minute(&cycles)),
        Metric::HeapAllocRate => rates::alloc_per_second(run).and_then(|windows| rates::ratio_of_totals(&windows)),
        Metric::AllocBytesPerRequest => per_request(run, &signals.alloc_bytes, "allocated bytes"),
        Metric::AllocsPerRequest => per_request(run, &signals.alloc_objects, "allocated objects"),
        Metric::PageFaultsPerRequest => per_request(run, &signals.page_faults, "page faults"),
        Metric::SpanRefillMissRate => spans::refills(run).and_then(|refills| spans::miss_rate(&refills)),
        Metric::MmapLatencyP99 => spans::mappings(run).and_then(|mappings| stops::p99(&mappings, "mappings")),
        Metric::HeapLiveGrowth => growth::of_live_heap(run).and_then(|growth| growth::per_minute(&growth)),
        Metric::HeapLiveGrowthPerRequest => {
            let growth = growth::of_live_heap(run)?;
            growth::per_request(&growth, rates::requests_per_minute(run)?)
        }
        Metric::RssAnonGrowth => growth::of_anonymous(run).and_then(|growth| growth::per_minute(&growth)),
        Metric::CgroupGrowth => growth::of_cgroup(run).and_then(|growth| growth::per_minute(&growth)),
        Metric::RssGrowth => growth::of_resident_set(run).and_then(|growth| growth::per_minute(&growth)),
        Metric::OffheapGrowth => growth::of_off_heap(run).and_then(|growth| growth::per_minute(&growth)),
        Metric::GoroutinesMax => most(run, &signals.goroutines, "goroutine counts", 1),
        Metric::GoroutinesLeaked => totals::goroutines_leaked(run)
            .and_then(|leaked| totals::figure(&leaked))
            .map(|figure| filling.leaked_goroutines(run, figure)),
        Metric::RssAnonPeak => totals::anonymous_peak(run).and_then(|peak| totals::figure(&peak)),
        Metric::CgroupPeak => totals::cgroup_peak(run).and_then(|peak| totals::figure(&peak)),
        Metric::SwapPeak => most(run, &signals.swap, "samples of swapped-out memory", 0),
        Metric::ThreadsMax => most(run, &signals.threads, "thread counts", 1),
        Metric::ThreadsLeaked => totals::threads_leaked(run).and_then(|left| totals::figure(&left)),
        Metric::FdsMax => most(run, &signals.fds, "counts of file descriptors", 1),
        Metric::FdsLeaked => totals::fds_leaked(run)
            .and_then(|left| totals::figure(&left))
            .map(|figure| filling.leaked_descriptors(run, figure)),
        Metric::StwFraction => stops::stopped_blocks(run).and_then(|blocks| pauses::stopped_share(&blocks)),
        Metric::RssPeak => totals::rss_peak(run).and_then(|peak| totals::figure(&peak)),
        Metric::OffheapPeak => totals::off_heap_peak(run).and_then(|peak| totals::figure(&peak)),
        Metric::OomKills => totals::oom_kills(run).and_then(|kills| totals::figure(&kills)),
        Metric::RequestLatencyP99 => requests::latencies(run).and_then(|latencies| requests::latency_p99(&latencies)),
        Metric::RequestErrors => requests::failures(run).and_then(|failures| requests::failed_share(&failures)),
    }
}

fn per_request(run: Run<'_>, total: &Signal<Series>, what: &str) -> Measurement {
    rates::per_request(run, total, what).and_then(|windows| rates::ratio_of_totals(&windows))
}

fn most(run: Run<'_>, signal: &Signal<Series>, what: &str, least: u64) -> Measurement {
    totals::most(run, signal, what, least).and_then(|most| totals::figure(&most))
}

impl Estimate {
    /// An estimate, if its figures are finite. Its interval then contains the point estimate.
    pub(super) fn of(interval: Interval, n: u64, remark: String) -> Measurement {
        let Interval { measured, low, high } = interval;
        if !(measured.is_finite() && low.is_finite() && high.is_finite()) {
            return Err(Unavailable::because("the values are too large or too few for a figure"));
        }
        Ok(Self {
            measured,
            low: low.min(measured),
            high: high.max(measured),
            n,
            level: None,
            needs_longer: false,
            may_be_pool: false,
            remark,
        })
    }
}

/// The first run, if all runs can be summarised together.
fn check<'a>(runs: &[Run<'a>]) -> Result<&'a Evidence, Box<InputError>> {
    let Some(first) = runs.first() else {
        return Err(Box::new(InputError::new("there is no evidence to summarise", "name at least one evidence file")));
    };
    let first = first.0;
    for Run(other) in &runs[1..] {
        check_same(first, other)?;
    }
    check_lengths(runs)?;
    if let Some(twins) = runs.windows(2).find(|pair| pair[0].0.run == pair[1].0.run) {
        let message =
            format!("two runs of `{}` on {} have the number {}", first.service, first.platform, twins[0].0.run);
        let help = "name each evidence file once, and only files of one `memgate check`";
        return Err(Box::new(InputError::new(message, help)));
    }
    Ok(first)
}

fn check_same(first: &Evidence, other: &Evidence) -> Result<(), Box<InputError>> {
    let page_size = |environment: &Environment| environment.page_size.to_string();
    let (a, b) = (&first.environment, &other.environment);
    let pairs = [
        ("service", first.service.clone(), other.service.clone()),
        ("platform", first.platform.to_string(), other.platform.to_string()),
        ("baseline", first.baseline.clone(), other.baseline.clone()),
        ("Go version", a.go.clone(), b.go.clone()),
        ("page size", page_size(a), page_size(b)),
        ("runner", a.runner.to_string(), b.runner.to_string()),
        ("settings of the build", a.build_text(), b.build_text()),
        ("variables", a.variables_text(), b.variables_text()),
        ("load", a.load.clone(), b.load.clone()),
        ("phases", a.phases.clone(), b.phases.clone()),
        ("dependencies", a.dependencies_text(), b.dependencies_text()),
    ];
    match pairs.into_iter().find(|(_, first, other)| first != other) {
        None => Ok(()),
        Some((what, of_first, of_other)) => Err(Box::new(InputError::new(
            format!(
                "run {} has the {what} `{of_first}` and run {} has `{of_other}`; runs that are judged together must agree",
                first.run, other.run
            ),
            "judge them separately",
        ))),
    }
}

/// Runs of one plan measure for about the same time, or as many requests. In a guest, requests take the time that they
/// need. A load command does not tell its requests. A run that ended early has no figures.
fn check_lengths(runs: &[Run<'_>]) -> Result<(), Box<InputError>> {
    /// How many times as long a run may be as another one: a busy machine begins or ends a phase late.
    const MOST: f64 = 1.5;
    /// So is a short phase longer than another one by up to this many seconds.
    const SLACK: f64 = 2.0;
    let length = |run: &Run<'_>| {
        let span = run.measure().ok()?;
        let requests = run.signals().requests.data.measure.intended as f64;
        Some((run.0.run, seconds(span.start_ns, span.end_ns), requests))
    };
    let lengths: Vec<(u32, f64, f64)> = runs.iter().filter_map(length).collect();
    let far = |one: f64, other: f64, slack: f64| one.max(other) > MOST * one.min(other) + slack;
    let apart = |one: &(u32, f64, f64), other: &(u32, f64, f64)| {
        far(one.1, other.1, SLACK) && (one.2 == 0.0 || other.2 == 0.0 || far(one.2, other.2, 0.0))
    };
    let Some((first, other)) =
        lengths.first().and_then(|first| Some((first, lengths.iter().find(|o| apart(first, o))?)))
    else {
        return Ok(());
    };
    let told = |(run, seconds, requests): &(u32, f64, f64)| {
        let requests = if *requests > 0.0 { format!(" with {requests:.0} requests") } else { String::new() };
        format!("run {run} measured for {seconds:.1} s{requests}")
    };
    Err(Box::new(InputError::new(
        format!("{} and {}; runs that are judged together must agree", told(first), told(other)),
        "judge them separately",
    )))
}

/// Notes on what the runs lacked, how they ended, and which data cannot be true. Each note appears once, in the order
/// of the runs.
fn notes(runs: &[Run<'_>], profiles: &[Profiles<'_>]) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for (run, profiles) in runs.iter().zip(profiles) {
        let of_this = |what: String| format!("run {}: {what}", run.0.run);
        let early_end = run.early_end().map(of_this);
        for note in run.0.notes.iter().cloned().chain(early_end).chain(profiles.doubts().into_iter().map(of_this)) {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
    }
    notes
}
