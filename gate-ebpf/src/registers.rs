//! Registers and memory of the thread that hit a probe.

use aya_ebpf::{EbpfContext as _, helpers::bpf_get_current_pid_tgid, programs::ProbeContext};

use memgate_ebpf::ON_STACK;

use crate::constants;

// Linux before 5.5 has one helper for both.
#[cfg(feature = "tier1")]
use aya_ebpf::helpers::{bpf_probe_read as bpf_probe_read_kernel, bpf_probe_read as bpf_probe_read_user};
#[cfg(not(feature = "tier1"))]
use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user};

/// The thread's id in the kernel's own numbering. It only has to be unique at any time.
#[inline(always)]
pub(crate) fn thread() -> u32 {
    bpf_get_current_pid_tgid() as u32
}

/// The first integer argument of the Go function that the probed instruction calls.
#[inline(always)]
pub(crate) fn argument_0(context: &ProbeContext) -> Option<u64> {
    at(context, constants::argument_0())
}

/// The second integer argument of the Go function that the probed instruction calls.
#[inline(always)]
pub(crate) fn argument_1(context: &ProbeContext) -> Option<u64> {
    at(context, constants::argument_1())
}

/// The third integer argument of the Go function that the probed instruction calls.
#[inline(always)]
pub(crate) fn argument_2(context: &ProbeContext) -> Option<u64> {
    at(context, constants::argument_2())
}

/// The id of the goroutine that the thread runs; `None` if it runs none.
#[inline(always)]
pub(crate) fn goroutine(context: &ProbeContext) -> Option<u64> {
    // On the scheduler's stack, `g` is the thread's own. The thread names the goroutine.
    let g = register(context, constants::g_register())?;
    let m = user_word(g.wrapping_add(constants::g_m()))?;
    let current = user_word(m.wrapping_add(constants::m_curg()))?;
    user_word(current.wrapping_add(constants::g_goid()))
}

/// A word of the process's memory.
#[inline(always)]
pub(crate) fn user_word(address: u64) -> Option<u64> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(address as *const u64) }.ok()
}

/// The Go function's first integer result, at the instruction after its call.
#[inline(always)]
pub(crate) fn result_0(context: &ProbeContext) -> Option<u64> {
    at(context, constants::result_0())
}

/// The Go function's second integer result, at the instruction after its call.
#[inline(always)]
pub(crate) fn result_1(context: &ProbeContext) -> Option<u64> {
    at(context, constants::result_1())
}

/// Go 1.21 on loong64 passes arguments on the stack.
#[inline(always)]
fn at(context: &ProbeContext, place: u64) -> Option<u64> {
    if place & ON_STACK == 0 {
        register(context, place)
    } else {
        user_word(register(context, constants::stack_pointer())?.wrapping_add(place & !ON_STACK))
    }
}

#[inline(always)]
fn register(context: &ProbeContext, offset: u64) -> Option<u64> {
    /// `pt_regs` is smaller on every architecture. Before Linux 5.2, the verifier needs a bound to add to the context.
    const MASK: u64 = 0x1ff;
    let offset = offset & MASK;
    let registers = context.as_ptr().cast::<u8>();
    // SAFETY: the offset is one of a register in `pt_regs`; the helper checks the address.
    unsafe { bpf_probe_read_kernel(registers.add(offset as usize).cast::<u64>()) }.ok()
}
