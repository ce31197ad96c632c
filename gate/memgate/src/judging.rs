//! Turns evidence into a report: finds the evidence files, reads the baselines, judges, and writes the flame graphs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use memgate_config::baseline;
use memgate_evidence::{
    Environment,
    error::{InputError, Result},
    platform::Platform,
};
use memgate_files::{evidence_file, names};
use memgate_report::{self as report, FlameGraphFiles};
use memgate_verdict::{
    baseline::Baseline,
    judge,
    results::{Report, ServiceFailure, ServiceResult},
    summarise::{Summary, summarise},
};

use crate::{
    baselines::Baselines,
    binding::{self, Run, Runs},
    measure::Recorded,
};

/// Reads evidence from files and directories. Groups it by service and platform.
///
/// # Errors
/// When there is no evidence, when a file cannot be used, and when runs do not belong together.
pub fn read_evidence(files: &[PathBuf]) -> Result<BTreeMap<(String, Platform), Recorded>> {
    together(read_runs(files)?)
}

/// Reads evidence from files and directories, each with its file.
///
/// # Errors
/// When there is no evidence, when a file cannot be used, and when evidence of one service and platform is not of one
/// executable, plan and commit, or of one such build and one other.
pub(crate) fn read_runs(files: &[PathBuf]) -> Result<Runs> {
    let mut runs = Runs::new();
    for file in evidence_files(files)? {
        let evidence = evidence_file::read(&file)?;
        runs.entry((evidence.service.clone(), evidence.platform)).or_default().push(Run { file, evidence });
    }
    runs.values().try_for_each(|runs| binding::agree(runs))?;
    Ok(runs)
}

/// The evidence of each service and platform.
///
/// # Errors
/// When evidence of a build is not comparable with that of the other, or when there is only the other.
pub(crate) fn together(runs: Runs) -> Result<BTreeMap<(String, Platform), Recorded>> {
    let mut by_target: BTreeMap<_, Recorded> = BTreeMap::new();
    for (target, runs) in runs {
        let recorded = by_target.entry(target).or_default();
        runs.into_iter().for_each(|run| recorded.push(run.evidence));
    }
    by_target.values().try_for_each(is_one_comparison)?;
    Ok(by_target)
}

/// Checks that the evidence is of a build, and that the other one was measured in turn with it, if there is one.
fn is_one_comparison(recorded: &Recorded) -> Result<()> {
    if let (Some(run), Some(other)) = (recorded.runs.first(), recorded.others.first()) {
        let (a, b) = (&run.environment, &other.environment);
        let page_size = |environment: &Environment| environment.page_size.to_string();
        let pairs = [
            ("load", a.load.clone(), b.load.clone()),
            ("phases", a.phases.clone(), b.phases.clone()),
            ("dependencies", a.dependencies_text(), b.dependencies_text()),
            ("runner", a.runner.to_string(), b.runner.to_string()),
            ("page size", page_size(a), page_size(b)),
        ];
        if let Some((what, ours, theirs)) = pairs.into_iter().find(|(_, ours, theirs)| ours != theirs) {
            let message = format!(
                "{} on {}: the builds were not measured in turn: one has the {what} `{ours}` and the other `{theirs}`",
                run.service, run.platform
            );
            return Err(InputError::new(message, "name the evidence of one command").into());
        }
    }
    match recorded.others.first() {
        Some(other) if recorded.runs.is_empty() => {
            let message = format!(
                "{} on {}: all evidence is of the build that another is compared with",
                other.service, other.platform
            );
            Err(InputError::new(message, "name the evidence of the build that is to be judged too").into())
        }
        Some(_) | None => Ok(()),
    }
}

fn evidence_files(files: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for file in files {
        if !file.is_dir() {
            found.push(file.clone());
            continue;
        }
        let mut in_it = evidence_in(file);
        if in_it.is_empty() {
            // Downloaded artifacts have a directory each. One that a command wrote to has its evidence in itself, and
            // what lies below is something else.
            let below = entries(file).filter(|path| path.is_dir() && !path.ends_with(names::AGAINST));
            in_it = below.flat_map(|directory| evidence_in(&directory)).collect();
        }
        if in_it.is_empty() {
            let message = format!(
                "{}: no file in this directory ends in {}, and none in a directory in it",
                file.display(),
                names::EVIDENCE
            );
            return Err(
                InputError::new(message, "name evidence files, or a directory that `memgate record` wrote to").into()
            );
        }
        in_it.sort();
        found.extend(in_it);
    }
    Ok(found)
}

/// The evidence in a directory, and that of the build that it is compared with.
fn evidence_in(directory: &Path) -> Vec<PathBuf> {
    let all = entries(directory).chain(entries(&directory.join(names::AGAINST)));
    all.filter(|path| path.to_string_lossy().ends_with(names::EVIDENCE)).collect()
}

/// What lies in a directory; nothing if it cannot be read.
fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Judges the evidence and writes its flame graphs below `out`.
pub(crate) fn judge_runs(recorded: &Recorded, baselines: &Baselines, out: &Path) -> Result<ServiceResult> {
    let mut result = judged(recorded, baselines)?;
    if let Some(root) = repository().as_deref().and_then(Path::to_str) {
        report::locate(&mut result, root);
    }
    let written = flame_graphs(out, recorded);
    result.files = written.files.iter().map(|file| file.display().to_string()).collect();
    result.notes.extend(written.notes);
    Ok(result)
}

/// Judges the evidence by the baseline, and beside the other build if there is one.
pub(crate) fn judged(recorded: &Recorded, baselines: &Baselines) -> Result<ServiceResult> {
    let summary = summarise(&recorded.runs)?;
    let baseline = baseline::load(baselines.directory(), summary.platform, &summary.baseline)?;
    let mut result = judged_by(&summary, recorded, baseline.as_ref())?;
    result.notes.extend(baselines.note(summary.platform, &summary.baseline));
    Ok(result)
}

/// Judges the evidence by no baseline, and beside the other build if there is one.
pub(crate) fn judged_without_baseline(recorded: &Recorded) -> Result<ServiceResult> {
    judged_by(&summarise(&recorded.runs)?, recorded, None)
}

fn judged_by(summary: &Summary, recorded: &Recorded, baseline: Option<&Baseline>) -> Result<ServiceResult> {
    let result = judge::judge(summary, baseline);
    let Some(name) = recorded.others.first().and_then(|other| other.against.as_deref()) else { return Ok(result) };
    let others = summarise(&recorded.others)?;
    Ok(judge::judge_beside(result, summary, baseline, judge::Other { name, summary: &others }))
}

/// The root of the repository that memgate was called in: the nearest directory that contains `.git`, or the current
/// directory if there is none.
fn repository() -> Option<PathBuf> {
    let called_in = std::env::current_dir().ok()?;
    Some(called_in.ancestors().find(|directory| directory.join(".git").exists()).unwrap_or(&called_in).to_path_buf())
}

/// Writes the flame graphs. If they cannot be written, adds a note; the verdict holds without them.
pub(crate) fn flame_graphs(out: &Path, recorded: &Recorded) -> FlameGraphFiles {
    report::write_flame_graphs(&out.join("flamegraphs"), &recorded.runs, &recorded.others)
        .unwrap_or_else(|error| FlameGraphFiles { files: Vec::new(), notes: vec![format!("no flame graphs: {error}")] })
}

/// The report on results and failures.
pub(crate) fn report(results: Vec<ServiceResult>, failures: Vec<ServiceFailure>) -> Report {
    Report::new(env!("CARGO_PKG_VERSION"), jiff::Timestamp::now().to_string(), results, failures)
}
