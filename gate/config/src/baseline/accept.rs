//! New figures in a baseline file that people wrote. Every other byte stays.

use std::{collections::BTreeSet, ops::Range, path::Path};

use memgate_evidence::{
    Environment,
    error::{Error, InputError, Result},
    platform::Platform,
};
use memgate_verdict::{
    baseline::{Baseline, BaselineEnvironment, Expectation, Waiver},
    metric::Metric,
    summarise::Summary,
    units::format_exact,
};

use super::{
    load,
    render::{page_size, quoted, recorded_figure},
};
use crate::yaml::{KeyPath, Problem, Source};

/// A baseline file with other figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// The whole text.
    pub text: String,
    /// The figures that differ, in the order of the metrics.
    pub changes: Vec<Change>,
    /// Metrics whose figure stays because a run could not measure them, with the reason.
    pub kept: Vec<(Metric, String)>,
}

/// A recorded figure and the one in its place, in the metric's unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// The metric.
    pub metric: Metric,
    /// The figure of the file.
    pub before: f64,
    /// The mean of the runs.
    pub after: f64,
}

/// Puts the figures of these runs into the text of a baseline file: `baseline`, and `noise` where the file has it. With
/// all metrics, `environment` says where they come from. With some, only these change, and the runs must fit the file.
/// `recorded` is the day, such as `2026-11-23`.
///
/// Comments, order, anchors, indentation and line ends stay. A figure that stands behind an alias is an error, because
/// another place has it too.
///
/// # Errors
/// When the text is no baseline of the service and platform, when a metric is not in it, when there are fewer than two
/// runs, when some metrics are named and the runs do not fit, or when a value cannot be replaced alone.
pub fn accept(
    path: &Path,
    text: &str,
    summary: &Summary,
    recorded: &str,
    metrics: &BTreeSet<Metric>,
) -> Result<Accepted> {
    let source = Source::new(path.display().to_string(), text);
    let before = load::from_source(&source, summary.platform, &summary.baseline)?;
    if summary.runs.len() < 2 {
        let message = format!("{}: one run of {} has no noise", path.display(), summary.service);
        return Err(InputError::new(message, "record more runs: `memgate record --runs 6`").into());
    }
    check_asked(&source, &before, summary, metrics)?;
    let is_asked = |metric: &Metric| metrics.is_empty() || metrics.contains(metric);
    let (mut edits, mut changes, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for (&metric, expectation) in before.metrics.iter().filter(|(metric, _)| is_asked(metric)) {
        let Some(figure) = expectation.baseline else { continue };
        let (mean, noise) = match recorded_figure(summary, metric) {
            Ok((mean, noise)) => (mean, noise.unwrap_or_default()),
            Err(reason) => {
                kept.push((metric, reason));
                continue;
            }
        };
        let of = |key: &str| KeyPath::root().key("metrics").key(metric.name()).key(key);
        edits.push((of("baseline"), format_exact(mean, metric.unit())));
        if expectation.noise.is_some() {
            edits.push((of("noise"), format_exact(noise, metric.unit())));
        }
        changes.push(Change { metric, before: figure, after: mean });
    }
    if metrics.is_empty() {
        edits.extend(of_environment(&before.environment, &summary.environment, recorded, summary.runs.len()));
    }
    let text = edited(&source, text, edits)?;
    check_rest(path, &text, &before, summary, &changes)?;
    changes.retain(|change| {
        format_exact(change.before, change.metric.unit()) != format_exact(change.after, change.metric.unit())
    });
    Ok(Accepted { text, changes, kept })
}

/// Gives a metric a waiver in the text of a baseline file, in place of one that it has. Every other byte stays.
///
/// # Errors
/// When the text is no baseline of the service and platform, when the metric has no entry in it, or when the entry cannot
/// get another key.
pub fn waive(
    path: &Path,
    text: &str,
    (platform, service): (Platform, &str),
    metric: Metric,
    waiver: &Waiver,
) -> Result<String> {
    let source = Source::new(path.display().to_string(), text);
    let before = load::from_source(&source, platform, service)?;
    let place = KeyPath::root().key("metrics").key(metric.name());
    let Some(entry) = before.metrics.get(&metric) else {
        let what = format!("{metric} has no entry here");
        let help = format!("add one first, such as `{metric}: {{ limit: … }}` with its default limit");
        return Err(source.error(&KeyPath::root().key("metrics"), Problem::new(what, "no entry", help)));
    };
    let Waiver { reason, owner, expires } = waiver;
    let text = match entry.waiver {
        Some(_) => {
            let of = |key: &str, value: &str| (place.key("waiver").key(key), value.to_owned());
            edited(&source, text, vec![of("reason", reason), of("owner", owner), of("expires", expires)])?
        }
        None => {
            let added =
                format!("waiver: {{ reason: {}, owner: {}, expires: {expires} }}", quoted(reason), quoted(owner));
            with_a_key(text, &place, &source.parse()?, &added).ok_or_else(|| {
                let help = format!("add it yourself: `{added}`");
                source.error(&place, Problem::new("this entry cannot get a waiver", "an unusual form", help))
            })?
        }
    };
    let mut after = load::parse(path, &text, platform, service)?;
    if let Some(entry) = after.metrics.get_mut(&metric).filter(|entry| entry.waiver.as_ref() == Some(waiver)) {
        entry.waiver.clone_from(&before.metrics[&metric].waiver);
    }
    if after == before {
        return Ok(text);
    }
    let message = format!("{}: {metric} cannot get a waiver without a change of something else", path.display());
    Err(InputError::new(message, "write the waiver into the file yourself").into())
}

/// The text with one more key at the end of a map whose last value is a scalar; `None` if it is not.
fn with_a_key(text: &str, place: &KeyPath, values: &serde_yaml::Value, added: &str) -> Option<String> {
    let mark = if text.starts_with('\u{feff}') { "\u{feff}" } else { "" };
    let body = &text[mark.len()..];
    let is_flow = body[place.find(body)?..].starts_with('{');
    let (last, _) = place.value(values)?.as_mapping()?.iter().last()?;
    let last = place.key(last.as_str()?);
    let end = span(body, &last, values)?.end;
    let (at, added) = if is_flow {
        (end, format!(", {added}"))
    } else {
        let key = last.at_key().find(body)?;
        let line = body[..key].rfind('\n').map_or(0, |at| at + 1);
        let indent = body[line..key].chars().all(|character| character == ' ').then_some(&body[line..key])?;
        let rest = &body[end..];
        let ends = rest.find('\n').map_or(rest.len(), |at| if rest[..at].ends_with('\r') { at - 1 } else { at });
        let line_end = if body.contains("\r\n") { "\r\n" } else { "\n" };
        (end + ends, format!("{line_end}{indent}{added}"))
    };
    Some([mark, &body[..at], &added, &body[at..]].concat())
}

/// Checks that the metrics can be accepted by themselves.
fn check_asked(source: &Source, before: &Baseline, summary: &Summary, metrics: &BTreeSet<Metric>) -> Result<()> {
    let has_figure = |metric: &Metric| before.metrics.get(metric).is_some_and(|one| one.baseline.is_some());
    if let Some(missing) = metrics.iter().find(|metric| !has_figure(metric)) {
        let what = format!("{missing} has no recorded figure here");
        let help = "add `baseline: …` with the figure of `memgate baseline diff`, or name another metric";
        let place = KeyPath::root().key("metrics");
        return Err(source.error(&place, Problem::new(what, "no recorded figure", help)));
    }
    let misfit = if metrics.is_empty() { None } else { memgate_verdict::judge::misfit(summary, before) };
    misfit.map_or(Ok(()), |misfit| {
        let help = "accept the figures of all metrics together: leave --metric out";
        Err(source.error(&KeyPath::root().key("environment"), Problem::new(misfit, "recorded elsewhere", help)))
    })
}

/// Where the figures come from, as far as the file says so.
fn of_environment(
    before: &BaselineEnvironment,
    now: &Environment,
    recorded: &str,
    runs: usize,
) -> impl Iterator<Item = (KeyPath, String)> {
    let known = |key, is_there: bool, text: String| (is_there && !text.is_empty()).then_some((key, text));
    let always = [
        ("go", now.go.clone()),
        ("kernel", now.kernel.clone()),
        ("page_size", page_size(now.page_size)),
        ("thp", now.thp.clone()),
        ("cpu", now.cpu.clone()),
        ("cpus", now.cpus.to_string()),
        ("runner", now.runner.to_string()),
        ("recorded", recorded.to_owned()),
        ("runs", runs.to_string()),
    ];
    let optional = [
        known("build", before.build.is_some(), now.build_text()),
        known("variables", before.variables.is_some(), now.variables_text()),
        known("load", before.load.is_some(), now.load.clone()),
        known("phases", before.phases.is_some(), now.phases.clone()),
    ];
    let place = KeyPath::root().key("environment");
    always.into_iter().chain(optional.into_iter().flatten()).map(move |(key, text)| (place.key(key), text))
}

/// The text with these values in place of those at the places.
fn edited(source: &Source, text: &str, edits: Vec<(KeyPath, String)>) -> Result<String> {
    let mark = if text.starts_with('\u{feff}') { "\u{feff}" } else { "" };
    let body = &text[mark.len()..];
    let values: serde_yaml::Value = source.parse()?;
    let mut spans = Vec::new();
    for (place, value) in edits {
        let span = span(body, &place, &values).ok_or_else(|| {
            let what = "this value cannot be replaced alone, because it is an alias or lies on several lines";
            let help = format!("write it out on one line, such as `{value}`");
            source.error(&place, Problem::new(what, "an alias, or several lines", help))
        })?;
        spans.push((span, value));
    }
    spans.sort_by_key(|(span, _)| span.start);
    let mut written = mark.to_owned();
    let mut end = 0;
    for (span, value) in spans {
        written.push_str(&body[end..span.start]);
        written.push_str(&in_the_style_of(&body[span.clone()], &value));
        end = span.end;
    }
    written.push_str(&body[end..]);
    Ok(written)
}

/// The bytes of the scalar at the place; `None` if it is not a scalar that stands there alone, on one line.
fn span(text: &str, place: &KeyPath, values: &serde_yaml::Value) -> Option<Range<usize>> {
    let mut start = place.find(text)?;
    // An alias is where its anchor is, before its own key.
    if start <= place.clone().at_key().find(text)? {
        return None;
    }
    // An anchor belongs to the place, and not to the value.
    if text[start..].starts_with('&') {
        let name = text[start..].find(char::is_whitespace)?;
        start += name + text[start + name..].find(|character: char| character != ' ')?;
    }
    let rest = &text[start..];
    let length = match rest.chars().next()? {
        '*' | '|' | '>' | '!' | '[' | '{' => return None,
        '"' => end_of_double_quoted(rest)?,
        '\'' => end_of_single_quoted(rest)?,
        _ => match place.value(values)? {
            serde_yaml::Value::String(text) => rest.starts_with(text.as_str()).then_some(text.len())?,
            _ => rest
                .find(|character: char| character.is_whitespace() || ",]}".contains(character))
                .unwrap_or(rest.len()),
        },
    };
    (length > 0 && !rest[..length].contains(['\n', '\r'])).then(|| start..start + length)
}

fn end_of_double_quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    let is_end = |character: char| {
        let ends = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        ends
    };
    Some(text[1..].find(is_end)? + 2)
}

/// Two quotes stand for one.
fn end_of_single_quoted(text: &str) -> Option<usize> {
    let mut at = 1;
    loop {
        at += text[at..].find('\'')? + 1;
        if !text[at..].starts_with('\'') {
            return Some(at);
        }
        at += 1;
    }
}

/// The value as a scalar, quoted as the old one was. A plain one stays plain if it can.
fn in_the_style_of(old: &str, value: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "./%-_+µ".contains(character);
    match old.chars().next() {
        Some('\'') if value.chars().all(|character| (' '..='~').contains(&character)) => {
            format!("'{}'", value.replace('\'', "''"))
        }
        Some('"' | '\'') => quoted(value),
        _ if value.chars().all(is_plain) => value.to_owned(),
        _ => quoted(value),
    }
}

/// Checks that the text is the same baseline but for the figures and the environment. memgate must not damage a file.
fn check_rest(path: &Path, text: &str, before: &Baseline, summary: &Summary, changes: &[Change]) -> Result<()> {
    let mut after = load::parse(path, text, summary.platform, &summary.baseline)?;
    for change in changes {
        let old = &before.metrics[&change.metric];
        let Some(new) = after.metrics.get_mut(&change.metric) else { continue };
        let is_near = |one: f64, other: f64| (one - other).abs() <= 1e-6 * other.abs().max(f64::MIN_POSITIVE);
        if new.baseline.is_some_and(|figure| is_near(figure, change.after)) {
            *new = Expectation { baseline: old.baseline, noise: old.noise, ..new.clone() };
        }
    }
    after.environment = before.environment.clone();
    if after == *before {
        return Ok(());
    }
    let message = format!("{}: its figures cannot be replaced without a change of something else", path.display());
    Err(Error::from(InputError::new(message, "write the figures of `memgate baseline diff` into the file yourself")))
}
