//! What differs between the architectures: where Go passes arguments, and what a call instruction looks like.

mod aarch64;
mod frames;
mod loongarch64;
mod x86_64;

pub use frames::{FrameLayout, frame_layout};

use crate::platform::Platform;

/// A direct call instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Virtual address of the instruction.
    pub at: u64,
    /// Virtual address of the function that it calls.
    pub target: u64,
}

/// The direct calls in `code`, which starts at the virtual address `address`.
///
/// A call instruction is what memgate probes: the kernel emulates it on every architecture, where it would single-step
/// most others.
pub fn calls(platform: Platform, code: &[u8], address: u64) -> Vec<Call> {
    match platform {
        Platform::LinuxAmd64 => x86_64::calls(code, address),
        Platform::LinuxArm64 => aarch64::calls(code, address),
        Platform::LinuxLoong64 => loongarch64::calls(code, address),
    }
}

/// Offsets in `struct pt_regs` of the registers that carry the first two integer arguments of a Go function, bytes.
///
/// Source: src/cmd/compile/abi-internal.md (Go 1.27) for the registers, arch/*/include/asm/ptrace.h (Linux 6.18) for
/// the layout. On loong64 this holds from Go 1.22 on.
pub const fn argument_offsets(platform: Platform) -> [u64; 2] {
    match platform {
        Platform::LinuxAmd64 => x86_64::ARGUMENT_OFFSETS,
        Platform::LinuxArm64 => aarch64::ARGUMENT_OFFSETS,
        Platform::LinuxLoong64 => loongarch64::ARGUMENT_OFFSETS,
    }
}

/// The 32-bit instructions of `code` with their addresses.
fn words(code: &[u8], address: u64) -> impl Iterator<Item = (u64, u32)> {
    let addresses = std::iter::successors(Some(address), |at| Some(at.wrapping_add(4)));
    addresses.zip(code.as_chunks::<4>().0).map(|(at, bytes)| (at, u32::from_le_bytes(*bytes)))
}

/// The target of a branch whose 26-bit word offset is `immediate`.
fn branch_target(at: u64, immediate: u32) -> u64 {
    // Shifting the sign bit up and down again extends it.
    let words = (immediate << 6).cast_signed() >> 6;
    at.wrapping_add_signed(i64::from(words) * 4)
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
                let code: Vec<u8> = (0..length).map(|byte| byte.wrapping_mul(37)).collect();
                let _ = calls(platform, &code, u64::MAX - 8);
            }
        }
    }
}
