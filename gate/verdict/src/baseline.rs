//! Baselines: what a service is allowed, per platform, in YAML that people own and review.

use std::collections::BTreeMap;

use memgate_evidence::platform::{Platform, Runner};

use crate::metric::Metric;

/// A baseline file, parsed and validated.
#[derive(Debug, Clone, PartialEq)]
pub struct Baseline {
    /// The service's name; equals the file's name.
    pub service: String,
    /// The platform; equals the folder.
    pub platform: Platform,
    /// Where it was recorded.
    pub environment: BaselineEnvironment,
    /// What is asked of each metric.
    pub metrics: BTreeMap<Metric, Expectation>,
}

/// Where a baseline was recorded; what decides whether it fits a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaselineEnvironment {
    /// Go version: `go1.27.3`. Another minor version does not fit.
    pub go: String,
    /// Kernel release, for the reader.
    pub kernel: String,
    /// Page size, bytes. Another does not fit.
    pub page_size: u64,
    /// Transparent huge pages, for the reader.
    pub thp: String,
    /// CPU model, for the reader.
    pub cpu: String,
    /// CPUs that the service could use, for the reader.
    pub cpus: u32,
    /// `native` or `qemu`. Another does not fit.
    pub runner: Runner,
    /// The day of the recording, `2026-11-23`.
    pub recorded: String,
    /// How many fresh processes it rests on.
    pub runs: u32,
}

/// What a baseline asks of one metric, in the metric's unit. At least one of `limit` and `baseline` is there.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Expectation {
    /// Absolute limit.
    pub limit: Option<f64>,
    /// The recorded figure: the mean of the recorded runs.
    pub baseline: Option<f64>,
    /// The recorded figure's own noise: the standard deviation between the recorded runs.
    pub noise: Option<f64>,
    /// Relative tolerance, a share of `baseline`: 0.05 is 5 %.
    pub tolerance: Option<f64>,
    /// Absolute floor: differences up to this are of no interest.
    pub floor: Option<f64>,
    /// Reported, never failed.
    pub advisory: bool,
}
