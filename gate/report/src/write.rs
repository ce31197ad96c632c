//! Writes reports to their outputs.

use std::{fs::OpenOptions, io, path::Path};

use memgate_evidence::error::{Error, Result, Stage};
use memgate_files::whole as atomic_file;
use memgate_verdict::results::Report;

use super::{Format, Output, Style, render, step_summary, validate};

/// Writes the report to every output. Files are written whole or not at all, with missing parent directories made,
/// without colours and without a fixed width. At most one format goes to `stdout`, which is flushed. If one output
/// fails, the others are still written.
///
/// # Errors
/// [`Error::Input`] as [`validate`]. [`Error::Infrastructure`] at [`Stage::Output`] when a file or standard output
/// cannot be written (full disk, no permission, closed pipe); it names all of them.
pub fn write(outputs: &[Output], report: &Report, stdout: &mut dyn io::Write, style: Style) -> Result<()> {
    validate(outputs)?;
    let failures: Vec<_> = outputs.iter().filter_map(|output| write_one(output, report, stdout, style).err()).collect();
    if failures.is_empty() {
        return Ok(());
    }
    Err(Error::infrastructure(
        Stage::Output,
        failures.join("\n"),
        "The evidence is kept: `memgate report EVIDENCE… --format F[=FILE]` prints the report again.",
    ))
}

/// Appends the report as Markdown to the file that GitHub Actions shows as the step's summary.
///
/// # Errors
/// [`Error::Infrastructure`] at [`Stage::Output`] when the file cannot be written.
pub fn append_step_summary(file: &Path, report: &Report) -> Result<()> {
    let appended = OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .and_then(|mut opened| io::Write::write_all(&mut opened, step_summary(report).as_bytes()));
    appended.map_err(|error| {
        let message = format!("The step summary cannot be written to {}: {error}.", file.display());
        Error::infrastructure(Stage::Output, message, "Unset GITHUB_STEP_SUMMARY, or make room.")
    })
}

fn write_one(output: &Output, report: &Report, stdout: &mut dyn io::Write, style: Style) -> Result<(), String> {
    match &output.file {
        None => to_stdout(&render(report, output.format, style), stdout)
            .map_err(|error| failure(output.format, "standard output", &error)),
        Some(file) => to_file(file, &render(report, output.format, Style::default()))
            .map_err(|error| failure(output.format, &file.display().to_string(), &error)),
    }
}

fn to_stdout(text: &str, stdout: &mut dyn io::Write) -> io::Result<()> {
    stdout.write_all(text.as_bytes())?;
    // Writing the buffered rest can fail too.
    stdout.flush()
}

fn to_file(file: &Path, text: &str) -> io::Result<()> {
    atomic_file::write(file, text.as_bytes())
}

fn failure(format: Format, place: &str, error: &io::Error) -> String {
    format!("The report as {format} cannot be written to {place}: {error}.")
}
