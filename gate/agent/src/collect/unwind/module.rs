//! One file of code in a process: the executable, or a shared library.

use std::{fs::File, ops::Range};

use memgate_evidence::Frame;
use object::{
    LittleEndian, Object as _, ObjectSection as _, elf,
    read::elf::{ElfFile64, ProgramHeader as _, SectionHeader as _, SymbolTable},
};

use super::{Budget, cfi::Cfi, file::BoundedFile, lines::Lines, names::Symbols};

type Elf<'a> = ElfFile64<'a, LittleEndian, &'a BoundedFile>;

/// The parts of a file of code that memgate keeps.
pub(super) struct Module {
    /// The name without its directory, such as `libc.so.6`.
    name: String,
    segments: Vec<Segment>,
    pub(super) cfi: Cfi,
    symbols: Symbols,
    lines: Lines,
}

/// A loaded executable part of the file.
struct Segment {
    address: u64,
    offset: u64,
    size: u64,
}

impl Module {
    /// Reads the parts of the file that unwinding and naming need.
    ///
    /// # Errors
    /// Fails if it is not a 64-bit little-endian ELF file, or if it needs more memory than `budget` has.
    pub(super) fn read(name: String, file: File, budget: &mut Budget) -> Result<Self, String> {
        let lines = Lines::Unread(file.try_clone().map_err(|error| error.to_string())?);
        let data = BoundedFile::new(file);
        let elf = Elf::parse(&data).map_err(|error| format!("it is not a 64-bit ELF file: {error}"))?;
        let (address, frames) = section(&elf, ".eh_frame").unwrap_or_default();
        let cfi = Cfi::new(frames.to_vec(), address);
        let mut symbols = symbols(&elf, elf.elf_symbol_table());
        if symbols.is_empty() {
            symbols = self::symbols(&elf, elf.elf_dynamic_symbol_table());
        }
        budget.charge(symbols.size().saturating_add(cfi.size()))?;
        Ok(Self { name, segments: segments(&elf), cfi, symbols, lines })
    }

    /// The number that is added to an address of the file to get one of the process, which has mapped the file from
    /// `offset` at `start`; `None` if no executable segment is there.
    pub(super) fn bias(&self, start: u64, offset: u64) -> Option<u64> {
        let holds = |segment: &&Segment| segment.bytes().contains(&offset);
        let begins = |segment: &&Segment| segment.pages().contains(&offset);
        let segment = self.segments.iter().find(holds).or_else(|| self.segments.iter().find(begins))?;
        let file = start.wrapping_sub(offset);
        Some(file.wrapping_add(segment.offset).wrapping_sub(segment.address))
    }

    /// The calls at an address of the file, the innermost first: at most `most`, and always at least one.
    pub(super) fn frames(&mut self, address: u64, most: usize, budget: &mut Budget) -> Vec<Frame> {
        let name = self.symbols.at(address).unwrap_or_else(|| format!("{}+{address:#x}", self.name));
        self.lines.frames(address, &name, most, budget)
    }
}

impl Segment {
    fn bytes(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.size)
    }

    /// The part of the file in the segment's pages. The largest pages of the platforms have 64 KiB.
    fn pages(&self) -> Range<u64> {
        const PAGE: u64 = 64 << 10;
        self.offset & !(PAGE - 1)..self.offset.saturating_add(self.size)
    }
}

fn segments(elf: &Elf<'_>) -> Vec<Segment> {
    let endian = elf.endian();
    elf.elf_program_headers()
        .iter()
        .filter(|header| header.p_type(endian) == elf::PT_LOAD && header.p_flags(endian).contains(elf::PF_X))
        .map(|header| Segment {
            address: header.p_vaddr(endian),
            offset: header.p_offset(endian),
            size: header.p_filesz(endian),
        })
        .collect()
}

/// Address and bytes of a section.
fn section<'a>(elf: &Elf<'a>, name: &str) -> Option<(u64, &'a [u8])> {
    let section = elf.section_by_name(name)?;
    Some((section.address(), section.data().ok()?))
}

/// The functions of a symbol table. Without a table there are none.
fn symbols<'a>(elf: &Elf<'a>, table: &SymbolTable<'a, elf::FileHeader64<LittleEndian>, &'a BoundedFile>) -> Symbols {
    let strings = elf.elf_section_table().section(table.string_section());
    let strings = strings.and_then(|section| section.data(elf.endian(), elf.data())).unwrap_or_default();
    Symbols::new(table.symbols(), strings)
}
