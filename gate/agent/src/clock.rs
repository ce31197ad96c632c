//! One clock for everything: `CLOCK_MONOTONIC`, as `bpf_ktime_get_ns` and `std::time::Instant` use it.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Counts from the launch of the service.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// `CLOCK_MONOTONIC` at the launch, ns.
    launch_ns: u64,
    launch: Instant,
}

impl Clock {
    /// A clock that starts now.
    ///
    /// # Errors
    /// When the kernel has no monotonic clock, which no Linux lacks.
    pub fn start() -> nix::Result<Self> {
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
        Ok(Self { launch_ns: nanoseconds(now), launch: Instant::now() })
    }

    /// Now, ns since launch.
    pub fn now_ns(&self) -> u64 {
        nanoseconds(self.launch.elapsed())
    }

    /// A kernel time stamp in ns since launch; 0 where it is from before.
    pub const fn since_launch(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_sub(self.launch_ns)
    }
}

/// The duration in ns; 584 years at most.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
