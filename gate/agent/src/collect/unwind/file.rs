//! Reads parts of a file with unknown contents.

use std::{
    cell::Cell,
    fs::{File, OpenOptions},
    ops::Range,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
};

use object::{ReadCache, ReadRef};

/// The most bytes that are read from one file at one time: several copies of the symbols of a large executable.
const MAXIMUM_READ: u64 = 256 << 20;
/// The longest file that is read, bytes.
const MAXIMUM_FILE: u64 = 1 << 30;

/// A file from which only a fixed number of bytes is read, even if its headers overlap.
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
        // This is the most that is read of a text (object 0.40, read_cache.rs).
        self.take(4096.min(range.end.saturating_sub(range.start)))?;
        self.cache.read_bytes_at_until(range, delimiter)
    }
}

/// Opens the file that a process has mapped at `range`.
///
/// `map_files` gives the same file, even a deleted one, but needs a capability. The path in the process's view may name
/// another file by now; the inode shows that. Opening never waits, whatever the kind of the file.
pub(super) fn open_mapped(pid: i32, range: &Range<u64>, inode: u64, path: &str) -> Result<File, String> {
    let mapped = format!("/proc/{pid}/map_files/{:x}-{:x}", range.start, range.end);
    let named = format!("/proc/{pid}/root{}", path.strip_suffix(" (deleted)").unwrap_or(path));
    // Overlay file systems may give a file another number in the list of mappings, so only a file that is opened by
    // name is checked.
    open(&mapped, None).or_else(|_| open(&named, Some(inode)))
}

fn open(path: &str, inode: Option<u64>) -> Result<File, String> {
    let file = OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK).open(path);
    let file = file.map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() || inode.is_some_and(|inode| metadata.ino() != inode) {
        return Err("it is not the file that was mapped".to_owned());
    }
    if metadata.len() > MAXIMUM_FILE {
        return Err("it is larger than 1 GiB".to_owned());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn no_more_than_the_limit_is_read_however_often() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100]).unwrap();
        let data = BoundedFile::new(file);
        data.left.set(100);
        assert_eq!((&data).read_bytes_at(0, 60), Ok(&[7; 60][..]));
        assert_eq!((&data).read_bytes_at(30, 60), Err(()));
        assert_eq!((&data).read_bytes_at(60, 40), Ok(&[7; 40][..]));
        assert_eq!((&data).read_bytes_at_until(0..1, 0), Err(()));
    }
}
