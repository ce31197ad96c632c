//! Collectors: one file a source.

mod address_space;
mod attach;
mod bpf;
mod buckets;
mod code;
mod counters;
mod events;
mod first_touch;
mod goroutines;
mod heap_profile;
mod memory;
mod multi;
mod recorder;
mod refills;
mod sampler;
mod sampling;
mod signals;
mod spans;
mod taken;
pub mod tier;
pub mod unwind;

pub use address_space::{OffHeapReader, RuntimeRanges};
pub use bpf::Bpf;
pub use code::Symboliser;
pub use counters::{CounterLayout, CounterReader, Counters};
pub use heap_profile::HeapProfileReader;
pub use memory::ProcessMemory;
pub use recorder::{Options, Recorder};
pub use sampler::{Requested, Sampler};
pub use signals::Elsewhere;
