//! The runtime's own counters, read from the service's memory: allocated bytes and objects, goroutines, GC cycles.
//!
//! `readmemstats_m` (mstats.go, Go 1.27) stops the world to flush what each P has not yet accounted for; memgate adds that
//! up itself instead: per P and span class, `allocCount - allocCountBeforeCache` objects of `elemsize` bytes.

use memgate_goexe::{AllocCounters, Fact, Field, GcTotals, GoroutineCount, Runtime};
use nix::errno::Errno;

use super::memory::{ProcessMemory, number};

/// Generations of `consistentHeapStats.stats`.
const GENERATIONS: usize = 3;
/// Most bytes that are read at once. A machine of a thousand processors has a megabyte of what is read; sizes beyond this come
/// from a broken or hostile executable.
const MAXIMUM_READ: usize = 64 << 20;

/// The runtime's counters at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// `MemStats.TotalAlloc`, bytes.
    pub alloc_bytes: u64,
    /// `MemStats.Mallocs`.
    pub alloc_objects: u64,
    /// `runtime.NumGoroutine`; at least 1.
    pub goroutines: u64,
    /// `MemStats.PauseTotalNs`, ns.
    pub pause_total_ns: u64,
    /// `MemStats.NumGC`.
    pub gc_cycles: u64,
    /// The live heap as the last mark phase found it, bytes.
    pub live_heap: u64,
    /// Whether the runtime's total stood still during the reading, so that it is exact.
    pub steady: bool,
}

/// Where the counters are; addresses are those of the file.
#[derive(Debug, Clone)]
pub struct CounterLayout {
    /// Allocated bytes and objects.
    pub alloc: AllocCounters,
    /// Number and pauses of GC cycles.
    pub gc: GcTotals,
    /// The number of goroutines.
    pub goroutines: GoroutineCount,
}

impl CounterLayout {
    /// What all counters need.
    ///
    /// # Errors
    /// With the reason why one is not known, for a person.
    pub fn of(runtime: &Runtime) -> Fact<Self> {
        Ok(Self {
            alloc: runtime.alloc_counters.clone()?,
            gc: runtime.gc_totals.clone()?,
            goroutines: runtime.goroutine_count.clone()?,
        })
    }
}

/// Reads the counters of one process.
#[derive(Debug, Clone)]
pub struct CounterReader {
    memory: ProcessMemory,
    layout: CounterLayout,
    /// What is added to an address of the file to get one of the process.
    bias: u64,
}

/// What the Ps hold that the totals do not.
#[derive(Default)]
struct Unflushed {
    bytes: u64,
    objects: u64,
    free_goroutines: u64,
}

impl CounterReader {
    /// A reader for a process that runs the executable of this layout, loaded at `bias`.
    pub const fn new(memory: ProcessMemory, layout: CounterLayout, bias: u64) -> Self {
        Self { memory, layout, bias }
    }

    /// Reads the counters: exact when the process is quiet; under load as of some time during the call. It is tried so often until
    /// the runtime's total stood still meanwhile. A quiet process needs one attempt; under a load of hundreds of megabytes a second
    /// no number suffices, and a reading is then off by the spans refilled meanwhile.
    ///
    /// Returns `None` while the runtime sets up its Ps: at its start, and when `GOMAXPROCS` changes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn read(&self, attempts: u32) -> nix::Result<Option<Counters>> {
        let mut last = None;
        for _ in 0..attempts {
            let before = self.word(self.layout.alloc.total_alloc)?;
            let Some(counters) = self.read_once(before)? else { return Ok(None) };
            // A refill between the two would count a span's objects twice or not at all.
            let steady = self.word(self.layout.alloc.total_alloc)? == before;
            last = Some(Counters { steady, ..counters });
            if steady {
                break;
            }
        }
        Ok(last)
    }

    fn read_once(&self, total_alloc: u64) -> nix::Result<Option<Counters>> {
        let CounterLayout { gc, goroutines, .. } = &self.layout;
        let Some(unflushed) = self.unflushed()? else { return Ok(None) };
        let mut absent = self.int32(goroutines.system)?.saturating_add(unflushed.free_goroutines);
        for list in &goroutines.sched_free {
            absent = absent.saturating_add(self.int32(*list)?);
        }
        Ok(Some(Counters {
            alloc_bytes: total_alloc.wrapping_add(unflushed.bytes),
            alloc_objects: self.flushed_objects()?.wrapping_add(unflushed.objects),
            // `gcount` (proc.go) does the same: the numbers are read one after the other.
            goroutines: self.word(goroutines.allglen)?.saturating_sub(absent).max(1),
            pause_total_ns: self.word(gc.pause_total_ns)?,
            gc_cycles: self.int32(gc.numgc)?,
            live_heap: self.word(gc.heap_marked)?,
            steady: false,
        }))
    }

    /// Objects in the consistent statistics: the sum over their generations.
    fn flushed_objects(&self) -> nix::Result<u64> {
        let layout = &self.layout.alloc;
        let size = length(layout.heap_stats_size)?;
        let deltas = self.read_at(layout.heap_stats, size.checked_mul(GENERATIONS).ok_or(Errno::EFAULT)?)?;
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
        let slice = self.read_at(layout.allp, 16)?;
        let (start, count) = (number::<8>(&slice, 0), number::<8>(&slice, 8));
        if count == 0 {
            return Ok(None);
        }
        let ps = pointers(&self.memory.read([start], length(count.saturating_mul(8))?)?);
        // `procresize` (proc.go, Go 1.21 to 1.27) lengthens the list before it makes the Ps, and takes a P's cache before it shortens it.
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
        // Most classes are unused and share the runtime's one empty span, which holds nothing.
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

    fn word(&self, address: u64) -> nix::Result<u64> {
        Ok(number::<8>(&self.read_at(address, 8)?, 0))
    }

    fn int32(&self, address: u64) -> nix::Result<u64> {
        Ok(number::<4>(&self.read_at(address, 4)?, 0))
    }

    fn read_at(&self, address: u64, length: usize) -> nix::Result<Vec<u8>> {
        self.memory.read([address.wrapping_add(self.bias)], length)
    }

    /// Reads `length` bytes at this offset in each of the structures.
    fn read_each(&self, structures: &[u64], offset: u64, length: usize) -> nix::Result<Vec<u8>> {
        if structures.len().checked_mul(length).is_none_or(|total| total > MAXIMUM_READ) {
            return Err(Errno::EFAULT);
        }
        self.memory.read(structures.iter().map(|structure| structure.wrapping_add(offset)), length)
    }
}

fn pointers(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks(8).map(|pointer| number::<8>(pointer, 0)).collect()
}

/// The bytes of a field of a structure that was read.
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

/// How many bytes to read at one place.
fn length(size: u64) -> nix::Result<usize> {
    usize::try_from(size).ok().filter(|size| *size <= MAXIMUM_READ).ok_or(Errno::EFAULT)
}

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;

    use super::*;

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
        // Every word is a count and a pointer beyond all memory.
        let words = [u64::MAX; 64];
        let here = words.as_ptr() as u64;
        for bias in [0, here, u64::MAX] {
            for at in [0, 8, here, u64::MAX - 7, u64::MAX] {
                for size in [0, 1, 8, 9, 4096, 1 << 40, u64::MAX] {
                    assert!(CounterReader::new(memory, layout(at, size), bias).read(3).is_err(), "{bias} {at} {size}");
                }
            }
        }
    }

    /// `procresize` has made the list and none of what is in it, or not all of it.
    #[test]
    fn a_list_of_ps_that_is_being_filled_is_no_error() {
        let made = [0_u64; 64];
        let lists = [vec![0, 0], vec![made.as_ptr() as u64, 0], vec![made.as_ptr() as u64; 2]];
        for list in lists {
            let slice = [list.as_ptr() as u64, list.len() as u64];
            let mut layout = layout(0, 8);
            (layout.alloc.total_alloc, layout.alloc.allp) = (made.as_ptr() as u64, slice.as_ptr() as u64);
            let reader = CounterReader::new(ProcessMemory::new(Pid::this()), layout, 0);
            assert_eq!(reader.read(3), Ok(None), "{list:x?}");
        }
    }

    #[test]
    fn spans_that_claim_everything_are_an_error_or_wrap() {
        let memory = ProcessMemory::new(Pid::this());
        let words = [u64::MAX; 64];
        let here = words.as_ptr() as u64;
        for size in [0, 1, 8, 9, 64, u64::MAX] {
            let reader = CounterReader::new(memory, layout(0, size), here);
            let read = reader.unflushed_in_spans(&[here, here]);
            assert_eq!(read.is_ok(), size <= 8, "{size}");
        }
    }
}
