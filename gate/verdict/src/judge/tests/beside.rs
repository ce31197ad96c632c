//! Two builds that were measured in turn.

use super::*;
use crate::summarise::{Site, SiteKind, SourceLocation};

const BYTES: Metric = Metric::AllocBytesPerRequest;
const PAUSE: Metric = Metric::GcPauseP90;

/// A summary with these figures of one metric, and sites behind it.
fn build(metric: Metric, figures: &[f64], half: f64) -> Summary {
    summary_of(metric, &figures.iter().map(|figure| around(*figure, half)).collect::<Vec<_>>())
}

/// The gate on the metric of a build beside another.
fn beside(metric: Metric, change: &Summary, other: &Summary) -> GateResult {
    let result = judge_beside(judge(change, None), change, None, Other { name: "main (1a2b3c4)", summary: other });
    result.gates.into_iter().find(|gate| gate.metric == metric && gate.against.is_some()).unwrap()
}

#[track_caller]
fn assert_beside(metric: Metric, change: (&[f64], f64), other: (&[f64], f64), verdict: Verdict, reason: &str) {
    let gate = beside(metric, &build(metric, change.0, change.1), &build(metric, other.0, other.1));
    assert_eq!((gate.verdict, gate.reason.as_str()), (verdict, reason));
}

#[test]
fn the_same_figures_hold_and_say_what_would_have_been_noticed() {
    let figures = [20_000.0, 20_004.0];
    let gate = beside(BYTES, &build(BYTES, &figures, 0.0), &build(BYTES, &figures, 0.0));
    assert_eq!(gate.verdict, Verdict::Pass);
    assert_eq!(gate.reason, "20.0kB/request does not exceed the 20.0kB/request of main (1a2b3c4).");
    // The tolerance is 0.4 %, and single processes differ by 2.8 bytes.
    let noticed = gate.noticed.unwrap() - 20_002.0;
    assert!((80.0..90.0).contains(&noticed), "{noticed}");
}

#[test]
fn a_difference_beyond_tolerance_and_noise_fails_in_both_halves() {
    assert_beside(
        BYTES,
        (&[20_200.0, 20_204.0], 0.0),
        (&[20_000.0, 20_004.0], 0.0),
        Verdict::Regressed,
        "20.2kB/request exceeds the 20.0kB/request of main (1a2b3c4) by more than 80.0B/request (tolerance 0.40%), in each \
         of 2 runs.",
    );
    assert_beside(
        BYTES,
        (&[20_100.0, 20_104.0], 0.0),
        (&[20_000.0, 20_004.0], 0.0),
        Verdict::Inconclusive,
        "20.1kB/request exceeds the 20.0kB/request of main (1a2b3c4) by more than 80.0B/request (tolerance 0.40%), but not \
         in each of 2 runs: more runs decide.",
    );
    assert_beside(
        BYTES,
        (&[20_101.0, 20_104.0, 20_099.0, 20_100.0], 0.0),
        (&[20_000.0, 20_004.0, 19_999.0, 20_001.0], 0.0),
        Verdict::Regressed,
        "20.1kB/request exceeds the 20.0kB/request of main (1a2b3c4) by more than 80.0B/request (tolerance 0.40%), in both \
         halves of 4 runs.",
    );
    assert_beside(
        BYTES,
        (&[20_000.0, 20_004.0], 0.0),
        (&[20_300.0, 20_304.0], 0.0),
        Verdict::Improved,
        "20.0kB/request is less than the 20.3kB/request of main (1a2b3c4) by more than 81.2B/request (tolerance 0.40%).",
    );
}

#[test]
fn less_within_the_noise_is_no_improvement() {
    assert_beside(
        BYTES,
        (&[19_000.0, 20_800.0], 0.0),
        (&[20_300.0, 20_304.0], 0.0),
        Verdict::Pass,
        "19.9kB/request does not exceed the 20.3kB/request of main (1a2b3c4).",
    );
}

#[test]
fn one_disturbed_process_fails_nothing() {
    let gate = beside(BYTES, &build(BYTES, &[20_001.0, 21_000.0], 0.0), &build(BYTES, &[20_000.0, 20_004.0], 0.0));
    assert_eq!((gate.verdict, gate.needs), (Verdict::Inconclusive, Some(Need::MoreRuns)));
}

#[test]
fn a_time_that_differs_no_more_than_runs_do_holds() {
    let reason = "310µs exceeds the 270µs of main (1a2b3c4) by no more than runs differ.";
    assert_beside(PAUSE, (&[300e3, 320e3], 5e3), (&[280e3, 260e3], 5e3), Verdict::Pass, reason);
    let noticed = beside(PAUSE, &build(PAUSE, &[300e3, 320e3], 5e3), &build(PAUSE, &[280e3, 260e3], 5e3)).noticed;
    assert!((300e3..2e6).contains(&noticed.unwrap()), "{noticed:?}");
    let steady = |figure: f64| [figure, figure + 1e3, figure - 1e3, figure, figure + 1e3, figure];
    let reason = "300µs exceeds the 270µs of main (1a2b3c4) by more than 20µs (floor), in both halves of 6 runs.";
    assert_beside(PAUSE, (&steady(300e3), 0.0), (&steady(270e3), 0.0), Verdict::Regressed, reason);
}

/// The noise of both growths counts: their half-widths in quadrature.
#[test]
fn a_growth_beyond_the_noise_of_both_builds_fails() {
    let verdict = |change: f64, other: f64| {
        let metric = Metric::HeapLiveGrowth;
        beside(metric, &build(metric, &[2e6; 2], change), &build(metric, &[0.0; 2], other)).verdict
    };
    assert_eq!(verdict(0.7e6, 1.0), Verdict::Regressed);
    assert_eq!(verdict(1.0, 0.7e6), Verdict::Regressed);
    assert_eq!(verdict(0.7e6, 0.7e6), Verdict::Inconclusive);
    assert_eq!(verdict(0.5e6, 0.5e6), Verdict::Regressed);
}

/// A heap that is flat in each process has an exact growth of 0, which says nothing of the noise between processes.
#[test]
fn beside_exact_figures_the_spread_of_the_runs_counts() {
    let metric = Metric::HeapLiveGrowth;
    let flat = build(metric, &[0.0; 2], 0.0);
    let gate_of = |figures: &[f64]| beside(metric, &build(metric, figures, 1.0), &flat);
    assert_eq!(gate_of(&[0.8e6, 1.6e6]).verdict, Verdict::Inconclusive);
    assert_eq!(gate_of(&[1.0e6, 1.0001e6]).verdict, Verdict::Regressed);
}

#[test]
fn a_time_far_beyond_never_passes() {
    let gate = beside(PAUSE, &build(PAUSE, &[20e6, 90e6], 5e3), &build(PAUSE, &[280e3, 260e3], 5e3));
    assert_eq!((gate.verdict, gate.needs), (Verdict::Inconclusive, Some(Need::MoreRuns)));
}

#[test]
fn times_in_a_guest_are_advisory() {
    let in_guest = |figures: &[f64]| {
        let mut summary = build(PAUSE, figures, 0.0);
        summary.environment.runner = Runner::Qemu;
        summary
    };
    let gate = beside(PAUSE, &in_guest(&[900e3, 901e3, 902e3, 900e3]), &in_guest(&[280e3, 281e3, 280e3, 280e3]));
    assert_eq!(gate.verdict, Verdict::Advisory);
    assert!(gate.reason.starts_with("Advisory only: 901µs exceeds the 280µs of main"), "{}", gate.reason);
}

#[test]
fn a_figure_that_one_build_lacks_is_not_compared() {
    let lacking = summary_of(BYTES, &[exactly(1.0), unavailable("records were lost")]);
    let whole = build(BYTES, &[1.0, 1.0], 0.0);
    let gate = beside(BYTES, &whole, &lacking);
    assert_eq!((gate.verdict, gate.needs), (Verdict::Inconclusive, Some(Need::Data)));
    assert_eq!(gate.reason, "No figure of main (1a2b3c4): run 2: records were lost.");
    let gate = beside(BYTES, &lacking, &whole);
    assert_eq!(gate.reason, "No figure: run 2: records were lost.");
    // What neither build has is no difference: where a default limit wants it, that has a gate of its own.
    let result = judge_beside(judge(&lacking, None), &lacking, None, Other { name: "main", summary: &lacking });
    assert!(!result.gates.iter().any(|gate| gate.metric == BYTES && gate.against.is_some()));
}

#[test]
fn figures_of_a_build_that_fails_its_requests_are_not_compared() {
    let mut failing = build(BYTES, &[1000.0, 1000.0], 0.0);
    for run in &mut failing.runs {
        let errors = around(0.2, 0.01).map(|errors| Estimate { n: 10_000, ..errors });
        run.metrics.insert(Metric::RequestErrors, errors);
    }
    let gate = beside(BYTES, &build(BYTES, &[1000.0, 1000.0], 0.0), &failing);
    assert_eq!((gate.verdict, gate.needs), (Verdict::Inconclusive, Some(Need::Data)));
    assert!(gate.reason.contains("20% of the requests failed"), "{}", gate.reason);
}

#[test]
fn the_sites_are_what_the_change_has_more() {
    let site = |function: &str, amount| Site {
        kind: SiteKind::Heap,
        at: SourceLocation { function: function.into(), file: "a.go".into(), line: 1, in_repository: false },
        own: None,
        starts: None,
        amount,
        unit: Unit::Bytes,
        share: 0.5,
        samples: None,
        error: None,
    };
    let mut change = build(BYTES, &[1500.0, 1500.0], 0.0);
    let mut other = build(BYTES, &[1000.0, 1000.0], 0.0);
    change.sites.insert(BYTES, vec![site("main.large", 900.0), site("main.grown", 600.0)]);
    other.sites.insert(BYTES, vec![site("main.large", 900.0), site("main.grown", 100.0)]);
    let gate = beside(BYTES, &change, &other);
    assert_eq!(gate.verdict, Verdict::Regressed);
    let sites: Vec<_> = gate.sites.iter().map(|site| (site.at.function.as_str(), site.amount, site.share)).collect();
    assert_eq!(sites, [("main.grown", 500.0, 1.0)]);
}

#[test]
fn the_verdict_is_the_worst_of_both_comparisons_and_the_other_builds_notes_are_told() {
    let (change, mut other) = (build(BYTES, &[1500.0; 2], 0.0), build(BYTES, &[1000.0; 2], 0.0));
    other.notes.push("a note".to_owned());
    let alone = judge(
        &change,
        Some(&baseline_of([(
            BYTES,
            Expectation { baseline: Some(1500.0), tolerance: Some(0.01), ..Expectation::default() },
        )])),
    );
    assert_eq!(alone.verdict, Verdict::Pass);
    let result = judge_beside(alone, &change, None, Other { name: "main", summary: &other });
    assert_eq!(result.verdict, Verdict::Regressed);
    assert!(result.notes.contains(&"main: a note".to_owned()), "{:?}", result.notes);
}

/// Both builds leak more than a default limit allows. What the change leaks on top has a gate of its own.
#[test]
fn a_leak_on_top_of_another_is_a_difference() {
    assert_beside(
        Metric::HeapLiveGrowth,
        (&[4e6, 4.1e6], 1e5),
        (&[2e6, 2.1e6], 1e5),
        Verdict::Regressed,
        "4.05MB/min exceeds the 2.05MB/min of main (1a2b3c4) by more than 0.50MB/min (floor), in each of 2 runs.",
    );
    assert_beside(
        Metric::HeapLiveGrowth,
        (&[2.2e6, 2.1e6], 1e5),
        (&[2e6, 2.1e6], 1e5),
        Verdict::Pass,
        "2.15MB/min exceeds the 2.05MB/min of main (1a2b3c4) by no more than 0.50MB/min (floor).",
    );
}

/// What a team has agreed on holds beside another build too.
#[test]
fn what_the_baseline_waives_or_only_reports_is_so_beside_another_build() {
    let (change, other) = (build(BYTES, &[20_200.0, 20_204.0], 0.0), build(BYTES, &[20_000.0, 20_004.0], 0.0));
    let of = |expectation: Expectation| {
        let baseline = baseline_of([(BYTES, Expectation { limit: Limit::At(30_000.0), ..expectation })]);
        let other = Other { name: "main (1a2b3c4)", summary: &other };
        let result = judge_beside(judge(&change, Some(&baseline)), &change, Some(&baseline), other);
        let gate = result.gates.into_iter().find(|gate| gate.metric == BYTES && gate.against.is_some()).unwrap();
        (gate.verdict, gate.reason)
    };
    assert_eq!(of(Expectation::default()).0, Verdict::Regressed);
    assert_eq!(of(Expectation { advisory: true, ..Expectation::default() }).0, Verdict::Advisory);
    let until = |expires: &str| {
        let waiver = Waiver { reason: "agreed".to_owned(), owner: "ada".to_owned(), expires: expires.to_owned() };
        of(Expectation { waiver: Some(waiver), ..Expectation::default() })
    };
    let (verdict, reason) = until("2026-12-31");
    assert_eq!(verdict, Verdict::Advisory);
    assert!(
        reason
            .starts_with("Waived until 2026-12-31 by ada (agreed): 20.2kB/request exceeds the 20.0kB/request of main")
    );
    assert_eq!(until("2026-11-22").0, Verdict::Regressed);
}
