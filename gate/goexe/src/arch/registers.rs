//! Where the kernel stores the registers of a thread, and where Go passes arguments.

use memgate_evidence::platform::Platform;

use super::Register;

/// Offsets of registers in the `struct pt_regs` that a probe sees, bytes.
///
/// Sources: src/cmd/compile/abi-internal.md (Go 1.27) for the use of each register by Go;
/// arch/x86/include/asm/ptrace.h, arch/arm64/include/uapi/asm/ptrace.h and arch/loongarch/include/asm/ptrace.h (Linux
/// 6.18) for the offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registers {
    /// Integer arguments 0 to 8. Results use the same registers.
    pub arguments: [u64; 9],
    /// The current goroutine, a `*runtime.g`.
    pub g: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Program counter.
    pub pc: u64,
    /// Frame pointer. loong64 has none; its R22 holds `g`.
    pub fp: Option<u64>,
    /// Link register. amd64 keeps the return address on the stack.
    pub lr: Option<u64>,
    /// Words of `struct user_pt_regs` (`pt_regs` on amd64).
    pub count: u64,
    /// The numbers of the first two argument registers in the decoder's numbering.
    pub(super) results: [Register; 2],
    /// The numbers of argument register 0 and of the stack pointer.
    pub(super) argument_0: Register,
    pub(super) stack: Register,
}

/// The place of an integer argument at a call instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArgumentLocation {
    /// In the register at this offset in `struct pt_regs`, bytes.
    Register(u64),
    /// In memory, this many bytes above the stack pointer.
    Stack(u64),
}

/// amd64: AX, BX, CX, DI, SI, R8 to R11; g in R14.
const AMD64: Registers = Registers {
    arguments: [80, 40, 88, 112, 104, 72, 64, 56, 48],
    g: 8,
    sp: 152,
    pc: 128,
    fp: Some(32),
    lr: None,
    count: 21,
    results: [0, 3],
    argument_0: 0,
    stack: 4,
};

/// arm64: R0 to R8; g in R28.
const ARM64: Registers = Registers {
    arguments: [0, 8, 16, 24, 32, 40, 48, 56, 64],
    g: 224,
    sp: 248,
    pc: 256,
    fp: Some(232),
    lr: Some(240),
    count: 34,
    results: [0, 1],
    argument_0: 0,
    stack: 31,
};

/// loong64: R4 to R12; g in R22.
const LOONG64: Registers = Registers {
    arguments: [32, 40, 48, 56, 64, 72, 80, 88, 96],
    g: 176,
    sp: 24,
    pc: 264,
    fp: None,
    lr: Some(8),
    count: 45,
    results: [4, 5],
    argument_0: 4,
    stack: 3,
};

/// The registers of a platform.
pub const fn registers(platform: Platform) -> &'static Registers {
    match platform {
        Platform::LinuxAmd64 => &AMD64,
        Platform::LinuxArm64 => &ARM64,
        Platform::LinuxLoong64 => &LOONG64,
    }
}

/// The BPF program that captures first touches. The layout of its context depends on the architecture.
pub const fn first_touch_program(platform: Platform) -> &'static str {
    match platform {
        Platform::LinuxAmd64 => "first_touch_amd64",
        Platform::LinuxArm64 => "first_touch_arm64",
        Platform::LinuxLoong64 => "first_touch_loong64",
    }
}

/// The address that the runtime's index of arenas counts from (malloc.go, Go 1.21 to 1.27, `arenaBaseOffset`).
pub const fn arena_base(platform: Platform) -> u64 {
    match platform {
        Platform::LinuxAmd64 => 0xffff_8000_0000_0000,
        Platform::LinuxArm64 | Platform::LinuxLoong64 => 0,
    }
}

/// The first version of Go that passes arguments in registers on loong64 (src/internal/abi/abi_loong64.go, Go 1.22).
const LOONG64_REGISTERS: u32 = 22;

/// Where a function compiled by Go 1.`minor` finds its integer argument `index` at the call instruction; `None` beyond
/// the arguments that [`Registers`] covers.
///
/// Every argument is assumed to fill a word. This holds for all that memgate reads.
pub fn argument(platform: Platform, minor: u32, index: usize) -> Option<ArgumentLocation> {
    let register = *registers(platform).arguments.get(index)?;
    if matches!(platform, Platform::LinuxLoong64) && minor < LOONG64_REGISTERS {
        // ABI0: the callee uses the word at the stack pointer for its return address.
        return u64::try_from(index).ok().map(|index| ArgumentLocation::Stack(8 + 8 * index));
    }
    Some(ArgumentLocation::Register(register))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_in_registers_but_on_loong64_before_go_1_22() {
        assert_eq!(argument(Platform::LinuxAmd64, 21, 0), Some(ArgumentLocation::Register(80)));
        assert_eq!(argument(Platform::LinuxLoong64, 22, 1), Some(ArgumentLocation::Register(40)));
        assert_eq!(argument(Platform::LinuxLoong64, 21, 0), Some(ArgumentLocation::Stack(8)));
        assert_eq!(argument(Platform::LinuxLoong64, 21, 5), Some(ArgumentLocation::Stack(48)));
        assert_eq!(argument(Platform::LinuxAmd64, 27, 9), None);
    }
}
