//! The outcomes of the requests.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram as Recorder;
use memgate_evidence::{Histogram, RequestCounts, error::Result};
use serde::{Deserialize, Serialize};

use super::{LoadError, RequestFailure, schedule::Phase};

/// The longest duration in the histograms, ns: 1 h. Longer ones count as this.
const LONGEST_NS: u64 = 3_600_000_000_000;

/// A generator that is later than this at the 99th percentile causes a note.
const LATE: Duration = Duration::from_millis(5);

/// A generator that is busy for a larger share of the time causes a note.
const BUSY_SHARE: f64 = 0.8;

/// Requests of all phases so far. They can be read at any time without locks.
#[derive(Debug, Default)]
pub struct Progress {
    /// Answered in time with an expected status.
    pub succeeded: AtomicU64,
    /// The others.
    pub failed: AtomicU64,
}

/// The load generator's figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadOutcome {
    /// Requests intended in the warm-up.
    pub warmup: RequestCounts,
    /// Requests intended in the measuring phase.
    pub measure: RequestCounts,
    /// Requests intended in the tail.
    pub tail: RequestCounts,
    /// Latencies of the measuring phase's requests that were answered in time, with any status, from the intended start,
    /// in a guest from the sending, to the last byte of the body.
    pub latency: Histogram,
    /// The generator's own lateness in the measuring phase, ns: the larger of two 99th percentiles. The first is of the
    /// time from a request's intended start to its release. The second is of the time from when it was due and a
    /// connection was free until the connection got it. 0 without requests, and for a guest.
    pub lateness_p99_ns: u64,
    /// Share of the measuring phase in which the generator's thread ran or waited for a CPU, 0 to about 1; `None` if
    /// the load was aborted before its end, and for a guest.
    pub busy_share: Option<f64>,
}

impl LoadOutcome {
    /// Notes for the user on what the figures are worth.
    pub fn notes(&self) -> Vec<String> {
        let unmade = [("warm-up", &self.warmup), ("measuring phase", &self.measure)].map(|(phase, counts)| {
            let (unmade, intended) = (counts.unmade(), counts.intended);
            let made = intended.saturating_sub(unmade);
            let note = || format!("The {phase} had {made} of {intended} requests, because its time was over.");
            (unmade > 0).then(note)
        });
        unmade.into_iter().flatten().chain(self.generator_note()).collect()
    }

    /// A note for the user if latencies contain the generator's own delay: it was late by more than 5 ms, or it was
    /// busy for more than 80 % of the time, so that answers waited for it.
    pub fn generator_note(&self) -> Option<String> {
        if let Some(share) = self.busy_share.filter(|share| *share > BUSY_SHARE) {
            let percent = share * 100.0;
            return Some(format!(
                "The load generator ran or waited for a CPU {percent:.0} % of the time; latencies contain its own delay."
            ));
        }
        let late = Duration::from_nanos(self.lateness_p99_ns);
        (late > LATE).then(|| {
            format!("The load generator sent requests up to {late:.1?} late (p99); latencies contain its own delay.")
        })
    }
}

/// The counts of a phase.
#[derive(Debug, Default)]
struct Counts {
    succeeded: u64,
    failed: BTreeMap<RequestFailure, u64>,
}

impl Counts {
    fn recorded(&self) -> u64 {
        self.succeeded + self.failed.values().sum::<u64>()
    }

    fn into_evidence(self, intended: u64) -> RequestCounts {
        let failed = self.failed.into_iter().map(|(reason, count)| (reason.to_string(), count)).collect();
        RequestCounts { intended, succeeded: self.succeeded, failed }
    }
}

/// The requests of a phase, and why those failed that are not counted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Missing {
    /// All requests of the phase.
    pub(super) intended: u64,
    /// Why some are missing.
    pub(super) reason: RequestFailure,
}

/// Counts requests as they end.
#[derive(Debug)]
pub(super) struct Tally {
    progress: Arc<Progress>,
    warmup: Counts,
    measure: Counts,
    tail: Counts,
    latency: Recorder<u64>,
    released_late: Recorder<u64>,
    sent_late: Recorder<u64>,
    busy_share: Option<f64>,
}

impl Tally {
    /// An empty tally that keeps the progress up to date.
    pub(super) fn new(progress: Arc<Progress>) -> Result<Self> {
        Ok(Self {
            progress,
            warmup: Counts::default(),
            measure: Counts::default(),
            tail: Counts::default(),
            latency: recorder()?,
            released_late: recorder()?,
            sent_late: recorder()?,
            busy_share: None,
        })
    }

    /// Counts how late a request was released, after its intended start.
    pub(super) fn record_release(&mut self, phase: Phase, late: Duration) {
        if phase == Phase::Measure {
            self.released_late.saturating_record(nanoseconds(late));
        }
    }

    /// Counts how late a request was sent, after it was due and a connection was free.
    pub(super) fn record_sending(&mut self, phase: Phase, late: Duration) {
        if phase == Phase::Measure {
            self.sent_late.saturating_record(nanoseconds(late));
        }
    }

    /// Sets the share of the measuring phase in which the generator was busy.
    pub(super) const fn record_busy_share(&mut self, share: Option<f64>) {
        self.busy_share = share;
    }

    /// Counts a request that ended `latency` after its intended start.
    pub(super) fn record(&mut self, phase: Phase, outcome: Result<(), RequestFailure>, latency: Duration) {
        let is_answered = outcome.map_or_else(RequestFailure::is_answered, |()| true);
        if phase == Phase::Measure && is_answered {
            self.latency.saturating_record(nanoseconds(latency));
        }
        match outcome {
            Ok(()) => {
                self.counts(phase).succeeded += 1;
                self.progress.succeeded.fetch_add(1, Ordering::Relaxed);
            }
            Err(reason) => self.fail(phase, reason, 1),
        }
    }

    /// The figures so far. Requests that are not counted have failed.
    pub(super) fn finish(&mut self, missing: impl Fn(Phase) -> Missing) -> LoadOutcome {
        for phase in Phase::ALL {
            let Missing { intended, reason } = missing(phase);
            let missing = intended.saturating_sub(self.counts(phase).recorded());
            if missing > 0 {
                self.fail(phase, reason, missing);
            }
        }
        LoadOutcome {
            warmup: std::mem::take(&mut self.warmup).into_evidence(missing(Phase::Warmup).intended),
            measure: std::mem::take(&mut self.measure).into_evidence(missing(Phase::Measure).intended),
            tail: std::mem::take(&mut self.tail).into_evidence(missing(Phase::Tail).intended),
            latency: to_evidence(&self.latency),
            lateness_p99_ns: self.released_late.value_at_quantile(0.99).max(self.sent_late.value_at_quantile(0.99)),
            busy_share: self.busy_share,
        }
    }

    fn fail(&mut self, phase: Phase, reason: RequestFailure, count: u64) {
        *self.counts(phase).failed.entry(reason).or_default() += count;
        self.progress.failed.fetch_add(count, Ordering::Relaxed);
    }

    const fn counts(&mut self, phase: Phase) -> &mut Counts {
        match phase {
            Phase::Warmup => &mut self.warmup,
            Phase::Measure => &mut self.measure,
            Phase::Tail => &mut self.tail,
        }
    }
}

pub(super) fn recorder() -> Result<Recorder<u64>> {
    Ok(Recorder::new_with_bounds(1, LONGEST_NS, 3).map_err(LoadError::Histogram)?)
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn to_evidence(recorder: &Recorder<u64>) -> Histogram {
    let buckets = recorder.iter_recorded().map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value()));
    let (value_ns, count) = buckets.unzip();
    Histogram { value_ns, count }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;
    use proptest::prelude::*;

    use super::*;

    const MISSING: Missing = Missing { intended: 100, reason: RequestFailure::NotSent };

    #[test]
    fn requests_without_a_record_were_not_sent() {
        let progress = Arc::new(Progress::default());
        let mut tally = Tally::new(Arc::clone(&progress)).unwrap();
        tally.record(Phase::Warmup, Ok(()), Duration::from_millis(1));
        tally.record(Phase::Measure, Err(RequestFailure::Refused), Duration::from_millis(1));
        let outcome = tally.finish(|_| MISSING);
        assert_eq!((outcome.warmup.intended, outcome.warmup.succeeded), (100, 1));
        assert_eq!(outcome.warmup.failed, BTreeMap::from([("not sent".into(), 99)]));
        assert_eq!(outcome.measure.failed, BTreeMap::from([("connection refused".into(), 1), ("not sent".into(), 99)]));
        assert_eq!(outcome.latency, Histogram::default(), "neither was answered in the measuring phase");
        assert_eq!((outcome.tail.intended, outcome.tail.failed["not sent"]), (100, 100));
        assert_eq!(progress.succeeded.load(Ordering::Relaxed) + progress.failed.load(Ordering::Relaxed), 300);
    }

    #[test]
    fn requests_for_which_there_was_no_time_are_no_failures_of_the_service() {
        let mut tally = Tally::new(Arc::default()).unwrap();
        tally.record(Phase::Measure, Ok(()), Duration::from_millis(1));
        let outcome = tally.finish(|phase| match phase {
            Phase::Measure => Missing { reason: RequestFailure::NoTime, ..MISSING },
            Phase::Warmup | Phase::Tail => MISSING,
        });
        assert_eq!((outcome.measure.unmade(), outcome.measure.late(), outcome.warmup.unmade()), (99, 0, 0));
        assert_eq!(outcome.notes(), ["The measuring phase had 1 of 100 requests, because its time was over."]);
    }

    #[test]
    fn latencies_are_those_of_answers_in_the_measuring_phase() {
        let mut tally = Tally::new(Arc::default()).unwrap();
        let ms = Duration::from_millis;
        tally.record(Phase::Warmup, Ok(()), ms(1));
        tally.record(Phase::Tail, Ok(()), ms(1));
        tally.record(Phase::Measure, Ok(()), ms(2));
        tally.record(Phase::Measure, Ok(()), ms(2));
        tally.record(Phase::Measure, Err(RequestFailure::Status(StatusCode::BAD_GATEWAY)), ms(3));
        tally.record(Phase::Measure, Err(RequestFailure::Timeout), ms(4));
        let latency = tally.finish(|_| MISSING).latency;
        assert_eq!(latency.count, [2, 1]);
        for (value, expected) in latency.value_ns.iter().zip([2e6, 3e6]) {
            assert!((*value as f64 / expected - 1.0).abs() < 0.001, "{value} for {expected}");
        }
    }

    #[test]
    fn a_generator_that_is_late_or_busy_causes_a_note() {
        let outcome = |late_ms, share| {
            let mut tally = Tally::new(Arc::default()).unwrap();
            tally.record_release(Phase::Warmup, Duration::from_secs(1));
            tally.record_release(Phase::Measure, Duration::from_millis(late_ms));
            tally.record_sending(Phase::Measure, Duration::from_millis(1));
            tally.record_busy_share(share);
            tally.finish(|_| MISSING)
        };
        assert_eq!(outcome(2, Some(0.5)).generator_note(), None);
        assert!(outcome(20, None).generator_note().unwrap().contains("20.0ms late"));
        assert!(outcome(0, Some(0.97)).generator_note().unwrap().contains("97 %"));
    }

    proptest! {
        #[test]
        fn a_histogram_keeps_three_digits_and_every_value(values in proptest::collection::vec(1..LONGEST_NS, 0..50)) {
            let mut tally = Tally::new(Arc::default()).unwrap();
            for value in &values {
                tally.record(Phase::Measure, Ok(()), Duration::from_nanos(*value));
            }
            let histogram = to_evidence(&tally.latency);
            prop_assert_eq!(histogram.count.iter().sum::<u64>(), values.len() as u64);
            prop_assert!(histogram.value_ns.is_sorted_by(|a, b| a < b));
            prop_assert!(!histogram.count.contains(&0));
            for value in values {
                let bucket = histogram.value_ns[histogram.value_ns.partition_point(|highest| *highest < value)];
                prop_assert!(bucket - value <= value / 1000, "{} in {}", value, bucket);
            }
        }
    }
}
