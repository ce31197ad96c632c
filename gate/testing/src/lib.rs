//! Synthetic evidence for the tests of memgate's crates, and the Go distributions that they build with.
#![expect(clippy::cast_precision_loss, reason = "figures of tests are small")]

pub mod evidence;
pub mod go;

use std::collections::BTreeMap;

use memgate_evidence::{
    CgroupMemory, Code, Durations, Ending, Environment, Evidence, Exactness, GcCpu, GoMemory, Histogram, Pauses,
    Phases, RequestCounts, Requests, RssKinds, Series, Signal, Signals, SpanRefills, StopReason, TimeSpan, WorldStops,
    plan::{
        Account, Collecting, HttpLoad, Length, Load, PhaseLengths, Plan, Ready, ReadyBy, Request, Stdin, Transport,
    },
    platform::{Platform, Runner},
    secrets::Secrets,
    tier::Tier,
};

/// A second, ns.
pub const SECOND: u64 = 1_000_000_000;
/// The warm-up of the synthetic runs, up to the measuring phase.
pub const WARMUP: TimeSpan = TimeSpan { start_ns: SECOND, end_ns: 10 * SECOND };
/// The measuring phase of the synthetic runs.
pub const MEASURE: TimeSpan = TimeSpan { start_ns: 10 * SECOND, end_ns: 70 * SECOND };
/// The drain of the synthetic runs.
pub const DRAIN: TimeSpan = TimeSpan { start_ns: 70 * SECOND, end_ns: 75 * SECOND };

/// Pseudo-random numbers with a fixed seed: SplitMix64 (G. L. Steele et al., OOPSLA 2014).
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next_number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform between 0 and 1, both excluded.
    pub fn uniform(&mut self) -> f64 {
        ((self.next_number() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Standard normal, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Uniform from 0 to `below` − 1.
    pub fn below(&mut self, below: u64) -> u64 {
        self.next_number() % below
    }
}

/// A complete run of a service that passes every default limit: 500 requests a second, 2,000 bytes and 10 objects each,
/// five collections a second, no growth.
pub fn healthy(run: u32) -> Evidence {
    let mut random = Random(u64::from(run));
    Evidence {
        service: "uaa".to_owned(),
        platform: Platform::LinuxAmd64,
        run,
        baseline: "uaa".to_owned(),
        started_at: format!("2026-11-23T12:{:02}:00Z", 2 * run.min(29)),
        environment: environment(),
        phases: Phases { warmup: Some(WARMUP), measure: Some(MEASURE), tail: None, drain: Some(DRAIN) },
        ending: Ending::Stopped,
        tier: Tier::T2,
        options: vec![],
        against: None,
        origin: None,
        code: Code::default(),
        signals: signals(&mut random),
        notes: vec![],
    }
}

/// A plan of a run of this machine's platform: one kind of request to port 1, which also says whether the service is
/// ready.
pub fn plan() -> Plan {
    let request = Request::get("http://127.0.0.1:1/");
    Plan {
        service: "s".to_owned(),
        platform: Platform::host(),
        run: 1,
        baseline: "s".to_owned(),
        executable: "/srv/s".into(),
        args: vec![],
        watch: None,
        env: BTreeMap::new(),
        stdin: Stdin::Empty,
        secrets: Secrets::default(),
        directory: "/".into(),
        account: Some(Account { name: "u".to_owned(), uid: 1, gid: 1, groups: vec![2], home: "/".into() }),
        ready: Ready { by: ReadyBy::Http(request.url.clone()), timeout_ms: 1 },
        memory_max: None,
        sidecars: vec![],
        before: vec![],
        load: Load::Http(HttpLoad {
            rate_per_second: 1.0,
            connections: 1,
            timeout_ms: 1,
            transport: Transport::default(),
            rows: None,
            requests: vec![request],
        }),
        phases: PhaseLengths { warmup: Length::Ms(0), measure: Length::Ms(0), drain_ms: 0, drain_max_ms: 0 },
        seed: 0,
        stop_timeout_ms: 1,
        collecting: Collecting::default(),
    }
}

/// The environment of the synthetic runs.
pub fn environment() -> Environment {
    Environment {
        go: "go1.27.3".to_owned(),
        kernel: "6.12.9-amd64".to_owned(),
        page_size: 4096,
        thp: "madvise".to_owned(),
        cpu: "a processor".to_owned(),
        cpus: 2,
        runner: Runner::Native,
        memgate: "0.1.0".to_owned(),
        build: BTreeMap::new(),
        variables: BTreeMap::new(),
        load: "500/s over 32 connections: 3 POST /login, 6 GET /verify, 1 POST /logout".into(),
        phases: "10 s, 60 s".into(),
        dependencies: String::new(),
    }
}

/// Values at a steady interval from the launch to the end of the drain.
pub fn every(interval_ns: u64, mut value: impl FnMut(u64) -> u64) -> Series {
    let at_ns: Vec<u64> = (0..=DRAIN.end_ns / interval_ns).map(|index| index * interval_ns).collect();
    let value = at_ns.iter().map(|&at| value(at)).collect();
    Series { at_ns, value }
}

/// A signal with every event recorded.
pub fn exact<T>(data: T) -> Signal<T> {
    Signal { source: "a test".to_owned(), exactness: Exactness::Exact, lost: 0, data }
}

fn signals(random: &mut Random) -> Signals {
    let load = |at: u64| at.clamp(WARMUP.start_ns, MEASURE.end_ns) - WARMUP.start_ns;
    let completed = |at: u64| load(at) / (SECOND / 500);
    let loaded = |at: u64| (WARMUP.start_ns..MEASURE.end_ns).contains(&at);
    let cycles = every(SECOND / 5, |_| 20_000_000 + random.below(100_000));
    let tenth = SECOND / 10;
    Signals {
        gc_pauses: exact(pauses(&cycles, random)),
        other_pauses: exact(Pauses::default()),
        world_stops: exact(stops(&cycles)),
        gc_cpu: exact(gc_cpu(&cycles)),
        live_heap: exact(cycles),
        alloc_bytes: exact(every(tenth, |at| 1_000_000 + 2_000 * completed(at) + load(at) / 1_000_000)),
        alloc_objects: exact(every(tenth, |at| 10_000 + 10 * completed(at))),
        goroutines: exact(every(tenth, |at| if loaded(at) { 40 + random.below(5) } else { 10 })),
        rss: exact(every(tenth, |_| 50_000_000 + random.below(50_000))),
        rss_kinds: exact(resident_by_kind()),
        go_memory: exact(go_memory()),
        threads: exact(every(tenth, |at| if loaded(at) { 12 } else { 10 })),
        fds: exact(every(tenth, |at| if loaded(at) { 40 } else { 8 })),
        swap: exact(every(tenth, |_| 0)),
        cgroup_memory: exact(cgroup_memory()),
        cgroup_peak: exact(60_000_000),
        rss_peak: exact(50_060_000),
        offheap: exact(every(SECOND / 2, |_| 4_000_000 + random.below(4_096))),
        mmap_latency: exact(mappings()),
        span_refills: exact(refills()),
        page_faults: exact(every(tenth, |at| 10_000 + completed(at) / 10)),
        requests: exact(requests(every(tenth, completed))),
        oom_kills: exact(0),
        ..Signals::default()
    }
}

/// Two pauses a cycle, each of 50 to 100 µs.
fn pauses(cycles: &Series, random: &mut Random) -> Pauses {
    let at_ns: Vec<u64> = cycles.at_ns.iter().flat_map(|&at| [at.saturating_sub(5_000_000), at]).collect();
    let duration_ns = at_ns.iter().map(|_| 50_000 + random.below(50_000)).collect();
    Pauses { at_ns, duration_ns }
}

/// The same stops with their reasons: 50 µs each, 8 µs more than the runtime counts, and 4.942 ms of marking between
/// them.
fn stops(cycles: &Series) -> WorldStops {
    let at_ns: Vec<u64> = cycles.at_ns.iter().flat_map(|&at| [at.saturating_sub(5_000_000), at]).collect();
    let reasons = [StopReason::GcSweepTermination, StopReason::GcMarkTermination];
    let reason = at_ns.iter().enumerate().map(|(index, _)| reasons[index % 2]).collect();
    WorldStops { reason, duration_ns: vec![50_000; at_ns.len()], tail_ns: vec![8_000; at_ns.len()], at_ns }
}

/// 40 MB of anonymous memory, of which 25 MB are the heap up to the goal of the GC, and 10 MB of files.
fn resident_by_kind() -> RssKinds {
    let Series { at_ns, value } = every(SECOND / 10, |_| 40_000_000);
    let column = |bytes| vec![bytes; at_ns.len()];
    RssKinds { anonymous: value, file: column(10_000_000), shared: column(0), at_ns }
}

fn go_memory() -> GoMemory {
    let Series { at_ns, value } = every(SECOND / 10, |_| 20_000_000);
    let column = |bytes| vec![bytes; at_ns.len()];
    GoMemory {
        heap_in_use: value,
        heap_free: column(10_000_000),
        heap_goal: column(25_000_000),
        heap_live: column(20_000_000),
        stacks: column(1_000_000),
        runtime_other: column(3_000_000),
        at_ns,
    }
}

fn cgroup_memory() -> CgroupMemory {
    let Series { at_ns, value } = every(SECOND / 10, |_| 60_000_000);
    let column = |bytes| vec![bytes; at_ns.len()];
    CgroupMemory {
        anon: column(40_000_000),
        file: column(12_000_000),
        shmem: column(0),
        kernel: Some(column(2_000_000)),
        inactive_file: column(2_000_000),
        swap: Some(column(0)),
        current: value,
        at_ns,
    }
}

/// Two CPUs, half idle. The GC takes 5 % of the time that they work for the service, and as much that nobody wants.
fn gc_cpu(cycles: &Series) -> GcCpu {
    let of = |share: u64| cycles.at_ns.iter().map(|at| at / 100 * share).collect();
    GcCpu { at_ns: cycles.at_ns.clone(), gc_ns: of(10), gc_idle_ns: of(5), idle_ns: of(95), total_ns: of(200) }
}

/// A mapping every two seconds, of 5 µs.
fn mappings() -> Durations {
    let Series { at_ns, value } = every(2 * SECOND, |_| 5_000);
    Durations { at_ns, duration_ns: value }
}

/// A window of a tenth of a second in every second, with a miss for every 50 refills.
fn refills() -> SpanRefills {
    let windows: Vec<TimeSpan> = (0..DRAIN.end_ns / SECOND)
        .map(|second| TimeSpan { start_ns: second * SECOND, end_ns: second * SECOND + SECOND / 10 })
        .collect();
    SpanRefills { refills: vec![50; windows.len()], misses: vec![1; windows.len()], windows }
}

fn requests(completed: Series) -> Requests {
    let all = |intended| RequestCounts { intended, succeeded: intended, failed: BTreeMap::new() };
    let latency = Histogram { value_ns: (1..=100).map(|i| i * 100_000).collect(), count: vec![300; 100] };
    let tail = RequestCounts::default();
    Requests { completed, warmup: all(4_500), measure: all(30_000), tail, per_second: 500.0, latency }
}
