//! Probes on calls and branches in the Go runtime, which the kernel emulates on every architecture.

use aya_ebpf::{
    macros::{map, uprobe},
    maps::HashMap,
    programs::ProbeContext,
};
use memgate_ebpf::{count, kind};

use crate::{
    output::{count, emit, lose, now_ns},
    registers::{argument_0, argument_1, argument_2, goroutine, result_0, result_1, thread},
};

/// On the calls of `startTheWorldWithSema(now, w worldStop)`. `w` is in registers from the second on. Its fields are
/// the reason, when stopping began, when it ended and how long it took (proc.go, Go 1.22 to 1.27).
#[uprobe]
pub(crate) fn world_start(context: ProbeContext) -> u32 {
    match (argument_1(&context), argument_2(&context)) {
        // The reason is a byte. The rest of its register is undefined.
        (Some(reason), Some(began)) => emit(&context, kind::WORLD_START, reason & 0xff, began, 0),
        _ => lose(kind::WORLD_START),
    }
    0
}

/// On the calls of `(*timeHistogram).record(h, duration)` at the end of a stop of the world.
#[uprobe]
pub(crate) fn pause(context: ProbeContext) -> u32 {
    match (argument_0(&context), argument_1(&context)) {
        (Some(histogram), Some(duration)) => emit(&context, kind::PAUSE, histogram, duration, 0),
        _ => lose(kind::PAUSE),
    }
    0
}

/// On the calls of `(*gcControllerState).resetLive(c, bytesMarked)` (mgc.go).
#[uprobe]
pub(crate) fn live_heap(context: ProbeContext) -> u32 {
    match argument_1(&context) {
        Some(bytes) => emit(&context, kind::LIVE_HEAP, bytes, 0, 0),
        None => lose(kind::LIVE_HEAP),
    }
    0
}

/// On the call of `setprofilebucket(p, b)` in `mProf_Malloc` (mprof.go). The runtime has sampled the allocation of the
/// object `p` and counted it in the bucket `b`. The bucket contains the object's size and call stack and is never
/// freed.
#[uprobe]
pub(crate) fn alloc_sample(context: ProbeContext) -> u32 {
    match (argument_0(&context), argument_1(&context)) {
        (Some(object), Some(bucket)) => {
            emit(&context, kind::ALLOC_SAMPLE, object, bucket, goroutine(&context).unwrap_or(0));
        }
        _ => lose(kind::ALLOC_SAMPLE),
    }
    0
}

/// A mapping that a thread is making.
#[repr(C)]
#[derive(Clone, Copy)]
struct Mapping {
    began_ns: u64,
    length: u64,
}

/// The mapping that each thread is making for the Go runtime.
#[map]
static MAPPINGS: HashMap<u32, Mapping> = HashMap::with_max_entries(4096, 0);

/// On the calls of `runtime.mmap(addr, n, …)` (cgo_mmap.go).
#[uprobe]
pub(crate) fn mmap_call(context: ProbeContext) -> u32 {
    let Some(length) = argument_1(&context) else {
        lose(kind::MAPPED);
        return 0;
    };
    if MAPPINGS.insert(&thread(), &Mapping { began_ns: now_ns(), length }, 0).is_err() {
        lose(kind::MAPPED);
    }
    0
}

/// On the branch after each of these calls, where the two results, address and error, are still in their registers.
#[uprobe]
pub(crate) fn mmap_return(context: ProbeContext) -> u32 {
    let thread = thread();
    // SAFETY: only this thread writes its own entry.
    let Some(mapping) = (unsafe { MAPPINGS.get(&thread) }).copied() else { return 0 };
    let _ = MAPPINGS.remove(&thread);
    match (result_0(&context), result_1(&context)) {
        (Some(address), Some(0)) => emit(&context, kind::MAPPED, address, mapping.length, now_ns() - mapping.began_ns),
        (Some(_), Some(_)) => {}
        _ => lose(kind::MAPPED),
    }
    0
}

/// On the calls of `runtime.munmap(addr, n)`.
#[uprobe]
pub(crate) fn munmap_call(context: ProbeContext) -> u32 {
    match (argument_0(&context), argument_1(&context)) {
        (Some(address), Some(length)) => emit(&context, kind::UNMAPPED, address, length, 0),
        _ => lose(kind::UNMAPPED),
    }
    0
}

/// On the call of `(*mcentral).cacheSpan` in `(*mcache).refill` (mcache.go). It is attached only for short windows,
/// because a busy service refills about ten thousand times a second.
#[uprobe]
pub(crate) fn refill(_context: ProbeContext) -> u32 {
    count(count::REFILLS);
    0
}

/// On the call of `(*mcentral).grow` in `(*mcentral).cacheSpan` (mcentral.go). Attached together with `refill`.
#[uprobe]
pub(crate) fn refill_miss(_context: ProbeContext) -> u32 {
    count(count::MISSES);
    0
}
