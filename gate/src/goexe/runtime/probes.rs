//! Where probes go: calls in the runtime, which the kernel emulates, and what can be read there.
//!
//! Every count below was found in the sources of Go 1.21 to 1.27; another count means code that memgate does not know.

use super::{
    super::{CallSite, Field, Global, GoExe},
    Fact,
    variables::variable,
};
use crate::arch::{self, ArgumentLocation};

/// The first version that passes a `worldStop` to `startTheWorldWithSema`, which records the pause.
const WORLD_STOP: u32 = 22;

/// Where the runtime records pauses: calls of `(*timeHistogram).record(h, duration)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pauses {
    /// The calls.
    pub sites: Vec<CallSite>,
    /// `h`, the address of a histogram: one of the two that follow.
    pub histogram: ArgumentLocation,
    /// The pause, ns.
    pub duration: ArgumentLocation,
    /// Address of the histogram of the GC's pauses: `sched.stwTotalTimeGC`; in Go 1.21 `memstats.gcPauseDist`.
    pub gc: u64,
    /// Address of that of all other pauses, `sched.stwTotalTimeOther`; Go 1.21 does not record them.
    pub other: Option<u64>,
    /// `timeHistogram.counts`, an array of uint64.
    pub counts: Field,
    /// `timeHistogram.underflow`, a uint64.
    pub underflow: Field,
    /// `timeHistogram.overflow`, a uint64.
    pub overflow: Field,
}

impl Pauses {
    pub(super) fn read(exe: &GoExe, minor: u32) -> Fact<Self> {
        const RECORD: &str = "runtime.(*timeHistogram).record";
        // In Go 1.21 the functions of the GC record their pauses themselves, at the end of each of its two, three where
        // mark termination is taken back.
        const GC: [&str; 3] = ["runtime.gcStart", "runtime.gcMarkDone", "runtime.gcMarkTermination"];
        let sema = minor >= WORLD_STOP;
        let wanted = |caller: &str| match sema {
            true => caller == "runtime.startTheWorldWithSema",
            false => GC.iter().any(|name| caller.starts_with(name)),
        };
        let calls = exe.code.calls_of(RECORD).into_iter().filter(|(caller, _)| wanted(caller));
        let sched = |path| variable(exe, Global::Sched, "runtime.schedt", path);
        let (gc, other) = match sema {
            true => (sched("stwTotalTimeGC")?, Some(sched("stwTotalTimeOther")?)),
            false => (variable(exe, Global::Memstats, "runtime.mstats", "gcPauseDist")?, None),
        };
        let part = |path| exe.field("runtime.timeHistogram", path);
        Ok(Self {
            sites: exactly(calls.map(|(_, site)| site).collect(), if sema { 2 } else { 3 }, RECORD)?,
            histogram: argument(exe, minor, 0)?,
            duration: argument(exe, minor, 1)?,
            gc,
            other,
            counts: part("counts")?,
            underflow: part("underflow")?,
            overflow: part("overflow")?,
        })
    }
}

/// Where the world is started again: calls of `startTheWorldWithSema(now, worldStop)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorldStarts {
    /// The calls, each with the function that it is in, which tells the GC's from others.
    pub sites: Vec<(String, CallSite)>,
    /// `worldStop.reason`, a uint8 (the other bits of a register are not defined): an index of `stwReasonStrings`. Go 1.21
    /// does not pass it.
    pub reason: Option<ArgumentLocation>,
    /// `worldStop.startedStopping` (`start` in Go 1.22): ns, on the clock of `nanotime`. Go 1.21 does not pass it.
    pub stopping_since: Option<ArgumentLocation>,
}

impl WorldStarts {
    pub(super) fn read(exe: &GoExe, minor: u32) -> Fact<Self> {
        const START: &str = "runtime.startTheWorldWithSema";
        let calls = exe.code.calls_of(START);
        let passed = |index| if minor >= WORLD_STOP { argument(exe, minor, index).map(Some) } else { Ok(None) };
        let starts = calls.into_iter().map(|(caller, site)| (caller.to_owned(), site)).collect();
        Ok(Self { sites: some(starts, START)?, reason: passed(1)?, stopping_since: passed(2)? })
    }
}

/// Where a cycle's live heap is told: the call of `(*gcControllerState).resetLive(bytesMarked)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveHeap {
    /// The call, once a cycle.
    pub site: CallSite,
    /// The live heap after mark, bytes.
    pub bytes: ArgumentLocation,
}

impl LiveHeap {
    pub(super) fn read(exe: &GoExe, minor: u32) -> Fact<Self> {
        let site = one(exe.runtime_call_sites(RESET_LIVE), RESET_LIVE)?;
        Ok(Self { site, bytes: argument(exe, minor, 1)? })
    }
}

const RESET_LIVE: &str = "runtime.(*gcControllerState).resetLive";

/// A call of `runtime.mmap(addr, n, prot, flags, fd, off) (p, err)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MmapSite {
    /// The function that it is in.
    pub function: String,
    /// The call itself.
    pub call: CallSite,
    /// The first conditional branch behind it, which the kernel emulates, where the results can still be read. `None` where
    /// the code does without: there the mapping is at a fixed address, which argument 0 tells, or the results move on first.
    pub result: Option<CallSite>,
}

/// Where the runtime maps and unmaps memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mmaps {
    /// The calls of `mmap`.
    pub sites: Vec<MmapSite>,
    /// The address asked for, at the call; 0 for any.
    pub address: ArgumentLocation,
    /// The length, bytes, at the call.
    pub length: ArgumentLocation,
    /// Where the mapping begins, at [`MmapSite::result`].
    pub mapped: ArgumentLocation,
    /// The error number, 0 for none, at [`MmapSite::result`].
    pub error: ArgumentLocation,
    /// The calls of `munmap(addr, n)`, whose arguments lie where those of `mmap` do.
    pub unmaps: Vec<CallSite>,
}

impl Mmaps {
    pub(super) fn read(exe: &GoExe, minor: u32) -> Fact<Self> {
        const MMAP: &str = "runtime.mmap";
        let sites = exe.code.calls_of(MMAP).into_iter().map(|(caller, call)| MmapSite {
            function: caller.to_owned(),
            call,
            result: exe.code.branch_behind(call),
        });
        let result = |index: usize| match argument(exe, minor, index)? {
            // Behind arguments of 8, 8, 4, 4, 4 and 4 bytes.
            ArgumentLocation::Stack(first) => Ok::<_, String>(ArgumentLocation::Stack(first + 32)),
            register => Ok(register),
        };
        Ok(Self {
            sites: some(sites.collect(), MMAP)?,
            address: argument(exe, minor, 0)?,
            length: argument(exe, minor, 1)?,
            mapped: result(0)?,
            error: result(1)?,
            unmaps: some(exe.runtime_call_sites("runtime.munmap"), "runtime.munmap")?,
        })
    }
}

/// Where the runtime records an allocation that it samples: the call of `stkbucket(typ, size, stk, alloc)` in `mProf_Malloc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocSamples {
    /// The call.
    pub site: CallSite,
    /// Bytes allocated.
    pub size: ArgumentLocation,
    /// Address of the stack: return addresses, the innermost first.
    pub stack: ArgumentLocation,
    /// How many there are.
    pub depth: ArgumentLocation,
    /// Address of `MemProfileRate`, an int: bytes between samples.
    pub rate: u64,
    /// Address of `disableMemoryProfiling`, a bool: where it is set when the process starts, nothing is sampled.
    pub disabled: u64,
}

impl AllocSamples {
    pub(super) fn read(exe: &GoExe, minor: u32) -> Fact<Self> {
        Ok(Self {
            site: one(exe.call_sites("runtime.mProf_Malloc", "runtime.stkbucket"), "runtime.stkbucket")?,
            size: argument(exe, minor, 1)?,
            stack: argument(exe, minor, 2)?,
            depth: argument(exe, minor, 3)?,
            rate: exe.global(Global::MemProfileRate)?,
            disabled: exe.global(Global::DisableMemoryProfiling)?,
        })
    }
}

/// Where spans are taken for allocation, not for each allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanRefills {
    /// The calls of `(*mcentral).cacheSpan`, each of which gives a cache another span.
    pub refills: Vec<CallSite>,
    /// The calls of `(*mcentral).grow` in it, each of which takes a span from the heap.
    pub grows: Vec<CallSite>,
    /// The address of the `mcentral`, at both.
    pub mcentral: ArgumentLocation,
    /// `mcentral.spanclass`, a uint8.
    pub span_class: Field,
}

impl SpanRefills {
    pub(super) fn read(exe: &GoExe, minor: u32) -> Fact<Self> {
        const CACHE: &str = "runtime.(*mcentral).cacheSpan";
        const GROW: &str = "runtime.(*mcentral).grow";
        Ok(Self {
            refills: some(exe.runtime_call_sites(CACHE), CACHE)?,
            grows: some(exe.call_sites(CACHE, GROW), GROW)?,
            mcentral: argument(exe, minor, 0)?,
            span_class: exe.field("runtime.mcentral", "spanclass")?,
        })
    }
}

fn argument(exe: &GoExe, minor: u32, index: usize) -> Fact<ArgumentLocation> {
    arch::argument(exe.platform, minor, index).ok_or_else(|| format!("argument {index} is not in a register"))
}

fn exactly(sites: Vec<CallSite>, count: usize, callee: &str) -> Fact<Vec<CallSite>> {
    if sites.len() == count {
        return Ok(sites);
    }
    Err(format!("{} calls of `{callee}` were found where {count} were expected", sites.len()))
}

fn one(sites: Vec<CallSite>, callee: &str) -> Fact<CallSite> {
    match sites.as_slice() {
        [site] => Ok(*site),
        _ => Err(format!("{} calls of `{callee}` were found where 1 was expected", sites.len())),
    }
}

fn some<T>(sites: Vec<T>, callee: &str) -> Fact<Vec<T>> {
    if sites.is_empty() { Err(format!("no call of `{callee}` was found")) } else { Ok(sites) }
}
