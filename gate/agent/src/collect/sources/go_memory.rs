//! What the Go runtime uses its memory for, and the size to which the GC lets the heap grow.

use memgate_evidence::{GoMemory, Signal};
use memgate_goexe::{Fact, Field, GoMemoryLayout as Layout, Runtime};

use crate::collect::{
    collector::{Collector, Reading, Scene},
    memory::{ServiceMemory, number},
    sources::counters::unreadable,
    worth::{COUNTERS, Worth, note},
};

/// The number of generations in `consistentHeapStats.stats`.
const GENERATIONS: u64 = 3;
/// The least headroom that the GC keeps below the memory limit, bytes (`memoryLimitMinHeapGoalHeadroom`, mgcpacer.go,
/// Go 1.21 to 1.27).
const LEAST_HEADROOM: u64 = 1 << 20;
/// The headroom that the GC keeps below the memory limit, percent (`memoryLimitHeapGoalHeadroomPercent`, mgcpacer.go,
/// Go 1.21 to 1.27).
const HEADROOM_PERCENT: u64 = 3;
/// How far the goal lies at least above the heap at which the cycle began, bytes (`minRunway`, mgcpacer.go, Go 1.21 to
/// 1.27).
const LEAST_RUNWAY: u64 = 64 << 10;

/// Collects `go_memory`: one entry for each reading of the counters.
pub(in crate::collect) struct GoMemoryCollector {
    layout: Fact<Layout>,
    go_memory: GoMemory,
    failure: Option<String>,
}

/// The words of one reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Words {
    heap_in_use: u64,
    heap_free: u64,
    heap_live: u64,
    goal: Goal,
    stacks: u64,
    other: u64,
}

/// The inputs of the goal, bytes; see [`memgate_goexe::GcGoal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Goal {
    by_percent: u64,
    sweep_distance: u64,
    triggered: u64,
    limit: u64,
    marked: u64,
    allocated: u64,
    freed: u64,
    mapped: u64,
    free: u64,
}

impl Goal {
    /// `heapGoalInternal` (mgcpacer.go, Go 1.21 to 1.27): the goal by GOGC, unless that by the memory limit is smaller.
    fn bytes(&self) -> u64 {
        let by_limit = self.by_limit();
        if by_limit < self.by_percent {
            return by_limit;
        }
        let goal = self.by_percent.max(self.sweep_distance);
        // Outside of a mark phase nothing is triggered.
        if self.triggered == u64::MAX { goal } else { goal.max(self.triggered.saturating_add(LEAST_RUNWAY)) }
    }

    /// `memoryLimitHeapGoal` (mgcpacer.go, Go 1.21 to 1.27): the limit, less what is mapped and cannot become objects,
    /// less what already exceeds the limit, less a headroom; but no less than what the last cycle marked.
    fn by_limit(&self) -> u64 {
        let objects = self.allocated.wrapping_sub(self.freed);
        // The runtime waits until these agree. Here they may be read in the middle of a change.
        let other = self.mapped.saturating_sub(self.free.saturating_add(objects));
        let taken = other.saturating_add(self.mapped.saturating_sub(self.limit));
        if taken >= self.limit {
            return self.marked;
        }
        let goal = self.limit - taken;
        let headroom = (goal / 100 * HEADROOM_PERCENT).max(LEAST_HEADROOM);
        let goal = match goal.checked_sub(headroom) {
            Some(rest) if rest >= headroom => rest,
            Some(_) | None => headroom,
        };
        goal.max(self.marked)
    }
}

/// Reads everything with one system call, because the figures change together.
fn read(memory: &ServiceMemory, layout: &Layout) -> nix::Result<Words> {
    let Layout { heap_in_use, heap_free, heap_live, goal, in_stacks, in_other, other, .. } = layout;
    let by_goal = [
        goal.by_percent,
        goal.sweep_distance,
        goal.triggered,
        goal.limit,
        goal.marked,
        goal.allocated,
        goal.freed,
        goal.mapped,
    ];
    let each = |field: &Field| {
        let first = layout.heap_stats.wrapping_add(field.offset);
        (0..GENERATIONS).map(move |generation| first.wrapping_add(generation.wrapping_mul(layout.heap_stats_size)))
    };
    let single = [*heap_in_use, *heap_free, *heap_live].into_iter().chain(by_goal);
    let sums = each(in_stacks).chain(in_other.iter().flat_map(each)).chain(*other);
    let addresses = single.chain(sums).map(|address| memory.global(address));
    let bytes = memory.read(addresses, 8)?;
    let mut words = bytes.chunks(8).map(|word| number::<8>(word, 0));
    // As many were read as there are addresses.
    let mut next = || words.next().unwrap_or_default();
    let (heap_in_use, heap_free, heap_live) = (next(), next(), next());
    let goal = Goal {
        by_percent: next(),
        sweep_distance: next(),
        triggered: next(),
        limit: next(),
        marked: next(),
        allocated: next(),
        freed: next(),
        mapped: next(),
        free: heap_free,
    };
    // The counts of a generation may be negative, and their sum is not.
    let stacks = (0..GENERATIONS).fold(0_u64, |sum, _| sum.wrapping_add(next()));
    let other = words.fold(0, u64::wrapping_add);
    Ok(Words { heap_in_use, heap_free, heap_live, goal, stacks, other })
}

impl GoMemoryCollector {
    pub(in crate::collect) fn new(runtime: &Runtime) -> Self {
        Self { layout: runtime.go_memory.clone(), go_memory: GoMemory::default(), failure: None }
    }

    /// `counters` is the worth of the counters, with which this collector reads.
    pub(in crate::collect) fn into_signal(self, counters: Worth) -> Signal<GoMemory> {
        let missing = self.layout.err().or(counters.missing);
        Worth { missing, doubt: counters.doubt.or(self.failure), ..Worth::sampled(None) }.of(COUNTERS, self.go_memory)
    }

    fn push(&mut self, at_ns: u64, words: Words) {
        let GoMemory { at_ns: times, heap_in_use, heap_free, heap_goal, heap_live, stacks, runtime_other } =
            &mut self.go_memory;
        times.push(at_ns);
        heap_in_use.push(words.heap_in_use);
        heap_free.push(words.heap_free);
        heap_goal.push(words.goal.bytes());
        heap_live.push(words.heap_live);
        stacks.push(words.stacks);
        runtime_other.push(words.other);
    }
}

impl Collector for GoMemoryCollector {
    fn read(&mut self, reading: Reading, scene: &mut Scene) {
        // Without new cycles, the counters were not read: the runtime starts, or the process runs another program.
        let (Ok(layout), Some(_)) = (&self.layout, scene.new_cycles) else { return };
        match read(&scene.memory, layout) {
            Ok(words) => self.push(reading.at_ns, words),
            Err(error) => note(&mut self.failure, unreadable(reading.at_ns, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use memgate_evidence::Exactness;
    use memgate_goexe::GcGoal;

    use super::*;
    use crate::collect::testing::{Fake, nothing};

    const MIB: u64 = 1 << 20;

    /// A heap of 10 MiB after the last cycle, GOGC=100, no limit, between two cycles.
    const fn goal() -> Goal {
        Goal {
            by_percent: 20 * MIB,
            sweep_distance: 12 * MIB,
            triggered: u64::MAX,
            limit: i64::MAX.cast_unsigned(),
            marked: 10 * MIB,
            allocated: 115 * MIB,
            freed: 100 * MIB,
            mapped: 25 * MIB,
            free: 4 * MIB,
        }
    }

    #[test]
    fn the_goal_follows_gogc_unless_the_limit_is_lower() {
        assert_eq!(goal().bytes(), 20 * MIB);
        assert_eq!(Goal { sweep_distance: 21 * MIB, ..goal() }.bytes(), 21 * MIB);
        assert_eq!(Goal { triggered: 20 * MIB, ..goal() }.bytes(), 20 * MIB + LEAST_RUNWAY);
        // 25 MiB are mapped, 15 MiB of them objects and 4 MiB free. So 6 MiB cannot become objects, and 1 MiB stays
        // free.
        assert_eq!(Goal { limit: 25 * MIB, ..goal() }.bytes(), 18 * MIB);
        // 3 % are more than 1 MiB.
        assert_eq!(
            Goal { limit: 1006 * MIB, by_percent: u64::MAX, ..goal() }.bytes(),
            1000 * MIB - 1000 * MIB / 100 * 3
        );
        // The limit is exceeded by 5 MiB; the goal is not below what is alive.
        assert_eq!(Goal { limit: 20 * MIB, ..goal() }.bytes(), 10 * MIB);
        assert_eq!(Goal { limit: 4 * MIB, ..goal() }.bytes(), 10 * MIB, "the rest alone exceeds the limit");
    }

    /// A layout whose words lie one after the other from 0x100 on, and the statistics at 0x400.
    fn layout() -> Layout {
        let at = |index: u64| 0x100 + 8 * index;
        let field = |offset| Field { offset, size: 8 };
        Layout {
            heap_in_use: at(0),
            heap_free: at(1),
            heap_live: at(2),
            goal: GcGoal {
                by_percent: at(3),
                sweep_distance: at(4),
                triggered: at(5),
                limit: at(6),
                marked: at(7),
                allocated: at(8),
                freed: at(9),
                mapped: at(10),
            },
            heap_stats: 0x400,
            heap_stats_size: 24,
            in_stacks: field(0),
            in_other: vec![field(8), field(16)],
            other: [11, 12, 13, 14, 15, 16].map(at),
        }
    }

    #[test]
    fn each_reading_of_the_counters_has_an_entry() {
        let mut fake = Fake::new();
        let bytes = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let Goal { by_percent, sweep_distance, triggered, limit, marked, allocated, freed, mapped, free } = goal();
        let words = [7, free, 9, by_percent, sweep_distance, triggered, limit, marked, allocated, freed, mapped];
        fake.memory.put(fake.scene.memory.global(0x100), &bytes(&words));
        fake.memory.put(fake.scene.memory.global(0x158), &bytes(&[1, 2, 3, 4, 5, 6]));
        // Two stacks were freed in another generation than that in which they were made.
        let generations = [5_u64, 100, 1000, 2_u64.wrapping_neg(), 10, 0, 30, 0, 0];
        fake.memory.put(fake.scene.memory.global(0x400), &bytes(&generations));
        let mut collector = GoMemoryCollector::new(&Runtime { go_memory: Ok(layout()), ..nothing() });
        for (at_ns, new_cycles) in [(1, None), (2, Some(0)), (3, Some(1))] {
            fake.scene.new_cycles = new_cycles;
            collector.read(Reading { at_ns, attempts: 1 }, &mut fake.scene);
        }
        let signal = collector.into_signal(Worth::sampled(None));
        assert_eq!(signal.exactness, Exactness::Sampled);
        let twice = |value: u64| vec![value; 2];
        let expected = GoMemory {
            at_ns: vec![2, 3],
            heap_in_use: twice(7),
            heap_free: twice(free),
            heap_goal: twice(20 * MIB),
            heap_live: twice(9),
            stacks: twice(33),
            runtime_other: twice(21 + 1110),
        };
        assert_eq!(signal.data, expected);
    }

    #[test]
    fn a_failed_reading_is_a_doubt_and_an_unknown_layout_a_missing_signal() {
        let mut fake = Fake::new();
        let mut collector = GoMemoryCollector::new(&Runtime { go_memory: Ok(layout()), ..nothing() });
        fake.scene.new_cycles = Some(0);
        collector.read(Reading { at_ns: 1, attempts: 1 }, &mut fake.scene);
        let signal = collector.into_signal(Worth::sampled(None));
        assert!(matches!(signal.exactness, Exactness::Inexact { reason } if reason.contains("EFAULT")));
        let signal = GoMemoryCollector::new(&nothing()).into_signal(Worth::sampled(None));
        assert!(matches!(signal.exactness, Exactness::Missing { .. }));
    }
}
