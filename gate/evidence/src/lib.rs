//! Evidence: the record of one run. Nothing else passes from measuring to judging.
//!
//! Every time is in nanoseconds of `CLOCK_MONOTONIC` since the launch of the service.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

pub mod error;
pub mod plan;
pub mod platform;
mod profile;
pub mod tier;

use serde::{Deserialize, Serialize};

pub use profile::{AllocSamples, Code, Frame, GoroutineSites, HeapProfile, Language, OffHeapSites};

use crate::{
    platform::{Platform, Runner},
    tier::Tier,
};

/// The record of one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// The service's name in the configuration.
    pub service: String,
    /// The platform measured.
    pub platform: Platform,
    /// The run's number within its command, from 1.
    pub run: u32,
    /// The name of the baseline to compare the service with.
    pub baseline: String,
    /// Wall-clock time of the launch, RFC 3339 in UTC.
    pub started_at: String,
    /// The environment: machine, Go version and runner.
    pub environment: Environment,
    /// The phases as they were.
    pub phases: Phases,
    /// How the service ended.
    pub ending: Ending,
    /// The tier of collectors that the kernel allowed.
    pub tier: Tier,
    /// The options of the command that measured, but for service and platform and for where its results go: `--tier`, `T0`. Evidence of
    /// an earlier memgate tells none.
    #[serde(default)]
    pub options: Vec<String>,
    /// What was measured.
    pub signals: Signals,
    /// The call stacks that the signals refer to.
    pub code: Code,
    /// Notes for the reader on what the run lacked, such as a cgroup's memory controller.
    pub notes: Vec<String>,
}

/// The environment: machine, Go version and runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// Go version of the executable, such as `go1.27.3`.
    pub go: String,
    /// Kernel release, such as `6.12.9-amd64`.
    pub kernel: String,
    /// Page size, bytes.
    pub page_size: u64,
    /// `/sys/kernel/mm/transparent_hugepage/enabled`: `always`, `madvise`, `never` or `unknown`.
    pub thp: String,
    /// CPU model.
    pub cpu: String,
    /// CPUs that the service may use.
    pub cpus: u32,
    /// `native` or `qemu`.
    pub runner: Runner,
    /// Version of memgate that measured.
    pub memgate: String,
}

/// The phases as they were. A phase that the service did not reach is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Phases {
    /// The phase under load that is not judged.
    pub warmup: Option<TimeSpan>,
    /// The phase under load that is judged.
    pub measure: Option<TimeSpan>,
    /// The phase without load.
    pub drain: Option<TimeSpan>,
}

/// A stretch of time, ns since launch, start inclusive, end exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TimeSpan {
    /// Start, ns since launch.
    pub start_ns: u64,
    /// End, ns since launch.
    pub end_ns: u64,
}

impl TimeSpan {
    /// Whether the time lies in the span.
    pub const fn contains(&self, at_ns: u64) -> bool {
        self.start_ns <= at_ns && at_ns < self.end_ns
    }

    /// Length, ns.
    pub const fn length_ns(&self) -> u64 {
        self.end_ns - self.start_ns
    }
}

/// How the service ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ending {
    /// It survived the drain and ended after SIGTERM.
    Stopped,
    /// It survived the drain, ignored SIGTERM for the given time and was killed.
    Killed {
        /// How long it had to end, ms.
        after_ms: u64,
    },
    /// It exited by itself before the end of the drain.
    Exited {
        /// Its exit code.
        code: i32,
        /// When, ns since launch.
        at_ns: u64,
    },
    /// A signal that memgate did not send ended it before the end of the drain.
    Signalled {
        /// The signal's name, such as `SIGSEGV`.
        signal: String,
        /// When, ns since launch.
        at_ns: u64,
    },
}

impl Ending {
    /// Whether the service survived every phase.
    pub const fn is_complete(&self) -> bool {
        match self {
            Self::Stopped | Self::Killed { .. } => true,
            Self::Exited { .. } | Self::Signalled { .. } => false,
        }
    }
}

/// Makes [`Signals`] from a row for each signal.
macro_rules! signals {
    ($( $(#[doc = $sentence:literal])+ $signal:ident: $data:ty, )+) => {
        /// The measured signals. By default all are missing.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct Signals {
            $( $(#[doc = $sentence])+ pub $signal: Signal<$data>, )+
        }

        impl Signals {
            /// The provenance of every signal, in the order of the evidence.
            pub fn provenance(&self) -> [Provenance<'_>; [$(stringify!($signal)),+].len()] {
                [$(self.$signal.provenance(stringify!($signal))),+]
            }
        }
    };
}

signals! {
    /// Stop-the-world pauses of the GC, as the runtime records them.
    gc_pauses: Pauses,
    /// Stop-the-world pauses for other reasons.
    other_pauses: Pauses,
    /// Every stop of the world, with its reason and the part that the runtime does not count.
    world_stops: WorldStops,
    /// CPU time of the GC and of the whole process as the runtime accounts for them.
    gc_cpu: GcCpu,
    /// Live heap in bytes at the end of each GC cycle's mark phase, one entry a cycle.
    live_heap: Series,
    /// Bytes allocated on the Go heap since the launch (`MemStats.TotalAlloc`).
    alloc_bytes: Series,
    /// Objects allocated on the Go heap since the launch (`MemStats.Mallocs`).
    alloc_objects: Series,
    /// Goroutines other than the runtime's own (`runtime.NumGoroutine`). The first entry is from before the load, the
    /// last from the end of the drain.
    goroutines: Series,
    /// Resident set, bytes.
    rss: Series,
    /// Resident set by kind.
    rss_kinds: RssKinds,
    /// Anonymous memory in transparent huge pages, bytes.
    huge_pages: Series,
    /// Transparent huge pages since the launch that the kernel allocated at a fault or assembled later.
    thp_events: Series,
    /// Largest resident set of the measuring phase, bytes.
    rss_peak: u64,
    /// Resident memory that the Go runtime does not manage, bytes.
    offheap: Series,
    /// The duration of each mapping that the Go runtime made.
    mmap_latency: Durations,
    /// Refills of the Ps' span caches.
    span_refills: SpanRefills,
    /// Allocations that the runtime sampled.
    alloc_samples: AllocSamples,
    /// The runtime's heap profile at both ends of the measuring phase.
    heap_profile: HeapProfile,
    /// Goroutines by `go` statement.
    goroutine_sites: GoroutineSites,
    /// Resident off-heap memory by the code that touched it first.
    offheap_sites: OffHeapSites,
    /// Page faults since the launch, minor and major.
    page_faults: Series,
    /// The load generator's results.
    requests: Requests,
    /// Processes of the service's cgroup that the kernel killed because memory ran out.
    oom_kills: u64,
}

/// Where a signal comes from and how far it can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Provenance<'a> {
    /// The signal's name in the evidence, such as `gc_pauses`.
    pub name: &'static str,
    /// The source; empty if nobody measured the signal.
    pub source: &'a str,
    /// How far it can be trusted.
    pub exactness: &'a Exactness,
    /// Records lost on the way.
    pub lost: u64,
}

/// A measured signal, with its source and how far it can be trusted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signal<T> {
    /// The source, such as `uprobe on runtime.startTheWorldWithSema`.
    pub source: String,
    /// How far it can be trusted.
    pub exactness: Exactness,
    /// Records lost on the way.
    pub lost: u64,
    /// The data; empty if the signal is missing.
    pub data: T,
}

impl<T: Default> Default for Signal<T> {
    /// A signal that nobody measured.
    fn default() -> Self {
        Self {
            source: String::new(),
            exactness: Exactness::Missing { reason: "it was not measured".to_owned() },
            lost: 0,
            data: T::default(),
        }
    }
}

impl<T> Signal<T> {
    const fn provenance(&self, name: &'static str) -> Provenance<'_> {
        Provenance { name, source: self.source.as_str(), exactness: &self.exactness, lost: self.lost }
    }
}

/// How far a signal can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Exactness {
    /// Every event, or the runtime's or kernel's own total.
    Exact,
    /// Exact at the times of the entries. Events between them are not seen.
    Sampled,
    /// Each value is the upper end of a bucket of the runtime's own histogram, at most a quarter above the true one.
    Bucketed,
    /// Something is lost or doubtful. No gate passes on it.
    Inexact {
        /// What is lost or doubtful, and why.
        reason: String,
    },
    /// There is no data. No gate passes on it.
    Missing {
        /// The reason.
        reason: String,
    },
}

/// Values over time, in columns of equal length; times do not decrease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// When, ns since launch.
    pub at_ns: Vec<u64>,
    /// The values, in the unit that the signal states.
    pub value: Vec<u64>,
}

/// Stop-the-world pauses, in columns of equal length; times do not decrease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pauses {
    /// When each pause ended, ns since launch.
    pub at_ns: Vec<u64>,
    /// How long each was, ns.
    pub duration_ns: Vec<u64>,
}

/// Stops of the world in columns of equal length; times do not decrease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorldStops {
    /// When each stop ended, ns since launch.
    pub at_ns: Vec<u64>,
    /// Why the world was stopped.
    pub reason: Vec<StopReason>,
    /// How long it was as the runtime counts it, ns.
    pub duration_ns: Vec<u64>,
    /// How much longer it lasted, ns. The runtime takes the end time of some stops before the world runs again.
    pub tail_ns: Vec<u64>,
}

/// Why the world was stopped (`stwReason`, runtime/proc.go, Go 1.22 to 1.27).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Mark termination: the end of a GC cycle's mark phase.
    GcMarkTermination,
    /// Sweep termination: the start of a GC cycle.
    GcSweepTermination,
    /// `debug.WriteHeapDump`.
    WriteHeapDump,
    /// A goroutine profile.
    GoroutineProfile,
    /// The clean-up after a goroutine profile.
    GoroutineProfileCleanup,
    /// `runtime.Stack` of all goroutines.
    AllGoroutinesStack,
    /// `runtime.ReadMemStats`.
    ReadMemStats,
    /// All threads' system calls.
    AllThreadsSyscall,
    /// `runtime.GOMAXPROCS`.
    Gomaxprocs,
    /// The execution tracer was started or stopped.
    Trace,
    /// A test hook of the runtime.
    Test,
    /// The runtime gives no reason, or memgate does not know it.
    Unknown,
}

/// CPU time since the launch, in columns of equal length, with one entry for each GC cycle at which the runtime
/// accounts for it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GcCpu {
    /// When it was read, ns since launch.
    pub at_ns: Vec<u64>,
    /// CPU time of the GC, ns (`/cpu/classes/gc/total:cpu-seconds`).
    pub gc_ns: Vec<u64>,
    /// CPU time of the process as the runtime calculates it: GOMAXPROCS times wall time, ns
    /// (`/cpu/classes/total:cpu-seconds`).
    pub total_ns: Vec<u64>,
}

/// Resident set by kind, bytes, in columns of equal length (`RssAnon`, `RssFile`, `RssShmem` of /proc/PID/status).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RssKinds {
    /// When, ns since launch.
    pub at_ns: Vec<u64>,
    /// Anonymous memory: heaps and stacks.
    pub anonymous: Vec<u64>,
    /// Pages of files: executables and libraries.
    pub file: Vec<u64>,
    /// Shared memory.
    pub shared: Vec<u64>,
}

/// Durations in columns of equal length; times do not decrease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Durations {
    /// When each ended, ns since launch.
    pub at_ns: Vec<u64>,
    /// How long each was, ns.
    pub duration_ns: Vec<u64>,
}

/// Refills of the Ps' span caches, counted in windows, because counting all of them would slow the service down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SpanRefills {
    /// The windows.
    pub windows: Vec<TimeSpan>,
    /// Refills in each window (`(*mcentral).cacheSpan`, mcentral.go).
    pub refills: Vec<u64>,
    /// Refills for which no span could be used again (`(*mcentral).grow`).
    pub misses: Vec<u64>,
}

/// The load generator's results.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Requests {
    /// Requests that succeeded since the launch, at the same times as `alloc_bytes`.
    pub completed: Series,
    /// Requests intended in the warm-up.
    pub warmup: RequestCounts,
    /// Requests intended in the measuring phase.
    pub measure: RequestCounts,
    /// Requests that should start per second. A guest may have been slower.
    pub per_second: f64,
    /// Latencies of the measuring phase's answered requests, from the intended start, or in a guest from the sending.
    pub latency: Histogram,
}

/// Requests by result: `intended = succeeded + Σ failed`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestCounts {
    /// Requests whose intended start lies in the phase, or in a guest those that the phase should have.
    pub intended: u64,
    /// Requests that were answered in time with an expected status.
    pub succeeded: u64,
    /// Failed requests by reason: `status 500`, `connection refused`, `timeout`, `not sent`, and [`NO_TIME`].
    pub failed: BTreeMap<String, u64>,
}

/// The reason of requests that a guest did not get because the time of the phase was over. They are in no way the
/// service's failures.
pub const NO_TIME: &str = "no time";

impl RequestCounts {
    /// Requests that a guest did not get, for [`NO_TIME`]; 0 natively.
    pub fn unmade(&self) -> u64 {
        self.failed.get(NO_TIME).copied().unwrap_or(0)
    }

    /// Requests that failed because time ran out: the answer did not come in time, or no connection became free.
    pub fn late(&self) -> u64 {
        let of = |reason| self.failed.get(reason).copied().unwrap_or(0);
        of("timeout").saturating_add(of("not sent"))
    }
}

/// A histogram of durations with three significant digits, in columns of equal length. Only values that occurred have
/// an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Histogram {
    /// Highest value of each bucket, ns, increasing.
    pub value_ns: Vec<u64>,
    /// The number of values in each bucket.
    pub count: Vec<u64>,
}

impl Series {
    /// Adds an entry.
    pub fn push(&mut self, at_ns: u64, value: u64) {
        self.at_ns.push(at_ns);
        self.value.push(value);
    }
}

impl Pauses {
    /// Adds a pause that ended at `at_ns`.
    pub fn push(&mut self, at_ns: u64, duration_ns: u64) {
        self.at_ns.push(at_ns);
        self.duration_ns.push(duration_ns);
    }
}
