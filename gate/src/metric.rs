//! The metrics by name, with their units and the direction in which they get worse.

use serde::{Deserialize, Serialize};

/// A metric of a service's memory behaviour. docs/reference/metrics.md says how each is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// 99th percentile of the GC's stop-the-world pauses, ns.
    GcPauseP99,
    /// 90th percentile of the GC's stop-the-world pauses, ns.
    GcPauseP90,
    /// Longest stop-the-world pause of the GC, ns.
    GcPauseMax,
    /// Share of the measuring phase in which the GC had stopped the world.
    GcStwFraction,
    /// 99th percentile of what a stop of the world for the GC lasts beyond what the runtime counts of it, ns.
    GcPauseHiddenTailP99,
    /// 99th percentile of the concurrent mark phases, ns.
    GcMarkP99,
    /// Share of the process's CPU time that the GC took.
    GcCpuFraction,
    /// GC cycles per minute.
    GcCycles,
    /// Bytes allocated on the Go heap per second.
    HeapAllocRate,
    /// Bytes allocated on the Go heap per completed request.
    AllocBytesPerRequest,
    /// Objects allocated on the Go heap per completed request.
    AllocsPerRequest,
    /// Share of the refills of span caches for which no span could be used again.
    SpanRefillMissRate,
    /// Slope of the live heap as each mark phase found it, bytes per minute.
    HeapLiveGrowth,
    /// Most goroutines at any time.
    GoroutinesMax,
    /// Goroutines left after the drain that were not there before the load.
    GoroutinesLeaked,
    /// Largest resident set, bytes.
    RssPeak,
    /// Slope of the resident set, bytes per minute.
    RssGrowth,
    /// Most resident memory that the Go runtime does not know of, bytes.
    OffheapPeak,
    /// Slope of the resident memory that the Go runtime does not know of, bytes per minute.
    OffheapGrowth,
    /// 99th percentile of how long a mapping took that the Go runtime made, ns.
    MmapLatencyP99,
    /// Page faults per completed request.
    PageFaultsPerRequest,
    /// Processes of the service that the kernel killed for want of memory.
    OomKills,
    /// 99th percentile of the request latency from the intended start, ns.
    RequestLatencyP99,
    /// Share of the requests that failed.
    RequestErrors,
}

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

impl Metric {
    /// Every metric, in the order in which reports list them.
    pub const ALL: [Self; 24] = [
        Self::GcPauseP99,
        Self::GcPauseP90,
        Self::GcPauseMax,
        Self::GcStwFraction,
        Self::GcPauseHiddenTailP99,
        Self::GcMarkP99,
        Self::GcCpuFraction,
        Self::GcCycles,
        Self::HeapAllocRate,
        Self::AllocBytesPerRequest,
        Self::AllocsPerRequest,
        Self::SpanRefillMissRate,
        Self::HeapLiveGrowth,
        Self::GoroutinesMax,
        Self::GoroutinesLeaked,
        Self::RssPeak,
        Self::RssGrowth,
        Self::OffheapPeak,
        Self::OffheapGrowth,
        Self::MmapLatencyP99,
        Self::PageFaultsPerRequest,
        Self::OomKills,
        Self::RequestLatencyP99,
        Self::RequestErrors,
    ];

    /// The metric's name in YAML and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::GcPauseP99 => "gc_pause_p99",
            Self::GcPauseP90 => "gc_pause_p90",
            Self::GcPauseMax => "gc_pause_max",
            Self::GcStwFraction => "gc_stw_fraction",
            Self::GcPauseHiddenTailP99 => "gc_pause_hidden_tail_p99",
            Self::GcMarkP99 => "gc_mark_p99",
            Self::GcCpuFraction => "gc_cpu_fraction",
            Self::GcCycles => "gc_cycles",
            Self::HeapAllocRate => "heap_alloc_rate",
            Self::AllocBytesPerRequest => "alloc_bytes_per_request",
            Self::AllocsPerRequest => "allocs_per_request",
            Self::SpanRefillMissRate => "span_refill_miss_rate",
            Self::HeapLiveGrowth => "heap_live_growth",
            Self::GoroutinesMax => "goroutines_max",
            Self::GoroutinesLeaked => "goroutines_leaked",
            Self::RssPeak => "rss_peak",
            Self::RssGrowth => "rss_growth",
            Self::OffheapPeak => "offheap_peak",
            Self::OffheapGrowth => "offheap_growth",
            Self::MmapLatencyP99 => "mmap_latency_p99",
            Self::PageFaultsPerRequest => "page_faults_per_request",
            Self::OomKills => "oom_kills",
            Self::RequestLatencyP99 => "request_latency_p99",
            Self::RequestErrors => "request_errors",
        }
    }

    /// The metric's unit.
    pub const fn unit(self) -> Unit {
        match self {
            Self::GcPauseP99
            | Self::GcPauseP90
            | Self::GcPauseMax
            | Self::GcPauseHiddenTailP99
            | Self::GcMarkP99
            | Self::MmapLatencyP99
            | Self::RequestLatencyP99 => Unit::Nanoseconds,
            Self::GcStwFraction | Self::GcCpuFraction | Self::SpanRefillMissRate | Self::RequestErrors => Unit::Ratio,
            Self::GcCycles => Unit::CountPerMinute,
            Self::HeapAllocRate => Unit::BytesPerSecond,
            Self::AllocBytesPerRequest => Unit::BytesPerRequest,
            Self::AllocsPerRequest | Self::PageFaultsPerRequest => Unit::CountPerRequest,
            Self::HeapLiveGrowth | Self::RssGrowth | Self::OffheapGrowth => Unit::BytesPerMinute,
            Self::GoroutinesMax | Self::GoroutinesLeaked | Self::OomKills => Unit::Count,
            Self::RssPeak | Self::OffheapPeak => Unit::Bytes,
        }
    }

    /// Whether it is a time, or a share of one. An emulated processor has neither the caches nor the cycles of a real one, so that
    /// in a guest only what is counted tells something of the platform.
    pub const fn is_time(self) -> bool {
        matches!(self.unit(), Unit::Nanoseconds) || matches!(self, Self::GcStwFraction | Self::GcCpuFraction)
    }

    /// The limit that holds where a service's baseline names none, in the metric's unit.
    ///
    /// GC pause p99, allocation rate, goroutines and RSS growth are those of the 信创 case that memgate generalises; the
    /// others say that a service must not be killed for memory, fail its requests or leave goroutines behind.
    pub const fn default_limit(self) -> Option<f64> {
        match self {
            Self::GcPauseP99 => Some(50e6),
            Self::HeapAllocRate => Some(15e6),
            Self::GoroutinesMax => Some(2000.0),
            Self::RssGrowth | Self::HeapLiveGrowth => Some(0.5e6),
            Self::GoroutinesLeaked | Self::OomKills => Some(0.0),
            Self::RequestErrors => Some(0.001),
            _ => None,
        }
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
