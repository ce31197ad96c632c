//! Collectors: one file a source.

mod address_space;
mod bpf;
mod counters;
mod memory;
mod recorder;
mod sampler;
mod signals;

pub use address_space::{OffHeapReader, RuntimeRanges};
pub use bpf::Bpf;
pub use counters::{CounterLayout, CounterReader, Counters};
pub use memory::ProcessMemory;
pub use recorder::Recorder;
pub use sampler::{Requested, Sampler};
pub use signals::Elsewhere;
