//! Stop-the-world pauses and stops, from the records that the runtime makes of them.

mod buckets;

use memgate_ebpf::{Record, kind};
use memgate_evidence::{Exactness, Pauses, Signal, StopReason, WorldStops};
use memgate_goexe::{Runtime, probes::ProbedSignal};

use buckets::PauseBuckets;

use crate::collect::{
    collector::{Collector, Reading, Scene},
    memory::ServiceMemory,
    programs::Attached,
    worth::{Ending, MOST_ROWS, Worth, note},
};

const PROBE: &str = "uprobe on the calls of (*timeHistogram).record at the ends of pauses";
const BUCKETS: &str = "the runtime's histogram of pauses, read from the service's memory at 5 Hz";
const STOP_PROBE: &str = "uprobes on the calls of startTheWorldWithSema and of (*timeHistogram).record";

/// Collects `gc_pauses`, `other_pauses` and `world_stops`.
pub(in crate::collect) struct PauseCollector {
    /// Why pauses and stops have no probes.
    missing: Option<String>,
    missing_stops: Option<String>,
    histograms: Option<Histograms>,
    /// The runtime's own histogram of the GC pauses, if there are no probes.
    buckets: Option<PauseBuckets>,
    gc: Pauses,
    other: Pauses,
    /// Pauses in neither of the runtime's histograms. They show that memgate misreads the runtime.
    unknown: u64,
    /// Pauses that there was no room for.
    refused: u64,
    stops: WorldStops,
    /// Stops whose start and end do not match, because records between them are missing.
    unpaired: u64,
    /// The stop that is about to end: its reason, and its start in ns of `CLOCK_MONOTONIC`.
    stop: Option<(StopReason, u64)>,
    failure: Option<String>,
}

/// Addresses in the process of the histograms for the runtime's pauses.
#[derive(Debug, Clone, Copy)]
struct Histograms {
    gc: u64,
    /// `None` in Go 1.21, which records only GC pauses.
    other: Option<u64>,
}

/// The signals of this collector.
pub(in crate::collect) struct PauseSignals {
    pub(in crate::collect) gc_pauses: Signal<Pauses>,
    pub(in crate::collect) other_pauses: Signal<Pauses>,
    pub(in crate::collect) world_stops: Signal<WorldStops>,
}

impl PauseCollector {
    pub(in crate::collect) fn new(runtime: &Runtime, memory: &ServiceMemory, attached: &Attached) -> Self {
        let missing = attached.missing(ProbedSignal::Pauses);
        let layout = runtime.pauses.as_ref().ok();
        Self {
            missing_stops: attached.missing(ProbedSignal::WorldStops),
            histograms: layout.map(|pauses| Histograms {
                gc: memory.global(pauses.gc),
                other: pauses.other.map(|other| memory.global(other)),
            }),
            buckets: layout.filter(|_| missing.is_some()).map(|pauses| PauseBuckets::new(memory.clone(), pauses)),
            missing,
            gc: Pauses::default(),
            other: Pauses::default(),
            unknown: 0,
            refused: 0,
            stops: WorldStops::default(),
            unpaired: 0,
            stop: None,
            failure: None,
        }
    }

    /// Adds the record of a pause. `at_ns` is since launch; the record's times are of `CLOCK_MONOTONIC`, ns.
    pub(in crate::collect) fn record_pause(&mut self, at_ns: u64, record: Record) {
        let Record { first: histogram, second: duration_ns, at_ns: monotonic_ns, .. } = record;
        if !self.has_room() {
            self.refused += 1;
            return;
        }
        match self.histograms {
            Some(Histograms { gc, .. }) if histogram == gc => self.gc.push(at_ns, duration_ns),
            Some(Histograms { other: Some(other), .. }) if histogram == other => self.other.push(at_ns, duration_ns),
            _ => self.unknown += 1,
        }
        let Some((reason, began_ns)) = self.stop.take() else {
            self.unpaired += 1;
            return;
        };
        self.stops.at_ns.push(at_ns);
        self.stops.reason.push(reason);
        self.stops.duration_ns.push(duration_ns);
        self.stops.tail_ns.push(monotonic_ns.saturating_sub(began_ns.saturating_add(duration_ns)));
    }

    const fn has_room(&self) -> bool {
        self.gc.at_ns.len() + self.other.at_ns.len() < MOST_ROWS
    }

    /// Adds the record of a start of the world, which comes before that of the stop's pause.
    pub(in crate::collect) fn record_start(&mut self, record: Record) {
        if self.stop.replace((reason(record.first), record.second)).is_some() {
            self.unpaired += 1;
        }
    }

    /// Whether each pause has a record.
    pub(in crate::collect) const fn is_complete(&self) -> bool {
        self.buckets.is_none()
    }

    /// The sum of the GC pauses, ns, and the number of pauses in unknown histograms.
    pub(in crate::collect) fn totals(&self) -> (u64, u64) {
        (self.gc.duration_ns.iter().sum(), self.unknown)
    }

    pub(in crate::collect) fn into_signals(self, ending: &Ending) -> PauseSignals {
        let refused = self.refused;
        let lossy = |worth: Worth| Worth { lost: worth.lost + refused, ..worth };
        let probed = lossy(ending.probed(self.missing, &[kind::PAUSE]));
        // The record of a lost pause may have been of either kind.
        let only_gc = self.histograms.is_some_and(|histograms| histograms.other.is_none());
        let unrecorded = only_gc.then(|| "Go 1.21 records only GC pauses".to_owned());
        let other = Worth { missing: probed.missing.clone().or(unrecorded), ..probed.clone() };
        let mut stops = lossy(ending.probed(self.missing_stops, &[kind::PAUSE, kind::WORLD_START]));
        if self.unpaired > 0 {
            stops.doubt.get_or_insert(format!("{} stops have no start or no end", self.unpaired));
        }
        let (source, gc) = match self.buckets {
            None => (PROBE, probed),
            Some(_) => (BUCKETS, lossy(Worth { otherwise: Exactness::Bucketed, ..ending.read(self.failure) })),
        };
        PauseSignals {
            gc_pauses: gc.of(source, self.gc),
            other_pauses: other.of(PROBE, self.other),
            world_stops: stops.of(STOP_PROBE, self.stops),
        }
    }
}

impl Collector for PauseCollector {
    fn read(&mut self, reading: Reading, scene: &mut Scene) {
        let Some(buckets) = self.buckets.as_mut().filter(|_| scene.service.is_itself()) else { return };
        match buckets.read() {
            Ok(pauses) => {
                for (upper_end_ns, count) in pauses {
                    let room = (MOST_ROWS as u64).saturating_sub(self.gc.at_ns.len() as u64);
                    (0..count.min(room)).for_each(|_| self.gc.push(reading.at_ns, upper_end_ns));
                    self.refused = self.refused.saturating_add(count.saturating_sub(room));
                }
            }
            Err(error) => note(&mut self.failure, format!("the histogram of pauses: {error}")),
        }
    }
}

/// `stwReason` (proc.go). The constants are the same in Go 1.22 to 1.27.
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
    use memgate_goexe::{Field, PauseSites as Layout, arch::ArgumentLocation};

    use super::*;
    use crate::collect::testing::{Fake, attached, nothing, record};

    fn runtime(other: Option<u64>) -> Runtime {
        let (field, argument) = (|offset, size| Field { offset, size }, ArgumentLocation::Register(0));
        let layout = Layout {
            sites: Vec::new(),
            histogram: argument,
            duration: argument,
            gc: 0x100,
            other,
            counts: field(0, 8 * 160),
            underflow: field(8 * 160, 8),
            overflow: field(8 * 161, 8),
        };
        Runtime { pauses: Ok(layout), ..nothing() }
    }

    #[test]
    fn a_pause_that_there_is_no_room_for_is_lost_whatever_it_is() {
        let fake = Fake::new();
        let histograms = [0x100, 0x900].map(|address| fake.scene.memory.global(address));
        let mut collector = PauseCollector::new(&runtime(Some(0x900)), &fake.scene.memory, &attached());
        let pause = |at: u64| record(kind::PAUSE, [histograms[usize::from(at % 2 == 1)], 10, 0]);
        (0..MOST_ROWS as u64 + 3).for_each(|at| collector.record_pause(at, pause(at)));
        let signals = collector.into_signals(&Ending::default());
        assert_eq!(signals.gc_pauses.data.at_ns.len() + signals.other_pauses.data.at_ns.len(), MOST_ROWS);
        assert_eq!([signals.gc_pauses.lost, signals.other_pauses.lost, signals.world_stops.lost], [3; 3]);
    }

    #[test]
    fn each_pause_belongs_to_the_histogram_of_its_record() {
        let fake = Fake::new();
        let at = |address| fake.scene.memory.global(address);
        let mut collector = PauseCollector::new(&runtime(Some(0x900)), &fake.scene.memory, &attached());
        for (at_ns, histogram, duration) in [(10, 0x100, 40), (20, 0x900, 50), (30, 0x100, 60), (40, 0x555, 70)] {
            collector.record_start(record(kind::WORLD_START, [1, at_ns - 5, 0]));
            collector.record_pause(at_ns, record(kind::PAUSE, [at(histogram), duration, 0]));
        }
        assert_eq!(collector.totals(), (100, 1));
        let signals = collector.into_signals(&Ending::default());
        assert_eq!(signals.gc_pauses.data, Pauses { at_ns: vec![10, 30], duration_ns: vec![40, 60] });
        assert_eq!(signals.other_pauses.data, Pauses { at_ns: vec![20], duration_ns: vec![50] });
        assert_eq!(signals.world_stops.data.reason, [StopReason::GcMarkTermination; 4]);
        assert_eq!(signals.world_stops.exactness, Exactness::Exact);
    }

    #[test]
    fn a_stop_without_its_start_makes_only_the_stops_doubtful() {
        let fake = Fake::new();
        let mut collector = PauseCollector::new(&runtime(None), &fake.scene.memory, &attached());
        let pause = record(kind::PAUSE, [fake.scene.memory.global(0x100), 40, 0]);
        collector.record_pause(10, pause);
        collector.record_start(record(kind::WORLD_START, [2, 1, 0]));
        collector.record_start(record(kind::WORLD_START, [2, 1, 0]));
        collector.record_pause(20, pause);
        let signals = collector.into_signals(&Ending::default());
        assert_eq!(signals.gc_pauses.exactness, Exactness::Exact);
        let doubt = "2 stops have no start or no end".to_owned();
        assert_eq!(signals.world_stops.exactness, Exactness::Inexact { reason: doubt });
        assert!(matches!(signals.other_pauses.exactness, Exactness::Missing { reason } if reason.contains("Go 1.21")));
    }

    #[test]
    fn the_tail_is_the_time_of_a_stop_beyond_its_duration() {
        let fake = Fake::new();
        let mut collector = PauseCollector::new(&runtime(None), &fake.scene.memory, &attached());
        collector.record_start(record(kind::WORLD_START, [2, 1_000, 0]));
        let pause = record(kind::PAUSE, [fake.scene.memory.global(0x100), 40, 0]);
        collector.record_pause(20, Record { at_ns: 1_047, ..pause });
        assert_eq!(collector.into_signals(&Ending::default()).world_stops.data.tail_ns, [7]);
    }

    #[test]
    fn without_probes_the_runtimes_histogram_gives_upper_ends() {
        let mut fake = Fake::new();
        let at = fake.scene.memory.global(0x100);
        fake.memory.put(at, &[0; 8 * 162]);
        let no_programs = Attached::without_programs("no BPF");
        let mut collector = PauseCollector::new(&runtime(None), &fake.scene.memory, &no_programs);
        assert!(!collector.is_complete());
        fake.memory.put(at, &2_u64.to_le_bytes());
        collector.read(Reading { at_ns: 9, attempts: 1 }, &mut fake.scene);
        let signals = collector.into_signals(&Ending::default());
        assert_eq!(signals.gc_pauses.exactness, Exactness::Bucketed);
        assert_eq!(signals.gc_pauses.data, Pauses { at_ns: vec![9, 9], duration_ns: vec![64, 64] });
        assert!(matches!(signals.world_stops.exactness, Exactness::Missing { reason } if reason == "no BPF"));
    }
}
