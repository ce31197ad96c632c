//! Probes on call instructions in the Go runtime, which the kernel emulates on every architecture.

use aya_ebpf::{
    macros::{map, uprobe},
    maps::HashMap,
    programs::ProbeContext,
};
use memgate_ebpf::kind;

use crate::{
    output::{emit, lose},
    target,
};

/// Threads of the watched process that are about to call mmap for the Go runtime.
#[map]
pub(crate) static RUNTIME_MMAP: HashMap<u32, u8> = HashMap::with_max_entries(4096, 0);

/// On the calls of `(*timeHistogram).record(h, duration)` in `startTheWorldWithSema` (proc.go, Go 1.22 and later).
#[uprobe]
pub(crate) fn pause(context: ProbeContext) -> u32 {
    match (target::argument_0(&context), target::argument_1(&context)) {
        (Some(histogram), Some(duration)) => emit(kind::PAUSE, histogram, duration, 0),
        _ => lose(kind::PAUSE),
    }
    0
}

/// On the calls of `(*gcControllerState).resetLive(c, bytesMarked)` (mgc.go).
#[uprobe]
pub(crate) fn live_heap(context: ProbeContext) -> u32 {
    match target::argument_1(&context) {
        Some(bytes) => emit(kind::LIVE_HEAP, bytes, 0, 0),
        None => lose(kind::LIVE_HEAP),
    }
    0
}

/// On the calls of `runtime.mmap` (mem_linux.go): the thread's next mmap is the runtime's own, also where cgo routes it
/// through the C library.
#[uprobe]
pub(crate) fn runtime_mmap(_context: ProbeContext) -> u32 {
    if let Some(thread) = target::current_thread() {
        if RUNTIME_MMAP.insert(&thread, &1, 0).is_err() {
            lose(kind::MAPPED);
        }
    }
    0
}
