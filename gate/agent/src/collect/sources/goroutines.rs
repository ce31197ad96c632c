//! Goroutines by the `go` statement that started them, from the runtime's list of all goroutines.

use std::collections::{HashMap, HashSet};

use memgate_evidence::{GoroutineSites, Signal};
use memgate_goexe::{Fact, FunctionTable, GoroutineList, Runtime, Threads};

use crate::collect::{
    collector::{Boundary, Collector, Scene},
    memory::{ServiceMemory, number},
    worth::{Ending, NOT_REACHED, exact, note},
};

const SOURCE: &str = "runtime.allgs, read from the service's memory";

/// More goroutines than a measured service has: their stacks alone would take 8 GiB. memgate reads no longer list.
const MAXIMUM_GOROUTINES: u64 = 1 << 22;
/// More `go` statements than any program has.
const MAXIMUM_SITES: usize = 1 << 16;
/// The fields of a `g` lie within its 500 bytes (runtime2.go, Go 1.21 to 1.27). Others are no fields of it.
const MAXIMUM_SIZE: u64 = 4096;
/// More threads than the runtime allows: its own limit is 10,000 (`sched.maxmcount`, proc.go).
const MAXIMUM_THREADS: usize = 1 << 14;
/// Goroutines in one read.
const BATCH: usize = 4096;
/// `_Gdead` (runtime2.go, Go 1.21 to 1.27): used before, or free for use.
const DEAD: u64 = 6;
/// `_Gidle`: just allocated.
const IDLE: u64 = 0;
/// `_Gdeadextra` (Go 1.26 and 1.27): dead, and reserved for calls from C threads to Go. Earlier Go has no such status.
const DEAD_EXTRA: u64 = 11;
/// `_Gscan` is added to a status while the goroutine's stack is being scanned.
const SCAN: u64 = 0x1000;

/// Where a goroutine was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Site {
    /// Return address of the `go` statement, in the function that contains it; 0 for the main goroutine.
    created: u64,
    /// Entry of the function that the statement started.
    started: u64,
}

/// A live goroutine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Live {
    site: Site,
    /// Its number, which no other goroutine of the process has or had.
    goid: u64,
}

/// The live goroutines of each site.
type Counts = HashMap<Site, u64>;

fn count<'a>(goroutines: impl IntoIterator<Item = &'a Live>) -> Counts {
    let mut counts = Counts::new();
    for goroutine in goroutines {
        *counts.entry(goroutine.site).or_insert(0) += 1;
    }
    counts
}

/// Collects `goroutine_sites`.
pub(in crate::collect) struct GoroutineCollector {
    layout: Fact<GoroutineList>,
    /// Before the load, at the end of the measuring phase, and after the drain.
    before: Option<Counts>,
    loaded: Option<Counts>,
    left: Option<Counts>,
    /// The numbers of the goroutines at the start of the measuring phase.
    old: Option<HashSet<u64>>,
    /// Those after the drain that were not there then.
    young: Option<Counts>,
    failure: Option<String>,
}

impl GoroutineCollector {
    pub(in crate::collect) fn new(runtime: &Runtime) -> Self {
        let layout = runtime.goroutine_list.clone();
        Self { layout, before: None, loaded: None, left: None, old: None, young: None, failure: None }
    }

    pub(in crate::collect) fn into_signal(self, ending: &Ending, scene: &mut Scene) -> Signal<GoroutineSites> {
        let data = match (self.layout, self.before, self.loaded, self.left, self.young) {
            (Err(reason), ..) => Err(reason),
            (Ok(_), Some(before), Some(loaded), Some(left), Some(young)) => named([before, loaded, left, young], scene),
            (Ok(_), ..) => Err(self.failure.unwrap_or_else(|| NOT_REACHED.to_owned())),
        };
        exact(SOURCE, data, ending.doubt.clone())
    }
}

impl Collector for GoroutineCollector {
    fn reach(&mut self, boundary: Boundary, scene: &mut Scene) {
        let Ok(layout) = &self.layout else { return };
        let live = match live(&scene.memory, layout) {
            Ok(live) => live,
            Err(reason) => return note(&mut self.failure, reason),
        };
        match boundary {
            Boundary::Idle => self.before = Some(count(&live)),
            Boundary::MeasureStart => self.old = Some(live.iter().map(|goroutine| goroutine.goid).collect()),
            Boundary::MeasureEnd => self.loaded = Some(count(&live)),
            Boundary::Drained => {
                let is_young = |goroutine: &&Live| self.old.as_ref().is_none_or(|old| !old.contains(&goroutine.goid));
                self.young = Some(count(live.iter().filter(is_young)));
                self.left = Some(count(&live));
            }
        }
    }
}

/// The counts with names for the sites, without the runtime's own goroutines.
fn named(counts: [Counts; 4], scene: &mut Scene) -> Result<GoroutineSites, String> {
    let Scene { functions, code, memory, .. } = scene;
    let functions = functions.as_deref().map_err(Clone::clone)?;
    let mut sites: Vec<_> = counts.iter().flat_map(HashMap::keys).copied().collect();
    sites.sort_unstable();
    sites.dedup();
    if sites.len() > MAXIMUM_SITES {
        return Err(format!("runtime.allgs names {} `go` statements, more than any program has", sites.len()));
    }
    let mut data = GoroutineSites::default();
    for site in sites.into_iter().filter(|site| !is_system(functions, site.started.wrapping_sub(memory.bias()))) {
        let [before, loaded, left, young] = counts.each_ref().map(|counts| counts.get(&site).copied().unwrap_or(0));
        data.created.push(code.go_place(functions, site.created.wrapping_sub(1), memory.bias()));
        data.started.push(code.go_place(functions, site.started, memory.bias()));
        data.before.push(before);
        data.loaded.push(loaded);
        data.left.push(left);
        data.young.push(young);
    }
    Ok(data)
}

/// Whether a goroutine that started at this address of the file is the runtime's own (`isSystemGoroutine`,
/// traceback.go, Go 1.21 to 1.27). The runtime counts a goroutine for finalizers or clean-ups as the service's while it
/// runs one; memgate never does.
fn is_system(functions: &FunctionTable, started: u64) -> bool {
    const NOT_SYSTEM: [&str; 3] = ["runtime.main", "runtime.handleAsyncEvent", "runtime.corostart"];
    let function = functions.at(started);
    function.is_some_and(|function| function.name.starts_with("runtime.") && !NOT_SYSTEM.contains(&function.name))
}

/// The live goroutines.
///
/// # Errors
/// Fails if the process is gone or the list is invalid.
fn live(memory: &ServiceMemory, layout: &GoroutineList) -> Result<Vec<Live>, String> {
    let fields = [layout.status, layout.goid, layout.gopc, layout.startpc];
    let first = fields.iter().map(|field| field.offset).min().unwrap_or(0);
    let end = fields.iter().map(|field| field.offset.saturating_add(field.size)).max().unwrap_or(0);
    if end - first > MAXIMUM_SIZE {
        return Err(format!("the fields of runtime.g are {} bytes apart, more than in any Go", end - first));
    }
    let read = |error: nix::Error| error.to_string();
    // The length is read first, as in `atomicAllG` (proc.go). The list then has at least this length.
    let length = memory.global_word(layout.allglen).map_err(read)?;
    let list = memory.global_word(layout.allgptr).map_err(read)?;
    if length > MAXIMUM_GOROUTINES {
        return Err(format!("runtime.allgs has {length} entries, and memgate reads at most {MAXIMUM_GOROUTINES}"));
    }
    let pointers = memory.read([list], usize::try_from(length * 8).unwrap_or(0)).map_err(read)?;
    let pointers: Vec<u64> = pointers.chunks(8).map(|pointer| number::<8>(pointer, 0)).filter(|g| *g != 0).collect();
    let size = usize::try_from(end - first).unwrap_or(usize::MAX);
    let at = |offset: u64| usize::try_from(offset - first).unwrap_or(usize::MAX);
    let mut live = Vec::new();
    for batch in pointers.chunks(BATCH) {
        let bytes = memory.read(batch.iter().map(|g| g.wrapping_add(first)), size).map_err(read)?;
        for g in bytes.chunks(size.max(1)) {
            let status = number::<4>(g, at(layout.status.offset)) & !SCAN;
            if ![IDLE, DEAD, DEAD_EXTRA].contains(&status) {
                let created = number::<8>(g, at(layout.gopc.offset));
                let started = number::<8>(g, at(layout.startpc.offset));
                let goid = number::<8>(g, at(layout.goid.offset));
                live.push(Live { site: Site { created, started }, goid });
            }
        }
    }
    Ok(live)
}

/// The runtime's threads: each thread's id with the address of its `m`.
///
/// # Errors
/// Fails if the process is gone or the list is invalid.
pub(in crate::collect) fn threads(memory: &ServiceMemory, layout: &Threads) -> nix::Result<Vec<(u32, u64)>> {
    let mut threads = Vec::new();
    let mut m = memory.global_word(layout.allm)?;
    while m != 0 {
        if threads.len() >= MAXIMUM_THREADS {
            return Err(nix::Error::ELOOP);
        }
        // A new thread may have no id yet.
        if let Ok(id @ 1..) = u32::try_from(memory.word(m.wrapping_add(layout.procid.offset))?) {
            threads.push((id, m));
        }
        m = memory.word(m.wrapping_add(layout.next.offset))?;
    }
    Ok(threads)
}

#[cfg(test)]
mod tests {
    use memgate_evidence::Exactness;
    use memgate_goexe::Field;

    use super::*;
    use crate::collect::testing::{Fake, nothing};

    fn field(offset: u64, size: u64) -> Field {
        Field { offset, size }
    }

    fn layout() -> GoroutineList {
        GoroutineList {
            allglen: 0x100,
            allgptr: 0x108,
            status: field(0, 4),
            goid: field(8, 8),
            gopc: field(16, 8),
            startpc: field(24, 8),
            parent: field(32, 8),
            wait_reason: field(40, 1),
            wait_since: field(48, 8),
            m: field(56, 8),
            syscall_sp: field(64, 8),
            syscall_pc: field(72, 8),
            sched_sp: field(80, 8),
            sched_pc: field(88, 8),
            stack_low: field(96, 8),
            stack_high: field(104, 8),
        }
    }

    /// Puts goroutines with these statuses, sites and starts into the memory.
    fn put(fake: &Fake, goroutines: &[(u32, u64, u64)]) {
        let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let addresses: Vec<u64> = (0..goroutines.len() as u64).map(|index| 0x2_0000 + index * 0x100).collect();
        let list = [goroutines.len() as u64, 0x1_0000];
        fake.memory.put(fake.scene.memory.global(0x100), &words(&list));
        fake.memory.put(0x1_0000, &words(&addresses));
        for ((address, (status, created, started)), goid) in addresses.iter().zip(goroutines).zip(1..) {
            fake.memory.put(*address, &words(&[u64::from(*status), goid, *created, *started]));
        }
    }

    #[test]
    fn scanned_goroutines_count_and_dead_ones_do_not() {
        let fake = Fake::new();
        let [running, scanned] = [2, 4 | 0x1000];
        let goroutines = [(running, 1, 2), (scanned, 1, 2), (running, 3, 2), (0, 1, 2), (6, 1, 2), (11, 1, 2)];
        put(&fake, &goroutines);
        let live = live(&fake.scene.memory, &layout()).unwrap();
        let expected = [(Site { created: 1, started: 2 }, 2), (Site { created: 3, started: 2 }, 1)];
        assert_eq!(count(&live), expected.into());
        assert_eq!(live.iter().map(|goroutine| goroutine.goid).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn a_list_that_is_too_long_is_an_error() {
        let fake = Fake::new();
        let length = MAXIMUM_GOROUTINES + 1;
        fake.memory.put(fake.scene.memory.global(0x100), &[length.to_le_bytes(), 0_u64.to_le_bytes()].concat());
        let reason = live(&fake.scene.memory, &layout()).unwrap_err();
        assert_eq!(reason, "runtime.allgs has 4194305 entries, and memgate reads at most 4194304");
    }

    #[test]
    fn fields_that_are_too_far_apart_and_too_many_sites_are_errors() {
        let mut fake = Fake::new();
        put(&fake, &[(2, 1, 2)]);
        let far = GoroutineList { startpc: field(u64::MAX, 8), ..layout() };
        let reason = live(&fake.scene.memory, &far).unwrap_err();
        assert!(reason.starts_with("the fields of runtime.g are"), "{reason}");
        fake.scene.functions = Ok(crate::collect::testing::functions());
        let site = |created| (Site { created, started: 2 }, 1);
        let counts = |sites: u64| [(); 4].map(|()| (0..sites).map(site).collect::<Counts>());
        assert!(named(counts(10), &mut fake.scene).is_ok());
        let reason = named(counts(MAXIMUM_SITES as u64 + 1), &mut fake.scene).unwrap_err();
        assert_eq!(reason, "runtime.allgs names 65537 `go` statements, more than any program has");
    }

    #[test]
    fn boundaries_are_counted_and_without_one_the_signal_is_missing() {
        let mut fake = Fake::new();
        let runtime = || memgate_goexe::Runtime { goroutine_list: Ok(layout()), ..nothing() };
        let mut collector = GoroutineCollector::new(&runtime());
        for (boundary, count) in
            [(Boundary::Idle, 1), (Boundary::MeasureStart, 4), (Boundary::MeasureEnd, 3), (Boundary::Drained, 6)]
        {
            put(&fake, &vec![(2, 1, 2); count]);
            collector.reach(boundary, &mut fake.scene);
        }
        let of = |counts: &Option<Counts>| counts.as_ref().unwrap()[&Site { created: 1, started: 2 }];
        // The last two have numbers that were not there at the start of the measuring phase.
        assert_eq!([&collector.before, &collector.loaded, &collector.left, &collector.young].map(of), [1, 3, 6, 2]);
        let signal = GoroutineCollector::new(&runtime()).into_signal(&Ending::default(), &mut fake.scene);
        assert_eq!(signal.exactness, Exactness::Missing { reason: NOT_REACHED.to_owned() });
        fake.memory.end();
        let mut collector = GoroutineCollector::new(&runtime());
        collector.reach(Boundary::Idle, &mut fake.scene);
        let signal = collector.into_signal(&Ending::default(), &mut fake.scene);
        assert!(matches!(signal.exactness, Exactness::Missing { reason } if reason.contains("ESRCH")));
    }

    #[test]
    fn threads_are_listed_until_the_end_and_a_loop_is_an_error() {
        let fake = Fake::new();
        let layout =
            Threads { allm: 0x100, g0: field(24, 8), next: field(0, 8), procid: field(8, 8), curg: field(16, 8) };
        let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        fake.memory.put(fake.scene.memory.global(0x100), &words(&[0x1000]));
        fake.memory.put(0x1000, &words(&[0x2000, 71]));
        // A new thread may have no id yet.
        fake.memory.put(0x2000, &words(&[0, 0]));
        assert_eq!(threads(&fake.scene.memory, &layout), Ok(vec![(71, 0x1000)]));
        fake.memory.put(0x2000, &words(&[0x1000, 72]));
        assert_eq!(threads(&fake.scene.memory, &layout), Err(nix::Error::ELOOP));
    }
}
