//! Call stacks, and the amounts that were allocated, kept, started or touched at each.
//!
//! Every table is in columns of equal length. A stack is an index into [`Code::stacks`]. An index beyond its end means
//! that the stack is not known.

use serde::{Deserialize, Serialize};

/// The call stacks of a run, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// Every frame that occurs, each once.
    pub frames: Vec<Frame>,
    /// Every stack that occurs, each once, as indices into `frames`, innermost first.
    pub stacks: Vec<Vec<u32>>,
}

/// One logical frame of a call stack. An inlined call has a frame of its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Frame {
    /// The function, such as `main.(*store).put` or `malloc`; an address such as `0x7f12ab34` if no symbol is known.
    pub function: String,
    /// The source file as the compiler recorded it; empty if it is not known.
    pub file: String,
    /// The line, from 1; 0 if it is not known.
    pub line: u32,
    /// Whether the compiler inlined it into its caller.
    pub inlined: bool,
    /// The language.
    pub language: Language,
}

/// The language of a frame's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// Go, from the executable's function table.
    Go,
    /// Anything else, from ELF symbols: C, the C library.
    Native,
}

impl Code {
    /// The frames of a stack, innermost first; none if the index is beyond the table.
    pub fn stack(&self, index: u32) -> impl DoubleEndedIterator<Item = &Frame> {
        let frames =
            usize::try_from(index).ok().and_then(|index| self.stacks.get(index)).map_or(&[][..], Vec::as_slice);
        frames.iter().filter_map(|frame| self.frames.get(usize::try_from(*frame).ok()?))
    }
}

/// Allocations of the measuring phase that the Go runtime sampled, grouped by goroutine, object size and stack.
///
/// The runtime samples by bytes. An object of `size` bytes is in the sample with probability `1 - e^(-size/rate)`, so
/// each sample represents `size / (1 - e^(-size/rate))` bytes (runtime/pprof/protomem.go, Go 1.27, `scaleHeapSample`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AllocSamples {
    /// `runtime.MemProfileRate`: mean bytes between two samples.
    pub rate: u64,
    /// The goroutine's id; 0 if it is not known.
    pub goroutine: Vec<u64>,
    /// The span class: twice the size class, plus 1 if the objects contain no pointers (mheap.go, `spanClass`); 255 if
    /// it is not known.
    pub span_class: Vec<u8>,
    /// The size of the objects, bytes.
    pub size: Vec<u64>,
    /// The stack that allocated them.
    pub stack: Vec<u32>,
    /// The number of sampled objects.
    pub count: Vec<u64>,
}

/// The runtime's own heap profile at both ends of the measuring phase: sampled objects allocated and freed since the
/// launch, by object size and stack, as of the GC cycle that the runtime published last (mprof.go, Go 1.27,
/// `memRecord`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeapProfile {
    /// `runtime.MemProfileRate`: mean bytes between two samples. The weights are those of [`AllocSamples`].
    pub rate: u64,
    /// The size of the objects, bytes.
    pub size: Vec<u64>,
    /// The stack that allocated them.
    pub stack: Vec<u32>,
    /// Sampled objects allocated until the start of the phase.
    pub allocs_start: Vec<u64>,
    /// Sampled objects freed until the start of the phase.
    pub frees_start: Vec<u64>,
    /// Sampled objects allocated until the end of the phase.
    pub allocs_end: Vec<u64>,
    /// Sampled objects freed until the end of the phase.
    pub frees_end: Vec<u64>,
}

/// Goroutines by the `go` statement that started them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GoroutineSites {
    /// The `go` statement.
    pub created: Vec<u32>,
    /// The function that it started.
    pub started: Vec<u32>,
    /// The number before the load.
    pub before: Vec<u64>,
    /// The number at the end of the measuring phase.
    pub loaded: Vec<u64>,
    /// The number at the end of the drain.
    pub left: Vec<u64>,
    /// How many of these did not exist at the start of the measuring phase.
    pub young: Vec<u64>,
}

/// Resident off-heap memory by the code that touched each page first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OffHeapSites {
    /// The code that touched the pages first.
    pub stack: Vec<u32>,
    /// Bytes of these pages that were resident at the start of the measuring phase.
    pub start_bytes: Vec<u64>,
    /// Bytes of these pages that were resident at its end.
    pub end_bytes: Vec<u64>,
}
