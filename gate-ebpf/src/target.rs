//! Which process is watched, and where its registers lie.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_pidns_info,
    helpers::{bpf_get_ns_current_pid_tgid, bpf_probe_read_kernel},
};

// The collector patches these five when it loads the object.
/// Offset in `pt_regs` of the register that carries a Go function's first integer argument, bytes.
#[unsafe(no_mangle)]
static ARGUMENT_0: u64 = 0;
/// Offset in `pt_regs` of the register that carries a Go function's second integer argument, bytes.
#[unsafe(no_mangle)]
static ARGUMENT_1: u64 = 0;
/// The watched process, as the collector's PID namespace numbers it.
#[unsafe(no_mangle)]
static TARGET_PID: u64 = 0;
/// Device number of the collector's PID namespace.
#[unsafe(no_mangle)]
static PID_NAMESPACE_DEVICE: u64 = 0;
/// Inode number of the collector's PID namespace.
#[unsafe(no_mangle)]
static PID_NAMESPACE_INODE: u64 = 0;

#[inline(always)]
fn patched(value: &u64) -> u64 {
    // SAFETY: the reference is valid; the volatile read keeps the compiler from using the value before patching.
    unsafe { core::ptr::read_volatile(value) }
}

/// The thread's id if it belongs to the watched process.
#[inline(always)]
pub(crate) fn current_thread() -> Option<u32> {
    let mut ids = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: `ids` is writable and its size is what the helper is told.
    let status = unsafe {
        bpf_get_ns_current_pid_tgid(
            patched(&PID_NAMESPACE_DEVICE),
            patched(&PID_NAMESPACE_INODE),
            &mut ids,
            core::mem::size_of::<bpf_pidns_info>() as u32,
        )
    };
    (status == 0 && u64::from(ids.tgid) == patched(&TARGET_PID)).then_some(ids.pid)
}

/// The first integer argument of the Go function that the probed instruction calls.
#[inline(always)]
pub(crate) fn argument_0(context: &aya_ebpf::programs::ProbeContext) -> Option<u64> {
    register(context, patched(&ARGUMENT_0))
}

/// The second integer argument of the Go function that the probed instruction calls.
#[inline(always)]
pub(crate) fn argument_1(context: &aya_ebpf::programs::ProbeContext) -> Option<u64> {
    register(context, patched(&ARGUMENT_1))
}

#[inline(always)]
fn register(context: &aya_ebpf::programs::ProbeContext, offset: u64) -> Option<u64> {
    let registers = context.as_ptr().cast::<u8>();
    // SAFETY: the offset is one of a register in `pt_regs`; the helper checks the address.
    unsafe { bpf_probe_read_kernel(registers.add(offset as usize).cast::<u64>()) }.ok()
}
