//! The output: a buffer, a count of the records that did not fit, and counters.

use aya_ebpf::{EbpfContext, helpers::bpf_ktime_get_ns, macros::map, maps::PerCpuArray};
use memgate_ebpf::{KINDS, Record, count};

use crate::registers;

#[cfg(not(feature = "tier1"))]
mod buffer {
    use aya_ebpf::{EbpfContext, macros::map, maps::RingBuf};
    use memgate_ebpf::Record;

    /// Keeps the kernel from waking the collector, which polls. A wake-up would cost the service an interrupt.
    pub(crate) const NO_WAKEUP: u64 = 1;

    /// The collector sets its size.
    #[map]
    static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

    #[inline(always)]
    pub(super) fn put(_context: &impl EbpfContext, record: Record) -> bool {
        EVENTS.output::<Record>(record, NO_WAKEUP).is_ok()
    }
}

#[cfg(feature = "tier1")]
mod buffer {
    use aya_ebpf::{
        EbpfContext, bindings::BPF_F_CURRENT_CPU, helpers::bpf_perf_event_output, macros::map, maps::PerfEventArray,
    };
    use memgate_ebpf::Record;

    #[map]
    static EVENTS: PerfEventArray<Record> = PerfEventArray::new(0);

    /// The map's own method does not say whether the record fitted.
    #[inline(always)]
    pub(super) fn put(context: &impl EbpfContext, mut record: Record) -> bool {
        let map = core::ptr::from_ref(&EVENTS).cast_mut().cast();
        let data = core::ptr::from_mut(&mut record).cast();
        // SAFETY: the map is one of perf events, and the helper gets the length of the record.
        unsafe { bpf_perf_event_output(context.as_ptr(), map, BPF_F_CURRENT_CPU, data, Record::SIZE as u64) == 0 }
    }
}

#[cfg(not(feature = "tier1"))]
pub(crate) use buffer::NO_WAKEUP;

/// Records that did not fit, by kind.
#[map]
static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(KINDS, 0);

/// Events that are only counted.
#[map]
static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(count::COUNTS, 0);

/// Now, ns of `CLOCK_MONOTONIC`.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// Writes a record to the buffer, or counts it as lost.
#[inline(always)]
pub(crate) fn emit(context: &impl EbpfContext, kind: u32, first: u64, second: u64, third: u64) {
    let record = Record { kind, thread: registers::thread(), at_ns: now_ns(), first, second, third };
    if !buffer::put(context, record) {
        lose(kind);
    }
}

/// Counts a record of this kind as lost.
#[inline(always)]
pub(crate) fn lose(kind: u32) {
    increment(&LOST, kind);
}

/// Adds one to a counter.
#[inline(always)]
pub(crate) fn count(what: u32) {
    increment(&COUNTS, what);
}

#[inline(always)]
fn increment(array: &PerCpuArray<u64>, index: u32) {
    if let Some(slot) = array.get_ptr_mut(index) {
        // SAFETY: the pointer is to this CPU's slot of the array, which lives as long as the program.
        unsafe { *slot += 1 };
    }
}
