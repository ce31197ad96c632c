//! Baseline files: made of evidence, compared with it, and given its figures.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use memgate_config::baseline::{self, Accepted};
use memgate_evidence::{
    error::{Error, InputError, Result},
    platform::Platform,
};
use memgate_files::{OutputError, whole as atomic_file};
use memgate_verdict::{
    baseline::{Baseline, Expectation, Limit, Waiver},
    judge,
    metric::{Comparison, DefaultLimit, Limits, Metric, Unit},
    summarise::{Summary, numbered, summarise},
    units,
};

use crate::judging;

mod anchor;
mod patch;
mod review;
mod update;

pub(crate) use anchor::{Which, anchor};
pub(crate) use patch::patch;
pub(crate) use review::review;
pub(crate) use update::update;

/// Where new figures come from, and where they go.
#[derive(Debug)]
pub(crate) struct Recorded<'a> {
    /// Evidence files, or directories that contain them.
    pub(crate) evidence: &'a [PathBuf],
    /// The directory of baselines.
    pub(crate) directory: &'a Path,
    /// The services to take; all in the evidence if there are none.
    pub(crate) services: &'a [String],
    /// The platforms to take; all in the evidence if there are none.
    pub(crate) platforms: Vec<Platform>,
}

/// Writes a new baseline file for each service and platform in the evidence, and returns their names, each on a line. If
/// one exists or cannot be made, none is written.
///
/// # Errors
/// When a file exists already, when evidence cannot be used, or when a file cannot be written.
pub(crate) fn record(recorded: &Recorded<'_>, limits: Limits) -> Result<String> {
    let directory = recorded.directory;
    let made = |summary: &Summary| {
        let file = baseline::path(directory, summary.platform, &summary.baseline);
        if baseline::load(directory, summary.platform, &summary.baseline)?.is_some() {
            let help = "give it the new figures with `memgate baseline accept`, or remove it and record again";
            return Err(InputError::new(format!("{}: this baseline already exists", file.display()), help).into());
        }
        Ok((file, baseline::render(summary, &today(), limits)?))
    };
    let files: Vec<_> = summaries(recorded)?.iter().map(made).collect::<Result<_>>()?;
    write_all(files.iter().map(|(file, text)| (file.as_path(), text.as_str())))?;
    Ok(files.iter().map(|(file, _)| format!("{}\n", file.display())).collect())
}

/// What [`accept`] would change, as text.
///
/// # Errors
/// The same.
pub(crate) fn diff(recorded: &Recorded<'_>) -> Result<String> {
    let files = accepted(recorded, &BTreeSet::new())?;
    Ok(files.iter().map(|(file, accepted)| told(&file.path, accepted, "would change")).collect())
}

/// Puts the figures of the evidence into the baseline files, those of these metrics or of all if there are none, and
/// returns what has changed as text. Everything else in the files stays. Either all files are written or, if one is wrong,
/// none.
///
/// # Errors
/// When there is no baseline, when a file cannot be changed, or when it changes meanwhile.
pub(crate) fn accept(recorded: &Recorded<'_>, metrics: &BTreeSet<Metric>) -> Result<String> {
    let files = accepted(recorded, metrics)?;
    replace(files.iter().map(|(file, accepted)| (file, accepted.text.as_str())))?;
    Ok(files.iter().map(|(file, accepted)| told(&file.path, accepted, "changed")).collect())
}

/// Puts a waiver into the baseline files of a service, for these platforms or for all that have one, and returns their
/// names. Either all files are written or, if one is wrong, none.
///
/// # Errors
/// When the waiver says nothing or ends in the past, when there is no baseline, or when the metric has no entry in it.
pub(crate) fn waive(
    metric: Metric,
    service: &str,
    platforms: &[Platform],
    waiver: &Waiver,
    directory: &Path,
) -> Result<String> {
    check_waiver(waiver)?;
    let expires = &waiver.expires;
    let wanted = if platforms.is_empty() { &Platform::ALL } else { platforms };
    let mut files = Vec::new();
    for platform in wanted.iter().copied() {
        match read(directory, platform, service)? {
            // A platform that is not asked for need not have one.
            None if platforms.is_empty() => {}
            None => return Err(no_baseline(directory, platform, service)),
            Some(file) => {
                let text = baseline::waive(&file.path, &file.text, (platform, service), metric, waiver)?;
                files.push((file, text));
            }
        }
    }
    if files.is_empty() {
        let message = format!("{service} has no baseline in {}", directory.display());
        let help = "name the directory with --baselines, and the service as its file is named";
        return Err(InputError::new(message, help).into());
    }
    replace(files.iter().map(|(file, text)| (file, text.as_str())))?;
    Ok(files.iter().map(|(file, _)| format!("{}: {metric} is waived until {expires}\n", file.path.display())).collect())
}

/// Checks that a waiver says something, and that it does not end in the past.
fn check_waiver(waiver: &Waiver) -> Result<()> {
    for (option, text) in [("--reason", &waiver.reason), ("--owner", &waiver.owner)] {
        if text.trim().is_empty() {
            return Err(InputError::new(format!("{option} is empty"), "write it for whoever reads the report").into());
        }
    }
    let expires = &waiver.expires;
    if !baseline::is_day(expires) || *expires < today() {
        let message = format!("--expires {expires}: this is no day from today on");
        return Err(InputError::new(message, format!("write a day such as {}", today())).into());
    }
    Ok(())
}

/// What a metric is, its default limits, which differences matter, and what each baseline file expects of it.
///
/// # Errors
/// When a baseline file is wrong.
pub(crate) fn explain(metric: Metric, directory: &Path) -> Result<String> {
    let unit = metric.unit();
    let mut text = format!("{metric}, {}: {}\n", unit.name(), metric.sentence());
    let limits = Limits::ALL.map(|limits| {
        let limit = match metric.default_limit(limits) {
            None => "none".to_owned(),
            Some(DefaultLimit::Fixed(limit)) => units::format(limit, unit),
            Some(DefaultLimit::Growth { bytes, share }) => {
                format!("{}, or {} a minute", units::format(bytes, unit), units::format(share, Unit::Ratio))
            }
        };
        format!("{} {limit}", limits.name())
    });
    // Writing to a string cannot fail.
    let _ = writeln!(text, "default limit: {}", limits.join("; "));
    let difference = |comparison: Comparison| {
        let share = units::format(comparison.tolerance, Unit::Ratio);
        comparison.floor.map_or(share.clone(), |floor| format!("{share} or {}", units::format(floor, unit)))
    };
    let of = |comparison: Option<Comparison>| comparison.map_or("not compared".to_owned(), difference);
    let _ = writeln!(text, "differences that matter, from a recorded figure: {}", of(metric.comparison()));
    let _ = writeln!(text, "from another build: {}", of(metric.beside().map(|beside| beside.closely)));
    let files = baselines(directory, |_| true)?;
    if files.is_empty() {
        let _ = writeln!(text, "{}: no baseline files", directory.display());
    }
    for (path, baseline) in files {
        let expected = match baseline.metrics.get(&metric) {
            None => "nothing beside the default limit".to_owned(),
            Some(expectation) => expected(expectation, unit),
        };
        let recorded = &baseline.environment.recorded;
        let _ = writeln!(text, "{}, recorded {recorded}: {expected}", path.display());
    }
    Ok(text)
}

/// `baseline 20.3kB/request, noise 0.49B/request, tolerance 0.40%`.
fn expected(expectation: &Expectation, unit: Unit) -> String {
    let Expectation {
        limit,
        baseline,
        anchor,
        noise,
        noise_freedom,
        between,
        between_freedom,
        tolerance,
        floor,
        must_notice,
        advisory,
        waiver,
    } = expectation;
    let freedom = |name: &str, freedom: &Option<u32>| freedom.map(|freedom| format!("{name} {freedom}"));
    let limit = match limit {
        Limit::Default => None,
        Limit::None => Some("limit none".to_owned()),
        Limit::At(limit) => Some(format!("limit {}", units::format(*limit, unit))),
    };
    let of = |name: &str, value: Option<f64>, unit| value.map(|value| format!("{name} {}", units::format(value, unit)));
    let parts = [
        limit,
        of("baseline", *baseline, unit),
        of("anchor", *anchor, unit),
        of("noise", *noise, unit),
        freedom("noise_freedom", noise_freedom),
        of("between", *between, unit),
        freedom("between_freedom", between_freedom),
        of("tolerance", *tolerance, Unit::Ratio),
        of("floor", *floor, unit),
        of("must_notice", *must_notice, unit),
        advisory.then(|| "advisory".to_owned()),
        waiver.as_ref().map(|waiver| format!("waived until {} by {}: {}", waiver.expires, waiver.owner, waiver.reason)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The baseline files of these services in the directory, in the order of their names.
fn baselines(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<(PathBuf, Baseline)>> {
    let mut found = Vec::new();
    for platform in Platform::ALL {
        for entry in fs::read_dir(directory.join(platform.folder())).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_yaml = path.extension().is_some_and(|extension| extension == "yaml");
            let name = path.file_stem().and_then(|name| name.to_str()).filter(|name| is_yaml && is_wanted(name));
            let Some(name) = name else { continue };
            found.extend(baseline::load(directory, platform, name)?.map(|baseline| (path.clone(), baseline)));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

/// A baseline file as it is.
struct File {
    path: PathBuf,
    text: String,
}

/// The baseline file of a service on a platform, which is a right one; `None` if there is none.
fn read(directory: &Path, platform: Platform, service: &str) -> Result<Option<File>> {
    // It also checks the name, which must not lead out of the directory, and the file's size.
    if baseline::load(directory, platform, service)?.is_none() {
        return Ok(None);
    }
    let path = baseline::path(directory, platform, service);
    let text = text_of(&path)?;
    Ok(Some(File { path, text }))
}

fn text_of(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| {
        let message = format!("{}: this baseline cannot be read: {error}", path.display());
        InputError::new(message, "check the file's permissions").into()
    })
}

fn no_baseline(directory: &Path, platform: Platform, service: &str) -> Error {
    let path = baseline::path(directory, platform, service);
    let help = "make one with `memgate baseline record`, or name the directory with --baselines";
    InputError::new(format!("{}: there is no such baseline", path.display()), help).into()
}

/// Gives the files these texts, or none of them if one has changed since it was read or cannot be written.
fn replace<'a>(files: impl Iterator<Item = (&'a File, &'a str)> + Clone) -> Result<()> {
    for (File { path, text }, _) in files.clone() {
        if text_of(path)? != *text {
            let message = format!("{}: it changed while memgate read it, and nothing is written", path.display());
            return Err(InputError::new(message, "run the command again").into());
        }
    }
    write_all(files.map(|(file, text)| (file.path.as_path(), text)))
}

/// Each baseline file with the figures of the evidence.
fn accepted(recorded: &Recorded<'_>, metrics: &BTreeSet<Metric>) -> Result<Vec<(File, Accepted)>> {
    let accepted = |summary: &Summary| {
        let directory = recorded.directory;
        let Some(file) = read(directory, summary.platform, &summary.baseline)? else {
            return Err(no_baseline(directory, summary.platform, &summary.baseline));
        };
        let accepted = baseline::accept(&file.path, &file.text, summary, &today(), metrics)?;
        Ok((file, accepted))
    };
    summaries(recorded)?.iter().map(accepted).collect()
}

/// The metrics of the evidence, by service and platform. Each has a baseline file of its own, because a file can have
/// the figures of one service only.
///
/// # Errors
/// When evidence cannot be used, when it has no runs of a service or platform that is named, or when the service fails
/// its requests: its figures mean nothing.
fn summaries(recorded: &Recorded<'_>) -> Result<Vec<Summary>> {
    let &Recorded { evidence, directory, services, ref platforms } = recorded;
    let mut found = judging::read_evidence(evidence)?;
    let has: Vec<String> = found.keys().map(|(service, platform)| format!("{service} on {platform}")).collect();
    found.retain(|(service, platform), _| {
        (services.is_empty() || services.contains(service)) && (platforms.is_empty() || platforms.contains(platform))
    });
    // Each that is named has runs with one of the others that are named.
    let no_service = services.iter().find(|wanted| found.keys().all(|(service, _)| service != *wanted));
    let no_platform = platforms.iter().find(|wanted| found.keys().all(|(_, platform)| platform != *wanted));
    if let Some(wanted) = no_service.cloned().or_else(|| no_platform.map(Platform::to_string)) {
        let message = format!("{wanted}: the evidence has no such run");
        return Err(InputError::new(message, format!("the evidence has runs of {}", has.join(", "))).into());
    }
    let summaries: Vec<Summary> =
        found.into_values().map(|recorded| Ok(summarise(&numbered(recorded.runs)?)?)).collect::<Result<_>>()?;
    for (index, summary) in summaries.iter().enumerate() {
        let before = baseline::load(directory, summary.platform, &summary.baseline)?;
        if let Some(reason) = judge::spoiled(summary, before.as_ref()) {
            let message = format!("{} on {}: {reason}", summary.service, summary.platform);
            let help = "mend the service or its load (`expect` names the right status codes), and record it again";
            return Err(InputError::new(message, help).into());
        }
        let is_same = |other: &&Summary| (&other.baseline, other.platform) == (&summary.baseline, summary.platform);
        if let Some(other) = summaries[..index].iter().find(is_same) {
            let message = format!(
                "{} and {} have the same baseline, {} on {}, which has the figures of one of them",
                other.service, summary.service, summary.baseline, summary.platform
            );
            return Err(InputError::new(message, "name one of the two services with --service").into());
        }
    }
    Ok(summaries)
}

/// What a file has or would have: a line for each figure that differs, and for each that stays because it was not
/// measured. For every metric, more is worse.
fn told(path: &Path, accepted: &Accepted, verb: &str) -> String {
    let Accepted { changes, kept, .. } = accepted;
    let figures = if changes.len() == 1 { "figure" } else { "figures" };
    let mut text = format!("{}: {} {figures} {verb}\n", path.display(), changes.len());
    for change in changes {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {}", line(change.metric, change.before, change.after));
    }
    for (metric, reason) in kept {
        let _ = writeln!(text, "  {metric}: stays, because it was not measured: {reason}");
    }
    text
}

/// `rss_peak: 60.0MiB -> 50.0MiB (-16.7%)`. For every metric, more is worse.
fn line(metric: Metric, before: f64, after: f64) -> String {
    let [from, to] = [before, after].map(|figure| units::format(figure, metric.unit()));
    let share = (after - before) / before.abs();
    let share = if share.is_finite() { format!(" ({share:+.1}%)", share = 100.0 * share) } else { String::new() };
    let looser = if after > before { ", looser" } else { "" };
    format!("{metric}: {from} -> {to}{share}{looser}")
}

/// Writes all files, or none if one cannot be written.
fn write_all<'a>(files: impl Iterator<Item = (&'a Path, &'a str)>) -> Result<()> {
    let failed = |path: &Path, source| OutputError::Path { path: path.to_owned(), option: "--baselines", source };
    let prepared = files
        .map(|(path, text)| {
            let prepared = atomic_file::prepare(path, text.as_bytes());
            Ok((path, prepared.map_err(|source| failed(path, source))?))
        })
        .collect::<Result<Vec<_>>>()?;
    prepared.into_iter().try_for_each(|(path, file)| Ok(file.put().map_err(|source| failed(path, source))?))
}

/// Today's date in UTC, such as `2026-11-23`.
fn today() -> String {
    jiff::Timestamp::now().to_string().chars().take_while(|character| *character != 'T').collect()
}
