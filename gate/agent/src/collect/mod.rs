//! Collectors: one type for each source, and the recorder that calls them with one clock.

mod code;
mod collector;
mod memory;
mod options;
mod programs;
mod recorder;
mod sampler;
mod service;
mod sources;
#[cfg(test)]
mod testing;
pub mod unwind;
mod worth;

pub use collector::{Boundary, Window};
pub use memory::{ProcessMemory, RemoteMemory};
pub use options::Options;
pub use programs::tier;
pub use recorder::{Elsewhere, Recorder};
pub use sampler::{Requested, Sampler};
