//! What marks promise: where they may be, what changes none of them, and how well they find known steps.

use std::collections::BTreeMap;

use memgate_evidence::platform::{Platform, Runner};
use memgate_testing::Random;
use proptest::prelude::*;

use super::*;
use crate::{
    metric::Metric,
    results::{Figure, Verdict},
};

fn places(figures: &[f64]) -> Vec<usize> {
    change_points(figures).iter().map(|mark| mark.at).collect()
}

/// Levels of some lengths, with noise of this size. Whole sixteenths, so that a sum with a whole number is exact.
fn series() -> impl Strategy<Value = Vec<f64>> {
    let levels = prop::collection::vec((-40i32..40, 1usize..60), 1..6);
    (levels, 0i32..60, any::<u64>()).prop_map(|(levels, noise, seed)| {
        let mut random = Random(seed);
        let figure = |level: i32| 16.0 * f64::from(level) + (f64::from(noise) * random.normal()).round();
        let levels: Vec<i32> = levels.into_iter().flat_map(|(level, length)| vec![level; length]).collect();
        levels.into_iter().map(figure).map(|figure| figure / 16.0).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_constant_series_has_no_mark(figure in -1e15..1e15f64, length in 0usize..300) {
        let figures = vec![figure; length];
        prop_assert_eq!(places(&figures), Vec::<usize>::new());
        prop_assert_eq!(jumps(&figures), vec![]);
    }

    #[test]
    fn a_constant_or_a_scale_moves_no_mark(figures in series(), more in -1000i32..1000, scale in 0.001..1000.0f64) {
        let marks = places(&figures);
        let sudden: Vec<usize> = jumps(&figures).iter().map(|jump| jump.at).collect();
        let shifted: Vec<f64> = figures.iter().map(|figure| figure + f64::from(more)).collect();
        let scaled: Vec<f64> = figures.iter().map(|figure| figure * scale).collect();
        for changed in [shifted, scaled] {
            prop_assert_eq!(&places(&changed), &marks);
            prop_assert_eq!(&jumps(&changed).iter().map(|jump| jump.at).collect::<Vec<_>>(), &sudden);
        }
    }

    #[test]
    fn a_mark_keeps_its_distances_and_says_what_it_saw(figures in series()) {
        let marks = change_points(&figures);
        for mark in &marks {
            prop_assert!(mark.at >= LEAST_BEFORE && mark.at + LEAST_AFTER <= figures.len(), "{:?}", mark);
            prop_assert!(mark.p < SIGNIFICANT && mark.before != mark.after, "{:?}", mark);
        }
        for pair in marks.windows(2) {
            prop_assert!(pair[1].at - pair[0].at >= LEAST_AFTER, "{:?}", pair);
        }
        for jump in jumps(&figures) {
            prop_assert!(jump.at > LEAST_BEFORE && figures[jump.at] - figures[jump.at - 1] > jump.usual);
        }
    }

    #[test]
    fn a_step_without_noise_is_marked_where_it_is(
        before in 20usize..120, after in 3usize..120, low in -100.0..100.0f64, step in 0.01..100.0f64, up in any::<bool>(),
    ) {
        let high = if up { low + step } else { low - step };
        let figures: Vec<f64> = std::iter::repeat_n(low, before).chain(std::iter::repeat_n(high, after)).collect();
        let marks = change_points(&figures);
        prop_assert_eq!(marks.iter().map(|mark| mark.at).collect::<Vec<_>>(), vec![before]);
        prop_assert_eq!((marks[0].before, marks[0].after, marks[0].p), (low, high, 0.0));
    }
}

#[test]
fn neither_the_first_twenty_nor_the_last_two_are_marked() {
    let step = |before: usize, after: usize| places(&[vec![1.0; before], vec![2.0; after]].concat());
    assert_eq!(step(20, 3), [20]);
    assert_eq!(step(20, 2), [0; 0]);
    assert_eq!(step(19, 2), [0; 0]);
    assert_eq!(step(0, 60), [0; 0]);
    // The step lies too early for its own place, and no later place may stand for it.
    assert_eq!(step(10, 40), [0; 0]);
    assert_eq!(change_points(&[]), []);
}

#[test]
fn a_step_up_and_its_repair_are_both_marked() {
    let mut random = Random(7);
    for length in [5, 10, 25, 60] {
        let level = |index: usize| if (60..60 + length).contains(&index) { 20.0 } else { 10.0 };
        let figures: Vec<f64> = (0..160).map(|index| level(index) + random.normal()).collect();
        let marks = change_points(&figures);
        assert_eq!(marks.iter().map(|mark| mark.at).collect::<Vec<_>>(), [60, 60 + length], "{length}");
        assert!(marks[0].after > marks[0].before && marks[1].after < marks[1].before);
    }
}

/// The essence of `cargo xtask bench history`, whose table is in docs/explanation/statistics.md.
#[test]
fn known_steps_are_found_and_others_are_rare() {
    let mut random = Random(42);
    let mut series = |step: f64| {
        let level = |index: usize| step * [0.0, 1.0, 0.0][index / 67];
        (0..200).map(|index| 100.0 + level(index) + random.normal()).collect::<Vec<f64>>()
    };
    let mut found = 0;
    for _ in 0..50 {
        let marks = places(&series(3.0));
        found += [67, 134].iter().filter(|step| marks.iter().any(|mark| mark.abs_diff(**step) <= 2)).count();
    }
    assert!(found >= 95, "of 100 steps of three times the noise, only {found} were found");
    let marked = (0..50).filter(|_| !places(&series(0.0)).is_empty()).count();
    assert!(marked <= 10, "{marked} of 50 series without a step have a mark");
    let sudden: usize = (0..50).map(|_| jumps(&series(0.0)).len()).sum();
    assert!(sudden <= 5, "{sudden} jumps in 10,000 figures without one");
}

fn line(second: usize, service: &str, bytes: f64) -> Line {
    Line {
        schema: SCHEMA,
        judged_at: format!("2026-11-{:02}T12:00:{:02}Z", 1 + second / 60, second % 60),
        commit: Some(format!("{second:040x}")),
        service: service.to_owned(),
        platform: Platform::LinuxAmd64,
        runner: Runner::Native,
        memgate: "0.1.0".to_owned(),
        go: if second < 30 { "go1.26.4" } else { "go1.27.3" }.to_owned(),
        verdict: if second % 10 == 9 { Verdict::Regressed } else { Verdict::Pass },
        runs: 2,
        metrics: BTreeMap::from([(
            Metric::AllocBytesPerRequest.name().to_owned(),
            Figure { measured: bytes, low: bytes - 1.0, high: bytes + 1.0 },
        )]),
    }
}

/// A step from 1,000 to 1,100 bytes at the 31st line, where Go changes too.
fn lines() -> Vec<Line> {
    (0..40).map(|second| line(second, "uaa", if second < 30 { 1000.0 } else { 1100.0 })).collect()
}

#[test]
fn a_change_names_the_commits_on_either_side_and_what_else_changed() {
    let trends = trends(&lines()).unwrap();
    let [trend] = &trends.trends[..] else { panic!("{trends:?}") };
    assert_eq!((trend.service.as_str(), trend.count()), ("uaa", 40));
    assert_eq!(trend.verdicts, [(Verdict::Regressed, 4), (Verdict::Pass, 36)]);
    assert_eq!(trend.days, ("2026-11-01".to_owned(), "2026-11-01".to_owned()));
    let [metric] = &trend.metrics[..] else { panic!("a metric without figures has no trend") };
    assert_eq!((metric.first(), metric.last(), metric.share()), (1000.0, 1100.0, Some(0.1)));
    let [change] = &metric.changes[..] else { panic!("{metric:?}") };
    assert_eq!((change.at, change.direction, change.share), (30, Direction::Worse, Some(0.1)));
    assert_eq!((change.before, change.after), (1000.0, 1100.0));
    assert_eq!(change.commit, Some(format!("{:040x}", 30)));
    assert_eq!(change.after_commit, Some(format!("{:040x}", 29)));
    assert_eq!(change.versions, ["Go go1.26.4 to go1.27.3"]);
    let [jump] = &metric.jumps[..] else { panic!("{metric:?}") };
    assert_eq!((jump.at, jump.before, jump.after, jump.usual), (30, 1000.0, 1100.0, 0.0));
}

#[test]
fn lines_are_sorted_by_time_and_count_once() {
    let sorted = trends(&lines()).unwrap();
    let mut merged = lines();
    merged.rotate_left(17);
    merged.extend(lines().into_iter().skip(5).step_by(3));
    assert_eq!(trends(&merged).unwrap(), sorted);
    // The same figures at another time are another verdict.
    let again = Line { judged_at: "2026-11-02T00:00:00+08:00".to_owned(), ..lines().remove(0) };
    let more = trends(lines().iter().chain([&again])).unwrap();
    assert_eq!(more.trends[0].count(), 41);
    assert_eq!(more.trends[0].metrics[0].last(), 1000.0, "16:00 in UTC comes after noon");
}

#[test]
fn services_platforms_and_runners_have_trends_of_their_own() {
    let native = line(0, "uaa", 1.0);
    let others = [
        Line { runner: Runner::Qemu, ..native.clone() },
        Line { platform: Platform::LinuxArm64, ..native.clone() },
        Line { service: "other".to_owned(), ..native.clone() },
    ];
    let trends = trends(others.iter().chain([&native])).unwrap().trends;
    let names: Vec<_> = trends.iter().map(|trend| (trend.service.as_str(), trend.platform, trend.runner)).collect();
    assert_eq!(
        names,
        [
            ("other", Platform::LinuxAmd64, Runner::Native),
            ("uaa", Platform::LinuxAmd64, Runner::Native),
            ("uaa", Platform::LinuxAmd64, Runner::Qemu),
            ("uaa", Platform::LinuxArm64, Runner::Native),
        ]
    );
}

#[test]
fn a_line_without_a_time_is_refused() {
    let wrong = Line { judged_at: "yesterday".to_owned(), ..line(0, "uaa", 1.0) };
    assert_eq!(trends([&wrong]).unwrap_err(), "`judged_at`: `yesterday` is not a time such as 2026-11-23T12:00:00Z");
}
