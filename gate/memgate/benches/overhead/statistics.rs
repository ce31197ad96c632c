//! Ratios of pairs, and their means with intervals.

use statrs::distribution::{ContinuousCDF as _, StudentsT};

use crate::driver::Driven;

/// A pair: with a watcher and without.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    throughput: [f64; 2],
    p99: [f64; 2],
}

impl Pair {
    pub(crate) fn of(with: &Driven, without: &Driven) -> Self {
        Self { throughput: [with.throughput(), without.throughput()], p99: [with.p99(), without.p99()] }
    }
}

impl std::fmt::Display for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [with, without] = self.throughput;
        write!(f, "{without:10.0} {with:10.0}  {:.4}    {:.4}", with / without, self.p99[0] / self.p99[1])
    }
}

/// All pairs of one kind.
#[derive(Default)]
pub(crate) struct Ratios {
    pairs: Vec<Pair>,
}

impl Ratios {
    pub(crate) fn push(&mut self, pair: Pair) {
        self.pairs.push(pair);
    }
}

impl std::fmt::Display for Ratios {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let of = |ratio: fn(&Pair) -> [f64; 2]| {
            mean_and_interval(self.pairs.iter().map(|pair| {
                let [with, without] = ratio(pair);
                with / without
            }))
        };
        let (throughput, p99) = (of(|pair| pair.throughput), of(|pair| pair.p99));
        write!(f, "throughput {throughput}; p99 latency {p99}; {} pairs", self.pairs.len())
    }
}

/// The geometric mean of ratios and its 95 % interval (Student's t on their logarithms).
fn mean_and_interval(ratios: impl Iterator<Item = f64>) -> String {
    let logs: Vec<f64> = ratios.map(f64::ln).collect();
    let n = logs.len() as f64;
    let mean = logs.iter().sum::<f64>() / n;
    let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let t = StudentsT::new(0.0, 1.0, n - 1.0).expect("at least two pairs").inverse_cdf(0.975);
    let half = t * (variance / n).sqrt();
    format!(
        "{:.4} (95 % interval {:.4} to {:.4}, standard deviation of a pair {:.4})",
        mean.exp(),
        (mean - half).exp(),
        (mean + half).exp(),
        variance.sqrt()
    )
}
