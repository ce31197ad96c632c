//! From evidence to the verdict.

use memgate_evidence::{Ending, Evidence, RequestCounts};
use memgate_testing::{SECOND, every, healthy};

use super::*;
use crate::summarise::{summarise, tests::broken::cases};

/// The baseline that recording three healthy runs would write, with a gate on every metric.
pub(super) fn recorded_baseline() -> Baseline {
    let summary = summarise(&[healthy(101), healthy(102), healthy(103)]).unwrap();
    baseline_of(Metric::ALL.into_iter().map(|metric| {
        let measured = summary.pooled(metric).unwrap().measured;
        let floor = match metric {
            _ if metric.unit() == Unit::BytesPerMinute => 200_000.0,
            Metric::HeapLiveGrowthPerRequest => 10.0,
            _ => 0.0,
        };
        let expectation = Expectation {
            baseline: Some(measured),
            noise: Some(0.01 * measured.abs()),
            tolerance: Some(0.1),
            floor: Some(floor),
            ..Expectation::default()
        };
        (metric, expectation)
    }))
}

fn verdict_of(runs: &[Evidence], metric: Metric) -> Verdict {
    let result = judge(&summarise(runs).unwrap(), Some(&recorded_baseline()));
    gate(&result, metric).verdict
}

fn is_good(verdict: Verdict) -> bool {
    verdict.exit_code() == 0
}

#[test]
fn healthy_runs_pass_every_gate() {
    let result = judge(&summarise(&[healthy(1), healthy(2)]).unwrap(), Some(&recorded_baseline()));
    let failed: Vec<&GateResult> = result.gates.iter().filter(|gate| gate.verdict != Verdict::Pass).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(result.gates.len(), Metric::ALL.len());
    assert_eq!(result.verdict, Verdict::Pass);
    assert_eq!(more_runs(&result), None);
}

#[test]
fn no_gate_on_a_broken_signal_passes() {
    let baseline = recorded_baseline();
    for case in cases() {
        for (how, break_it) in &case.breaks {
            let mut broken = healthy(2);
            break_it(&mut broken.signals);
            for runs in [vec![broken.clone()], vec![healthy(1), broken.clone()]] {
                let result = judge(&summarise(&runs).unwrap(), Some(&baseline));
                for &metric in &case.metrics {
                    let gate = gate(&result, metric);
                    assert_eq!(gate.verdict, Verdict::Inconclusive, "{} {how}: {gate:?}", case.signal);
                }
                assert!(!is_good(result.verdict), "{} {how}", case.signal);
            }
        }
    }
}

#[test]
fn a_leak_of_the_live_heap_regresses_in_two_runs() {
    let leaking = |run| {
        let mut evidence = healthy(run);
        // 2 MB a minute in addition to the noise.
        let heap = &mut evidence.signals.live_heap.data;
        for (value, at_ns) in heap.value.iter_mut().zip(&heap.at_ns) {
            *value += at_ns / 30_000;
        }
        evidence
    };
    assert_eq!(verdict_of(&[leaking(1), leaking(2)], Metric::HeapLiveGrowth), Verdict::Regressed);
    let once = judge(&summarise(&[leaking(1)]).unwrap(), Some(&recorded_baseline()));
    assert_eq!(more_runs(&once), Some(2));
    assert_eq!(verdict_of(&[leaking(1), healthy(2)], Metric::HeapLiveGrowth), Verdict::Inconclusive);
}

#[test]
fn a_fifth_more_bytes_per_request_regress() {
    let hungry = |run| {
        let mut evidence = healthy(run);
        evidence.signals.alloc_bytes.data.value.iter_mut().for_each(|bytes| *bytes += *bytes / 5);
        evidence
    };
    assert_eq!(verdict_of(&[hungry(1), hungry(2)], Metric::AllocBytesPerRequest), Verdict::Regressed);
    assert_eq!(verdict_of(&[hungry(1), hungry(2)], Metric::AllocsPerRequest), Verdict::Pass);
}

#[test]
fn one_goroutine_left_behind_regresses() {
    let leaking = |run| {
        let mut evidence = healthy(run);
        *evidence.signals.goroutines.data.value.last_mut().unwrap() += 1;
        evidence
    };
    assert_eq!(verdict_of(&[leaking(1), leaking(2)], Metric::GoroutinesLeaked), Verdict::Regressed);
}

#[test]
fn a_crash_fails_the_requests_and_leaves_the_rest_open() {
    let mut crashed = healthy(1);
    crashed.ending = Ending::Exited { code: 2, at_ns: 30 * SECOND };
    crashed.phases.drain = None;
    let failed = [("not sent".to_owned(), 20_000)].into();
    crashed.signals.requests.data.measure = RequestCounts { intended: 30_000, succeeded: 10_000, failed };
    let summary = summarise(&[crashed]).unwrap();
    let result = judge(&summary, Some(&recorded_baseline()));
    assert_eq!(result.verdict, Verdict::Regressed);
    for gate in &result.gates {
        let expected = match gate.metric {
            Metric::RequestErrors => Verdict::Regressed,
            _ => Verdict::Inconclusive,
        };
        assert_eq!(gate.verdict, expected, "{gate:?}");
    }
    assert_eq!(more_runs(&result), None, "no run brings the figures back");
}

#[test]
fn a_kill_for_want_of_memory_regresses_at_once() {
    let mut killed = healthy(1);
    killed.signals.oom_kills.data = 1;
    assert_eq!(verdict_of(&[killed], Metric::OomKills), Verdict::Regressed);
}

#[test]
fn too_few_collections_for_a_slope_are_no_pass() {
    let mut idle = healthy(1);
    idle.signals.live_heap.data = every(20 * SECOND, |_| 20_000_000);
    assert_eq!(verdict_of(&[idle], Metric::HeapLiveGrowth), Verdict::Inconclusive);
}

#[test]
fn the_same_evidence_gives_the_same_verdict_in_any_order() {
    let baseline = recorded_baseline();
    let judged = |runs: &[Evidence]| judge(&summarise(runs).unwrap(), Some(&baseline));
    assert_eq!(judged(&[healthy(1), healthy(2)]), judged(&[healthy(2), healthy(1)]));
}

#[test]
fn the_reasons_of_a_whole_service_read_well() {
    let mut second = healthy(2);
    second.signals.gc_pauses.lost = 2;
    second.signals.alloc_bytes.data.value.iter_mut().for_each(|bytes| *bytes += *bytes / 4);
    let result = judge(&summarise(&[healthy(1), second]).unwrap(), Some(&recorded_baseline()));
    insta::assert_json_snapshot!(result);
}
