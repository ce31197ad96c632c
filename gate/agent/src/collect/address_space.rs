//! Whose memory is resident: the Go runtime's, the executable's or somebody else's.
//!
//! The runtime's own mappings are known from its calls of mmap. What is resident elsewhere and is not the executable or
//! a shared library is off-heap: allocated by C, or mapped by a driver.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    ops::Range,
    os::unix::fs::FileExt as _,
    path::PathBuf,
};

use procfs::{
    ProcResult,
    process::{MMPermissions, MMapPath, MemoryMap, Process},
};

/// The bit of the last byte of an entry of `pagemap` that says that the page is resident
/// (Documentation/admin-guide/mm/pagemap.rst, Linux 6.18).
pub(super) const PAGE_PRESENT: u8 = 0x80;

/// Address space whose pages are looked at one by one, bytes: at 4 KiB a page half a megabyte of `pagemap`, some hundred
/// microseconds.
const MAXIMUM_WALK: u64 = 256 << 20;

/// Anonymous memory in transparent huge pages, bytes.
pub(super) fn huge_pages(maps: &[MemoryMap]) -> u64 {
    maps.iter().filter_map(|map| map.extension.map.get("AnonHugePages")).sum()
}

/// Address ranges that the Go runtime has mapped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimeRanges {
    /// End by start; ranges neither touch nor overlap.
    ranges: BTreeMap<u64, u64>,
}

impl RuntimeRanges {
    /// The runtime has mapped this range.
    pub fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        let touching: Vec<_> = self
            .ranges
            .range(..=end)
            .rev()
            .take_while(|(_, other_end)| **other_end >= start)
            .map(|(s, e)| (*s, *e))
            .collect();
        for (other_start, other_end) in touching {
            self.ranges.remove(&other_start);
            start = start.min(other_start);
            end = end.max(other_end);
        }
        self.ranges.insert(start, end);
    }

    /// The range is no longer the runtime's.
    pub fn remove(&mut self, range: Range<u64>) {
        let overlapping: Vec<_> = self
            .ranges
            .range(..range.end)
            .rev()
            .take_while(|(_, end)| **end > range.start)
            .map(|(start, end)| (*start, *end))
            .collect();
        for (start, end) in overlapping {
            self.ranges.remove(&start);
            if start < range.start {
                self.ranges.insert(start, range.start);
            }
            if range.end < end {
                self.ranges.insert(range.end, end);
            }
        }
    }

    /// Whether the address is the runtime's.
    pub fn contains(&self, address: u64) -> bool {
        self.ranges.range(..=address).next_back().is_some_and(|(_, end)| address < *end)
    }

    /// So many ranges at most, the largest first.
    pub fn largest(&self, most: usize) -> Vec<Range<u64>> {
        let mut ranges: Vec<_> = self.ranges.iter().map(|(start, end)| *start..*end).collect();
        ranges.sort_by_key(|range| std::cmp::Reverse(range.end - range.start));
        ranges.truncate(most);
        ranges
    }

    /// The parts of `range` that are not the runtime's, in order.
    pub fn outside(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut outside = Vec::new();
        let mut from = range.start;
        let before = self.ranges.range(..=range.start).next_back();
        for (start, end) in before.into_iter().chain(self.ranges.range(range.start + 1..range.end)) {
            if from < *start {
                outside.push(from..(*start).min(range.end));
            }
            from = from.max(*end);
        }
        if from < range.end {
            outside.push(from..range.end);
        }
        outside
    }
}

/// Finds the resident memory of one process that the Go runtime does not know of.
#[derive(Debug)]
pub struct OffHeapReader {
    process: Process,
    page_map: File,
    page_size: u64,
    /// Where the executable's segments are loaded, bss included.
    executable: Vec<Range<u64>>,
}

impl OffHeapReader {
    /// A reader for the process `pid`, whose executable lies at `executable`.
    ///
    /// # Errors
    /// When the process is gone or its page map is not to be read.
    pub fn new(pid: i32, executable: Vec<Range<u64>>, page_size: u64) -> ProcResult<Self> {
        let process = Process::new(pid)?;
        let page_map = File::open(format!("/proc/{pid}/pagemap"))?;
        Ok(Self { process, page_map, page_size, executable })
    }

    /// The process's mappings. What is resident of them is told where one that may be off-heap is so large that looking
    /// at each of its pages would take longer than the kernel's walk over those that are there.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn maps(&self, runtime: &RuntimeRanges) -> ProcResult<Vec<MemoryMap>> {
        let maps = alive(self.process.maps()?.0)?;
        let is_large = |range: &Range<u64>| range.end - range.start > MAXIMUM_WALK;
        if self.ranges(&maps, runtime).iter().any(is_large) { self.maps_with_resident() } else { Ok(maps) }
    }

    /// The process's mappings with what is resident of each, which costs a walk over all of its page tables.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn maps_with_resident(&self) -> ProcResult<Vec<MemoryMap>> {
        alive(self.process.smaps()?.0)
    }

    /// Resident off-heap memory, bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident(&self, maps: &[MemoryMap], runtime: &RuntimeRanges) -> ProcResult<u64> {
        let images = images(maps);
        maps.iter().filter(|map| !self.is_image(map, &images)).map(|map| self.resident_outside(map, runtime)).sum()
    }

    /// Where off-heap memory may lie: mapped, no executable's, and not the runtime's.
    pub fn ranges(&self, maps: &[MemoryMap], runtime: &RuntimeRanges) -> Vec<Range<u64>> {
        let images = images(maps);
        let others = maps.iter().filter(|map| !self.is_image(map, &images));
        others.flat_map(|map| runtime.outside(map.address.0..map.address.1)).collect()
    }

    /// The process's `pagemap`.
    pub const fn page_map(&self) -> &File {
        &self.page_map
    }

    /// Whether the mapping is the executable, a shared library or the kernel's.
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
            // The kernel merges neighbouring mappings of the runtime and of C into one: only the pages tell them apart.
            _ => outside.into_iter().map(|range| self.resident_pages(range)).sum(),
        }
    }

    /// Resident memory of the range by its pages, bytes; Documentation/admin-guide/mm/pagemap.rst (Linux 6.18).
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

/// A process that has ended still has the file, with nothing in it.
fn alive(maps: Vec<MemoryMap>) -> ProcResult<Vec<MemoryMap>> {
    if maps.is_empty() { Err(procfs::ProcError::NotFound(None)) } else { Ok(maps) }
}

/// Files that are mapped executable somewhere: the executable itself and shared libraries.
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_not_the_runtimes_is_outside() {
        let mut ranges = RuntimeRanges::default();
        ranges.insert(10..20);
        ranges.insert(30..40);
        assert_eq!(ranges.outside(0..50), [0..10, 20..30, 40..50]);
        assert_eq!(ranges.outside(12..18), []);
        assert_eq!(ranges.outside(5..35), [5..10, 20..30]);
        ranges.insert(20..30);
        assert_eq!(ranges.outside(0..50), [0..10, 40..50]);
        ranges.remove(15..16);
        assert_eq!(ranges.outside(5..40), [5..10, 15..16]);
        assert_eq!(ranges.largest(2), [16..40, 10..15]);
        assert_eq!(
            [9, 10, 14, 15, 16, 39, 40].map(|at| ranges.contains(at)),
            [false, true, true, false, true, true, false]
        );
    }

    proptest! {
        /// The set agrees with a bit for each address.
        #[test]
        fn ranges_agree_with_a_set_of_addresses(
            changes in prop::collection::vec((any::<bool>(), 0_u64..64, 0_u64..16), 0..40),
            start in 0_u64..64, length in 1_u64..64,
        ) {
            let mut ranges = RuntimeRanges::default();
            let mut addresses = HashSet::new();
            for (insert, from, length) in changes {
                if insert {
                    ranges.insert(from..from + length);
                    addresses.extend(from..from + length);
                } else {
                    ranges.remove(from..from + length);
                    addresses.retain(|address| !(from..from + length).contains(address));
                }
            }
            let outside: Vec<u64> = ranges.outside(start..start + length).into_iter().flatten().collect();
            let expected: Vec<u64> = (start..start + length).filter(|address| !addresses.contains(address)).collect();
            prop_assert_eq!(outside, expected);
        }
    }
}
