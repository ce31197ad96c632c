//! One gate: a metric's figures against its limit and its baseline.

use statrs::distribution::{ContinuousCDF as _, Normal};

use super::Verdict;
use crate::{
    baseline::Expectation,
    metric::Metric,
    report::GateResult,
    summarise::{Estimate, RunSummary, Summary},
    units,
};

/// What all gates of a service have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) summary: &'a Summary,
    /// Why the baseline does not fit.
    pub(super) misfit: Option<&'a str>,
    /// How much wider intervals become where many gates are judged at once.
    pub(super) widening: f64,
    /// Whether a single process counts as confirmed: only to find out whether confirming is worth the time.
    pub(super) assume_confirmed: bool,
}

/// A verdict with its reason, a full sentence.
struct Judged {
    verdict: Verdict,
    reason: String,
}

/// How many standard deviations between the recorded runs are noise.
const NOISE: f64 = 3.0;

/// How much wider than at 95 % an interval must be for the family of `gates` to keep that level: Bonferroni's
/// correction, which is never less strict than Holm's (S. Holm, Scandinavian Journal of Statistics 6, 1979).
pub(super) fn widening(gates: usize) -> f64 {
    let quantile = |tail: f64| Normal::standard().inverse_cdf(1.0 - tail);
    let gates = u32::try_from(gates.max(1)).map_or(f64::INFINITY, f64::from);
    quantile(0.025 / gates) / quantile(0.025)
}

/// Judges one metric.
pub(super) fn judge(metric: Metric, expectation: &Expectation, context: Context<'_>) -> GateResult {
    let pooled = context.summary.pooled.get(&metric);
    let judged = match pooled {
        Some(Ok(estimate)) => judge_figure(metric, expectation, estimate, context),
        Some(Err(unavailable)) => inconclusive(format!("No figure: {}.", unavailable.reason)),
        None => inconclusive("No figure: the summary has no such metric.".to_owned()),
    };
    let figure = pooled.and_then(|measurement| measurement.as_ref().ok());
    let advisory = expectation.advisory && judged.verdict > Verdict::Advisory;
    GateResult {
        metric,
        unit: metric.unit(),
        measured: figure.map(|estimate| estimate.measured),
        low: figure.map(|estimate| estimate.low),
        high: figure.map(|estimate| estimate.high),
        limit: expectation.limit,
        baseline: expectation.baseline,
        verdict: if advisory { Verdict::Advisory } else { judged.verdict },
        reason: judged.reason,
    }
}

fn judge_figure(metric: Metric, expectation: &Expectation, estimate: &Estimate, context: Context<'_>) -> Judged {
    let by_limit = expectation.limit.map(|limit| judge_limit(metric, limit, estimate, context));
    let by_baseline =
        expectation.baseline.map(|baseline| judge_baseline(metric, baseline, expectation, estimate, context));
    let judged = match (by_limit, by_baseline) {
        (Some(limit), Some(baseline)) if baseline.verdict > limit.verdict => baseline,
        (Some(limit), Some(baseline)) if limit.verdict == baseline.verdict => {
            Judged { reason: format!("{} {}", limit.reason, baseline.reason), ..limit }
        }
        (Some(limit), _) => limit,
        (None, Some(baseline)) => baseline,
        (None, None) => {
            Judged { verdict: Verdict::NoBaseline, reason: "There is neither a limit nor a baseline.".to_owned() }
        }
    };
    let remark = if estimate.remark.is_empty() { String::new() } else { format!(" ({})", estimate.remark) };
    Judged { reason: format!("{}{remark}", judged.reason), ..judged }
}

/// A limit is judged on the conservative side of the interval: it holds only where the whole interval does.
fn judge_limit(metric: Metric, limit: f64, estimate: &Estimate, context: Context<'_>) -> Judged {
    let say = |value: f64| units::format(value, metric.unit());
    let (measured, high, limit_text) = (say(estimate.measured), say(estimate.high), say(limit));
    if estimate.high <= limit {
        return Judged { verdict: Verdict::Pass, reason: format!("At most {high}, within the limit of {limit_text}.") };
    }
    let over = |run: &RunSummary| figure(run, metric).is_some_and(|estimate| context.low(estimate) > limit);
    match context.confirmation(metric, over) {
        Confirmation::Confirmed => {
            regressed(format!("{measured}, beyond the limit of {limit_text} even at the lower end of its interval."))
        }
        Confirmation::Single => inconclusive(format!(
            "{measured}, beyond the limit of {limit_text} in a single process; a second one would confirm it (`runs: 2`)."
        )),
        Confirmation::Partial => inconclusive(format!(
            "{measured}, up to {high} against the limit of {limit_text}, and not beyond it in every process; a longer measuring phase or more runs would decide it."
        )),
    }
}

fn judge_baseline(
    metric: Metric,
    baseline: f64,
    expectation: &Expectation,
    estimate: &Estimate,
    context: Context<'_>,
) -> Judged {
    let say = |value: f64| units::format(value, metric.unit());
    if let Some(misfit) = context.misfit {
        return inconclusive(format!(
            "Not compared: {misfit}; record a baseline for it with `memgate baseline record`."
        ));
    }
    let tolerated = expectation.tolerance.unwrap_or(0.0) * baseline.abs();
    let noise = NOISE * expectation.noise.unwrap_or(0.0);
    let band = tolerated.max(noise).max(expectation.floor.unwrap_or(0.0));
    let comparison = format!("{} against {} ± {}", say(estimate.measured), say(baseline), say(band));
    if estimate.measured < baseline - band && context.high(estimate) < baseline {
        return Judged { verdict: Verdict::Improved, reason: format!("Better than the baseline: {comparison}.") };
    }
    if estimate.measured <= baseline + band {
        return Judged { verdict: Verdict::Pass, reason: format!("As the baseline: {comparison}.") };
    }
    let beyond = |run: &RunSummary| {
        let beyond = |run: &Estimate| run.measured > baseline + band && context.low(run) > baseline;
        figure(run, metric).is_some_and(beyond)
    };
    match context.confirmation(metric, beyond) {
        Confirmation::Confirmed => regressed(format!("Worse than the baseline: {comparison}.")),
        Confirmation::Single => inconclusive(format!(
            "Worse than the baseline in a single process: {comparison}; a second one would confirm it (`runs: 2`)."
        )),
        Confirmation::Partial => inconclusive(format!(
            "Beyond the baseline's tolerance, but not significantly in every process: {comparison}; a longer measuring phase or more runs would decide it."
        )),
    }
}

/// Whether every fresh process shows a regression.
enum Confirmation {
    Confirmed,
    /// There is only one process, and it does.
    Single,
    /// Not every one does.
    Partial,
}

impl Context<'_> {
    /// The lower end of the interval at the family's level; it does not move for exact figures.
    fn low(&self, estimate: &Estimate) -> f64 {
        estimate.measured - (estimate.measured - estimate.low) * self.widening
    }

    fn high(&self, estimate: &Estimate) -> f64 {
        estimate.measured + (estimate.high - estimate.measured) * self.widening
    }

    fn confirmation(&self, metric: Metric, shows: impl Fn(&RunSummary) -> bool) -> Confirmation {
        let runs = &self.summary.runs;
        // That a service was killed for want of memory, or failed its requests because it had crashed, is a fact and not
        // an estimate: one process suffices.
        let is_fact =
            |run: &&RunSummary| metric == Metric::OomKills || metric == Metric::RequestErrors && run.ended_early;
        if runs.iter().filter(is_fact).any(&shows) {
            return Confirmation::Confirmed;
        }
        match (runs.iter().all(shows), runs.len()) {
            (true, 2..) => Confirmation::Confirmed,
            (true, 1) if self.assume_confirmed => Confirmation::Confirmed,
            (true, 1) => Confirmation::Single,
            _ => Confirmation::Partial,
        }
    }
}

fn figure(run: &RunSummary, metric: Metric) -> Option<&Estimate> {
    run.metrics.get(&metric)?.as_ref().ok()
}

fn inconclusive(reason: String) -> Judged {
    Judged { verdict: Verdict::Inconclusive, reason }
}

fn regressed(reason: String) -> Judged {
    Judged { verdict: Verdict::Regressed, reason }
}
