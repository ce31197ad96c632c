//! What the collectors gave, as it comes in. Pure: touches neither the process nor the kernel.

use std::collections::{BTreeSet, HashMap};

use memgate_ebpf::{Record, kind};
use memgate_evidence::{Durations, GcCpu, Pauses, RssKinds, Series, SpanRefills, StopReason, WorldStops};

use super::{Counters, RuntimeRanges, goroutines, heap_profile::Counts};
use crate::clock::Clock;

/// What the collectors gave.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) gc_pauses: Pauses,
    pub(super) other_pauses: Pauses,
    /// Pauses in neither of the runtime's histograms: memgate misreads the runtime.
    pub(super) unknown_pauses: u64,
    pub(super) world_stops: WorldStops,
    /// Stops whose start and end do not belong together: records between them are missing.
    pub(super) unpaired_stops: u64,
    /// The stop that is about to end: its reason and when it began, ns of `CLOCK_MONOTONIC`.
    stop: Option<(StopReason, u64)>,
    pub(super) live_heap: Series,
    pub(super) mmap_latency: Durations,
    pub(super) ranges: RuntimeRanges,
    /// How often the runtime has mapped or unmapped.
    pub(super) mapped: u64,
    pub(super) alloc_bytes: Series,
    pub(super) alloc_objects: Series,
    pub(super) goroutines: Series,
    pub(super) gc_cpu: GcCpu,
    pub(super) rss: Series,
    pub(super) rss_kinds: RssKinds,
    pub(super) huge_pages: Series,
    pub(super) thp_events: Series,
    pub(super) off_heap: Series,
    pub(super) page_faults: Series,
    pub(super) completed: Series,
    pub(super) span_refills: SpanRefills,
    /// Whether the measuring phase is on: allocations are sampled for it alone.
    pub(super) measuring: bool,
    pub(super) samples: HashMap<Sample, u64>,
    /// `runtime.MemProfileRate` at the start and the end of the measuring phase, or why nothing is sampled.
    pub(super) rates: [Option<Result<u64, String>>; 2],
    /// Sampled objects whose spans are still to be looked up.
    pub(super) sampled: Vec<SampledObject>,
    /// The counters as last read.
    pub(super) last: Option<Counters>,
    /// Largest resident set since it was last reset, bytes, or why it is not known.
    pub(super) rss_peak: Option<Result<u64, String>>,
    /// Names of processes that the service started.
    pub(super) children: BTreeSet<String>,
    /// How the records differ from the runtime's own totals, if they do.
    pub(super) cross_check: Option<String>,
    /// At the start and the end of the measuring phase: counts by the profile's buckets.
    pub(super) heap_profile: [Option<Vec<Counts>>; 2],
    /// Before the load, at the end of the measuring phase, after the drain.
    pub(super) goroutine_sites: [Option<HashMap<goroutines::Site, u64>>; 3],
    /// At the start and the end of the measuring phase: resident bytes by stack.
    pub(super) off_heap_sites: [Option<HashMap<u32, u64>>; 2],
    /// Why a reading failed, by what was read.
    pub(super) failures: Failures,
}

/// What allocations are grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Sample {
    pub(super) bucket: u64,
    pub(super) goroutine: u64,
    pub(super) span_class: u8,
}

/// A sampled object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SampledObject {
    pub(super) address: u64,
    pub(super) bucket: u64,
    pub(super) goroutine: u64,
}

/// Why a reading failed; the first failure of each kind.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// The process is no longer what it was: everything that is read of its memory.
    pub(super) replaced: Option<String>,
    pub(super) counters: Option<String>,
    pub(super) process: Option<String>,
    pub(super) off_heap: Option<String>,
    pub(super) heap_profile: Option<String>,
    pub(super) sampling: Option<String>,
    pub(super) goroutine_sites: Option<String>,
    pub(super) span_refills: Option<String>,
}

/// Keeps the first reason.
pub(super) fn note(failure: &mut Option<String>, reason: impl Into<String>) {
    failure.get_or_insert_with(|| reason.into());
}

/// Addresses, in the process, of the histograms that the runtime records its pauses in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Histograms {
    pub(super) gc: u64,
    pub(super) other: Option<u64>,
}

impl Taken {
    /// Takes a record in.
    pub(super) fn record(&mut self, record: Record, clock: Clock, histograms: Option<Histograms>) {
        let Record { kind, at_ns: monotonic_ns, first, second, third, .. } = record;
        let at_ns = clock.since_launch(monotonic_ns);
        match kind {
            kind::PAUSE => self.pause(at_ns, monotonic_ns, first, second, histograms),
            kind::WORLD_START => self.world_start(reason(first), second),
            kind::LIVE_HEAP => self.live_heap.push(at_ns, first),
            kind::MAPPED => {
                self.mapped += 1;
                self.ranges.insert(first..first.saturating_add(second));
                self.mmap_latency.at_ns.push(at_ns);
                self.mmap_latency.duration_ns.push(third);
            }
            kind::UNMAPPED => {
                self.mapped += 1;
                self.ranges.remove(first..first.saturating_add(second));
            }
            kind::ALLOC_SAMPLE if self.measuring => {
                self.sampled.push(SampledObject { address: first, bucket: second, goroutine: third });
            }
            _ => {}
        }
    }

    fn world_start(&mut self, reason: StopReason, began_ns: u64) {
        if self.stop.replace((reason, began_ns)).is_some() {
            self.unpaired_stops += 1;
        }
    }

    fn pause(
        &mut self,
        at_ns: u64,
        monotonic_ns: u64,
        histogram: u64,
        duration_ns: u64,
        histograms: Option<Histograms>,
    ) {
        match histograms {
            Some(Histograms { gc, .. }) if histogram == gc => self.gc_pauses.push(at_ns, duration_ns),
            Some(Histograms { other: Some(other), .. }) if histogram == other => {
                self.other_pauses.push(at_ns, duration_ns);
            }
            _ => self.unknown_pauses += 1,
        }
        let Some((reason, began_ns)) = self.stop.take() else {
            self.unpaired_stops += 1;
            return;
        };
        let stops = &mut self.world_stops;
        stops.at_ns.push(at_ns);
        stops.reason.push(reason);
        stops.duration_ns.push(duration_ns);
        stops.tail_ns.push(monotonic_ns.saturating_sub(began_ns.saturating_add(duration_ns)));
    }

    /// Takes a reading of the counters in.
    pub(super) fn counters(&mut self, at_ns: u64, counters: Counters) {
        // Totals do not go back: where they seem to, one of the two readings is off by what moved between a P and the totals
        // meanwhile. A steady one is right.
        let counters = if counters.steady {
            for (series, most) in
                [(&mut self.alloc_bytes, counters.alloc_bytes), (&mut self.alloc_objects, counters.alloc_objects)]
            {
                series.value.iter_mut().rev().take_while(|value| **value > most).for_each(|value| *value = most);
            }
            counters
        } else {
            let least = self.last.map_or((0, 0), |last| (last.alloc_bytes, last.alloc_objects));
            Counters {
                alloc_bytes: counters.alloc_bytes.max(least.0),
                alloc_objects: counters.alloc_objects.max(least.1),
                ..counters
            }
        };
        self.alloc_bytes.push(at_ns, counters.alloc_bytes);
        self.alloc_objects.push(at_ns, counters.alloc_objects);
        self.goroutines.push(at_ns, counters.goroutines);
        self.last = Some(counters);
    }

    /// How the records differ from the runtime's own totals as last read.
    pub(super) fn difference(&self) -> Option<String> {
        let Some(runtime) = self.last else { return Some("the runtime's totals could not be read".to_owned()) };
        let pauses: u64 = self.gc_pauses.duration_ns.iter().sum();
        let cycles = self.live_heap.value.len() as u64;
        if (pauses, cycles, self.unknown_pauses) == (runtime.pause_total_ns, runtime.gc_cycles, 0) {
            return None;
        }
        Some(format!(
            "the records are {pauses} ns of GC pauses and {cycles} cycles with {} unknown, the runtime's own totals {} ns and {}",
            self.unknown_pauses, runtime.pause_total_ns, runtime.gc_cycles
        ))
    }

    /// Takes down the rate of sampling at the measuring phase's start (0) or end (1). One that changed in between gives samples
    /// of unknown weight.
    pub(super) fn rate(&mut self, end: usize, rate: Result<u64, String>) {
        if let ([Some(Ok(start)), _], 1, Ok(rate)) = (&self.rates, end, &rate)
            && start != rate
        {
            let reason = format!("the service changed MemProfileRate from {start} to {rate} in the measuring phase");
            note(&mut self.failures.sampling, reason);
        }
        self.rates[end] = Some(rate);
    }

    /// The rate of sampling in the measuring phase, bytes, or why nothing was sampled.
    pub(super) fn sample_rate(&self) -> Result<u64, String> {
        match &self.rates[0] {
            None => Err("the measuring phase was not reached".to_owned()),
            Some(Ok(0)) => Err("the runtime samples nothing: the service set MemProfileRate to 0".to_owned()),
            Some(rate) => rate.clone(),
        }
    }

    /// Why figures of one process do not speak for the service, if they do not.
    pub(super) fn not_the_service(&self) -> Option<String> {
        if let Some(replaced) = &self.failures.replaced {
            return Some(replaced.clone());
        }
        if self.children.is_empty() {
            return None;
        }
        let names: Vec<_> = self.children.iter().map(String::as_str).collect();
        Some(format!("the service started other processes, which are not measured: {}", names.join(", ")))
    }
}

/// `stwReason` (proc.go): the constants are the same from Go 1.22 to 1.27.
const fn reason(value: u64) -> StopReason {
    match value {
        1 => StopReason::GcMarkTermination,
        2 => StopReason::GcSweepTermination,
        3 => StopReason::WriteHeapDump,
        4 => StopReason::GoroutineProfile,
        5 => StopReason::GoroutineProfileCleanup,
        6 => StopReason::AllGoroutinesStack,
        7 => StopReason::ReadMemStats,
        8 => StopReason::AllThreadsSyscall,
        9 => StopReason::Gomaxprocs,
        10 | 11 => StopReason::Trace,
        12..=16 => StopReason::Test,
        _ => StopReason::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_reading_is_believed_and_another_is_not_before_it() {
        let mut taken = Taken::default();
        let readings = [(100, true), (90, false), (187, false), (187, false), (105, true), (103, false), (120, true)];
        for (at_ns, (total, steady)) in (0..).zip(readings) {
            let (alloc_bytes, alloc_objects) = (total * 8, total);
            let (goroutines, pause_total_ns, gc_cycles, live_heap) = (1, 0, 0, 0);
            let counters =
                Counters { alloc_bytes, alloc_objects, goroutines, pause_total_ns, gc_cycles, live_heap, steady };
            taken.counters(at_ns, counters);
        }
        assert_eq!(taken.alloc_objects.value, [100, 100, 105, 105, 105, 105, 120]);
        assert_eq!(taken.alloc_bytes.value, [800, 800, 840, 840, 840, 840, 960]);
        assert_eq!(taken.last.map(|last| last.alloc_objects), Some(120));
    }
}
