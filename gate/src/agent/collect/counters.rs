//! The runtime's own counters, read from the service's memory: allocated bytes and objects, goroutines, GC cycles.
//!
//! `readmemstats_m` (mstats.go, Go 1.27) stops the world to flush what each P has not yet accounted for; memgate adds that
//! up itself instead: per P and span class, `allocCount - allocCountBeforeCache` objects of `elemsize` bytes.

use super::memory::{ProcessMemory, number};
use crate::goexe::{Field, RuntimeLayout};

/// How often a reading is tried until the runtime's total stood still meanwhile. A quiet process needs one; under a load of
/// hundreds of megabytes a second no number suffices, and a reading is then off by the spans refilled meanwhile.
const ATTEMPTS: u32 = 3;
/// Generations of `consistentHeapStats.stats`.
const GENERATIONS: u64 = 3;

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
}

/// Reads the counters of one process.
#[derive(Debug, Clone)]
pub struct CounterReader {
    memory: ProcessMemory,
    layout: RuntimeLayout,
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
    pub const fn new(memory: ProcessMemory, layout: RuntimeLayout, bias: u64) -> Self {
        Self { memory, layout, bias }
    }

    /// Reads the counters: exact when the process is quiet; under load as of some time during the call.
    ///
    /// Returns `None` before the runtime has set up its Ps.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn read(&self) -> nix::Result<Option<Counters>> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let before = self.word(self.layout.total_alloc)?;
            let Some(counters) = self.read_once(before)? else { return Ok(None) };
            last = Some(counters);
            // A refill between the two would count a span's objects twice or not at all.
            if self.word(self.layout.total_alloc)? == before {
                break;
            }
        }
        Ok(last)
    }

    fn read_once(&self, total_alloc: u64) -> nix::Result<Option<Counters>> {
        let Some(unflushed) = self.unflushed()? else { return Ok(None) };
        let sched = |field: Field| self.int32(self.layout.sched + field.offset);
        let mut absent = sched(self.layout.sched_system)? + unflushed.free_goroutines;
        for list in &self.layout.sched_free {
            absent += sched(*list)?;
        }
        Ok(Some(Counters {
            alloc_bytes: total_alloc.wrapping_add(unflushed.bytes),
            alloc_objects: self.flushed_objects()?.wrapping_add(unflushed.objects),
            // `gcount` (proc.go) does the same: the numbers are read one after the other.
            goroutines: self.word(self.layout.allglen)?.saturating_sub(absent).max(1),
            pause_total_ns: self.word(self.layout.pause_total_ns)?,
            gc_cycles: self.int32(self.layout.numgc)?,
        }))
    }

    /// Objects in the consistent statistics: the sum over their generations.
    fn flushed_objects(&self) -> nix::Result<u64> {
        let layout = &self.layout;
        let deltas = self.read_at(layout.heap_stats, to_usize(layout.heap_stats_size * GENERATIONS))?;
        let counts = deltas.chunks(to_usize(layout.heap_stats_size).max(1)).map(|delta| {
            let small = delta.get(range(layout.small_counts)).unwrap_or_default();
            let small = small.chunks(8).fold(0_u64, |sum, count| sum.wrapping_add(number::<8>(count, 0)));
            small
                .wrapping_add(number::<8>(delta, to_usize(layout.large_count.offset)))
                .wrapping_add(number::<8>(delta, to_usize(layout.tiny_count.offset)))
        });
        Ok(counts.fold(0, u64::wrapping_add))
    }

    fn unflushed(&self) -> nix::Result<Option<Unflushed>> {
        let layout = &self.layout;
        let slice = self.read_at(layout.allp, 16)?;
        let (start, count) = (number::<8>(&slice, 0), to_usize(number::<8>(&slice, 8)));
        if count == 0 {
            return Ok(None);
        }
        let ps = pointers(&self.memory.read([start], count * 8)?);
        let caches = pointers(&self.memory.read(ps.iter().map(|p| p + layout.p_mcache.offset), 8)?);
        if ps.contains(&0) || caches.contains(&0) {
            return Ok(None);
        }
        let free = self.memory.read(ps.iter().map(|p| p + layout.p_free.offset), 4)?;
        let tiny = self.memory.read(caches.iter().map(|cache| cache + layout.mcache_tiny.offset), 8)?;
        let spans = self
            .memory
            .read(caches.iter().map(|cache| cache + layout.mcache_alloc.offset), to_usize(layout.mcache_alloc.size))?;
        // Most classes are unused and share the runtime's one empty span, which holds nothing.
        let mut spans = pointers(&spans);
        spans.sort_unstable();
        spans.dedup();
        let mut unflushed = self.unflushed_in_spans(&spans)?;
        unflushed.objects += tiny.chunks(8).map(|count| number::<8>(count, 0)).sum::<u64>();
        unflushed.free_goroutines = free.chunks(4).map(|count| number::<4>(count, 0)).sum();
        Ok(Some(unflushed))
    }

    fn unflushed_in_spans(&self, spans: &[u64]) -> nix::Result<Unflushed> {
        let layout = &self.layout;
        let fields = [layout.span_element_size, layout.span_count, layout.span_count_before];
        let first = fields.iter().map(|field| field.offset).min().unwrap_or(0);
        let end = fields.iter().map(|field| field.offset + field.size).max().unwrap_or(0);
        let length = to_usize(end - first);
        let bytes = self.memory.read(spans.iter().map(|span| span + first), length)?;
        let at = |field: Field| to_usize(field.offset - first);
        let mut unflushed = Unflushed::default();
        for span in bytes.chunks(length.max(1)) {
            let count = number::<2>(span, at(layout.span_count));
            let before = number::<2>(span, at(layout.span_count_before));
            let objects = count.saturating_sub(before);
            unflushed.objects += objects;
            unflushed.bytes += objects * number::<8>(span, at(layout.span_element_size));
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
}

fn pointers(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks(8).map(|pointer| number::<8>(pointer, 0)).collect()
}

fn range(field: Field) -> std::ops::Range<usize> {
    to_usize(field.offset)..to_usize(field.offset + field.size)
}

/// Offsets and sizes of structures; every platform of memgate has 64-bit pointers.
fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
