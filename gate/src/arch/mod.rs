//! What differs between the architectures: registers, and what memgate has to understand of machine code.
//!
//! Each architecture decodes into one [`Instruction`]; whatever follows values through code ([`trace`]) is the same for all.

mod aarch64;
mod frames;
mod loongarch64;
mod registers;
mod trace;
mod x86_64;

pub use frames::{FrameLayout, frame_layout};
pub use registers::{ArgumentLocation, Registers, arena_base, argument, first_touch_program, heap_range, registers};
pub use trace::{Access, Event, Reference, branch_with_results, trace};

use crate::platform::Platform;

/// A direct call instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Virtual address of the instruction.
    pub at: u64,
    /// Virtual address of the function that it calls.
    pub target: u64,
}

/// How the kernel executes an instruction that a uprobe lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeCost {
    /// The kernel does what the instruction would; below a microsecond.
    Emulated,
    /// The kernel executes a copy of the instruction and traps again; 10 to 22 µs in a virtual machine.
    SingleStepped,
}

/// An instruction as the target of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// What a probe on it costs.
    pub cost: ProbeCost,
    /// Its name, for a person: `call`.
    pub mnemonic: String,
}

/// A number of an integer register: below 16 on amd64, in the processor's own order; below 32 elsewhere.
type Register = u8;

/// A set of integer registers, a bit each.
type RegisterSet = u32;

/// An instruction, as far as memgate follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    at: u64,
    effect: Effect,
    /// The integer registers that it may change, other than what `effect` says of its destination.
    writes: RegisterSet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// The register holds this address from now on.
    Address { to: Register, value: u64 },
    /// The register holds the page of an address, which a following instruction completes.
    Page { to: Register, value: u64 },
    /// The register holds another's value plus this.
    Add { to: Register, from: Register, plus: i64 },
    /// Reads or writes memory.
    Memory(MemoryAccess),
    /// Calls the function at this address; `None` where a register says which.
    Call(Option<u64>),
    /// Jumps or not.
    Branch,
    /// Jumps or returns, so that what follows is reached from elsewhere.
    Leave,
    /// Anything else.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MemoryAccess {
    place: Place,
    /// Bytes of one element.
    size: u8,
    /// One, or two for a pair of registers.
    count: u8,
    access: Access,
    /// The register that is stored, or that is loaded where its value is not known afterwards.
    register: Option<Register>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Absolute(u64),
    Based { base: Register, offset: i64 },
}

const fn bit(register: Register) -> RegisterSet {
    1_u32.wrapping_shl(register as u32)
}

/// The direct calls in `code`, which starts at the virtual address `address`.
///
/// A call instruction is what memgate probes: the kernel emulates it on every architecture, where it would single-step
/// most others.
pub fn calls(platform: Platform, code: &[u8], address: u64) -> Vec<Call> {
    let call = |at: u64, target: Option<u64>| target.map(|target| Call { at, target });
    match platform {
        Platform::LinuxAmd64 => x86_64::calls(code, address).collect(),
        Platform::LinuxArm64 => {
            words(code, address).filter_map(|(at, word)| call(at, aarch64::called(at, word))).collect()
        }
        Platform::LinuxLoong64 => {
            words(code, address).filter_map(|(at, word)| call(at, loongarch64::called(at, word))).collect()
        }
    }
}

/// What a probe on the first instruction of `code` costs; `None` where there is no instruction.
pub fn probed(platform: Platform, code: &[u8]) -> Option<Probed> {
    match platform {
        Platform::LinuxAmd64 => x86_64::probed(code),
        Platform::LinuxArm64 => words(code, 0).next().map(|(_, word)| aarch64::probed(word)),
        Platform::LinuxLoong64 => words(code, 0).next().map(|(_, word)| loongarch64::probed(word)),
    }
}

fn decode(platform: Platform, code: &[u8], address: u64) -> Vec<Instruction> {
    match platform {
        Platform::LinuxAmd64 => x86_64::decode(code, address),
        Platform::LinuxArm64 => words(code, address).map(|(at, word)| aarch64::decode(at, word)).collect(),
        Platform::LinuxLoong64 => words(code, address).map(|(at, word)| loongarch64::decode(at, word)).collect(),
    }
}

/// What is said of an instruction of a fixed length: its name, and whether the kernel emulates it.
fn named(emulated: Option<&str>, word: u32) -> Probed {
    match emulated {
        Some(mnemonic) => Probed { cost: ProbeCost::Emulated, mnemonic: mnemonic.to_owned() },
        None => Probed { cost: ProbeCost::SingleStepped, mnemonic: format!("the instruction {word:#010x}") },
    }
}

/// The 32-bit instructions of `code` with their addresses.
fn words(code: &[u8], address: u64) -> impl Iterator<Item = (u64, u32)> {
    let addresses = std::iter::successors(Some(address), |at| Some(at.wrapping_add(4)));
    addresses.zip(code.as_chunks::<4>().0).map(|(at, bytes)| (at, u32::from_le_bytes(*bytes)))
}

/// `count` bits of `word` from bit `from` on; `count` is below 32.
const fn bits(word: u32, from: u32, count: u32) -> u32 {
    (word >> from) & ((1 << count) - 1)
}

/// A register's number, from five bits.
fn register(word: u32, from: u32) -> Register {
    // Five bits fit.
    u8::try_from(bits(word, from, 5)).unwrap_or(0)
}

/// The signed number in `count` bits of `word` from bit `from` on.
fn signed(word: u32, from: u32, count: u32) -> i64 {
    // Shifting the sign bit up and down again extends it.
    i64::from((bits(word, from, count) << (32 - count)).cast_signed() >> (32 - count))
}

/// The target of a branch whose 26-bit word offset is `immediate`.
fn branch_target(at: u64, immediate: u32) -> u64 {
    at.wrapping_add_signed(signed(immediate, 0, 26) * 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_call_on_amd64_is_found() {
        // nop; call 0x1005+1+0x10; ret
        let code = [0x90, 0xe8, 0x10, 0x00, 0x00, 0x00, 0xc3];
        assert_eq!(calls(Platform::LinuxAmd64, &code, 0x1000), [Call { at: 0x1001, target: 0x1016 }]);
    }

    #[test]
    fn a_backward_bl_on_arm64_is_found() {
        // nop; bl .-8
        let code = [0x1f, 0x20, 0x03, 0xd5, 0xfe, 0xff, 0xff, 0x97];
        assert_eq!(calls(Platform::LinuxArm64, &code, 0x1000), [Call { at: 0x1004, target: 0xffc }]);
    }

    #[test]
    fn forward_and_backward_bl_on_loong64_are_found() {
        // bl .+16 = 0x54001000; bl .-4 = 0x57ffffff
        let code = [0x00, 0x10, 0x00, 0x54, 0xff, 0xff, 0xff, 0x57];
        assert_eq!(
            calls(Platform::LinuxLoong64, &code, 0x1000),
            [Call { at: 0x1000, target: 0x1010 }, Call { at: 0x1004, target: 0x1000 }]
        );
    }

    #[test]
    fn garbage_has_no_calls_or_some_but_does_not_panic() {
        for platform in Platform::ALL {
            for length in 0..64_u8 {
                for factor in [1_u8, 37, 101, 255] {
                    let code: Vec<u8> = (0..length).map(|byte| byte.wrapping_mul(factor)).collect();
                    let _ = calls(platform, &code, u64::MAX - 8);
                    let _ = probed(platform, &code);
                    let _ = trace(platform, &code, u64::MAX - 8, None);
                    let _ = branch_with_results(platform, &code, u64::MAX - 8, 0, 27);
                }
            }
        }
    }
}
