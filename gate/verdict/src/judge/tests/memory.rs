//! Noise with a memory: runs of one day agree with each other more than with those of another.

use memgate_testing::Random;

use super::*;
use crate::{
    judge::{
        against_baseline::{self, Recorded},
        figures::Figures,
        looks,
    },
    results::Need,
};

const BYTES: Metric = Metric::AllocBytesPerRequest;

/// The deviation of runs within an occasion, and that between occasions.
const WITHIN: f64 = 1.0;
const BETWEEN: f64 = 3.0;

/// The figures of an occasion's runs.
fn occasion(random: &mut Random, mean: f64, runs: usize) -> Vec<f64> {
    let at = mean + BETWEEN * random.normal();
    (0..runs).map(|_| at + WITHIN * random.normal()).collect()
}

fn mean(figures: &[f64]) -> f64 {
    figures.iter().sum::<f64>() / figures.len() as f64
}

fn variance(figures: &[f64]) -> f64 {
    let mean = mean(figures);
    figures.iter().map(|figure| (figure - mean).powi(2)).sum::<f64>() / (figures.len() as f64 - 1.0)
}

/// A baseline of three runs on each of several occasions. Without a memory, its noise is the deviation of all runs.
fn recorded_on(random: &mut Random, occasions: usize, has_memory: bool) -> Baseline {
    let groups: Vec<Vec<f64>> = (0..occasions).map(|_| occasion(random, 1000.0, 3)).collect();
    let means: Vec<f64> = groups.iter().map(|group| mean(group)).collect();
    let within = groups.iter().map(|group| variance(group)).sum::<f64>() / occasions as f64;
    let count = |number: usize| u32::try_from(number).unwrap();
    let expectation = Expectation {
        baseline: Some(mean(&means)),
        tolerance: Some(0.0005),
        noise: Some(variance(&groups.concat()).sqrt()),
        ..Expectation::default()
    };
    let mut baseline = baseline_of([(BYTES, expectation)]);
    baseline.environment.runs = count(3 * occasions);
    if has_memory {
        let between = variance(&means).sqrt();
        let expectation = baseline.metrics.get_mut(&BYTES).unwrap();
        expectation.noise = Some(within.sqrt());
        expectation.noise_freedom = Some(count(2 * occasions));
        expectation.between = Some(between);
        expectation.between_freedom = Some(count(occasions - 1));
        baseline.environment.occasions = Some(count(occasions));
    }
    baseline
}

/// The verdict of a check on another occasion, on which requests allocate this many bytes on average, and what it
/// needs.
fn check(random: &mut Random, baseline: &Baseline, bytes: f64) -> (Verdict, Option<Need>) {
    let all = occasion(random, bytes, MOST_RUNS);
    let expectation = &baseline.metrics[&BYTES];
    let mut runs = looks::next(0).unwrap();
    loop {
        let figures: Vec<_> = all[..runs].iter().map(|figure| around(*figure, 0.01)).collect();
        let figures = Figures::of(BYTES, &summary_of(BYTES, &figures)).unwrap();
        let recorded = Recorded::of(&baseline.environment);
        let ruling = against_baseline::rule(expectation.baseline.unwrap(), expectation, recorded, &figures);
        match looks::next(runs).filter(|_| ruling.needs == Some(Need::MoreRuns)) {
            Some(more) => runs = more,
            None => return (ruling.verdict, ruling.needs),
        }
    }
}

/// The share of checks that fail, and of those that pass.
fn shares(checks: u32, random: &mut Random, bytes: f64, baseline: impl Fn(&mut Random) -> Baseline) -> (f64, f64) {
    let (mut failed, mut passed) = (0.0, 0.0);
    for _ in 0..checks {
        let baseline = baseline(random);
        let (verdict, _) = check(random, &baseline, bytes);
        failed += f64::from(u8::from(verdict == Verdict::Regressed));
        passed += f64::from(u8::from(verdict.is_good()));
    }
    (failed / f64::from(checks), passed / f64::from(checks))
}

/// The promise is less than one in 60,000 checks for each gate (`looks::alpha`).
#[test]
fn occasions_that_differ_three_times_as_much_as_runs_do_not_fail_a_healthy_service() {
    let mut random = Random(42);
    let of = |random: &mut Random, occasions, has_memory, checks| {
        shares(checks, random, 1000.0, |random| recorded_on(random, occasions, has_memory))
    };
    let (with_memory, _) = of(&mut random, 4, true, 6000);
    let (without, _) = of(&mut random, 4, false, 1000);
    let mut on_one_day = |checks| {
        shares(checks, &mut random, 1000.0, |random| {
            let figures = occasion(random, 1000.0, 12);
            let mut baseline = recorded_on(random, 4, false);
            let expectation = baseline.metrics.get_mut(&BYTES).unwrap();
            expectation.baseline = Some(mean(&figures));
            expectation.noise = Some(variance(&figures).sqrt());
            baseline
        })
    };
    let (of_one_day, _) = on_one_day(1000);
    println!("failed: with a memory {with_memory}, without {without}, of twelve runs of one day {of_one_day}");
    assert!(with_memory <= 0.0, "{with_memory}");
    assert!(without >= 0.005, "{without}");
    assert!(of_one_day >= 0.1, "{of_one_day}");
}

/// What four occasions cannot tell from noise never passes, and twelve can tell it.
#[test]
fn a_memory_lets_no_change_pass_and_more_occasions_find_it() {
    let mut random = Random(43);
    let mut of =
        |occasions, bytes, checks| shares(checks, &mut random, bytes, |random| recorded_on(random, occasions, true));
    let (failed, passed) = of(4, 1050.0, 300);
    println!("+5 %, 4 occasions: failed {failed}, passed {passed}");
    assert!(passed <= 0.0, "{passed}");
    let (failed, passed) = of(12, 1060.0, 300);
    println!("+6 %, 12 occasions: failed {failed}, passed {passed}");
    assert!(failed >= 0.95 && passed <= 0.0, "{failed} {passed}");
}

fn remembering(between: f64) -> Expectation {
    Expectation {
        tolerance: Some(0.01),
        noise: Some(2.0),
        noise_freedom: Some(8),
        between: Some(between),
        between_freedom: Some(3),
        ..recorded()
    }
}

fn of(expectation: Expectation, occasions: Option<u32>, figures: &[f64]) -> GateResult {
    let mut baseline = baseline_of([(BYTES, expectation)]);
    baseline.environment.occasions = occasions;
    let runs: Vec<_> = figures.iter().copied().map(exactly).collect();
    gate(&judge(&summary_of(BYTES, &runs), Some(&baseline)), BYTES).clone()
}

#[test]
fn more_runs_of_one_occasion_do_not_tell_what_occasions_do() {
    let gate = of(remembering(10.0), Some(4), &[1030.0, 1031.0]);
    assert_eq!((gate.verdict, gate.needs), (Verdict::Inconclusive, Some(Need::Baseline)));
    assert!(gate.reason.ends_with(": a baseline of more occasions decides."), "{}", gate.reason);
    // What is between occasions is small, so more runs decide.
    let gate = of(Expectation { noise: Some(20.0), ..remembering(0.1) }, Some(4), &[1030.0, 1031.0]);
    assert_eq!((gate.verdict, gate.needs), (Verdict::Inconclusive, Some(Need::MoreRuns)), "{}", gate.reason);
}

const PAUSE: Metric = Metric::GcPauseP90;

/// A recorded time of 1 ms, of one occasion, that may be twice as long.
fn recorded_time() -> Expectation {
    Expectation { baseline: Some(1e6), noise: Some(50e3), tolerance: Some(1.0), ..Expectation::default() }
}

fn of_time(expectation: Expectation, figures: &[f64]) -> GateResult {
    let runs: Vec<_> = figures.iter().map(|figure| around(*figure, 0.05 * figure)).collect();
    gate(&judge(&summary_of(PAUSE, &runs), Some(&baseline_of([(PAUSE, expectation)]))), PAUSE).clone()
}

/// On a slow day of the machine, pauses of the same code were ten times as long.
#[test]
fn a_time_that_another_day_may_explain_is_advisory() {
    let on_a_slow_day = [10e6, 11e6];
    let gate = of_time(recorded_time(), &on_a_slow_day);
    assert_eq!((gate.verdict, gate.needs), (Verdict::Advisory, None));
    assert_eq!(
        gate.reason,
        "Advisory only: 10.5ms exceeds the baseline of 1ms by more than 1ms (tolerance 100%), which may be the \
         day and not the code: a comparison with another build (`--against`) tells, or a baseline of more occasions."
    );
    let only_one = Expectation { noise: None, ..recorded_time() };
    assert_eq!(of_time(only_one, &[10e6]).verdict, Verdict::Advisory);
    assert_eq!(of_time(recorded_time(), &[1.5e6, 1.6e6]).verdict, Verdict::Pass);
    let knowing = |between| Expectation { between: Some(between), between_freedom: Some(3), ..recorded_time() };
    assert_eq!(of_time(knowing(5e6), &on_a_slow_day).verdict, Verdict::Advisory, "days differ by 5 ms");
    assert_eq!(of_time(knowing(1e3), &on_a_slow_day).verdict, Verdict::Regressed, "days differ by 1 µs");
    // Days do not explain it, but the runs may.
    let gate = of_time(knowing(1e3), &[1.2e6, 11e6]);
    assert_eq!((gate.verdict, gate.needs), (Verdict::Inconclusive, Some(Need::MoreRuns)), "{}", gate.reason);
    // Its limit holds on every day.
    let limited = Expectation { limit: Limit::At(5e6), ..recorded_time() };
    assert_eq!(of_time(limited, &on_a_slow_day).verdict, Verdict::Regressed);
    let drifted = Expectation { anchor: Some(1e6), baseline: Some(9e6), ..recorded_time() };
    assert_eq!(of_time(drifted, &on_a_slow_day).verdict, Verdict::Advisory, "an anchor is of one occasion, too");
}

/// Whoever names what must be noticed says that days do not differ by more than what matters.
#[test]
fn a_time_that_must_be_noticed_fails() {
    let sharp = Expectation { must_notice: Some(3e6), ..recorded_time() };
    assert_eq!(of_time(sharp.clone(), &[10e6, 11e6]).verdict, Verdict::Regressed);
    assert_eq!(of_time(sharp, &[1.5e6, 11e6]).verdict, Verdict::Inconclusive);
    let knowing = |between| Expectation {
        must_notice: Some(3e6),
        between: Some(between),
        between_freedom: Some(3),
        ..recorded_time()
    };
    let gate = of_time(knowing(5e6), &[10e6, 11e6]);
    assert_eq!((gate.verdict, gate.needs), (Verdict::Inconclusive, Some(Need::Baseline)), "what days differ is known");
}

/// A time of another day makes no baseline worse or better by itself, and says how days differ.
#[test]
fn a_time_of_another_day_is_no_step_and_no_change() {
    let baseline = baseline_of([(PAUSE, recorded_time())]);
    let of = |figure: f64| alike(PAUSE, 3, &around(figure, 0.05 * figure));
    let step_of = |figure| step(PAUSE, &of(figure), &baseline).unwrap().unwrap();
    assert_eq!(step_of(10e6), Step::Looser(Explained::ByTheDay));
    assert_eq!(step_of(0.1e6), Step::Within);
    assert!(!is_change(PAUSE, &of(10e6), &baseline) && !is_change(PAUSE, &of(0.1e6), &baseline));
}

/// A file without the keys is judged as it always was, and so is one whose occasions do not differ.
#[test]
fn without_a_memory_nothing_is_different() {
    let plain = Expectation { noise_freedom: None, between: None, between_freedom: None, ..remembering(0.0) };
    let same = Expectation { between: Some(0.0), between_freedom: Some(3), ..plain.clone() };
    for figures in [[1005.0, 1006.0], [1012.0, 1013.0], [1020.0, 1020.5], [1100.0, 1101.0]] {
        assert_eq!(of(same.clone(), Some(4), &figures), of(plain.clone(), None, &figures));
    }
    let known = Expectation { noise_freedom: Some(100), ..plain.clone() };
    let [few, many] = [plain, known].map(|expectation| of(expectation, None, &[1012.0, 1014.0]).verdict);
    assert_eq!((few, many), (Verdict::Inconclusive, Verdict::Regressed), "a pooled noise is better known");
}

#[test]
fn a_deviation_between_occasions_that_is_no_number_never_passes() {
    for between in [f64::NAN, f64::INFINITY, -1.0] {
        let gate = of(remembering(between), Some(4), &[1000.0, 1000.0]);
        assert_eq!(gate.reason, "The baseline's between is not a number of at least 0.");
    }
}

/// A step that only says how occasions differ is no change of the service.
#[test]
fn a_change_is_beyond_noise_and_beyond_what_matters() {
    let of = |expectation: Expectation, figures: &[f64]| {
        let runs: Vec<_> = figures.iter().copied().map(exactly).collect();
        is_change(BYTES, &summary_of(BYTES, &runs), &baseline_of([(BYTES, expectation)]))
    };
    let plain = Expectation { noise: Some(2.0), tolerance: Some(0.01), ..recorded() };
    assert!(!of(plain.clone(), &[1009.0, 1009.0]) && !of(plain.clone(), &[991.0, 991.0]), "within the tolerance");
    assert!(of(plain.clone(), &[1040.0, 1040.0]) && of(plain.clone(), &[960.0, 960.0]));
    let noisy = Expectation { noise: Some(20.0), ..plain.clone() };
    assert!(!of(noisy, &[1040.0, 1040.0]), "within noise");
    assert!(of(Expectation { noise: None, ..plain }, &[1040.0]), "unknown noise explains nothing");
    assert!(is_change(Metric::RssPeak, &alike(BYTES, 2, &exactly(1.0)), &baseline_of([])), "no recorded figure");
}
