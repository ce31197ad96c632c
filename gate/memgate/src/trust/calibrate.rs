//! How often checks of one and the same build are not green (A/A), and what each gate would have noticed.

use std::path::{Path, PathBuf};

use memgate_agent::cancel::Cancel;
use memgate_config::Config;
use memgate_evidence::{
    Evidence,
    error::{InfrastructureError, InputError, Result},
    platform::{Platform, Runner},
};
use memgate_verdict::{
    metric::{Limits, Metric},
    results::{ServiceFailure, Verdict, worst},
    summarise::{numbered, share_at_most, summarise},
};
use serde::Serialize;

use super::{
    below, check_selection,
    checks::{Check, Gates, Looks, Run, disjoint, resampled},
    power::{self, Power},
    recorded,
};
use crate::{
    narrator::Narrator,
    pipeline,
    prepare::Pair,
    select::{Selection, Target, targets},
};

/// The least number of processes: half of them make a baseline, and the rest two checks.
pub const FEWEST_PROCESSES: u32 = 8;

/// The baseline is made of half of the processes, and of no more than this many.
const MOST_RECORDED: usize = 6;

/// The number of resampled checks.
const RESAMPLED: u32 = 200;

/// A verdict of resampled checks counts if at least one in this many checks has it or a worse one.
const ONE_IN: usize = 20;

/// The chance that the bound of a rate is too low.
const ALPHA: f64 = 0.05;

/// The schema of [`Report`].
const SCHEMA: u32 = 1;

/// The JSON Schema of [`Report`].
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Report).to_value()
}

/// What `memgate calibrate --format json` prints.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Report {
    /// Version of this format.
    pub schema: u32,
    /// The version of memgate that checked.
    pub memgate: &'static str,
    /// The worst verdict of all services; `null` if one could not be measured.
    pub verdict: Option<Verdict>,
    /// One entry for each service on each platform.
    pub results: Vec<Calibration>,
    /// One entry for each that could not be measured.
    pub failures: Vec<ServiceFailure>,
}

impl Report {
    fn new(mut results: Vec<Calibration>, failures: Vec<ServiceFailure>) -> Self {
        results.sort_by(|a, b| (&a.service, a.platform).cmp(&(&b.service, b.platform)));
        let verdict = failures.is_empty().then(|| worst(results.iter().map(|result| result.verdict)));
        Self { schema: SCHEMA, memgate: env!("CARGO_PKG_VERSION"), verdict, results, failures }
    }

    /// The process exit code: 4 if a service could not be measured, and else that of the verdict.
    pub fn exit_code(&self) -> u8 {
        self.verdict.map_or(InfrastructureError::EXIT_CODE, Verdict::exit_code)
    }
}

/// The checks of one service on one platform.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Calibration {
    /// The service's name in the configuration.
    pub service: String,
    /// The platform measured.
    pub platform: Platform,
    /// Where it was measured.
    pub runner: Runner,
    /// The Go version of the executable.
    pub go: String,
    /// The worst verdict of the disjoint checks, or that of one in twenty resampled checks if it is worse.
    pub verdict: Verdict,
    /// The number of processes.
    pub processes: usize,
    /// The number of processes that made the baseline of the disjoint checks, the first ones.
    pub recorded: usize,
    /// The number of processes that a check begins with.
    pub first: u32,
    /// The baseline file whose gates the checks had; `null` for the default limits and tolerances.
    pub gates_of: Option<PathBuf>,
    /// Checks of which no two share a process.
    pub disjoint: Rates,
    /// Checks of processes drawn at random; `null` if there are too few processes.
    pub resampled: Option<Rates>,
    /// What each gate would have noticed after the first look of the disjoint checks.
    pub power: Vec<Power>,
    /// Notes for the reader.
    pub notes: Vec<String>,
}

/// How often checks were not green.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Rates {
    /// The number of checks.
    pub checks: usize,
    /// The checks whose exit code is not 0.
    pub not_green: usize,
    /// The checks that failed: exit code 1.
    pub regressed: usize,
    /// The checks that needed more processes than were left. They are not green.
    pub cut_short: usize,
    /// The upper bound of the share that is not green, at 95 %; `null` for checks that share processes.
    pub not_green_at_most: Option<f64>,
    /// The mean number of processes in a check.
    pub runs: f64,
    /// The gates that were not green, and how often.
    pub gates: Vec<NotGreen>,
}

/// A gate that was not green.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Clone, Copy, Serialize, schemars::JsonSchema)]
pub struct NotGreen {
    /// The metric.
    pub metric: Metric,
    /// The verdict.
    pub verdict: Verdict,
    /// The number of checks in which the gate had it.
    pub checks: usize,
}

impl Rates {
    fn of(checks: &[Check], are_independent: bool) -> Self {
        let count = |of: fn(&Check) -> bool| checks.iter().filter(|check| of(check)).count();
        let not_green = count(|check| check.last.verdict.exit_code() != 0);
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let bound = are_independent.then(|| share_at_most(number(not_green), number(checks.len()), ALPHA));
        Self {
            checks: checks.len(),
            not_green,
            regressed: count(|check| check.last.verdict == Verdict::Regressed),
            cut_short: count(|check| check.cut_short),
            not_green_at_most: bound,
            runs: checks.iter().map(|check| f64::from(check.last.runs)).sum::<f64>() / checks.len().max(1) as f64,
            gates: not_green_gates(checks),
        }
    }
}

fn not_green_gates(checks: &[Check]) -> Vec<NotGreen> {
    let gates = checks.iter().flat_map(|check| &check.last.gates).filter(|gate| gate.verdict.exit_code() != 0);
    let mut found: Vec<(Metric, Verdict)> = gates.map(|gate| (gate.metric, gate.verdict)).collect();
    found.sort_unstable();
    let alike = found.chunk_by(|one, other| one == other);
    alike.map(|alike| NotGreen { metric: alike[0].0, verdict: alike[0].1, checks: alike.len() }).collect()
}

/// The verdict of the whole: the worst of the disjoint checks, which are all of healthy code, or a worse one that at
/// least one in twenty of the resampled checks has.
fn verdict(disjoint: &[Check], resampled: &[Check]) -> Verdict {
    let mut verdicts: Vec<Verdict> = resampled.iter().map(|check| check.last.verdict).collect();
    verdicts.sort_unstable();
    let often = verdicts.len().checked_sub(verdicts.len().div_ceil(ONE_IN)).and_then(|index| verdicts.get(index));
    worst(disjoint.iter().map(|check| check.last.verdict).chain(often.copied()))
}

/// Measures processes of each service and checks them. The evidence stays in a directory below `--out`.
///
/// # Errors
/// When the configuration is wrong or this machine lacks something, and when memgate is interrupted. What fails in one
/// service is in the report.
pub async fn measure(
    config: &Config,
    selection: Selection,
    processes: u32,
    narrator: &Narrator,
    cancel: &Cancel,
) -> Result<Report> {
    check_selection(config, &selection)?;
    for target in &targets(config, &selection)? {
        let wanted = usize::try_from(processes).unwrap_or(usize::MAX);
        enough(&target.service.name, target.platform, wanted, looks_of(target))?;
    }
    let selection = below(selection, "calibrate");
    let calibrate = async |pair: &Pair<'_>| {
        let measured = pair.measure(1..=processes, narrator, cancel).await?;
        Calibration::of(measured.runs, &config.baselines, looks_of(pair.change.target))
    };
    let outcomes = pipeline::measured(config, &selection, narrator, cancel, calibrate).await?;
    Ok(Report::new(outcomes.done, outcomes.failures))
}

fn looks_of(target: &Target<'_>) -> Looks {
    Looks { first: target.runs, most: target.max_runs() }
}

/// Checks recorded evidence.
///
/// # Errors
/// When evidence or a baseline cannot be used.
pub fn of_evidence(files: &[PathBuf], baselines: &Path) -> Result<Report> {
    let services = recorded(files)?.into_iter();
    let results = services.map(|runs| Calibration::of(runs, baselines, Looks::default())).collect::<Result<_>>()?;
    Ok(Report::new(results, Vec::new()))
}

impl Calibration {
    /// The checks of these runs, in the order of time.
    ///
    /// # Errors
    /// When the runs are too few or do not belong together, and when no baseline can be made of them.
    pub fn of(runs: Vec<Evidence>, baselines: &Path, looks: Looks) -> Result<Self> {
        let runs = numbered(runs)?;
        let summary = summarise(&runs)?;
        enough(&summary.service, summary.platform, runs.len(), looks)?;
        let healthy = Run::all(&runs)?;
        let gates = Gates::find(baselines, summary.platform, &summary.baseline)?;
        let recorded = recorded_of(healthy.len());
        let (base, rest) = healthy.split_at(recorded);
        let baseline = gates.baseline(&base.iter().collect::<Vec<_>>())?;
        let apart = disjoint(&baseline, rest, looks);
        // A check that could not go on for lack of processes would say more of their number than of the service.
        let has_enough = u32::try_from(rest.len()).is_ok_and(|left| left >= looks.most.max(looks.first));
        let number = if has_enough { RESAMPLED } else { 0 };
        let drawn = resampled(&healthy, &healthy, recorded, number, &gates, looks)?;
        Ok(Self {
            service: summary.service,
            platform: summary.platform,
            runner: summary.environment.runner,
            go: summary.environment.go,
            verdict: verdict(&apart, &drawn),
            processes: healthy.len(),
            recorded,
            first: looks.first,
            disjoint: Rates::of(&apart, true),
            resampled: (!drawn.is_empty()).then(|| Rates::of(&drawn, false)),
            power: power::of_gates(&apart, &baseline),
            notes: notes(&gates, has_enough, rest.len(), looks),
            gates_of: match gates {
                Gates::Default(Limits::General | Limits::Xinchuang) => None,
                Gates::File { path, text: _ } => Some(path),
            },
        })
    }
}

fn notes(gates: &Gates, are_resampled: bool, left: usize, looks: Looks) -> Vec<String> {
    let mut notes = Vec::new();
    if let Gates::Default(_) = gates {
        notes.push("there is no baseline file, so the gates have the default limits and tolerances".to_owned());
    }
    if !are_resampled {
        notes.push(format!(
            "no resampled checks: a check may take {} processes, and {left} are left beside the baseline",
            looks.most
        ));
    }
    notes
}

/// The number of processes for the baseline.
fn recorded_of(processes: usize) -> usize {
    (processes / 2).min(MOST_RECORDED)
}

/// Checks that this many processes make a baseline and at least two checks.
fn enough(service: &str, platform: Platform, processes: usize, looks: Looks) -> Result<()> {
    let least = FEWEST_PROCESSES.max(2 * looks.first);
    if usize::try_from(least).is_ok_and(|least| processes >= least) {
        return Ok(());
    }
    let first = looks.first;
    let message = format!(
        "{service} on {platform}: {processes} processes are too few for a baseline and checks that begin with {first}"
    );
    let help = format!("measure at least {least}: `memgate calibrate --processes {least}`");
    Err(InputError::new(message, help).into())
}
