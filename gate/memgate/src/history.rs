//! Histories: a line for each verdict in a file that the user keeps, and the trends of such files.

mod append;
mod read;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use memgate_evidence::{
    error::{InputError, Result},
    platform::Platform,
};
use memgate_verdict::{
    history::{self, Line, Trends},
    metric::Metric,
};

pub(crate) use append::History;

/// What to show of a history; all of it where nothing is named.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// The services.
    pub(crate) services: Vec<String>,
    /// The platforms.
    pub(crate) platforms: Vec<Platform>,
    /// The metrics.
    pub(crate) metrics: Vec<Metric>,
}

/// The trends of all files together, and notes on what in the files does not count.
///
/// # Errors
/// When a file cannot be used, when there is no line in any, or when they do not have what is wanted.
pub(crate) fn trends(files: &[PathBuf], wanted: &Wanted) -> Result<(Trends, Vec<String>)> {
    let (mut lines, mut notes) = (Vec::new(), Vec::new());
    for file in files {
        let read = read::read(file)?;
        lines.extend(read.lines);
        notes.extend(read.notes);
    }
    if lines.is_empty() {
        // Each file without a line has a note that says why.
        let message = notes.join("; ");
        let help = format!("`memgate check --history {}` appends one for each service", files[0].display());
        return Err(InputError::new(message, help).into());
    }
    let lines = selected(&lines, files, wanted)?;
    // Every line was read with its time.
    let mut trends = history::trends(lines).map_err(|error| InputError::new(error, "please report this"))?;
    keep_metrics(&mut trends, files, &wanted.metrics)?;
    Ok((trends, notes))
}

/// The lines on these services and platforms.
fn selected<'a>(lines: &'a [Line], files: &[PathBuf], wanted: &Wanted) -> Result<Vec<&'a Line>> {
    let services: BTreeSet<&str> = lines.iter().map(|line| line.service.as_str()).collect();
    for service in &wanted.services {
        if !services.contains(service.as_str()) {
            return Err(absent(files, &format!("no verdict on the service `{service}`"), services));
        }
    }
    let platforms: BTreeSet<Platform> = lines.iter().map(|line| line.platform).collect();
    // `all` means those that are there.
    let missing = wanted.platforms.iter().find(|platform| !platforms.contains(platform));
    if let Some(platform) = missing.filter(|_| wanted.platforms != Platform::ALL) {
        return Err(absent(files, &format!("no verdict on {platform}"), platforms.iter().map(|p| p.name())));
    }
    let is_wanted = |line: &&Line| {
        (wanted.services.is_empty() || wanted.services.contains(&line.service))
            && (wanted.platforms.is_empty() || wanted.platforms.contains(&line.platform))
    };
    let selected: Vec<&Line> = lines.iter().filter(is_wanted).collect();
    if selected.is_empty() {
        let there: BTreeSet<_> = lines.iter().map(|line| format!("{} on {}", line.service, line.platform)).collect();
        let there = there.iter().map(String::as_str);
        return Err(absent(files, "no verdict on these services on these platforms", there));
    }
    Ok(selected)
}

/// Leaves only these metrics in the trends, or all if none is named.
fn keep_metrics(trends: &mut Trends, files: &[PathBuf], metrics: &[Metric]) -> Result<()> {
    let there: BTreeSet<Metric> = trends.trends.iter().flat_map(|trend| &trend.metrics).map(|one| one.metric).collect();
    if let Some(metric) = metrics.iter().find(|metric| !there.contains(metric)) {
        let there = there.iter().map(|metric| metric.name());
        return Err(absent(files, &format!("no figure of {metric}"), there));
    }
    if !metrics.is_empty() {
        for trend in &mut trends.trends {
            trend.metrics.retain(|one| metrics.contains(&one.metric));
        }
    }
    Ok(())
}

fn absent<'a>(
    files: &[PathBuf],
    what: &str,
    there: impl IntoIterator<Item = &'a str>,
) -> memgate_evidence::error::Error {
    let there: Vec<_> = there.into_iter().collect();
    let there = if there.is_empty() { "nothing".to_owned() } else { there.join(", ") };
    InputError::new(format!("{}: {what} is in it", named(files)), format!("it has: {there}")).into()
}

fn named(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// The directory that a path lies in.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
