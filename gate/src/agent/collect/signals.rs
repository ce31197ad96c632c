//! What the collectors gave, as signals with their exactness.

use memgate_ebpf::kind;

use super::{Recorder, recorder::Taken};
use crate::evidence::{Exactness, Pauses, Requests, Series, Signal, Signals};

const COUNTERS: &str = "the runtime's counters, read from the service's memory at 10 Hz and at the phases' ends";
const PAUSE_PROBE: &str = "uprobe on the calls of (*timeHistogram).record in runtime.startTheWorldWithSema";
const LIVE_HEAP_PROBE: &str = "uprobe on the call of (*gcControllerState).resetLive";
const OFF_HEAP: &str = "/proc/PID/smaps and pagemap outside the ranges that runtime.mmap mapped, at 2 Hz";

/// What is in the run besides the collectors' readings.
#[derive(Debug)]
pub struct Elsewhere {
    /// What the load generator saw, or why nothing.
    pub requests: Result<Requests, String>,
    /// OOM kills, or why they are not known.
    pub oom_kills: Result<u64, String>,
}

impl Recorder {
    /// Ends the recording: every signal with its exactness.
    pub fn into_signals(self, elsewhere: Elsewhere) -> Signals {
        // Without a count of what was lost nothing is known to be whole.
        let lost = self.bpf.lost().map_err(|error| error.to_string());
        let lost_of = |kinds: &[u32]| -> (u64, Option<String>) {
            match &lost {
                Ok(lost) => (kinds.iter().filter_map(|kind| lost.get(usize::try_from(*kind).ok()?)).sum(), None),
                Err(reason) => (0, Some(reason.clone())),
            }
        };
        let off_heap_missing = self.off_heap_missing().map(str::to_owned);
        let taken = self.taken;
        let children = taken.unmeasured_children();
        let counters = children.clone().or_else(|| taken.failures.counters.clone());
        let process = children.clone().or_else(|| taken.failures.process.clone());
        let off_heap = children.clone().or_else(|| taken.failures.off_heap.clone());
        let probes = children.or_else(|| taken.cross_check.clone());
        let requests = match elsewhere.requests {
            Ok(requests) => {
                let source = "memgate's load generator, latencies from the intended start".to_owned();
                Signal {
                    source,
                    exactness: Exactness::Exact,
                    lost: 0,
                    data: Requests { completed: taken.completed, ..requests },
                }
            }
            Err(reason) => missing("the load command", reason),
        };
        let mapped = lost_of(&[kind::MAPPED, kind::UNMAPPED]);
        Signals {
            gc_pauses: probed::<Pauses>(PAUSE_PROBE, taken.gc_pauses, lost_of(&[kind::PAUSE]), probes.clone()),
            other_pauses: probed(PAUSE_PROBE, taken.other_pauses, lost_of(&[kind::PAUSE]), probes.clone()),
            live_heap: probed(LIVE_HEAP_PROBE, taken.live_heap, lost_of(&[kind::LIVE_HEAP]), probes),
            alloc_bytes: sampled(COUNTERS, taken.alloc_bytes, counters.clone()),
            alloc_objects: sampled(COUNTERS, taken.alloc_objects, counters.clone()),
            goroutines: sampled(COUNTERS, taken.goroutines, counters),
            rss: sampled("/proc/PID/statm at 10 Hz", taken.rss, process.clone()),
            rss_peak: match taken.rss_peak {
                Some(Ok(peak)) if process.is_none() => exact("VmHWM, reset at the start of the measuring phase", peak),
                Some(Err(reason)) => missing("VmHWM", reason),
                _ => missing(
                    "VmHWM",
                    process.clone().unwrap_or_else(|| "the measuring phase was not reached".to_owned()),
                ),
            },
            offheap: match off_heap_missing {
                Some(reason) => missing(OFF_HEAP, reason),
                None => Signal { lost: mapped.0, ..sampled(OFF_HEAP, taken.off_heap, off_heap.or(mapped.1)) },
            },
            page_faults: sampled("minflt + majflt of /proc/PID/stat at 10 Hz", taken.page_faults, process),
            requests,
            oom_kills: match elsewhere.oom_kills {
                Ok(kills) => exact("the cgroup's memory controller", kills),
                Err(reason) => missing("the cgroup's memory controller", reason),
            },
            ..Signals::default()
        }
    }
}

impl Taken {
    /// Why figures of one process do not speak for the service, if they do not.
    fn unmeasured_children(&self) -> Option<String> {
        if self.children.is_empty() {
            return None;
        }
        let names: Vec<_> = self.children.iter().map(String::as_str).collect();
        Some(format!("the service started other processes, which are not measured: {}", names.join(", ")))
    }
}

fn exact<T>(source: &str, data: T) -> Signal<T> {
    Signal { source: source.to_owned(), exactness: Exactness::Exact, lost: 0, data }
}

fn missing<T: Default>(source: &str, reason: String) -> Signal<T> {
    Signal { source: source.to_owned(), exactness: Exactness::Missing { reason }, lost: 0, data: T::default() }
}

fn sampled(source: &str, data: Series, failure: Option<String>) -> Signal<Series> {
    let exactness = failure.map_or(Exactness::Sampled, |reason| Exactness::Inexact { reason });
    Signal { source: source.to_owned(), exactness, lost: 0, data }
}

fn probed<T>(source: &str, data: T, lost: (u64, Option<String>), failure: Option<String>) -> Signal<T> {
    let exactness = failure.or(lost.1).map_or(Exactness::Exact, |reason| Exactness::Inexact { reason });
    Signal { source: source.to_owned(), exactness, lost: lost.0, data }
}
