//! Which code did it: call stacks, and what was allocated, kept, started or touched at each.
//!
//! Every table is in columns of equal length. A stack is an index into [`Code::stacks`]; an index beyond its end means
//! that the stack is not known.

use serde::{Deserialize, Serialize};

/// The call stacks of a run, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// Every frame that occurs, each once.
    pub frames: Vec<Frame>,
    /// Every stack that occurs, each once: indices into `frames`, innermost first.
    pub stacks: Vec<Vec<u32>>,
}

/// One logical frame of a call stack: an inlined call has a frame of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Frame {
    /// The function: `main.(*store).put`, `malloc`; `0x7f12ab34` where no symbol is known.
    pub function: String,
    /// The source file as the compiler wrote it down; empty where it is not known.
    pub file: String,
    /// The line, from 1; 0 where it is not known.
    pub line: u32,
    /// Whether the compiler inlined it into its caller.
    pub inlined: bool,
    /// What wrote it.
    pub language: Language,
}

/// Whose code a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// Go, from the executable's function table.
    Go,
    /// Anything else, from ELF symbols: C, the C library.
    Native,
}

impl Code {
    /// The frames of a stack, innermost first; none where the index is beyond the table.
    pub fn stack(&self, index: u32) -> impl DoubleEndedIterator<Item = &Frame> {
        let frames =
            usize::try_from(index).ok().and_then(|index| self.stacks.get(index)).map_or(&[][..], Vec::as_slice);
        frames.iter().filter_map(|frame| self.frames.get(usize::try_from(*frame).ok()?))
    }
}

/// Allocations of the measuring phase that the Go runtime sampled, grouped by goroutine, object size and stack.
///
/// The runtime samples by bytes: an object of `size` bytes is in the sample with probability `1 - e^(-size/rate)`, so
/// that each sample stands for `size / (1 - e^(-size/rate))` bytes (runtime/pprof/protomem.go, Go 1.27, `scaleHeapSample`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AllocSamples {
    /// `runtime.MemProfileRate`: mean bytes between two samples.
    pub rate: u64,
    /// The goroutine's id; 0 where it is not known.
    pub goroutine: Vec<u64>,
    /// The span class: twice the size class, plus 1 where objects hold no pointers (mheap.go, `spanClass`); 255 where it
    /// is not known.
    pub span_class: Vec<u8>,
    /// The size of the objects, bytes.
    pub size: Vec<u64>,
    /// Where they were allocated.
    pub stack: Vec<u32>,
    /// How many were sampled.
    pub count: Vec<u64>,
}

/// The runtime's own heap profile at both ends of the measuring phase: sampled objects allocated and freed since the
/// launch, by object size and stack, as of the GC cycle that the runtime published last (mprof.go, Go 1.27, `memRecord`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeapProfile {
    /// `runtime.MemProfileRate`: mean bytes between two samples. The same weights as those of [`AllocSamples`].
    pub rate: u64,
    /// The size of the objects, bytes.
    pub size: Vec<u64>,
    /// Where they were allocated.
    pub stack: Vec<u32>,
    /// Sampled objects allocated until the start of the phase.
    pub allocs_start: Vec<u64>,
    /// Of those, the ones freed.
    pub frees_start: Vec<u64>,
    /// Sampled objects allocated until the end of the phase.
    pub allocs_end: Vec<u64>,
    /// Of those, the ones freed.
    pub frees_end: Vec<u64>,
}

/// Goroutines by the `go` statement that made them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GoroutineSites {
    /// The `go` statement.
    pub created: Vec<u32>,
    /// The function that it started.
    pub started: Vec<u32>,
    /// How many there were before the load.
    pub before: Vec<u64>,
    /// How many there were at the end of the measuring phase.
    pub loaded: Vec<u64>,
    /// How many there were at the end of the drain.
    pub left: Vec<u64>,
}

/// Resident off-heap memory by the code that touched each page first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OffHeapSites {
    /// The code that touched the pages first.
    pub stack: Vec<u32>,
    /// Bytes of them that were resident at the start of the measuring phase.
    pub start_bytes: Vec<u64>,
    /// Bytes of them that were resident at its end.
    pub end_bytes: Vec<u64>,
}
