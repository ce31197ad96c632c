//! Reading parts of a file that may be anything.

use std::{
    cell::Cell,
    fs::{File, OpenOptions},
    ops::Range,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
};

use object::{ReadCache, ReadRef};

/// Most bytes that are read of one file at one time: several copies of the symbols of a large executable.
const MAXIMUM_READ: u64 = 256 << 20;
/// Longest file that is looked into.
const MAXIMUM_FILE: u64 = 1 << 30;

/// A file of which no more than a fixed number of bytes is read, however its headers overlap.
pub(super) struct BoundedFile {
    cache: ReadCache<File>,
    left: Cell<u64>,
}

impl BoundedFile {
    pub(super) fn new(file: File) -> Self {
        Self { cache: ReadCache::new(file), left: Cell::new(MAXIMUM_READ) }
    }

    fn take(&self, size: u64) -> Result<(), ()> {
        self.left.set(self.left.get().checked_sub(size).ok_or(())?);
        Ok(())
    }
}

impl<'a> ReadRef<'a> for &'a BoundedFile {
    fn len(self) -> Result<u64, ()> {
        (&self.cache).len()
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        self.take(size)?;
        self.cache.read_bytes_at(offset, size)
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'a [u8], ()> {
        // At most so much is read of a text (object 0.40, read_cache.rs).
        self.take(4096.min(range.end.saturating_sub(range.start)))?;
        self.cache.read_bytes_at_until(range, delimiter)
    }
}

/// Opens the file that a process has mapped at `range`.
///
/// `map_files` gives the very file, also one that was deleted, but needs a capability; the path as the process sees it
/// may name another one by now, which the inode tells. Opening never waits, whatever kind of file it is.
pub(super) fn open_mapped(pid: i32, range: &Range<u64>, inode: u64, path: &str) -> Result<File, String> {
    let places = [
        format!("/proc/{pid}/map_files/{:x}-{:x}", range.start, range.end),
        format!("/proc/{pid}/root{}", path.strip_suffix(" (deleted)").unwrap_or(path)),
    ];
    let open = |place: &String| OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(place);
    let mut reason = String::new();
    for place in &places {
        match open(place).and_then(|file| Ok((file.metadata()?, file))) {
            Ok((metadata, _)) if !metadata.is_file() || metadata.ino() != inode => {
                "it is not the file that was mapped".clone_into(&mut reason);
            }
            Ok((metadata, _)) if metadata.len() > MAXIMUM_FILE => {
                return Err("it is larger than 1 GiB".to_owned());
            }
            Ok((_, file)) => return Ok(file),
            Err(error) => reason = error.to_string(),
        }
    }
    Err(reason)
}
