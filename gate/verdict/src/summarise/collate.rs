//! Turns the evidence of several runs into one summary.

use std::collections::BTreeMap;

use memgate_evidence::{Environment, Evidence, error::InputError};

use super::{
    Estimate, Measurement, RunSummary, Summary, Unavailable, growth, pauses, rates, requests,
    run::Run,
    sites::{self, Profiles},
    spans,
    stats::Interval,
    stops, totals, trust,
};
use crate::metric::Metric;

/// The metrics of all runs of one service on one platform, in the order of the run numbers.
///
/// # Errors
/// When there is no run, when two runs have the same number, or when the runs differ in service, platform, baseline or
/// environment (Go version, page size and runner).
#[expect(clippy::result_large_err, reason = "such an error ends the command, so its size is of no account")]
pub fn summarise(runs: &[Evidence]) -> Result<Summary, InputError> {
    let mut sorted: Vec<Run<'_>> = runs.iter().map(Run).collect();
    sorted.sort_by_key(|run| run.0.run);
    let first = check(&sorted).map_err(|error| *error)?;
    let profiles: Vec<Profiles<'_>> = sorted.iter().map(|run| Profiles::of(*run)).collect();
    let alone = |(run, profiles): (&Run<'_>, &Profiles<'_>)| RunSummary {
        run: run.0.run,
        metrics: BTreeMap::new(),
        sites: sites::by_metric(std::slice::from_ref(profiles)),
    };
    let mut summaries: Vec<RunSummary> = sorted.iter().zip(&profiles).map(alone).collect();
    let mut pooled = BTreeMap::new();
    for metric in Metric::ALL {
        let (each, together) = measure(metric, &sorted);
        for (summary, measurement) in summaries.iter_mut().zip(each) {
            summary.metrics.insert(metric, measurement);
        }
        pooled.insert(metric, together);
    }
    Ok(Summary {
        service: first.service.clone(),
        platform: first.platform,
        baseline: first.baseline.clone(),
        environment: first.environment.clone(),
        runs: summaries,
        pooled,
        sites: sites::by_metric(&profiles),
        options: first.options.clone(),
        tier: sorted.iter().map(|run| run.0.tier).min().unwrap_or(first.tier),
        signals: trust::notes(&sorted),
        notes: notes(&sorted, &profiles),
    })
}

/// One metric for each run, and for all runs together.
fn measure(metric: Metric, runs: &[Run<'_>]) -> (Vec<Measurement>, Measurement) {
    match metric {
        Metric::GcPauseP99 => {
            pauses::bucketed(runs, over(runs, pauses::durations, |parts| pauses::pause_percentile(parts, 99)))
        }
        Metric::GcPauseP90 => {
            pauses::bucketed(runs, over(runs, pauses::durations, |parts| pauses::pause_percentile(parts, 90)))
        }
        Metric::GcPauseMax => pauses::bucketed(runs, over(runs, pauses::durations, pauses::longest)),
        Metric::GcStwFraction => pauses::bucketed(runs, over(runs, pauses::stopped_blocks, pauses::stopped_share)),
        Metric::GcPauseHiddenTailP99 => over(runs, stops::hidden_tails, |parts| stops::p99(parts, "stops")),
        Metric::GcMarkP99 => over(runs, stops::mark_phases, |parts| stops::p99(parts, "mark phases")),
        Metric::GcCpuFraction => over(runs, rates::gc_cpu, rates::share_of_totals),
        Metric::GcCycles => over(runs, rates::cycles, rates::cycles_per_minute),
        Metric::HeapAllocRate => over(runs, rates::alloc_per_second, rates::ratio_of_totals),
        Metric::AllocBytesPerRequest => over(
            runs,
            |run| rates::per_request(run, &run.signals().alloc_bytes, "allocated bytes"),
            rates::ratio_of_totals,
        ),
        Metric::AllocsPerRequest => over(
            runs,
            |run| rates::per_request(run, &run.signals().alloc_objects, "allocated objects"),
            rates::ratio_of_totals,
        ),
        Metric::PageFaultsPerRequest => {
            over(runs, |run| rates::per_request(run, &run.signals().page_faults, "page faults"), rates::ratio_of_totals)
        }
        Metric::SpanRefillMissRate => over(runs, spans::refills, spans::miss_rate),
        Metric::MmapLatencyP99 => over(runs, spans::mappings, |parts| stops::p99(parts, "mappings")),
        Metric::HeapLiveGrowth => over(runs, growth::of_live_heap, growth::per_minute),
        Metric::RssGrowth => over(runs, growth::of_resident_set, growth::per_minute),
        Metric::OffheapGrowth => over(runs, growth::of_off_heap, growth::per_minute),
        Metric::GoroutinesMax => {
            over(runs, |run| totals::most(run, &run.signals().goroutines, "goroutine counts", 1), totals::largest)
        }
        Metric::GoroutinesLeaked => over(runs, totals::goroutines_left, totals::largest),
        Metric::RssPeak => over(runs, totals::rss_peak, totals::largest),
        Metric::OffheapPeak => {
            over(runs, |run| totals::most(run, &run.signals().offheap, "off-heap samples", 0), totals::largest)
        }
        Metric::OomKills => over(runs, totals::oom_kills, totals::sum),
        Metric::RequestLatencyP99 => over(runs, requests::latencies, requests::latency_p99),
        Metric::RequestErrors => over(runs, requests::failures, requests::failed_share),
    }
}

/// Estimates for each run alone and for all runs together. If one run has none, there is none together, because leaving
/// the run out would hide the gap.
fn over<'a, T>(
    runs: &[Run<'a>],
    extract: impl Fn(Run<'a>) -> Result<T, Unavailable>,
    estimate: impl Fn(&[T]) -> Measurement,
) -> (Vec<Measurement>, Measurement) {
    let mut each = Vec::with_capacity(runs.len());
    let mut parts = Vec::with_capacity(runs.len());
    for run in runs {
        match extract(*run) {
            Ok(part) => {
                each.push(estimate(std::slice::from_ref(&part)));
                parts.push(part);
            }
            Err(unavailable) => each.push(Err(unavailable)),
        }
    }
    let missing = runs.iter().zip(&each).find_map(|(run, measurement)| Some((run, measurement.as_ref().err()?)));
    let together = match missing {
        Some((_, unavailable)) if runs.len() == 1 => Err(unavailable.clone()),
        Some((run, Unavailable { reason })) => Err(Unavailable::because(format!("run {}: {reason}", run.0.run))),
        None => estimate(&parts),
    };
    (each, together)
}

impl Estimate {
    /// An estimate, if its figures are finite. Its interval then contains the point estimate.
    pub(super) fn of(interval: Interval, n: u64, remark: String) -> Measurement {
        let Interval { measured, low, high } = interval;
        if !(measured.is_finite() && low.is_finite() && high.is_finite()) {
            return Err(Unavailable::because("the values are too large or too few for a figure"));
        }
        Ok(Self { measured, low: low.min(measured), high: high.max(measured), n, remark })
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
