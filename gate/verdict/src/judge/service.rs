//! Judges all gates of one service on one platform.

use memgate_evidence::platform::Runner;

use super::{fit::misfit, gate::Gate, ruling::Ruling};
use crate::{
    baseline::Baseline,
    metric::Metric,
    results::{GateResult, ServiceResult, Verdict, worst},
    summarise::{Site, Summary},
    units,
};

/// If a larger share of requests fails, the figures of the others mean nothing.
const FAILURES_THAT_SPOIL: f64 = 0.01;

/// From this many runs on, a second, fresh process has confirmed every difference.
const RUNS_THAT_CONFIRM: usize = 2;

/// The number of call sites that a gate names.
const SITES: usize = 5;

/// Judges one service on one platform. docs/explanation/judging.md explains the rules.
///
/// Gates exist for the metrics that the baseline names and for those with a default limit. Without a baseline, the
/// latter are judged by their limits, and the verdict is at best `no-baseline`.
pub fn judge(summary: &Summary, baseline: Option<&Baseline>) -> ServiceResult {
    let misfit = baseline.and_then(|baseline| misfit(summary, baseline));
    let mut gates = gates(summary, baseline, misfit.as_deref(), summary.runs.len() >= RUNS_THAT_CONFIRM);
    for gate in &mut gates {
        gate.sites = sites(summary, gate);
    }
    ServiceResult {
        service: summary.service.clone(),
        platform: summary.platform,
        verdict: worst(gates.iter().map(|gate| gate.verdict)),
        environment: summary.environment.clone(),
        runs: u32::try_from(summary.runs.len()).unwrap_or(u32::MAX),
        tier: summary.tier,
        options: summary.options.clone(),
        signals: summary.signals.clone(),
        gates,
        files: Vec::new(),
        notes: summary
            .notes
            .iter()
            .cloned()
            .chain(misfit.map(|misfit| Ruling::new(Verdict::Inconclusive, misfit).sentence()))
            .collect(),
    }
}

/// Whether one more fresh process would decide something: there is a single run, and some gate would have regressed if
/// this run counted as confirmed.
pub fn needs_confirmation(summary: &Summary, baseline: Option<&Baseline>) -> bool {
    if summary.runs.len() != 1 {
        return false;
    }
    let misfit = baseline.and_then(|baseline| misfit(summary, baseline));
    let regressed = |confirmed| {
        let gates = gates(summary, baseline, misfit.as_deref(), confirmed);
        gates.iter().filter(|gate| gate.verdict == Verdict::Regressed).count()
    };
    regressed(true) > regressed(false)
}

fn gates(summary: &Summary, baseline: Option<&Baseline>, misfit: Option<&str>, confirmed: bool) -> Vec<GateResult> {
    let in_guest = summary.environment.runner == Runner::Qemu;
    let gate = |metric| Gate::of(metric, in_guest, baseline, misfit);
    let gates: Vec<Gate> = Metric::ALL.into_iter().filter_map(gate).collect();
    let mut results: Vec<GateResult> = gates.iter().map(|gate| gate.judge(summary, confirmed)).collect();
    if let Some(reason) = spoiled(summary, &results) {
        for (gate, result) in gates.iter().zip(&mut results) {
            if gate.metric != Metric::RequestErrors && result.verdict.is_good() {
                let ruling = Ruling::new(Verdict::Inconclusive, reason.clone());
                let ruling = if gate.expectation.advisory { ruling.advisory() } else { ruling };
                result.verdict = ruling.verdict;
                result.reason = ruling.sentence();
            }
        }
    }
    results
}

/// The call sites behind the gate's figure, if it has a figure and someone should act on it.
fn sites(summary: &Summary, gate: &GateResult) -> Vec<Site> {
    if !gate.verdict.asks_for_action() || gate.measured.is_none() {
        return Vec::new();
    }
    summary.sites.get(&gate.metric).into_iter().flatten().take(SITES).cloned().collect()
}

/// Why the figures of a service mean nothing: it fails its requests.
fn spoiled(summary: &Summary, results: &[GateResult]) -> Option<String> {
    let errors = summary.pooled.get(&Metric::RequestErrors)?.as_ref().ok()?;
    let gate = results.iter().find(|result| result.metric == Metric::RequestErrors);
    let regressed = gate.is_some_and(|gate| gate.verdict == Verdict::Regressed);
    (regressed || errors.measured > FAILURES_THAT_SPOIL).then(|| {
        let share = units::format(errors.measured, Metric::RequestErrors.unit());
        format!("{share} of the requests failed: figures of a service that fails its requests mean nothing")
    })
}
