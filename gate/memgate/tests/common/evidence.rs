//! Synthetic evidence of a healthy service: 500 requests a second of 2,000 bytes each, five GC cycles a second.

use std::collections::BTreeMap;

use memgate_evidence::{
    AllocSamples, Code, Ending, Environment, Evidence, Exactness, Frame, GoroutineSites, HeapProfile, Histogram,
    Language, OffHeapSites, Pauses, Phases, RequestCounts, Requests, Series, Signal, Signals, TimeSpan,
    platform::{Platform, Runner},
    tier::Tier,
};

const SECOND: u64 = 1_000_000_000;
const WARMUP: TimeSpan = TimeSpan { start_ns: SECOND, end_ns: 10 * SECOND };
const MEASURE: TimeSpan = TimeSpan { start_ns: 10 * SECOND, end_ns: 70 * SECOND };
const DRAIN: TimeSpan = TimeSpan { start_ns: 70 * SECOND, end_ns: 75 * SECOND };

/// A run of the service `uaa`. A request allocates `bytes`.
pub fn healthy(run: u32, bytes: u64) -> Evidence {
    Evidence {
        service: "uaa".to_owned(),
        platform: Platform::LinuxAmd64,
        run,
        baseline: "uaa".to_owned(),
        started_at: "2026-11-23T12:00:00Z".to_owned(),
        environment: Environment {
            go: "go1.27.3".to_owned(),
            kernel: "6.12.9".to_owned(),
            page_size: 4096,
            thp: "madvise".to_owned(),
            cpu: "a processor".to_owned(),
            cpus: 2,
            runner: Runner::Native,
            memgate: "0.1.0".to_owned(),
        },
        phases: Phases { warmup: Some(WARMUP), measure: Some(MEASURE), drain: Some(DRAIN) },
        ending: Ending::Stopped,
        tier: Tier::T2,
        options: Vec::new(),
        code: Code::default(),
        signals: signals(bytes),
        notes: Vec::new(),
    }
}

fn signals(bytes: u64) -> Signals {
    let served = |at: u64| at.clamp(WARMUP.start_ns, MEASURE.end_ns) / (SECOND / 500) - 500;
    let loaded = |at: u64| (WARMUP.start_ns..MEASURE.end_ns).contains(&at);
    let cycles = every(SECOND / 5, |at| 20_000_000 + at / 1000 % 7919);
    let pauses = Pauses {
        duration_ns: cycles.at_ns.iter().map(|at| 50_000 + at / 1000 % 6151).collect(),
        at_ns: cycles.at_ns.clone(),
    };
    let tenth = SECOND / 10;
    Signals {
        gc_pauses: exact(pauses),
        other_pauses: exact(Pauses::default()),
        live_heap: exact(cycles),
        alloc_bytes: exact(every(tenth, |at| 1_000_000 + bytes * served(at))),
        alloc_objects: exact(every(tenth, |at| 10_000 + 10 * served(at))),
        goroutines: exact(every(tenth, |at| if loaded(at) { 40 } else { 10 })),
        rss: exact(every(tenth, |at| 50_000_000 + at / 1000 % 4099)),
        rss_peak: exact(50_060_000),
        offheap: exact(every(SECOND / 2, |_| 4_000_000)),
        page_faults: exact(every(tenth, |at| 10_000 + served(at) / 10)),
        requests: exact(requests(every(tenth, served))),
        oom_kills: exact(0),
        ..Signals::default()
    }
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

fn requests(completed: Series) -> Requests {
    let all = |intended| RequestCounts { intended, succeeded: intended, failed: BTreeMap::new() };
    let latency = Histogram { value_ns: (1..=100).map(|step| step * 100_000).collect(), count: vec![300; 100] };
    Requests { completed, warmup: all(4500), measure: all(30_000), per_second: 500.0, latency }
}

fn every(interval_ns: u64, value: impl Fn(u64) -> u64) -> Series {
    let at_ns: Vec<u64> = (0..=DRAIN.end_ns / interval_ns).map(|index| index * interval_ns).collect();
    Series { value: at_ns.iter().map(|at| value(*at)).collect(), at_ns }
}

fn exact<T>(data: T) -> Signal<T> {
    Signal { source: "a test".to_owned(), exactness: Exactness::Exact, lost: 0, data }
}
