//! Judges all gates of one service on one platform.

use std::collections::BTreeMap;

use super::{
    beside,
    fit::{borne, misfit},
    gate::Gate,
    looks,
    ruling::Ruling,
};
use crate::{
    baseline::{Baseline, Waiver},
    metric::Metric,
    results::{Figure, GateResult, Need, Recording, ServiceResult, Verdict, worst},
    summarise::{Site, Summary},
    units,
};

/// If a larger share of requests fails, the figures of the others mean nothing.
const FAILURES_THAT_SPOIL: f64 = 0.01;

/// The number of call sites that a gate names.
pub(super) const SITES: usize = 5;

/// Judges one service on one platform. docs/explanation/judging.md explains the rules.
///
/// Gates exist for the metrics that the baseline names and for those with a default limit. Without a baseline, the
/// latter are judged by their limits, and the verdict is at best `no-baseline`.
pub fn judge(summary: &Summary, baseline: Option<&Baseline>) -> ServiceResult {
    let misfit = baseline.and_then(|baseline| misfit(summary, baseline));
    let mut gates = gates(summary, baseline, misfit.as_deref());
    for gate in &mut gates {
        gate.sites = sites(summary, gate);
    }
    let figures = history(summary, &gates);
    let is_ungated =
        |metric: &Metric| summary.pooled(*metric).is_ok() && gates.iter().all(|gate| gate.metric != *metric);
    ServiceResult {
        recording: baseline
            .map(|baseline| Recording { day: baseline.environment.recorded.clone(), runs: baseline.environment.runs }),
        ungated: Metric::ALL.into_iter().filter(is_ungated).collect(),
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
            .chain(baseline.and_then(|baseline| borne(summary, baseline)))
            .chain(baseline.into_iter().flat_map(waivers))
            .collect(),
        figures,
    }
}

/// The waivers of a baseline, for every report, whether their gates hold or not.
fn waivers(baseline: &Baseline) -> impl Iterator<Item = String> {
    baseline.metrics.iter().filter_map(|(metric, expectation)| {
        let Waiver { reason, owner, expires } = expectation.waiver.as_ref()?;
        Some(format!("{metric} is waived until {expires} by {owner}: {reason}"))
    })
}

/// Another build of the same service, whose processes were measured in turn with those of the one that is judged.
#[derive(Debug, Clone, Copy)]
pub struct Other<'a> {
    /// Its name in reports, such as `main (1a2b3c4)`.
    pub name: &'a str,
    /// Its metrics.
    pub summary: &'a Summary,
}

/// Compares a judged service with another build of it. Adds a gate for each metric that can be compared, with what grew
/// by call site, and the other build's notes. A metric that the baseline waives or only reports is so here too.
pub fn judge_beside(
    mut result: ServiceResult,
    summary: &Summary,
    baseline: Option<&Baseline>,
    other: Other<'_>,
) -> ServiceResult {
    let gate = |metric| beside::gate(metric, summary, baseline, other);
    result.gates.extend(Metric::ALL.into_iter().filter_map(gate));
    result.verdict = worst(result.gates.iter().map(|gate| gate.verdict));
    let notes = other.summary.notes.iter().filter(|note| !summary.notes.contains(note));
    result.notes.extend(notes.map(|note| format!("{}: {note}", other.name)));
    result
}

/// The number of runs after which every gate may be decided, if more runs than the present ones may decide one. A service
/// that has failed needs no more.
///
/// Runs are added after 2, 3 and 4 runs, up to 6 ([`MOST_RUNS`](super::MOST_RUNS)).
pub fn more_runs(result: &ServiceResult) -> Option<u32> {
    if result.verdict == Verdict::Regressed {
        return None;
    }
    // Gates that no run decides leave the service inconclusive, but others may still fail.
    let undecided = |gate: &GateResult| gate.verdict == Verdict::Inconclusive && gate.needs == Some(Need::MoreRuns);
    next_look(result.runs).filter(|_| result.gates.iter().any(undecided))
}

/// The number of runs after which memgate looks again; `None` after the last look.
pub fn next_look(runs: u32) -> Option<u32> {
    u32::try_from(looks::next(usize::try_from(runs).ok()?)?).ok()
}

fn gates(summary: &Summary, baseline: Option<&Baseline>, misfit: Option<&str>) -> Vec<GateResult> {
    let gate = |metric| Gate::of(metric, summary, baseline, misfit);
    let gates: Vec<Gate> = Metric::ALL.into_iter().filter_map(gate).collect();
    let mut results: Vec<GateResult> = gates.iter().map(Gate::judge).collect();
    if let Some(reason) = spoiled(summary, &results) {
        for (gate, result) in gates.iter().zip(&mut results) {
            if gate.metric != Metric::RequestErrors && result.verdict.is_good() {
                let ruling = Ruling::undecided(Need::Data, reason.clone());
                let ruling = if gate.expectation.advisory { ruling.advisory() } else { ruling };
                result.verdict = ruling.verdict;
                result.needs = ruling.needs;
                result.noticed = None;
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

/// The figures to keep in a history.
fn history(summary: &Summary, results: &[GateResult]) -> BTreeMap<Metric, Figure> {
    let spoiled = spoiled(summary, results).is_some();
    let means_something = |metric: &Metric| !spoiled || *metric == Metric::RequestErrors;
    let figure = |metric| {
        let pooled = summary.pooled(metric).ok()?;
        let (low, high) = pooled.interval();
        let is_finite = [pooled.measured, low, high].into_iter().all(f64::is_finite);
        is_finite.then_some((metric, Figure { measured: pooled.measured, low, high }))
    };
    Metric::ALL.into_iter().filter(means_something).filter_map(figure).collect()
}

/// Why the figures of a service mean nothing: it fails its requests.
pub(super) fn spoiled(summary: &Summary, results: &[GateResult]) -> Option<String> {
    let gate = results.iter().find(|result| result.metric == Metric::RequestErrors);
    failing(summary, gate.is_some_and(|gate| gate.verdict == Verdict::Regressed))
}

/// Why the figures of a service mean nothing, if its gate on failed requests fails, or too many fail.
pub(super) fn failing(summary: &Summary, regressed: bool) -> Option<String> {
    let errors = summary.pooled(Metric::RequestErrors).ok()?;
    (regressed || errors.measured > FAILURES_THAT_SPOIL).then(|| {
        let share = units::format(errors.measured, Metric::RequestErrors.unit());
        format!("{share} of the requests failed: figures of a service that fails its requests mean nothing")
    })
}
