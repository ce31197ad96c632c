//! The intended start of each request. It is arithmetic on times, without a clock.

use std::time::{Duration, Instant};

/// The phases under load. Each starts when the one before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// The intended start of the first request.
    pub start: Instant,
    /// Length of the warm-up.
    pub warmup: Duration,
    /// Length of the measuring phase.
    pub measure: Duration,
    /// Length of the tail; 0 without one.
    pub tail: Duration,
}

impl Schedule {
    /// The end of the load. No request is intended at this time or later.
    pub fn end(&self) -> Instant {
        self.start + self.warmup + self.measure + self.tail
    }
}

/// A phase under load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
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
}

/// The intended start of each request, by its index from 0.
#[derive(Debug)]
pub(super) struct Pace {
    schedule: Schedule,
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
        let warmup = count_before(schedule.warmup, per_second);
        let measured = count_before(schedule.warmup + schedule.measure, per_second);
        let total = count_before(schedule.warmup + schedule.measure + schedule.tail, per_second);
        Self { schedule, per_second, timeout, warmup, measured, total }
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
        self.schedule.start + offset(index, self.per_second)
    }

    /// The deadline of a request: its timeout after its intended start. Later it counts as failed.
    pub(super) fn deadline(&self, index: u64) -> Instant {
        let intended = self.intended(index);
        intended.checked_add(self.timeout).unwrap_or(intended)
    }

    /// The number of requests that are intended at this time or earlier.
    pub(super) fn due_by(&self, now: Instant) -> u64 {
        match now.checked_duration_since(self.schedule.start) {
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

    fn pace(per_second: f64, warmup: Duration, measure: Duration, timeout: Duration) -> Pace {
        Pace::new(Schedule { start: Instant::now(), warmup, measure, tail: Duration::ZERO }, per_second, timeout)
    }

    const fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn requests_are_spaced_evenly_and_belong_to_the_phase_of_their_start() {
        let pace = pace(500.0, ms(1000), ms(2000), ms(100));
        assert_eq!((pace.length(Phase::Warmup), pace.length(Phase::Measure), pace.total()), (500, 1000, 1500));
        assert_eq!(pace.intended(3) - pace.intended(0), ms(6));
        assert_eq!(pace.phase(499), Phase::Warmup);
        assert_eq!(pace.phase(500), Phase::Measure, "a request at the border belongs to the later phase");
    }

    #[test]
    fn the_tail_follows_the_measuring_phase_at_the_same_rate() {
        let schedule = Schedule { start: Instant::now(), warmup: ms(1000), measure: ms(2000), tail: ms(500) };
        let pace = Pace::new(schedule, 100.0, ms(100));
        assert_eq!(Phase::ALL.map(|phase| pace.length(phase)), [100, 200, 50]);
        assert_eq!([299, 300, 349].map(|index| pace.phase(index)), [Phase::Measure, Phase::Tail, Phase::Tail]);
        assert_eq!((pace.total(), pace.intended(300) - pace.intended(299)), (350, ms(10)));
        assert!(pace.intended(349) < schedule.end() && pace.intended(350) >= schedule.end());
    }

    #[test]
    fn a_deadline_is_the_timeout_after_the_intended_start() {
        let pace = pace(1.0, ms(0), ms(10_000), ms(5000));
        assert_eq!(pace.deadline(2) - pace.intended(2), ms(5000));
        assert_eq!(pace.deadline(9) - pace.intended(9), ms(5000));
    }

    #[test]
    fn nothing_is_due_before_the_start_and_the_first_at_the_start() {
        let pace = pace(10.0, ms(0), ms(1000), ms(100));
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
            let pace = pace(per_second, ms(warmup), ms(measure), ms(1));
            let start = pace.schedule.start;
            let first_of_measure = pace.length(Phase::Warmup);
            if first_of_measure > 0 {
                prop_assert!(pace.intended(first_of_measure - 1) < start + ms(warmup));
            }
            prop_assert!(pace.intended(first_of_measure) >= start + ms(warmup));
            prop_assert!(pace.intended(pace.total()) >= pace.schedule.end());
            if pace.total() > 0 {
                let last = pace.total() - 1;
                prop_assert!(pace.intended(last) < pace.schedule.end());
                prop_assert_eq!(pace.due_by(pace.intended(last)), pace.total());
                prop_assert_eq!(pace.due_by(pace.intended(last) - Duration::from_nanos(1)), last);
            }
        }
    }
}
