//! Evidence: the record of one run. Nothing else passes from measuring to judging.
//!
//! Every time is in nanoseconds of `CLOCK_MONOTONIC` since the launch of the service.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

pub mod error;
pub mod plan;
pub mod platform;
mod profile;
pub mod secrets;
pub mod template;
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
    /// The name of the build, such as `main (1a2b3c4)`, if it is the one that another build is compared with; `null` for
    /// the build that is judged.
    #[serde(default)]
    pub against: Option<String>,
    /// What this is evidence of. Evidence of an earlier memgate does not tell: `null`.
    #[serde(default)]
    pub origin: Option<Origin>,
    /// What was measured.
    pub signals: Signals,
    /// The call stacks that the signals refer to.
    pub code: Code,
    /// Notes for the reader on what the run lacked, such as a cgroup's memory controller.
    pub notes: Vec<String>,
}

/// What a run is evidence of. Runs of one service and platform that are judged together agree in executable, plan and
/// commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// SHA-256 of the executable that was measured, in lower-case hexadecimal.
    pub executable: String,
    /// SHA-256 of the part of the plan that decides about figures, in lower-case hexadecimal. The run's number and the
    /// machine's paths are not in it.
    pub plan: String,
    /// The commit of the sources, or of what is beside the executable; `null` if there is no git or no repository.
    pub commit: Option<Commit>,
    /// The build of memgate that measured: a hash of the sources that host and guest share.
    pub memgate: String,
}

/// A commit that is checked out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// Its full hash.
    pub hash: String,
    /// Whether a tracked file differs from it.
    pub is_changed: bool,
}

/// The commit as a message names it: its hash, and `with changed files` if there are any.
impl std::fmt::Display for Commit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let changed = if self.is_changed { " with changed files" } else { "" };
        write!(f, "{}{changed}", self.hash)
    }
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
    /// Settings of the build that move figures, as `go version -m` lists them: `-race`, `-msan`, `-asan`, `-cover` and
    /// `-tags`, the level of the processor (`GOAMD64`, `GOARM64`) and `GOEXPERIMENT`. Empty before Go 1.18.
    pub build: BTreeMap<String, String>,
    /// Variables given to the service that move figures: `GOGC`, `GOMEMLIMIT`, `GOMAXPROCS` and `GODEBUG`. What the
    /// service itself sets is not in it.
    pub variables: BTreeMap<String, String>,
    /// The load as text, such as `500/s over 32 connections: 3 POST /login, 6 GET /verify`. Empty if it is not known.
    #[serde(default)]
    pub load: String,
    /// The lengths of the phases under load as text, such as `10 s, 30 s`. Empty if they are not known.
    #[serde(default)]
    pub phases: String,
    /// What ran beside the service and before it as text, such as ``redis `redis-server --port 6379` ``. Empty if nothing
    /// did.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub dependencies: String,
}

impl Environment {
    /// The settings of the build as text, such as `-tags=netgo GOAMD64=v3`, or `none`.
    pub fn build_text(&self) -> String {
        listed(&self.build)
    }

    /// What ran beside the service and before it, or `none`.
    pub fn dependencies_text(&self) -> String {
        if self.dependencies.is_empty() { "none".to_owned() } else { self.dependencies.clone() }
    }

    /// The service's variables as text, such as `GOGC=50`, or `none`.
    pub fn variables_text(&self) -> String {
        listed(&self.variables)
    }
}

fn listed(settings: &BTreeMap<String, String>) -> String {
    match settings.is_empty() {
        true => "none".to_owned(),
        false => settings.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "),
    }
}

/// The phases as they were. A phase that the service did not reach is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Phases {
    /// The phase under load that is not judged.
    pub warmup: Option<TimeSpan>,
    /// The phase under load that is judged.
    pub measure: Option<TimeSpan>,
    /// The phase after it under the same load, in which memgate makes the runtime collect. A run in which memgate
    /// cannot do that has none.
    pub tail: Option<TimeSpan>,
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
    /// It ended by itself before the end of the drain, in a way that only the process knows that had started it.
    Ended {
        /// When, ns since launch.
        at_ns: u64,
    },
}

impl Ending {
    /// Whether the service survived every phase.
    pub const fn is_complete(&self) -> bool {
        match self {
            Self::Stopped | Self::Killed { .. } => true,
            Self::Exited { .. } | Self::Signalled { .. } | Self::Ended { .. } => false,
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
    /// GC cycles that memgate made the runtime do, before and after the measuring phase.
    forced_collections: ForcedCollections,
    /// Memory of the Go runtime by use, and the GC's goal.
    go_memory: GoMemory,
    /// Bytes allocated on the Go heap since the launch (`MemStats.TotalAlloc`).
    alloc_bytes: Series,
    /// Objects allocated on the Go heap since the launch (`MemStats.Mallocs`).
    alloc_objects: Series,
    /// Goroutines other than the runtime's own (`runtime.NumGoroutine`). The first entry is from before the load, the
    /// last from the end of the drain.
    goroutines: Series,
    /// Resident set, bytes: the sum over the processes of the service's cgroup.
    rss: Series,
    /// Resident set by kind, at the same times and over the same processes as `rss`.
    rss_kinds: RssKinds,
    /// Swapped-out anonymous memory, bytes: the sum over the same processes (`VmSwap` of /proc/PID/status).
    swap: Series,
    /// Threads of the same processes. The first entry is from before the load, the last from the end of the drain.
    threads: Series,
    /// Open file descriptors of the processes of the service's cgroup. The first entry is from before the load, the last
    /// from the end of the drain.
    fds: Series,
    /// Memory that is charged to the service's cgroup, by kind. All processes of the cgroup are in it, and what is in no
    /// process, such as files on a tmpfs.
    cgroup_memory: CgroupMemory,
    /// Largest working set of the service's cgroup among the readings of the measuring phase, bytes: what is charged,
    /// less the inactive file pages.
    cgroup_peak: u64,
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
    /// The part of it on processors that had nothing else to do, ns (`/cpu/classes/gc/mark/idle:cpu-seconds`).
    pub gc_idle_ns: Vec<u64>,
    /// Time in which processors had nothing to do, ns (`/cpu/classes/idle:cpu-seconds`).
    pub idle_ns: Vec<u64>,
    /// CPU time of the process as the runtime calculates it: GOMAXPROCS times wall time, ns
    /// (`/cpu/classes/total:cpu-seconds`).
    pub total_ns: Vec<u64>,
}

/// GC cycles that memgate made the runtime do. They lie outside of the measuring phase, so that its cycles and pauses
/// are the service's own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForcedCollections {
    /// The windows in which memgate asked for cycles: the end of the warm-up, and the tail. Cycles that end in them may
    /// be forced; all others are the service's own.
    pub windows: Vec<TimeSpan>,
    /// How many cycles memgate asked for in each window.
    pub asked: Vec<u64>,
    /// The least time from the end of a cycle to the next request for one, ns.
    pub period_ns: u64,
}

/// Memory of the Go runtime by use, bytes, in columns of equal length. It is memory that the runtime has mapped,
/// whether or not it is resident.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GoMemory {
    /// When, ns since launch.
    pub at_ns: Vec<u64>,
    /// Spans with objects (`MemStats.HeapInuse`).
    pub heap_in_use: Vec<u64>,
    /// Free spans that were not returned to the system (`/memory/classes/heap/free:bytes`).
    pub heap_free: Vec<u64>,
    /// The size of the heap at which the current or next GC cycle should end (`/gc/heap/goal:bytes`): the smaller of
    /// the goals by GOGC and by GOMEMLIMIT. It is far above any memory if
    /// both are off.
    pub heap_goal: Vec<u64>,
    /// What the last GC cycle marked, and all spans that were handed out since (`gcController.heapLive`). The GC starts
    /// shortly before this reaches the goal.
    pub heap_live: Vec<u64>,
    /// Spans with the stacks of goroutines, including stacks that are free (`MemStats.StackInuse`).
    pub stacks: Vec<u64>,
    /// Everything else: descriptions of spans, caches, the profile, the GC's own data (`MSpanSys + MCacheSys +
    /// BuckHashSys + GCSys + OtherSys + StackSys − StackInuse` of `MemStats`).
    pub runtime_other: Vec<u64>,
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

/// Memory of a cgroup by kind, bytes, in columns of equal length; times do not decrease. A kind that the kernel does not
/// report has no column.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CgroupMemory {
    /// When, ns since launch.
    pub at_ns: Vec<u64>,
    /// Anonymous memory: heaps and stacks (`anon` of memory.stat; `total_rss` in version 1).
    pub anon: Vec<u64>,
    /// Pages of files, and of shared memory too (`file`; `total_cache` in version 1).
    pub file: Vec<u64>,
    /// Shared memory and files on a tmpfs (`shmem`; `total_shmem` in version 1).
    pub shmem: Vec<u64>,
    /// Memory of the kernel: stacks, page tables, slabs and more (`kernel`, since Linux 5.18; memory.kmem.usage_in_bytes
    /// in version 1).
    pub kernel: Option<Vec<u64>>,
    /// Pages of files that the kernel frees first (`inactive_file`; `total_inactive_file` in version 1).
    pub inactive_file: Vec<u64>,
    /// Swapped-out memory, which does not count in `current` (memory.swap.current; `total_swap` in version 1).
    pub swap: Option<Vec<u64>>,
    /// Everything that counts against the memory limit (memory.current; memory.usage_in_bytes in version 1). The kernel
    /// sums the kinds up later than this number, so their sum may differ by some pages for each CPU.
    pub current: Vec<u64>,
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
    /// Requests intended in the tail.
    pub tail: RequestCounts,
    /// Requests that should start per second. A guest may have been slower. Under a load command, those that did start per
    /// second of the measuring phase.
    pub per_second: f64,
    /// Latencies of the measuring phase's answered requests, from the intended start; in a guest and under a load
    /// command from the sending.
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
