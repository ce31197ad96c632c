//! Verdicts for people and machines, one file a format.

mod flamegraphs;
mod format;
mod github;
mod json;
mod junit;
mod markdown;
mod repository;
mod terminal;
mod text;
mod view;
mod write;

pub use flamegraphs::{FlameGraphFiles, write_flame_graphs};
pub use format::{Format, Output, Style, render, validate};
pub use github::step_summary;
pub use repository::locate;
pub use view::repeat_command;
pub use write::{append_step_summary, write};

use serde::{Deserialize, Serialize};

use crate::{
    evidence::Environment,
    judge::Verdict,
    metric::{Metric, Unit},
    platform::Platform,
    summarise::{SignalNote, Site},
    tier::Tier,
};

/// The JSON Schema of [`Report`].
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Report).to_value()
}

/// The schema of [`Report`] in JSON.
pub const SCHEMA: u32 = 2;

/// The outcome of a whole run: what `--format json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Report {
    /// Version of this format: [`SCHEMA`].
    pub schema: u32,
    /// Version of memgate that judged.
    pub memgate: String,
    /// When it was judged, RFC 3339 in UTC: the only field that differs when the same evidence is judged again.
    pub judged_at: String,
    /// The worst verdict of all results.
    pub verdict: Verdict,
    /// One entry for each service on each platform.
    pub results: Vec<ServiceResult>,
}

/// The outcome for one service on one platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ServiceResult {
    /// The service's name in the configuration.
    pub service: String,
    /// The platform measured.
    pub platform: Platform,
    /// The worst verdict of all gates.
    pub verdict: Verdict,
    /// The machine and the executable.
    pub environment: Environment,
    /// How many fresh processes were measured.
    pub runs: u32,
    /// What the kernel let memgate use in the run in which that was least.
    pub tier: Tier,
    /// How far each signal can be trusted, in the worst of the runs.
    pub signals: Vec<SignalNote>,
    /// One entry for each metric that is gated, in the order of [`Metric::ALL`].
    pub gates: Vec<GateResult>,
    /// Files that were written beside the report: flame graphs.
    pub files: Vec<String>,
    /// What the reader must know of the whole result: what the runs went without, why a baseline does not fit.
    pub notes: Vec<String>,
}

/// The outcome of one gate. Figures are in `unit`; `null` where there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GateResult {
    /// The metric.
    pub metric: Metric,
    /// The unit of every figure of this gate.
    pub unit: Unit,
    /// The point estimate over all runs.
    pub measured: Option<f64>,
    /// Lower end of its 95 % interval.
    pub low: Option<f64>,
    /// Upper end of its 95 % interval.
    pub high: Option<f64>,
    /// The absolute limit.
    pub limit: Option<f64>,
    /// The recorded figure that it is compared with.
    pub baseline: Option<f64>,
    /// The verdict.
    pub verdict: Verdict,
    /// Why, as one sentence: what was compared with what; for `inconclusive`, what would decide it.
    pub reason: String,
    /// The call sites behind the figure in all runs together, most first, at most five; none where the gate holds.
    pub sites: Vec<Site>,
}

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod tests;
