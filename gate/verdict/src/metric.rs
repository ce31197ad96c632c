//! The metrics, in one table.
//!
//! A new metric is a row here and an arm in [`crate::summarise`], which does not compile without it. Names, the order
//! of reports and the JSON Schema come from the rows. A test compares the table in docs/reference/metrics.md with them.

use serde::{Deserialize, Serialize};

use crate::profile::Profile;

const MIB: f64 = 1024.0 * 1024.0;

/// The unit of a metric. Every figure inside memgate is an `f64` in this unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Unit {
    /// Nanoseconds.
    #[serde(rename = "ns")]
    Nanoseconds,
    /// A share of 1.
    #[serde(rename = "ratio")]
    Ratio,
    /// A number.
    #[serde(rename = "count")]
    Count,
    /// A number per request.
    #[serde(rename = "count/request")]
    CountPerRequest,
    /// A number per minute.
    #[serde(rename = "count/min")]
    CountPerMinute,
    /// Bytes.
    #[serde(rename = "bytes")]
    Bytes,
    /// Bytes per request.
    #[serde(rename = "bytes/request")]
    BytesPerRequest,
    /// Bytes per second.
    #[serde(rename = "bytes/s")]
    BytesPerSecond,
    /// Bytes per minute.
    #[serde(rename = "bytes/min")]
    BytesPerMinute,
}

/// The kind of quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// Something that is counted. An emulated processor gives the same count as a real one.
    Count,
    /// Time, or a share of it. An emulated processor has neither the caches nor the cycles of a real one, so a time in
    /// a guest means nothing for the platform.
    Time,
}

/// How a metric's figures of several runs become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean: what the service does on average.
    Mean,
    /// Their sum: each occurrence counts.
    Sum,
    /// The share of all parts in all wholes.
    Share,
}

/// The sets of default limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Limits {
    /// The limits that hold for every service.
    #[default]
    General,
    /// These, and the four limits of the 信创 case that memgate generalises.
    Xinchuang,
}

impl Limits {
    /// Every set.
    pub const ALL: [Self; 2] = [Self::General, Self::Xinchuang];

    /// Its name in a baseline file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::General => "general",
            Self::Xinchuang => "xinchuang",
        }
    }
}

/// A default limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DefaultLimit {
    /// This figure, in the metric's unit.
    Fixed(f64),
    /// A growth of this many bytes a minute, or of this share a minute of what grows, whichever is more: a large heap
    /// moves more than a small one.
    Growth {
        /// Bytes per minute.
        bytes: f64,
        /// A share of the level per minute.
        share: f64,
    },
}

impl DefaultLimit {
    /// The limit in the metric's unit. `level` is the mean of what grows, bytes, if it is known.
    pub fn at(self, level: Option<f64>) -> f64 {
        match self {
            Self::Fixed(limit) => limit,
            Self::Growth { bytes, share } => bytes.max(share * level.unwrap_or(0.0)),
        }
    }
}

/// A metric's default limit in each set.
struct InSets {
    general: Option<DefaultLimit>,
    xinchuang: Option<DefaultLimit>,
}

const fn unlimited() -> InSets {
    InSets { general: None, xinchuang: None }
}

const fn always(limit: DefaultLimit) -> InSets {
    InSets { general: Some(limit), xinchuang: Some(limit) }
}

const fn in_xinchuang(limit: f64) -> InSets {
    InSets { general: None, xinchuang: Some(DefaultLimit::Fixed(limit)) }
}

const fn growth_of(bytes: f64, share: f64) -> DefaultLimit {
    DefaultLimit::Growth { bytes, share }
}

const fn at_most(limit: f64) -> DefaultLimit {
    DefaultLimit::Fixed(limit)
}

/// The comparison of a metric with its recorded figure that a newly recorded baseline gets. People can tighten or
/// loosen it in the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Relative tolerance, a share of the recorded figure.
    pub tolerance: f64,
    /// Absolute floor, in the metric's unit.
    pub floor: Option<f64>,
    /// Reported, never failed.
    pub advisory: bool,
}

/// The comparison of two builds that were measured in turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beside {
    /// The difference that fails, if noise does not explain it.
    pub closely: Comparison,
    /// The difference that must not pass, although noise may explain it.
    pub undecided: Comparison,
}

const fn within(tolerance: f64) -> Comparison {
    Comparison { tolerance, floor: None, advisory: false }
}

impl Comparison {
    /// The difference that matters, in the metric's unit: the larger of the tolerance's share of the figure and the
    /// floor.
    pub fn effect(&self, figure: f64) -> f64 {
        (self.tolerance * figure.abs()).max(self.floor.unwrap_or(0.0))
    }

    const fn or_less_than(self, floor: f64) -> Self {
        Self { floor: Some(floor), ..self }
    }

    /// A tolerance of 100 %, and twice the floor.
    const fn doubled(self) -> Self {
        let floor = match self.floor {
            Some(floor) => Some(2.0 * floor),
            None => None,
        };
        Self { tolerance: 1.0, floor, ..self }
    }

    const fn for_the_reader(self) -> Self {
        Self { advisory: true, ..self }
    }
}

/// Makes [`Metric`] from a row for each metric.
macro_rules! metrics {
    ($(
        $(#[doc = $sentence:literal])+
        $metric:ident {
            name: $name:literal,
            unit: $unit:ident,
            quantity: $quantity:ident,
            pooling: $pooling:ident,
            limit: $limit:expr,
            comparison: $comparison:expr,
            beside: $beside:expr,
            sites: [$($profile:ident),*],
        }
    )+) => {
        /// A metric of a service's memory behaviour. docs/reference/metrics.md explains how each is measured.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        pub enum Metric {
            $($(#[doc = $sentence])+ #[serde(rename = $name)] $metric,)+
        }

        impl Metric {
            /// Every metric, in the order in which reports list them.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$metric),+];

            /// Its name in YAML and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$metric => $name,)+ }
            }

            /// What it is, in a sentence or two.
            pub fn sentence(self) -> &'static str {
                match self { $(Self::$metric => concat!($($sentence),+).trim(),)+ }
            }

            /// Its unit.
            pub const fn unit(self) -> Unit {
                match self { $(Self::$metric => Unit::$unit,)+ }
            }

            /// Whether it is counted or timed.
            pub const fn quantity(self) -> Quantity {
                match self { $(Self::$metric => Quantity::$quantity,)+ }
            }

            /// How its figures of several runs become one.
            pub const fn pooling(self) -> Pooling {
                match self { $(Self::$metric => Pooling::$pooling,)+ }
            }

            /// The limit if a service's baseline names none. A service must not leak, be killed for its memory, fail its
            /// requests, or spend its time in the GC.
            pub const fn default_limit(self, limits: Limits) -> Option<DefaultLimit> {
                let in_sets = match self { $(Self::$metric => $limit,)+ };
                match limits {
                    Limits::General => in_sets.general,
                    Limits::Xinchuang => in_sets.xinchuang,
                }
            }

            /// How it is compared with its recorded figure; `None` if only a limit makes sense.
            pub const fn comparison(self) -> Option<Comparison> {
                match self { $(Self::$metric => $comparison,)+ }
            }

            /// How it is compared with the figure of another build that was measured in turn with it, on the same machine;
            /// `None` if it is not compared.
            ///
            /// The machine is the same for both, so what varies with the machine is compared more closely than with a
            /// recorded figure. `beside: None` in a row means as closely.
            pub const fn beside(self) -> Option<Beside> {
                let recorded = self.comparison();
                let closely = match self {
                    $(Self::$metric => match $beside {
                        Some(closely) => Some(closely),
                        None => recorded,
                    },)+
                };
                match (closely, recorded) {
                    (Some(closely), Some(recorded)) => Some(Beside { closely, undecided: recorded }),
                    (Some(closely), None) => Some(Beside { closely, undecided: closely.doubled() }),
                    (None, _) => None,
                }
            }

            /// The profiles that show which call sites are behind it.
            pub const fn profiles(self) -> &'static [Profile] {
                match self { $(Self::$metric => &[$(Profile::$profile),*],)+ }
            }
        }
    };
}

metrics! {
    /// 99th percentile of the GC's stop-the-world pauses, ns.
    GcPauseP99 {
        name: "gc_pause_p99",
        unit: Nanoseconds,
        quantity: Time,
        pooling: Mean,
        limit: in_xinchuang(50e6),
        // A p99 has twice the spread of a p90, so the p90 is compared.
        comparison: None,
        beside: None,
        sites: [],
    }
    /// 90th percentile of the GC's stop-the-world pauses, ns.
    GcPauseP90 {
        name: "gc_pause_p90",
        unit: Nanoseconds,
        quantity: Time,
        pooling: Mean,
        limit: unlimited(),
        // On a busy machine a short pause lasts until the GC's thread gets a processor again, which takes milliseconds.
        comparison: Some(within(1.0).or_less_than(10e6)),
        beside: Some(within(0.05).or_less_than(20e3)),
        sites: [],
    }
    /// Longest stop-the-world pause of the GC, ns.
    GcPauseMax {
        name: "gc_pause_max",
        unit: Nanoseconds,
        quantity: Time,
        pooling: Mean,
        limit: unlimited(),
        // The maximum depends on chance; the limit of the p99 covers it.
        comparison: None,
        beside: None,
        sites: [],
    }
    /// Share of the measuring phase in which the GC had stopped the world.
    GcStwFraction {
        name: "gc_stw_fraction",
        unit: Ratio,
        quantity: Time,
        pooling: Mean,
        limit: unlimited(),
        // Half a percent is 5 ms in a second.
        comparison: Some(within(1.0).or_less_than(0.005)),
        beside: Some(within(0.05).or_less_than(0.0005)),
        sites: [],
    }
    /// Share of the measuring phase in which the world was stopped for any reason, with the part that the runtime does not count.
    StwFraction {
        name: "stw_fraction",
        unit: Ratio,
        quantity: Time,
        pooling: Mean,
        limit: unlimited(),
        // Its variation between runs is not known yet, so only a baseline's limit applies.
        comparison: None,
        beside: None,
        sites: [],
    }
    /// 99th percentile of the time by which a stop of the world for the GC exceeds what the runtime counts, ns.
    GcPauseHiddenTailP99 {
        name: "gc_pause_hidden_tail_p99",
        unit: Nanoseconds,
        quantity: Time,
        pooling: Mean,
        limit: unlimited(),
        // Its variation between runs is not known yet, so only a baseline's limit applies.
        comparison: None,
        beside: None,
        sites: [],
    }
    /// 99th percentile of the concurrent mark phases, ns.
    GcMarkP99 {
        name: "gc_mark_p99",
        unit: Nanoseconds,
        quantity: Time,
        pooling: Mean,
        limit: unlimited(),
        // Its variation between runs is not known yet, so only a baseline's limit applies.
        comparison: None,
        beside: None,
        sites: [],
    }
    /// Share of the process's CPU time that the GC took.
    GcCpuFraction {
        name: "gc_cpu_fraction",
        unit: Ratio,
        quantity: Time,
        pooling: Mean,
        limit: always(at_most(0.25)),
        // Its variation between runs is not known yet, so only a baseline's limit applies.
        comparison: None,
        beside: Some(within(0.05).or_less_than(0.002)),
        sites: [],
    }
    /// GC cycles per minute.
    GcCycles {
        name: "gc_cycles",
        unit: CountPerMinute,
        quantity: Count,
        pooling: Mean,
        limit: unlimited(),
        // Depends on the throughput and the pacer. Ten more cycles a minute are cheap.
        comparison: Some(within(0.25).or_less_than(10.0)),
        beside: Some(within(0.05).or_less_than(2.0)),
        sites: [],
    }
    /// Bytes allocated on the Go heap per second.
    HeapAllocRate {
        name: "heap_alloc_rate",
        unit: BytesPerSecond,
        quantity: Count,
        pooling: Mean,
        limit: in_xinchuang(15e6),
        // Depends on the throughput.
        comparison: None,
        beside: None,
        sites: [AllocatedBytes],
    }
    /// Bytes allocated on the Go heap per completed request.
    AllocBytesPerRequest {
        name: "alloc_bytes_per_request",
        unit: BytesPerRequest,
        quantity: Count,
        pooling: Mean,
        limit: unlimited(),
        // Does not depend on the speed of the load: runs of a service vary by 0.003 to 0.2 %.
        comparison: Some(within(0.004)),
        beside: None,
        sites: [AllocatedBytes],
    }
    /// Objects allocated on the Go heap per completed request.
    AllocsPerRequest {
        name: "allocs_per_request",
        unit: CountPerRequest,
        quantity: Count,
        pooling: Mean,
        limit: unlimited(),
        // Does not depend on the speed of the load, like the bytes.
        comparison: Some(within(0.004)),
        beside: None,
        sites: [AllocatedObjects],
    }
    /// Share of the refills of span caches for which no span could be used again.
    SpanRefillMissRate {
        name: "span_refill_miss_rate",
        unit: Ratio,
        quantity: Count,
        pooling: Mean,
        limit: unlimited(),
        // Its variation between runs is not known yet, so only a baseline's limit applies.
        comparison: None,
        beside: None,
        sites: [],
    }
    /// Slope of the live heap at the end of each mark phase, bytes per minute.
    HeapLiveGrowth {
        name: "heap_live_growth",
        unit: BytesPerMinute,
        quantity: Count,
        pooling: Mean,
        limit: always(growth_of(0.5e6, 0.005)),
        // No leak is acceptable.
        comparison: None,
        // As much as the default limit, on top of what the other build leaks. So for each growth.
        beside: Some(within(0.05).or_less_than(0.5e6)),
        sites: [LiveHeapGrowth],
    }
    /// Slope of the live heap over completed requests, bytes per request: what a request leaves behind.
    HeapLiveGrowthPerRequest {
        name: "heap_live_growth_per_request",
        unit: BytesPerRequest,
        quantity: Count,
        pooling: Mean,
        limit: unlimited(),
        // Is near zero, where a relative difference means nothing.
        comparison: None,
        beside: None,
        sites: [LiveHeapGrowth],
    }
    /// Most goroutines at any time.
    GoroutinesMax {
        name: "goroutines_max",
        unit: Count,
        quantity: Count,
        pooling: Mean,
        limit: in_xinchuang(2000.0),
        // Depends on the number of requests in flight, which varies by chance.
        comparison: Some(within(0.5).or_less_than(20.0)),
        beside: None,
        sites: [GoroutinesUnderLoad],
    }
    /// Goroutines that exist after the drain and did not exist before the load.
    GoroutinesLeaked {
        name: "goroutines_leaked",
        unit: Count,
        quantity: Count,
        pooling: Mean,
        limit: always(at_most(0.0)),
        // No leak is acceptable.
        comparison: None,
        beside: Some(within(0.05).or_less_than(0.5)),
        sites: [GoroutinesLeft],
    }
    /// Most threads of the service's processes at any time.
    ThreadsMax {
        name: "threads_max",
        unit: Count,
        quantity: Count,
        pooling: Mean,
        limit: unlimited(),
        // The runtime starts threads for blocking calls and keeps them, so their number varies.
        comparison: Some(within(0.5).or_less_than(16.0)),
        beside: None,
        sites: [],
    }
    /// Threads that exist after the drain and came in the measuring phase or later.
    ThreadsLeaked {
        name: "threads_leaked",
        unit: Count,
        quantity: Count,
        pooling: Mean,
        limit: always(at_most(16.0)),
        // The runtime keeps idle threads, so a few more are no leak.
        comparison: Some(within(0.5).or_less_than(32.0)),
        beside: None,
        sites: [],
    }
    /// Most open file descriptors of the service's processes at any time.
    FdsMax {
        name: "fds_max",
        unit: Count,
        quantity: Count,
        pooling: Mean,
        limit: unlimited(),
        // Depends on the number of connections.
        comparison: Some(within(0.5).or_less_than(16.0)),
        beside: None,
        sites: [],
    }
    /// File descriptors that are open after the drain and came in the measuring phase.
    FdsLeaked {
        name: "fds_leaked",
        unit: Count,
        quantity: Count,
        pooling: Mean,
        limit: always(at_most(5.0)),
        // A service may open a few while it is measured, which the limit allows.
        comparison: None,
        beside: None,
        sites: [],
    }
    /// Largest resident set, bytes.
    RssPeak {
        name: "rss_peak",
        unit: Bytes,
        quantity: Count,
        pooling: Mean,
        limit: unlimited(),
        // Depends on when the scavenger returned pages. 8 MiB more are no reason to stop a change.
        comparison: Some(within(0.25).or_less_than(8.0 * MIB)),
        beside: Some(within(0.05).or_less_than(MIB)),
        sites: [LiveHeapGrowth, OffheapGrowth],
    }
    /// Slope of the resident set, bytes per minute.
    RssGrowth {
        name: "rss_growth",
        unit: BytesPerMinute,
        quantity: Count,
        pooling: Mean,
        limit: in_xinchuang(0.5e6),
        // Is near zero, where a relative difference means nothing.
        comparison: None,
        beside: None,
        sites: [LiveHeapGrowth, OffheapGrowth],
    }
    /// Largest anonymous part of the resident set: heaps and stacks, without pages of files, bytes.
    RssAnonPeak {
        name: "rss_anon_peak",
        unit: Bytes,
        quantity: Count,
        pooling: Mean,
        limit: unlimited(),
        // Depends on when the scavenger returned pages. 8 MiB more are no reason to stop a change.
        comparison: Some(within(0.25).or_less_than(8.0 * MIB)),
        beside: Some(within(0.05).or_less_than(MIB)),
        sites: [LiveHeapGrowth, OffheapGrowth],
    }
    /// Slope of the anonymous resident set, less the Go heap up to the GC's goal, bytes per minute.
    RssAnonGrowth {
        name: "rss_anon_growth",
        unit: BytesPerMinute,
        quantity: Count,
        pooling: Mean,
        limit: always(growth_of(2e6, 0.02)),
        // Is near zero, where a relative difference means nothing.
        comparison: None,
        beside: Some(within(0.05).or_less_than(2e6)),
        sites: [OffheapGrowth],
    }
    /// Peak of the resident memory that the Go runtime does not manage, bytes.
    OffheapPeak {
        name: "offheap_peak",
        unit: Bytes,
        quantity: Count,
        pooling: Mean,
        limit: unlimited(),
        // Depends on when the scavenger returned pages. 8 MiB more are no reason to stop a change.
        comparison: Some(within(0.25).or_less_than(8.0 * MIB)),
        beside: Some(within(0.05).or_less_than(MIB)),
        sites: [OffheapGrowth],
    }
    /// Slope of the resident memory that the Go runtime does not manage, bytes per minute.
    OffheapGrowth {
        name: "offheap_growth",
        unit: BytesPerMinute,
        quantity: Count,
        pooling: Mean,
        limit: always(growth_of(2e6, 0.02)),
        // Is near zero, where a relative difference means nothing.
        comparison: None,
        beside: Some(within(0.05).or_less_than(2e6)),
        sites: [OffheapGrowth],
    }
    /// Largest working set of the service's cgroup, without the file pages that the kernel frees first, bytes.
    CgroupPeak {
        name: "cgroup_peak",
        unit: Bytes,
        quantity: Count,
        pooling: Mean,
        limit: unlimited(),
        // Depends on when the scavenger returned pages. 16 MiB more are no reason to stop a change.
        comparison: Some(within(0.25).or_less_than(16.0 * MIB)),
        beside: Some(within(0.05).or_less_than(MIB)),
        sites: [LiveHeapGrowth, OffheapGrowth],
    }
    /// Slope of the cgroup's memory without pages of files, less the Go heap up to the GC's goal, bytes per minute.
    CgroupGrowth {
        name: "cgroup_growth",
        unit: BytesPerMinute,
        quantity: Count,
        pooling: Mean,
        limit: always(growth_of(4e6, 0.02)),
        // Is near zero, where a relative difference means nothing.
        comparison: None,
        beside: Some(within(0.05).or_less_than(4e6)),
        sites: [OffheapGrowth],
    }
    /// Most swapped-out memory of the service's processes, bytes.
    SwapPeak {
        name: "swap_peak",
        unit: Bytes,
        quantity: Count,
        pooling: Mean,
        limit: unlimited(),
        // A service that swaps is slow, so the floor is small.
        comparison: Some(within(0.25).or_less_than(1.0 * MIB)),
        beside: None,
        sites: [],
    }
    /// 99th percentile of the duration of the Go runtime's mappings, ns.
    MmapLatencyP99 {
        name: "mmap_latency_p99",
        unit: Nanoseconds,
        quantity: Time,
        pooling: Mean,
        limit: unlimited(),
        // Its variation between runs is not known yet, so only a baseline's limit applies.
        comparison: None,
        beside: None,
        sites: [],
    }
    /// Page faults per completed request.
    PageFaultsPerRequest {
        name: "page_faults_per_request",
        unit: CountPerRequest,
        quantity: Count,
        pooling: Mean,
        limit: unlimited(),
        // Depends on the scavenger: the service faults in the pages that it returned.
        comparison: Some(within(0.5).or_less_than(0.5)),
        beside: None,
        sites: [],
    }
    /// Processes of the service that the kernel killed because memory ran out.
    OomKills {
        name: "oom_kills",
        unit: Count,
        quantity: Count,
        pooling: Sum,
        limit: always(at_most(0.0)),
        // No kill is acceptable.
        comparison: None,
        beside: None,
        sites: [],
    }
    /// 99th percentile of the request latency from the intended start, ns.
    RequestLatencyP99 {
        name: "request_latency_p99",
        unit: Nanoseconds,
        quantity: Time,
        pooling: Mean,
        limit: unlimited(),
        // Varies by 30 % and more on shared machines and is not a property of the memory, so it is only reported.
        comparison: Some(within(1.0).for_the_reader()),
        beside: Some(within(0.05).for_the_reader()),
        sites: [],
    }
    /// Share of the requests that failed.
    RequestErrors {
        name: "request_errors",
        unit: Ratio,
        quantity: Count,
        pooling: Share,
        limit: always(at_most(0.001)),
        // No failed request is acceptable.
        comparison: None,
        beside: None,
        sites: [],
    }
}

impl Metric {
    /// The signal without which nothing is expected of the metric, unless a baseline names it: not every machine has a
    /// cgroup with a memory controller.
    pub const fn optional_signal(self) -> Option<&'static str> {
        if matches!(self, Self::CgroupGrowth) { Some("cgroup_memory") } else { None }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|metric| metric.name() == text)
            .ok_or_else(|| format!("`{text}` is not a metric; `memgate schema baseline` lists them"))
    }
}

impl Unit {
    /// Whether it is that of a growth: a slope, which has a natural zero and may be negative.
    pub const fn is_growth(self) -> bool {
        match self {
            Self::BytesPerMinute => true,
            Self::Nanoseconds
            | Self::Ratio
            | Self::Count
            | Self::CountPerRequest
            | Self::CountPerMinute
            | Self::Bytes
            | Self::BytesPerRequest
            | Self::BytesPerSecond => false,
        }
    }

    /// The unit's name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nanoseconds => "ns",
            Self::Ratio => "ratio",
            Self::Count => "count",
            Self::CountPerRequest => "count/request",
            Self::CountPerMinute => "count/min",
            Self::Bytes => "bytes",
            Self::BytesPerRequest => "bytes/request",
            Self::BytesPerSecond => "bytes/s",
            Self::BytesPerMinute => "bytes/min",
        }
    }
}
