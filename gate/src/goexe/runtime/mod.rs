//! What is known of the Go runtime in an executable, in groups: what one signal needs stands together, so that what is
//! missing loses that signal and no other.
//!
//! Addresses are virtual addresses of the file, before the load bias; offsets are in bytes.

mod probes;
mod variables;

pub use probes::{AllocSamples, LiveHeap, MmapSite, Mmaps, Pauses, SpanRefills, WorldStarts};
pub use variables::{AllocCounters, GcTotals, GoroutineCount, GoroutineList, HeapProfile, Threads};

use super::GoExe;

/// A group of facts, or why the signals that need them are lost, for a person.
pub type Fact<T> = Result<T, String>;

/// What is known of the runtime. What no executable needs remains in any case: resident memory, page faults, memory outside
/// the Go heap of processes without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    /// Allocated bytes and objects.
    pub alloc_counters: Fact<AllocCounters>,
    /// Number and pauses of GC cycles.
    pub gc_totals: Fact<GcTotals>,
    /// The number of goroutines.
    pub goroutine_count: Fact<GoroutineCount>,
    /// The goroutines themselves.
    pub goroutine_list: Fact<GoroutineList>,
    /// The runtime's threads.
    pub threads: Fact<Threads>,
    /// Where pauses are recorded.
    pub pauses: Fact<Pauses>,
    /// Where the world is started again.
    pub world_starts: Fact<WorldStarts>,
    /// Where a cycle's live heap is told.
    pub live_heap: Fact<LiveHeap>,
    /// Where the runtime maps memory.
    pub mmaps: Fact<Mmaps>,
    /// Where sampled allocations are recorded.
    pub alloc_samples: Fact<AllocSamples>,
    /// The runtime's heap profile.
    pub heap_profile: Fact<HeapProfile>,
    /// Where spans are taken for allocation.
    pub span_refills: Fact<SpanRefills>,
}

impl Runtime {
    /// Nothing is known, for this reason.
    pub(super) fn lost(reason: &str) -> Self {
        fn lost<T>(reason: &str) -> Fact<T> {
            Err(reason.to_owned())
        }
        Self {
            alloc_counters: lost(reason),
            gc_totals: lost(reason),
            goroutine_count: lost(reason),
            goroutine_list: lost(reason),
            threads: lost(reason),
            pauses: lost(reason),
            world_starts: lost(reason),
            live_heap: lost(reason),
            mmaps: lost(reason),
            alloc_samples: lost(reason),
            heap_profile: lost(reason),
            span_refills: lost(reason),
        }
    }

    /// Reads what is known of an executable that Go 1.`minor` built.
    pub(super) fn read(exe: &GoExe, minor: u32) -> Self {
        Self {
            alloc_counters: AllocCounters::read(exe),
            gc_totals: GcTotals::read(exe),
            goroutine_count: GoroutineCount::read(exe),
            goroutine_list: GoroutineList::read(exe),
            threads: Threads::read(exe),
            pauses: Pauses::read(exe, minor),
            world_starts: WorldStarts::read(exe, minor),
            live_heap: LiveHeap::read(exe, minor),
            mmaps: Mmaps::read(exe, minor),
            alloc_samples: AllocSamples::read(exe, minor),
            heap_profile: HeapProfile::read(exe),
            span_refills: SpanRefills::read(exe, minor),
        }
    }

    /// The groups that are lost, by name, with the reasons.
    pub fn losses(&self) -> Vec<(&'static str, &str)> {
        fn reason<T>(fact: &Fact<T>) -> Option<&str> {
            fact.as_ref().err().map(String::as_str)
        }
        let groups = [
            ("allocated bytes and objects", reason(&self.alloc_counters)),
            ("GC cycles", reason(&self.gc_totals)),
            ("number of goroutines", reason(&self.goroutine_count)),
            ("goroutines", reason(&self.goroutine_list)),
            ("threads", reason(&self.threads)),
            ("pauses", reason(&self.pauses)),
            ("starts of the world", reason(&self.world_starts)),
            ("live heap", reason(&self.live_heap)),
            ("mappings of the runtime", reason(&self.mmaps)),
            ("sampled allocations", reason(&self.alloc_samples)),
            ("heap profile", reason(&self.heap_profile)),
            ("span refills", reason(&self.span_refills)),
        ];
        groups.into_iter().filter_map(|(name, reason)| Some((name, reason?))).collect()
    }
}
