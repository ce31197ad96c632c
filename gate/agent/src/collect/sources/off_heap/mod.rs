//! Resident memory that is not the Go runtime's, and who touched it first.

mod first_touch;
mod reader;

use std::{collections::HashMap, ops::Range};

use memgate_ebpf::{Fault, RANGES, kind};
use memgate_evidence::{Exactness, OffHeapSites, Series, Signal, platform::Platform};
use memgate_goexe::{Fact, Runtime, Threads, probes::ProbedSignal};
use procfs::process::MemoryMap;

use self::{
    first_touch::FirstTouches,
    reader::{OffHeapReader, maps_with_resident},
};
use super::goroutines;
use crate::collect::{
    collector::{AtEnds, Boundary, Collector, Mapped, Scene},
    programs::{Attached, Programs},
    service::ServiceProcess,
    unwind::Unwinder,
    worth::{Ending, NOT_REACHED, Worth, note},
};

const SOURCE: &str = "/proc/PID/maps and pagemap outside the ranges that runtime.mmap mapped, at 2 Hz";
const SMAPS: &str = "/proc/PID/smaps at the phases' ends";
const FIRST_TOUCH: &str = "page faults outside the Go heap with the stacks that led there, and pagemap";

/// Collects `offheap`, `huge_pages` and `offheap_sites`.
pub(in crate::collect) struct OffHeapCollector {
    reader: Result<OffHeapReader, String>,
    /// The runtime's threads: the C stacks of captures go on in Go.
    threads: Fact<Threads>,
    touches: FirstTouches,
    /// Why first touches are not captured, if they are not.
    no_captures: Option<String>,
    /// The runtime's mappings that the BPF programs know.
    left_out: Vec<Range<u64>>,
    off_heap: Series,
    huge_pages: Series,
    /// Resident bytes by stack.
    sites: AtEnds<HashMap<u32, u64>>,
    failure: Option<String>,
}

/// What it collects.
pub(in crate::collect) struct OffHeapSignals {
    pub(in crate::collect) offheap: Signal<Series>,
    pub(in crate::collect) huge_pages: Signal<Series>,
    pub(in crate::collect) offheap_sites: Signal<OffHeapSites>,
}

/// How an attempt to read the off-heap memory ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::collect) enum Attempt {
    /// There is a value, or there will be none.
    Ended,
    /// The runtime mapped memory meanwhile, which would count as off-heap.
    Disturbed,
}

/// A reading of the off-heap memory that may have been disturbed.
pub(in crate::collect) struct Unchecked {
    at_ns: u64,
    bytes: Result<u64, String>,
    changes: u64,
}

impl OffHeapCollector {
    /// `segments` is where the executable's segments are loaded, bss included.
    pub(in crate::collect) fn new(
        service: &ServiceProcess,
        segments: Vec<Range<u64>>,
        page_size: u64,
        platform: Platform,
        runtime: &Runtime,
        attached: &Attached,
    ) -> Self {
        let reader = match attached.missing(ProbedSignal::Mappings) {
            Some(reason) => Err(format!("the runtime's own mappings are not known: {reason}")),
            None => OffHeapReader::new(service, segments, page_size).map_err(|error| error.to_string()),
        };
        let unwinder = Unwinder::new(service.process().pid(), platform);
        Self {
            reader,
            threads: runtime.threads.clone(),
            touches: FirstTouches::new(unwinder, platform, page_size),
            no_captures: attached.no_captures.clone(),
            left_out: Vec::new(),
            off_heap: Series::default(),
            huge_pages: Series::default(),
            sites: AtEnds::default(),
            failure: None,
        }
    }

    /// Takes a captured touch in.
    pub(in crate::collect) fn record(&mut self, fault: &Fault, scene: &mut Touched<'_>) {
        // The programs do not know what the runtime has just mapped.
        if !scene.mapped.ranges.contains(fault.address) {
            self.touches.take(fault, scene.functions, scene.code);
        }
    }

    /// Has the programs leave the runtime's mappings out of the captures.
    pub(in crate::collect) fn leave_out(&mut self, mapped: &Mapped, programs: &mut dyn Programs) {
        let largest = mapped.ranges.largest(RANGES);
        if self.left_out != largest {
            if let Err(error) = programs.leave_out(&largest) {
                note(&mut self.no_captures, error.reason());
            }
            self.left_out = largest;
        }
    }

    /// Lets the BPF programs capture first touches until the next tick.
    pub(in crate::collect) fn allow_captures(&mut self, scene: &mut Scene) {
        /// Captures of all CPUs between two ticks: each costs some microseconds there and some tens here.
        const CAPTURES: u64 = 64;
        let Some(programs) = &mut scene.programs else { return };
        if let Err(error) = programs.allow_captures(CAPTURES) {
            note(&mut self.no_captures, error.reason());
        }
    }

    /// Tells the BPF programs the runtime's threads.
    pub(in crate::collect) fn name_threads(&self, scene: &mut Scene) {
        let (Some(programs), Ok(threads)) = (&mut scene.programs, &self.threads) else { return };
        for (thread, m) in goroutines::threads(&scene.memory, threads).unwrap_or_default() {
            // One thread too many loses the Go part of its stacks, nothing else.
            let _ = programs.name_thread(thread, m);
        }
    }

    /// Reads the process's mappings and the pages of those that are not the runtime's; `None` if there is no reader.
    ///
    /// Whoever calls drains the records and then calls [`Self::check`]: what the runtime maps while its mappings are read would
    /// count as off-heap. It touches a mapping only when the probe behind its making has recorded it, so that the records of
    /// then are all that can have been resident.
    pub(in crate::collect) fn read_once(&mut self, scene: &Scene) -> Option<Unchecked> {
        let (at_ns, changes) = (scene.clock.now_ns(), scene.mapped.changes);
        let maps = self.maps(scene)?;
        let reader = self.reader.as_ref().ok()?;
        let bytes = maps.and_then(|maps| {
            self.touches.refresh(&maps);
            reader.resident(&maps, &scene.mapped.ranges).map_err(|error| error.to_string())
        });
        Some(Unchecked { at_ns, bytes, changes })
    }

    /// Keeps a reading unless the runtime has mapped memory since.
    pub(in crate::collect) fn check(&mut self, reading: Unchecked, scene: &Scene) -> Attempt {
        match reading.bytes {
            Ok(_) if scene.mapped.changes != reading.changes => return Attempt::Disturbed,
            Ok(bytes) => self.off_heap.push(reading.at_ns, bytes),
            Err(reason) => note(&mut self.failure, reason),
        }
        Attempt::Ended
    }

    /// Reads how much of the process lies in huge pages. The kernel walks over all of its page tables: some milliseconds.
    pub(in crate::collect) fn read_huge_pages(&mut self, scene: &Scene) {
        if self.reader.is_err() {
            return;
        }
        let at_ns = scene.clock.now_ns();
        match maps_with_resident(scene.service.process()) {
            Ok(maps) => self.huge_pages.push(at_ns, huge_pages(&maps)),
            Err(error) => note(&mut self.failure, error.to_string()),
        }
    }

    fn maps(&self, scene: &Scene) -> Option<Result<Vec<MemoryMap>, String>> {
        let reader = self.reader.as_ref().ok()?;
        let maps = reader.maps(scene.service.process(), &scene.mapped.ranges);
        Some(maps.map_err(|error| error.to_string()))
    }

    /// Resident bytes by stack.
    fn by_stack(&mut self, scene: &Scene) -> Option<Result<HashMap<u32, u64>, String>> {
        let maps = self.maps(scene)?;
        let reader = self.reader.as_ref().ok()?;
        Some(maps.and_then(|maps| {
            let ranges = reader.ranges(&maps, &scene.mapped.ranges);
            self.touches.resident(reader.page_map(), &ranges).map_err(|error| error.to_string())
        }))
    }

    pub(in crate::collect) fn into_signals(self, ending: &Ending) -> OffHeapSignals {
        let (lost, unknown) = ending.lost_of(&[kind::MAPPED, kind::UNMAPPED]);
        let doubt = ending.doubt.clone().or_else(|| self.failure.clone());
        let missing = self.reader.err();
        let off_heap =
            Worth { missing: missing.clone(), doubt: doubt.clone().or(unknown), lost, otherwise: Exactness::Sampled };
        let (lost, unknown) = ending.lost_of(&[kind::FAULT]);
        let (data, missing) = match self.no_captures.or(missing) {
            Some(reason) => (OffHeapSites::default(), Some(reason)),
            None => self.sites.both().map_or_else(
                || (OffHeapSites::default(), Some(NOT_REACHED.to_owned())),
                |(start, end)| (sites(&start, &end), None),
            ),
        };
        let sites = Worth {
            missing,
            doubt: ending.doubt.clone().or(unknown),
            lost: lost + self.touches.forgotten,
            otherwise: Exactness::Sampled,
        };
        OffHeapSignals {
            offheap: off_heap.of(SOURCE, self.off_heap),
            huge_pages: Worth::sampled(doubt).of(SMAPS, self.huge_pages),
            offheap_sites: sites.of(FIRST_TOUCH, data),
        }
    }
}

impl Collector for OffHeapCollector {
    fn reach(&mut self, boundary: Boundary, scene: &mut Scene) {
        if matches!(boundary, Boundary::MeasureStart | Boundary::MeasureEnd) {
            match self.by_stack(scene) {
                Some(Ok(resident)) => self.sites.put(boundary, resident),
                Some(Err(reason)) => note(&mut self.failure, reason),
                None => {}
            }
        }
    }
}

/// What a captured touch needs of the scene.
pub(in crate::collect) struct Touched<'a> {
    pub(in crate::collect) mapped: &'a Mapped,
    pub(in crate::collect) functions: Option<&'a memgate_goexe::FunctionTable>,
    pub(in crate::collect) code: &'a mut crate::collect::code::Symboliser,
}

/// Anonymous memory in transparent huge pages, bytes.
fn huge_pages(maps: &[MemoryMap]) -> u64 {
    maps.iter().filter_map(|map| map.extension.map.get("AnonHugePages")).sum()
}

fn sites(start: &HashMap<u32, u64>, end: &HashMap<u32, u64>) -> OffHeapSites {
    let mut stacks: Vec<u32> = start.keys().chain(end.keys()).copied().collect();
    stacks.sort_unstable();
    stacks.dedup();
    let bytes = |of: &HashMap<u32, u64>| stacks.iter().map(|stack| of.get(stack).copied().unwrap_or(0)).collect();
    OffHeapSites { start_bytes: bytes(start), end_bytes: bytes(end), stack: stacks }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::testing::{Fake, attached, nothing};

    const PAGE: u64 = 4096;

    fn collector(fake: &Fake, attached: &Attached) -> OffHeapCollector {
        OffHeapCollector::new(&fake.scene.service, Vec::new(), PAGE, Platform::host(), &nothing(), attached)
    }

    fn with_maps() -> Fake {
        let fake = Fake::new();
        fake.proc.write("maps", "10000000-10004000 rw-p 00000000 00:00 0 \n");
        fake.proc.write("smaps", "10000000-10004000 rw-p 00000000 00:00 0 \nAnonHugePages:      2048 kB\n");
        fake.proc.touch(PAGE, &[0x1000_0000, 0x1000_1000]);
        fake
    }

    #[test]
    fn a_reading_counts_unless_the_runtime_mapped_meanwhile() {
        let mut fake = with_maps();
        let mut collector = collector(&fake, &attached());
        let reading = collector.read_once(&fake.scene).unwrap();
        fake.scene.mapped.changes += 1;
        assert_eq!(collector.check(reading, &fake.scene), Attempt::Disturbed);
        fake.scene.mapped.ranges.insert(0x1000_0000..0x1000_1000);
        let reading = collector.read_once(&fake.scene).unwrap();
        assert_eq!(collector.check(reading, &fake.scene), Attempt::Ended);
        collector.read_huge_pages(&fake.scene);
        let signals = collector.into_signals(&Ending::default());
        assert_eq!((signals.offheap.data.value, signals.offheap.exactness), (vec![PAGE], Exactness::Sampled));
        assert_eq!(signals.huge_pages.data.value, [2048 * 1024]);
    }

    #[test]
    fn an_ended_process_is_a_doubt() {
        let fake = with_maps();
        let mut collector = collector(&fake, &attached());
        fake.proc.end();
        let reading = collector.read_once(&fake.scene).unwrap();
        assert_eq!(collector.check(reading, &fake.scene), Attempt::Ended);
        let signals = collector.into_signals(&Ending::default());
        assert!(matches!(signals.offheap.exactness, Exactness::Inexact { .. }));
    }

    #[test]
    fn sites_are_those_of_both_ends_and_missing_without_both() {
        let mut fake = with_maps();
        let mut collector = collector(&fake, &attached());
        collector.reach(Boundary::MeasureStart, &mut fake.scene);
        assert_eq!(collector.sites.start, Some(HashMap::new()));
        collector.sites = AtEnds { start: Some([(3, PAGE)].into()), end: Some([(3, 2 * PAGE), (1, PAGE)].into()) };
        let data = collector.into_signals(&Ending::default()).offheap_sites.data;
        let expected = OffHeapSites { stack: vec![1, 3], start_bytes: vec![0, PAGE], end_bytes: vec![PAGE, 2 * PAGE] };
        assert_eq!(data, expected);
        let signals = self::collector(&fake, &attached()).into_signals(&Ending::default());
        assert_eq!(signals.offheap_sites.exactness, Exactness::Missing { reason: NOT_REACHED.to_owned() });
    }

    #[test]
    fn without_the_runtimes_mappings_there_is_no_off_heap_memory() {
        let fake = with_maps();
        let mut collector = collector(&fake, &Attached::without_programs("no BPF"));
        assert!(collector.read_once(&fake.scene).is_none());
        let signals = collector.into_signals(&Ending::default());
        let reason = "the runtime's own mappings are not known: no BPF".to_owned();
        assert_eq!(signals.offheap.exactness, Exactness::Missing { reason });
    }

    #[test]
    fn the_programs_learn_the_runtimes_mappings_once_and_a_refusal_ends_the_captures() {
        let mut fake = with_maps();
        let mut collector = collector(&fake, &attached());
        fake.scene.mapped.ranges.insert(0x1000..0x3000);
        for _ in 0..2 {
            collector.leave_out(&fake.scene.mapped, &mut fake.programs);
        }
        assert_eq!(fake.programs.left_out(), [vec![(0x1000, 0x3000)]]);
        collector.allow_captures(&mut fake.scene);
        assert_eq!(fake.programs.captures(), 64);
        fake.programs.refuse("captures");
        collector.allow_captures(&mut fake.scene);
        let signals = collector.into_signals(&Ending::default());
        assert!(
            matches!(signals.offheap_sites.exactness, Exactness::Missing { reason } if reason.contains("captures"))
        );
    }
}
