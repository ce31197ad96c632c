//! What a script may take from a run, and what it must tell.

use memgate_testing::Random;

use super::*;

const BYTES: Metric = Metric::AllocBytesPerRequest;

fn step_of(figures: &[f64], expectation: Expectation) -> Step {
    let runs: Vec<_> = figures.iter().copied().map(exactly).collect();
    step(BYTES, &summary_of(BYTES, &runs), &baseline_of([(BYTES, expectation)])).unwrap().unwrap()
}

#[test]
fn less_is_tighter_only_beyond_noise_and_more_is_looser_beyond_what_matters() {
    assert_eq!(step_of(&[900.0, 901.0], recorded()), Step::Tighter);
    assert_eq!(step_of(&[990.0, 991.0], recorded()), Step::Within, "noise is 10");
    assert_eq!(step_of(&[1049.0, 1049.0], recorded()), Step::Within);
    assert_eq!(step_of(&[1100.0, 1101.0], recorded()), Step::Looser(Explained::ByNothing));
    assert_eq!(step_of(&[1000.0, 1200.0], recorded()), Step::Looser(Explained::ByNoise));
    // The tolerance keeps nothing from being tighter: it is a person's choice of what may get worse.
    let wide = Expectation { tolerance: Some(1.0), noise: Some(0.1), ..recorded() };
    assert_eq!(step_of(&[990.0, 990.1], wide.clone()), Step::Tighter);
    assert_eq!(step_of(&[1990.0, 1990.1], wide), Step::Within);
}

#[test]
fn without_noise_nothing_is_tighter_and_all_that_is_more_is_looser() {
    let bare = Expectation { baseline: Some(1000.0), ..Expectation::default() };
    assert_eq!(step_of(&[500.0], bare.clone()), Step::Within);
    assert_eq!(step_of(&[1001.0], bare), Step::Looser(Explained::ByNoise));
}

/// The file has seven digits, and figures that are equal in all runs have no noise.
#[test]
fn rounding_is_no_step() {
    let exact = |baseline| Expectation { baseline: Some(baseline), noise: Some(0.0), ..recorded() };
    let figure = 20_324.941_234;
    assert_eq!(step_of(&[figure; 3], exact(20_324.94)), Step::Within);
    assert_eq!(step_of(&[figure; 3], exact(20_324.95)), Step::Within);
    assert_eq!(step_of(&[figure; 3], exact(20_325.0)), Step::Tighter);
    let no_tolerance = Expectation { tolerance: Some(0.0), ..exact(20_324.94) };
    assert_eq!(step_of(&[figure; 3], no_tolerance), Step::Within);
}

#[test]
fn a_metric_without_a_recorded_figure_or_a_measured_one_has_no_step() {
    let baseline = baseline_of([(BYTES, recorded())]);
    assert_eq!(step(Metric::RssPeak, &alike(BYTES, 2, &exactly(1.0)), &baseline), None);
    let lacking = summary_of(BYTES, &[exactly(900.0), unavailable("records were lost")]);
    let reason = step(BYTES, &lacking, &baseline).unwrap().unwrap_err().reason;
    assert_eq!(reason, "run 2: records were lost");
}

#[test]
fn a_service_that_fails_its_requests_has_no_figures_to_take() {
    let baseline = baseline_of([(BYTES, recorded())]);
    assert_eq!(spoiled(&alike(BYTES, 2, &exactly(900.0)), Some(&baseline)), None);
    let failing = alike(Metric::RequestErrors, 2, &around(0.5, 0.01));
    let reason = spoiled(&failing, Some(&baseline)).unwrap();
    assert!(reason.starts_with("50% of the requests failed"), "{reason}");
}

/// A script that takes the least figure so far would lock in the luckiest of a hundred nights: here 2.5 deviations
/// below the mean. Taken only beyond noise, the figure stays within one deviation of it.
#[test]
fn lucky_runs_are_not_locked_in() {
    let mut random = Random(42);
    let (mut ratchet, mut least) = (1000.0, 1000.0_f64);
    for _ in 0..100 {
        let figures = [0, 1].map(|_| 1000.0 + 10.0 * random.normal());
        let mean = f64::midpoint(figures[0], figures[1]);
        least = least.min(mean);
        if step_of(&figures, Expectation { baseline: Some(ratchet), ..recorded() }) == Step::Tighter {
            ratchet = mean;
        }
    }
    println!("taken {ratchet}, least {least}");
    assert!(ratchet >= 990.0 && least < 985.0, "{ratchet} {least}");
}
