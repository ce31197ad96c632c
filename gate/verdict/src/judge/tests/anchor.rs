//! Small steps that add up.

use super::*;

const BYTES: Metric = Metric::AllocBytesPerRequest;

/// A recorded figure with an anchor, a tolerance of 5 % and a noise of 1.
fn anchored(baseline: f64, anchor: f64) -> Expectation {
    Expectation { baseline: Some(baseline), anchor: Some(anchor), noise: Some(1.0), ..recorded() }
}

fn bytes(figures: &[f64], expectation: Expectation) -> GateResult {
    let runs: Vec<_> = figures.iter().copied().map(exactly).collect();
    gate(&judge(&summary_of(BYTES, &runs), Some(&baseline_of([(BYTES, expectation)]))), BYTES).clone()
}

/// Twenty changes of +0.4 %, each measured and accepted in turn. Each passes its own recorded figure. The anchor stops
/// the first one that is more than twice the tolerance above it.
#[test]
fn twenty_small_steps_are_stopped_by_the_anchor() {
    for (tolerance, step, stops_at) in [(0.0041, 0.004, 3), (0.005, 0.004, 3), (0.01, 0.004, 5), (0.02, 0.004, 10)] {
        let figure = |steps: i32| 20_000.0 * (1.0_f64 + step).powi(steps);
        let expectation = |recorded, anchor| Expectation {
            baseline: Some(recorded),
            anchor,
            noise: Some(0.5),
            tolerance: Some(tolerance),
            ..Expectation::default()
        };
        for steps in 1..=20 {
            let (now, before) = (figure(steps), figure(steps - 1));
            let alone = bytes(&[now; 2], expectation(before, None));
            assert_eq!(alone.verdict, Verdict::Pass, "step {steps} by itself: {}", alone.reason);
            let gate = bytes(&[now; 2], expectation(before, Some(figure(0))));
            let expected = if steps < stops_at { Verdict::Pass } else { Verdict::Regressed };
            assert_eq!(gate.verdict, expected, "tolerance {tolerance}, step {steps}: {}", gate.reason);
        }
        let most = (1.0 + 2.0 * tolerance) * figure(0);
        assert!(figure(stops_at - 1) <= most && most < figure(stops_at), "the stop is where twice the tolerance is");
    }
}

#[test]
fn the_reason_names_the_anchor_the_drift_and_the_command() {
    let gate = bytes(&[1110.0; 2], anchored(1080.0, 1000.0));
    assert_eq!((gate.verdict, gate.anchor), (Verdict::Regressed, Some(1000.0)));
    assert_eq!(
        gate.reason,
        "1.11kB/request has drifted from the anchor of 1kB/request by 110B/request (+11%), which is more than \
         100B/request (2 × tolerance 5%), in each of 2 runs; the step from the recorded 1.08kB/request passes, and the sum \
         of all steps does not: `memgate baseline anchor --service uaa --platform linux/amd64 --metric \
         alloc_bytes_per_request` pins a new one at a release."
    );
    // A step that fails by itself says so first.
    let gate = bytes(&[1200.0; 2], anchored(1080.0, 1000.0));
    assert_eq!(gate.verdict, Verdict::Regressed);
    assert!(
        gate.reason.starts_with("1.20kB/request exceeds the baseline of 1.08kB/request by more than"),
        "{}",
        gate.reason
    );
    assert!(gate.reason.contains("; 1.20kB/request has drifted from the anchor"), "{}", gate.reason);
    assert!(!gate.reason.contains("passes"), "{}", gate.reason);
}

#[test]
fn a_drift_needs_both_sets_of_runs_and_more_than_noise() {
    let gate = bytes(&[1095.0, 1125.0], anchored(1080.0, 1000.0));
    assert_eq!(gate.verdict, Verdict::Inconclusive, "{}", gate.reason);
    assert!(
        gate.reason.contains("has drifted from the anchor of 1kB/request by 110B/request (+11%)"),
        "{}",
        gate.reason
    );
    assert!(gate.needs.is_some());
    let noisy = Expectation { noise: Some(60.0), ..anchored(1080.0, 1000.0) };
    let gate = bytes(&[1110.0; 2], noisy);
    assert_eq!(gate.verdict, Verdict::Inconclusive, "{}", gate.reason);
    assert!(gate.reason.contains("but noise alone may exceed it by"), "{}", gate.reason);
    assert_eq!(bytes(&[1110.0], anchored(1080.0, 1000.0)).verdict, Verdict::Inconclusive, "one run");
}

#[test]
fn the_floor_counts_twice_too_and_an_anchor_without_either_compares_nothing() {
    let floor = |floor| Expectation { floor: Some(floor), ..anchored(1080.0, 1000.0) };
    assert_eq!(bytes(&[1110.0; 2], floor(56.0)).verdict, Verdict::Pass);
    let bare = Expectation { tolerance: None, noise: None, ..anchored(1080.0, 1000.0) };
    assert_eq!(bytes(&[1000.0; 2], bare.clone()).verdict, Verdict::Pass);
    let gate = bytes(&[1070.0; 2], bare);
    assert_eq!((gate.verdict, gate.needs), (Verdict::Inconclusive, Some(Need::Baseline)), "{}", gate.reason);
    assert!(gate.reason.contains("names no tolerance, floor or noise to compare the drift with"), "{}", gate.reason);
}

/// The gate notices at the lower of what the recorded figure and the anchor let pass.
#[test]
fn an_anchor_that_holds_changes_only_what_is_noticed() {
    let with = bytes(&[1085.0; 2], anchored(1080.0, 1000.0));
    let without = bytes(&[1085.0; 2], Expectation { anchor: None, ..anchored(1080.0, 1000.0) });
    assert_eq!((with.verdict, without.verdict), (Verdict::Pass, Verdict::Pass));
    assert!(with.noticed.unwrap() < 1102.0 && without.noticed.unwrap() > 1134.0, "{with:?} {without:?}");
    let far = bytes(&[1085.0; 2], anchored(1080.0, 1070.0));
    assert_eq!(GateResult { anchor: None, ..far }, without, "a step that notices first");
    let better = bytes(&[900.0; 2], anchored(1000.0, 1000.0));
    assert_eq!(better.verdict, Verdict::Improved);
}

#[test]
fn an_anchor_that_is_no_number_or_does_not_fit_never_passes() {
    for anchor in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let gate = bytes(&[1000.0; 2], anchored(1000.0, anchor));
        assert_eq!(gate.verdict, Verdict::Inconclusive);
        assert_eq!(gate.reason, "The baseline's anchor is not a finite number.");
    }
    let mut baseline = baseline_of([(BYTES, anchored(1080.0, 1000.0))]);
    baseline.environment.page_size = 65536;
    let result = judge(&alike(BYTES, 2, &exactly(1110.0)), Some(&baseline));
    assert_eq!(gate(&result, BYTES).verdict, Verdict::Inconclusive, "another kind of machine is not compared");
    let advisory = bytes(&[1110.0; 2], Expectation { advisory: true, ..anchored(1080.0, 1000.0) });
    assert_eq!(advisory.verdict, Verdict::Advisory);
}
