//! Registers of a thread, and the copied bytes of its stack.

use memgate_evidence::platform::Platform;
use memgate_goexe::arch::{FrameLayout, frame_layout};

/// The number of registers with DWARF numbers that unwinding may need, on every architecture.
const COUNT: usize = 32;

/// A thread's registers in user mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// The program counter.
    pub pc: u64,
    /// The general registers by DWARF number ([`FrameLayout`] names the important ones); `None` if the value is not
    /// known.
    pub general: [Option<u64>; COUNT],
}

impl Registers {
    /// Registers with only these two values.
    pub fn of(platform: Platform, pc: u64, sp: u64) -> Self {
        let mut registers = Self { pc, general: [None; COUNT] };
        registers.set(frame_layout(platform).stack_pointer, Some(sp));
        registers
    }

    /// Reads the registers from the bytes of the kernel's `struct user_pt_regs` (arm64, loong64) or `struct pt_regs`
    /// (amd64), from `bpf_user_pt_regs_t`, `bpf_task_pt_regs` or `PTRACE_GETREGSET` with `NT_PRSTATUS`. More bytes may
    /// follow.
    ///
    /// Returns `None` if the bytes end before the last register that is needed.
    pub fn from_user(platform: Platform, bytes: &[u8]) -> Option<Self> {
        let numbers = frame_layout(platform).user_registers;
        let words = bytes.as_chunks::<8>().0;
        let mut registers = Self { pc: 0, general: [None; COUNT] };
        for (index, number) in numbers.iter().enumerate() {
            let value = u64::from_le_bytes(*words.get(index)?);
            match *number {
                FrameLayout::PC => registers.pc = value,
                FrameLayout::NONE => {}
                number => registers.set(u16::from(number), Some(value)),
            }
        }
        Some(registers)
    }

    /// The register with this DWARF number; `None` if it is not known.
    pub fn get(&self, number: u16) -> Option<u64> {
        self.general.get(usize::from(number)).copied().flatten()
    }

    /// Sets the register with this DWARF number. Registers without a place here are not needed for unwinding.
    pub fn set(&mut self, number: u16, value: Option<u64>) {
        if let Some(register) = self.general.get_mut(usize::from(number)) {
            *register = value;
        }
    }
}

/// The copied parts of the process's memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Memory<'a> {
    /// The stack on which the thread ran: the address of its first byte, and the bytes.
    pub(super) stack: (u64, &'a [u8]),
    /// The goroutine's stack, if it is another one.
    pub(super) go: Option<(u64, &'a [u8])>,
}

impl Memory<'_> {
    /// The little-endian number of `size` bytes, at most 8, at an address; `None` if it was not copied.
    pub(super) fn number(&self, address: u64, size: usize) -> Option<u64> {
        std::iter::once(self.stack).chain(self.go).find_map(|(start, bytes)| {
            let offset = usize::try_from(address.checked_sub(start)?).ok()?;
            let field = bytes.get(offset..offset.checked_add(size)?)?;
            let mut word = [0; 8];
            word.get_mut(..size)?.copy_from_slice(field);
            Some(u64::from_le_bytes(word))
        })
    }

    /// The 8-byte word at an address.
    pub(super) fn word(&self, address: u64) -> Option<u64> {
        self.number(address, 8)
    }
}

/// The position of the unwinding: the registers of one frame.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    pub(super) registers: Registers,
    /// Whether a fault or a signal stopped the thread in this frame. Otherwise its program counter is a return address,
    /// which may be after the function's end.
    pub(super) stopped: bool,
}

impl Cursor {
    /// An address in the instruction that the frame executes.
    pub(super) fn executing(&self) -> u64 {
        self.registers.pc.wrapping_sub(u64::from(!self.stopped))
    }
}
