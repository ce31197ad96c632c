//! The metrics: one table that says all that is said of each.
//!
//! A new metric is a row here and an arm in [`crate::summarise`], which does not compile without it. Names, the order of reports
//! and JSON Schema come from the rows; a test holds the table in docs/reference/metrics.md against them.

use serde::{Deserialize, Serialize};

use crate::summarise::Profile;

const MIB: f64 = 1024.0 * 1024.0;

/// The unit of a metric; every figure inside memgate is an `f64` in this unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Unit {
    /// Nanoseconds.
    #[serde(rename = "ns")]
    Nanoseconds,
    /// A share of 1.
    #[serde(rename = "ratio")]
    Ratio,
    /// A number of things.
    #[serde(rename = "count")]
    Count,
    /// A number of things per request.
    #[serde(rename = "count/request")]
    CountPerRequest,
    /// A number of things per minute.
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

/// What a metric is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// Things that are counted. An emulated processor counts the same ones as a real one.
    Count,
    /// Time, or a share of it. An emulated processor has neither the caches nor the cycles of a real one, so in a guest it says
    /// nothing of the platform.
    Time,
}

/// How a metric is compared with its recorded figure where a baseline is newly recorded. People tighten or loosen it in the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Relative tolerance, a share of the recorded figure.
    pub tolerance: f64,
    /// Absolute floor, in the metric's unit.
    pub floor: Option<f64>,
    /// Reported, never failed.
    pub advisory: bool,
}

const fn within(tolerance: f64) -> Comparison {
    Comparison { tolerance, floor: None, advisory: false }
}

impl Comparison {
    const fn or_less_than(self, floor: f64) -> Self {
        Self { floor: Some(floor), ..self }
    }

    const fn for_the_reader(self) -> Self {
        Self { advisory: true, ..self }
    }
}

/// Makes [`Metric`] and all that it says of itself.
macro_rules! metrics {
    ($(
        $(#[doc = $sentence:literal])+
        $metric:ident {
            name: $name:literal,
            unit: $unit:ident,
            quantity: $quantity:ident,
            limit: $limit:expr,
            comparison: $comparison:expr,
            sites: [$($profile:ident),*],
        }
    )+) => {
        /// A metric of a service's memory behaviour. docs/reference/metrics.md says how each is measured.
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

            /// Its unit.
            pub const fn unit(self) -> Unit {
                match self { $(Self::$metric => Unit::$unit,)+ }
            }

            /// Whether it is counted or timed.
            pub const fn quantity(self) -> Quantity {
                match self { $(Self::$metric => Quantity::$quantity,)+ }
            }

            /// The limit that holds where a service's baseline names none, in the metric's unit.
            ///
            /// GC pause p99, allocation rate, goroutines and RSS growth are those of the 信创 case that memgate generalises; the
            /// others say that a service must not be killed for memory, fail its requests or leave goroutines behind.
            pub const fn default_limit(self) -> Option<f64> {
                match self { $(Self::$metric => $limit,)+ }
            }

            /// How it is compared with its recorded figure; `None` where only a limit makes sense.
            pub const fn comparison(self) -> Option<Comparison> {
                match self { $(Self::$metric => $comparison,)+ }
            }

            /// The profiles that say which call sites are behind it.
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
        limit: Some(50e6),
        // A p99 has twice the spread of a p90, which is compared.
        comparison: None,
        sites: [],
    }
    /// 90th percentile of the GC's stop-the-world pauses, ns.
    GcPauseP90 {
        name: "gc_pause_p90",
        unit: Nanoseconds,
        quantity: Time,
        limit: None,
        // Short pauses double on a busy machine. What a user of the service can notice begins at 1 ms.
        comparison: Some(within(1.0).or_less_than(1e6)),
        sites: [],
    }
    /// Longest stop-the-world pause of the GC, ns.
    GcPauseMax {
        name: "gc_pause_max",
        unit: Nanoseconds,
        quantity: Time,
        limit: None,
        // A maximum of few pauses is judged by the limit of the p99.
        comparison: None,
        sites: [],
    }
    /// Share of the measuring phase in which the GC had stopped the world.
    GcStwFraction {
        name: "gc_stw_fraction",
        unit: Ratio,
        quantity: Time,
        limit: None,
        // The pauses as a share of the time. Half a percent is 5 ms in a second.
        comparison: Some(within(1.0).or_less_than(0.005)),
        sites: [],
    }
    /// 99th percentile of what a stop of the world for the GC lasts beyond what the runtime counts of it, ns.
    GcPauseHiddenTailP99 {
        name: "gc_pause_hidden_tail_p99",
        unit: Nanoseconds,
        quantity: Time,
        limit: None,
        // How far it varies from run to run is not known yet: it has the limit that a baseline gives it.
        comparison: None,
        sites: [],
    }
    /// 99th percentile of the concurrent mark phases, ns.
    GcMarkP99 {
        name: "gc_mark_p99",
        unit: Nanoseconds,
        quantity: Time,
        limit: None,
        // How far it varies from run to run is not known yet: it has the limit that a baseline gives it.
        comparison: None,
        sites: [],
    }
    /// Share of the process's CPU time that the GC took.
    GcCpuFraction {
        name: "gc_cpu_fraction",
        unit: Ratio,
        quantity: Time,
        limit: None,
        // How far it varies from run to run is not known yet: it has the limit that a baseline gives it.
        comparison: None,
        sites: [],
    }
    /// GC cycles per minute.
    GcCycles {
        name: "gc_cycles",
        unit: CountPerMinute,
        quantity: Count,
        limit: None,
        // Follows the throughput and the pacer. Ten cycles a minute more are cheap.
        comparison: Some(within(0.25).or_less_than(10.0)),
        sites: [],
    }
    /// Bytes allocated on the Go heap per second.
    HeapAllocRate {
        name: "heap_alloc_rate",
        unit: BytesPerSecond,
        quantity: Count,
        limit: Some(15e6),
        // Follows the throughput.
        comparison: None,
        sites: [AllocatedBytes],
    }
    /// Bytes allocated on the Go heap per completed request.
    AllocBytesPerRequest {
        name: "alloc_bytes_per_request",
        unit: BytesPerRequest,
        quantity: Count,
        limit: None,
        // Free of the load's own speed: runs of a service vary by 0.2 to 0.3 %.
        comparison: Some(within(0.05)),
        sites: [AllocatedBytes],
    }
    /// Objects allocated on the Go heap per completed request.
    AllocsPerRequest {
        name: "allocs_per_request",
        unit: CountPerRequest,
        quantity: Count,
        limit: None,
        // Free of the load's own speed, as the bytes are.
        comparison: Some(within(0.05)),
        sites: [AllocatedObjects],
    }
    /// Share of the refills of span caches for which no span could be used again.
    SpanRefillMissRate {
        name: "span_refill_miss_rate",
        unit: Ratio,
        quantity: Count,
        limit: None,
        // How far it varies from run to run is not known yet: it has the limit that a baseline gives it.
        comparison: None,
        sites: [],
    }
    /// Slope of the live heap as each mark phase found it, bytes per minute.
    HeapLiveGrowth {
        name: "heap_live_growth",
        unit: BytesPerMinute,
        quantity: Count,
        limit: Some(0.5e6),
        // No leak is right.
        comparison: None,
        sites: [LiveHeapGrowth],
    }
    /// Most goroutines at any time.
    GoroutinesMax {
        name: "goroutines_max",
        unit: Count,
        quantity: Count,
        limit: Some(2000.0),
        // Follows the number of requests in flight, which is up to chance.
        comparison: Some(within(0.5).or_less_than(20.0)),
        sites: [GoroutinesUnderLoad],
    }
    /// Goroutines left after the drain that were not there before the load.
    GoroutinesLeaked {
        name: "goroutines_leaked",
        unit: Count,
        quantity: Count,
        limit: Some(0.0),
        // No leak is right.
        comparison: None,
        sites: [GoroutinesLeft],
    }
    /// Largest resident set, bytes.
    RssPeak {
        name: "rss_peak",
        unit: Bytes,
        quantity: Count,
        limit: None,
        // Depends on when the scavenger gave pages back. 8 MiB more are no reason to stop a change.
        comparison: Some(within(0.25).or_less_than(8.0 * MIB)),
        sites: [LiveHeapGrowth, OffheapGrowth],
    }
    /// Slope of the resident set, bytes per minute.
    RssGrowth {
        name: "rss_growth",
        unit: BytesPerMinute,
        quantity: Count,
        limit: Some(0.5e6),
        // Is near zero, where a share means nothing: the floor decides. 2 MB/min is the leak that 60 s are to find. A smaller one
        // shows in the live heap, which has none of the allocator's sawtooth.
        comparison: Some(within(1.0).or_less_than(2e6)),
        sites: [LiveHeapGrowth, OffheapGrowth],
    }
    /// Most resident memory that the Go runtime does not know of, bytes.
    OffheapPeak {
        name: "offheap_peak",
        unit: Bytes,
        quantity: Count,
        limit: None,
        // Depends on when the scavenger gave pages back. 8 MiB more are no reason to stop a change.
        comparison: Some(within(0.25).or_less_than(8.0 * MIB)),
        sites: [OffheapGrowth],
    }
    /// Slope of the resident memory that the Go runtime does not know of, bytes per minute.
    OffheapGrowth {
        name: "offheap_growth",
        unit: BytesPerMinute,
        quantity: Count,
        limit: None,
        // Is near zero, where a share means nothing: the floor decides.
        comparison: Some(within(1.0).or_less_than(2e6)),
        sites: [OffheapGrowth],
    }
    /// 99th percentile of how long a mapping took that the Go runtime made, ns.
    MmapLatencyP99 {
        name: "mmap_latency_p99",
        unit: Nanoseconds,
        quantity: Time,
        limit: None,
        // How far it varies from run to run is not known yet: it has the limit that a baseline gives it.
        comparison: None,
        sites: [],
    }
    /// Page faults per completed request.
    PageFaultsPerRequest {
        name: "page_faults_per_request",
        unit: CountPerRequest,
        quantity: Count,
        limit: None,
        // Varies with the scavenger, which gives pages back that the service then faults in again.
        comparison: Some(within(0.5).or_less_than(0.5)),
        sites: [],
    }
    /// Processes of the service that the kernel killed for want of memory.
    OomKills {
        name: "oom_kills",
        unit: Count,
        quantity: Count,
        limit: Some(0.0),
        // No kill is right.
        comparison: None,
        sites: [],
    }
    /// 99th percentile of the request latency from the intended start, ns.
    RequestLatencyP99 {
        name: "request_latency_p99",
        unit: Nanoseconds,
        quantity: Time,
        limit: None,
        // Varies by 30 % and more on shared machines, and is no property of the memory: for the reader only.
        comparison: Some(within(1.0).for_the_reader()),
        sites: [],
    }
    /// Share of the requests that failed.
    RequestErrors {
        name: "request_errors",
        unit: Ratio,
        quantity: Count,
        limit: Some(0.001),
        // No failed request is right.
        comparison: None,
        sites: [],
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
            .ok_or_else(|| format!("`{text}` is no metric; `memgate schema baseline` lists them"))
    }
}

impl Unit {
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
