//! The figures at a release, pinned in a baseline file. Every other byte stays.

use std::{collections::BTreeSet, path::Path};

use memgate_evidence::{
    error::{InputError, Result},
    platform::Platform,
};
use memgate_verdict::metric::Metric;

use super::{
    accept::{check_asked, edited, in_the_style_of, with_a_key, with_a_key_after},
    file, load,
};
use crate::yaml::{KeyPath, Problem, Scalar, Source};

/// A baseline file whose recorded figures are its anchors.
#[derive(Debug, Clone, PartialEq)]
pub struct Pinned {
    /// The whole text.
    pub text: String,
    /// The anchors that differ, in the order of the metrics.
    pub changes: Vec<Pin>,
}

/// An anchor and the one in its place, in the metric's unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pin {
    /// The metric.
    pub metric: Metric,
    /// The anchor of the file; `None` if it had none.
    pub before: Option<f64>,
    /// The recorded figure, which is the anchor now.
    pub after: f64,
}

/// Makes the recorded figures of these metrics, or of all if there are none, the anchors of a baseline file.
///
/// # Errors
/// When the text is no baseline of the service and platform, when a metric that is named has no recorded figure in it,
/// or when an entry cannot get another key.
pub fn anchor(
    path: &Path,
    text: &str,
    (platform, service): (Platform, &str),
    metrics: &BTreeSet<Metric>,
) -> Result<Pinned> {
    let source = Source::new(path.display().to_string(), text);
    let mut expected = load::from_source(&source, platform, service)?;
    check_asked(&source, &expected, metrics, "record it first, or name another metric")?;
    // Every digit of a figure that a person wrote.
    let written: file::File = source.parse()?;
    let mut pinned = Pinned { text: text.to_owned(), changes: Vec::new() };
    for (&metric, expectation) in &mut expected.metrics {
        let figure = written.metrics.get(&metric).and_then(|expectation| expectation.baseline.as_ref());
        let (Some(after), Some(Scalar(figure))) = (expectation.baseline, figure) else { continue };
        let is_asked = metrics.is_empty() || metrics.contains(&metric);
        if !is_asked || expectation.anchor == Some(after) {
            continue;
        }
        pinned.text = with_anchor(path, &pinned.text, metric, expectation.anchor.is_some(), figure)?;
        pinned.changes.push(Pin { metric, before: expectation.anchor, after });
        expectation.anchor = Some(after);
    }
    // memgate must not damage a file.
    if load::parse(path, &pinned.text, platform, service)? != expected {
        let message = format!("{}: its anchors cannot be written without a change of something else", path.display());
        return Err(InputError::new(message, "write `anchor` beside each `baseline` yourself").into());
    }
    Ok(pinned)
}

/// The text with one anchor more, or another one.
fn with_anchor(path: &Path, text: &str, metric: Metric, has_one: bool, figure: &str) -> Result<String> {
    let source = Source::new(path.display().to_string(), text);
    let place = KeyPath::root().key("metrics").key(metric.name());
    if has_one {
        return edited(&source, text, vec![(place.key("anchor"), figure.to_owned())]);
    }
    let added = format!("anchor: {}", in_the_style_of("", figure));
    let values = source.parse()?;
    let beside = with_a_key_after(text, &place, "baseline", &values, &added);
    beside.or_else(|| with_a_key(text, &place, &values, &added)).ok_or_else(|| {
        let help = format!("add it yourself: `{added}`");
        source.error(&place, Problem::new("this entry cannot get an anchor", "an unusual form", help))
    })
}
