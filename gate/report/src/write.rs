//! Writes reports to their outputs.

use std::{
    fs::OpenOptions,
    io,
    path::{Path, PathBuf},
};

use memgate_evidence::error::{FailureKind, Result, Stage, in_full};
use memgate_files::whole as atomic_file;
use memgate_verdict::results::Report;

use super::{Format, Output, Style, render, step_summary, validate};

/// Why a report is not where it was wanted.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ReportError {
    /// Outputs that the command line names.
    #[error("{}", sentences(.first, .others))]
    #[diagnostic(help("The evidence is kept: `memgate report EVIDENCE… --format F[=FILE]` prints the report again."))]
    Outputs {
        /// The first that failed.
        #[source]
        first: FailedOutput,
        /// The others that failed.
        others: Vec<FailedOutput>,
    },
    /// The summary that GitHub Actions shows.
    #[error("The step summary cannot be written to {file}.")]
    #[diagnostic(help("Unset GITHUB_STEP_SUMMARY, or make room."))]
    StepSummary {
        /// The file that GitHub names.
        file: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl FailureKind for ReportError {
    fn stage(&self) -> Stage {
        Stage::Output
    }
}

/// An output that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("The report as {format} cannot be written to {place}")]
pub struct FailedOutput {
    /// The report's format.
    pub format: Format,
    /// The file, or standard output.
    pub place: String,
    /// What the system says.
    pub source: io::Error,
}

/// A line for each.
fn sentences(first: &FailedOutput, others: &[FailedOutput]) -> String {
    let sentences: Vec<_> = [first].into_iter().chain(others).map(|output| format!("{}.", in_full(output))).collect();
    sentences.join("\n")
}

/// Writes the report to every output. Files are written whole or not at all, with missing parent directories made,
/// without colours and without a fixed width. At most one format goes to `stdout`, which is flushed. If one output
/// fails, the others are still written.
///
/// # Errors
/// [`memgate_evidence::error::Error::Input`] as [`validate`]; [`ReportError::Outputs`] that names every file that could not be
/// written, or standard output: a full disk, no permission, a closed pipe.
pub fn write(outputs: &[Output], report: &Report, stdout: &mut dyn io::Write, style: Style) -> Result<()> {
    validate(outputs)?;
    let mut failed = outputs.iter().filter_map(|output| write_one(output, report, stdout, style).err());
    let Some(first) = failed.next() else { return Ok(()) };
    Err(ReportError::Outputs { first, others: failed.collect() }.into())
}

/// Appends the report as Markdown to the file that GitHub Actions shows as the step's summary.
///
/// # Errors
/// [`ReportError::StepSummary`] when the file cannot be written.
pub fn append_step_summary(file: &Path, report: &Report) -> Result<()> {
    let appended = OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .and_then(|mut opened| io::Write::write_all(&mut opened, step_summary(report).as_bytes()));
    Ok(appended.map_err(|source| ReportError::StepSummary { file: file.to_owned(), source })?)
}

fn write_one(output: &Output, report: &Report, stdout: &mut dyn io::Write, style: Style) -> Result<(), FailedOutput> {
    let format = output.format;
    let written = match &output.file {
        None => to_stdout(&render(report, format, style), stdout),
        Some(file) => to_file(file, &render(report, format, Style::default())),
    };
    let place = || output.file.as_ref().map_or("standard output".to_owned(), |file| file.display().to_string());
    written.map_err(|source| FailedOutput { format, place: place(), source })
}

fn to_stdout(text: &str, stdout: &mut dyn io::Write) -> io::Result<()> {
    stdout.write_all(text.as_bytes())?;
    // Writing the buffered rest can fail too.
    stdout.flush()
}

fn to_file(file: &Path, text: &str) -> io::Result<()> {
    atomic_file::write(file, text.as_bytes())
}
