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
        limit in prop_oneof![Just(Limit::Default), Just(Limit::None), (900.0..1200.0).prop_map(Limit::At)],
        baseline in prop::option::of(900.0..1200.0),
        anchor in prop::option::of(900.0..1200.0),
        noise in prop::option::of(0.0..30.0),
        between in prop::option::of((0.0..30.0, 1..9_u32)),
        tolerance in prop::option::of(0.0..0.2),
        floor in prop::option::of(0.0..100.0),
        must_notice in prop::option::of(0.0..200.0),
        advisory in prop::bool::weighted(0.1),
    ) -> Expectation {
        Expectation {
            limit,
            baseline,
            anchor: baseline.and(anchor),
            noise,
            noise_freedom: noise.and(between).map(|(_, freedom)| 2 * freedom),
            between: between.map(|(deviation, _)| deviation),
            between_freedom: between.map(|(_, freedom)| freedom),
            tolerance,
            floor,
            must_notice,
            advisory,
            waiver: None,
        }
    }
}

fn summary(metric: Metric, figures: &[(f64, f64)]) -> Summary {
    let runs: Vec<Measurement> = figures.iter().map(|&(measured, half)| around(measured, half)).collect();
    summary_of(metric, &runs)
}

fn verdict(metric: Metric, figures: &[(f64, f64)], expectation: &Expectation) -> Option<Verdict> {
    let result = judge(&summary(metric, figures), Some(&baseline_of([(metric, expectation.clone())])));
    result.gates.iter().find(|gate| gate.metric == metric).map(|gate| gate.verdict)
}

/// A metric whose runs have a mean. The share of failed requests spoils other figures and cannot exceed 1.
fn mean_metric() -> impl Strategy<Value = Metric> {
    let metrics: Vec<_> = Metric::ALL.into_iter().filter(|metric| *metric != Metric::RequestErrors).collect();
    prop::sample::select(metrics)
}

proptest! {
    #[test]
    fn worse_figures_never_improve_a_verdict(
        figures in prop::collection::vec(figure(), 1..7),
        expectation in expectation(),
        worse_by in 0.0..200.0,
        metric in mean_metric(),
    ) {
        let before = verdict(metric, &figures, &expectation);
        let worse: Vec<_> = figures.iter().map(|&(measured, half)| (measured + worse_by, half)).collect();
        let after = verdict(metric, &worse, &expectation);
        prop_assert_eq!(before.is_some(), after.is_some());
        prop_assert!(after.map(badness) >= before.map(badness), "{:?} {:?} became {:?}", figures, before, after);
    }

    #[test]
    fn a_stricter_expectation_never_improves_a_verdict(
        figures in prop::collection::vec(figure(), 1..7),
        expectation in expectation(),
        limit in 900.0..1200.0,
        stricter_by in 0.0..200.0,
    ) {
        let of = |limit| Expectation { limit: Limit::At(limit), ..expectation.clone() };
        let before = verdict(BYTES, &figures, &of(limit));
        let after = verdict(BYTES, &figures, &of(limit - stricter_by));
        prop_assert!(after.map(badness) >= before.map(badness), "{:?} became {:?}", before, after);
    }

    /// One run that is far off never fails a check of several.
    #[test]
    fn one_disturbed_run_fails_nothing(
        measured in 900.0..1100.0,
        off_by in 0.0..1e6,
        runs in 2..7usize,
        which in any::<prop::sample::Index>(),
    ) {
        let mut figures = vec![(measured, 1.0); runs];
        figures[which.index(runs)].0 += off_by;
        let expectation = Expectation { limit: Limit::At(measured + 1.0), baseline: Some(measured), ..recorded() };
        prop_assert_ne!(verdict(BYTES, &figures, &expectation), Some(Verdict::Regressed));
    }

    #[test]
    fn what_is_missing_never_passes(
        figures in prop::collection::vec(figure(), 1..7),
        expectation in expectation(),
        missing in any::<prop::sample::Index>(),
        metric in prop::sample::select(Metric::ALL.to_vec()),
    ) {
        prop_assume!(verdict(metric, &figures, &expectation).is_some(), "there is a gate");
        let mut summary = summary(metric, &figures);
        summary.runs[missing.index(figures.len())].metrics.insert(metric, unavailable("it is missing"));
        let result = judge(&summary, Some(&baseline_of([(metric, expectation.clone())])));
        let least = if expectation.advisory { Verdict::Advisory } else { Verdict::Inconclusive };
        let found = gate(&result, metric).verdict;
        // The other runs may show a failure.
        prop_assert!(found == least || found == Verdict::Regressed, "{found:?}");
        prop_assert!(badness(result.verdict) >= badness(least));
    }

    #[test]
    fn the_verdict_is_the_worst_of_the_gates_and_reasons_are_sentences(
        figures in prop::collection::vec(figure(), 1..7),
        expectation in expectation(),
        errors in 0.0..0.03,
    ) {
        let mut summary = summary(BYTES, &figures);
        for run in &mut summary.runs {
            run.metrics.insert(Metric::RequestErrors, around(errors, 0.0001));
        }
        let result = judge(&summary, Some(&baseline_of([(BYTES, expectation)])));
        prop_assert_eq!(result.verdict, worst(result.gates.iter().map(|gate| gate.verdict)));
        for gate in &result.gates {
            prop_assert!(gate.reason.ends_with('.') && !gate.reason.ends_with(".."), "{}", gate.reason);
            let told = gate.verdict == Verdict::Inconclusive;
            prop_assert_eq!(gate.needs.is_some(), told, "what would decide is told if and only if it is undecided");
            prop_assert_eq!(gate.noticed.is_some(), gate.verdict.is_good(), "{:?}", gate);
        }
        if let Some(more) = more_runs(&result) {
            prop_assert!(figures.len() < more as usize && more as usize <= MOST_RUNS);
        }
    }
}
