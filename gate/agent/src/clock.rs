//! The only clock: `CLOCK_MONOTONIC`, which `bpf_ktime_get_ns` and `std::time::Instant` use too.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// Counts from the service's launch.
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
    /// Fails if the kernel has no monotonic clock. Every Linux has one.
    pub fn start() -> nix::Result<Self> {
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
        Ok(Self { launch_ns: nanoseconds(now), launch: Instant::now() })
    }

    /// Now, ns since launch.
    pub fn now_ns(&self) -> u64 {
        nanoseconds(self.launch.elapsed())
    }

    /// A kernel time stamp in ns since launch; 0 if it is earlier.
    pub const fn since_launch(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_sub(self.launch_ns)
    }
}

/// The duration in ns; 584 years at most.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
