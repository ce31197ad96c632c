//! The intended start of each request. It is arithmetic on times, without a clock.

use std::time::{Duration, Instant};

use memgate_evidence::plan::Length;

/// The phases under load. Each starts when the one before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// The intended start of the first request.
    pub start: Instant,
    /// Length of the warm-up.
    pub warmup: Length,
    /// Length of the measuring phase.
    pub measure: Length,
    /// Length of the tail; 0 without one.
    pub tail: Duration,
}

/// How long a phase takes at a rate of `per_second`, which is finite and above 0.
pub fn duration(length: Length, per_second: f64) -> Duration {
    match length {
        Length::Ms(ms) => Duration::from_millis(ms),
        Length::Requests(requests) => offset(requests, per_second),
    }
}

/// How many requests a phase has at a rate of `per_second`, which is finite and above 0.
pub(super) fn requests(length: Length, per_second: f64) -> u64 {
    match length {
        Length::Ms(_) => count_before(duration(length, per_second), per_second),
        Length::Requests(requests) => requests,
    }
}

/// The length of a window in which memgate makes the runtime collect, at the end of a phase of this length or after it:
/// room for eight GC cycles, and at most a third of the phase, so that short phases stay short.
pub fn window_in(phase: Duration) -> Duration {
    const WINDOW: Duration = Duration::from_secs(4);
    WINDOW.min(phase / 3)
}

/// A phase under load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not judged.
    Warmup,
    /// Judged.
    Measure,
    /// After the measuring phase, and not judged.
    Tail,
}

impl Phase {
    /// All of them, in order.
    pub(super) const ALL: [Self; 3] = [Self::Warmup, Self::Measure, Self::Tail];

    /// Its number, from 0.
    pub(crate) const fn number(self) -> usize {
        match self {
            Self::Warmup => 0,
            Self::Measure => 1,
            Self::Tail => 2,
        }
    }

    /// The phase with this number.
    pub(super) fn numbered(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| u32::try_from(phase.number()) == Ok(number))
    }
}

/// The intended start of each request, by its index from 0.
#[derive(Debug)]
pub(super) struct Pace {
    start: Instant,
    per_second: f64,
    timeout: Duration,
    warmup: u64,
    /// Requests of the warm-up and the measuring phase.
    measured: u64,
    total: u64,
}

impl Pace {
    /// Spaces requests evenly. `per_second` must be finite and above 0.
    pub(super) fn new(schedule: Schedule, per_second: f64, timeout: Duration) -> Self {
        let warmup = requests(schedule.warmup, per_second);
        let tail = count_before(schedule.tail, per_second);
        let (measured, total) = match schedule.measure {
            Length::Ms(_) => {
                let [before, within] = [schedule.warmup, schedule.measure].map(|length| duration(length, per_second));
                let of = |end| count_before(end, per_second);
                (of(before + within), of(before + within + schedule.tail))
            }
            Length::Requests(requests) => (warmup + requests, warmup + requests + tail),
        };
        Self { start: schedule.start, per_second, timeout, warmup, measured, total }
    }

    /// Requests of all phases.
    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// Requests of a phase.
    pub(super) const fn length(&self, phase: Phase) -> u64 {
        match phase {
            Phase::Warmup => self.warmup,
            Phase::Measure => self.measured - self.warmup,
            Phase::Tail => self.total - self.measured,
        }
    }

    /// The phase in which a request is intended.
    pub(super) const fn phase(&self, index: u64) -> Phase {
        if index < self.warmup {
            Phase::Warmup
        } else if index < self.measured {
            Phase::Measure
        } else {
            Phase::Tail
        }
    }

    /// The intended start of a request.
    pub(super) fn intended(&self, index: u64) -> Instant {
        self.start + offset(index, self.per_second)
    }

    /// Whether a request has waited for a connection for longer than its timeout, so that it is not sent any more.
    pub(super) fn is_too_late(&self, index: u64, now: Instant) -> bool {
        now.saturating_duration_since(self.intended(index)) > self.timeout
    }

    /// The deadline of a request that is sent now. Later it counts as failed.
    pub(super) fn deadline(&self, now: Instant) -> Instant {
        now.checked_add(self.timeout).unwrap_or(now)
    }

    /// The number of requests that are intended at this time or earlier.
    pub(super) fn due_by(&self, now: Instant) -> u64 {
        match now.checked_duration_since(self.start) {
            Some(elapsed) => count_before(elapsed + Duration::from_nanos(1), self.per_second).min(self.total),
            None => 0,
        }
    }
}

/// The time between the start and a request's intended start, rounded to 1 ns.
fn offset(index: u64, per_second: f64) -> Duration {
    Duration::try_from_secs_f64(index as f64 / per_second).unwrap_or(Duration::MAX)
}

/// The number of requests with an offset below `end`.
fn count_before(end: Duration, per_second: f64) -> u64 {
    let mut count = whole(end.as_secs_f64() * per_second);
    // The product is rounded, so the offsets decide.
    while count > 0 && offset(count - 1, per_second) >= end {
        count -= 1;
    }
    while offset(count, per_second) < end {
        count += 1;
    }
    count
}

/// The integer part of a number that is not negative.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the fraction is to be cut off")]
const fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pace(per_second: f64, warmup: Length, measure: Length, timeout: Duration) -> Pace {
        let schedule = Schedule { start: Instant::now(), warmup, measure, tail: Duration::ZERO };
        Pace::new(schedule, per_second, timeout)
    }

    const fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn requests_are_spaced_evenly_and_belong_to_the_phase_of_their_start() {
        let pace = pace(500.0, Length::Ms(1000), Length::Ms(2000), ms(100));
        assert_eq!((pace.length(Phase::Warmup), pace.length(Phase::Measure), pace.total()), (500, 1000, 1500));
        assert_eq!(pace.intended(3) - pace.intended(0), ms(6));
        assert_eq!(pace.phase(499), Phase::Warmup);
        assert_eq!(pace.phase(500), Phase::Measure, "a request at the border belongs to the later phase");
    }

    #[test]
    fn the_tail_follows_the_measuring_phase_at_the_same_rate() {
        for measure in [Length::Ms(2000), Length::Requests(200)] {
            let schedule = Schedule { start: Instant::now(), warmup: Length::Ms(1000), measure, tail: ms(500) };
            let pace = Pace::new(schedule, 100.0, ms(100));
            assert_eq!(Phase::ALL.map(|phase| pace.length(phase)), [100, 200, 50]);
            assert_eq!([299, 300, 349].map(|index| pace.phase(index)), [Phase::Measure, Phase::Tail, Phase::Tail]);
            assert_eq!((pace.total(), pace.intended(300) - pace.intended(299)), (350, ms(10)));
        }
    }

    #[test]
    fn a_request_may_wait_its_timeout_twice() {
        let pace = pace(1.0, Length::Ms(0), Length::Ms(10_000), ms(5000));
        let last = pace.intended(2) + ms(5000);
        assert!(!pace.is_too_late(2, pace.intended(2) - ms(1)) && !pace.is_too_late(2, last));
        assert!(pace.is_too_late(2, last + Duration::from_nanos(1)));
        assert_eq!(pace.deadline(last) - last, ms(5000));
    }

    #[test]
    fn a_phase_in_requests_has_exactly_these() {
        // 7 requests take 2.33… s.
        let pace = pace(3.0, Length::Requests(7), Length::Ms(1000), ms(100));
        assert_eq!((pace.length(Phase::Warmup), pace.length(Phase::Measure)), (7, 3));
        let pace = self::pace(3.0, Length::Ms(1000), Length::Requests(7), ms(100));
        assert_eq!((pace.length(Phase::Warmup), pace.length(Phase::Measure)), (3, 7));
        assert_eq!(duration(Length::Requests(1500), 500.0), ms(3000));
        assert_eq!(requests(Length::Ms(3000), 500.0), 1500);
    }

    #[test]
    fn nothing_is_due_before_the_start_and_the_first_at_the_start() {
        let pace = pace(10.0, Length::Ms(0), Length::Ms(1000), ms(100));
        assert_eq!(pace.due_by(pace.intended(0) - ms(1)), 0);
        assert_eq!(pace.due_by(pace.intended(0)), 1);
        assert_eq!(pace.due_by(pace.intended(0) + ms(60_000)), 10);
    }

    proptest! {
        #[test]
        fn counts_agree_with_the_intended_starts(
            per_second in 0.01_f64..100_000.0,
            warmup in 0_u64..100_000,
            measure in 0_u64..100_000,
        ) {
            let pace = pace(per_second, Length::Ms(warmup), Length::Ms(measure), ms(1));
            let (start, end) = (pace.start, pace.start + ms(warmup) + ms(measure));
            let first_of_measure = pace.length(Phase::Warmup);
            if first_of_measure > 0 {
                prop_assert!(pace.intended(first_of_measure - 1) < start + ms(warmup));
            }
            prop_assert!(pace.intended(first_of_measure) >= start + ms(warmup));
            prop_assert!(pace.intended(pace.total()) >= end);
            if pace.total() > 0 {
                let last = pace.total() - 1;
                prop_assert!(pace.intended(last) < end);
                prop_assert_eq!(pace.due_by(pace.intended(last)), pace.total());
                prop_assert_eq!(pace.due_by(pace.intended(last) - Duration::from_nanos(1)), last);
            }
        }
    }
}
