//! Properties of all figures: worse ones never improve a verdict, and missing ones never pass.

use proptest::prelude::*;

use super::*;

const BYTES: Metric = Metric::AllocBytesPerRequest;

/// From the best verdict to the worst, as figures get worse.
fn badness(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Improved => 0,
        Verdict::Pass => 1,
        Verdict::Advisory => 2,
        Verdict::NoBaseline => 3,
        Verdict::Inconclusive => 4,
        Verdict::Regressed => 5,
    }
}

fn figure() -> impl Strategy<Value = (f64, f64)> {
    (900.0..1200.0, prop_oneof![Just(0.0), 0.0..200.0])
}

prop_compose! {
    fn expectation()(
        limit in prop::option::of(900.0..1200.0),
        baseline in prop::option::of(900.0..1200.0),
        noise in prop::option::of(0.0..30.0),
        tolerance in prop::option::of(0.0..0.2),
        floor in prop::option::of(0.0..100.0),
        advisory in prop::bool::weighted(0.1),
    ) -> Expectation {
        Expectation { limit, baseline, noise, tolerance, floor, advisory }
    }
}

fn summary(metric: Metric, figures: &[(f64, f64)]) -> Summary {
    let runs: Vec<Measurement> = figures.iter().map(|&(measured, half)| around(measured, half)).collect();
    let n = figures.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| figures.iter().map(of).sum::<f64>() / n;
    summary_of(metric, &runs, around(mean(|figure| figure.0), mean(|figure| figure.1)))
}

fn verdict(metric: Metric, figures: &[(f64, f64)], expectation: &Expectation) -> Verdict {
    ruling(&summary(metric, figures), &baseline_of([(metric, expectation.clone())]), metric).0
}

proptest! {
    #[test]
    fn worse_figures_never_improve_a_verdict(
        figures in prop::collection::vec(figure(), 1..4),
        expectation in expectation(),
        which in any::<prop::sample::Index>(),
        worse_by in 0.0..200.0,
        metric in prop::sample::select(Metric::ALL.to_vec()),
    ) {
        prop_assume!(metric != Metric::RequestErrors, "its figures spoil those of the others");
        let before = verdict(metric, &figures, &expectation);
        let mut worse = figures.clone();
        worse[which.index(figures.len())].0 += worse_by;
        let after = verdict(metric, &worse, &expectation);
        prop_assert!(badness(after) >= badness(before), "{:?} {:?} became {:?} {:?}", figures, before, worse, after);
    }

    #[test]
    fn a_stricter_expectation_never_improves_a_verdict(
        figures in prop::collection::vec(figure(), 1..4),
        expectation in expectation(),
        stricter_by in 0.0..200.0,
    ) {
        let before = verdict(BYTES, &figures, &expectation);
        let stricter = Expectation { limit: expectation.limit.map(|limit| limit - stricter_by), ..expectation };
        let after = verdict(BYTES, &figures, &stricter);
        prop_assert!(badness(after) >= badness(before), "{:?} became {:?}", before, after);
    }

    #[test]
    fn what_is_missing_never_passes(
        figures in prop::collection::vec(figure(), 1..4),
        expectation in expectation(),
        missing in any::<prop::sample::Index>(),
        metric in prop::sample::select(Metric::ALL.to_vec()),
    ) {
        let mut summary = summary(metric, &figures);
        let reason = unavailable("it is missing");
        summary.runs[missing.index(figures.len())].metrics.insert(metric, reason.clone());
        summary.pooled.insert(metric, reason);
        let baseline = baseline_of([(metric, expectation.clone())]);
        let result = judge(&summary, Some(&baseline));
        let expected = if expectation.advisory { Verdict::Advisory } else { Verdict::Inconclusive };
        prop_assert_eq!(gate(&result, metric).verdict, expected);
        prop_assert!(badness(result.verdict) >= badness(expected));
    }

    #[test]
    fn the_verdict_is_the_worst_of_the_gates_and_reasons_are_sentences(
        figures in prop::collection::vec(figure(), 1..4),
        expectation in expectation(),
        errors in 0.0..0.03,
    ) {
        let mut summary = summary(BYTES, &figures);
        summary.pooled.insert(Metric::RequestErrors, around(errors, 0.0001));
        let result = judge(&summary, Some(&baseline_of([(BYTES, expectation)])));
        prop_assert_eq!(result.verdict, worst(result.gates.iter().map(|gate| gate.verdict)));
        for gate in &result.gates {
            prop_assert!(gate.reason.ends_with('.') && !gate.reason.ends_with(".."), "{}", gate.reason);
        }
        prop_assert!(needs_confirmation(&summary, None) <= (figures.len() == 1));
    }
}
