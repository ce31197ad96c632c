//! Call frame information: it leads from a frame's registers to its caller's in native code.
//!
//! Sources: DWARF 5, section 6.4; Linux Standard Base Core 5.0, chapter 10.6, for `.eh_frame`. The sorted table in
//! `.eh_frame_hdr` is not used, because static executables have none and it may not agree with the frames.

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, EndianSlice, EvaluationResult, LittleEndian, Location, RegisterRule,
    UnwindContext, UnwindExpression, UnwindSection as _, Value,
};
use memgate_goexe::arch::FrameLayout;

use super::registers::{Cursor, Memory, Registers};

type Reader<'a> = EndianSlice<'a, LittleEndian>;

/// The longest description of one function that is evaluated, bytes. Real ones are below a few KiB.
const MAXIMUM_ENTRY: usize = 1 << 20;
/// The most operations of an expression that are evaluated. Real ones have about ten.
const MAXIMUM_OPERATIONS: u32 = 1000;
/// The outcome of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The cursor is at the caller.
    Caller,
    /// There is no caller, because the thread began here.
    Outermost,
    /// The frame's description is missing, or the registers and the stack do not have what it needs.
    Unknown,
}

/// The call frame information of a module. Addresses are those of the file.
#[derive(Debug, Default)]
pub(super) struct Cfi {
    /// `.eh_frame`.
    frames: Vec<u8>,
    address: u64,
    /// The start of each function, in order, with the offset of its description in the frames.
    functions: Vec<(u64, u32)>,
}

/// Everything in one step except the rules.
struct Frame<'a> {
    layout: &'a FrameLayout,
    section: EhFrame<Reader<'a>>,
    encoding: gimli::Encoding,
    registers: Registers,
    memory: &'a Memory<'a>,
}

impl Cfi {
    /// Reads the bytes of `.eh_frame`, which is at this address, up to the first broken description.
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

    /// The size in memory, bytes.
    pub(super) fn size(&self) -> usize {
        self.frames.len().saturating_add(self.functions.len().saturating_mul(size_of::<(u64, u32)>()))
    }

    /// Goes from the frame to its caller. `bias` is added to an address of the file to get one of the process.
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
            // The call left it in the register, and no other call has happened since.
            None if cursor.stopped && layout.pushed_by_call == 0 => cursor.registers.get(column.0)?,
            None => return None,
        };
        for (register, rule) in row.registers() {
            cursor.registers.set(register.0, frame.caller_value(register.0, rule, cfa));
        }
        // By definition the address of the frame is the caller's stack pointer, unless a rule says otherwise.
        if row.register(gimli::Register(layout.stack_pointer)).is_none() {
            cursor.registers.set(layout.stack_pointer, Some(cfa));
        }
        cursor.registers.pc = return_address & layout.address_mask;
        cursor.stopped = fde.is_signal_trampoline();
        Some(if cursor.registers.pc == 0 { Step::Outermost } else { Step::Caller })
    }

    /// Offset in `.eh_frame` of the description of the function that may contain the address.
    fn offset_of(&self, pc: u64) -> Option<usize> {
        let behind = self.functions.partition_point(|(start, _)| *start <= pc);
        let (_, offset) = self.functions.get(behind.checked_sub(1)?)?;
        usize::try_from(*offset).ok()
    }
}

impl Frame<'_> {
    /// The value of a register in this frame. If calls push the return address, its column means the program counter.
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

    /// The value of the register in the caller.
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

    /// Evaluates an expression. `initial` is the first value on its stack.
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
