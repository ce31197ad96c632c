//! How often the runtime samples allocations.
//!
//! The linker switches sampling off in an executable that never asks for its heap profile (`runtime.disableMemoryProfiling`,
//! applied in `schedinit`, proc.go, Go 1.21 to 1.27). Before the first instruction clearing that switch is enough to have it; in a
//! process that already runs the rate itself was set to 0, and setting it helps.
//!
//! The runtime's own rate, a sample each 512 KiB, is too coarse for a service that allocates little and costly for one that
//! allocates much. Early in the warm-up memgate sets it, once, to a rate that gives a steady number of samples a second. It leaves
//! a rate alone that the service or its environment chose.

use memgate_goexe::{AllocSampleSite, Fact};

use crate::collect::memory::ServiceMemory;

/// `runtime.MemProfileRate` where nobody set another, bytes.
const DEFAULT_RATE: u64 = 512 << 10;
/// A sample costs the service some tens of microseconds: it unwinds, takes locks, and marks the object for its sweeper.
const SAMPLES_PER_SECOND: u64 = 50;
/// The least and the greatest rate that are set, bytes: most objects are smaller than the least.
const RATES: std::ops::RangeInclusive<u64> = (8 << 10)..=(4 << 20);

/// The rate of one process.
pub(super) struct SamplingRate {
    memory: ServiceMemory,
    /// Where the rate lies in the process.
    address: u64,
    adjusted: bool,
}

impl SamplingRate {
    /// Has the runtime sample allocations.
    ///
    /// # Errors
    /// Fails if the executable does not say where the rate is, or the process's memory cannot be written; for a person.
    pub(super) fn switch_on(memory: &ServiceMemory, layout: &Fact<AllocSampleSite>) -> Result<Self, String> {
        let layout = layout.as_ref().map_err(Clone::clone)?;
        let (address, disabled) = (memory.global(layout.rate), memory.global(layout.disabled));
        let switch_on = || -> nix::Result<()> {
            if memory.word(address)? == 0 {
                memory.write(address, &DEFAULT_RATE.to_le_bytes())?;
            }
            memory.write(disabled, &[0])
        };
        switch_on().map_err(|error| format!("sampling cannot be switched on: {error}"))?;
        Ok(Self { memory: memory.clone(), address, adjusted: false })
    }

    /// Whether the rate has been set, or found to be somebody else's.
    pub(super) const fn is_adjusted(&self) -> bool {
        self.adjusted
    }

    /// Sets the rate for a service that allocates this many bytes a second.
    pub(super) fn adjust(&mut self, bytes_per_second: u64) -> nix::Result<()> {
        self.adjusted = true;
        if self.memory.word(self.address)? == DEFAULT_RATE {
            let rate = (bytes_per_second / SAMPLES_PER_SECOND).clamp(*RATES.start(), *RATES.end());
            self.memory.write(self.address, &rate.to_le_bytes())?;
        }
        Ok(())
    }

    /// The rate, bytes; 0 if the service switched sampling off.
    pub(super) fn rate(&self) -> nix::Result<u64> {
        self.memory.word(self.address)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use memgate_goexe::{CallSite, arch::ArgumentLocation};

    use super::*;
    use crate::collect::testing::FakeMemory;

    pub(in crate::collect::sources::allocations) fn layout() -> AllocSampleSite {
        AllocSampleSite {
            site: CallSite { address: 0, file_offset: 0 },
            object: ArgumentLocation::Register(0),
            bucket: ArgumentLocation::Register(0),
            rate: 0x100,
            disabled: 0x108,
        }
    }

    /// A runtime with this rate, whose linker has switched sampling off.
    fn runtime(rate: u64) -> (FakeMemory, ServiceMemory) {
        let fake = FakeMemory::default();
        fake.put(0x100, &[rate.to_le_bytes().as_slice(), &[1]].concat());
        (fake.clone(), ServiceMemory::new(fake, 0))
    }

    #[test]
    fn sampling_is_switched_on_and_the_rate_follows_the_allocations() {
        let (_fake, memory) = runtime(0);
        let mut rate = SamplingRate::switch_on(&memory, &Ok(layout())).unwrap();
        assert_eq!((rate.rate(), memory.read([0x108], 1)), (Ok(DEFAULT_RATE), Ok(vec![0])));
        rate.adjust(100 << 20).unwrap();
        assert_eq!((rate.rate(), rate.is_adjusted()), (Ok((100 << 20) / SAMPLES_PER_SECOND), true));
    }

    #[test]
    fn the_rate_has_bounds() {
        for (bytes_per_second, expected) in [(0, *RATES.start()), (u64::MAX, *RATES.end())] {
            let (_fake, memory) = runtime(DEFAULT_RATE);
            let mut rate = SamplingRate::switch_on(&memory, &Ok(layout())).unwrap();
            rate.adjust(bytes_per_second).unwrap();
            assert_eq!(rate.rate(), Ok(expected));
        }
    }

    #[test]
    fn a_rate_that_somebody_chose_is_left_alone() {
        let (_fake, memory) = runtime(4096);
        let mut rate = SamplingRate::switch_on(&memory, &Ok(layout())).unwrap();
        rate.adjust(100 << 20).unwrap();
        assert_eq!((rate.rate(), rate.is_adjusted()), (Ok(4096), true));
    }

    #[test]
    fn a_process_that_has_ended_is_an_error() {
        let (fake, memory) = runtime(0);
        fake.end();
        let error = SamplingRate::switch_on(&memory, &Ok(layout())).err().unwrap();
        assert!(error.starts_with("sampling cannot be switched on: ESRCH"), "{error}");
    }
}
