//! The owner of resident memory: the Go runtime, an executable, or something else.
//!
//! The runtime's own mappings are known from its calls of mmap. Other resident memory that is not the executable or a
//! shared library is off-heap: C allocated it, or a driver mapped it.

use std::{collections::HashSet, fs::File, io, ops::Range, os::unix::fs::FileExt as _, path::PathBuf};

use procfs::{
    ProcResult,
    process::{MMPermissions, MMapPath, MemoryMap, Process},
};

use crate::collect::{service::ServiceProcess, sources::RuntimeRanges};

/// The bit for a resident page in the last byte of a `pagemap` entry (Documentation/admin-guide/mm/pagemap.rst, Linux
/// 6.18).
pub(super) const PAGE_PRESENT: u8 = 0x80;

/// The largest address space whose pages are read one by one, bytes. With pages of 4 KiB it has half a megabyte of
/// `pagemap`, which takes some hundred microseconds.
const MAXIMUM_WALK: u64 = 256 << 20;

/// Finds the resident memory of one process that does not belong to the Go runtime.
pub(super) struct OffHeapReader {
    page_map: File,
    page_size: u64,
    /// The executable's segments as loaded, including bss.
    executable: Vec<Range<u64>>,
}

impl OffHeapReader {
    /// A reader for the service, whose executable is loaded at `executable`.
    ///
    /// # Errors
    /// Fails if the process is gone or its page map cannot be read.
    pub(super) fn new(service: &ServiceProcess, executable: Vec<Range<u64>>, page_size: u64) -> io::Result<Self> {
        Ok(Self { page_map: File::open(service.file("pagemap"))?, page_size, executable })
    }

    /// The process's mappings. They include how much of each is resident if a possible off-heap mapping is large:
    /// reading each of its pages then takes longer than the kernel's walk over the resident ones.
    ///
    /// # Errors
    /// Fails if the process is gone.
    pub(super) fn maps(&self, process: &Process, runtime: &RuntimeRanges) -> ProcResult<Vec<MemoryMap>> {
        let maps = alive(process.maps()?.0)?;
        let is_large = |range: &Range<u64>| range.end - range.start > MAXIMUM_WALK;
        if self.ranges(&maps, runtime).iter().any(is_large) { maps_with_resident(process) } else { Ok(maps) }
    }

    /// Resident off-heap memory, bytes.
    ///
    /// # Errors
    /// Fails if the process is gone.
    pub(super) fn resident(&self, maps: &[MemoryMap], runtime: &RuntimeRanges) -> ProcResult<u64> {
        let images = images(maps);
        maps.iter().filter(|map| !self.is_image(map, &images)).map(|map| self.resident_outside(map, runtime)).sum()
    }

    /// The ranges that may have off-heap memory: mapped, and neither an executable's nor the runtime's.
    pub(super) fn ranges(&self, maps: &[MemoryMap], runtime: &RuntimeRanges) -> Vec<Range<u64>> {
        let images = images(maps);
        let others = maps.iter().filter(|map| !self.is_image(map, &images));
        others.flat_map(|map| runtime.outside(map.address.0..map.address.1)).collect()
    }

    /// The process's `pagemap`.
    pub(super) const fn page_map(&self) -> &File {
        &self.page_map
    }

    /// Whether the mapping is the executable's, a shared library's or the kernel's.
    fn is_image(&self, map: &MemoryMap, images: &HashSet<&PathBuf>) -> bool {
        match &map.pathname {
            MMapPath::Vdso | MMapPath::Vvar | MMapPath::Vsyscall | MMapPath::Rollup => true,
            MMapPath::Path(path) => images.contains(path),
            MMapPath::Other(name) => name == "vvar_vclock",
            _ => self.executable.iter().any(|segment| segment.start <= map.address.0 && map.address.1 <= segment.end),
        }
    }

    fn resident_outside(&self, map: &MemoryMap, runtime: &RuntimeRanges) -> ProcResult<u64> {
        let (start, end) = map.address;
        let outside = runtime.outside(start..end);
        match map.extension.map.get("Rss") {
            Some(0) => Ok(0),
            Some(resident) if outside.first() == Some(&(start..end)) => Ok(*resident),
            // The kernel merges neighbouring mappings of the runtime and of C into one. Only the pages distinguish
            // them.
            _ => outside.into_iter().map(|range| self.resident_pages(range)).sum(),
        }
    }

    /// Resident memory of the range from its pages, bytes (Documentation/admin-guide/mm/pagemap.rst, Linux 6.18).
    fn resident_pages(&self, range: Range<u64>) -> ProcResult<u64> {
        const ENTRY: u64 = 8;
        const BATCH: u64 = 1 << 16;
        let (mut page, last) = (range.start / self.page_size, range.end.div_ceil(self.page_size));
        let mut present = 0;
        let mut entries = Vec::new();
        while page < last {
            let count = (last - page).min(BATCH);
            entries.resize(usize::try_from(count * ENTRY).unwrap_or(0), 0_u8);
            self.page_map.read_exact_at(&mut entries, page * ENTRY)?;
            present += entries.as_chunks::<8>().0.iter().filter(|entry| entry[7] & PAGE_PRESENT != 0).count() as u64;
            page += count;
        }
        Ok(present * self.page_size)
    }
}

/// The process's mappings, with how much of each is resident. The kernel walks all of its page tables for that.
///
/// # Errors
/// Fails if the process is gone.
pub(super) fn maps_with_resident(process: &Process) -> ProcResult<Vec<MemoryMap>> {
    alive(process.smaps()?.0)
}

/// A process that has ended still has the file, but it is empty.
fn alive(maps: Vec<MemoryMap>) -> ProcResult<Vec<MemoryMap>> {
    if maps.is_empty() { Err(procfs::ProcError::NotFound(None)) } else { Ok(maps) }
}

/// Files with an executable mapping: the executable itself and shared libraries.
fn images(maps: &[MemoryMap]) -> HashSet<&PathBuf> {
    maps.iter()
        .filter(|map| map.perms.contains(MMPermissions::EXECUTE))
        .filter_map(|map| match &map.pathname {
            MMapPath::Path(path) => Some(path),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::testing::FakeProc;

    const PAGE: u64 = 4096;

    /// The executable, a mapping of the runtime, one of C, a library with its data, and the kernel's.
    const MAPS: &str = "\
        00400000-00402000 r-xp 00000000 08:01 11 /bin/service\n\
        00402000-00404000 rw-p 00002000 08:01 11 /bin/service\n\
        00404000-00406000 rw-p 00000000 00:00 0 \n\
        10000000-10004000 rw-p 00000000 00:00 0 \n\
        20000000-20004000 rw-p 00000000 00:00 0 \n\
        30000000-30001000 r-xp 00000000 08:01 12 /lib/libc.so.6\n\
        30001000-30002000 rw-p 00001000 08:01 12 /lib/libc.so.6\n\
        40000000-40001000 r--p 00000000 00:00 0 [vvar]\n";

    fn runtime() -> RuntimeRanges {
        let mut ranges = RuntimeRanges::default();
        ranges.insert(0x1000_0000..0x1000_2000);
        ranges
    }

    fn reader(proc: &FakeProc) -> OffHeapReader {
        let executable = 0x40_0000..0x40_6000;
        OffHeapReader::new(&proc.service(), vec![executable], PAGE).unwrap()
    }

    #[test]
    fn memory_of_neither_the_runtime_nor_an_executable_is_off_heap() {
        let proc = FakeProc::new();
        proc.write("maps", MAPS);
        let service = proc.service();
        let reader = reader(&proc);
        let maps = reader.maps(service.process(), &runtime()).unwrap();
        assert_eq!(reader.ranges(&maps, &runtime()), [0x1000_2000..0x1000_4000, 0x2000_0000..0x2000_4000]);
        // One page of the runtime, one in the first range of C, two in the second, and one of the executable are
        // resident.
        proc.touch(PAGE, &[0x1000_0000, 0x1000_3000, 0x2000_1000, 0x2000_2000, 0x40_0000]);
        assert_eq!(reader.resident(&maps, &runtime()).unwrap(), 3 * PAGE);
    }

    #[test]
    fn a_large_mapping_is_measured_by_the_kernels_own_walk() {
        let proc = FakeProc::new();
        proc.write("maps", "20000000-40000000 rw-p 00000000 00:00 0 \n");
        proc.write("smaps", "20000000-40000000 rw-p 00000000 00:00 0 \nRss:                  12 kB\n");
        let service = proc.service();
        let reader = reader(&proc);
        let maps = reader.maps(service.process(), &runtime()).unwrap();
        assert_eq!(reader.resident(&maps, &runtime()).unwrap(), 12 * 1024);
    }

    #[test]
    fn a_process_that_has_ended_has_no_mappings() {
        let proc = FakeProc::new();
        proc.write("maps", "");
        let service = proc.service();
        assert!(reader(&proc).maps(service.process(), &runtime()).is_err());
    }
}
