//! Baseline files: made of evidence, compared with it, and given its figures.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use memgate_config::baseline::{self, Accepted};
use memgate_evidence::error::{InputError, Result};
use memgate_files::{OutputError, whole as atomic_file};
use memgate_verdict::{
    metric::{Limits, Metric},
    summarise::{Summary, summarise},
    units,
};

use crate::judging;

/// Writes a new baseline file for each service and platform in the evidence, and returns their names, each on a line. If
/// one exists or cannot be made, none is written.
///
/// # Errors
/// When a file exists already, when evidence cannot be used, or when a file cannot be written.
pub(crate) fn record(evidence: &[PathBuf], directory: &Path, limits: Limits) -> Result<String> {
    let made = |summary: &Summary| {
        let file = baseline::path(directory, summary.platform, &summary.baseline);
        if file.exists() {
            let help = "give it the new figures with `memgate baseline accept`, or remove it and record again";
            return Err(InputError::new(format!("{}: this baseline already exists", file.display()), help).into());
        }
        Ok((file, baseline::render(summary, &today(), limits)?))
    };
    let files: Vec<_> = summaries(evidence)?.iter().map(made).collect::<Result<_>>()?;
    for (file, text) in &files {
        write(file, text)?;
    }
    Ok(files.iter().map(|(file, _)| format!("{}\n", file.display())).collect())
}

/// What [`accept`] would change, as text.
///
/// # Errors
/// The same.
pub(crate) fn diff(evidence: &[PathBuf], directory: &Path) -> Result<String> {
    let files = accepted(evidence, directory, &BTreeSet::new())?;
    Ok(files.iter().map(|file| told(file, "would change")).collect())
}

/// Puts the figures of the evidence into the baseline files, those of these metrics or of all if there are none, and
/// returns what has changed as text. Everything else in the files stays. Either all files are written or, if one is wrong,
/// none.
///
/// # Errors
/// When there is no baseline, when a file cannot be changed, or when it changes meanwhile.
pub(crate) fn accept(evidence: &[PathBuf], directory: &Path, metrics: &BTreeSet<Metric>) -> Result<String> {
    let files = accepted(evidence, directory, metrics)?;
    for file in &files {
        if read(&file.path)? != file.before {
            let message = format!("{}: it changed while memgate read it, and nothing is written", file.path.display());
            return Err(InputError::new(message, "run the command again").into());
        }
    }
    for file in &files {
        write(&file.path, &file.accepted.text)?;
    }
    Ok(files.iter().map(|file| told(file, "changed")).collect())
}

/// A baseline file with the figures of evidence.
struct Changed {
    path: PathBuf,
    before: String,
    accepted: Accepted,
}

fn accepted(evidence: &[PathBuf], directory: &Path, metrics: &BTreeSet<Metric>) -> Result<Vec<Changed>> {
    let changed = |summary: &Summary| {
        let path = baseline::path(directory, summary.platform, &summary.baseline);
        let before = read(&path)?;
        let accepted = baseline::accept(&path, &before, summary, &today(), metrics)?;
        Ok(Changed { path, before, accepted })
    };
    summaries(evidence)?.iter().map(changed).collect()
}

/// The metrics of the evidence, by service and platform.
fn summaries(evidence: &[PathBuf]) -> Result<Vec<Summary>> {
    judging::read_evidence(evidence)?.values().map(|recorded| Ok(summarise(&recorded.runs)?)).collect()
}

/// What a file has or would have: a line for each figure that differs, and for each that stays because it was not
/// measured. For every metric, more is worse.
fn told(file: &Changed, verb: &str) -> String {
    let Changed { path, accepted: Accepted { changes, kept, .. }, .. } = file;
    let figures = if changes.len() == 1 { "figure" } else { "figures" };
    let mut text = format!("{}: {} {figures} {verb}\n", path.display(), changes.len());
    for change in changes {
        let unit = change.metric.unit();
        let [before, after] = [change.before, change.after].map(|figure| units::format(figure, unit));
        let share = (change.after - change.before) / change.before.abs();
        let share = if share.is_finite() { format!(" ({share:+.1}%)", share = 100.0 * share) } else { String::new() };
        let looser = if change.after > change.before { ", looser" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {}: {before} -> {after}{share}{looser}", change.metric);
    }
    for (metric, reason) in kept {
        let _ = writeln!(text, "  {metric}: stays, because it was not measured: {reason}");
    }
    text
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| {
        let help = "make one with `memgate baseline record`, or name the directory with --baselines";
        InputError::new(format!("{}: this baseline cannot be read: {error}", path.display()), help).into()
    })
}

fn write(path: &Path, text: &str) -> Result<()> {
    let written = atomic_file::write(path, text.as_bytes());
    Ok(written.map_err(|source| OutputError::Path { path: path.to_owned(), option: "--baselines", source })?)
}

/// Today's date in UTC, such as `2026-11-23`.
fn today() -> String {
    jiff::Timestamp::now().to_string().chars().take_while(|character| *character != 'T').collect()
}
