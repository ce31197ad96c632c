//! How busy the load generator's thread is.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use procfs::{FromRead, process::Schedstat};

/// How long a thread has been busy since it made the meter.
#[derive(Debug)]
pub(super) struct Meter {
    start: Instant,
    busy: Duration,
}

impl Meter {
    /// Starts counting; `None` if the kernel does not report the times.
    pub(super) fn start() -> Option<Self> {
        Some(Self { start: Instant::now(), busy: busy()? })
    }

    /// The share of the time since the start in which the thread ran or waited for a CPU, 0 to about 1. Call it on the
    /// same thread.
    pub(super) fn share(&self) -> Option<f64> {
        let (elapsed, busy) = (self.start.elapsed().as_secs_f64(), busy()?.saturating_sub(self.busy));
        (elapsed > 0.0).then(|| busy.as_secs_f64() / elapsed)
    }
}

/// The thread's CPU time (`CLOCK_THREAD_CPUTIME_ID`, clock_gettime(2)) plus the time that it waited for a CPU, if the
/// kernel counts that (Documentation/scheduler/sched-stats.rst).
fn busy() -> Option<Duration> {
    let ran = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).ok()?;
    let waited = Schedstat::from_file("/proc/thread-self/schedstat").map_or(0, |stat| stat.run_delay);
    Some(ran + Duration::from_nanos(waited))
}
