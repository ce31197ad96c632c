//! arm64.

use super::{Call, branch_target, words};

/// R0 at 0, R1 at 8.
pub(super) const ARGUMENT_OFFSETS: [u64; 2] = [0, 8];

/// `BL imm26`: Arm Architecture Reference Manual, C6.2.
pub(super) fn calls(code: &[u8], address: u64) -> Vec<Call> {
    words(code, address)
        .filter(|(_, word)| word >> 26 == 0b10_0101)
        .map(|(at, word)| Call { at, target: branch_target(at, word & 0x03ff_ffff) })
        .collect()
}
