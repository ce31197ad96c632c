//! Call frame information: how to get from a frame's registers to its caller's in native code.
//!
//! Sources: DWARF 5, section 6.4; Linux Standard Base Core 5.0, chapter 10.6, for `.eh_frame`. The sorted table that
//! `.eh_frame_hdr` offers is not used: static executables have none, and it need not agree with the frames.

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, EndianSlice, EvaluationResult, LittleEndian, Location, RegisterRule,
    UnwindContext, UnwindExpression, UnwindSection as _, Value,
};
use memgate_goexe::arch::FrameLayout;

use super::registers::{Cursor, Memory, Registers};

type Reader<'a> = EndianSlice<'a, LittleEndian>;

/// Longest description of one function that is evaluated, bytes; those of real ones are below a few KiB.
const MAXIMUM_ENTRY: usize = 1 << 20;
/// Most operations of an expression that are evaluated; those of real ones have about ten.
const MAXIMUM_OPERATIONS: u32 = 1000;
/// What one step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The cursor stands in the caller.
    Caller,
    /// There is no caller: the thread began here.
    Outermost,
    /// The frame's description, or what it needs of the registers and the stack, is not there.
    Unknown,
}

/// The call frame information of a module. Addresses are those of the file.
#[derive(Debug, Default)]
pub(super) struct Cfi {
    /// `.eh_frame`.
    frames: Vec<u8>,
    address: u64,
    /// Where each function begins, in order, and where in the frames its description is.
    functions: Vec<(u64, u32)>,
}

/// Everything of one step but the rules.
struct Frame<'a> {
    layout: &'a FrameLayout,
    section: EhFrame<Reader<'a>>,
    encoding: gimli::Encoding,
    registers: Registers,
    memory: &'a Memory<'a>,
}

impl Cfi {
    /// The information in the bytes of `.eh_frame`, which lie at this address; up to the first description that is broken.
    pub(super) fn new(frames: Vec<u8>, address: u64) -> Self {
        let section = EhFrame::new(&frames, LittleEndian);
        let bases = BaseAddresses::default().set_eh_frame(address);
        let mut functions = Vec::new();
        let mut entries = section.entries(&bases);
        while let Ok(Some(entry)) = entries.next() {
            if let CieOrFde::Fde(description) = entry
                && let Ok(description) = description.parse(EhFrame::cie_from_offset)
                && let Ok(offset) = u32::try_from(description.offset())
            {
                functions.push((description.initial_address(), offset));
            }
        }
        functions.sort_unstable();
        functions.shrink_to_fit();
        Self { frames, address, functions }
    }

    /// How much memory it takes, bytes.
    pub(super) fn size(&self) -> usize {
        self.frames.len().saturating_add(self.functions.len().saturating_mul(size_of::<(u64, u32)>()))
    }

    /// Goes from the frame to its caller. `bias` is what lies between an address of the file and the process's.
    pub(super) fn step(
        &self,
        layout: &FrameLayout,
        context: &mut UnwindContext<usize>,
        cursor: &mut Cursor,
        bias: u64,
        memory: &Memory<'_>,
    ) -> Step {
        self.try_step(layout, context, cursor, bias, memory).unwrap_or(Step::Unknown)
    }

    fn try_step(
        &self,
        layout: &FrameLayout,
        context: &mut UnwindContext<usize>,
        cursor: &mut Cursor,
        bias: u64,
        memory: &Memory<'_>,
    ) -> Option<Step> {
        let pc = cursor.executing().wrapping_sub(bias);
        let mut section = EhFrame::new(&self.frames, LittleEndian);
        section.set_vendor(layout.vendor);
        let bases = BaseAddresses::default().set_eh_frame(self.address);
        let fde = section.fde_from_offset(&bases, self.offset_of(pc)?.into(), EhFrame::cie_from_offset).ok()?;
        if !fde.contains(pc) || fde.entry_len().max(fde.cie().entry_len()) > MAXIMUM_ENTRY {
            return None;
        }
        let row = fde.unwind_info_for_address(&section, &bases, context, pc).ok()?;
        let frame = Frame { layout, section, encoding: fde.cie().encoding(), registers: cursor.registers, memory };
        let cfa = frame.cfa(row.cfa())?;
        let column = fde.cie().return_address_register();
        let return_address = match row.register(column) {
            Some(RegisterRule::Undefined) => return Some(Step::Outermost),
            Some(rule) => frame.caller_value(column.0, &rule, cfa)?,
            // The call left it in the register, and nothing was called since.
            None if cursor.stopped && layout.pushed_by_call == 0 => cursor.registers.get(column.0)?,
            None => return None,
        };
        for (register, rule) in row.registers() {
            cursor.registers.set(register.0, frame.caller_value(register.0, rule, cfa));
        }
        // The address of the frame is by definition the caller's stack pointer, unless a rule says otherwise.
        if row.register(gimli::Register(layout.stack_pointer)).is_none() {
            cursor.registers.set(layout.stack_pointer, Some(cfa));
        }
        cursor.registers.pc = return_address & layout.address_mask;
        cursor.stopped = fde.is_signal_trampoline();
        Some(if cursor.registers.pc == 0 { Step::Outermost } else { Step::Caller })
    }

    /// Offset in `.eh_frame` of the description of the function that may hold the address.
    fn offset_of(&self, pc: u64) -> Option<usize> {
        let behind = self.functions.partition_point(|(start, _)| *start <= pc);
        let (_, offset) = self.functions.get(behind.checked_sub(1)?)?;
        usize::try_from(*offset).ok()
    }
}

impl Frame<'_> {
    /// What a register holds in this frame. Where calls push the return address, its column stands for the program counter.
    fn register(&self, number: u16) -> Option<u64> {
        let is_pc = self.layout.pushed_by_call > 0 && number == self.layout.return_address;
        if is_pc { Some(self.registers.pc) } else { self.registers.get(number) }
    }

    /// The address of the frame: the stack pointer before the call.
    fn cfa(&self, rule: &CfaRule<usize>) -> Option<u64> {
        match rule {
            CfaRule::RegisterAndOffset { register, offset } => {
                Some(self.register(register.0)?.wrapping_add_signed(*offset))
            }
            CfaRule::Expression(expression) => self.evaluate(expression, None),
        }
    }

    /// What the register held in the caller.
    fn caller_value(&self, register: u16, rule: &RegisterRule<usize>, cfa: u64) -> Option<u64> {
        match rule {
            RegisterRule::SameValue => self.register(register),
            RegisterRule::Offset(offset) => self.memory.word(cfa.wrapping_add_signed(*offset)),
            RegisterRule::ValOffset(offset) => Some(cfa.wrapping_add_signed(*offset)),
            RegisterRule::Register(other) => self.register(other.0),
            RegisterRule::Expression(expression) => self.memory.word(self.evaluate(expression, Some(cfa))?),
            RegisterRule::ValExpression(expression) => self.evaluate(expression, Some(cfa)),
            RegisterRule::Constant(value) => Some(*value),
            _ => None,
        }
    }

    /// Evaluates an expression; `initial` is what its stack begins with.
    fn evaluate(&self, expression: &UnwindExpression<usize>, initial: Option<u64>) -> Option<u64> {
        let mut evaluation = expression.get(&self.section).ok()?.evaluation(self.encoding);
        evaluation.set_max_iterations(MAXIMUM_OPERATIONS);
        if let Some(initial) = initial {
            evaluation.set_initial_value(initial);
        }
        let mut result = evaluation.evaluate().ok()?;
        loop {
            result = match result {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    evaluation.resume_with_register(Value::Generic(self.register(register.0)?))
                }
                EvaluationResult::RequiresMemory { address, size, .. } => {
                    evaluation.resume_with_memory(Value::Generic(self.memory.number(address, usize::from(size))?))
                }
                _ => return None,
            }
            .ok()?;
        }
        match evaluation.as_result() {
            [piece] => match piece.location {
                Location::Address { address } => Some(address),
                Location::Value { value } => value.to_u64(u64::MAX).ok(),
                _ => None,
            },
            _ => None,
        }
    }
}
