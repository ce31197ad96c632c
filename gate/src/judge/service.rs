//! All gates of a service together.

use std::collections::BTreeMap;

use super::{Verdict, fit, gate, worst};
use crate::{
    baseline::{Baseline, Expectation},
    metric::Metric,
    report::{GateResult, ServiceResult},
    summarise::Summary,
};

/// The share of failed requests beyond which the other figures say nothing of the service at work.
const TOO_MANY_ERRORS: f64 = 0.01;

/// The metric that stands for the missing baseline where there is none.
const NEEDS_BASELINE: Metric = Metric::AllocBytesPerRequest;

/// Judges the metrics of one service on one platform.
///
/// Gated are the metrics that the baseline names, and those that have a default limit. Without a baseline the verdict is at best
/// [`Verdict::NoBaseline`]: to delete a baseline must not turn a gate green.
pub fn judge(summary: &Summary, baseline: Option<&Baseline>) -> ServiceResult {
    judge_as(summary, baseline, false)
}

/// Whether a single process shows what would be a regression if a second one confirmed it.
pub fn needs_confirmation(summary: &Summary, baseline: Option<&Baseline>) -> bool {
    summary.runs.len() == 1
        && judge_as(summary, baseline, false).verdict != Verdict::Regressed
        && judge_as(summary, baseline, true).verdict == Verdict::Regressed
}

fn judge_as(summary: &Summary, baseline: Option<&Baseline>, assume_confirmed: bool) -> ServiceResult {
    let expectations = expectations(baseline);
    let misfit = baseline.and_then(|baseline| fit::misfit(summary, baseline));
    let widening = gate::widening(expectations.len());
    let context = gate::Context { summary, misfit: misfit.as_deref(), widening, assume_confirmed };
    let mut gates: Vec<_> = Metric::ALL
        .into_iter()
        .filter_map(|metric| Some(gate::judge(metric, expectations.get(&metric)?, context)))
        .collect();
    doubt_passes_of_failing_service(&mut gates);
    let mut notes = summary.notes.clone();
    notes.extend(misfit);
    if baseline.is_none() {
        mark_missing_baseline(&mut gates, summary);
        notes.push(format!("there is no baseline `{}` for {}", summary.baseline, summary.platform));
    }
    ServiceResult {
        service: summary.service.clone(),
        platform: summary.platform,
        verdict: worst(gates.iter().map(|gate| gate.verdict)),
        environment: summary.environment.clone(),
        runs: u32::try_from(summary.runs.len()).unwrap_or(u32::MAX),
        gates,
        notes,
    }
}

/// What is asked of each gated metric. A default limit holds where the baseline names no limit of its own.
fn expectations(baseline: Option<&Baseline>) -> BTreeMap<Metric, Expectation> {
    let mut expectations = baseline.map(|baseline| baseline.metrics.clone()).unwrap_or_default();
    if baseline.is_none() {
        expectations.insert(NEEDS_BASELINE, Expectation::default());
    }
    for metric in Metric::ALL {
        if let Some(limit) = metric.default_limit() {
            expectations.entry(metric).or_default().limit.get_or_insert(limit);
        }
    }
    expectations
}

/// A figure of a service that fails its requests is not one of the service at work: it may show a regression, but no pass.
fn doubt_passes_of_failing_service(gates: &mut [GateResult]) {
    let Some(errors) = gates.iter().find(|gate| gate.metric == Metric::RequestErrors) else { return };
    let share = errors.measured.unwrap_or(0.0);
    if errors.verdict != Verdict::Regressed && share <= TOO_MANY_ERRORS {
        return;
    }
    let reason = format!(
        "{} of the requests failed, and figures of a service that fails its requests mean nothing.",
        crate::units::format(share, Metric::RequestErrors.unit())
    );
    // Facts that do not depend on the requests having been served.
    let stands = |gate: &GateResult| matches!(gate.metric, Metric::RequestErrors | Metric::OomKills);
    for gate in gates.iter_mut().filter(|gate| !stands(gate) && gate.verdict < Verdict::Inconclusive) {
        gate.verdict = Verdict::Inconclusive;
        gate.reason.clone_from(&reason);
    }
}

fn mark_missing_baseline(gates: &mut [GateResult], summary: &Summary) {
    let file = format!("baselines/{}/{}.yaml", summary.platform.folder(), summary.baseline);
    for gate in gates.iter_mut().filter(|gate| gate.verdict == Verdict::NoBaseline) {
        gate.reason =
            format!("There is no baseline to compare it with; `memgate baseline record EVIDENCE…` makes {file}.");
    }
}
