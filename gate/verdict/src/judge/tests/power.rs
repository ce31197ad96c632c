//! False alarms and power of the whole decision, by simulation: looks after 2, 3, 4 and 6 runs. docs/explanation/
//! statistics.md gives the figures of longer simulations.

use memgate_testing::Random;

use super::*;
use crate::{
    judge::looks,
    summarise::tests::simulation::{growth_of, phase},
};

/// The verdicts of a check, and after how many runs it ended.
fn check(metric: Metric, baseline: &Baseline, mut run: impl FnMut() -> Measurement) -> (Verdict, usize) {
    let mut figures = Vec::new();
    let mut runs = looks::next(0).unwrap();
    loop {
        while figures.len() < runs {
            figures.push(run());
        }
        let result = judge(&summary_of(metric, &figures), Some(baseline));
        match more_runs(&result) {
            Some(more) => runs = more as usize,
            None => return (gate(&result, metric).verdict, runs),
        }
    }
}

/// Shares of 1: passed, failed, and the mean number of runs.
fn shares(checks: u32, mut check: impl FnMut() -> (Verdict, usize)) -> (f64, f64, f64) {
    let (mut passed, mut failed, mut runs) = (0.0, 0.0, 0.0);
    for _ in 0..checks {
        let (verdict, of_check) = check();
        passed += f64::from(u8::from(verdict.is_good()));
        failed += f64::from(u8::from(verdict == Verdict::Regressed));
        runs += of_check as f64;
    }
    let checks = f64::from(checks);
    (passed / checks, failed / checks, runs / checks)
}

/// The live heap of a phase of 60 s with a cycle a second, noise with a memory of 2 s, and a leak, MB/min.
fn leaking(random: &mut Random, noise: f64, leak: f64) -> Measurement {
    let points = phase(random, 1.0, 2.0, |at| leak / noise * at);
    growth_of(&points.iter().map(|point| (point.0, noise * point.1)).collect::<Vec<_>>())
}

#[test]
fn leaks_are_found_and_healthy_heaps_pass() {
    let baseline = baseline_of([(Metric::AllocBytesPerRequest, recorded())]);
    let mut random = Random(42);
    let mut of = |noise: f64, leak: f64, checks: u32| {
        shares(checks, || check(Metric::HeapLiveGrowth, &baseline, || leaking(&mut random, noise, leak)))
    };
    for noise in [0.05, 0.2, 0.3] {
        let (passed, failed, runs) = of(noise, 0.0, 60);
        println!("noise {noise}: healthy passed {passed}, failed {failed}, {runs} runs");
        assert!(
            passed >= 0.98 && failed == 0.0 && runs <= 3.5,
            "{noise}: {passed} passed, {failed} failed, {runs} runs"
        );
        let (passed, failed, runs) = of(noise, 2.0, 60);
        println!("noise {noise}: leak of 2: passed {passed}, failed {failed}, {runs} runs");
        assert!(failed >= 0.98 && passed == 0.0, "{noise}: a leak of 2 MB/min: {passed} passed, {failed} failed");
        let (passed, failed, runs) = of(noise, 1.0, 60);
        println!("noise {noise}: leak of 1: passed {passed}, failed {failed}, {runs} runs");
        assert!(passed <= 0.05, "{noise}: a leak of 1 MB/min: {passed} passed, {failed} failed");
    }
}

/// Bytes per request: the noise is that between processes, 0.05 %, and the baseline has its share of it.
#[test]
fn half_a_percent_more_bytes_is_found_and_no_difference_passes() {
    const NOISE: f64 = 0.0005;
    let mut random = Random(42);
    let mut of = |recorded_runs: u32, more: f64, checks: u32| {
        shares(checks, || {
            let figures: Vec<f64> = (0..recorded_runs).map(|_| 1.0 + NOISE * random.normal()).collect();
            let mean = figures.iter().sum::<f64>() / f64::from(recorded_runs);
            let squares: f64 = figures.iter().map(|figure| (figure - mean).powi(2)).sum();
            let noise = (squares / (f64::from(recorded_runs) - 1.0)).sqrt();
            let tolerance = Metric::AllocBytesPerRequest.comparison().unwrap().tolerance;
            let expectation = Expectation {
                baseline: Some(mean),
                noise: Some(noise),
                tolerance: Some(tolerance),
                ..Expectation::default()
            };
            let mut baseline = baseline_of([(Metric::AllocBytesPerRequest, expectation)]);
            baseline.environment.runs = recorded_runs;
            check(Metric::AllocBytesPerRequest, &baseline, || around(1.0 + more + NOISE * random.normal(), 1e-5))
        })
    };
    let (passed, failed, runs) = of(3, 0.0, 300);
    println!("healthy: {passed} {failed} {runs}");
    assert!(passed >= 0.99 && failed == 0.0 && runs < 2.1, "{passed} {failed} {runs}");
    for (recorded_runs, more) in [(3, 0.005), (2, 0.01), (6, 0.005)] {
        let (passed, failed, runs) = of(recorded_runs, more, 300);
        println!("{recorded_runs} recorded, +{more}: {passed} {failed} {runs}");
        assert!(passed <= 0.05, "{recorded_runs} recorded, +{more}: {passed} {failed} {runs}");
    }
}
