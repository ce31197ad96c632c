//! Baselines: what a service is allowed on each platform, in YAML that people edit and review.

use std::collections::BTreeMap;

use memgate_evidence::platform::{Platform, Runner};

use crate::metric::{Limits, Metric};

/// A baseline file, parsed and validated.
#[derive(Debug, Clone, PartialEq)]
pub struct Baseline {
    /// The service's name; equals the file's name.
    pub service: String,
    /// The platform; equals the folder.
    pub platform: Platform,
    /// Where it was recorded.
    pub environment: BaselineEnvironment,
    /// The default limits of the metrics without one.
    pub limits: Limits,
    /// The expectation of each metric.
    pub metrics: BTreeMap<Metric, Expectation>,
}

/// Where a baseline was recorded. It decides whether the baseline fits a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaselineEnvironment {
    /// Go version, such as `go1.27.3`. A baseline of another minor version does not fit.
    pub go: String,
    /// Kernel release, for the reader.
    pub kernel: String,
    /// Page size, bytes. A baseline of another page size does not fit.
    pub page_size: u64,
    /// Transparent huge pages. A note says if the runs have other ones.
    pub thp: String,
    /// CPU model, for the reader.
    pub cpu: String,
    /// CPUs that the service could use. A note says if the runs have another number.
    pub cpus: u32,
    /// `native` or `qemu`. A baseline of another runner does not fit.
    pub runner: Runner,
    /// The day of the recording, such as `2026-11-23`.
    pub recorded: String,
    /// The number of fresh processes that were measured.
    pub runs: u32,
    /// The number of occasions that these runs were made on, if the baseline keeps what is between occasions apart.
    pub occasions: Option<u32>,
    /// Settings of the build, such as `GOAMD64=v1`. A baseline of another build does not fit.
    pub build: Option<String>,
    /// Variables of the Go runtime given to the service, such as `GOGC=50`. A note says if the runs have others.
    pub variables: Option<String>,
    /// The load. A baseline of another load does not fit.
    pub load: Option<String>,
    /// The lengths of the phases under load. A baseline of others does not fit.
    pub phases: Option<String>,
    /// What runs beside the service and before it; `none`, or no key, if there is nothing. A baseline of a service that
    /// needs something else does not fit.
    pub dependencies: Option<String>,
}

/// The expectation of one metric, in the metric's unit. It has a `limit`, a `baseline`, or both.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Expectation {
    /// Absolute limit.
    pub limit: Limit,
    /// The recorded figure: the mean of the recorded runs.
    pub baseline: Option<f64>,
    /// The recorded figure at the last release, from which the figure may not drift.
    pub anchor: Option<f64>,
    /// The noise of the recorded figure: the standard deviation between the recorded runs.
    pub noise: Option<f64>,
    /// The degrees of freedom behind `noise`, if it is pooled over several recordings.
    pub noise_freedom: Option<u32>,
    /// How the figure differs between occasions: the standard deviation of the means of their runs.
    pub between: Option<f64>,
    /// The degrees of freedom behind `between`.
    pub between_freedom: Option<u32>,
    /// Relative tolerance, a share of `baseline`, such as 0.05 for 5 %.
    pub tolerance: Option<f64>,
    /// Absolute floor: differences up to this do not matter.
    pub floor: Option<f64>,
    /// The worsening that a gate which holds must be able to notice, in the metric's unit: a figure above the recorded
    /// one by this much, or a growth of this much.
    pub must_notice: Option<f64>,
    /// Reported, never failed.
    pub advisory: bool,
    /// Someone's word that the gate may fail for a while.
    pub waiver: Option<Waiver>,
}

/// Why a gate may fail, who says so, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiver {
    /// The reason, for the reader.
    pub reason: String,
    /// Who answers for it, for the reader.
    pub owner: String,
    /// The last day on which it holds, such as `2026-12-31`.
    pub expires: String,
}

/// The absolute limit of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Limit {
    /// The default one, if the metric has one.
    #[default]
    Default,
    /// None, although the metric has a default one.
    None,
    /// This one, in the metric's unit.
    At(f64),
}
