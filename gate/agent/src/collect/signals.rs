//! What the collectors gave, as signals with their exactness.

use memgate_ebpf::kind;
use memgate_evidence::{
    AllocSamples, Code, Exactness, GoroutineSites, HeapProfile, OffHeapSites, Requests, Series, Signal, Signals,
};
use memgate_goexe::{FunctionTable, probes::ProbedSignal};

use super::{Recorder, goroutines, recorder::sorted, taken::Taken};

const COUNTERS: &str = "the runtime's counters, read from the service's memory at 5 Hz and at the phases' ends";
const PAUSE_PROBE: &str = "uprobe on the calls of (*timeHistogram).record at the ends of pauses";
const PAUSE_BUCKETS: &str = "the runtime's histogram of pauses, read from the service's memory at 5 Hz";
const STOP_PROBE: &str = "uprobes on the calls of startTheWorldWithSema and of (*timeHistogram).record";
const LIVE_HEAP_PROBE: &str = "uprobe on the call of (*gcControllerState).resetLive";
const MMAP_PROBE: &str = "uprobes on the calls of runtime.mmap and on the branches behind them";
const SAMPLE_PROBE: &str = "uprobe on the call of setprofilebucket in mProf_Malloc";
const REFILL_PROBES: &str =
    "uprobes on the calls of (*mcentral).cacheSpan and (*mcentral).grow, for up to 0.1 s every 5 s";
const HEAP_PROFILE: &str = "runtime.mbuckets, read from the service's memory";
const GOROUTINES: &str = "runtime.allgs, read from the service's memory";
const STATUS: &str = "/proc/PID/status at 5 Hz";
const SMAPS: &str = "/proc/PID/smaps at the phases' ends";
const OFF_HEAP: &str = "/proc/PID/maps and pagemap outside the ranges that runtime.mmap mapped, at 2 Hz";
const FIRST_TOUCH: &str = "page faults outside the Go heap with the stacks that led there, and pagemap";
const CGROUP: &str = "the cgroup's memory controller";
const PEAK: &str = "VmHWM, reset at the start of the measuring phase";
const NOT_REACHED: &str = "the measuring phase was not lived through";

/// What is in the run besides the collectors' readings.
#[derive(Debug)]
pub struct Elsewhere {
    /// What the load generator saw, or why nothing.
    pub requests: Result<Requests, String>,
    /// OOM kills, or why they are not known.
    pub oom_kills: Result<u64, String>,
}

/// What a signal is worth: missing, doubtful, or as good as its source.
struct Worth {
    missing: Option<String>,
    doubt: Option<String>,
    lost: u64,
    otherwise: Exactness,
}

impl Worth {
    fn of<T: Default>(self, source: &str, data: T) -> Signal<T> {
        let source = source.to_owned();
        match (self.missing, self.doubt) {
            (Some(reason), _) => {
                Signal { source, exactness: Exactness::Missing { reason }, lost: self.lost, data: T::default() }
            }
            (None, Some(reason)) => Signal { source, exactness: Exactness::Inexact { reason }, lost: self.lost, data },
            (None, None) => Signal { source, exactness: self.otherwise, lost: self.lost, data },
        }
    }
}

fn sampled(doubt: Option<String>) -> Worth {
    Worth { missing: None, doubt, lost: 0, otherwise: Exactness::Sampled }
}

/// Exact where there is a figure.
fn exact<T: Default>(source: &str, data: Result<T, String>, doubt: Option<String>) -> Signal<T> {
    let (data, missing) = match data {
        Ok(data) => (data, None),
        Err(reason) => (T::default(), Some(reason)),
    };
    Worth { missing, doubt, lost: 0, otherwise: Exactness::Exact }.of(source, data)
}

impl Recorder {
    /// Ends the recording: every signal with its exactness, and the call stacks that they name.
    pub fn into_signals(mut self, elsewhere: Elsewhere) -> (Signals, Code) {
        let alloc_samples = self.alloc_samples();
        let heap_profile = self.heap_profile();
        let goroutine_sites = self.goroutine_sites();
        let offheap_sites = self.offheap_sites();
        let pauses = self.pauses();
        let other_pauses = self.probed(ProbedSignal::Pauses, &[kind::PAUSE]);
        let mut stops = self.probed(ProbedSignal::WorldStops, &[kind::PAUSE, kind::WORLD_START]);
        let unrecorded = self.others_are_not_recorded().then(|| "Go 1.21 records no pauses but the GC's".to_owned());
        let other_pauses = Worth { missing: other_pauses.missing.or(unrecorded), ..other_pauses };
        if self.taken.unpaired_stops > 0 {
            stops.doubt.get_or_insert(format!("{} stops have no start or no end", self.taken.unpaired_stops));
        }
        let live_heap = self.live_heap();
        let mapped = self.probed(ProbedSignal::Mappings, &[kind::MAPPED, kind::UNMAPPED]);
        let span_refills = self.span_refills();
        let offheap = self.offheap();
        let doubt = self.taken.not_the_service();
        let process = doubt.clone().or_else(|| self.taken.failures.process.clone());
        let smaps = doubt.clone().or_else(|| self.taken.failures.off_heap.clone());
        let [bytes, objects, goroutines] = [self.counted(), self.counted(), self.counted()];
        let gc_cpu = Worth { missing: self.runtime.gc_cpu.as_ref().err().cloned(), ..self.counted() };
        let Taken { completed, thp_events, .. } = &mut self.taken;
        let requests = requests(elsewhere.requests, std::mem::take(completed));
        let thp = if thp_events.value.is_empty() {
            Err("the cgroup does not count them".to_owned())
        } else {
            Ok(std::mem::take(thp_events))
        };
        let taken = self.taken;
        let signals = Signals {
            gc_pauses: pauses.1.of(pauses.0, taken.gc_pauses),
            other_pauses: other_pauses.of(PAUSE_PROBE, taken.other_pauses),
            world_stops: stops.of(STOP_PROBE, taken.world_stops),
            gc_cpu: gc_cpu.of(COUNTERS, taken.gc_cpu),
            live_heap: live_heap.1.of(live_heap.0, taken.live_heap),
            alloc_bytes: bytes.of(COUNTERS, taken.alloc_bytes),
            alloc_objects: objects.of(COUNTERS, taken.alloc_objects),
            goroutines: goroutines.of(COUNTERS, taken.goroutines),
            rss: sampled(process.clone()).of(STATUS, taken.rss),
            rss_kinds: sampled(process.clone()).of(STATUS, taken.rss_kinds),
            huge_pages: sampled(smaps).of(SMAPS, taken.huge_pages),
            thp_events: exact(CGROUP, thp, None),
            rss_peak: exact(PEAK, taken.rss_peak.unwrap_or_else(|| Err(NOT_REACHED.to_owned())), process.clone()),
            offheap: offheap.of(OFF_HEAP, taken.off_heap),
            mmap_latency: mapped.of(MMAP_PROBE, taken.mmap_latency),
            span_refills: span_refills.of(REFILL_PROBES, taken.span_refills),
            alloc_samples,
            heap_profile,
            goroutine_sites,
            offheap_sites,
            page_faults: sampled(process).of("minflt + majflt of /proc/PID/stat at 5 Hz", taken.page_faults),
            requests,
            oom_kills: exact(CGROUP, elsewhere.oom_kills, None),
        };
        (signals, self.code.into_code())
    }

    /// Whether the runtime records the GC's pauses alone.
    fn others_are_not_recorded(&self) -> bool {
        self.runtime.pauses.as_ref().is_ok_and(|pauses| pauses.other.is_none())
    }

    /// What a signal from probes is worth whose records are of these kinds.
    fn probed(&self, signal: ProbedSignal, kinds: &[u32]) -> Worth {
        let missing = self.attached.lost(signal).map(str::to_owned);
        let (lost, unknown) = self.lost_of(kinds);
        let doubt = self.taken.not_the_service().or(unknown).or_else(|| self.taken.cross_check.clone());
        Worth { missing, doubt, lost, otherwise: Exactness::Exact }
    }

    /// The GC's pauses from the probe, else from the runtime's histogram.
    fn pauses(&self) -> (&'static str, Worth) {
        match &self.buckets {
            None => (PAUSE_PROBE, self.probed(ProbedSignal::Pauses, &[kind::PAUSE])),
            Some(_) => (PAUSE_BUCKETS, Worth { otherwise: Exactness::Bucketed, ..self.counted() }),
        }
    }

    /// The live heap from the probe, else from the runtime's own figure, which misses cycles that follow each other fast.
    fn live_heap(&self) -> (&'static str, Worth) {
        match self.attached.lost(ProbedSignal::LiveHeap) {
            None => (LIVE_HEAP_PROBE, self.probed(ProbedSignal::LiveHeap, &[kind::LIVE_HEAP])),
            Some(_) => (COUNTERS, self.counted()),
        }
    }

    /// What is read together with the counters.
    fn counted(&self) -> Worth {
        let failure = self.taken.failures.counters.clone();
        Worth { missing: self.counters_missing(), ..sampled(self.taken.not_the_service().or(failure)) }
    }

    /// How many records of these kinds were lost, or why that is not known, in which case nothing is known to be whole.
    fn lost_of(&self, kinds: &[u32]) -> (u64, Option<String>) {
        match self.lost() {
            Some(Ok(lost)) => (kinds.iter().filter_map(|kind| lost.get(usize::try_from(*kind).ok()?)).sum(), None),
            Some(Err(reason)) => (0, Some(reason)),
            None => (0, None),
        }
    }

    fn span_refills(&self) -> Worth {
        let missing = match &self.attached.refill_probes {
            Err(reason) => Some(reason.clone()),
            Ok(_) if self.taken.span_refills.windows.is_empty() => Some("the measuring phase had no window".to_owned()),
            Ok(_) => None,
        };
        let doubt = self.taken.not_the_service().or_else(|| self.taken.failures.span_refills.clone());
        Worth { missing, doubt, lost: 0, otherwise: Exactness::Sampled }
    }

    fn offheap(&self) -> Worth {
        let (lost, unknown) = self.lost_of(&[kind::MAPPED, kind::UNMAPPED]);
        let doubt = self.taken.not_the_service().or_else(|| self.taken.failures.off_heap.clone()).or(unknown);
        Worth { missing: self.off_heap.as_ref().err().cloned(), doubt, lost, otherwise: Exactness::Sampled }
    }

    fn alloc_samples(&mut self) -> Signal<AllocSamples> {
        let rate = self.taken.sample_rate();
        if let Ok(reader) = &mut self.heap_profile {
            // The last samples may be of buckets that are newer than the last reading; of a process that has ended there is no more.
            let _ = reader.find_buckets();
        }
        let rate = rate.and_then(|rate| self.heap_profile.as_ref().map(|_| rate).map_err(Clone::clone));
        let mut worth = self.worth_of_samples();
        let mut data = AllocSamples::default();
        match rate {
            Err(reason) => worth.missing = worth.missing.or(Some(reason)),
            Ok(rate) => {
                data.rate = rate;
                let mut unknown = 0;
                for (sample, count) in sorted(&self.taken.samples) {
                    let Some((size, stack)) = self.bucket(sample.bucket) else {
                        unknown += count;
                        continue;
                    };
                    data.goroutine.push(sample.goroutine);
                    data.span_class.push(sample.span_class);
                    data.size.push(size);
                    data.stack.push(stack);
                    data.count.push(count);
                }
                worth.lost += unknown;
            }
        }
        worth.of(SAMPLE_PROBE, data)
    }

    fn worth_of_samples(&self) -> Worth {
        let (lost, unknown) = self.lost_of(&[kind::ALLOC_SAMPLE]);
        let missing = self.attached.lost(ProbedSignal::AllocSamples).map(str::to_owned);
        let doubt = self.taken.not_the_service().or(unknown).or_else(|| self.taken.failures.sampling.clone());
        Worth { missing, doubt, lost, otherwise: Exactness::Exact }
    }

    /// Object size and stack of the bucket at this address.
    fn bucket(&mut self, address: u64) -> Option<(u64, u32)> {
        let reader = self.heap_profile.as_ref().ok()?;
        let bucket = reader.buckets().get(reader.bucket(address)?)?;
        let functions = self.functions.as_deref().ok()?;
        Some((bucket.size, self.code.go_stack(functions, &bucket.stack, self.bias)))
    }

    fn heap_profile(&mut self) -> Signal<HeapProfile> {
        let [start, end] = std::mem::take(&mut self.taken.heap_profile);
        let both = start.zip(end).ok_or_else(|| {
            let failure = self.taken.failures.heap_profile.clone();
            self.heap_profile.as_ref().err().cloned().or(failure).unwrap_or_else(|| NOT_REACHED.to_owned())
        });
        let data = both.and_then(|(start, end)| {
            let rate = self.taken.sample_rate()?;
            let functions = self.functions.as_deref().map_err(Clone::clone)?;
            let reader = self.heap_profile.as_ref().map_err(Clone::clone)?;
            let mut profile = HeapProfile { rate, ..HeapProfile::default() };
            for (index, (bucket, end)) in reader.buckets().iter().zip(&end).enumerate() {
                let start = start.get(index).copied().unwrap_or_default();
                profile.size.push(bucket.size);
                profile.stack.push(self.code.go_stack(functions, &bucket.stack, self.bias));
                profile.allocs_start.push(start.allocs);
                profile.frees_start.push(start.frees);
                profile.allocs_end.push(end.allocs);
                profile.frees_end.push(end.frees);
            }
            Ok(profile)
        });
        exact(HEAP_PROFILE, data, self.taken.not_the_service().or_else(|| self.taken.failures.sampling.clone()))
    }

    fn goroutine_sites(&mut self) -> Signal<GoroutineSites> {
        let taken = std::mem::take(&mut self.taken.goroutine_sites);
        let data = match (taken, &self.runtime.goroutine_list) {
            (_, Err(reason)) => Err(reason.clone()),
            ([Some(before), Some(loaded), Some(left)], Ok(_)) => self.sites([before, loaded, left]),
            _ => Err(self.taken.failures.goroutine_sites.clone().unwrap_or_else(|| NOT_REACHED.to_owned())),
        };
        exact(GOROUTINES, data, self.taken.not_the_service())
    }

    fn sites(
        &mut self,
        counts: [std::collections::HashMap<goroutines::Site, u64>; 3],
    ) -> Result<GoroutineSites, String> {
        let functions = self.functions.as_deref().map_err(Clone::clone)?;
        let mut sites: Vec<_> = counts.iter().flat_map(std::collections::HashMap::keys).copied().collect();
        sites.sort_unstable();
        sites.dedup();
        let mut data = GoroutineSites::default();
        sites.retain(|site| !self.is_system(functions, *site));
        for site in sites {
            let [before, loaded, left] = [0, 1, 2].map(|when: usize| counts[when].get(&site).copied().unwrap_or(0));
            data.created.push(self.code.go_place(functions, site.created.wrapping_sub(1), self.bias));
            data.started.push(self.code.go_place(functions, site.started, self.bias));
            data.before.push(before);
            data.loaded.push(loaded);
            data.left.push(left);
        }
        Ok(data)
    }

    /// Whether the goroutine is the runtime's own (`isSystemGoroutine`, traceback.go, Go 1.21 to 1.27). One that runs finalizers
    /// or clean-ups counts as the service's only while it does.
    fn is_system(&self, functions: &FunctionTable, site: goroutines::Site) -> bool {
        const NOT_SYSTEM: [&str; 3] = ["runtime.main", "runtime.handleAsyncEvent", "runtime.corostart"];
        let started = functions.at(site.started.wrapping_sub(self.bias));
        started.is_some_and(|function| function.name.starts_with("runtime.") && !NOT_SYSTEM.contains(&function.name))
    }

    fn offheap_sites(&mut self) -> Signal<OffHeapSites> {
        let (lost, unknown) = self.lost_of(&[kind::FAULT]);
        let [start, end] = std::mem::take(&mut self.taken.off_heap_sites);
        let mut missing = self.attached.no_captures.clone().or_else(|| self.off_heap.as_ref().err().cloned());
        let mut data = OffHeapSites::default();
        match start.zip(end) {
            None => {
                missing.get_or_insert_with(|| NOT_REACHED.to_owned());
            }
            Some((start, end)) => {
                let mut stacks: Vec<u32> = start.keys().chain(end.keys()).copied().collect();
                stacks.sort_unstable();
                stacks.dedup();
                for stack in stacks {
                    data.stack.push(stack);
                    data.start_bytes.push(start.get(&stack).copied().unwrap_or(0));
                    data.end_bytes.push(end.get(&stack).copied().unwrap_or(0));
                }
            }
        }
        let lost = lost + self.touches.forgotten;
        let doubt = self.taken.not_the_service().or(unknown);
        Worth { missing, doubt, lost, otherwise: Exactness::Sampled }.of(FIRST_TOUCH, data)
    }
}

fn requests(seen: Result<Requests, String>, completed: Series) -> Signal<Requests> {
    match seen {
        Ok(requests) => exact(
            "memgate's load generator, latencies from the intended start",
            Ok(Requests { completed, ..requests }),
            None,
        ),
        Err(reason) => exact("the load command", Err(reason), None),
    }
}
