//! Figures of the service's cgroup: its memory by kind, its processes, huge pages and OOM kills.

use std::time::Duration;

use memgate_evidence::{CgroupMemory, Series, Signal, error::in_full};

use crate::{
    cgroup::MemoryReading,
    collect::{
        collector::{Boundary, Collector, Scene},
        worth::{CGROUP, NOT_REACHED, Worth, exact, note},
    },
};

const MEMORY: &str = "memory.stat and memory.current of the cgroup at 2.5 Hz, and more often near its limit";

/// The time between two looks.
const PACE: Duration = Duration::from_millis(50);
/// The same without a cgroup: each thread's children are read, which costs much, and a child that has ended meanwhile is
/// a doubt too.
const WITHOUT_CGROUP: Duration = Duration::from_millis(500);
/// The same while the limit is near.
const FAST: Duration = Duration::from_millis(5);
/// The limit is near if the cgroup reaches it in this time at its present growth.
const NEAR: Duration = Duration::from_millis(500);
/// A look reads the memory by kind if it has changed by the limit divided by this.
const STEP: u64 = 100;
/// A mebibyte, bytes.
const MIB: u64 = 1 << 20;

/// Collects `cgroup_memory`, `cgroup_peak`, `thp_events` and `oom_kills`, and notices the processes that the service
/// starts.
#[derive(Default)]
pub(in crate::collect) struct CgroupCollector {
    thp_events: Series,
    memory: CgroupMemory,
    /// The last reading of the memory by kind, and when it began.
    last: Option<At<MemoryReading>>,
    /// The last one at whose end the kernel had not killed anything.
    before_kill: Option<At<MemoryReading>>,
    /// What was charged at the last look.
    charged: Option<At<u64>>,
    peak: Peak,
    failure: Option<String>,
}

/// A value with its time, ns since launch.
#[derive(Debug, Clone, Copy)]
struct At<T> {
    at_ns: u64,
    value: T,
}

/// The largest working set of the measuring phase, bytes.
#[derive(Debug, Default)]
enum Peak {
    #[default]
    NotYet,
    SoFar(u64),
    Whole(u64),
}

/// The signals of this collector.
pub(in crate::collect) struct CgroupSignals {
    pub(in crate::collect) cgroup_memory: Signal<CgroupMemory>,
    pub(in crate::collect) cgroup_peak: Signal<u64>,
    pub(in crate::collect) thp_events: Signal<Series>,
    pub(in crate::collect) oom_kills: Signal<u64>,
}

impl CgroupCollector {
    /// Notices the processes that the service has started, and reads the memory by kind if it has changed much or if
    /// the limit is near, so that the last reading before a kill is close to the kill. Returns when to look again.
    pub(in crate::collect) fn look(&mut self, scene: &mut Scene) -> Duration {
        let others = scene.others();
        let pace = if others.is_some() { PACE } else { WITHOUT_CGROUP };
        let others = others.unwrap_or_else(|| {
            scene.service.is_seen_with_children_only();
            scene.service.children()
        });
        let others = others.unwrap_or_else(|reason| {
            scene.service.cannot_be_seen_whole(reason);
            Vec::new()
        });
        let at_ns = scene.clock.now_ns();
        for other in others {
            scene.service.has_started(other, at_ns);
        }
        let (Some(limit), Ok(charged)) = (scene.cgroup.limit(), scene.cgroup.current()) else { return pace };
        let now = At { at_ns: scene.clock.now_ns(), value: charged };
        let is_near = self.is_near(limit, now);
        self.charged = Some(now);
        let read = self.last.map_or(0, |last| last.value.current);
        if is_near || charged.abs_diff(read) >= limit / STEP {
            self.read_once(scene);
        }
        if is_near { FAST } else { pace }
    }

    /// Whether the cgroup soon reaches its limit. File pages that the kernel can free do not bring it nearer.
    fn is_near(&self, limit: u64, now: At<u64>) -> bool {
        let Some(before) = self.charged else { return false };
        let reclaimable = self.last.map_or(0, |last| last.value.inactive_file);
        let left = limit.saturating_sub(now.value.saturating_sub(reclaimable));
        let growth = now.value.saturating_sub(before.value);
        let time = u128::from(now.at_ns - before.at_ns);
        growth > 0 && u128::from(left) * time <= u128::from(growth) * NEAR.as_nanos()
    }

    /// Adds a reading of the memory by kind and of the huge pages.
    pub(in crate::collect) fn read_memory(&mut self, scene: &Scene) {
        if let Some(At { at_ns, value }) = self.read_once(scene) {
            let end = self.memory.at_ns.len();
            push(&mut self.memory, end, at_ns, &value);
            if let Some(events) = value.huge_pages {
                self.thp_events.push(at_ns, events);
            }
        }
    }

    fn read_once(&mut self, scene: &Scene) -> Option<At<MemoryReading>> {
        let at_ns = scene.clock.now_ns();
        let value = match scene.cgroup.memory() {
            Ok(value) => value,
            Err(error) => {
                note(&mut self.failure, in_full(&error));
                return None;
            }
        };
        let reading = At { at_ns, value };
        self.last = Some(reading);
        // The kernel counts a kill before the memory is freed.
        if scene.cgroup.oom_kills().is_ok_and(|kills| kills == 0) {
            self.before_kill = Some(reading);
        }
        if let Peak::SoFar(peak) = &mut self.peak {
            *peak = value.working_set().max(*peak);
        }
        Some(reading)
    }

    /// What the cgroup held at the last reading before the first kill.
    pub(in crate::collect) fn before_the_kill(&self, limit: Option<u64>) -> Option<String> {
        let MemoryReading { anon, file, shmem, kernel, inactive_file: _, swap, current, huge_pages: _ } =
            self.before_kill?.value;
        let named = [
            (shmem, "of shared memory (tmpfs)"),
            (anon, "anonymous"),
            (file.saturating_sub(shmem), "of files"),
            // The kernel reports its own part since Linux 5.18. The rest is at least mostly its own.
            (kernel.unwrap_or_else(|| current.saturating_sub(anon + file)), "of the kernel"),
        ];
        let mut kinds: Vec<_> = named.into_iter().filter(|(bytes, _)| *bytes >= MIB / 20).collect();
        kinds.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        let kinds: Vec<_> = kinds.into_iter().map(|(bytes, name)| format!("{} {name}", mebibytes(bytes))).collect();
        let most = limit.map(|limit| format!(" of at most {}", mebibytes(limit))).unwrap_or_default();
        let swapped = swap.filter(|bytes| *bytes >= MIB / 20);
        let swapped = swapped.map(|bytes| format!("; {} were swapped out", mebibytes(bytes))).unwrap_or_default();
        Some(format!(
            "when the kernel killed for memory, the service's cgroup held {}{most}: {}{swapped}",
            mebibytes(current),
            kinds.join(", ")
        ))
    }

    /// `oom_kills` is the number of OOM kills, or why it is unknown.
    pub(in crate::collect) fn into_signals(mut self, oom_kills: Result<u64, String>) -> CgroupSignals {
        if let (Ok(1..), Some(At { at_ns, value })) = (&oom_kills, self.before_kill)
            && let Err(place) = self.memory.at_ns.binary_search(&at_ns)
        {
            push(&mut self.memory, place, at_ns, &value);
        }
        let missing = self.memory.at_ns.is_empty().then(|| self.failure.clone().unwrap_or_else(|| NOT_READ.to_owned()));
        let worth = Worth { missing, ..Worth::sampled(self.failure) };
        let peak = match self.peak {
            Peak::Whole(peak) if worth.missing.is_none() => worth.clone().of(MEMORY, peak),
            Peak::NotYet | Peak::SoFar(_) | Peak::Whole(_) => {
                let missing = worth.missing.clone().or_else(|| Some(NOT_REACHED.to_owned()));
                Worth { missing, ..worth.clone() }.of(MEMORY, 0)
            }
        };
        let events = self.thp_events;
        let counted =
            if events.value.is_empty() { Err("the cgroup does not count them".to_owned()) } else { Ok(events) };
        CgroupSignals {
            cgroup_memory: worth.of(MEMORY, self.memory),
            cgroup_peak: peak,
            thp_events: exact(CGROUP, counted, None),
            oom_kills: exact(CGROUP, oom_kills, None),
        }
    }
}

const NOT_READ: &str = "the cgroup was not read";

/// `52.0 MiB`.
fn mebibytes(bytes: u64) -> String {
    // Tenths, rounded.
    let tenths = (u128::from(bytes) * 10 + u128::from(MIB) / 2) / u128::from(MIB);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// Inserts a row. A kind that a row lacks has no column.
fn push(memory: &mut CgroupMemory, place: usize, at_ns: u64, reading: &MemoryReading) {
    let CgroupMemory { at_ns: times, anon, file, shmem, kernel, inactive_file, swap, current } = memory;
    let is_first = times.is_empty();
    for (column, value) in [
        (times, at_ns),
        (anon, reading.anon),
        (file, reading.file),
        (shmem, reading.shmem),
        (inactive_file, reading.inactive_file),
        (current, reading.current),
    ] {
        column.insert(place, value);
    }
    for (column, value) in [(kernel, reading.kernel), (swap, reading.swap)] {
        let values = if is_first { Some(Vec::new()) } else { column.take() };
        *column = values.zip(value).map(|(mut values, value)| {
            values.insert(place, value);
            values
        });
    }
}

impl Collector for CgroupCollector {
    fn reach(&mut self, boundary: Boundary, scene: &mut Scene) {
        match boundary {
            Boundary::MeasureStart => self.peak = Peak::SoFar(0),
            Boundary::MeasureEnd => {
                self.read_once(scene);
                if let Peak::SoFar(peak) = self.peak {
                    self.peak = Peak::Whole(peak);
                }
            }
            Boundary::Idle | Boundary::Drained => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use memgate_evidence::Exactness;

    use super::*;
    use crate::{
        cgroup::fake::FakeCgroup,
        collect::testing::{Fake, PID},
    };

    /// A scene with this cgroup.
    fn fake(cgroup: &FakeCgroup, limit: Option<u64>) -> Fake {
        let mut fake = Fake::new();
        fake.scene.cgroup = cgroup.files(limit);
        fake
    }

    #[test]
    fn readings_are_columns_and_the_peak_is_that_of_the_measuring_phase() {
        let cgroup = FakeCgroup::v2();
        let mut fake = fake(&cgroup, None);
        let mut collector = CgroupCollector::default();
        let mut read = |shmem, boundary: Option<Boundary>| {
            cgroup.holds(shmem, 10);
            if let Some(boundary) = boundary {
                collector.reach(boundary, &mut fake.scene);
            }
            collector.read_memory(&fake.scene);
        };
        read(900, None);
        read(1, Some(Boundary::MeasureStart));
        read(5, None);
        read(3, Some(Boundary::MeasureEnd));
        read(800, Some(Boundary::Drained));
        let signals = collector.into_signals(Ok(0));
        assert_eq!(signals.cgroup_memory.exactness, Exactness::Sampled);
        let CgroupMemory { at_ns, anon, file, shmem, kernel, inactive_file, swap, current } =
            signals.cgroup_memory.data;
        assert!(at_ns.is_sorted());
        assert_eq!((shmem, anon), (vec![900, 1, 5, 3, 800], vec![10; 5]));
        assert_eq!((file, inactive_file, current), (vec![900, 1, 5, 3, 800], vec![0; 5], vec![910, 11, 15, 13, 810]));
        assert_eq!((kernel, swap), (None, None));
        assert_eq!((signals.cgroup_peak.data, signals.cgroup_peak.exactness), (15, Exactness::Sampled));
    }

    #[test]
    fn columns_that_the_kernel_has_are_kept_only_if_each_row_has_them() {
        let mut memory = CgroupMemory::default();
        let row = MemoryReading { kernel: Some(3), swap: Some(4), ..MemoryReading::default() };
        push(&mut memory, 0, 7, &row);
        push(&mut memory, 0, 5, &MemoryReading { kernel: Some(2), ..row });
        assert_eq!((&memory.at_ns, &memory.kernel, &memory.swap), (&vec![5, 7], &Some(vec![2, 3]), &Some(vec![4, 4])));
        push(&mut memory, 2, 9, &MemoryReading { swap: None, ..row });
        push(&mut memory, 3, 9, &row);
        assert_eq!((memory.kernel, memory.swap), (Some(vec![2, 3, 3, 3]), None));
    }

    #[test]
    fn without_a_controller_the_reason_is_that() {
        let mut fake = Fake::new();
        let mut collector = CgroupCollector::default();
        collector.read_memory(&fake.scene);
        collector.reach(Boundary::MeasureStart, &mut fake.scene);
        collector.reach(Boundary::MeasureEnd, &mut fake.scene);
        assert_eq!(collector.look(&mut fake.scene), WITHOUT_CGROUP);
        let signals = collector.into_signals(Err("no memory controller".to_owned()));
        let reason = "there is no memory controller in cgroup v2 or v1".to_owned();
        assert_eq!(signals.cgroup_memory.exactness, Exactness::Missing { reason: reason.clone() });
        assert_eq!(signals.cgroup_peak.exactness, Exactness::Missing { reason });
        assert!(matches!(signals.thp_events.exactness, Exactness::Missing { .. }));
        assert_eq!(signals.oom_kills.exactness, Exactness::Missing { reason: "no memory controller".to_owned() });
    }

    #[test]
    fn a_reading_that_fails_is_a_doubt_and_a_phase_that_does_not_end_has_no_peak() {
        let cgroup = FakeCgroup::v2();
        let mut fake = fake(&cgroup, None);
        cgroup.holds(1, 1);
        let mut collector = CgroupCollector::default();
        collector.reach(Boundary::MeasureStart, &mut fake.scene);
        collector.read_memory(&fake.scene);
        cgroup.remove("memory.stat");
        collector.read_memory(&fake.scene);
        let signals = collector.into_signals(Ok(0));
        assert!(
            matches!(signals.cgroup_memory.exactness, Exactness::Inexact { reason } if reason.contains("memory.stat"))
        );
        assert_eq!(signals.cgroup_peak.exactness, Exactness::Missing { reason: NOT_REACHED.to_owned() });
    }

    #[test]
    fn what_fills_fast_is_read_until_the_kill_and_not_after_it() {
        const LIMIT: u64 = 64 * MIB;
        let cgroup = FakeCgroup::v2();
        let mut fake = fake(&cgroup, Some(LIMIT));
        let mut collector = CgroupCollector::default();
        let mut look = |shmem: u64| {
            cgroup.holds(shmem, 11 * MIB);
            collector.look(&mut fake.scene);
            collector.last.map(|last| last.at_ns)
        };
        let first = look(MIB);
        assert!(first.is_some() && look(MIB) == first, "what is at rest is not read again");
        let second = look(20 * MIB);
        assert!(second > first && look(20 * MIB) == second);
        assert!(look(52 * MIB) > second);
        cgroup.holds(0, 0);
        cgroup.write("memory.events", "oom_kill 1\n");
        collector.read_memory(&fake.scene);
        assert_eq!(
            collector.before_the_kill(Some(LIMIT)).unwrap(),
            "when the kernel killed for memory, the service's cgroup held 63.0 MiB of at most 64.0 MiB: 52.0 MiB of \
             shared memory (tmpfs), 11.0 MiB anonymous"
        );
        let memory = collector.into_signals(Ok(1)).cgroup_memory.data;
        assert!(memory.at_ns.is_sorted());
        assert_eq!(memory.shmem, [52 * MIB, 0], "the last reading before the kill is in the evidence");
    }

    #[test]
    fn file_pages_that_can_be_freed_do_not_bring_the_limit_nearer() {
        let at = |at_ns, value| At { at_ns, value };
        let mut collector = CgroupCollector { charged: Some(at(0, 90 * MIB)), ..CgroupCollector::default() };
        assert!(collector.is_near(100 * MIB, at(50_000_000, 92 * MIB)), "at 40 MiB/s");
        let value = MemoryReading { inactive_file: 80 * MIB, current: 90 * MIB, ..MemoryReading::default() };
        collector.last = Some(At { at_ns: 0, value });
        assert!(!collector.is_near(100 * MIB, at(50_000_000, 92 * MIB)));
        assert!(!collector.is_near(100 * MIB, at(0, 90 * MIB)), "no time has passed");
    }

    #[test]
    fn other_processes_are_noticed_in_the_cgroup() {
        let cgroup = FakeCgroup::v2();
        let mut fake = fake(&cgroup, None);
        fake.proc.other(4243, "worker");
        let mut collector = CgroupCollector::default();
        cgroup.write("cgroup.procs", &format!("{PID}\n"));
        collector.look(&mut fake.scene);
        assert_eq!(fake.scene.service.other_processes(u64::MAX), None);
        cgroup.write("cgroup.procs", &format!("{PID}\n4243\n"));
        collector.look(&mut fake.scene);
        assert!(fake.scene.service.other_processes(u64::MAX).unwrap().contains("worker"));
        collector.look(&mut fake.scene);
        assert!(fake.scene.service.doubt(1).unwrap().ends_with("worker"));
    }

    #[test]
    fn huge_pages_are_a_series() {
        let cgroup = FakeCgroup::v2();
        let fake = fake(&cgroup, None);
        let mut collector = CgroupCollector::default();
        cgroup.holds(1, 1);
        collector.read_memory(&fake.scene);
        let counts = "thp_fault_alloc 2\nthp_collapse_alloc 1\n";
        cgroup.write("memory.stat", &format!("anon 1\nfile 1\nshmem 1\ninactive_file 0\n{counts}"));
        collector.read_memory(&fake.scene);
        let signals = collector.into_signals(Ok(1));
        assert_eq!((signals.thp_events.data.value, signals.oom_kills.data), (vec![3], 1));
    }
}
