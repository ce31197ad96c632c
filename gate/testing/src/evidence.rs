//! Evidence of made-up runs whose requests allocate a given number of bytes, with and without profiles.

use crate::exact;
use memgate_evidence::{
    AllocSamples, Code, Evidence, Exactness, Frame, GoroutineSites, HeapProfile, Language, OffHeapSites, Signal,
};

/// A run of the service `uaa`. A request allocates `bytes`.
pub fn healthy(run: u32, bytes: u64) -> Evidence {
    /// What a request of [`crate::healthy()`] allocates.
    const BYTES: u64 = 2000;
    let mut evidence = crate::healthy(run);
    for total in &mut evidence.signals.alloc_bytes.data.value {
        *total = *total * bytes / BYTES;
    }
    evidence
}

/// The same with profiles: the function `main.put` of a file allocates everything, and some of it is kept.
pub fn profiled(run: u32, bytes: u64, file: &str) -> Evidence {
    let frame = |function: &str, file: &str, line| Frame {
        function: function.to_owned(),
        file: file.to_owned(),
        line,
        inlined: false,
        language: Language::Go,
    };
    let mut evidence = healthy(run, bytes);
    evidence.code = Code {
        frames: vec![
            frame("runtime.mallocgc", "/go/src/runtime/malloc.go", 1100),
            frame("main.put", file, 42),
            frame("main.main", file, 7),
        ],
        stacks: vec![vec![0, 1, 2]],
    };
    evidence.signals.heap_profile = exact(HeapProfile {
        rate: 524_288,
        size: vec![1024],
        stack: vec![0],
        allocs_start: vec![10],
        frees_start: vec![10],
        allocs_end: vec![110],
        frees_end: vec![100],
    });
    evidence.signals.alloc_samples = exact(AllocSamples::default());
    evidence.signals.goroutine_sites = exact(GoroutineSites::default());
    evidence.signals.offheap_sites = Signal {
        source: "tracepoints".to_owned(),
        exactness: Exactness::Missing { reason: "tracefs cannot be mounted".to_owned() },
        lost: 0,
        data: OffHeapSites::default(),
    };
    evidence
}
