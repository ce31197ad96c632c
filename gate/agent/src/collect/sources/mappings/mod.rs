//! The runtime's own mappings.

mod ranges;

use memgate_ebpf::{Record, kind};
use memgate_evidence::{Durations, Signal};
use memgate_goexe::probes::ProbedSignal;

pub(in crate::collect) use ranges::RuntimeRanges;

use crate::collect::{
    collector::Mapped,
    programs::Attached,
    worth::{Ending, MOST_ROWS, Worth},
};

const PROBE: &str = "uprobes on the calls of runtime.mmap and on the branches behind them";

/// Collects `mmap_latency`, and keeps the ranges that do not belong to the off-heap memory.
pub(in crate::collect) struct MappingCollector {
    missing: Option<String>,
    latency: Durations,
    /// Mappings whose latency there was no room for.
    refused: u64,
}

impl MappingCollector {
    pub(in crate::collect) fn new(attached: &Attached) -> Self {
        Self { missing: attached.missing(ProbedSignal::Mappings), latency: Durations::default(), refused: 0 }
    }

    /// Adds the record of a mapping that was made or removed.
    pub(in crate::collect) fn record(&mut self, at_ns: u64, record: Record, mapped: &mut Mapped) {
        let range = record.first..record.first.saturating_add(record.second);
        mapped.changes += 1;
        if record.kind == kind::MAPPED {
            mapped.ranges.insert(range);
            if self.latency.at_ns.len() < MOST_ROWS {
                self.latency.at_ns.push(at_ns);
                self.latency.duration_ns.push(record.third);
            } else {
                self.refused += 1;
            }
        } else {
            mapped.ranges.remove(range);
        }
    }

    pub(in crate::collect) fn into_signal(self, ending: &Ending) -> Signal<Durations> {
        let worth = ending.probed(self.missing, &[kind::MAPPED, kind::UNMAPPED]);
        Worth { lost: worth.lost + self.refused, ..worth }.of(PROBE, self.latency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::testing::{attached, record};

    #[test]
    fn a_mapping_has_a_latency_and_a_range_until_it_is_removed() {
        let mut mapped = Mapped::default();
        let mut collector = MappingCollector::new(&attached());
        collector.record(7, record(kind::MAPPED, [0x1000, 0x2000, 35]), &mut mapped);
        collector.record(8, record(kind::UNMAPPED, [0x1000, 0x1000, 0]), &mut mapped);
        let left = 0x2000..0x3000;
        assert_eq!((mapped.changes, mapped.ranges.largest(4)), (2, vec![left]));
        let signal = collector.into_signal(&Ending::default());
        assert_eq!(signal.data, Durations { at_ns: vec![7], duration_ns: vec![35] });
    }

    #[test]
    fn a_latency_that_there_is_no_room_for_is_lost_and_its_range_is_not() {
        let mut mapped = Mapped::default();
        let mut collector = MappingCollector::new(&attached());
        for _ in 0..MOST_ROWS {
            collector.record(7, record(kind::MAPPED, [0x1000, 0x1000, 35]), &mut mapped);
        }
        collector.record(7, record(kind::MAPPED, [0x8000, 0x1000, 35]), &mut mapped);
        assert_eq!(mapped.ranges.largest(4).len(), 2);
        let signal = collector.into_signal(&Ending::default());
        assert_eq!((signal.data.at_ns.len(), signal.lost), (MOST_ROWS, 1));
    }
}
