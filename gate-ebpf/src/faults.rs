//! First touches of pages outside the Go heap, with the stacks that led to them.
//!
//! The program runs on the software event of page faults of every CPU. An event of the watched process alone would have
//! to be switched with each of its threads, which costs the service more. One comparison dismisses the Go heap's own
//! faults. Of the others, the program captures no more than the collector allows, which bounds the cost.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_pidns_info,
    helpers::{
        bpf_get_ns_current_pid_tgid, bpf_probe_read_kernel, bpf_probe_read_user_buf,
        generated::bpf_probe_read_kernel as read_kernel,
    },
    macros::{map, perf_event},
    maps::{Array, HashMap, PerCpuArray, RingBuf},
    programs::PerfEventContext,
};
use memgate_ebpf::{Fault, GO_STACK, REGISTERS, Ranges, STACK, count, kind};

use crate::{
    constants,
    output::{NO_WAKEUP, count, lose, now_ns},
    registers::user_word,
};

/// 1 MiB holds 98 captures.
#[map]
static FAULTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// The runtime's own memory, as far as the collector knows it.
#[map]
static RUNTIME: Array<Ranges> = Array::with_max_entries(1, 0);

/// How many captures this CPU may still make. The collector refills it.
#[map]
static BUDGET: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The runtime's `m` of each thread, as the collector found it.
#[map]
static THREADS: HashMap<u32, u64> = HashMap::with_max_entries(4096, 0);

/// Stacks are copied in pieces of this size, so that a stack that ends early is copied up to its end.
const PIECE: usize = 512;

/// The address lies behind the registers in `struct bpf_perf_event_data`. The kernel requires that offset as a constant
/// in the code, so each architecture has its own program. The collector loads one of them.
macro_rules! first_touch {
    ($($name:ident at $offset:literal;)*) => {$(
        #[perf_event]
        pub(crate) fn $name(context: PerfEventContext) -> u32 {
            // SAFETY: on this program's architecture the structure has the field there; the kernel checks it.
            let address = unsafe { context.as_ptr().cast::<u8>().add($offset).cast::<u64>().read_volatile() };
            touched(&context, address);
            0
        }
    )*};
}

first_touch! {
    first_touch_amd64 at 176;
    first_touch_arm64 at 280;
    first_touch_loong64 at 368;
}

#[inline(always)]
fn touched(context: &PerfEventContext, address: u64) {
    let Some(thread) = watched_thread() else { return };
    if is_the_runtimes(address) {
        return;
    }
    count(count::FAULTS);
    if !spend() {
        return;
    }
    match FAULTS.reserve::<Fault>(0) {
        Some(mut entry) => {
            // SAFETY: the entry has the size of a `Fault`, every field of which is a number.
            unsafe { capture(context, address, thread, &mut *entry.as_mut_ptr()) };
            entry.submit(NO_WAKEUP);
        }
        None => lose(kind::FAULT),
    }
}

/// The collector may be writing the ranges at the same time. Then one touch too many or too few is captured.
#[inline(always)]
fn is_the_runtimes(address: u64) -> bool {
    RUNTIME.get(0).is_some_and(|ranges| ranges.iter().any(|[start, end]| *start <= address && address < *end))
}

/// The thread's id in the collector's numbering, if the thread belongs to the watched process.
#[inline(always)]
fn watched_thread() -> Option<u32> {
    let mut ids = bpf_pidns_info { pid: 0, tgid: 0 };
    // SAFETY: `ids` is writable, and the helper gets its size.
    let status = unsafe {
        bpf_get_ns_current_pid_tgid(
            constants::pid_namespace_device(),
            constants::pid_namespace_inode(),
            &mut ids,
            core::mem::size_of::<bpf_pidns_info>() as u32,
        )
    };
    (status == 0 && u64::from(ids.tgid) == constants::target_pid()).then_some(ids.pid)
}

/// Takes one capture from the budget, if any is left.
#[inline(always)]
fn spend() -> bool {
    let Some(budget) = BUDGET.get_ptr_mut(0) else { return false };
    // SAFETY: the pointer is to this CPU's slot of the array, which lives as long as the program.
    let budget = unsafe { &mut *budget };
    if *budget == 0 {
        return false;
    }
    *budget -= 1;
    true
}

#[inline(always)]
unsafe fn capture(context: &PerfEventContext, address: u64, thread: u32, fault: &mut Fault) {
    fault.at_ns = now_ns();
    fault.address = address;
    fault.registers = [0; REGISTERS];
    fault.stack_length = 0;
    fault.go_stack_length = 0;
    fault.go_pc = 0;
    fault.go_sp = 0;
    // The context that the kernel keeps begins with a pointer to the registers (`struct bpf_perf_event_data_kern`).
    // SAFETY: the helper checks the address.
    let Ok(registers) = (unsafe { bpf_probe_read_kernel(context.as_ptr().cast::<u64>()) }) else { return };
    let length = (constants::register_count() * 8).min((REGISTERS * 8) as u64);
    // SAFETY: the length is at most that of the field; the helper checks the address.
    unsafe { read_kernel(fault.registers.as_mut_ptr().cast(), length as u32, registers as *const _) };
    let word = |offset: u64| {
        // SAFETY: as above.
        unsafe { bpf_probe_read_kernel((registers + offset) as *const u64) }.unwrap_or(0)
    };
    let program_counter = word(constants::program_counter());
    if program_counter >> 63 != 0 {
        // The kernel itself touched the page, during a system call. These are its registers.
        return;
    }
    fault.stack_length = copy::<STACK>(word(constants::stack_pointer()), &mut fault.stack);
    // SAFETY: only the collector writes the map.
    let Some(m) = (unsafe { THREADS.get(&thread) }) else { return };
    let Some(g) = user_word(m + constants::m_curg()) else { return };
    let pc = user_word(g + constants::g_syscallpc()).unwrap_or(0);
    let sp = user_word(g + constants::g_syscallsp()).unwrap_or(0);
    if pc != 0 && sp != 0 {
        fault.go_pc = pc;
        fault.go_sp = sp;
        fault.go_stack_length = copy::<GO_STACK>(sp, &mut fault.go_stack);
    }
}

/// Copies the stack from `from` on, as far as it is readable, and returns the number of bytes.
#[inline(always)]
fn copy<const LENGTH: usize>(from: u64, to: &mut [u8; LENGTH]) -> u32 {
    let mut copied = 0;
    for (index, piece) in to.as_chunks_mut::<PIECE>().0.iter_mut().enumerate() {
        let address = from + (index * PIECE) as u64;
        // SAFETY: the helper checks the address.
        if unsafe { bpf_probe_read_user_buf(address as *const u8, piece) }.is_err() {
            break;
        }
        copied += PIECE as u32;
    }
    copied
}
