//! The live heap after each mark phase.

use memgate_ebpf::kind;
use memgate_evidence::{Series, Signal};
use memgate_goexe::probes::ProbedSignal;

use crate::collect::{
    collector::{Collector, Reading, Scene},
    programs::Attached,
    worth::{COUNTERS, Ending, Worth},
};

const PROBE: &str = "uprobe on the call of (*gcControllerState).resetLive";

/// Collects `live_heap` from the probe. Without a probe it uses the runtime's own figure, which misses cycles in quick
/// succession.
pub(in crate::collect) struct LiveHeapCollector {
    /// Why there is no probe.
    no_probe: Option<String>,
    live_heap: Series,
}

impl LiveHeapCollector {
    pub(in crate::collect) fn new(attached: &Attached) -> Self {
        Self { no_probe: attached.missing(ProbedSignal::LiveHeap), live_heap: Series::default() }
    }

    /// Adds a record of the probe.
    pub(in crate::collect) fn record(&mut self, at_ns: u64, bytes: u64) {
        self.live_heap.push(at_ns, bytes);
    }

    /// The number of cycles so far.
    pub(in crate::collect) const fn cycles(&self) -> u64 {
        self.live_heap.value.len() as u64
    }

    /// `counters` is the worth of the counters, which the collector reads if it has no probe.
    pub(in crate::collect) fn into_signal(self, ending: &Ending, counters: Worth) -> Signal<Series> {
        match self.no_probe {
            None => ending.probed(None, &[kind::LIVE_HEAP]).of(PROBE, self.live_heap),
            Some(_) => counters.of(COUNTERS, self.live_heap),
        }
    }
}

impl Collector for LiveHeapCollector {
    fn read(&mut self, reading: Reading, scene: &mut Scene) {
        let (Some(_), Some(new_cycles), Some(totals)) = (&self.no_probe, scene.new_cycles, scene.totals) else {
            return;
        };
        // Each cycle gets an entry, even if it was too fast for a reading of its own.
        for _ in 0..new_cycles.min(1 << 20) {
            self.live_heap.push(reading.at_ns, totals.live_heap);
        }
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
