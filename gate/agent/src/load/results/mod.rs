//! The results of a load command: what became of each request, and when.
//!
//! A summary of the command's whole run would say nothing of the measuring phase, which is a part of it. So memgate takes
//! only formats that have the time of the day of each request, and counts those of each phase itself. Whatever is
//! missing, cut off or contradictory leaves the requests unknown, with the reason.

mod k6;
mod vegeta;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use memgate_evidence::{
    Phases, RequestCounts, Requests, Series, TimeSpan,
    error::Result,
    plan::{CommandResults, ResultsFormat},
};
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use super::tally::{recorder, to_evidence};
use crate::Clock;

/// The longest line of a file of results, bytes. vegeta's have the bodies of the answers.
const LONGEST_LINE: u64 = 16 << 20;

/// The most results that are read. At 10,000 requests/s it is half an hour.
const MOST_RESULTS: usize = 20_000_000;

/// How far the two clocks may drift apart in a run, and how far a result may lie outside of the load, ns.
const SLACK_NS: i128 = 20_000_000;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outcome {
    /// When it was sent, ns since 1970.
    start_ns: i128,
    /// When its answer was complete, or it had failed, ns since 1970.
    end_ns: i128,
    /// Why it failed, if it did.
    failure: Option<Failure>,
}

/// Why a request failed, in the vocabulary of memgate's own load.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Failure {
    /// Its answer has this status.
    Status(u16),
    /// There was no answer.
    Unanswered(&'static str),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "status {status}"),
            Self::Unanswered(why) => f.write_str(why),
        }
    }
}

/// When a load command was started, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Started {
    wall_ns: i128,
    instant: Instant,
}

impl Started {
    /// Now.
    pub(super) fn now() -> Self {
        Self { wall_ns: wall_ns(), instant: Instant::now() }
    }
}

/// The time of the day, ns since 1970.
fn wall_ns() -> i128 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or_else(|before| -signed(before.duration()), signed)
}

fn signed(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

/// How times of the day become times of the evidence.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// What to take from a time of the day for one of the evidence, ns.
    offset_ns: i128,
    /// When the command was started, in the evidence's time, ns.
    start_ns: i128,
    /// Now.
    now_ns: i128,
}

impl Times {
    /// By both clocks. Fails if somebody has set the time of the day since the start.
    fn of(started: Started, clock: Clock) -> Result<Self, String> {
        let (wall_ns, elapsed, now_ns) = (wall_ns(), started.instant.elapsed(), i128::from(clock.now_ns()));
        let drift_ns = wall_ns - started.wall_ns - signed(elapsed);
        if drift_ns.abs() > SLACK_NS {
            return Err(format!("the time of the day was changed by {} ms during the load", drift_ns / 1_000_000));
        }
        let start_ns = now_ns - signed(elapsed);
        Ok(Self { offset_ns: started.wall_ns - start_ns, start_ns, now_ns })
    }
}

/// The figures of the requests of a load command that has ended. The inner result has the reason if they are not known.
///
/// # Errors
/// Fails if the histogram of latencies cannot be made.
pub(super) fn requests(
    results: &CommandResults,
    phases: &Phases,
    started: Started,
    clock: Clock,
) -> Result<Result<Requests, String>> {
    let name = results.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let read = || {
        let times = Times::of(started, clock)?;
        let outcomes = read(&results.file, results.format).map_err(|why| format!("{name}: {why}"))?;
        let inside = inside(outcomes, times, phases).map_err(|why| format!("{name}: {why}"))?;
        Ok((inside, times))
    };
    match read() {
        Ok((outcomes, times)) => figures(&outcomes, times, phases).map(Ok),
        Err(why) => Ok(Err(why)),
    }
}

/// The results in a file, in any order.
fn read(file: &Path, format: ResultsFormat) -> Result<Vec<Outcome>, String> {
    let unreadable = |error: io::Error| format!("it cannot be read: {error}");
    // The command may be another user's: it may have put a link or a pipe there.
    let opened = File::options().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(file).map_err(unreadable)?;
    if !opened.metadata().map_err(unreadable)?.is_file() {
        return Err("it is no regular file".to_owned());
    }
    parse(BufReader::new(opened), format)
}

fn parse(text: impl BufRead, format: ResultsFormat) -> Result<Vec<Outcome>, String> {
    let outcomes = match format {
        ResultsFormat::K6 => k6::read(text),
        ResultsFormat::Vegeta => vegeta::read(text),
    }?;
    if outcomes.is_empty() {
        return Err(format!("it has no result of a request by {}", format.name()));
    }
    Ok(outcomes)
}

/// Hands each whole line to `each`, with its number from 1. A last line without an end is cut off, and left out.
fn lines(mut text: impl BufRead, mut each: impl FnMut(&str) -> Result<(), String>) -> Result<(), String> {
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let read = text.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
        if read.map_err(|error| format!("it cannot be read: {error}"))? == 0 {
            return Ok(());
        }
        if line.pop() != Some(b'\n') {
            let is_last = text.fill_buf().is_ok_and(<[u8]>::is_empty);
            return if is_last { Ok(()) } else { Err(format!("line {number} is too long")) };
        }
        let text = std::str::from_utf8(&line).map_err(|_| format!("line {number} is no text"))?;
        each(text.trim_end_matches('\r')).map_err(|why| format!("line {number}: {why}"))?;
    }
    Ok(())
}

/// Adds a result, unless there are too many.
fn push(outcomes: &mut Vec<Outcome>, outcome: Outcome) -> Result<(), String> {
    if outcomes.len() >= MOST_RESULTS {
        return Err(format!("it has more than {MOST_RESULTS} results"));
    }
    outcomes.push(outcome);
    Ok(())
}

/// A time such as `2026-11-30T17:35:10.123456789+01:00`, ns since 1970.
fn time_ns(text: &str) -> Result<i128, String> {
    let time: jiff::Timestamp = text.parse().map_err(|_| "its time is no time of the day with a zone".to_owned())?;
    Ok(time.as_nanosecond())
}

/// The results in the evidence's time.
///
/// # Errors
/// The reason, if a result is not of this load, or if the results do not reach beyond the measuring phase: then later
/// ones may be missing.
fn inside(outcomes: Vec<Outcome>, times: Times, phases: &Phases) -> Result<Vec<Outcome>, String> {
    let in_evidence = |outcome: Outcome| Outcome {
        start_ns: outcome.start_ns - times.offset_ns,
        end_ns: outcome.end_ns - times.offset_ns,
        ..outcome
    };
    let outcomes: Vec<_> = outcomes.into_iter().map(in_evidence).collect();
    if outcomes.iter().any(|outcome| outcome.start_ns < times.start_ns - SLACK_NS) {
        return Err("it has requests from before the load: let the command write the file anew".to_owned());
    }
    if outcomes.iter().any(|outcome| outcome.end_ns > times.now_ns + SLACK_NS || outcome.end_ns < outcome.start_ns) {
        return Err("it has requests that ended after the load, or before they began".to_owned());
    }
    let measure = phases.measure.ok_or("there was no measuring phase")?;
    let last_ns = outcomes.iter().map(|outcome| outcome.end_ns).max().unwrap_or(0);
    let left_ns = i128::from(measure.end_ns) - last_ns;
    if left_ns > 0 {
        let left = left_ns as f64 / 1e9;
        return Err(format!(
            "its last result is from {left:.3} s before the end of the measuring phase: later ones may be missing"
        ));
    }
    Ok(outcomes)
}

fn figures(outcomes: &[Outcome], times: Times, phases: &Phases) -> Result<Requests> {
    let counts = |span: Option<TimeSpan>| {
        let mut counts = RequestCounts::default();
        for outcome in outcomes.iter().filter(|outcome| is_in(outcome, span)) {
            counts.intended += 1;
            match &outcome.failure {
                None => counts.succeeded += 1,
                Some(failure) => *counts.failed.entry(failure.to_string()).or_default() += 1,
            }
        }
        counts
    };
    let mut latency = recorder()?;
    let is_answered = |outcome: &&Outcome| !matches!(outcome.failure, Some(Failure::Unanswered(_)));
    for outcome in outcomes.iter().filter(|outcome| is_in(outcome, phases.measure)).filter(is_answered) {
        latency.saturating_record(u64::try_from(outcome.end_ns - outcome.start_ns).unwrap_or(0));
    }
    let succeeded = outcomes.iter().filter(|outcome| outcome.failure.is_none());
    let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
    for outcome in succeeded {
        // One that ended a little before the launch by the other clock ended at it.
        *ends.entry(u64::try_from(outcome.end_ns.max(times.start_ns)).unwrap_or(0)).or_default() += 1;
    }
    let mut completed = Series::default();
    let mut number = 0;
    for (at_ns, more) in ends {
        number += more;
        completed.push(at_ns, number);
    }
    let measure = counts(phases.measure);
    let seconds = phases.measure.map_or(0.0, |span| span.length_ns() as f64 / 1e9);
    let per_second = if seconds > 0.0 { measure.intended as f64 / seconds } else { 0.0 };
    Ok(Requests {
        completed,
        warmup: counts(phases.warmup),
        tail: counts(phases.tail),
        latency: to_evidence(&latency),
        measure,
        per_second,
    })
}

/// Whether a request was sent in the span.
fn is_in(outcome: &Outcome, span: Option<TimeSpan>) -> bool {
    span.is_some_and(|span| (i128::from(span.start_ns)..i128::from(span.end_ns)).contains(&outcome.start_ns))
}

#[cfg(test)]
mod tests;
