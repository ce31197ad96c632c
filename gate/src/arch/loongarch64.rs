//! loong64.

use super::{Call, branch_target, words};

/// R4 at 32, R5 at 40.
pub(super) const ARGUMENT_OFFSETS: [u64; 2] = [32, 40];

/// `BL offs26`: LoongArch Reference Manual volume 1, 2.2.7; the low 10 bits of the word hold the offset's upper bits.
pub(super) fn calls(code: &[u8], address: u64) -> Vec<Call> {
    words(code, address)
        .filter(|(_, word)| word >> 26 == 0b01_0101)
        .map(|(at, word)| Call { at, target: branch_target(at, (word & 0x3ff) << 16 | (word >> 10) & 0xffff) })
        .collect()
}
