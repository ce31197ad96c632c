//! Whether the gates of a service find faults: each is planted into runs of the service itself and judged.

use std::path::{Path, PathBuf};

use memgate_agent::cancel::Cancel;
use memgate_config::{Config, baseline};
use memgate_evidence::{
    Evidence,
    error::{InfrastructureError, InputError, Result},
    platform::{Platform, Runner},
};
use memgate_verdict::{
    baseline::{Baseline, Expectation, Limit},
    judge::{judge, more_runs},
    metric::{Metric, Unit},
    results::{GateResult, Need, ServiceFailure, ServiceResult, Verdict},
    summarise::{numbered, summarise},
};
use serde::Serialize;

use super::{below, check_selection, plant::Fault, recorded, switched_off};
use crate::{narrator::Narrator, pipeline, prepare::Pair, select::Selection};

/// The schema of [`Report`].
const SCHEMA: u32 = 1;

/// The JSON Schema of [`Report`].
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Report).to_value()
}

/// What `memgate selftest --format json` prints.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Report {
    /// Version of this format.
    pub schema: u32,
    /// The version of memgate that judged.
    pub memgate: &'static str,
    /// One entry for each service on each platform.
    pub results: Vec<Selftest>,
    /// One entry for each that could not be measured.
    pub failures: Vec<ServiceFailure>,
}

impl Report {
    fn new(mut results: Vec<Selftest>, failures: Vec<ServiceFailure>) -> Self {
        results.sort_by(|a, b| (&a.service, a.platform).cmp(&(&b.service, b.platform)));
        Self { schema: SCHEMA, memgate: env!("CARGO_PKG_VERSION"), results, failures }
    }

    /// The process exit code: 4 if a service could not be measured, else 1 if a fault was not found, else 3 if a gate
    /// cannot find its fault, and 0 if every fault was found.
    pub fn exit_code(&self) -> u8 {
        if !self.failures.is_empty() {
            return InfrastructureError::EXIT_CODE;
        }
        let outcomes = self.results.iter().flat_map(|result| &result.faults).map(|planted| planted.outcome);
        // Nothing was shown if nothing was planted.
        outcomes.max().map_or(3, Outcome::exit_code)
    }
}

/// The faults in one service on one platform.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Selftest {
    /// The service's name in the configuration.
    pub service: String,
    /// The platform measured.
    pub platform: Platform,
    /// Where it was measured.
    pub runner: Runner,
    /// The Go version of the executable.
    pub go: String,
    /// The number of fresh processes that were measured.
    pub runs: u32,
    /// The verdict without any fault.
    pub unedited: Verdict,
    /// The gates that are not green without any fault.
    pub not_green: Vec<Metric>,
    /// One entry for each fault and gate.
    pub faults: Vec<Planted>,
}

/// A fault and the gate that must find it.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Planted {
    /// The fault's name: `leak`, `garbage` or `goroutines`.
    pub fault: &'static str,
    /// Its size as text; `null` if it was not planted.
    pub size: Option<String>,
    /// The metric of the gate.
    pub gate: Metric,
    /// The unit of the figures.
    pub unit: Unit,
    /// The figure without the fault, if there is one.
    pub before: Option<f64>,
    /// The figure with it.
    pub after: Option<f64>,
    /// The gate's verdict with the fault; `null` if it was not planted.
    pub verdict: Option<Verdict>,
    /// Whether the gate found it.
    pub outcome: Outcome,
    /// Why it did not, and what to do; the gate's own reason if it did.
    pub reason: String,
    /// Whether more processes may decide.
    #[serde(skip)]
    wants: Option<u32>,
}

/// Whether a gate found a fault, the best outcome first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The gate is `regressed` with the fault, and holds without it.
    Found,
    /// The baseline has switched the gate off: it cannot fail.
    CannotFail,
    /// The gate does not hold without the fault, or has nothing to compare with, so nothing can be shown.
    CannotTell,
    /// The gate is not `regressed`.
    NotFound,
}

impl Outcome {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::CannotFail => "cannot fail",
            Self::CannotTell => "cannot tell",
            Self::NotFound => "not found",
        }
    }

    const fn exit_code(self) -> u8 {
        match self {
            Self::Found => 0,
            Self::CannotFail | Self::CannotTell => 3,
            Self::NotFound => 1,
        }
    }
}

/// Kinds of faults, each with the gate that must find it.
const FAULTS: [(Kind, Metric); 4] = [
    (Kind::Leak, Metric::HeapLiveGrowth),
    (Kind::Garbage, Metric::AllocBytesPerRequest),
    (Kind::Garbage, Metric::AllocsPerRequest),
    (Kind::Goroutines, Metric::GoroutinesLeaked),
];

#[derive(Debug, Clone, Copy)]
enum Kind {
    Leak,
    Garbage,
    Goroutines,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Leak => Fault::Leak { bytes_per_minute: 0.0 }.name(),
            Self::Garbage => Fault::Garbage { share: 0.0 }.name(),
            Self::Goroutines => Fault::Goroutines { left: 0 }.name(),
        }
    }

    /// The fault that takes the gate's figure from `measured` to `aim`; `None` if nothing can be more of nothing.
    fn of(self, measured: f64, aim: f64) -> Option<Fault> {
        match self {
            Self::Leak => Some(Fault::Leak { bytes_per_minute: aim - measured }),
            Self::Garbage => (measured > 0.0).then(|| Fault::Garbage { share: aim / measured - 1.0 }),
            Self::Goroutines => Some(Fault::Goroutines { left: at_least_one(aim - measured) }),
        }
    }
}

/// A whole number, rounded up.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is at least 1, and `as` saturates"
)]
fn at_least_one(value: f64) -> u64 {
    value.ceil().max(1.0) as u64
}

/// Measures each service as `memgate check` does, and plants. More fresh processes are measured while one may decide a
/// gate, up to the service's `max_runs`. The evidence stays in a directory below `--out`.
///
/// # Errors
/// When the configuration is wrong or this machine lacks something, and when memgate is interrupted. What fails in one
/// service is in the report.
pub async fn measure(config: &Config, selection: Selection, narrator: &Narrator, cancel: &Cancel) -> Result<Report> {
    check_selection(config, &selection)?;
    let selection = below(selection, "selftest");
    let test = async |pair: &Pair<'_>| {
        let target = pair.change.target;
        let mut runs = target.runs;
        let mut recorded = pair.measure(1..=runs, narrator, cancel).await?;
        loop {
            let (tested, wants) = Selftest::of(&recorded.runs, &config.baselines)?;
            let Some(more) = wants.filter(|more| *more <= target.max_runs()) else { return Ok(tested) };
            narrator.say(&format!("{}: measuring up to {more} fresh processes", target.title()));
            recorded.extend(pair.measure(runs + 1..=more, narrator, cancel).await?);
            runs = more;
        }
    };
    let outcomes = pipeline::measured(config, &selection, narrator, cancel, test).await?;
    Ok(Report::new(outcomes.done, outcomes.failures))
}

/// Plants into recorded evidence. The files stay as they are.
///
/// # Errors
/// When evidence or a baseline cannot be used.
pub fn of_evidence(files: &[PathBuf], baselines: &Path) -> Result<Report> {
    let of = |runs: Vec<Evidence>| {
        if let [run] = runs.as_slice() {
            let message = format!("{} on {}: this is one process, which fails no gate", run.service, run.platform);
            return Err(InputError::new(message, "name the evidence of at least two processes").into());
        }
        Ok(Selftest::of(&numbered(runs)?, baselines)?.0)
    };
    Ok(Report::new(recorded(files)?.into_iter().map(of).collect::<Result<_>>()?, Vec::new()))
}

impl Selftest {
    /// Plants each fault into these runs. Also the number of runs that may decide more, if it is more than there are.
    fn of(runs: &[Evidence], baselines: &Path) -> Result<(Self, Option<u32>)> {
        let summary = summarise(runs)?;
        let baseline = baseline::load(baselines, summary.platform, &summary.baseline)?;
        let result = judge(&summary, baseline.as_ref());
        let judged = Judged { runs, baseline: baseline.as_ref(), unedited: &result };
        let faults = FAULTS.into_iter().map(|(kind, gate)| judged.with(kind, gate)).collect::<Result<Vec<_>>>()?;
        let wants = faults.iter().filter_map(|planted| planted.wants).chain(more_runs(&result)).max();
        let not_green = result.gates.iter().filter(|gate| gate.verdict.exit_code() != 0).map(|gate| gate.metric);
        let tested = Self {
            not_green: not_green.collect(),
            service: summary.service,
            platform: summary.platform,
            runner: summary.environment.runner,
            go: summary.environment.go,
            runs: result.runs,
            unedited: result.verdict,
            faults,
        };
        Ok((tested, wants))
    }
}

/// Runs and what the judge says of them.
struct Judged<'a> {
    runs: &'a [Evidence],
    baseline: Option<&'a Baseline>,
    unedited: &'a ServiceResult,
}

impl Judged<'_> {
    /// The outcome of a fault in these runs.
    fn with(&self, kind: Kind, metric: Metric) -> Result<Planted> {
        let gate = self.unedited.gates.iter().find(|gate| gate.metric == metric);
        let nothing = |outcome, reason| Planted {
            fault: kind.name(),
            size: None,
            gate: metric,
            unit: metric.unit(),
            before: gate.and_then(|gate| gate.measured),
            after: None,
            verdict: None,
            outcome,
            reason,
            wants: None,
        };
        // A waiver that has ended fails its gate.
        let fails = gate.is_some_and(|gate| gate.verdict == Verdict::Regressed);
        let has_limit = gate.is_some_and(|gate| gate.limit.is_some());
        if let Some(reason) = self.switched_off(metric, has_limit).filter(|_| !fails) {
            return Ok(nothing(Outcome::CannotFail, reason));
        }
        let Some(gate) = gate else { return Ok(nothing(Outcome::CannotTell, self.no_gate(metric))) };
        let figures = gate.measured.filter(|_| gate.verdict.is_good()).zip(self.aim(gate));
        let Some(fault) = figures.and_then(|(measured, aim)| kind.of(measured, aim)) else {
            let reason = format!("without the fault, the gate is {}: {}", gate.verdict.name(), gate.reason);
            return Ok(Planted { wants: wanted(self.unedited, gate), ..nothing(Outcome::CannotTell, reason) });
        };
        let result = self.planted(fault)?;
        let Some(gate) = result.gates.iter().find(|gate| gate.metric == metric) else {
            return Ok(nothing(Outcome::CannotTell, "the gate is gone with the fault".to_owned()));
        };
        let outcome = outcome(gate);
        Ok(Planted {
            size: Some(fault.size()),
            after: gate.measured,
            verdict: Some(gate.verdict),
            wants: (outcome != Outcome::Found).then(|| wanted(&result, gate)).flatten(),
            ..nothing(outcome, gate.reason.clone())
        })
    }

    /// Why the baseline lets the gate not fail.
    fn switched_off(&self, metric: Metric, has_limit: bool) -> Option<String> {
        let expectation = self.baseline?.metrics.get(&metric)?;
        let has_no_limit = expectation.limit == Limit::None && expectation.baseline.is_none();
        let off = has_no_limit.then(|| "the baseline says `limit: none` and has no figure".to_owned());
        let Expectation { tolerance, floor, noise, .. } = expectation;
        let compares = [tolerance, floor, noise].into_iter().any(Option::is_some) || has_limit;
        let blunt = "the baseline has a figure, but neither a tolerance, a floor nor a noise to compare it with";
        switched_off(expectation).or(off).or_else(|| (!compares).then(|| blunt.to_owned()))
    }

    fn no_gate(&self, metric: Metric) -> String {
        match self.baseline {
            None => "no baseline: record one with `memgate baseline record`".to_owned(),
            Some(_) => {
                format!("the baseline has no entry for {metric}: add one with the figure of `memgate baseline record`")
            }
        }
    }

    /// The figure that the gate promises to notice: twice its limit, or twice the difference from the recorded figure
    /// that it would have noticed, if that is less; and never less than what it would have noticed.
    fn aim(&self, gate: &GateResult) -> Option<f64> {
        let noticed = gate.noticed?;
        let must = self.baseline.and_then(|baseline| baseline.metrics.get(&gate.metric)?.must_notice);
        let of_limit = gate.limit.map(|limit| (2.0 * limit).max(must.unwrap_or(0.0)));
        let of_baseline = gate.baseline.map(|baseline| baseline + 2.0 * (noticed - baseline));
        let aim = [of_limit, of_baseline].into_iter().flatten().reduce(f64::min)?;
        Some(aim.max(noticed))
    }

    /// The verdict on the same runs with the fault in each.
    fn planted(&self, fault: Fault) -> Result<ServiceResult> {
        let planted = self.runs.iter().map(|run| {
            let mut run = run.clone();
            fault.plant(&mut run);
            run
        });
        Ok(judge(&summarise(&planted.collect::<Vec<_>>())?, self.baseline))
    }
}

/// Only a failure of the gate itself counts. A gate that lacks data or something to compare with cannot tell.
fn outcome(gate: &GateResult) -> Outcome {
    match (gate.verdict, gate.needs) {
        (Verdict::Regressed, _) => Outcome::Found,
        (Verdict::NoBaseline, _) | (Verdict::Inconclusive, Some(Need::Baseline | Need::Data)) => Outcome::CannotTell,
        (Verdict::Inconclusive, Some(Need::MoreRuns | Need::LongerPhase) | None)
        | (Verdict::Pass | Verdict::Improved | Verdict::Advisory, _) => Outcome::NotFound,
    }
}

/// The number of runs that may decide this gate, whatever the others say.
fn wanted(result: &ServiceResult, gate: &GateResult) -> Option<u32> {
    more_runs(&ServiceResult { verdict: gate.verdict, gates: vec![gate.clone()], ..result.clone() })
}
