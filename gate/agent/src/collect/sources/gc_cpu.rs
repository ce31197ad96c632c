//! CPU time of the GC, from the runtime's own account.

use memgate_evidence::{GcCpu, Signal};
use memgate_goexe::{Fact, GcCpuLayout as Layout, Runtime};

use crate::collect::{
    collector::{Collector, Reading, Scene},
    sources::counters::unreadable,
    worth::{COUNTERS, Worth, note},
};

/// Collects `gc_cpu`: one entry for each reading of the counters with a new cycle.
pub(in crate::collect) struct GcCpuCollector {
    layout: Fact<Layout>,
    gc_cpu: GcCpu,
    failure: Option<String>,
}

impl GcCpuCollector {
    pub(in crate::collect) fn new(runtime: &Runtime) -> Self {
        Self { layout: runtime.gc_cpu.clone(), gc_cpu: GcCpu::default(), failure: None }
    }

    /// `counters` is the worth of the counters, whose cycles this collector uses.
    pub(in crate::collect) fn into_signal(self, counters: Worth) -> Signal<GcCpu> {
        let missing = self.layout.err().or(counters.missing);
        Worth { missing, doubt: counters.doubt.or(self.failure), ..Worth::sampled(None) }.of(COUNTERS, self.gc_cpu)
    }
}

impl Collector for GcCpuCollector {
    fn read(&mut self, reading: Reading, scene: &mut Scene) {
        let (Ok(layout), Some(1..)) = (&self.layout, scene.new_cycles) else { return };
        let Layout { gc_ns, gc_idle_ns, idle_ns, total_ns } = *layout;
        let word = |address| scene.memory.global_word(address);
        let mut read = || {
            let words = [word(gc_ns)?, word(gc_idle_ns)?, word(idle_ns)?, word(total_ns)?];
            self.gc_cpu.at_ns.push(reading.at_ns);
            let GcCpu { at_ns: _, gc_ns, gc_idle_ns, idle_ns, total_ns } = &mut self.gc_cpu;
            for (column, word) in [gc_ns, gc_idle_ns, idle_ns, total_ns].into_iter().zip(words) {
                column.push(word);
            }
            Ok::<_, nix::Error>(())
        };
        if let Err(error) = read() {
            note(&mut self.failure, unreadable(reading.at_ns, error));
        }
    }
}

#[cfg(test)]
mod tests {
    use memgate_evidence::Exactness;

    use super::*;
    use crate::collect::testing::{Fake, nothing};

    #[test]
    fn there_is_an_entry_for_each_reading_with_new_cycles() {
        let mut fake = Fake::new();
        let layout = Layout { gc_ns: 0x100, gc_idle_ns: 0x108, idle_ns: 0x110, total_ns: 0x118 };
        let words = [7_u64, 3, 60, 90].map(u64::to_le_bytes);
        fake.memory.put(fake.scene.memory.global(0x100), &words.concat());
        let mut collector = GcCpuCollector::new(&Runtime { gc_cpu: Ok(layout), ..nothing() });
        for (at_ns, new_cycles) in [(1, None), (2, Some(0)), (3, Some(2))] {
            fake.scene.new_cycles = new_cycles;
            collector.read(Reading { at_ns, attempts: 1 }, &mut fake.scene);
        }
        let signal = collector.into_signal(Worth::sampled(None));
        let expected =
            GcCpu { at_ns: vec![3], gc_ns: vec![7], gc_idle_ns: vec![3], idle_ns: vec![60], total_ns: vec![90] };
        assert_eq!(signal.data, expected);
        assert_eq!(signal.exactness, Exactness::Sampled);
    }

    #[test]
    fn its_own_failure_is_a_doubt_and_without_counters_the_signal_is_missing() {
        let mut fake = Fake::new();
        let layout = Layout { gc_ns: 0x9000, gc_idle_ns: 0x9008, idle_ns: 0x9010, total_ns: 0x9018 };
        let mut collector = GcCpuCollector::new(&Runtime { gc_cpu: Ok(layout), ..nothing() });
        fake.scene.new_cycles = Some(1);
        collector.read(Reading { at_ns: 1, attempts: 1 }, &mut fake.scene);
        let signal = collector.into_signal(Worth::sampled(None));
        assert!(matches!(signal.exactness, Exactness::Inexact { reason } if reason.contains("EFAULT")));
        let counters = Worth { missing: Some("no counters".to_owned()), ..Worth::sampled(None) };
        let layout = Layout { gc_ns: 0, gc_idle_ns: 0, idle_ns: 0, total_ns: 0 };
        let signal = GcCpuCollector::new(&Runtime { gc_cpu: Ok(layout), ..nothing() }).into_signal(counters);
        assert_eq!(signal.exactness, Exactness::Missing { reason: "no counters".to_owned() });
    }
}
