//! The results of judging, which reports show: the verdicts and their order, and the results of gates, services and
//! whole runs; and the failures of services that could not be judged.

use memgate_evidence::{
    Environment,
    error::{FailureText, InfrastructureError},
    platform::Platform,
    tier::Tier,
};
use serde::{Deserialize, Serialize};

use crate::{
    metric::{Metric, Unit},
    summarise::{SignalNote, Site},
};

/// The JSON Schema of [`Report`].
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Report).to_value()
}

/// The schema of [`Report`] in JSON.
pub const SCHEMA: u32 = 3;

/// The outcome of a whole run, which `--format json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Report {
    /// Version of this format: [`SCHEMA`].
    pub schema: u32,
    /// The version of memgate that judged.
    pub memgate: String,
    /// The time of judging, RFC 3339 in UTC. It is the only field that differs if the same evidence is judged again.
    pub judged_at: String,
    /// The worst verdict of all results; `null` if a service could not be judged, because then there is none of the
    /// whole.
    pub verdict: Option<Verdict>,
    /// One entry for each service on each platform that was judged.
    pub results: Vec<ServiceResult>,
    /// One entry for each service on each platform that could not be judged.
    pub failures: Vec<ServiceFailure>,
}

impl Report {
    /// A report on these results and failures, which it sorts, so that the order of measuring does not matter.
    pub fn new(
        memgate: &str,
        judged_at: String,
        mut results: Vec<ServiceResult>,
        mut failures: Vec<ServiceFailure>,
    ) -> Self {
        results.sort_by(|a, b| (&a.service, a.platform).cmp(&(&b.service, b.platform)));
        failures.sort_by(|a, b| (&a.service, a.platform).cmp(&(&b.service, b.platform)));
        let verdict = failures.is_empty().then(|| worst(results.iter().map(|result| result.verdict)));
        Self { schema: SCHEMA, memgate: memgate.to_owned(), judged_at, verdict, results, failures }
    }

    /// The process exit code: that of the failures if there are any, and else that of the verdict. A service that could
    /// not be judged is worse than any verdict, because nobody knows its own.
    pub fn exit_code(&self) -> u8 {
        match self.verdict {
            Some(verdict) if self.failures.is_empty() => verdict.exit_code(),
            Some(_) | None => InfrastructureError::EXIT_CODE,
        }
    }
}

/// Why one service on one platform could not be judged. It has no verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ServiceFailure {
    /// The service's name in the configuration.
    pub service: String,
    /// The platform to measure.
    pub platform: Platform,
    /// The options of the command that measured, but for service and platform and for where its results go.
    pub options: Vec<String>,
    /// What failed.
    pub failure: FailureText,
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
    /// The environment: machine, Go version and runner.
    pub environment: Environment,
    /// The number of fresh processes that were measured.
    pub runs: u32,
    /// The lowest tier of the runs.
    pub tier: Tier,
    /// The options of the command that measured, but for service and platform and for where its results go.
    #[serde(default)]
    pub options: Vec<String>,
    /// How far each signal can be trusted, in the worst of the runs.
    pub signals: Vec<SignalNote>,
    /// The recording behind the baseline; `null` if there is no baseline.
    #[serde(default)]
    pub recording: Option<Recording>,
    /// One entry for each gate, in the order of [`Metric::ALL`].
    pub gates: Vec<GateResult>,
    /// The metrics that have a figure and no gate.
    #[serde(default)]
    pub ungated: Vec<Metric>,
    /// Files that were written beside the report, such as flame graphs.
    pub files: Vec<String>,
    /// Notes on the whole result, such as what the runs lacked or why a baseline does not fit.
    pub notes: Vec<String>,
}

/// When and how a baseline was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Recording {
    /// The day, such as `2026-11-23`.
    pub day: String,
    /// The number of fresh processes that were measured.
    pub runs: u32,
}

/// The outcome of one gate. Figures are in `unit`, or `null` if there are none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct GateResult {
    /// The metric.
    pub metric: Metric,
    /// The unit of every figure of this gate.
    pub unit: Unit,
    /// The point estimate over all runs.
    pub measured: Option<f64>,
    /// Lower end of its 95 % interval, or the least figure of a run if each is an exact count.
    pub low: Option<f64>,
    /// Upper end of its 95 % interval, or the largest figure of a run if each is an exact count.
    pub high: Option<f64>,
    /// The absolute limit.
    pub limit: Option<f64>,
    /// The figure to compare with: the recorded one, or that of another build (`against`).
    pub baseline: Option<f64>,
    /// The recorded figure at the last release, from which the figure may not drift; `null` if the baseline has none.
    #[serde(default)]
    pub anchor: Option<f64>,
    /// The name of the build that `baseline` is the figure of, if it was measured beside this one, such as `main
    /// (1a2b3c4)`; `null` if `baseline` is of a baseline file.
    #[serde(default)]
    pub against: Option<String>,
    /// The smallest figure that would have been noticed, if the gate holds: it would not have passed in 95 of 100 checks.
    #[serde(default)]
    pub noticed: Option<f64>,
    /// The verdict.
    pub verdict: Verdict,
    /// What would decide the gate, if it is inconclusive.
    #[serde(default)]
    pub needs: Option<Need>,
    /// The reason, one sentence: what was compared with what. For `inconclusive` it also says what would decide.
    pub reason: String,
    /// The call sites behind the figure in all runs together, largest first, at most five; none if the gate holds.
    pub sites: Vec<Site>,
}

/// What would decide an inconclusive gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// More fresh processes.
    MoreRuns,
    /// A longer measuring phase.
    LongerPhase,
    /// A new baseline, or one of more runs.
    Baseline,
    /// Data that is missing, lost or unfit. The reason says which and why.
    Data,
}

/// The verdict of a gate, of a service or of a whole run. Verdicts are ordered from best to worst. The worst of several
/// is the verdict of the whole ([`worst`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The gate holds.
    Pass,
    /// The gate holds, and the figure is better than the baseline by more than noise.
    Improved,
    /// The figure is beyond the gate, and the gate is only advisory.
    Advisory,
    /// There is neither a limit nor a baseline to compare the figure with. Not a pass.
    NoBaseline,
    /// The evidence is not sufficient. Not a pass.
    Inconclusive,
    /// The gate fails.
    Regressed,
}

impl Verdict {
    /// Every verdict, the best first.
    pub const ALL: [Self; 6] =
        [Self::Pass, Self::Improved, Self::Advisory, Self::NoBaseline, Self::Inconclusive, Self::Regressed];

    /// Its name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Improved => "improved",
            Self::Advisory => "advisory",
            Self::NoBaseline => "no-baseline",
            Self::Inconclusive => "inconclusive",
            Self::Regressed => "regressed",
        }
    }

    /// Whether the gate passes or is improved.
    pub const fn is_good(self) -> bool {
        match self {
            Self::Pass | Self::Improved => true,
            Self::Advisory | Self::NoBaseline | Self::Inconclusive | Self::Regressed => false,
        }
    }

    /// Whether somebody is to act, so that the report says where.
    pub const fn asks_for_action(self) -> bool {
        match self {
            Self::Regressed | Self::Inconclusive | Self::Advisory => true,
            Self::Pass | Self::Improved | Self::NoBaseline => false,
        }
    }

    /// The process exit code: 0, 1 or 3.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Pass | Self::Improved | Self::Advisory => 0,
            Self::NoBaseline | Self::Inconclusive => 3,
            Self::Regressed => 1,
        }
    }
}

/// The worst of several verdicts. Without any it is inconclusive: nothing was judged, which is not a pass.
pub fn worst(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    verdicts.into_iter().max().unwrap_or(Verdict::Inconclusive)
}
