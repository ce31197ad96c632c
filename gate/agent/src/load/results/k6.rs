//! What `k6 run --out json=FILE` writes: a line for each sample of each metric. Of each request, also of one that
//! follows a redirect, there is one sample of `http_req_duration`, with the time of its end (`Trail.SaveSamples`,
//! lib/netext/httpext/tracer.go, and `sampleEnvelope`, output/json/wrapper.go, k6 1.0). Its duration is without the
//! making of the connection.

use std::{borrow::Cow, io::BufRead};

use serde::Deserialize;

use super::{Count, Failure, Outcome, lines, time_ns};

/// The metric of which each request has one sample.
const METRIC: &str = "http_req_duration";

/// The code of a request that took too long (lib/netext/httpext/error_codes.go).
const TIMEOUT: &str = "1050";

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    metric: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a serde_json::value::RawValue,
}

#[derive(Deserialize)]
struct Sample<'a> {
    #[serde(borrow)]
    time: Cow<'a, str>,
    /// ms.
    value: f64,
    #[serde(borrow)]
    tags: Tags<'a>,
}

#[derive(Deserialize)]
struct Tags<'a> {
    #[serde(borrow)]
    status: Option<Cow<'a, str>>,
    #[serde(borrow)]
    error_code: Option<Cow<'a, str>>,
    #[serde(borrow)]
    expected_response: Option<Cow<'a, str>>,
}

/// Counts the results in such a text.
pub(super) fn read(text: impl BufRead, count: &mut Count) -> Result<(), String> {
    lines(text, |line| {
        let foreign = |_| "it is no sample of k6".to_owned();
        let line: Line<'_> = serde_json::from_str(line).map_err(foreign)?;
        if line.metric != METRIC || line.kind != "Point" {
            return Ok(());
        }
        let sample: Sample<'_> = serde_json::from_str(line.data.get()).map_err(foreign)?;
        count.add(&outcome(&sample)?)
    })
}

fn outcome(sample: &Sample<'_>) -> Result<Outcome, String> {
    let end_ns = time_ns(&sample.time)?;
    if !(0.0..=1e12).contains(&sample.value) {
        return Err("its duration is impossible".to_owned());
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most 1e18 ns")]
    let start_ns = end_ns - (sample.value * 1e6).round() as i128;
    let failure = match sample.tags.expected_response.as_deref() {
        Some("true") => None,
        Some("false") => Some(failure(&sample.tags)),
        _ => {
            let help = "leave it among k6's `systemTags`, and set no `http.setResponseCallback(null)`";
            return Err(format!("it has no tag `expected_response`: {help}"));
        }
    };
    Ok(Outcome { start_ns, end_ns, failure })
}

fn failure(tags: &Tags<'_>) -> Failure {
    match tags.status.as_deref().and_then(|status| status.parse().ok()) {
        Some(status @ 100..) => Failure::Status(status),
        Some(_) | None if tags.error_code.as_deref() == Some(TIMEOUT) => Failure::Unanswered("timeout"),
        Some(_) | None => Failure::Unanswered("no answer"),
    }
}
