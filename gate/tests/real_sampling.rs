//! What is sampled and read under load, against what is known exactly: the runtime's own totals, and a run in which every
//! allocation is sampled.

mod common;

use std::{
    collections::BTreeMap,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use common::{
    can_attach,
    uaa::{Watched, last, left, post, truth, uaa},
};
use memgate::{
    agent::collect::Options,
    evidence::{Code, Exactness, Signals},
};

/// Lets so many users in, with the runtime sampling at this rate in bytes; what was sampled meanwhile.
fn logins(port: u16, rate: u64, users: u32) -> (Signals, Code) {
    let mut service = Watched::start(&uaa(), port, &format!("memprofilerate={rate}"));
    service.recorder.start_idle();
    service.recorder.start_measuring();
    service.log_in(users);
    service.recorder.end_measuring();
    let (signals, code) = service.finish();
    let samples = &signals.alloc_samples;
    assert_eq!((&samples.exactness, samples.lost, samples.data.rate), (&Exactness::Exact, 0, rate));
    (signals, code)
}

/// A function and a line in it.
type Place = (String, u32);

/// Allocated bytes by the innermost place in the code, as the samples tell: one of size S taken each R bytes stands for
/// S / (1 - e^(-S/R)) bytes.
fn bytes_by_place(signals: &Signals, code: &Code) -> BTreeMap<Place, f64> {
    let samples = &signals.alloc_samples.data;
    let mut places = BTreeMap::new();
    for ((stack, size), count) in samples.stack.iter().zip(&samples.size).zip(&samples.count) {
        let (size, rate) = (*size as f64, samples.rate as f64);
        let weight = if samples.rate == 1 { size } else { size / (1.0 - (-size / rate).exp()) };
        let place =
            code.stack(*stack).next().map_or_else(Default::default, |frame| (frame.function.clone(), frame.line));
        *places.entry(place).or_insert(0.0) += weight * *count as f64;
    }
    places
}

/// Spearman's rank correlation of two lists of the same length without ties.
fn rank_correlation(one: &[f64], other: &[f64]) -> f64 {
    let ranks = |values: &[f64]| -> Vec<f64> {
        values.iter().map(|value| values.iter().filter(|other| *other > value).count() as f64).collect()
    };
    let n = one.len() as f64;
    let squares: f64 = ranks(one).iter().zip(ranks(other)).map(|(one, other)| (one - other).powi(2)).sum();
    1.0 - 6.0 * squares / (n * (n * n - 1.0))
}

/// The places that allocate most by the first account, with their bytes by both; those that are less than a twentieth apart count as
/// one, for no sample tells their order.
fn most(exact: &BTreeMap<Place, f64>, estimated: &BTreeMap<Place, f64>, top: usize) -> (Vec<f64>, Vec<f64>) {
    let mut places: Vec<_> =
        exact.iter().map(|(place, bytes)| (*bytes, estimated.get(place).copied().unwrap_or(0.0))).collect();
    places.sort_by(|one, other| other.0.total_cmp(&one.0));
    let mean = |group: &[(f64, f64)]| {
        let n = group.len() as f64;
        group.iter().fold((0.0, 0.0), |(exact, estimated), place| (exact + place.0 / n, estimated + place.1 / n))
    };
    places.chunk_by(|one, other| other.0 * 1.05 > one.0).map(mean).take(top).unzip()
}

/// The sum of the samples' weights is off by chance alone, and the sites that allocate most come in the order in which they do
/// when every allocation is sampled.
#[test]
fn samples_stand_for_what_is_allocated() {
    if can_attach() {
        const TOP: usize = 20;
        let (every, every_code) = logins(18181, 1, 300);
        let exact = bytes_by_place(&every, &every_code);
        let (sampled, code) = logins(18182, 128, 3000);
        let estimated = bytes_by_place(&sampled, &code);
        let samples: u64 = sampled.alloc_samples.data.count.iter().sum();
        let allocated = left(&sampled.alloc_bytes.data) as f64;
        let error = estimated.values().sum::<f64>() / allocated - 1.0;
        // Two standard errors are 2/√n at most; a test must not fail once in twenty runs.
        let standard_error = 1.0 / (samples as f64).sqrt();
        eprintln!("{samples} samples: the total is off by {:.2} standard errors", error / standard_error);
        assert!(error.abs() <= 4.0 * standard_error, "{error} with {samples} samples of {allocated} bytes");
        let (exact, estimated) = most(&exact, &estimated, TOP);
        let correlation = rank_correlation(&exact, &estimated);
        eprintln!("rank correlation of the first {TOP} sites: {correlation:.4}");
        assert!(correlation >= 0.99, "{correlation}: {exact:?} {estimated:?}");
    }
}

/// Some hundred readings a second under load: what the service says itself in between, with the world stopped, lies between the one
/// before and the one after, but for a ten-thousandth.
#[test]
fn what_the_service_says_under_load_lies_between_two_readings() {
    if can_attach() {
        const PORT: u16 = 18183;
        let mut command = Command::new(uaa());
        command.args(["-debug-memgate", "-listen", &format!("127.0.0.1:{PORT}")]).env_clear();
        let mut service = Watched::launch_with(command, PORT, Options::default());
        let over = AtomicBool::new(false);
        let (mut worst, mut widest) = (0.0_f64, 0.0_f64);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    post(PORT, "/debug/alloc?n=2000000&size=64");
                }
            });
            // Until what was allocated is much more than what is allocated between two readings.
            let warm = Instant::now() + Duration::from_secs(10);
            while Instant::now() < warm {
                service.recorder.sample();
                std::thread::sleep(Duration::from_millis(100));
            }
            for _ in 0..200 {
                service.recorder.sample();
                let before = service.recorder.allocated().unwrap();
                let own = truth(PORT).total_alloc;
                service.recorder.sample();
                let after = service.recorder.allocated().unwrap();
                let outside = before.saturating_sub(own).max(own.saturating_sub(after));
                worst = worst.max(outside as f64 / own as f64);
                widest = widest.max((after - before) as f64 / own as f64);
                std::thread::sleep(Duration::from_millis(10));
            }
            over.store(true, Ordering::Relaxed);
        });
        let (signals, _) = service.finish();
        eprintln!(
            "{} bytes allocated; outside the readings by {:.5} % at most, which are {:.3} % apart at most",
            last(&signals.alloc_bytes.data),
            worst * 100.0,
            widest * 100.0
        );
        assert!(worst <= 1e-4, "{worst}");
    }
}
