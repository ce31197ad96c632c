//! Turns evidence into a report: finds the evidence files, reads the baselines, judges, and writes the flame graphs.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use memgate_config::baseline;
use memgate_evidence::{
    Evidence,
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

/// Reads evidence from files and directories. Groups it by service and platform.
///
/// # Errors
/// When there is no evidence or a file cannot be used.
pub fn read_evidence(files: &[PathBuf]) -> Result<BTreeMap<(String, Platform), Vec<Evidence>>> {
    let mut by_target: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for file in evidence_files(files)? {
        let evidence = evidence_file::read(&file)?;
        by_target.entry((evidence.service.clone(), evidence.platform)).or_default().push(evidence);
    }
    Ok(by_target)
}

fn evidence_files(files: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for file in files {
        if !file.is_dir() {
            found.push(file.clone());
            continue;
        }
        let before = found.len();
        let entries = fs::read_dir(file).into_iter().flatten().flatten().map(|entry| entry.path());
        found.extend(entries.filter(|path| path.to_string_lossy().ends_with(names::EVIDENCE)));
        found[before..].sort();
        if found.len() == before {
            let message = format!("{}: no file in this directory ends in {}", file.display(), names::EVIDENCE);
            return Err(
                InputError::new(message, "name evidence files, or a directory that `memgate record` wrote to").into()
            );
        }
    }
    Ok(found)
}

pub(crate) fn judge_runs(runs: &[Evidence], baselines: &Path, out: &Path) -> Result<ServiceResult> {
    let (summary, baseline) = compared(runs, baselines)?;
    let mut result = judge::judge(&summary, baseline.as_ref());
    if let Some(root) = repository().as_deref().and_then(Path::to_str) {
        report::locate(&mut result, root);
    }
    let written = flame_graphs(out, runs);
    result.files = written.files.iter().map(|file| file.display().to_string()).collect();
    result.notes.extend(written.notes);
    Ok(result)
}

/// The root of the repository that memgate was called in: the nearest directory that contains `.git`, or the current
/// directory if there is none.
fn repository() -> Option<PathBuf> {
    let called_in = std::env::current_dir().ok()?;
    Some(called_in.ancestors().find(|directory| directory.join(".git").exists()).unwrap_or(&called_in).to_path_buf())
}

/// Writes the flame graphs. If they cannot be written, adds a note; the verdict holds without them.
pub(crate) fn flame_graphs(out: &Path, runs: &[Evidence]) -> FlameGraphFiles {
    report::write_flame_graphs(&out.join("flamegraphs"), runs)
        .unwrap_or_else(|error| FlameGraphFiles { files: Vec::new(), notes: vec![format!("no flame graphs: {error}")] })
}

/// The metrics of the runs, and the baseline to compare them with.
pub(crate) fn compared(runs: &[Evidence], baselines: &Path) -> Result<(Summary, Option<Baseline>)> {
    let summary = summarise(runs)?;
    let baseline = baseline::load(baselines, summary.platform, &summary.baseline)?;
    Ok((summary, baseline))
}

/// The report on results and failures.
pub(crate) fn report(results: Vec<ServiceResult>, failures: Vec<ServiceFailure>) -> Report {
    Report::new(env!("CARGO_PKG_VERSION"), jiff::Timestamp::now().to_string(), results, failures)
}
