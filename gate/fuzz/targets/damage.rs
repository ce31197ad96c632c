//! Files that may be changed anywhere.
//!
//! An input is a list of changes to a file and not a file itself. An executable has more than a megabyte, and almost
//! all of it is code that nothing reads. A change names a section and a place in it, so it changes what is read.

use std::{ops::Range, path::PathBuf};

use object::{Object as _, ObjectSection as _};

/// A file as built.
pub(crate) struct Original {
    pub(crate) bytes: Vec<u8>,
    /// The parts of the file that changes choose from.
    parts: Vec<Range<usize>>,
}

/// The start of the file, with its headers. The other parts are its sections, except for the code.
const HEADERS: Range<usize> = 0..0x400;

/// The files in the directory that an environment variable names, in order.
pub(crate) fn files(variable: &str) -> Vec<PathBuf> {
    let directory = std::env::var_os(variable).unwrap_or_else(|| panic!("{variable} names a directory"));
    let entries = std::fs::read_dir(directory).expect("the directory can be read");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "the directory of {variable} holds files");
    paths
}

impl Original {
    pub(crate) fn read(path: &PathBuf) -> Self {
        let bytes = std::fs::read(path).expect("the file can be read");
        let file = object::File::parse(&*bytes).expect("an executable");
        let sections = file.sections().filter(|section| section.kind() != object::SectionKind::Text);
        let parts =
            sections.filter_map(|section| section.file_range()).map(|(at, size)| at as usize..(at + size) as usize);
        let parts = std::iter::once(HEADERS).chain(parts.filter(|part| !part.is_empty())).collect();
        Self { parts, bytes }
    }

    /// The file with these changes, each of them 15 bytes.
    pub(crate) fn damaged(&self, changes: &[u8]) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for change in changes.chunks_exact(Change::SIZE) {
            Change::read(change).apply(self, &mut bytes);
        }
        bytes
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
