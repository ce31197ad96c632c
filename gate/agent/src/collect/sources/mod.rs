//! One type for each source: its reader, its data, its failures, and the making of its signals.

mod allocations;
mod cgroup;
mod counters;
mod descriptors;
mod forced;
mod gc_cpu;
mod go_memory;
mod goroutines;
mod live_heap;
mod mappings;
mod off_heap;
mod pauses;
mod refills;
mod requests;
mod resident;

pub(super) use allocations::Allocations;
pub(super) use cgroup::CgroupCollector;
pub(super) use counters::{CounterCollector, Counters};
pub(super) use descriptors::DescriptorCollector;
pub(super) use forced::ForcedCollector;
pub(super) use gc_cpu::GcCpuCollector;
pub(super) use go_memory::GoMemoryCollector;
pub(super) use goroutines::GoroutineCollector;
pub(super) use live_heap::LiveHeapCollector;
pub(super) use mappings::{MappingCollector, RuntimeRanges};
pub(super) use off_heap::{Attempt, OffHeapCollector, Touched};
pub(super) use pauses::PauseCollector;
pub(super) use refills::RefillCollector;
pub(super) use requests::RequestCollector;
pub(super) use resident::ResidentCollector;
