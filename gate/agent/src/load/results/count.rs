//! Counts the results of a load command, one after the other.

use hdrhistogram::Histogram;
use memgate_evidence::{Phases, RequestCounts, Requests, Series, TimeSpan, error::Result};

use super::{
    super::tally::{recorder, to_evidence},
    Failure, MOST_RESULTS, Outcome, SLACK_NS, Times,
};

/// The counts so far.
#[derive(Debug)]
pub(super) struct Count {
    times: Times,
    /// Warm-up, measuring phase and tail, with their requests.
    phases: [(Option<TimeSpan>, RequestCounts); 3],
    /// The latencies of the measuring phase's requests that were answered.
    latency: Histogram<u64>,
    /// When each request that succeeded had ended, ns since the launch.
    ends_ns: Vec<u64>,
    /// How many there were.
    pub(super) results: u64,
    /// The last end of any request, in the evidence's time, ns.
    last_ns: i128,
}

impl Count {
    /// Nothing.
    ///
    /// # Errors
    /// Fails if the histogram cannot be made.
    pub(super) fn new(times: Times, phases: &Phases) -> Result<Self> {
        let phases = [phases.warmup, phases.measure, phases.tail].map(|span| (span, RequestCounts::default()));
        let (latency, ends_ns) = (recorder()?, Vec::new());
        Ok(Self { times, phases, latency, ends_ns, results: 0, last_ns: i128::MIN })
    }

    /// Whether there was no result.
    pub(super) const fn is_empty(&self) -> bool {
        self.results == 0
    }

    /// Counts a result, whose times are those of the day.
    ///
    /// # Errors
    /// The reason, if it is not of this load, or if there are too many.
    pub(super) fn add(&mut self, outcome: &Outcome) -> Result<(), String> {
        if self.results >= MOST_RESULTS {
            return Err(format!(
                "it has more than {MOST_RESULTS} results: shorten the phases or lower the rate of the command"
            ));
        }
        self.results += 1;
        let [start_ns, end_ns] = [outcome.start_ns, outcome.end_ns].map(|time_ns| time_ns - self.times.offset_ns);
        if start_ns < self.times.start_ns - SLACK_NS {
            return Err("its request is from before the load: let the command write the file anew".to_owned());
        }
        if end_ns > self.times.now_ns + SLACK_NS || end_ns < start_ns {
            return Err("its request ended after the load, or before it began".to_owned());
        }
        self.last_ns = self.last_ns.max(end_ns);
        // A request belongs to the phase in which it was sent.
        for (_, counts) in self.phases.iter_mut().filter(|(span, _)| is_in(start_ns, *span)) {
            counts.intended += 1;
            match &outcome.failure {
                None => counts.succeeded += 1,
                Some(failure) => *counts.failed.entry(failure.to_string()).or_default() += 1,
            }
        }
        let [_, (measure, _), _] = &self.phases;
        if is_in(start_ns, *measure) && !matches!(outcome.failure, Some(Failure::Unanswered(_))) {
            self.latency.saturating_record(u64::try_from(end_ns - start_ns).unwrap_or(0));
        }
        if outcome.failure.is_none() {
            // One that ended a little before the launch by the other clock ended at it.
            self.ends_ns.push(u64::try_from(end_ns.max(self.times.start_ns)).unwrap_or(0));
        }
        Ok(())
    }

    /// The figures.
    ///
    /// # Errors
    /// The reason, if the results do not reach beyond the measuring phase: then later ones may be missing.
    pub(super) fn finish(mut self) -> Result<Requests, String> {
        let [(_, warmup), (span, measure), (_, tail)] = self.phases;
        let span = span.ok_or("there was no measuring phase")?;
        let left_ns = i128::from(span.end_ns) - self.last_ns;
        if left_ns > 0 {
            let left = left_ns as f64 / 1e9;
            return Err(format!(
                "its last result is from {left:.3} s before the end of the measuring phase: later ones may be missing"
            ));
        }
        self.ends_ns.sort_unstable();
        let value = (1..).take(self.ends_ns.len()).collect();
        let seconds = span.length_ns() as f64 / 1e9;
        let per_second = if seconds > 0.0 { measure.intended as f64 / seconds } else { 0.0 };
        let completed = Series { at_ns: self.ends_ns, value };
        Ok(Requests { completed, warmup, measure, tail, latency: to_evidence(&self.latency), per_second })
    }
}

fn is_in(time_ns: i128, span: Option<TimeSpan>) -> bool {
    span.is_some_and(|span| (i128::from(span.start_ns)..i128::from(span.end_ns)).contains(&time_ns))
}
