//! The module: where `runtime.firstmoduledata` lies and which tables it names.
//!
//! Sources: `pcHeader` and `moduledata` in src/runtime/symtab.go, Go 1.20 to 1.27.

use std::ops::Range;

use super::{bytes::u32_at, image::Image};

/// The first eight bytes of a `pcHeader` of Go 1.20 to 1.27 with the byte `minLC` left out: the magic number
/// (`Go120PCLnTabMagic` in src/internal/abi/symtab.go), two zeros, `minLC`, and the size of a pointer.
const HEADER_START: u64 = 0x0800_0000_ffff_fff1;
/// Where `minLC` is in them.
const QUANTUM_SHIFT: u32 = 48;

/// Fields of `pcHeader`, in words from its start. The word before the offsets was `textStart`; Go 1.26 left it unused.
const HEADER_FUNCTIONS: u64 = 1;
const HEADER_NAMES: u64 = 4;
const HEADER_UNITS: u64 = 5;
const HEADER_FILES: u64 = 6;
const HEADER_VALUES: u64 = 7;
const HEADER_ENTRIES: u64 = 8;

/// Fields of `moduledata`, in words from its start; each slice is a pointer, a length and a capacity.
const NAMES: u64 = 1;
const UNITS: u64 = 4;
const FILES: u64 = 7;
const VALUES: u64 = 10;
const ENTRIES: u64 = 13;
const FUNCTIONS: u64 = 16;
const FIRST_PC: u64 = 20;
const LAST_PC: u64 = 21;
const TEXT: u64 = 22;

/// Size of one element of `ftab`, a `functab`, in bytes.
pub(super) const FUNCTION_SIZE: usize = 8;
/// Size of one element of `cutab` in bytes.
pub(super) const UNIT_SIZE: usize = 4;

/// What the module says, checked against the header of the tables.
pub(super) struct Module {
    /// Address of the `moduledata`.
    pub(super) address: u64,
    /// `text`, the base of every function's offset.
    pub(super) text: u64,
    /// `gofunc`, the base of every offset of funcdata.
    pub(super) function_data: u64,
    /// The `pcHeader`'s `minLC`: 1, 2 or 4 bytes, in which the tables count addresses.
    pub(super) quantum: u32,
    /// How many functions there are.
    pub(super) functions: usize,
    /// Address of the `pcHeader`; the tables are addressed from here.
    pub(super) header: u64,
    /// `funcnametab`.
    pub(super) names: Range<usize>,
    /// `cutab`.
    pub(super) units: Range<usize>,
    /// `filetab`.
    pub(super) files: Range<usize>,
    /// `pctab`.
    pub(super) values: Range<usize>,
    /// `pclntable`: `ftab`, and behind it the `_func` records.
    pub(super) entries: Range<usize>,
}

impl Module {
    /// Finds the tables by their header and the module by its pointer to it. Neither sections nor symbols are needed.
    ///
    /// # Errors
    /// When this Go version's layout is not known, or there is no header or no module that agrees with it.
    pub(super) fn find(image: &Image<'_>, go_minor: u32) -> Result<Self, String> {
        let function_data = function_data_field(go_minor)?;
        let mut headers: Vec<u64> = image
            .words_in_file()
            .filter(|(_, word)| word & !(0xff << QUANTUM_SHIFT) == HEADER_START)
            .map(|(address, _)| address)
            .collect();
        if headers.is_empty() {
            return Err("it has no Go function table (pclntab)".to_owned());
        }
        headers.sort_unstable();
        image
            .relocated_words()
            .chain(image.words_in_file())
            .filter(|(_, word)| headers.binary_search(word).is_ok())
            .find_map(|(address, header)| Self::at(image, address, header, function_data))
            .ok_or_else(|| {
                "its Go function table is named by no `runtime.firstmoduledata` that agrees with it".to_owned()
            })
    }

    /// The module at this address, if there is one whose tables are those that the header names.
    fn at(image: &Image<'_>, address: u64, header: u64, function_data: u64) -> Option<Self> {
        let in_header = |field: u64| image.word(header.checked_add(field * 8)?);
        let in_module = |field: u64| image.word(address.checked_add(field * 8)?);
        let range = |in_header_field: u64, field: u64, size: u64| {
            let offset = in_header(in_header_field)?;
            let named = header.checked_add(offset)? == in_module(field)?;
            let length = in_module(field.checked_add(1)?)?.checked_mul(size)?;
            let range = usize::try_from(offset).ok()?..usize::try_from(offset.checked_add(length)?).ok()?;
            named.then_some(range)
        };
        let module = Self {
            address,
            text: in_module(TEXT)?,
            function_data: in_module(function_data)?,
            quantum: u32::try_from((in_header(0)? >> QUANTUM_SHIFT) & 0xff).ok()?,
            functions: usize::try_from(in_header(HEADER_FUNCTIONS)?).ok()?,
            header,
            names: range(HEADER_NAMES, NAMES, 1)?,
            units: range(HEADER_UNITS, UNITS, 4)?,
            files: range(HEADER_FILES, FILES, 1)?,
            values: range(HEADER_VALUES, VALUES, 1)?,
            entries: range(HEADER_ENTRIES, ENTRIES, 1)?,
        };
        module.agrees(image).then_some(module)
    }

    /// Whether `ftab`, `minpc` and `maxpc` say the same as the header and the table of functions.
    fn agrees(&self, image: &Image<'_>) -> bool {
        let in_module = |field: u64| image.word(self.address.checked_add(field * 8)?);
        let Some(table) = self.header.checked_add(self.entries.start as u64).and_then(|address| image.from(address))
        else {
            return false;
        };
        let offset = |index: usize| u32_at(table, index.checked_mul(FUNCTION_SIZE)?).map(u64::from);
        let address = |index: usize| self.text.checked_add(offset(index)?);
        let counted = self.functions.checked_add(1).map(|count| count as u64);
        matches!(self.quantum, 1 | 2 | 4)
            && self.functions > 0
            && in_module(FUNCTIONS) == in_module(ENTRIES)
            && in_module(FUNCTIONS + 1) == counted
            && in_module(FIRST_PC).is_some_and(|first| address(0) == Some(first))
            && in_module(LAST_PC).is_some_and(|last| address(self.functions) == Some(last))
    }

    /// The bytes of all tables, from the header on.
    ///
    /// # Errors
    /// When they do not lie in one segment.
    pub(super) fn tables<'data>(&self, image: &Image<'data>) -> Result<&'data [u8], String> {
        let ranges = [&self.names, &self.units, &self.files, &self.values, &self.entries];
        let length = ranges.iter().map(|range| range.end).max().unwrap_or(0);
        image.bytes(self.header, length).ok_or_else(|| "its Go function table is cut off".to_owned())
    }
}

/// The word of `moduledata` that is `gofunc`. Everything before `types` lies alike in these versions.
fn function_data_field(go_minor: u32) -> Result<u64, String> {
    match go_minor {
        20..=26 => Ok(40),
        // `typedesclen`, `itaboffset` and `itabsize` came before it.
        27 => Ok(43),
        other => Err(format!("its function table is of Go 1.{other}; memgate reads those of Go 1.20 to 1.27")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_starts_as_the_linker_writes_it() {
        let bytes = [0xf1, 0xff, 0xff, 0xff, 0, 0, 4, 8];
        let word = u64::from_le_bytes(bytes);
        assert_eq!(word & !(0xff << QUANTUM_SHIFT), HEADER_START);
        assert_eq!(word >> QUANTUM_SHIFT & 0xff, 4);
    }

    #[test]
    fn an_unknown_version_is_refused_by_name() {
        assert!(function_data_field(28).unwrap_err().contains("Go 1.28"));
        assert!(function_data_field(19).is_err());
    }
}
