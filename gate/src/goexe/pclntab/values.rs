//! Tables that give a value for every address of a function, as pairs of value and address, both as differences.
//!
//! Sources: `step` and `pcvalue` in src/runtime/symtab.go, `funcpctab` in src/cmd/internal/obj/pcln.go, Go 1.27; unchanged since
//! Go 1.2.

/// The steps of one table: each gives a value and the offset from the function's entry up to which it holds.
///
/// Every step advances by one quantum at least, and none begins behind the end of the function, so the steps are bounded whatever the table says.
pub(super) struct Values<'t> {
    rest: &'t [u8],
    quantum: u32,
    /// Length of the function in bytes.
    length: u64,
    reached: u64,
    value: i32,
}

impl<'t> Values<'t> {
    /// The table that starts at `bytes`, of a function of this length in bytes; addresses count in `quantum` bytes.
    pub(super) fn new(bytes: &'t [u8], quantum: u32, length: u64) -> Self {
        Self { rest: bytes, quantum, length, reached: 0, value: -1 }
    }

    /// The value at an offset from the function's entry; `None` where the table says nothing.
    pub(super) fn at(mut self, offset: u64) -> Option<i32> {
        self.find(|(_, end)| offset < *end).map(|(value, _)| value)
    }

    fn varint(&mut self) -> Option<u32> {
        let mut value = 0_u32;
        for shift in [0, 7, 14, 21, 28] {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

impl Iterator for Values<'_> {
    type Item = (i32, u64);

    fn next(&mut self) -> Option<Self::Item> {
        let change = self.varint()?;
        // A change of zero ends the table, except at its start.
        if (change == 0 && self.reached > 0) || self.reached >= self.length {
            return None;
        }
        let advance = u64::from(self.varint()?) * u64::from(self.quantum);
        if advance == 0 {
            return None;
        }
        self.value = self.value.wrapping_add((change >> 1).cast_signed() ^ -((change & 1).cast_signed()));
        self.reached += advance;
        Some((self.value, self.reached))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(bytes: &[u8], quantum: u32, length: u64) -> Vec<(i32, u64)> {
        Values::new(bytes, quantum, length).collect()
    }

    #[test]
    fn the_pairs_are_differences() {
        // 0 up to 4, 24 up to 0x90, 0 up to 0x91; the second 0 ends it.
        let table = [2, 4, 48, 0x8c, 1, 47, 1, 0, 99, 99];
        assert_eq!(steps(&table, 1, 0x91), [(0, 4), (24, 0x90), (0, 0x91)]);
        assert_eq!(steps(&table, 4, 0x244), [(0, 16), (24, 0x240), (0, 0x244)]);
        let at = |offset| Values::new(&table, 1, 0x91).at(offset);
        assert_eq!([at(0), at(3), at(4), at(0x90), at(0x91)], [Some(0), Some(0), Some(24), Some(0), None]);
    }

    #[test]
    fn a_change_of_zero_may_begin_a_table() {
        assert_eq!(steps(&[0, 5, 0], 1, 5), [(-1, 5)]);
    }

    #[test]
    fn a_broken_table_ends() {
        assert_eq!(steps(&[], 1, 9), []);
        assert_eq!(steps(&[2], 1, 9), [], "cut off");
        assert_eq!(steps(&[2, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80], 1, 9), [], "no end of a number");
        assert_eq!(steps(&[2, 0, 2, 0, 2, 0], 1, 9), [], "no progress");
        assert_eq!(steps(&[2, 1, 2, 1, 2, 1], 1, 2), [(0, 1), (1, 2)], "behind the end of the function");
        assert_eq!(steps(&[0xfe, 0xff, 0xff, 0xff, 0x0f, 0xff, 0xff, 0xff, 0xff, 0x0f], 4, 9).len(), 1, "extremes");
    }
}
