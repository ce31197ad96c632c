//! Reads Go executables in which anything may have been changed, and asks them everything. It has found something when a
//! panic, a hang or an excess of memory ends it.
//!
//! An input is not an executable but a list of changes to one. A Go executable has more than a megabyte, almost all of it
//! code that nothing reads; a change names a section and a place in it, so that what is read is what is changed.
//!
//! `MEMGATE_FUZZ_EXECUTABLES` names a directory with the executables; the minor version of Go must end their names: `pie-1.27`.
#![no_main]

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use libfuzzer_sys::fuzz_target;
use memgate::goexe::{FunctionTable, GoExe};
use object::{Object as _, ObjectSection as _};

/// An executable as it was built.
struct Original {
    bytes: Vec<u8>,
    go_minor: u32,
    /// The parts of the file that changes choose from.
    parts: Vec<Range<usize>>,
}

/// The start of the file, with its headers; the other parts are its sections but the code.
const HEADERS: Range<usize> = 0..0x400;

static ORIGINALS: LazyLock<Vec<Original>> = LazyLock::new(|| {
    let directory = std::env::var_os("MEMGATE_FUZZ_EXECUTABLES").expect("MEMGATE_FUZZ_EXECUTABLES names a directory");
    let entries = std::fs::read_dir(directory).expect("the directory can be read");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "the directory holds executables");
    paths.iter().map(Original::read).collect()
});

impl Original {
    fn read(path: &PathBuf) -> Self {
        let bytes = std::fs::read(path).expect("the executable can be read");
        let version = path.to_str().and_then(|name| name.rsplit_once("1.")).expect("a version ends its name").1;
        let file = object::File::parse(&*bytes).expect("an executable");
        let sections = file.sections().filter(|section| section.kind() != object::SectionKind::Text);
        let parts =
            sections.filter_map(|section| section.file_range()).map(|(at, size)| at as usize..(at + size) as usize);
        let parts = std::iter::once(HEADERS).chain(parts.filter(|part| !part.is_empty())).collect();
        Self { go_minor: version.parse().expect("a minor version"), parts, bytes }
    }
}

/// One change: 15 bytes of the input.
struct Change {
    part: u8,
    kind: u8,
    width: u8,
    offset: u32,
    value: u64,
}

impl Change {
    const SIZE: usize = 15;

    fn read(input: &[u8]) -> Self {
        Self {
            part: input[0],
            kind: input[1],
            width: input[2],
            offset: u32::from_le_bytes(input[3..7].try_into().expect("four bytes")),
            value: u64::from_le_bytes(input[7..15].try_into().expect("eight bytes")),
        }
    }

    fn apply(&self, original: &Original, bytes: &mut Vec<u8>) {
        let part = &original.parts[usize::from(self.part) % original.parts.len()];
        // Tables begin with what matters most, so every other place is near the start.
        let reach = if self.kind & 1 == 0 { part.len() } else { part.len().min(1024) };
        let at = part.start + self.offset as usize % reach;
        let width = 1 << (self.width % 4);
        match (self.kind >> 1) % 8 {
            0 => bytes.truncate(at),
            kind => {
                let Some(place) = bytes.get_mut(at..at + width) else { return };
                let mut word = [0; 8];
                word[..width].copy_from_slice(place);
                let old = u64::from_le_bytes(word);
                let new = match kind {
                    1 | 2 => old.wrapping_add(u64::from(self.value as u8)),
                    3 | 4 => old.wrapping_sub(u64::from(self.value as u8)),
                    5 => old ^ (1 << (self.value % 64)),
                    _ => self.value,
                };
                place.copy_from_slice(&new.to_le_bytes()[..width]);
            }
        }
    }
}

fn ask(table: &FunctionTable) {
    let functions = table.functions().count();
    // The more there are, the fewer of them are asked about.
    let step = functions / 64 + 1;
    for function in table.functions().step_by(step) {
        assert!(table.named(function.name).is_some(), "{} is found by its name", function.name);
        for pc in [function.entry, function.entry.midpoint(function.end), function.end.wrapping_sub(1)] {
            let frames = table.frames(pc);
            assert_eq!(table.frame(pc).as_ref(), frames.first());
            assert_eq!(table.at(pc).is_some(), !frames.is_empty());
            table.stack_delta(pc);
        }
    }
    for pc in [0, table.text_start().wrapping_sub(1), table.module_data(), u64::MAX] {
        table.frames(pc);
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((first, changes)) = input.split_first() else { return };
    let original = &ORIGINALS[usize::from(*first) % ORIGINALS.len()];
    let mut bytes = original.bytes.clone();
    for change in changes.chunks_exact(Change::SIZE) {
        Change::read(change).apply(original, &mut bytes);
    }
    if let Ok(file) = object::File::parse(&*bytes)
        && let Ok(table) = FunctionTable::read(&file, original.go_minor)
    {
        ask(&table);
    }
    // All that is read of an executable before it is run: build information, DWARF, variables, call sites, the plan of probes.
    if let Ok(exe) = GoExe::from_bytes(Path::new("fuzzed"), &bytes) {
        let _ = (exe.runtime.losses(), memgate::probes::plan(&exe, false));
    }
});
