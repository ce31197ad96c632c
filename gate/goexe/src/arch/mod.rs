//! The differences between architectures: registers, and the machine code that memgate has to understand.
//!
//! Each architecture decodes into one `Instruction`. The code that follows values ([`trace`]) is the same for all.

mod aarch64;
mod frames;
mod loongarch64;
mod registers;
mod trace;
mod x86_64;

pub use frames::{FrameLayout, frame_layout};
pub use registers::{ArgumentLocation, Registers, arena_base, argument, first_touch_program, registers};
pub use trace::{Access, Event, Reference, branch_with_results, trace};

use memgate_evidence::platform::Platform;

/// A direct call instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Virtual address of the instruction.
    pub at: u64,
    /// Virtual address of the function that it calls.
    pub target: u64,
}

/// How the kernel executes an instruction that has a uprobe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeCost {
    /// The kernel emulates the instruction, in less than a microsecond.
    Emulated,
    /// The kernel executes a copy of the instruction and traps again; 10 to 22 µs in a virtual machine.
    SingleStepped,
}

/// An instruction as a place for a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// The cost of a probe on it.
    pub cost: ProbeCost,
    /// Its name for people, such as `call`.
    pub mnemonic: String,
}

/// The number of an integer register: below 16 on amd64, in the processor's own order, and below 32 on the others.
type Register = u8;

/// A set of integer registers, one bit each.
type RegisterSet = u32;

/// An instruction, as far as memgate interprets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    at: u64,
    effect: Effect,
    /// The integer registers that it may change, in addition to the destination in `effect`.
    writes: RegisterSet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// The register holds this address afterwards.
    Address { to: Register, value: u64 },
    /// The register holds the page of an address. A following instruction completes the address.
    Page { to: Register, value: u64 },
    /// The register holds another register's value plus this.
    Add { to: Register, from: Register, plus: i64 },
    /// Reads or writes memory.
    Memory(MemoryAccess),
    /// Calls the function at this address; `None` if a register contains the address.
    Call(Option<u64>),
    /// May jump.
    Branch,
    /// Jumps or returns, so the next instruction is reached from elsewhere.
    Leave,
    /// Anything else.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MemoryAccess {
    place: Operand,
    /// Bytes of one element.
    size: u8,
    /// One, or two for a pair of registers.
    count: u8,
    access: Access,
    /// The register that is stored, or that is loaded and has an unknown value afterwards.
    register: Option<Register>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operand {
    Absolute(u64),
    Based { base: Register, offset: i64 },
}

const fn bit(register: Register) -> RegisterSet {
    1_u32.wrapping_shl(register as u32)
}

/// The direct calls in `code`, which starts at the virtual address `address`.
///
/// memgate probes call instructions, because the kernel emulates them on every architecture. It would single-step most
/// others.
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

/// Why a probe cannot be removed while the process runs; `None` if it can.
///
/// To tell a probe from the program's own `break`, Linux for LoongArch reads the instruction that trapped from memory
/// again (arch/loongarch/kernel/traps.c, `do_bp`, Linux 6.5 to 7.2). If the probe has been removed meanwhile, it finds
/// the program's instruction and sends SIGTRAP. On arm64 the processor reports which it was, and on amd64 the kernel
/// looks whether there is a probe.
pub const fn probes_stay(platform: Platform) -> Option<&'static str> {
    match platform {
        Platform::LinuxAmd64 | Platform::LinuxArm64 => None,
        Platform::LinuxLoong64 => Some(
            "its probes would be removed while the service runs, and a LoongArch kernel kills a process that hits one \
             at that moment",
        ),
    }
}

/// The cost of a probe on the first instruction of `code`; `None` if there is no instruction.
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

/// The facts about an instruction of a fixed length: its name, and whether the kernel emulates it.
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

/// The number of a register, from five bits.
fn register(word: u32, from: u32) -> Register {
    // Five bits fit.
    u8::try_from(bits(word, from, 5)).unwrap_or(0)
}

/// The signed number in `count` bits of `word` from bit `from` on.
fn signed(word: u32, from: u32, count: u32) -> i64 {
    // Shifts the sign bit up and down again to extend it.
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

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Takes the address of 0x11010, reads 8 bytes after it, and passes it to a function.
    fn assert_traced(platform: Platform, code: &[u8], minor: u32) {
        let events = trace(platform, code, 0x10000, Some(minor));
        let references: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Reference(reference) => Some((reference.address, reference.access, reference.size)),
                Event::Call { .. } => None,
            })
            .collect();
        assert!(references.contains(&(0x11010, Access::Address, 0)), "{platform}: {references:x?}");
        assert!(references.contains(&(0x11018, Access::Load, 8)), "{platform}: {references:x?}");
        assert!(
            matches!(events.last(), Some(Event::Call { argument_0: Some(0x11010), .. })),
            "{platform}: {events:x?}"
        );
    }

    #[test]
    fn addresses_are_followed_to_loads_and_calls() {
        // lea rax, [rip + 0x1009]; mov rcx, [rax + 8]; call
        let amd64 = [0x48, 0x8d, 0x05, 0x09, 0x10, 0, 0, 0x48, 0x8b, 0x48, 0x08, 0xe8, 0, 0, 0, 0];
        assert_traced(Platform::LinuxAmd64, &amd64, 27);
        // adrp x0, 0x11000; add x0, x0, 0x10; ldr x1, [x0, 8]; bl
        let arm64 = bytes(&[0xb000_0000, 0x9100_4000, 0xf940_0401, 0x9400_0004]);
        assert_traced(Platform::LinuxArm64, &arm64, 27);
        // pcalau12i $a0, 1; addi.d $a0, $a0, 0x10; ld.d $a1, $a0, 8; st.d $a0, $sp, 8; bl
        let loong64 = bytes(&[0x1a00_0024, 0x02c0_4084, 0x28c0_2085, 0x29c0_2064, 0x5400_1000]);
        assert_traced(Platform::LinuxLoong64, &loong64, 27);
        // Go 1.21 passes it on the stack.
        assert_traced(Platform::LinuxLoong64, &loong64, 21);
    }

    #[test]
    fn what_a_call_leaves_is_not_known() {
        // adrp x0, 0x11000; bl; ldr x1, [x0, 8]
        let code = bytes(&[0xb000_0000, 0x9400_0004, 0xf940_0401]);
        let events = trace(Platform::LinuxArm64, &code, 0x10000, Some(27));
        assert_eq!(events, [Event::Call { at: 0x10004, target: 0x10014, argument_0: Some(0x11000) }]);
    }

    #[test]
    fn results_are_read_at_a_branch_unless_they_moved_on() {
        // bl; cbnz x1, .+8
        let code = bytes(&[0x9400_0004, 0xb500_0041]);
        assert_eq!(branch_with_results(Platform::LinuxArm64, &code, 0x1000, 0x1000, 27), Some(0x1004));
        // bl; mov x1, x2; cbnz x1, .+8
        let code = bytes(&[0x9400_0004, 0xaa02_03e1, 0xb500_0041]);
        assert_eq!(branch_with_results(Platform::LinuxArm64, &code, 0x1000, 0x1000, 27), None);
        // call; test rbx, rbx; jne
        let code = [0xe8, 0, 0, 0, 0, 0x48, 0x85, 0xdb, 0x75, 0x00];
        assert_eq!(branch_with_results(Platform::LinuxAmd64, &code, 0x1000, 0x1000, 27), Some(0x1008));
        // call; xor eax, eax; jne
        let code = [0xe8, 0, 0, 0, 0, 0x31, 0xc0, 0x75, 0x00];
        assert_eq!(branch_with_results(Platform::LinuxAmd64, &code, 0x1000, 0x1000, 27), None);
        // bl; ld.d $a0, $sp, 40; bnez $a0, .+8: results on the stack remain available.
        let code = bytes(&[0x5400_1000, 0x28c0_a064, 0x4400_0880]);
        assert_eq!(branch_with_results(Platform::LinuxLoong64, &code, 0x1000, 0x1000, 27), None);
        assert_eq!(branch_with_results(Platform::LinuxLoong64, &code, 0x1000, 0x1000, 21), Some(0x1008));
    }

    #[test]
    fn the_kernel_emulates_some_instructions_on_amd64() {
        let emulated: [&[u8]; 8] = [
            &[0xe8, 0, 0, 0, 0],
            &[0xe9, 0, 0, 0, 0],
            &[0xeb, 0],
            &[0x74, 5],
            &[0x0f, 0x84, 0, 0, 0, 0],
            &[0x90],
            &[0x55],
            &[0x41, 0x54],
        ];
        // ret; endbr64; NOPs of 2 and 4 bytes; call rax; cmp; call with the prefix 66; loop.
        let stepped: [&[u8]; 8] = [
            &[0xc3],
            &[0xf3, 0x0f, 0x1e, 0xfa],
            &[0x66, 0x90],
            &[0x0f, 0x1f, 0x40, 0],
            &[0xff, 0xd0],
            &[0x48, 0x39, 0xc8],
            &[0x66, 0xe8, 0, 0, 0, 0],
            &[0xe2, 0],
        ];
        for (codes, cost) in [(emulated, ProbeCost::Emulated), (stepped, ProbeCost::SingleStepped)] {
            for code in codes {
                assert_eq!(probed(Platform::LinuxAmd64, code).map(|probed| probed.cost), Some(cost), "{code:x?}");
            }
        }
        assert_eq!(probed(Platform::LinuxAmd64, emulated[0]).map(|probed| probed.mnemonic), Some("call".to_owned()));
        assert_eq!(probed(Platform::LinuxAmd64, &[]), None);
    }

    #[test]
    fn the_kernel_emulates_branches_and_addresses_elsewhere() {
        let arm64 = [
            (0x9400_0004_u32, Some("bl")),
            (0x1400_0000, Some("b")),
            (0xd63f_0020, Some("blr")),
            (0xd61f_0020, Some("br")),
            (0xd65f_03c0, Some("ret")),
            (0x5400_0000, Some("b.cond")),
            (0xb400_0000, Some("cbz")),
            (0xb500_0000, Some("cbnz")),
            (0x3600_0000, Some("tbz")),
            (0x9000_0000, Some("adrp")),
            (0xd503_201f, None), // nop
            (0x5800_0000, None), // ldr x0, .
            (0xeb02_003f, None), // cmp x1, x2
            (0xd69f_03e0, None), // eret
        ];
        let loong64 = [
            (0x5400_1000_u32, Some("bl")),
            (0x4c00_0020, Some("jirl")),
            (0x4400_0880, Some("bnez")),
            (0x1a00_0024, Some("pcalau12i")),
            (0x4800_0000, None), // bceqz
            (0x0340_0000, None), // nop
            (0x28c0_2085, None), // ld.d
        ];
        let cases = arm64.map(|case| (Platform::LinuxArm64, case)).into_iter();
        for (platform, (word, name)) in cases.chain(loong64.map(|case| (Platform::LinuxLoong64, case))) {
            let probed = probed(platform, &word.to_le_bytes()).unwrap();
            assert_eq!(probed.cost == ProbeCost::Emulated, name.is_some(), "{word:#x}");
            assert!(name.is_none_or(|name| probed.mnemonic == name), "{word:#x}: {}", probed.mnemonic);
        }
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
