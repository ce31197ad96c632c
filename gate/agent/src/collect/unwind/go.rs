//! How to get from a frame of Go code to its caller's.
//!
//! Go describes its frames in its own function table. Source: `unwinder.resolveInternal` and `unwinder.next` in
//! src/runtime/traceback.go, Go 1.21 to 1.27.

use memgate_evidence::{Frame, Language};
use memgate_goexe::{self as goexe, FunctionTable, arch::FrameLayout};

use super::{
    cfi::Step,
    registers::{Cursor, Memory, Registers},
};

/// Writes the stack pointer, and yet can be unwound: it lays out both stacks so (`resolveInternal`).
const BOTH_STACKS: &str = "runtime.cgocallback";
/// Calls that a signal handler puts into a goroutine that did not make them (`isInjectedCall`). Where the call leaves the
/// return address in a register, the goroutine's own is on the stack and its frame is not that of a call.
const INJECTED: [&str; 3] = ["runtime.sigpanic", "runtime.asyncPreempt", "runtime.debugCallV2"];

/// The calls at an address of the file, the innermost first, without those that the compiler put between a call and its
/// function: Go's own tracebacks leave them out too.
pub(super) fn frames(functions: &FunctionTable, pc: u64) -> Vec<Frame> {
    functions.frames(pc).into_iter().filter(|call| !call.wrapper).map(frame).collect()
}

/// A call as the evidence has it.
pub(in super::super) fn frame(call: goexe::Frame) -> Frame {
    Frame { function: call.function, file: call.file, line: call.line, inlined: call.inlined, language: Language::Go }
}

/// Goes from the frame to its caller. `bias` is what lies between an address of the file and the process's.
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
            // Go keeps no register across a call.
            let mut registers = Registers { pc, general: [None; _] };
            registers.set(layout.stack_pointer, Some(sp));
            *cursor = Cursor { registers, stopped: false };
            Step::Caller
        }
        None => Step::Unknown,
    }
}

/// Return address, and stack pointer after the return. `delta` is how many bytes the function took off the stack.
fn caller(layout: &FrameLayout, cursor: &Cursor, delta: u64, memory: &Memory<'_>) -> Option<(u64, u64)> {
    let sp = cursor.registers.get(layout.stack_pointer)?;
    let entry = sp.checked_add(delta)?;
    if layout.pushed_by_call > 0 {
        return Some((memory.word(entry)?, entry.checked_add(layout.pushed_by_call)?));
    }
    // Where a frame is set up, the link register is stored at its lower end; before, it still has it. A caller's frame is
    // always set up: its link register is not known.
    let return_address = if delta == 0 { cursor.registers.get(layout.return_address)? } else { memory.word(sp)? };
    Some((return_address & layout.address_mask, entry))
}
