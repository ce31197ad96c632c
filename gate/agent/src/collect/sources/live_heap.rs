//! The live heap after each mark phase.

use memgate_ebpf::kind;
use memgate_evidence::{Series, Signal};
use memgate_goexe::probes::ProbedSignal;

use crate::collect::{
    collector::{Collector, Reading, Scene},
    programs::Attached,
    worth::{COUNTERS, Ending, MOST_ROWS, Worth},
};

const PROBE: &str = "uprobe on the call of (*gcControllerState).resetLive";

/// Collects `live_heap` from the probe. Without a probe it uses the runtime's own figure, which misses cycles in quick
/// succession.
pub(in crate::collect) struct LiveHeapCollector {
    /// Why there is no probe.
    no_probe: Option<String>,
    live_heap: Series,
    /// Cycles that there was no room for.
    refused: u64,
}

impl LiveHeapCollector {
    pub(in crate::collect) fn new(attached: &Attached) -> Self {
        Self { no_probe: attached.missing(ProbedSignal::LiveHeap), live_heap: Series::default(), refused: 0 }
    }

    /// Adds a record of the probe.
    pub(in crate::collect) fn record(&mut self, at_ns: u64, bytes: u64) {
        self.push(at_ns, bytes, 1);
    }

    /// Adds so many cycles, as far as there is room.
    fn push(&mut self, at_ns: u64, bytes: u64, cycles: u64) {
        let room = (MOST_ROWS as u64).saturating_sub(self.cycles());
        (0..cycles.min(room)).for_each(|_| self.live_heap.push(at_ns, bytes));
        self.refused = self.refused.saturating_add(cycles.saturating_sub(room));
    }

    /// The number of cycles so far.
    pub(in crate::collect) const fn cycles(&self) -> u64 {
        self.live_heap.value.len() as u64
    }

    /// `counters` is the worth of the counters, which the collector reads if it has no probe.
    pub(in crate::collect) fn into_signal(self, ending: &Ending, counters: Worth) -> Signal<Series> {
        let (source, worth) = match self.no_probe {
            None => (PROBE, ending.probed(None, &[kind::LIVE_HEAP])),
            Some(_) => (COUNTERS, counters),
        };
        Worth { lost: worth.lost.saturating_add(self.refused), ..worth }.of(source, self.live_heap)
    }
}

impl Collector for LiveHeapCollector {
    fn read(&mut self, reading: Reading, scene: &mut Scene) {
        let (Some(_), Some(new_cycles), Some(totals)) = (&self.no_probe, scene.new_cycles, scene.totals) else {
            return;
        };
        // Each cycle gets an entry, even if it was too fast for a reading of its own.
        self.push(reading.at_ns, totals.live_heap, new_cycles);
    }
}

#[cfg(test)]
mod tests {
    use memgate_evidence::Exactness;

    use super::*;
    use crate::collect::{
        sources::Counters,
        testing::{Fake, attached, totals},
    };

    #[test]
    fn with_a_probe_each_record_is_a_cycle() {
        let mut fake = Fake::new();
        let mut collector = LiveHeapCollector::new(&attached());
        collector.record(3, 4096);
        (fake.scene.new_cycles, fake.scene.totals) = (Some(1), Some(totals()));
        collector.read(Reading { at_ns: 4, attempts: 1 }, &mut fake.scene);
        assert_eq!(collector.cycles(), 1);
        let signal = collector.into_signal(&Ending::default(), Worth::sampled(None));
        assert_eq!(signal.exactness, Exactness::Exact);
        assert_eq!(signal.data, Series { at_ns: vec![3], value: vec![4096] });
    }

    #[test]
    fn more_cycles_than_there_is_room_for_are_lost() {
        let mut collector = LiveHeapCollector::new(&attached());
        (0..=MOST_ROWS as u64).for_each(|at| collector.record(at, 1));
        let signal = collector.into_signal(&Ending::default(), Worth::sampled(None));
        assert_eq!((signal.data.value.len(), signal.lost), (MOST_ROWS, 1));
        let mut fake = Fake::new();
        let mut collector = LiveHeapCollector::new(&Attached::without_programs("no BPF"));
        (fake.scene.new_cycles, fake.scene.totals) = (Some(u64::MAX), Some(totals()));
        [4, 5].into_iter().for_each(|at_ns| collector.read(Reading { at_ns, attempts: 1 }, &mut fake.scene));
        let signal = collector.into_signal(&Ending::default(), Worth::sampled(None));
        assert_eq!((signal.data.value.len(), signal.lost), (MOST_ROWS, u64::MAX));
    }

    #[test]
    fn without_a_probe_each_new_cycle_has_the_runtimes_figure() {
        let mut fake = Fake::new();
        let mut collector = LiveHeapCollector::new(&Attached::without_programs("no BPF"));
        fake.scene.totals = Some(Counters { live_heap: 8192, ..totals() });
        for new_cycles in [Some(2), None, Some(0)] {
            fake.scene.new_cycles = new_cycles;
            collector.read(Reading { at_ns: 4, attempts: 1 }, &mut fake.scene);
        }
        let signal = collector.into_signal(&Ending::default(), Worth::sampled(None));
        assert_eq!((signal.exactness, signal.data.value), (Exactness::Sampled, vec![8192, 8192]));
    }
}
