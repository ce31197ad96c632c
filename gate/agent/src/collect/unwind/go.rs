//! Goes from a frame of Go code to its caller's.
//!
//! Go describes its frames in its own function table. Source: `unwinder.resolveInternal` and `unwinder.next` in
//! src/runtime/traceback.go, Go 1.21 to 1.27.

use memgate_evidence::{Frame, Language};
use memgate_goexe::{self as goexe, FunctionTable, arch::FrameLayout};

use super::{
    cfi::Step,
    registers::{Cursor, Memory, Registers},
};

/// This function writes the stack pointer and can still be unwound, because it lays out both stacks for that
/// (`resolveInternal`).
const BOTH_STACKS: &str = "runtime.cgocallback";
/// Calls that a signal handler puts into a goroutine that did not make them (`isInjectedCall`). If the call leaves the
/// return address in a register, the goroutine's own is on the stack, and its frame is not that of a call.
const INJECTED: [&str; 3] = ["runtime.sigpanic", "runtime.asyncPreempt", "runtime.debugCallV2"];

/// The calls at an address of the file, the innermost first. Wrappers that the compiler put between a call and its
/// function are left out, as in Go's own tracebacks.
pub(super) fn frames(functions: &FunctionTable, pc: u64) -> Vec<Frame> {
    functions.frames(pc).into_iter().filter(|call| !call.wrapper).map(frame).collect()
}

/// A call in the form of the evidence.
pub(in super::super) fn frame(call: goexe::Frame) -> Frame {
    Frame { function: call.function, file: call.file, line: call.line, inlined: call.inlined, language: Language::Go }
}

/// Goes from the frame to its caller. `bias` is added to an address of the file to get one of the process.
pub(super) fn step(
    functions: &FunctionTable,
    layout: &FrameLayout,
    cursor: &mut Cursor,
    bias: u64,
    memory: &Memory<'_>,
) -> Step {
    let pc = cursor.executing().wrapping_sub(bias);
    let Some(function) = functions.at(pc) else { return Step::Unknown };
    let injected = layout.pushed_by_call == 0 && INJECTED.contains(&function.name);
    if function.top_frame {
        return Step::Outermost;
    }
    if injected || function.writes_stack_pointer && function.name != BOTH_STACKS {
        return Step::Unknown;
    }
    let caller = functions.stack_delta(pc).and_then(|delta| caller(layout, cursor, u64::try_from(delta).ok()?, memory));
    match caller {
        Some((0, _)) => Step::Outermost,
        Some((pc, sp)) => {
            // Go preserves no register across a call.
            let mut registers = Registers { pc, general: [None; _] };
            registers.set(layout.stack_pointer, Some(sp));
            *cursor = Cursor { registers, stopped: false };
            Step::Caller
        }
        None => Step::Unknown,
    }
}

/// The return address, and the stack pointer after the return. `delta` is how much of the stack the function
/// has taken so far, bytes.
fn caller(layout: &FrameLayout, cursor: &Cursor, delta: u64, memory: &Memory<'_>) -> Option<(u64, u64)> {
    let sp = cursor.registers.get(layout.stack_pointer)?;
    let entry = sp.checked_add(delta)?;
    if layout.pushed_by_call > 0 {
        return Some((memory.word(entry)?, entry.checked_add(layout.pushed_by_call)?));
    }
    // A complete frame has the return address at its lower end. Before the frame is set up, the link register still has
    // it. A caller's frame is always set up, and its link register is unknown.
    let return_address = if delta == 0 { cursor.registers.get(layout.return_address)? } else { memory.word(sp)? };
    Some((return_address & layout.address_mask, entry))
}
