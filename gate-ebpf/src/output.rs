//! The way out: a ring buffer, and a count of what it could not hold.

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{PerCpuArray, RingBuf},
};
use memgate_ebpf::{KINDS, Record};

/// 1 MiB holds 21,845 records of 40 bytes with their 8-byte headers: a tenth of a second of 218,000 events a second.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Records that did not fit, by kind.
#[map]
static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(KINDS, 0);

/// Hands a record out, or counts it as lost.
#[inline(always)]
pub(crate) fn emit(kind: u32, first: u64, second: u64, third: u64) {
    // SAFETY: the helper has no preconditions.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    let record = Record { kind, reserved: 0, at_ns, first, second, third };
    // BPF_RB_NO_WAKEUP: the collector polls; a wake-up would cost the service an inter-processor interrupt.
    const NO_WAKEUP: u64 = 1;
    if EVENTS.output::<Record>(record, NO_WAKEUP).is_err() {
        lose(kind);
    }
}

/// Counts a record of this kind as lost.
#[inline(always)]
pub(crate) fn lose(kind: u32) {
    if let Some(lost) = LOST.get_ptr_mut(kind) {
        // SAFETY: the pointer is to this CPU's slot of the array, which lives as long as the program.
        unsafe { *lost += 1 };
    }
}
