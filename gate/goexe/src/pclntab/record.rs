//! The data of the tables about one function, and about one call that was inlined into it.
//!
//! Sources: `_func` in src/runtime/runtime2.go, `inlinedCall` in src/runtime/symtabinl.go, `FuncID`, `FuncFlag` and the
//! indices of tables in src/internal/abi/symtab.go, Go 1.21 to 1.27.

use super::bytes::{i32_at, u8_at, u32_at};

/// `FuncFlagTopFrame`.
pub(super) const TOP_FRAME: u8 = 1;
/// `FuncFlagSPWrite`.
pub(super) const WRITES_STACK_POINTER: u8 = 2;
/// `FuncFlagAsm`.
pub(super) const ASSEMBLY: u8 = 4;

/// Size of the fixed part of `_func` in bytes. The offsets of its value tables follow, then those of its funcdata, four
/// bytes each.
const FIXED_SIZE: usize = 44;
/// `PCDATA_InlTreeIndex`.
const INLINE_INDICES: usize = 2;
/// `FUNCDATA_InlTree`.
const INLINE_TREE: usize = 3;

/// `_func`.
pub(super) struct Record<'t> {
    /// The record's offset in `pclntable`.
    pub(super) offset: u32,
    /// Address of the function's first instruction.
    pub(super) entry: u64,
    /// Address of the next function.
    pub(super) end: u64,
    /// The name's offset in `funcnametab`.
    pub(super) name: u32,
    /// `pcsp`, an offset in `pctab`, like the next two.
    pub(super) stack_delta: u32,
    /// `pcfile`.
    pub(super) files: u32,
    /// `pcln`.
    pub(super) lines: u32,
    /// `cuOffset`, the index in `cutab` from which file numbers count.
    pub(super) unit: u32,
    /// Line of the `func` keyword.
    pub(super) start_line: i32,
    /// `FuncID`.
    pub(super) id: u8,
    /// `FuncFlag`.
    pub(super) flags: u8,
    /// `npcdata`.
    value_tables: u32,
    /// `nfuncdata`.
    data: u8,
    /// The data after the fixed part.
    offsets: &'t [u8],
}

impl<'t> Record<'t> {
    /// The record at an offset in `pclntable`, for the function between these addresses; `None` if it is cut off.
    pub(super) fn read(entries: &'t [u8], offset: u32, entry: u64, end: u64) -> Option<Self> {
        let bytes = entries.get(usize::try_from(offset).ok()?..)?;
        Some(Self {
            offset,
            entry,
            end,
            name: u32_at(bytes, 4)?,
            stack_delta: u32_at(bytes, 16)?,
            files: u32_at(bytes, 20)?,
            lines: u32_at(bytes, 24)?,
            value_tables: u32_at(bytes, 28)?,
            unit: u32_at(bytes, 32)?,
            start_line: i32_at(bytes, 36)?,
            id: u8_at(bytes, 40)?,
            flags: u8_at(bytes, 41)?,
            data: u8_at(bytes, 43)?,
            offsets: bytes.get(FIXED_SIZE..)?,
        })
    }

    /// Offset in `pctab` of the table that gives the inlined call at each address; `None` if nothing was inlined.
    pub(super) fn inline_indices(&self) -> Option<u32> {
        let there = usize::try_from(self.value_tables).ok()? > INLINE_INDICES;
        u32_at(self.offsets, INLINE_INDICES * 4).filter(|offset| there && *offset != 0)
    }

    /// Offset from `gofunc` of the inlined calls; `None` if there are none.
    pub(super) fn inline_tree(&self) -> Option<u32> {
        let there = usize::from(self.data) > INLINE_TREE;
        let index = usize::try_from(self.value_tables).ok()?.checked_add(INLINE_TREE)?;
        u32_at(self.offsets, index.checked_mul(4)?).filter(|offset| there && *offset != u32::MAX)
    }
}

/// `inlinedCall`.
pub(super) struct InlinedCall {
    /// `FuncID` of the called function.
    pub(super) id: u8,
    /// The name's offset in `funcnametab`.
    pub(super) name: u32,
    /// Offset from the entry of the function that it was inlined into to an instruction at the place of the call.
    pub(super) parent: i32,
}

impl InlinedCall {
    /// In bytes.
    pub(super) const SIZE: usize = 16;

    /// The call with this index in an inline tree.
    pub(super) fn read(tree: &[u8], index: usize) -> Option<Self> {
        let bytes = tree.get(index.checked_mul(Self::SIZE)?..)?;
        Some(Self { id: u8_at(bytes, 0)?, name: u32_at(bytes, 4)?, parent: i32_at(bytes, 8)? })
    }
}

/// Whether a `FuncID` is `FuncIDWrapper`, the last of them. Its number depends on the version, because versions add
/// others before it (`corostart`, `runCleanups`).
pub(super) fn is_wrapper(id: u8, go_minor: u32) -> bool {
    id == match go_minor {
        ..=21 => 21,
        22..=24 => 22,
        _ => 23,
    }
}
