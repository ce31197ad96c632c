//! The runtime's own counters, read from the service's memory: allocated bytes and objects, goroutines, GC cycles.
//!
//! `readmemstats_m` (mstats.go, Go 1.27) stops the world to flush what each P has not yet accounted for. memgate sums
//! that up itself: per P and span class, `allocCount - allocCountBeforeCache` objects of `elemsize` bytes.

use memgate_goexe::{AllocCounters, Fact, Field, GcTotals, GoroutineCount, Runtime};
use nix::errno::Errno;

use crate::collect::memory::{ServiceMemory, number};

/// The number of generations in `consistentHeapStats.stats`.
const GENERATIONS: usize = 3;

/// How many times a list may be found half changed during one reading.
const MOST_TORN: u32 = 2;

/// The runtime's counters at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::collect) struct Counters {
    /// `MemStats.TotalAlloc`, bytes.
    pub(in crate::collect) alloc_bytes: u64,
    /// `MemStats.Mallocs`.
    pub(in crate::collect) alloc_objects: u64,
    /// `runtime.NumGoroutine`; at least 1.
    pub(in crate::collect) goroutines: u64,
    /// `MemStats.PauseTotalNs`, ns.
    pub(in crate::collect) pause_total_ns: u64,
    /// `MemStats.NumGC`.
    pub(in crate::collect) gc_cycles: u64,
    /// The live heap at the end of the last mark phase, bytes.
    pub(in crate::collect) live_heap: u64,
    /// Whether the runtime's total did not change during the reading, so that the reading is exact.
    pub(in crate::collect) steady: bool,
}

/// Where the counters are. Addresses are those of the file.
#[derive(Debug, Clone)]
pub(super) struct CounterLayout {
    /// Allocated bytes and objects.
    alloc: AllocCounters,
    /// Number and pauses of GC cycles.
    gc: GcTotals,
    /// The number of goroutines.
    goroutines: GoroutineCount,
}

impl CounterLayout {
    /// The layout of all counters.
    ///
    /// # Errors
    /// The reason why a part is not known, as a text for the user.
    pub(super) fn of(runtime: &Runtime) -> Fact<Self> {
        Ok(Self {
            alloc: runtime.alloc_counters.clone()?,
            gc: runtime.gc_totals.clone()?,
            goroutines: runtime.goroutine_count.clone()?,
        })
    }
}

/// Reads the counters of one process.
pub(super) struct CounterReader {
    memory: ServiceMemory,
    layout: CounterLayout,
}

/// What the Ps have and the totals do not.
#[derive(Default)]
struct Unflushed {
    bytes: u64,
    objects: u64,
    free_goroutines: u64,
}

impl CounterReader {
    /// A reader for a process that runs the executable of this layout.
    pub(super) const fn new(memory: ServiceMemory, layout: CounterLayout) -> Self {
        Self { memory, layout }
    }

    /// Reads the counters. They are exact if the process is quiet; under load they are those of some time during the
    /// call. The reader makes at most `attempts` attempts, and stops when the runtime's total did not change during
    /// one. A quiet process needs one attempt. Under a load of hundreds of megabytes a second no number suffices, and a
    /// reading is then wrong by the spans that were refilled meanwhile.
    ///
    /// An attempt that reads where nothing is mapped does not count, up to twice. While the runtime changes a list, its
    /// start and its length may not fit each other. Later they do.
    ///
    /// Returns `None` while the runtime sets up its Ps: when it starts, and when `GOMAXPROCS` changes.
    ///
    /// # Errors
    /// Fails if the process is gone, and if a third attempt reads where nothing is mapped.
    pub(super) fn read(&self, attempts: u32) -> nix::Result<Option<Counters>> {
        let (mut made, mut torn) = (0, 0);
        loop {
            match self.attempt() {
                Err(Errno::EFAULT) if torn < MOST_TORN => torn += 1,
                Ok(Some(Counters { steady: false, .. })) if made + 1 < attempts => made += 1,
                decided => return decided,
            }
        }
    }

    fn attempt(&self) -> nix::Result<Option<Counters>> {
        let before = self.memory.global_word(self.layout.alloc.total_alloc)?;
        let Some(counters) = self.read_once(before)? else { return Ok(None) };
        // After a refill between the two reads, a span's objects would count twice or not at all.
        let steady = self.memory.global_word(self.layout.alloc.total_alloc)? == before;
        Ok(Some(Counters { steady, ..counters }))
    }

    fn read_once(&self, total_alloc: u64) -> nix::Result<Option<Counters>> {
        let CounterLayout { gc, goroutines, .. } = &self.layout;
        let Some(unflushed) = self.unflushed()? else { return Ok(None) };
        let mut absent = self.memory.global_int32(goroutines.system)?.saturating_add(unflushed.free_goroutines);
        for list in &goroutines.sched_free {
            absent = absent.saturating_add(self.memory.global_int32(*list)?);
        }
        Ok(Some(Counters {
            alloc_bytes: total_alloc.wrapping_add(unflushed.bytes),
            alloc_objects: self.flushed_objects()?.wrapping_add(unflushed.objects),
            // `gcount` (proc.go) does the same. The numbers are read one after the other.
            goroutines: self.memory.global_word(goroutines.allglen)?.saturating_sub(absent).max(1),
            pause_total_ns: self.memory.global_word(gc.pause_total_ns)?,
            gc_cycles: self.memory.global_int32(gc.numgc)?,
            live_heap: self.memory.global_word(gc.heap_marked)?,
            steady: false,
        }))
    }

    /// Objects in the consistent statistics: the sum over their generations.
    fn flushed_objects(&self) -> nix::Result<u64> {
        let layout = &self.layout.alloc;
        let size = length(layout.heap_stats_size)?;
        let deltas = self.read_global(layout.heap_stats, size.checked_mul(GENERATIONS).ok_or(Errno::EFAULT)?)?;
        let mut objects = 0_u64;
        for delta in deltas.chunks(size.max(1)) {
            let small = bytes_of(delta, layout.small_counts)?.chunks(8).map(|count| number::<8>(count, 0));
            let others = [value(delta, layout.large_count)?, value(delta, layout.tiny_count)?];
            objects = small.chain(others).fold(objects, u64::wrapping_add);
        }
        Ok(objects)
    }

    fn unflushed(&self) -> nix::Result<Option<Unflushed>> {
        let layout = &self.layout.alloc;
        let slice = self.read_global(layout.allp, 16)?;
        let (start, count) = (number::<8>(&slice, 0), number::<8>(&slice, 8));
        if count == 0 {
            return Ok(None);
        }
        let ps = pointers(&self.memory.read([start], length(count.saturating_mul(8))?)?);
        // `procresize` (proc.go, Go 1.21 to 1.27) lengthens the list before it makes the Ps, and takes a P's cache
        // before it shortens the list.
        if ps.contains(&0) {
            return Ok(None);
        }
        let caches = pointers(&self.read_each(&ps, layout.p_mcache.offset, 8)?);
        if caches.contains(&0) {
            return Ok(None);
        }
        let free = self.read_each(&ps, self.layout.goroutines.p_free.offset, 4)?;
        let tiny = self.read_each(&caches, layout.mcache_tiny.offset, 8)?;
        let spans = self.read_each(&caches, layout.mcache_alloc.offset, length(layout.mcache_alloc.size)?)?;
        // Most classes are unused and share the runtime's one empty span.
        let mut spans = pointers(&spans);
        spans.sort_unstable();
        spans.dedup();
        let mut unflushed = self.unflushed_in_spans(&spans)?;
        let tiny = tiny.chunks(8).fold(0_u64, |sum, count| sum.wrapping_add(number::<8>(count, 0)));
        unflushed.objects = unflushed.objects.wrapping_add(tiny);
        unflushed.free_goroutines = free.chunks(4).fold(0, |sum, count| sum.saturating_add(number::<4>(count, 0)));
        Ok(Some(unflushed))
    }

    fn unflushed_in_spans(&self, spans: &[u64]) -> nix::Result<Unflushed> {
        let layout = &self.layout.alloc;
        let fields = [layout.span_element_size, layout.span_count, layout.span_count_before];
        let first = fields.iter().map(|field| field.offset).min().unwrap_or(0);
        let end = fields.iter().map(|field| field.offset.saturating_add(field.size)).max().unwrap_or(0);
        let length = length(end.saturating_sub(first))?;
        let bytes = self.read_each(spans, first, length)?;
        let at = |field: Field| Field { offset: field.offset.saturating_sub(first), ..field };
        let mut unflushed = Unflushed::default();
        for span in bytes.chunks(length.max(1)) {
            let count = value(span, at(layout.span_count))?;
            let objects = count.saturating_sub(value(span, at(layout.span_count_before))?);
            let bytes = objects.wrapping_mul(value(span, at(layout.span_element_size))?);
            unflushed.objects = unflushed.objects.wrapping_add(objects);
            unflushed.bytes = unflushed.bytes.wrapping_add(bytes);
        }
        Ok(unflushed)
    }

    fn read_global(&self, address: u64, length: usize) -> nix::Result<Vec<u8>> {
        self.memory.read([self.memory.global(address)], length)
    }

    /// Reads `length` bytes at this offset in each of the structures.
    fn read_each(&self, structures: &[u64], offset: u64, length: usize) -> nix::Result<Vec<u8>> {
        self.memory.read(structures.iter().map(|structure| structure.wrapping_add(offset)), length)
    }
}

fn pointers(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks(8).map(|pointer| number::<8>(pointer, 0)).collect()
}

/// The bytes of a field of a structure.
fn bytes_of(structure: &[u8], field: Field) -> nix::Result<&[u8]> {
    let start = usize::try_from(field.offset).map_err(|_| Errno::EFAULT)?;
    let bytes = structure.get(start..).and_then(|rest| rest.get(..usize::try_from(field.size).ok()?));
    bytes.ok_or(Errno::EFAULT)
}

/// A little-endian number of at most 8 bytes.
fn value(structure: &[u8], field: Field) -> nix::Result<u64> {
    let bytes = bytes_of(structure, field)?;
    let mut word = [0; 8];
    word.get_mut(..bytes.len()).ok_or(Errno::EFAULT)?.copy_from_slice(bytes);
    Ok(u64::from_le_bytes(word))
}

/// The number of bytes to read at one place.
fn length(size: u64) -> nix::Result<usize> {
    usize::try_from(size).map_err(|_| Errno::EFAULT)
}

#[cfg(test)]
pub(super) mod tests {
    use nix::unistd::Pid;

    use super::*;
    use crate::collect::{memory::ProcessMemory, testing::FakeMemory};

    /// A runtime's counters in a fake memory: one P, with one span of 5 objects of 16 bytes that are not in the totals
    /// yet.
    pub(in crate::collect::sources::counters) struct Heap {
        fake: FakeMemory,
        pub(in crate::collect::sources::counters) memory: ServiceMemory,
        pub(in crate::collect::sources::counters) layout: CounterLayout,
    }

    impl Heap {
        pub(in crate::collect::sources::counters) const BYTES: u64 = 1_000 + 5 * 16;
        pub(in crate::collect::sources::counters) const OBJECTS: u64 = (10 + 3 + 7) + 5 + 2;
        pub(in crate::collect::sources::counters) const GOROUTINES: u64 = 20 - 4 - 3 - 1;
        const BIAS: u64 = 0x10_0000;

        pub(in crate::collect::sources::counters) fn set_cycles(&self, cycles: u32) {
            self.fake.put(Self::BIAS + 0x210, &cycles.to_le_bytes());
        }

        /// Makes the list of the Ps begin a word before itself, or where it is.
        pub(in crate::collect::sources::counters) fn tear(&self, torn: bool) {
            self.fake.put(Self::BIAS + 0x110, &(if torn { 0xff8_u64 } else { 0x1000 }).to_le_bytes());
        }

        pub(in crate::collect::sources::counters) fn end(&self) {
            self.fake.end();
        }
    }

    pub(in crate::collect::sources::counters) fn heap() -> Heap {
        let field = |offset, size| Field { offset, size };
        let layout = CounterLayout {
            alloc: AllocCounters {
                total_alloc: 0x100,
                heap_stats: 0x300,
                heap_stats_size: 32,
                tiny_count: field(0, 8),
                large_count: field(8, 8),
                small_counts: field(16, 16),
                allp: 0x110,
                p_mcache: field(8, 8),
                mcache_alloc: field(16, 8),
                mcache_tiny: field(0, 8),
                span_element_size: field(0, 8),
                span_count: field(8, 2),
                span_count_before: field(10, 2),
            },
            gc: GcTotals { pause_total_ns: 0x200, numgc: 0x210, heap_marked: 0x218 },
            goroutines: GoroutineCount {
                allglen: 0x220,
                sched_free: vec![0x228],
                system: 0x22c,
                allp: 0x110,
                p_free: field(0, 4),
            },
        };
        let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let fake = FakeMemory::default();
        let global = |address: u64| address + Heap::BIAS;
        fake.put(global(0x100), &words(&[1_000, 0, 0x1000, 1]));
        fake.put(global(0x200), &words(&[12_345, 0, 0, 65_536, 20]));
        fake.put(global(0x228), &[4_u32.to_le_bytes(), 3_u32.to_le_bytes()].concat());
        // Three generations, each with the counts of tiny and large objects and two small classes.
        fake.put(global(0x300), &words(&[10, 0, 0, 0, 0, 3, 0, 0, 0, 0, 3, 4]));
        // The list of Ps, the P, its cache, and the span.
        fake.put(0x1000, &words(&[0x2000]));
        fake.put(0x2000, &words(&[1, 0x3000]));
        fake.put(0x3000, &words(&[2, 0, 0x4000]));
        fake.put(0x4000, &[words(&[16]), [8_u16.to_le_bytes(), 3_u16.to_le_bytes()].concat()].concat());
        Heap { memory: ServiceMemory::new(fake.clone(), Heap::BIAS), fake, layout }
    }

    #[test]
    fn unflushed_objects_of_the_ps_are_added_to_the_totals() {
        let heap = heap();
        let read = CounterReader::new(heap.memory.clone(), heap.layout.clone()).read(3).unwrap().unwrap();
        let expected = Counters {
            alloc_bytes: Heap::BYTES,
            alloc_objects: Heap::OBJECTS,
            goroutines: Heap::GOROUTINES,
            pause_total_ns: 12_345,
            gc_cycles: 0,
            live_heap: 65_536,
            steady: true,
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn a_total_that_moves_during_each_attempt_is_not_steady() {
        let heap = heap();
        heap.fake.grow(Heap::BIAS + 0x100, 8);
        let read = CounterReader::new(heap.memory.clone(), heap.layout.clone()).read(3).unwrap().unwrap();
        assert!(!read.steady);
    }

    #[test]
    fn a_list_that_changes_during_the_reading_is_read_again() {
        let heap = heap();
        heap.tear(true);
        let reader = CounterReader::new(heap.memory.clone(), heap.layout.clone());
        assert_eq!(reader.read(1), Err(Errno::EFAULT));
        // It is right after the first look at it.
        heap.fake.grow(Heap::BIAS + 0x110, 8);
        let read = reader.read(1).unwrap().unwrap();
        assert_eq!((read.alloc_bytes, read.alloc_objects, read.steady), (Heap::BYTES, Heap::OBJECTS, true));
    }

    /// A layout whose every address and offset is `at`.
    fn layout(at: u64, size: u64) -> CounterLayout {
        let field = Field { offset: at, size };
        CounterLayout {
            alloc: AllocCounters {
                total_alloc: at,
                heap_stats: at,
                heap_stats_size: size,
                tiny_count: field,
                large_count: field,
                small_counts: field,
                allp: at,
                p_mcache: field,
                mcache_alloc: field,
                mcache_tiny: field,
                span_element_size: field,
                span_count: field,
                span_count_before: field,
            },
            gc: GcTotals { pause_total_ns: at, numgc: at, heap_marked: at },
            goroutines: GoroutineCount { allglen: at, sched_free: vec![at], system: at, allp: at, p_free: field },
        }
    }

    #[test]
    fn a_hostile_layout_is_an_error() {
        let memory = ProcessMemory::new(Pid::this());
        // Every word is a count, and a pointer beyond all memory.
        let words = [u64::MAX; 64];
        let here = words.as_ptr() as u64;
        for bias in [0, here, u64::MAX] {
            for at in [0, 8, here, u64::MAX - 7, u64::MAX] {
                for size in [0, 1, 8, 9, 4096, 1 << 40, u64::MAX] {
                    assert!(
                        CounterReader::new(ServiceMemory::new(memory, bias), layout(at, size)).read(3).is_err(),
                        "{bias} {at} {size}"
                    );
                }
            }
        }
    }

    /// `procresize` has made the list, but not or not completely its contents.
    #[test]
    fn an_incomplete_list_of_ps_is_no_error() {
        let made = [0_u64; 64];
        let lists = [vec![0, 0], vec![made.as_ptr() as u64, 0], vec![made.as_ptr() as u64; 2]];
        for list in lists {
            let slice = [list.as_ptr() as u64, list.len() as u64];
            let mut layout = layout(0, 8);
            (layout.alloc.total_alloc, layout.alloc.allp) = (made.as_ptr() as u64, slice.as_ptr() as u64);
            let reader = CounterReader::new(ServiceMemory::new(ProcessMemory::new(Pid::this()), 0), layout);
            assert_eq!(reader.read(3), Ok(None), "{list:x?}");
        }
    }

    #[test]
    fn the_largest_counts_in_spans_are_an_error_or_wrap() {
        let memory = ProcessMemory::new(Pid::this());
        let words = [u64::MAX; 64];
        let here = words.as_ptr() as u64;
        for size in [0, 1, 8, 9, 64, u64::MAX] {
            let reader = CounterReader::new(ServiceMemory::new(memory, here), layout(0, size));
            let read = reader.unflushed_in_spans(&[here, here]);
            assert_eq!(read.is_ok(), size <= 8, "{size}");
        }
    }
}
