//! A timer that is late by microseconds. tokio's own counts in steps of 1 ms and is late by milliseconds.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, RawFd},
    time::{Duration, Instant},
};

use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use tokio::io::{Interest, unix::AsyncFd};

/// The shortest sleep. It limits the wake-ups to 20,000 a second. Requests that are due within it start together.
const SHORTEST: Duration = Duration::from_micros(50);

/// A timer of the kernel's high-resolution clock, `timerfd_create(2)`.
#[derive(Debug)]
pub(super) struct Timer {
    fd: AsyncFd<Descriptor>,
}

/// nix's timer only lends its descriptor, and tokio needs the number.
#[derive(Debug)]
struct Descriptor(TimerFd);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Timer {
    /// A timer of the current runtime. Fails if there are no file descriptors left.
    pub(super) fn new() -> io::Result<Self> {
        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
        // SAFETY: the `TimerFd` owns an open descriptor. Nothing replaces or closes it while the `AsyncFd` owns it.
        let fd = unsafe { AsyncFd::register_with_interest(Descriptor(fd), Interest::READABLE)? };
        Ok(Self { fd })
    }

    /// Sleeps until the time, or a little less if an earlier expiry is still pending, so the caller checks the clock.
    /// It always yields to other tasks.
    pub(super) async fn sleep_until(&self, at: Instant) -> io::Result<()> {
        let remaining = at.saturating_duration_since(Instant::now()).max(SHORTEST);
        self.fd.get_ref().0.set(Expiration::OneShot(TimeSpec::from_duration(remaining)), TimerSetTimeFlags::empty())?;
        let mut ready = self.fd.readable().await?;
        // Setting the timer again discards the expiry, so nothing needs to read it.
        ready.clear_ready();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sleeps_until_the_time_again_and_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        runtime.block_on(async {
            let timer = Timer::new().unwrap();
            for _ in 0..20 {
                let at = Instant::now() + Duration::from_millis(2);
                while Instant::now() < at {
                    timer.sleep_until(at).await.unwrap();
                }
            }
            timer.sleep_until(Instant::now()).await.unwrap();
        });
    }
}
