//! How often the runtime samples allocations.
//!
//! The linker switches sampling off in an executable that never asks for its heap profile (`runtime.disableMemoryProfiling`,
//! applied in `schedinit`, proc.go, Go 1.21 to 1.27). Before the first instruction clearing that switch is enough to have it; in a
//! process that already runs the rate itself was set to 0, and setting it helps.
//!
//! The runtime's own rate, a sample each 512 KiB, is too coarse for a service that allocates little and dear for one that
//! allocates much. So early in the warm-up, once, the rate is set to what gives a steady number of samples a second. A rate that
//! the service or its environment chose is left alone.

use memgate_goexe::GoExe;

use super::memory::ProcessMemory;

/// `runtime.MemProfileRate` where nobody set another, bytes.
const DEFAULT_RATE: u64 = 512 << 10;
/// A sample costs the service some tens of microseconds: it unwinds, takes locks, and marks the object for its sweeper.
const SAMPLES_PER_SECOND: u64 = 50;
/// The least and the greatest rate that are set, bytes: most objects are smaller than the least.
const RATES: std::ops::RangeInclusive<u64> = (8 << 10)..=(4 << 20);

/// The rate of one process.
#[derive(Debug)]
pub(super) struct Sampling {
    memory: ProcessMemory,
    /// Where the rate lies in the process.
    address: u64,
    adjusted: bool,
}

impl Sampling {
    /// Has the runtime sample allocations.
    ///
    /// # Errors
    /// When the executable does not tell where, or the process's memory cannot be written; for a person.
    pub(super) fn switch_on(memory: ProcessMemory, exe: &GoExe, bias: u64) -> Result<Self, String> {
        let samples = exe.runtime.alloc_samples.as_ref().map_err(Clone::clone)?;
        let (address, disabled) = (samples.rate.wrapping_add(bias), samples.disabled.wrapping_add(bias));
        let switch_on = || -> nix::Result<()> {
            if memory.word(address)? == 0 {
                memory.write(address, &DEFAULT_RATE.to_le_bytes())?;
            }
            memory.write(disabled, &[0])
        };
        switch_on().map_err(|error| format!("sampling cannot be switched on: {error}"))?;
        Ok(Self { memory, address, adjusted: false })
    }

    /// Whether the rate has been set, or found to be somebody else's.
    pub(super) const fn is_adjusted(&self) -> bool {
        self.adjusted
    }

    /// Sets the rate for a service that allocates so many bytes a second.
    pub(super) fn adjust(&mut self, bytes_per_second: u64) -> nix::Result<()> {
        self.adjusted = true;
        if self.memory.word(self.address)? == DEFAULT_RATE {
            let rate = (bytes_per_second / SAMPLES_PER_SECOND).clamp(*RATES.start(), *RATES.end());
            self.memory.write(self.address, &rate.to_le_bytes())?;
        }
        Ok(())
    }

    /// The rate, bytes; 0 where the service switched sampling off.
    pub(super) fn rate(&self) -> nix::Result<u64> {
        self.memory.word(self.address)
    }
}
