//! How a newly recorded metric is compared. People tighten or loosen it in the file.

use crate::metric::Metric;

/// How a metric is compared with its recorded figure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Comparison {
    /// Relative tolerance, a share of the recorded figure.
    pub(super) tolerance: f64,
    /// Absolute floor, in the metric's unit.
    pub(super) floor: Option<f64>,
    /// Reported, never failed.
    pub(super) advisory: bool,
}

const fn gate(tolerance: f64, floor: f64) -> Option<Comparison> {
    Some(Comparison { tolerance, floor: Some(floor), advisory: false })
}

/// How a metric is compared with its recorded figure; `None` where only a limit makes sense.
pub(super) const fn comparison(metric: Metric) -> Option<Comparison> {
    match metric {
        // Free of the load's own speed: runs of a service vary by 0.2 to 0.3 %.
        Metric::AllocBytesPerRequest | Metric::AllocsPerRequest => {
            Some(Comparison { tolerance: 0.05, floor: None, advisory: false })
        }
        // Short pauses double on a busy machine; what a user of the service can notice begins at 1 ms.
        Metric::GcPauseP90 => gate(1.0, 1e6),
        // The same as a share of the time; half a percent is 5 ms in a second.
        Metric::GcStwFraction => gate(1.0, 0.005),
        // Follows the throughput and the pacer; ten cycles a minute more are cheap.
        Metric::GcCycles => gate(0.25, 10.0),
        // Depends on when the scavenger gave pages back; 8 MiB more are no reason to stop a change.
        Metric::RssPeak | Metric::OffheapPeak => gate(0.25, 8.0 * 1024.0 * 1024.0),
        // Near zero, where a share means nothing: the floor decides. 2 MB/min is the leak that 60 s are to find; a smaller one
        // shows in the live heap, which has none of the allocator's sawtooth.
        Metric::RssGrowth | Metric::OffheapGrowth => gate(1.0, 2e6),
        // Varies with the scavenger, which gives pages back that are then faulted in again.
        Metric::PageFaultsPerRequest => gate(0.5, 0.5),
        // Follows the number of requests in flight, which is up to chance.
        Metric::GoroutinesMax => gate(0.5, 20.0),
        // Varies by 30 % and more on shared machines, and is no property of the memory: for the reader only.
        Metric::RequestLatencyP99 => Some(Comparison { tolerance: 1.0, floor: None, advisory: true }),
        // How far these vary from run to run is not known yet: they have the limits that a baseline gives them.
        Metric::GcPauseHiddenTailP99
        | Metric::GcMarkP99
        | Metric::GcCpuFraction
        | Metric::SpanRefillMissRate
        | Metric::MmapLatencyP99 => None,
        // A p99 has twice the spread of a p90, a rate follows the throughput, and of a leak, a kill or a failed request
        // none is right: these have limits only. A maximum of few pauses is judged by the limit of the p99.
        Metric::GcPauseP99
        | Metric::GcPauseMax
        | Metric::HeapAllocRate
        | Metric::HeapLiveGrowth
        | Metric::GoroutinesLeaked
        | Metric::OomKills
        | Metric::RequestErrors => None,
    }
}
