//! How measured figures stand beside the recorded ones, for whoever changes a baseline.

use super::{
    against_anchor,
    against_baseline::{self, Recorded},
    figures::Figures,
    service,
};
use crate::{
    baseline::{Baseline, Expectation},
    metric::Metric,
    summarise::{Summary, Unavailable},
};

/// A step from a recorded figure to a measured one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Less, by more than noise explains.
    Tighter,
    /// More, by more than the difference that matters.
    Looser(Explained),
    /// Neither.
    Within,
}

/// What may explain that a figure is more than the recorded one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Explained {
    /// Neither noise nor the day: it got worse.
    ByNothing,
    /// How runs differ.
    ByNoise,
    /// How occasions differ, so that the gate on this time is advisory.
    ByTheDay,
}

/// The step from the recorded figure of a metric to that of these runs; `None` if there is no recorded figure. Whether
/// the baseline fits the runs is another question ([`misfit`](super::misfit)).
///
/// # Errors
/// When a run has no figure; the reason names the run.
pub fn step(metric: Metric, summary: &Summary, baseline: &Baseline) -> Option<Result<Step, Unavailable>> {
    let expectation = baseline.metrics.get(&metric)?;
    let (figure, recorded) = (expectation.baseline?, Recorded::of(&baseline.environment));
    let step = |figures: Figures| against_baseline::step(figure, expectation, recorded, &figures);
    Some(Figures::of(metric, summary).map(step))
}

/// The smallest figure of a metric that as many such runs would have noticed beside the recorded figure and its anchor,
/// in 95 of 100 checks, whatever the limit is; `None` if nothing is compared, or if a run has no figure.
pub fn notices(metric: Metric, summary: &Summary, baseline: &Baseline) -> Option<f64> {
    let expectation = baseline.metrics.get(&metric)?;
    let (figure, recorded) = (expectation.baseline?, Recorded::of(&baseline.environment));
    let figures = Figures::of(metric, summary).ok()?;
    let of_step = against_baseline::notices(figure, expectation, recorded, &figures)?;
    let anchor = expectation.anchor.and_then(|anchor| against_anchor::notices(anchor, expectation, recorded, &figures));
    Some(anchor.map_or(of_step, |of_anchor| of_anchor.min(of_step)))
}

/// Whether a metric differs from the recorded figure, in either direction, by more than the difference that matters and
/// by more than noise. What is less says how occasions differ. If it is not known, it is a change.
pub fn is_change(metric: Metric, summary: &Summary, baseline: &Baseline) -> bool {
    let expectation = baseline.metrics.get(&metric);
    let Some((figure, expectation)) = expectation.and_then(|one| Some((one.baseline?, one))) else { return true };
    let recorded = Recorded::of(&baseline.environment);
    Figures::of(metric, summary)
        .map_or(true, |figures| against_baseline::is_change(figure, expectation, recorded, &figures))
}

/// Whether a recorded figure is a time of one occasion, which fails no gate. A limit on it may.
pub fn lacks_occasions(metric: Metric, expectation: &Expectation) -> bool {
    expectation.baseline.is_some() && against_baseline::lacks_occasions(metric, expectation)
}

/// Why the figures of these runs mean nothing, judged by this baseline or by the default limits: the service fails its
/// requests.
pub fn spoiled(summary: &Summary, baseline: Option<&Baseline>) -> Option<String> {
    service::spoiled(summary, &super::judge(summary, baseline).gates)
}
