//! Evidence → metrics with intervals. Pure: uses no process, clock, file or network, and knows no threshold.

mod collate;
mod contradictions;
mod filling;
mod flames;
mod frames;
mod grown;
mod growth;
mod held_up;
mod occasions;
mod pauses;
mod pool;
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
pub use flames::{FlameGraph, FlameGraphs, Graph, difference_graphs, flame_graphs};
pub use grown::grown;
pub use held_up::held_up;
pub use occasions::{numbered, occasions};
pub use pool::{Pooled, deviation, pooled_deviation};
pub use sites::{Site, SiteKind, SourceLocation};
pub(crate) use stats::count_f64;
pub use stats::{share_at_most, t_quantile};
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
    /// The name of the baseline to compare the service with.
    pub baseline: String,
    /// The day on which the last run began, such as `2026-11-23`, in UTC.
    pub day: String,
    /// The environment as the first run states it.
    pub environment: Environment,
    /// The metrics of each run, in the order of the runs.
    pub runs: Vec<RunSummary>,
    /// The call sites behind each metric in all runs together, largest first. Metrics without call sites have no entry.
    pub sites: BTreeMap<Metric, Vec<Site>>,
    /// The lowest tier of the runs.
    pub tier: Tier,
    /// The options of the command that measured the first run.
    pub options: Vec<String>,
    /// How far each signal can be trusted.
    pub signals: Vec<SignalNote>,
    /// Notes on what the runs lacked, each once.
    pub notes: Vec<String>,
}

impl Summary {
    /// A metric over all runs.
    ///
    /// # Errors
    /// When a run has no figure; the reason names the run.
    pub fn pooled(&self, metric: Metric) -> Result<Pooled, Unavailable> {
        Pooled::of(metric, &self.of_each_run(metric))
    }

    /// A metric of each run, with the run's number.
    pub fn of_each_run(&self, metric: Metric) -> Vec<(u32, Option<&Measurement>)> {
        self.runs.iter().map(|run| (run.run, run.metrics.get(&metric))).collect()
    }
}

/// The metrics of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSummary {
    /// The run's number.
    pub run: u32,
    /// The occasion on which it was made, from 0 ([`occasions()`]).
    pub occasion: usize,
    /// Every metric has an entry.
    pub metrics: BTreeMap<Metric, Measurement>,
    /// The call sites behind each metric in this run, largest first. Metrics without call sites have no entry.
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
    /// The number of values behind it: pauses, cycles, requests.
    pub n: u64,
    /// The mean of what grows, bytes; `None` if the figure is not a growth.
    pub level: Option<f64>,
    /// Whether the growth is so little in so short a phase that it may be none. Only a longer phase tells.
    pub needs_longer: bool,
    /// Whether what was counted may be a pool that still fills. Only more runs tell.
    pub may_be_pool: bool,
    /// A remark on how the figure was made, such as `max of 57 pauses`. Empty if the metric's name says it all.
    pub remark: String,
}

/// Why a metric has no figure. No gate on it passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unavailable {
    /// The reason, a clause without a full stop, such as `3 records were lost`.
    pub reason: String,
}
