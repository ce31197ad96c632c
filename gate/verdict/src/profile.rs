//! The profiles of a run: what call sites can be named for.

/// The profiles that have call sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Bytes allocated on the Go heap in the measuring phase.
    AllocatedBytes,
    /// Objects allocated on the Go heap in the measuring phase.
    AllocatedObjects,
    /// Growth of the live heap in the measuring phase.
    LiveHeapGrowth,
    /// Growth of the off-heap memory in the measuring phase.
    OffheapGrowth,
    /// Goroutines under load.
    GoroutinesUnderLoad,
    /// Goroutines that remain after the drain.
    GoroutinesLeft,
}
