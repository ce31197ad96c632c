//! Compares samples and readings under load with exact figures: the runtime's own totals, and a run that samples every
//! allocation.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    collections::BTreeMap,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use common::{
    busy::{self, HeldUp},
    can_attach,
    uaa::{Watched, exchange, last, left, truth, uaa},
};
use memgate_agent::collect::{Boundary, Options};
use memgate_evidence::{Code, Exactness, Signals};

/// Logs in this many users while the runtime samples at this rate in bytes. Returns the samples.
fn logins(port: u16, rate: u64, users: u32) -> (Signals, Code) {
    let mut service = Watched::start(&uaa(), port, &format!("memprofilerate={rate}"));
    service.recorder.reach(Boundary::Idle);
    service.recorder.reach(Boundary::MeasureStart);
    service.log_in(users);
    service.recorder.reach(Boundary::MeasureEnd);
    let (signals, code) = service.finish();
    let samples = &signals.alloc_samples;
    assert_eq!((&samples.exactness, samples.lost, samples.data.rate), (&Exactness::Exact, 0, rate));
    (signals, code)
}

/// A function and a line in it.
type Place = (String, u32);

/// Allocated bytes by the innermost place in the code, from the samples. At one sample per R bytes, a sample of size S
/// represents S / (1 - e^(-S/R)) bytes.
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

/// The places that allocate most in the first map, with their bytes in both. Places that differ by less than a
/// twentieth count as one, because samples cannot show their order.
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

/// The sum of the samples' weights is off only by chance. The sites that allocate most have the same order as in a run
/// that samples every allocation.
#[test]
fn samples_represent_the_allocations() {
    if can_attach() {
        const TOP: usize = 20;
        let (every, every_code) = logins(18181, 1, 300);
        let exact = bytes_by_place(&every, &every_code);
        let (sampled, code) = logins(18182, 128, 3000);
        let estimated = bytes_by_place(&sampled, &code);
        let samples: u64 = sampled.alloc_samples.data.count.iter().sum();
        let allocated = left(&sampled.alloc_bytes.data) as f64;
        let error = estimated.values().sum::<f64>() / allocated - 1.0;
        // Two standard errors are at most 2/√n, which would fail once in twenty runs, so the limit is higher.
        let standard_error = 1.0 / (samples as f64).sqrt();
        eprintln!("{samples} samples: the total is off by {:.2} standard errors", error / standard_error);
        assert!(error.abs() <= 4.0 * standard_error, "{error} with {samples} samples of {allocated} bytes");
        let (exact, estimated) = most(&exact, &estimated, TOP);
        let correlation = rank_correlation(&exact, &estimated);
        eprintln!("rank correlation of the first {TOP} sites: {correlation:.4}");
        assert!(correlation >= 0.99, "{correlation}: {exact:?} {estimated:?}");
    }
}

/// Reads the totals of a service under load that has allocated 10 GiB. Each reading is, within a ten-thousandth,
/// between the service's own figures right before and right after it, for which the world is stopped. These two differ
/// by less than that, unless another process used the processors in between.
#[test]
fn readings_under_load_are_exact_to_a_ten_thousandth() {
    if can_attach() {
        busy::again(readings_between_the_services_figures);
    }
}

fn readings_between_the_services_figures() -> Result<(), HeldUp> {
    const PORT: u16 = 18183;
    const READINGS: usize = 300;
    let mut command = Command::new(uaa());
    command.args(["-debug-memgate", "-listen", &format!("127.0.0.1:{PORT}")]).env_clear();
    let mut service = Watched::launch_with(command, PORT, Options::default());
    service.post("/debug/alloc?n=640&size=16777216");
    let over = AtomicBool::new(false);
    let (mut outside, mut apart) = (Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    exchange(PORT, "POST", "/login");
                }
            });
        }
        for _ in 0..READINGS {
            let before = truth(PORT).total_alloc;
            // As in a run, this makes one attempt at the counters, on every other tick.
            service.recorder.tick();
            let read = service.recorder.allocated().unwrap();
            let after = truth(PORT).total_alloc;
            service.recorder.tick();
            let share = |bytes: u64| bytes as f64 / before as f64;
            outside.push(share(before.saturating_sub(read).max(read.saturating_sub(after))));
            apart.push(share(after - before));
        }
        over.store(true, Ordering::Relaxed);
    });
    let (signals, _) = service.finish();
    let allocated = last(&signals.alloc_bytes.data);
    let worst = outside.into_iter().fold(0.0, f64::max);
    apart.sort_unstable_by(f64::total_cmp);
    let (median, most) = (apart[READINGS / 2], apart[READINGS * 3 / 4]);
    eprintln!(
        "{allocated} bytes; readings outside by {:.5} % at most of bounds {:.5} % apart, three quarters {:.5} %",
        worst * 100.0,
        median * 100.0,
        most * 100.0
    );
    assert!(allocated >= 10 << 30, "{allocated}");
    assert!(worst <= 1e-4, "{worst}");
    // Between bounds that are far apart, any reading would pass.
    HeldUp::bounds(most, 1e-4).map_or(Ok(()), Err)
}
