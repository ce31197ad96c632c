//! The stack frames of native code and Go on each architecture: registers by DWARF number, and where callers are found.

use memgate_evidence::platform::Platform;

/// The facts about an architecture that unwinding needs.
///
/// Sources of the DWARF numbers: System V ABI AMD64 Architecture Processor Supplement 1.0, figure 3.36; DWARF for the
/// Arm 64-bit Architecture (AADWARF64) 4.1; LoongArch DWARF in the psABI 2.30. Source of the layout of the user's
/// registers: arch/*/include/uapi/asm/ptrace.h (Linux 6.18). `user_regs_struct` of amd64 begins like its `pt_regs`.
#[derive(Debug)]
pub struct FrameLayout {
    /// DWARF number of the stack pointer.
    pub stack_pointer: u16,
    /// DWARF number of the frame pointer.
    pub frame_pointer: u16,
    /// DWARF number of the column for the return address in call frame information. If a call leaves the return address
    /// in a register, it is that register.
    pub return_address: u16,
    /// Bytes that a call instruction pushes; 0 if it leaves the return address in a register.
    pub pushed_by_call: u64,
    /// Whether a frame pointer, if one is kept, points at the caller's frame pointer, with the return address 8 bytes
    /// above it.
    pub frame_records: bool,
    /// The bits of a return address that are the address. arm64 may sign the others.
    pub address_mask: u64,
    /// The vendor whose extensions of the call frame instructions apply.
    pub vendor: gimli::Vendor,
    /// The DWARF number of each 8-byte word of the user's registers, or [`Self::PC`] or [`Self::NONE`].
    pub user_registers: &'static [u8],
}

impl FrameLayout {
    /// In [`Self::user_registers`]: the program counter, which has no DWARF number.
    pub const PC: u8 = 0xfe;
    /// In [`Self::user_registers`]: a word that unwinding does not need.
    pub const NONE: u8 = 0xff;
}

const AMD64: FrameLayout = FrameLayout {
    stack_pointer: 7,
    frame_pointer: 6,
    return_address: 16,
    pushed_by_call: 8,
    frame_records: true,
    address_mask: u64::MAX,
    vendor: gimli::Vendor::Default,
    // r15 r14 r13 r12 bp bx r11 r10 r9 r8 ax cx dx si di orig_ax ip cs flags sp
    user_registers: &[
        15,
        14,
        13,
        12,
        6,
        3,
        11,
        10,
        9,
        8,
        0,
        2,
        1,
        4,
        5,
        FrameLayout::NONE,
        FrameLayout::PC,
        FrameLayout::NONE,
        FrameLayout::NONE,
        7,
    ],
};

/// x0 to x30, sp, pc on arm64; r0 to r31, orig_a0, era on loong64.
const NUMBERED: [u8; 34] = {
    let mut numbers = [FrameLayout::NONE; 34];
    let mut number = 0;
    while number < 32 {
        numbers[number as usize] = number;
        number += 1;
    }
    numbers
};

const ARM64_REGISTERS: [u8; 33] = {
    let mut numbers = [FrameLayout::PC; 33];
    let mut index = 0;
    while index < 32 {
        numbers[index] = NUMBERED[index];
        index += 1;
    }
    numbers
};

const ARM64: FrameLayout = FrameLayout {
    stack_pointer: 31,
    frame_pointer: 29,
    return_address: 30,
    pushed_by_call: 0,
    frame_records: true,
    // The kernel gives addresses of more than 48 bits only to programs that ask for them
    // (Documentation/arch/arm64/memory.rst).
    address_mask: (1 << 48) - 1,
    vendor: gimli::Vendor::AArch64,
    user_registers: &ARM64_REGISTERS,
};

const LOONG64_REGISTERS: [u8; 34] = {
    let mut numbers = NUMBERED;
    numbers[33] = FrameLayout::PC;
    numbers
};

const LOONG64: FrameLayout = FrameLayout {
    stack_pointer: 3,
    frame_pointer: 22,
    return_address: 1,
    pushed_by_call: 0,
    frame_records: false,
    address_mask: u64::MAX,
    vendor: gimli::Vendor::Default,
    user_registers: &LOONG64_REGISTERS,
};

/// The layout of an architecture's frames.
pub const fn frame_layout(platform: Platform) -> &'static FrameLayout {
    match platform {
        Platform::LinuxAmd64 => &AMD64,
        Platform::LinuxArm64 => &ARM64,
        Platform::LinuxLoong64 => &LOONG64,
    }
}
