//! Evidence → metrics with intervals. Pure: touches no process, clock, file or network, and knows no threshold.

mod collate;
mod flames;
mod frames;
mod growth;
mod pauses;
mod rates;
mod requests;
mod run;
mod series;
mod sites;
mod spans;
mod stats;
mod stops;
mod tables;
#[cfg(test)]
pub(crate) mod tests;
mod totals;
mod trust;

use std::collections::BTreeMap;

pub use collate::summarise;
pub use flames::{FlameGraph, FlameGraphs, Graph, flame_graphs};
pub use sites::{Profile, Site, SiteKind, SourceLocation};
pub use trust::{SignalNote, Trust};

use memgate_evidence::{Environment, platform::Platform, tier::Tier};

use crate::metric::Metric;

/// The metrics of one service on one platform, over all its runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// The service's name in the configuration.
    pub service: String,
    /// The platform measured.
    pub platform: Platform,
    /// The name of the baseline that the service is compared with.
    pub baseline: String,
    /// The machine and the executable, as the first run states them.
    pub environment: Environment,
    /// The metrics of each run, in the order of the runs.
    pub runs: Vec<RunSummary>,
    /// The metrics of all runs together. Every metric has an entry.
    pub pooled: BTreeMap<Metric, Measurement>,
    /// The call sites behind each metric in all runs together, most first. Metrics without any have no entry.
    pub sites: BTreeMap<Metric, Vec<Site>>,
    /// What the kernel let memgate use in the run in which that was least.
    pub tier: Tier,
    /// How far each signal can be trusted.
    pub signals: Vec<SignalNote>,
    /// What the runs went without, each once.
    pub notes: Vec<String>,
}

/// The metrics of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSummary {
    /// The run's number.
    pub run: u32,
    /// Every metric has an entry.
    pub metrics: BTreeMap<Metric, Measurement>,
    /// The call sites behind each metric in this run, most first. Metrics without any have no entry.
    pub sites: BTreeMap<Metric, Vec<Site>>,
}

/// A metric's figure, or why there is none.
pub type Measurement = Result<Estimate, Unavailable>;

/// A figure with its 95 % interval, in the metric's unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// The point estimate.
    pub measured: f64,
    /// Lower end of the interval; equals `measured` for an exact total.
    pub low: f64,
    /// Upper end of the interval; equals `measured` for an exact total.
    pub high: f64,
    /// How many values it rests on: pauses, cycles, requests.
    pub n: u64,
    /// What the reader must know of how it was made: `max of 57 pauses`. Empty when it is what the name says.
    pub remark: String,
}

/// Why a metric has no figure. No gate on it passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    /// The reason, a clause without a full stop: `3 records were lost`.
    pub reason: String,
}
