//! Changes of the watched process's address space, from the system calls' tracepoints.
//!
//! The offsets are those of `syscalls:sys_enter_*` and `sys_exit_*` on every 64-bit kernel: arguments are 8 bytes each
//! from 16 on, the return value is at 16 (kernel/trace/trace_syscalls.c).

use aya_ebpf::{
    macros::{map, tracepoint},
    maps::HashMap,
    programs::TracePointContext,
};
use memgate_ebpf::kind;

use crate::{
    output::{emit, lose},
    runtime::RUNTIME_MMAP,
    target,
};

const FIRST_ARGUMENT: usize = 16;
const SECOND_ARGUMENT: usize = 24;
const RETURN_VALUE: usize = 16;
/// Return values from here on are errors (`MAX_ERRNO` is 4095).
const FIRST_ERROR: u64 = u64::MAX - 4094;

/// A system call that a thread is in.
#[repr(C)]
#[derive(Clone, Copy)]
struct Pending {
    address: u64,
    length: u64,
}

/// The mmap or munmap that each thread of the watched process is in.
#[map]
static PENDING: HashMap<u32, Pending> = HashMap::with_max_entries(4096, 0);

#[tracepoint]
pub(crate) fn enter_mmap(context: TracePointContext) -> u32 {
    enter(&context, kind::MAPPED);
    0
}

#[tracepoint]
pub(crate) fn enter_munmap(context: TracePointContext) -> u32 {
    enter(&context, kind::UNMAPPED);
    0
}

#[tracepoint]
pub(crate) fn exit_mmap(context: TracePointContext) -> u32 {
    if let Some((thread, pending, returned)) = exit(&context) {
        // SAFETY: only this thread writes its own entry.
        let by_runtime = unsafe { RUNTIME_MMAP.get(&thread) }.is_some();
        if by_runtime {
            let _ = RUNTIME_MMAP.remove(&thread);
        }
        if returned < FIRST_ERROR {
            emit(kind::MAPPED, returned, pending.length, u64::from(by_runtime));
        }
    }
    0
}

#[tracepoint]
pub(crate) fn exit_munmap(context: TracePointContext) -> u32 {
    if let Some((_, pending, 0)) = exit(&context) {
        emit(kind::UNMAPPED, pending.address, pending.length, 0);
    }
    0
}

#[inline(always)]
fn enter(context: &TracePointContext, kind: u32) {
    let Some(thread) = target::current_thread() else { return };
    // SAFETY: both offsets lie in the record of every sys_enter tracepoint.
    let arguments = unsafe { (context.read_at(FIRST_ARGUMENT), context.read_at(SECOND_ARGUMENT)) };
    let (Ok(address), Ok(length)) = arguments else { return lose(kind) };
    if PENDING.insert(&thread, &Pending { address, length }, 0).is_err() {
        lose(kind);
    }
}

#[inline(always)]
fn exit(context: &TracePointContext) -> Option<(u32, Pending, u64)> {
    let thread = target::current_thread()?;
    // SAFETY: only this thread writes its own entry.
    let pending = *unsafe { PENDING.get(&thread) }?;
    let _ = PENDING.remove(&thread);
    // SAFETY: the offset lies in the record of every sys_exit tracepoint.
    let returned = unsafe { context.read_at(RETURN_VALUE) }.ok()?;
    Some((thread, pending, returned))
}
