//! Measures false alarms and power of the slope by simulation with a fixed seed. docs/explanation/slopes.md gives the
//! figures of longer simulations.

use super::*;
use crate::summarise::stats::{Interval, slope, slope_of_stairs};

/// Noise of unit variance with the time constant `tau_s` (AR(1); 0 is white), at every cycle of a phase of 60 s, plus a
/// signal over the phase's length, which counts as 1.
pub(crate) fn phase(random: &mut Random, cycle_s: f64, tau_s: f64, signal: impl Fn(f64) -> f64) -> Vec<(f64, f64)> {
    let keep = if tau_s > 0.0 { (-cycle_s / tau_s).exp() } else { 0.0 };
    let mut noise = random.normal();
    let mut points = Vec::new();
    let mut at_s = 0.0;
    while at_s < 60.0 {
        points.push((at_s / 60.0, noise + signal(at_s / 60.0)));
        noise = keep * noise + (1.0 - keep * keep).sqrt() * random.normal();
        at_s += cycle_s;
    }
    points
}

/// The share of trials in which the condition holds.
pub(crate) fn share_of(trials: u32, mut holds: impl FnMut() -> bool) -> f64 {
    let count: u32 = (0..trials).map(|_| u32::from(holds())).sum();
    f64::from(count) / f64::from(trials)
}

fn low(points: &[(f64, f64)]) -> f64 {
    slope(points).unwrap().interval.low
}

/// 400 trials at 2.5 % have a standard deviation of 0.8 %, so 5 % is three of them above the nominal level.
#[test]
fn noise_that_remembers_seconds_raises_no_false_alarms() {
    for (cycle_s, tau_s) in [(1.0, 0.0), (5.0, 0.0), (0.5, 1.0), (1.0, 2.0), (2.0, 2.0), (1.0, 5.0), (0.2, 5.0)] {
        let mut random = Random(42);
        let alarms = share_of(400, || low(&phase(&mut random, cycle_s, tau_s, |_| 0.0)) > 0.0);
        assert!(alarms <= 0.05, "{alarms} false alarms with a cycle of {cycle_s} s and a memory of {tau_s} s");
    }
}

#[test]
fn a_leak_of_four_times_the_noise_is_found() {
    let mut random = Random(42);
    let found = share_of(200, || low(&phase(&mut random, 1.0, 0.0, |at| 4.0 * at)) > 0.0);
    assert!(found >= 0.99, "{found} found in white noise");
    let found = share_of(200, || low(&phase(&mut random, 1.0, 1.0, |at| 4.0 * at)) > 0.0);
    assert!(found >= 0.95, "{found} found in noise that remembers a second");
}

/// The growth of a run with this live heap over the measuring phase, in MB.
pub(crate) fn growth_of(points: &[(f64, f64)]) -> Measurement {
    let mut run = healthy(1);
    run.signals.gc_pauses.data = Pauses::default();
    // Above 100 MB, because unsigned integers cannot hold the noise otherwise.
    let at_ns = points.iter().map(|point| MEASURE.start_ns + nonnegative(point.0 * 60e9)).collect();
    let value = points.iter().map(|point| nonnegative(1e8 + 1e6 * point.1)).collect();
    run.signals.live_heap.data = Series { at_ns, value };
    figure(&run, Metric::HeapLiveGrowth)
}

/// The same: low end, and whether growth slowed down.
fn of_live_heap(points: &[(f64, f64)]) -> (f64, bool) {
    let estimate = growth_of(points).unwrap();
    (estimate.low, estimate.remark.starts_with("growth slowed down"))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the values are positive and small")]
fn nonnegative(value: f64) -> u64 {
    value.round() as u64
}

#[test]
fn a_working_set_that_stays_alarms_rarely_and_a_leak_is_found_as_before() {
    let mut random = Random(42);
    let mut alarms = |grown: fn(f64) -> f64| {
        share_of(100, || of_live_heap(&phase(&mut random, 1.0, 1.0, |at| 8.0 * grown(at))).0 > 0.0)
    };
    let until_half = alarms(|at| (2.0 * at).min(1.0));
    let until_third = alarms(|at| (3.0 * at).min(1.0));
    assert!(until_half <= 0.1 && until_third <= 0.1, "{until_half} and {until_third}");
    let leak = alarms(|at| at);
    assert!(leak >= 0.97, "{leak} found");
}

#[test]
fn a_steady_leak_is_seldom_taken_for_a_working_set() {
    let mut random = Random(42);
    let slowed = share_of(300, || of_live_heap(&phase(&mut random, 1.0, 1.0, |at| 2.0 * at)).1);
    assert!(slowed <= 0.05, "{slowed}");
}

/// Minima of blocks of 5 s of memory that wanders by pages, or of noise with a time constant of some seconds. A growth
/// of 64 KiB a minute is found, and without growth nothing is found. 1,000 trials at 5 %, two bounds of 2.5 %, have a
/// standard deviation of 0.7 %.
#[test]
fn stairs_that_lead_nowhere_raise_no_alarm() {
    const BLOCKS: u32 = 12;
    let at = |block: u32| f64::from(block) / f64::from(BLOCKS);
    let alarms = |random: &mut Random, keep: f64| {
        share_of(1000, || {
            let mut value = 0.0;
            let points: Vec<_> = (0..BLOCKS)
                .map(|block| {
                    value = keep * value + random.normal();
                    (at(block), value)
                })
                .collect();
            slope_of_stairs(&points).unwrap().interval.low > 0.0
        })
    };
    for keep in [0.0, 0.3, 0.6, 0.9, 1.0] {
        let share = alarms(&mut Random(42), keep);
        assert!(share <= 0.07, "{share} with {keep} of the last step kept");
    }
    // A page of 4 KiB each time a leak of 64 KiB a minute fills one.
    let stairs: Vec<_> = (0..BLOCKS).map(|block| (at(block), (64.0 * at(block) / 4.0).floor() * 4.0)).collect();
    let Interval { measured, low, .. } = slope_of_stairs(&stairs).unwrap().interval;
    assert!((measured - 64.0).abs() < 8.0 && low >= 48.0, "{low} to {measured}");
}
