//! CPU time of the GC by the runtime's own account.

use memgate_evidence::{GcCpu, Signal};
use memgate_goexe::{Fact, GcCpuLayout as Layout, Runtime};

use crate::collect::{
    collector::{Collector, Reading, Scene},
    worth::{COUNTERS, Worth, note},
};

/// Collects `gc_cpu`: one entry for each reading of the counters that sees a new cycle.
pub(in crate::collect) struct GcCpuCollector {
    layout: Fact<Layout>,
    gc_cpu: GcCpu,
    failure: Option<String>,
}

impl GcCpuCollector {
    pub(in crate::collect) fn new(runtime: &Runtime) -> Self {
        Self { layout: runtime.gc_cpu.clone(), gc_cpu: GcCpu::default(), failure: None }
    }

    /// `counters` is the worth of the counters, whose cycles it follows.
    pub(in crate::collect) fn into_signal(self, counters: Worth) -> Signal<GcCpu> {
        let missing = self.layout.err().or(counters.missing);
        Worth { missing, doubt: counters.doubt.or(self.failure), ..Worth::sampled(None) }.of(COUNTERS, self.gc_cpu)
    }
}

impl Collector for GcCpuCollector {
    fn read(&mut self, reading: Reading, scene: &mut Scene) {
        let (Ok(layout), Some(1..)) = (&self.layout, scene.new_cycles) else { return };
        let both = [layout.gc_ns, layout.total_ns].map(|address| scene.memory.global_word(address));
        match both {
            [Ok(gc_ns), Ok(total_ns)] => {
                self.gc_cpu.at_ns.push(reading.at_ns);
                self.gc_cpu.gc_ns.push(gc_ns);
                self.gc_cpu.total_ns.push(total_ns);
            }
            [Err(error), _] | [_, Err(error)] => note(&mut self.failure, error.to_string()),
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
        let layout = Layout { gc_ns: 0x100, total_ns: 0x108 };
        fake.memory.put(fake.scene.memory.global(0x100), &[7_u64.to_le_bytes(), 90_u64.to_le_bytes()].concat());
        let mut collector = GcCpuCollector::new(&Runtime { gc_cpu: Ok(layout), ..nothing() });
        for (at_ns, new_cycles) in [(1, None), (2, Some(0)), (3, Some(2))] {
            fake.scene.new_cycles = new_cycles;
            collector.read(Reading { at_ns, attempts: 1 }, &mut fake.scene);
        }
        let signal = collector.into_signal(Worth::sampled(None));
        assert_eq!(signal.data, GcCpu { at_ns: vec![3], gc_ns: vec![7], total_ns: vec![90] });
        assert_eq!(signal.exactness, Exactness::Sampled);
    }

    #[test]
    fn its_own_failure_is_a_doubt_and_the_counters_absence_its_own() {
        let mut fake = Fake::new();
        let mut collector =
            GcCpuCollector::new(&Runtime { gc_cpu: Ok(Layout { gc_ns: 0x9000, total_ns: 0x9008 }), ..nothing() });
        fake.scene.new_cycles = Some(1);
        collector.read(Reading { at_ns: 1, attempts: 1 }, &mut fake.scene);
        let signal = collector.into_signal(Worth::sampled(None));
        assert!(matches!(signal.exactness, Exactness::Inexact { reason } if reason.contains("EFAULT")));
        let counters = Worth { missing: Some("no counters".to_owned()), ..Worth::sampled(None) };
        let layout = Layout { gc_ns: 0, total_ns: 0 };
        let signal = GcCpuCollector::new(&Runtime { gc_cpu: Ok(layout), ..nothing() }).into_signal(counters);
        assert_eq!(signal.exactness, Exactness::Missing { reason: "no counters".to_owned() });
    }
}
