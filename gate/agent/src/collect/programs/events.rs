//! The buffer for records: a ring buffer, or a perf event array in tier T1.

use aya::{
    maps::{
        MapData, PerfEventArray, RingBuf,
        perf::{PerfEvent, PerfEventArrayBuffer},
    },
    util::online_cpus,
};
use memgate_ebpf::Record;
use nix::time::{ClockId, clock_gettime};

use super::ProgramError;

/// Reads records from the kernel's buffers, in the order of their times.
pub(super) struct Events {
    buffers: Buffers,
    /// Records that were read and not yet passed on.
    held: Vec<Record>,
}

enum Buffers {
    Ring(RingBuf<MapData>),
    /// One buffer for each CPU.
    Perf(Vec<PerfEventArrayBuffer<MapData>>),
}

impl Events {
    pub(super) const fn ring(ring: RingBuf<MapData>) -> Self {
        Self { buffers: Buffers::Ring(ring), held: Vec::new() }
    }

    /// Opens a buffer of this size for each CPU.
    pub(super) fn perf(mut array: PerfEventArray<MapData>, bytes: u32) -> Result<Self, ProgramError> {
        const WHAT: &str = "the buffers for records cannot be opened";
        let pages = usize::try_from(bytes).unwrap_or(usize::MAX)
            / usize::try_from(crate::environment::page_size()).unwrap_or(4096);
        let cpus = online_cpus().map_err(|(what, error)| ProgramError::unexpected(what, error))?;
        let buffers: Result<Vec<_>, _> = cpus.into_iter().map(|cpu| array.open(cpu, Some(pages.max(1)))).collect();
        let buffers = buffers.map_err(|error| ProgramError::unexpected(WHAT, error))?;
        Ok(Self { buffers: Buffers::Perf(buffers), held: Vec::new() })
    }

    /// Passes on every record from before this call. Later ones wait, because an earlier record may still arrive in
    /// another CPU's buffer.
    pub(super) fn drain(&mut self, each: &mut dyn FnMut(Record)) {
        let horizon_ns = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map_or(u64::MAX, |now| u64::try_from(std::time::Duration::from(now).as_nanos()).unwrap_or(u64::MAX));
        self.take();
        self.held.sort_by_key(|record| record.at_ns);
        let handed_on = self.held.partition_point(|record| record.at_ns < horizon_ns);
        self.held.drain(..handed_on).for_each(each);
    }

    fn take(&mut self) {
        let Self { buffers, held } = self;
        match buffers {
            Buffers::Ring(ring) => {
                while let Some(item) = ring.next() {
                    held.extend(Record::from_bytes(&item));
                }
            }
            Buffers::Perf(buffers) => {
                for buffer in buffers {
                    buffer.for_each(|event| match event {
                        PerfEvent::Sample { head, tail } => {
                            held.extend(Record::from_bytes(&[head, tail].concat()));
                        }
                        // The programs themselves notice what does not fit and count it by kind.
                        PerfEvent::Lost { .. } => {}
                    });
                }
            }
        }
    }
}
