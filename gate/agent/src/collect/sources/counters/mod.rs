//! The runtime's counters over time: allocated bytes and objects, goroutines.

mod reader;

use memgate_evidence::{Series, Signal};
use memgate_goexe::Runtime;

pub(in crate::collect) use reader::Counters;
use reader::{CounterLayout, CounterReader};

use crate::collect::{
    collector::{Boundary, Collector, Reading, Scene},
    memory::ServiceMemory,
    worth::{COUNTERS, Ending, Worth, note},
};

/// Collects `alloc_bytes`, `alloc_objects` and `goroutines`, and reports the number of GC cycles.
pub(in crate::collect) struct CounterCollector {
    reader: Result<CounterReader, String>,
    alloc_bytes: Series,
    alloc_objects: Series,
    goroutines: Series,
    failure: Option<String>,
    /// Why there is no reading yet. The runtime's data are not complete while it starts.
    unread: Option<String>,
}

/// The signals of this collector.
pub(in crate::collect) struct CounterSignals {
    pub(in crate::collect) alloc_bytes: Signal<Series>,
    pub(in crate::collect) alloc_objects: Signal<Series>,
    pub(in crate::collect) goroutines: Signal<Series>,
}

impl CounterCollector {
    pub(in crate::collect) fn new(runtime: &Runtime, memory: &ServiceMemory) -> Self {
        Self {
            reader: CounterLayout::of(runtime).map(|layout| CounterReader::new(memory.clone(), layout)),
            alloc_bytes: Series::default(),
            alloc_objects: Series::default(),
            goroutines: Series::default(),
            failure: None,
            unread: None,
        }
    }

    /// Adds a reading.
    ///
    /// Totals never decrease. If they seem to, one of the two readings is wrong by what moved between a P and the
    /// totals meanwhile. A steady reading is right.
    fn take(&mut self, at_ns: u64, counters: Counters, last: Option<Counters>) -> Counters {
        let totals = [(&mut self.alloc_bytes, counters.alloc_bytes), (&mut self.alloc_objects, counters.alloc_objects)];
        let counters = if counters.steady {
            for (series, most) in totals {
                series.value.iter_mut().rev().take_while(|value| **value > most).for_each(|value| *value = most);
            }
            counters
        } else {
            let least = last.map_or((0, 0), |last| (last.alloc_bytes, last.alloc_objects));
            Counters {
                alloc_bytes: counters.alloc_bytes.max(least.0),
                alloc_objects: counters.alloc_objects.max(least.1),
                ..counters
            }
        };
        self.alloc_bytes.push(at_ns, counters.alloc_bytes);
        self.alloc_objects.push(at_ns, counters.alloc_objects);
        self.goroutines.push(at_ns, counters.goroutines);
        counters
    }

    /// The time of the last reading, and the goroutines then.
    pub(in crate::collect) fn goroutines(&self) -> Option<(u64, u64)> {
        self.goroutines.at_ns.last().copied().zip(self.goroutines.value.last().copied())
    }

    /// The worth of everything that is read together with the counters.
    pub(in crate::collect) fn worth(&self, ending: &Ending) -> Worth {
        Worth { missing: self.reader.as_ref().err().cloned(), ..ending.read(self.failed()) }
    }

    /// The same of what is subtracted from a sum over the processes of the cgroup. Other processes make it no less true:
    /// what they have stays in the difference.
    pub(in crate::collect) fn worth_within_sums(&self, ending: &Ending) -> Worth {
        Worth { missing: self.reader.as_ref().err().cloned(), ..ending.summed(self.failed()) }
    }

    fn failed(&self) -> Option<String> {
        self.failure.clone().or_else(|| self.unread.clone())
    }

    pub(in crate::collect) fn into_signals(self, ending: &Ending) -> CounterSignals {
        let worth = self.worth(ending);
        CounterSignals {
            alloc_bytes: worth.clone().of(COUNTERS, self.alloc_bytes),
            alloc_objects: worth.clone().of(COUNTERS, self.alloc_objects),
            goroutines: worth.of(COUNTERS, self.goroutines),
        }
    }
}

/// That the service's memory could not be read at a time, ns since launch.
pub(in crate::collect) fn unreadable(at_ns: u64, error: nix::Error) -> String {
    format!("they could not be read {:.1} s after launch: {error}", at_ns as f64 / 1e9)
}

impl Collector for CounterCollector {
    fn read(&mut self, reading: Reading, scene: &mut Scene) {
        scene.new_cycles = None;
        let counters = self.reader.as_ref().map(|reader| reader.read(reading.attempts));
        // The process is examined after the reading. In another program the counters' addresses may not even be mapped.
        if !scene.service.look() {
            return;
        }
        match counters {
            Ok(Ok(Some(counters))) => {
                let counters = self.take(reading.at_ns, counters, scene.totals);
                let before = scene.totals.map_or(0, |last| last.gc_cycles);
                scene.new_cycles = Some(counters.gc_cycles.saturating_sub(before));
                scene.totals = Some(counters);
                self.unread = None;
            }
            // The runtime is starting, or there is no reader. The signals report the latter.
            Ok(Ok(None)) | Err(_) => {}
            Ok(Err(error)) if scene.totals.is_none() => self.unread = Some(unreadable(reading.at_ns, error)),
            Ok(Err(error)) => note(&mut self.failure, unreadable(reading.at_ns, error)),
        }
    }

    fn reach(&mut self, boundary: Boundary, _scene: &mut Scene) {
        // The goroutines of the service's start do not belong to the idle service.
        if boundary == Boundary::Idle {
            self.goroutines = Series::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use memgate_evidence::Exactness;

    use super::{
        reader::tests::{Heap, heap},
        *,
    };
    use crate::collect::testing::{Fake, nothing};

    fn collector(heap: &Heap) -> CounterCollector {
        let reader = CounterReader::new(heap.memory.clone(), heap.layout.clone());
        CounterCollector { reader: Ok(reader), ..CounterCollector::new(&nothing(), &heap.memory) }
    }

    const READING: Reading = Reading { at_ns: 5, attempts: 3 };

    #[test]
    fn a_steady_reading_corrects_earlier_totals_and_an_unsteady_one_does_not_decrease_them() {
        let mut collector = CounterCollector::new(&nothing(), &heap().memory);
        let readings = [(100, true), (90, false), (187, false), (187, false), (105, true), (103, false), (120, true)];
        let mut last = None;
        for (at_ns, (total, steady)) in (0..).zip(readings) {
            let (alloc_bytes, alloc_objects) = (total * 8, total);
            let (goroutines, pause_total_ns, gc_cycles, live_heap) = (1, 0, 0, 0);
            let counters =
                Counters { alloc_bytes, alloc_objects, goroutines, pause_total_ns, gc_cycles, live_heap, steady };
            last = Some(collector.take(at_ns, counters, last));
        }
        assert_eq!(collector.alloc_objects.value, [100, 100, 105, 105, 105, 105, 120]);
        assert_eq!(collector.alloc_bytes.value, [800, 800, 840, 840, 840, 840, 960]);
        assert_eq!(last.map(|last| last.alloc_objects), Some(120));
    }

    #[test]
    fn readings_are_signals_and_count_new_cycles() {
        let (mut fake, heap) = (Fake::new(), heap());
        let mut collector = collector(&heap);
        heap.set_cycles(2);
        collector.read(READING, &mut fake.scene);
        assert_eq!(fake.scene.new_cycles, Some(2));
        heap.set_cycles(5);
        collector.read(Reading { at_ns: 9, ..READING }, &mut fake.scene);
        assert_eq!(fake.scene.new_cycles, Some(3));
        let signals = collector.into_signals(&Ending::default());
        assert_eq!(signals.alloc_bytes.exactness, Exactness::Sampled);
        assert_eq!(signals.alloc_bytes.data.at_ns, [5, 9]);
        assert_eq!(signals.alloc_bytes.data.value, [Heap::BYTES; 2]);
        assert_eq!(signals.alloc_objects.data.value, [Heap::OBJECTS; 2]);
        assert_eq!(signals.goroutines.data.value, [Heap::GOROUTINES; 2]);
    }

    #[test]
    fn idleness_drops_only_the_goroutines_of_the_start() {
        let (mut fake, heap) = (Fake::new(), heap());
        let mut collector = collector(&heap);
        collector.read(READING, &mut fake.scene);
        collector.reach(Boundary::Idle, &mut fake.scene);
        collector.reach(Boundary::MeasureStart, &mut fake.scene);
        assert_eq!((collector.goroutines.value.len(), collector.alloc_bytes.value.len()), (0, 1));
    }

    #[test]
    fn nothing_is_read_of_another_program() {
        let (mut fake, heap) = (Fake::new(), heap());
        let mut collector = collector(&heap);
        fake.proc.replace_executable();
        collector.read(READING, &mut fake.scene);
        assert_eq!((fake.scene.new_cycles, collector.alloc_bytes.value.len()), (None, 0));
        let ending = Ending::new(fake.scene.service.doubt(u64::MAX), None, None);
        let signals = collector.into_signals(&ending);
        assert!(matches!(signals.goroutines.exactness, Exactness::Inexact { reason } if reason.contains("replaced")));
    }

    #[test]
    fn other_processes_are_no_doubt_of_what_is_subtracted_from_a_sum() {
        let heap = heap();
        let collector = collector(&heap);
        let ending = Ending::new(Some("other processes".to_owned()), None, None).summed_over_the_cgroup(None);
        assert_eq!(collector.worth(&ending).doubt.as_deref(), Some("other processes"));
        assert_eq!(collector.worth_within_sums(&ending).doubt, None);
        let ending = ending.summed_over_the_cgroup(Some("replaced".to_owned()));
        assert_eq!(collector.worth_within_sums(&ending).doubt.as_deref(), Some("replaced"));
    }

    #[test]
    fn a_failed_reading_before_the_first_is_a_doubt_only_if_there_is_no_other() {
        let (mut fake, heap) = (Fake::new(), heap());
        let mut collector = collector(&heap);
        heap.tear(true);
        collector.read(READING, &mut fake.scene);
        let doubt = collector.worth(&Ending::default()).doubt.unwrap();
        assert_eq!(doubt, "they could not be read 0.0 s after launch: EFAULT: Bad address");
        heap.tear(false);
        collector.read(READING, &mut fake.scene);
        assert_eq!(collector.worth(&Ending::default()).doubt, None);
        heap.tear(true);
        collector.read(READING, &mut fake.scene);
        assert!(collector.worth(&Ending::default()).doubt.is_some());
    }

    #[test]
    fn a_failed_reading_is_a_doubt_and_an_unknown_layout_a_missing_signal() {
        let (mut fake, heap) = (Fake::new(), heap());
        let mut collector = collector(&heap);
        collector.read(READING, &mut fake.scene);
        heap.end();
        collector.read(Reading { at_ns: 9, ..READING }, &mut fake.scene);
        assert_eq!(fake.scene.new_cycles, None);
        let signals = collector.into_signals(&Ending::default());
        assert!(matches!(signals.alloc_bytes.exactness, Exactness::Inexact { reason } if reason.contains("ESRCH")));
        assert_eq!(signals.alloc_bytes.data.value, [Heap::BYTES]);
        let signals = CounterCollector::new(&nothing(), &heap.memory).into_signals(&Ending::default());
        assert!(matches!(signals.alloc_bytes.exactness, Exactness::Missing { .. }));
    }
}
