//! When the drain ends: at its configured length, unless goroutines still end.
//!
//! Goroutines that live for a while and then end by themselves are no leak: idle connections, retries, holds. Whoever
//! counts after a fixed time calls them one. So memgate looks whether the count still falls. A count that does not fall
//! changes nothing, and then the drain has its configured length.

use std::time::Duration;

/// How long the count may stay as it is and still counts as falling, ns; less at the end of a short drain.
const QUIET_NS: u64 = 2_000_000_000;

/// The number of goroutines in the drain.
#[derive(Debug)]
pub(super) struct Falling {
    /// The number before the load. With that many nothing is left to end.
    idle: u64,
    /// The least number so far, and when it was first seen, ns.
    least: Option<(u64, u64)>,
    /// Whether there was a larger number before.
    has_fallen: bool,
    /// The time of the last reading, ns.
    last_ns: u64,
    quiet_ns: u64,
}

impl Falling {
    /// For a drain of this length, after a load before which the service had `idle` goroutines. Connections that close
    /// at once must not lengthen a short drain, so only its second half counts.
    pub(super) fn new(idle: u64, drain: Duration) -> Self {
        let quiet_ns = u64::try_from((drain / 2).as_nanos()).unwrap_or(u64::MAX).min(QUIET_NS);
        Self { idle, least: None, has_fallen: false, last_ns: 0, quiet_ns }
    }

    /// Adds a reading. The count has fallen if it was never lower. Work that comes and goes makes no new low.
    pub(super) fn see(&mut self, at_ns: u64, goroutines: u64) {
        self.last_ns = at_ns;
        match self.least {
            Some((least, _)) if goroutines < least => {
                (self.least, self.has_fallen) = (Some((goroutines, at_ns)), true);
            }
            Some(_) => {}
            None => self.least = Some((goroutines, at_ns)),
        }
    }

    /// Whether goroutines of the load are left and end, at the time of the last reading. On a busy machine that may be a
    /// while ago. Call it when the drain would end. A drain that is lengthened once waits the full time for the next low.
    pub(super) fn goes_on(&mut self) -> bool {
        let falls =
            |(least, at_ns): (u64, u64)| least > self.idle && self.last_ns.saturating_sub(at_ns) < self.quiet_ns;
        let goes_on = self.has_fallen && self.least.is_some_and(falls);
        if goes_on {
            self.quiet_ns = QUIET_NS;
        }
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings every 200 ms, and whether the drain goes on after the last one.
    fn goes_on(idle: u64, drain_ms: u64, counts: &[u64]) -> bool {
        let mut falling = Falling::new(idle, Duration::from_millis(drain_ms));
        for (index, count) in (1..).zip(counts) {
            falling.see(index * 200_000_000, *count);
        }
        falling.goes_on()
    }

    #[test]
    fn a_falling_count_lengthens_the_drain_until_nothing_of_the_load_is_left() {
        assert!(goes_on(10, 3000, &[240, 235, 230]));
        assert!(!goes_on(10, 3000, &[240, 20, 10]), "as many as before the load");
        assert!(!goes_on(10, 3000, &[]));
    }

    #[test]
    fn a_count_that_does_not_fall_changes_nothing() {
        assert!(!goes_on(10, 3000, &[47]));
        assert!(!goes_on(10, 3000, &[47; 20]));
        assert!(!goes_on(10, 3000, &[47, 60, 80]), "it rises");
        let falls_at_first = [&[60, 47][..], &[47; 8]].concat();
        assert!(!goes_on(10, 3000, &falls_at_first), "connections close at once, 1.6 s ago");
        assert!(goes_on(10, 4000, &falls_at_first), "2 s count in a longer drain");
        assert!(!goes_on(10, 0, &[60, 47]), "without a drain nothing is waited for");
    }

    #[test]
    fn a_lengthened_drain_waits_longer_for_the_next_low() {
        let mut falling = Falling::new(10, Duration::from_secs(1));
        falling.see(0, 50);
        falling.see(1_000_000_000, 40);
        assert!(falling.goes_on());
        falling.see(2_900_000_000, 40);
        assert!(falling.goes_on(), "1.9 s after the last low");
        falling.see(3_000_000_000, 40);
        assert!(!falling.goes_on());
    }

    #[test]
    fn work_that_comes_and_goes_does_not_fall() {
        assert!(!goes_on(10, 3000, &[47, 48, 47, 48, 47, 48, 47, 48, 47]));
        let slow = [60, 60, 60, 60, 59, 60, 60, 60, 60, 60];
        assert!(goes_on(10, 4000, &slow), "a new low 1 s ago");
    }
}
