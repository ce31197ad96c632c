//! The runtime's samples of allocations, and its heap profile.

mod profile;
mod rate;
mod spans;

use std::{cmp::Reverse, collections::HashMap};

use memgate_ebpf::{Record, kind};
use memgate_evidence::{AllocSamples, Exactness, HeapProfile, Signal, platform::Platform};
use memgate_goexe::{Runtime, probes::ProbedSignal};

use self::{
    profile::{Counts, HeapProfileReader},
    rate::SamplingRate,
    spans::SpanClasses,
};
use crate::collect::{
    collector::{AtEnds, Boundary, Collector, Reading, Scene},
    memory::ServiceMemory,
    programs::Attached,
    worth::{Ending, MOST_ROWS, NOT_REACHED, Worth, exact, note},
};

const PROBE: &str = "uprobe on the call of setprofilebucket in mProf_Malloc";
const PROFILE: &str = "runtime.mbuckets, read from the service's memory";

/// From the start of the load until memgate sets the sampling rate, ns.
const ADJUST_AFTER_NS: u64 = 1_000_000_000;

/// Collects `alloc_samples` and `heap_profile`.
pub(in crate::collect) struct Allocations {
    /// Why samples have no probe.
    missing: Option<String>,
    rate: Result<SamplingRate, String>,
    profile: Result<HeapProfileReader, String>,
    spans: Option<SpanClasses>,
    /// When the service was ready and idle, ns since launch, and how much it had allocated until then, bytes.
    idle: Option<(u64, u64)>,
    /// Whether the measuring phase is running. Samples are used only from that phase.
    measuring: bool,
    /// `runtime.MemProfileRate`, or why nothing is sampled.
    rates: AtEnds<Result<u64, String>>,
    /// The counts of the profile's buckets.
    counts: AtEnds<Vec<Counts>>,
    /// Sampled objects whose spans have not been looked up yet.
    sampled: Vec<SampledObject>,
    samples: HashMap<Sample, u64>,
    /// Samples that there was no room for.
    refused: u64,
    /// Why the profile could not be read, or why the rate could not be set or read.
    profile_failure: Option<String>,
    rate_failure: Option<String>,
}

/// A sampled object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SampledObject {
    address: u64,
    bucket: u64,
    goroutine: u64,
}

/// The key by which allocations are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Sample {
    bucket: u64,
    goroutine: u64,
    span_class: u8,
}

/// The signals of this collector.
pub(in crate::collect) struct AllocationSignals {
    pub(in crate::collect) alloc_samples: Signal<AllocSamples>,
    pub(in crate::collect) heap_profile: Signal<HeapProfile>,
}

impl Allocations {
    /// Makes the runtime sample allocations from now on.
    pub(in crate::collect) fn new(
        runtime: &Runtime,
        memory: &ServiceMemory,
        platform: Platform,
        attached: &Attached,
    ) -> Self {
        let spans = runtime.spans.as_ref().ok();
        Self {
            missing: attached.missing(ProbedSignal::AllocSamples),
            rate: SamplingRate::switch_on(memory, &runtime.alloc_samples),
            profile: runtime.heap_profile.clone().map(|layout| HeapProfileReader::new(memory.clone(), layout)),
            spans: spans.map(|layout| SpanClasses::new(memory.clone(), *layout, platform)),
            idle: None,
            measuring: false,
            rates: AtEnds::default(),
            counts: AtEnds::default(),
            sampled: Vec::new(),
            samples: HashMap::new(),
            refused: 0,
            profile_failure: None,
            rate_failure: None,
        }
    }

    /// Adds the record of a sample.
    pub(in crate::collect) fn record(&mut self, record: Record) {
        if self.measuring {
            let Record { first: address, second: bucket, third: goroutine, .. } = record;
            self.sampled.push(SampledObject { address, bucket, goroutine });
        }
    }

    /// Groups the samples since the last call. It runs shortly after their allocation, while the objects still have
    /// their spans.
    pub(in crate::collect) fn group(&mut self) {
        let objects = std::mem::take(&mut self.sampled);
        let unknown = || vec![SpanClasses::UNKNOWN; objects.len()];
        // A process that has ended has no spans any more. Unknown classes do no harm then.
        let classes = self.spans.as_mut().and_then(|spans| spans.of(&objects).ok()).unwrap_or_else(unknown);
        for (object, span_class) in objects.iter().zip(classes) {
            let sample = Sample { bucket: object.bucket, goroutine: object.goroutine, span_class };
            if self.samples.len() < MOST_ROWS || self.samples.contains_key(&sample) {
                *self.samples.entry(sample).or_insert(0) += 1;
            } else {
                self.refused += 1;
            }
        }
    }

    /// Sets the sampling rate, once, if the load has lasted this long.
    fn adjust(&mut self, after_ns: u64, scene: &Scene) {
        let (Ok(rate), Some((idle_ns, idle_bytes)), Some(totals)) = (&mut self.rate, self.idle, scene.totals) else {
            return;
        };
        let loaded_ns = scene.clock.now_ns().saturating_sub(idle_ns);
        if rate.is_adjusted() || loaded_ns < after_ns || loaded_ns == 0 || !scene.service.is_itself() {
            return;
        }
        let allocated = u128::from(totals.alloc_bytes.saturating_sub(idle_bytes));
        let bytes_per_second = allocated * 1_000_000_000 / u128::from(loaded_ns);
        if let Err(error) = rate.adjust(u64::try_from(bytes_per_second).unwrap_or(u64::MAX)) {
            note(&mut self.rate_failure, format!("the sampling rate cannot be set: {error}"));
        }
    }

    /// Reads the rate and the profile at an end of the measuring phase. If the rate changes in between, the weight of
    /// the samples is unknown.
    fn read_ends(&mut self, boundary: Boundary) {
        let rate = self.rate.as_ref().map_err(Clone::clone);
        let rate = rate.and_then(|rate| rate.rate().map_err(|error| error.to_string()));
        self.rates.put(boundary, rate);
        if let AtEnds { start: Some(Ok(start)), end: Some(Ok(end)) } = &self.rates
            && start != end
        {
            let reason = format!("the service changed MemProfileRate from {start} to {end} in the measuring phase");
            note(&mut self.rate_failure, reason);
        }
        if let Ok(reader) = &mut self.profile {
            match reader.counts() {
                Ok(counts) => self.counts.put(boundary, counts),
                Err(error) => note(&mut self.profile_failure, profile::reason(error)),
            }
        }
    }

    /// The sampling rate in the measuring phase, bytes, or why nothing was sampled.
    fn sample_rate(&self) -> Result<u64, String> {
        match &self.rates.start {
            None => Err("the service ended before the measuring phase".to_owned()),
            Some(Ok(0)) => Err("the runtime samples nothing: the service set MemProfileRate to 0".to_owned()),
            Some(rate) => rate.clone(),
        }
    }

    pub(in crate::collect) fn into_signals(mut self, ending: &Ending, scene: &mut Scene) -> AllocationSignals {
        let alloc_samples = self.alloc_samples(ending, scene);
        let heap_profile = self.heap_profile(scene);
        let doubt = ending.doubt.clone().or(self.rate_failure);
        AllocationSignals { alloc_samples, heap_profile: exact(PROFILE, heap_profile, doubt) }
    }

    fn alloc_samples(&mut self, ending: &Ending, scene: &mut Scene) -> Signal<AllocSamples> {
        if let Ok(reader) = &mut self.profile {
            // The last samples may have buckets that are newer than the last reading. A process that has ended has no
            // more of them.
            let _ = reader.find_buckets();
        }
        let (lost, unknown) = ending.lost_of(&[kind::ALLOC_SAMPLE]);
        let doubt = ending.doubt.clone().or(unknown).or_else(|| self.rate_failure.clone());
        let lost = lost + self.refused;
        let mut worth = Worth { missing: self.missing.clone(), doubt, lost, otherwise: Exactness::Exact };
        let mut data = AllocSamples::default();
        let reader = self.profile.as_ref().map_err(Clone::clone);
        match self.sample_rate().and_then(|rate| Ok((rate, reader?))) {
            Err(reason) => worth.missing = worth.missing.or(Some(reason)),
            Ok((rate, reader)) => {
                data.rate = rate;
                let nameless = push_samples(&mut data, sorted(&self.samples), reader, scene);
                worth.lost += nameless;
            }
        }
        worth.of(PROBE, data)
    }

    fn heap_profile(&mut self, scene: &mut Scene) -> Result<HeapProfile, String> {
        let reader = self.profile.as_ref().map_err(Clone::clone)?;
        let counts = std::mem::take(&mut self.counts).both();
        let not_read = || self.profile_failure.clone().unwrap_or_else(|| NOT_REACHED.to_owned());
        let (start, end) = counts.ok_or_else(not_read)?;
        let mut profile = HeapProfile { rate: self.sample_rate()?, ..HeapProfile::default() };
        let Scene { functions, code, memory, .. } = scene;
        let functions = functions.as_deref().map_err(Clone::clone)?;
        for (index, (bucket, end)) in reader.buckets().iter().zip(&end).enumerate() {
            let start = start.get(index).copied().unwrap_or_default();
            profile.size.push(bucket.size);
            profile.stack.push(code.go_stack(functions, &bucket.stack, memory.bias()));
            profile.allocs_start.push(start.allocs);
            profile.frees_start.push(start.frees);
            profile.allocs_end.push(end.allocs);
            profile.frees_end.push(end.frees);
        }
        Ok(profile)
    }
}

/// Adds the samples, with the sizes and stacks of their buckets. Returns the number of samples with unknown buckets.
fn push_samples(
    data: &mut AllocSamples,
    samples: Vec<(Sample, u64)>,
    reader: &HeapProfileReader,
    scene: &mut Scene,
) -> u64 {
    let Scene { functions, code, memory, .. } = scene;
    let functions = functions.as_deref().ok();
    let mut nameless = 0;
    for (sample, count) in samples {
        let bucket = reader.bucket(sample.bucket).and_then(|index| reader.buckets().get(index));
        let Some((bucket, functions)) = bucket.zip(functions) else {
            nameless += count;
            continue;
        };
        data.goroutine.push(sample.goroutine);
        data.span_class.push(sample.span_class);
        data.size.push(bucket.size);
        data.stack.push(code.go_stack(functions, &bucket.stack, memory.bias()));
        data.count.push(count);
    }
    nameless
}

/// The counts in the evidence's order: the largest first, then by key.
fn sorted(counts: &HashMap<Sample, u64>) -> Vec<(Sample, u64)> {
    let mut sorted: Vec<_> = counts.iter().map(|(key, count)| (*key, *count)).collect();
    sorted.sort_unstable_by_key(|(key, count)| (Reverse(*count), *key));
    sorted
}

impl Collector for Allocations {
    fn read(&mut self, _reading: Reading, scene: &mut Scene) {
        self.adjust(ADJUST_AFTER_NS, scene);
    }

    fn reach(&mut self, boundary: Boundary, scene: &mut Scene) {
        match boundary {
            Boundary::Idle => self.idle = scene.totals.map(|totals| (scene.clock.now_ns(), totals.alloc_bytes)),
            Boundary::MeasureStart => {
                self.adjust(0, scene);
                self.read_ends(boundary);
                self.measuring = true;
            }
            Boundary::MeasureEnd => {
                self.measuring = false;
                self.read_ends(boundary);
            }
            Boundary::Drained => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        profile::tests::{layout as profile_layout, put, put_head},
        rate::tests::layout as rate_layout,
        *,
    };
    use crate::collect::{
        sources::Counters,
        testing::{Fake, attached, functions, nothing, record, totals},
    };

    /// A service with the runtime's default rate and one bucket of 16-byte objects, at 0x1000.
    fn service() -> (Fake, Allocations) {
        let mut fake = Fake::without_bias();
        fake.memory.put(0x200, &[(512_u64 << 10).to_le_bytes().as_slice(), &[0]].concat());
        put_head(&fake.memory, 0x1000);
        put(&fake.memory, 0x1000, 0, &[0x77], [100, 40]);
        fake.scene.functions = Ok(functions());
        let mut rate = rate_layout();
        (rate.rate, rate.disabled) = (0x200, 0x208);
        let runtime = Runtime { alloc_samples: Ok(rate), heap_profile: Ok(profile_layout()), ..nothing() };
        let allocations = Allocations::new(&runtime, &fake.scene.memory, Platform::host(), &attached());
        (fake, allocations)
    }

    fn sample(bucket: u64, goroutine: u64) -> Record {
        record(kind::ALLOC_SAMPLE, [0xc000_0000, bucket, goroutine])
    }

    #[test]
    fn samples_of_the_measuring_phase_are_grouped_and_named() {
        let (mut fake, mut allocations) = service();
        allocations.record(sample(0x1000, 1));
        allocations.reach(Boundary::MeasureStart, &mut fake.scene);
        [1, 7, 7].into_iter().for_each(|goroutine| allocations.record(sample(0x1000, goroutine)));
        allocations.record(sample(0x9999, 7));
        allocations.group();
        put(&fake.memory, 0x1000, 0, &[0x77], [150, 60]);
        allocations.reach(Boundary::MeasureEnd, &mut fake.scene);
        allocations.record(sample(0x1000, 1));
        allocations.group();
        let signals = allocations.into_signals(&Ending::default(), &mut fake.scene);
        let samples = signals.alloc_samples;
        assert_eq!((&samples.data.goroutine, &samples.data.count), (&vec![7, 1], &vec![2, 1]));
        assert_eq!((samples.lost, samples.exactness), (1, Exactness::Exact), "one bucket is unknown");
        let profile = signals.heap_profile.data;
        assert_eq!((profile.size, profile.rate), (vec![16], 512 << 10));
        let counts = [profile.allocs_start, profile.frees_start, profile.allocs_end, profile.frees_end];
        assert_eq!(counts, [[100], [40], [150], [60]]);
    }

    #[test]
    fn samples_that_there_is_no_room_for_are_lost() {
        let (mut fake, mut allocations) = service();
        allocations.reach(Boundary::MeasureStart, &mut fake.scene);
        (0..MOST_ROWS as u64).for_each(|goroutine| allocations.record(sample(0x1000, goroutine)));
        allocations.record(sample(0x1000, 1));
        allocations.record(sample(0x1000, u64::MAX));
        allocations.group();
        allocations.reach(Boundary::MeasureEnd, &mut fake.scene);
        let samples = allocations.into_signals(&Ending::default(), &mut fake.scene).alloc_samples;
        assert_eq!((samples.data.count.len(), samples.data.count[0], samples.lost), (MOST_ROWS, 2, 1));
    }

    #[test]
    fn the_rate_is_set_once_by_what_the_load_allocates() {
        let (mut fake, mut allocations) = service();
        fake.scene.totals = Some(totals());
        allocations.adjust(0, &fake.scene);
        assert!(!allocations.rate.as_ref().unwrap().is_adjusted(), "the load has not begun");
        allocations.reach(Boundary::Idle, &mut fake.scene);
        fake.scene.totals = Some(Counters { alloc_bytes: u64::MAX, ..totals() });
        allocations.read(Reading { at_ns: 0, attempts: 1 }, &mut fake.scene);
        assert!(!allocations.rate.as_ref().unwrap().is_adjusted(), "it has not lasted a second");
        allocations.reach(Boundary::MeasureStart, &mut fake.scene);
        assert_eq!(allocations.sample_rate(), Ok(4 << 20));
    }

    #[test]
    fn a_rate_that_changes_in_the_phase_is_a_doubt() {
        let (mut fake, mut allocations) = service();
        allocations.reach(Boundary::MeasureStart, &mut fake.scene);
        fake.memory.put(0x200, &4096_u64.to_le_bytes());
        allocations.reach(Boundary::MeasureEnd, &mut fake.scene);
        let signals = allocations.into_signals(&Ending::default(), &mut fake.scene);
        let doubtful = |exactness| matches!(exactness, Exactness::Inexact { reason } if reason.contains("to 4096"));
        assert!(doubtful(signals.alloc_samples.exactness) && doubtful(signals.heap_profile.exactness));
    }

    #[test]
    fn a_phase_that_is_not_reached_and_a_rate_of_0_are_missing_signals() {
        let (mut fake, allocations) = service();
        let signals = allocations.into_signals(&Ending::default(), &mut fake.scene);
        assert!(matches!(signals.alloc_samples.exactness, Exactness::Missing { reason } if reason.contains("ended")));
        assert_eq!(signals.heap_profile.exactness, Exactness::Missing { reason: NOT_REACHED.to_owned() });
        let (mut fake, mut allocations) = service();
        fake.memory.put(0x200, &0_u64.to_le_bytes());
        allocations.reach(Boundary::MeasureStart, &mut fake.scene);
        let signals = allocations.into_signals(&Ending::default(), &mut fake.scene);
        let exactness = signals.alloc_samples.exactness;
        assert!(matches!(exactness, Exactness::Missing { reason } if reason.contains("MemProfileRate to 0")));
    }
}
