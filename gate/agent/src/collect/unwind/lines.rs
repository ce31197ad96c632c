//! Source lines of native code, from a module's DWARF.

use std::{fs::File, sync::Arc};

use addr2line::Context;
use gimli::{EndianArcSlice, LittleEndian, SectionId};
use memgate_evidence::{Frame, Language};
use object::{Object as _, ObjectSection as _, read::elf::ElfFile64};

use super::{
    Budget,
    file::BoundedFile,
    names::{MAXIMUM_NAME, demangled},
};

type Reader = EndianArcSlice<LittleEndian>;

/// The largest DWARF of one module, decompressed bytes. A module with more gets no source lines. Large Go services have
/// less.
const MAXIMUM_DWARF: u64 = 96 << 20;
/// The largest `.debug_line`, bytes. Each byte may become a row in memory.
const MAXIMUM_LINES: u64 = 16 << 20;

/// The source lines of a module, read when they are first needed.
pub(super) enum Lines {
    /// Not read yet. They will be read from this file.
    Unread(File),
    /// There are none.
    None,
    /// Read.
    Read(Box<Context<Reader>>),
}

impl Lines {
    /// The calls at an address of the file, the innermost first. The last one is the call of the function `outermost`,
    /// whose name is known from the symbols.
    pub(super) fn frames(&mut self, address: u64, outermost: &str, most: usize, budget: &mut Budget) -> Vec<Frame> {
        if let Self::Unread(file) = self {
            *self = match file.try_clone().ok().and_then(|file| read(file, budget)) {
                Some(context) => Self::Read(Box::new(context)),
                None => Self::None,
            };
        }
        let mut frames = match self {
            Self::Read(context) => find(context, address, most).unwrap_or_default(),
            Self::Unread(_) | Self::None => Vec::new(),
        };
        match frames.last_mut() {
            // A name from the symbols is complete. DWARF may have only its last part.
            Some(last) => outermost.clone_into(&mut last.function),
            None => frames.push(native(outermost.to_owned(), String::new(), 0)),
        }
        let length = frames.len();
        for inlined in frames.iter_mut().take(length.saturating_sub(1)) {
            inlined.inlined = true;
        }
        frames
    }
}

/// A frame of native code that is not inlined.
fn native(function: String, file: String, line: u32) -> Frame {
    Frame { function, file, line, inlined: false, language: Language::Native }
}

fn read(file: File, budget: &mut Budget) -> Option<Context<Reader>> {
    let data = BoundedFile::new(file);
    let elf = ElfFile64::<object::LittleEndian, _>::parse(&data).ok()?;
    let size = |id: SectionId| {
        let section = elf.section_by_name(id.name())?;
        section.compressed_file_range().ok().map(|range| range.uncompressed_size)
    };
    let sections = [
        SectionId::DebugAbbrev,
        SectionId::DebugAddr,
        SectionId::DebugAranges,
        SectionId::DebugInfo,
        SectionId::DebugLine,
        SectionId::DebugLineStr,
        SectionId::DebugRanges,
        SectionId::DebugRngLists,
        SectionId::DebugStr,
        SectionId::DebugStrOffsets,
    ];
    let total = sections.iter().filter_map(|id| size(*id)).fold(0, u64::saturating_add);
    let lines = size(SectionId::DebugLine)?;
    if lines > MAXIMUM_LINES || total > MAXIMUM_DWARF || !budget.take(total) {
        return None;
    }
    let load = |id: SectionId| {
        let bytes = elf.section_by_name(id.name()).filter(|_| sections.contains(&id));
        let bytes = bytes.map(|section| section.uncompressed_data()).transpose()?.unwrap_or_default();
        Ok::<_, object::Error>(EndianArcSlice::new(Arc::from(bytes.into_owned()), LittleEndian))
    };
    Context::from_dwarf(gimli::Dwarf::load(load).ok()?).ok()
}

fn find(context: &Context<Reader>, address: u64, most: usize) -> Option<Vec<Frame>> {
    let mut found = context.find_frames(address).skip_all_loads().ok()?;
    let mut frames = Vec::new();
    while frames.len() < most
        && let Some(frame) = found.next().ok()?
    {
        let function = frame.function.as_ref().and_then(|name| Some(demangled(name.raw_name().ok()?.as_bytes())));
        let (file, line) = frame.location.map_or((None, None), |location| (location.file, location.line));
        let file = file.filter(|file| file.len() <= MAXIMUM_NAME).map(str::to_owned);
        frames.push(native(function.unwrap_or_default(), file.unwrap_or_default(), line.unwrap_or(0)));
    }
    Some(frames)
}
