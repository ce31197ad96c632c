//! The results of a load command: what became of each request, and when.
//!
//! A summary of the command's whole run would say nothing of the measuring phase, which is a part of it. So memgate takes
//! only formats that have the time of the day of each request, and counts those of each phase itself. Whatever is
//! missing, cut off or contradictory leaves the requests unknown, with the reason.
//!
//! A file of results may be far larger than the memory that may be used, so each result is counted as soon as it is read.

mod count;
mod k6;
mod vegeta;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    thread,
    time::{Duration, Instant, SystemTime},
};

use count::Count;
use memgate_evidence::{
    Phases, Requests,
    error::Result,
    plan::{CommandResults, ResultsFormat},
};
use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use super::LoadError;
use crate::Clock;

/// The longest line of a file of results, bytes. vegeta's have the bodies of the answers.
const LONGEST_LINE: u64 = 16 << 20;

/// The most results that are read, and the memory for them is at most some 300 MB. At 2,000 requests/s it is 40 minutes.
const MOST_RESULTS: u64 = 5_000_000;

/// The time between two looks whether the results are read.
const LOOK: Duration = Duration::from_millis(10);

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
pub(super) struct Times {
    /// What to take from a time of the day for one of the evidence, ns.
    offset_ns: i128,
    /// When the command was started, in the evidence's time, ns.
    start_ns: i128,
    /// When it had ended, in the evidence's time, ns.
    now_ns: i128,
}

impl Times {
    /// By both clocks, when the command has just ended. Fails if somebody has set the time of the day since the start.
    pub(super) fn of(started: Started, clock: Clock) -> Result<Self, String> {
        let (wall_ns, elapsed, now_ns) = (wall_ns(), started.instant.elapsed(), i128::from(clock.now_ns()));
        let drift_ns = wall_ns - started.wall_ns - signed(elapsed);
        if drift_ns.abs() > SLACK_NS {
            return Err(format!("the time of the day was changed by {} ms during the load", drift_ns / 1_000_000));
        }
        let start_ns = now_ns - signed(elapsed);
        Ok(Self { offset_ns: started.wall_ns - start_ns, start_ns, now_ns })
    }
}

/// The results of a load command that has ended, which nobody has read yet.
#[derive(Debug)]
pub struct Results {
    file: CommandResults,
    times: Result<Times, String>,
}

impl Results {
    /// Those in this file.
    pub(super) const fn new(file: CommandResults, times: Result<Times, String>) -> Self {
        Self { file, times }
    }

    /// What a reader of the figures must know of this format.
    pub fn note(&self, phases: &Phases) -> Option<String> {
        match self.file.format {
            ResultsFormat::K6 => Some(format!(
                "k6's results lack the requests that were under way at its end, {:.1} s after the measuring phase: a \
                 request with a longer timeout may be in no count",
                phases.tail.map_or(0.0, |tail| tail.length_ns() as f64 / 1e9)
            )),
            // A number that is missing is such a request.
            ResultsFormat::Vegeta => None,
        }
    }

    /// Reads them. The inner result has the figures, with each time at which a request was completed, or the reason why
    /// they are not known. Dropping the future gives up waiting; the thread that reads ends with memgate.
    ///
    /// # Errors
    /// Fails if the histogram of latencies cannot be made.
    pub async fn read(self, phases: Phases) -> Result<Result<Requests, String>> {
        let reading = thread::Builder::new().name("results".to_owned()).spawn(move || self.count(&phases));
        let reading = match reading {
            Ok(reading) => reading,
            Err(error) => return Ok(Err(format!("no thread can be started to read the results: {error}"))),
        };
        while !reading.is_finished() {
            tokio::time::sleep(LOOK).await;
        }
        reading.join().unwrap_or_else(|_| Err(LoadError::Panicked.into()))
    }

    fn count(self, phases: &Phases) -> Result<Result<Requests, String>> {
        let name = self.file.file.file_name().unwrap_or_default().to_string_lossy();
        let times = match self.times {
            Ok(times) => times,
            Err(why) => return Ok(Err(why)),
        };
        let mut count = Count::new(times, phases)?;
        let counted = read(&self.file.file, self.file.format, &mut count).and_then(|()| count.finish());
        Ok(counted.map_err(|why| format!("`load.results.file` {name}: {why}")))
    }
}

/// Counts the results in a file, which may be in any order.
fn read(file: &Path, format: ResultsFormat, count: &mut Count) -> Result<(), String> {
    let unreadable = |error: io::Error| format!("it cannot be read: {error}");
    // The command may be another user's: it may have put a link or a pipe there.
    let opened = File::options().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(file).map_err(unreadable)?;
    if !opened.metadata().map_err(unreadable)?.is_file() {
        return Err("it is no regular file".to_owned());
    }
    parse(BufReader::new(opened), format, count)
}

fn parse(text: impl BufRead, format: ResultsFormat, count: &mut Count) -> Result<(), String> {
    match format {
        ResultsFormat::K6 => k6::read(text, count),
        ResultsFormat::Vegeta => vegeta::read(text, count),
    }?;
    if count.is_empty() {
        return Err(format!("it has no result of a request by {}", format.name()));
    }
    Ok(())
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
        let no_text = |_| format!("line {number} is no text: let the command write the file without compression");
        let text = std::str::from_utf8(&line).map_err(no_text)?;
        each(text.trim_end_matches('\r')).map_err(|why| format!("line {number}: {why}"))?;
    }
    Ok(())
}

/// A time such as `2026-11-30T17:35:10.123456789+01:00`, ns since 1970.
fn time_ns(text: &str) -> Result<i128, String> {
    let time: jiff::Timestamp = text.parse().map_err(|_| "its time is no time of the day with a zone".to_owned())?;
    Ok(time.as_nanosecond())
}

#[cfg(test)]
mod tests;
