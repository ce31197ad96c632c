//! What memgate reads from a process's memory: variables of the runtime, and the structures that they lead to.
//!
//! Sources, Go 1.21 to 1.27: runtime2.go (`g`, `m`, `p`, `schedt`), mcache.go, mheap.go (`mspan`), mgcpacer.go
//! (`gcControllerState`), mstats.go (`mstats`, `heapStatsDelta`), mprof.go (`bucket`, `memRecord`), proc.go (`gcount`).

use super::{
    super::{Field, Global, GoExe},
    Fact,
};

/// Where allocations are counted: [`AllocCounters::total_alloc`] and the statistics, and what each P has not yet flushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocCounters {
    /// Address of `gcController.totalAlloc`, a uint64: bytes.
    pub total_alloc: u64,
    /// Address of `memstats.heapStats.stats`, three `heapStatsDelta`.
    pub heap_stats: u64,
    /// Size of one `heapStatsDelta`.
    pub heap_stats_size: u64,
    /// `heapStatsDelta.tinyAllocCount`, a uint64.
    pub tiny_count: Field,
    /// `heapStatsDelta.largeAllocCount`, a uint64.
    pub large_count: Field,
    /// `heapStatsDelta.smallAllocCount`, an array of uint64.
    pub small_counts: Field,
    /// Address of `allp`, a slice of pointers to `p`.
    pub allp: u64,
    /// `p.mcache`, a pointer.
    pub p_mcache: Field,
    /// `mcache.alloc`, an array of pointers to `mspan`.
    pub mcache_alloc: Field,
    /// `mcache.tinyAllocs`, a uintptr.
    pub mcache_tiny: Field,
    /// `mspan.elemsize`, a uintptr.
    pub span_element_size: Field,
    /// `mspan.allocCount`, a uint16.
    pub span_count: Field,
    /// `mspan.allocCountBeforeCache`, a uint16.
    pub span_count_before: Field,
}

impl AllocCounters {
    pub(super) fn read(exe: &GoExe) -> Fact<Self> {
        Ok(Self {
            total_alloc: variable(exe, Global::GcController, "runtime.gcControllerState", "totalAlloc")?,
            heap_stats: variable(exe, Global::Memstats, "runtime.mstats", "heapStats.stats")?,
            heap_stats_size: exe.field("runtime.heapStatsDelta", "")?.size,
            tiny_count: exe.field("runtime.heapStatsDelta", "tinyAllocCount")?,
            large_count: exe.field("runtime.heapStatsDelta", "largeAllocCount")?,
            small_counts: exe.field("runtime.heapStatsDelta", "smallAllocCount")?,
            allp: exe.global(Global::Allp)?,
            p_mcache: exe.field("runtime.p", "mcache")?,
            mcache_alloc: exe.field("runtime.mcache", "alloc")?,
            mcache_tiny: exe.field("runtime.mcache", "tinyAllocs")?,
            span_element_size: exe.field("runtime.mspan", "elemsize")?,
            span_count: exe.field("runtime.mspan", "allocCount")?,
            span_count_before: exe.field("runtime.mspan", "allocCountBeforeCache")?,
        })
    }
}

/// Totals of the garbage collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcTotals {
    /// Address of `memstats.pause_total_ns`, a uint64: `MemStats.PauseTotalNs`.
    pub pause_total_ns: u64,
    /// Address of `memstats.numgc`, a uint32: `MemStats.NumGC`.
    pub numgc: u64,
    /// Address of `gcController.heapMarked`, a uint64: the live heap as the last mark phase found it, bytes.
    pub heap_marked: u64,
}

impl GcTotals {
    pub(super) fn read(exe: &GoExe) -> Fact<Self> {
        let field = |path| variable(exe, Global::Memstats, "runtime.mstats", path);
        Ok(Self {
            pause_total_ns: field("pause_total_ns")?,
            numgc: field("numgc")?,
            heap_marked: variable(exe, Global::GcController, "runtime.gcControllerState", "heapMarked")?,
        })
    }
}

/// CPU time as the runtime accounts for it at the end of each GC cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GcCpu {
    /// Address of `work.cpuStats.GCTotalTime`, an int64: CPU time of the GC, ns.
    pub gc_ns: u64,
    /// Address of `work.cpuStats.TotalTime`, an int64: GOMAXPROCS times wall time, ns.
    pub total_ns: u64,
}

impl GcCpu {
    pub(super) fn read(exe: &GoExe) -> Fact<Self> {
        let base = variable(exe, Global::Work, "runtime.workType", "cpuStats")?;
        // Go 1.23 made the names exported.
        let field = |path, before| {
            let field = exe.field("runtime.cpuStats", path).or_else(|_| exe.field("runtime.cpuStats", before))?;
            base.checked_add(field.offset).ok_or_else(|| "`work.cpuStats` would lie past the end of memory".to_owned())
        };
        Ok(Self { gc_ns: field("GCTotalTime", "gcTotalTime")?, total_ns: field("TotalTime", "totalTime")? })
    }
}

/// What `runtime.NumGoroutine` is counted from: `allglen` less all that follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoroutineCount {
    /// Address of `allglen`, a uintptr.
    pub allglen: u64,
    /// Addresses of the lengths of the lists of free goroutines in `sched`, int32 each.
    pub sched_free: Vec<u64>,
    /// Address of `sched.ngsys`, an int32: system goroutines.
    pub system: u64,
    /// Address of `allp`, a slice of pointers to `p`.
    pub allp: u64,
    /// Length of the list of free goroutines in `p`, an int32.
    pub p_free: Field,
}

impl GoroutineCount {
    pub(super) fn read(exe: &GoExe) -> Fact<Self> {
        let field = |path| variable(exe, Global::Sched, "runtime.schedt", path);
        // Go 1.25 moved the lengths into the lists.
        let sched_free = match field("gFree.n") {
            Ok(length) => vec![length],
            Err(_) => vec![field("gFree.stack.size")?, field("gFree.noStack.size")?],
        };
        Ok(Self {
            allglen: exe.global(Global::Allglen)?,
            sched_free,
            system: field("ngsys")?,
            allp: exe.global(Global::Allp)?,
            p_free: exe.field("runtime.p", "gFree.n").or_else(|_| exe.field("runtime.p", "gFree.size"))?,
        })
    }
}

/// Where the goroutines are, and what each tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoroutineList {
    /// Address of `allglen`, a uintptr.
    pub allglen: u64,
    /// Address of `allgptr`, a pointer to that many pointers to `g`.
    pub allgptr: u64,
    /// `g.atomicstatus`, a uint32.
    pub status: Field,
    /// `g.goid`, a uint64.
    pub goid: Field,
    /// `g.gopc`, a uintptr: behind the `go` statement.
    pub gopc: Field,
    /// `g.startpc`, a uintptr: the goroutine's function.
    pub startpc: Field,
    /// `g.parentGoid`, a uint64.
    pub parent: Field,
    /// `g.waitreason`, a uint8.
    pub wait_reason: Field,
    /// `g.waitsince`, an int64: ns, on the clock of `nanotime`; 0 until a GC cycle has seen the goroutine wait.
    pub wait_since: Field,
    /// `g.m`, a pointer.
    pub m: Field,
    /// `g.syscallsp`, a uintptr; 0 unless in a system call.
    pub syscall_sp: Field,
    /// `g.syscallpc`, a uintptr.
    pub syscall_pc: Field,
    /// `g.sched.sp`, a uintptr: where a goroutine that does not run continues.
    pub sched_sp: Field,
    /// `g.sched.pc`, a uintptr.
    pub sched_pc: Field,
    /// `g.stack.lo`, a uintptr.
    pub stack_low: Field,
    /// `g.stack.hi`, a uintptr.
    pub stack_high: Field,
}

impl GoroutineList {
    pub(super) fn read(exe: &GoExe) -> Fact<Self> {
        let field = |path| exe.field("runtime.g", path);
        Ok(Self {
            allglen: exe.global(Global::Allglen)?,
            allgptr: exe.global(Global::Allgptr)?,
            status: field("atomicstatus")?,
            goid: field("goid")?,
            gopc: field("gopc")?,
            startpc: field("startpc")?,
            parent: field("parentGoid")?,
            wait_reason: field("waitreason")?,
            wait_since: field("waitsince")?,
            m: field("m")?,
            syscall_sp: field("syscallsp")?,
            syscall_pc: field("syscallpc")?,
            sched_sp: field("sched.sp")?,
            sched_pc: field("sched.pc")?,
            stack_low: field("stack.lo")?,
            stack_high: field("stack.hi")?,
        })
    }
}

/// Where the runtime's threads are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threads {
    /// Address of `allm`, a pointer to the first `m`.
    pub allm: u64,
    /// `m.alllink`, a pointer to the next.
    pub next: Field,
    /// `m.procid`, a uint64: the thread's id.
    pub procid: Field,
    /// `m.curg`, a pointer to the goroutine that runs.
    pub curg: Field,
    /// `m.g0`, a pointer to the goroutine of the scheduler's stack.
    pub g0: Field,
}

impl Threads {
    pub(super) fn read(exe: &GoExe) -> Fact<Self> {
        let field = |path| exe.field("runtime.m", path);
        Ok(Self {
            allm: exe.global(Global::Allm)?,
            next: field("alllink")?,
            procid: field("procid")?,
            curg: field("curg")?,
            g0: field("g0")?,
        })
    }
}

/// The runtime's map of its heap: from an address to its span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spans {
    /// Address of `mheap_.arenas[0]`, a pointer to an array of pointers to `heapArena`. Every platform of memgate has one such
    /// array (malloc.go, `arenaL1Bits`).
    pub arenas: u64,
    /// `heapArena.spans`, pointers to the spans of an arena's pages.
    pub arena_spans: Field,
    /// `mspan.spanclass`, a uint8.
    pub span_class: Field,
}

impl Spans {
    pub(super) fn read(exe: &GoExe) -> Fact<Self> {
        Ok(Self {
            arenas: variable(exe, Global::Mheap, "runtime.mheap", "arenas")?,
            arena_spans: exe.field("runtime.heapArena", "spans")?,
            span_class: exe.field("runtime.mspan", "spanclass")?,
        })
    }
}

/// The runtime's heap profile: a list of buckets, each a header, `nstk` program counters, and a `memRecord`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeapProfile {
    /// Address of `mbuckets`, a pointer to the first bucket.
    pub mbuckets: u64,
    /// Address of `mProfCycle`, a uint32 that holds the cycle times 2, plus 1 when it is flushed.
    pub cycle: u64,
    /// Size of a bucket's header, behind which its program counters follow.
    pub bucket_size: u64,
    /// `bucket.allnext`, a pointer to the next of all buckets.
    pub bucket_next: Field,
    /// `bucket.typ`, an int: 1 for the heap profile.
    pub bucket_type: Field,
    /// `bucket.hash`, a uintptr.
    pub bucket_hash: Field,
    /// `bucket.size`, a uintptr: bytes of one allocation.
    pub bucket_bytes: Field,
    /// `bucket.nstk`, a uintptr: program counters behind the header.
    pub bucket_depth: Field,
    /// Size of a `memRecord`.
    pub record_size: u64,
    /// `memRecord.active`, a `memRecordCycle`: what is published.
    pub active: Field,
    /// `memRecord.future`, three `memRecordCycle`: what is not published yet.
    pub future: Field,
    /// Size of a `memRecordCycle`.
    pub cycle_size: u64,
    /// `memRecordCycle.allocs`, a uintptr.
    pub allocs: Field,
    /// `memRecordCycle.frees`, a uintptr.
    pub frees: Field,
    /// `memRecordCycle.alloc_bytes`, a uintptr. Go 1.27 has none: it is `allocs` times `bucket.size`.
    pub alloc_bytes: Option<Field>,
    /// `memRecordCycle.free_bytes`, a uintptr. Go 1.27 has none: it is `frees` times `bucket.size`.
    pub free_bytes: Option<Field>,
}

impl HeapProfile {
    pub(super) fn read(exe: &GoExe) -> Fact<Self> {
        let bucket = |path| exe.field("runtime.bucket", path);
        let record = |path| exe.field("runtime.memRecord", path);
        let cycle = |path| exe.field("runtime.memRecordCycle", path);
        Ok(Self {
            mbuckets: exe.global(Global::Mbuckets)?,
            cycle: exe.global(Global::MProfCycle)?,
            bucket_size: bucket("")?.size,
            bucket_next: bucket("allnext")?,
            bucket_type: bucket("typ")?,
            bucket_hash: bucket("hash")?,
            bucket_bytes: bucket("size")?,
            bucket_depth: bucket("nstk")?,
            record_size: record("")?.size,
            active: record("active")?,
            future: record("future")?,
            cycle_size: cycle("")?.size,
            allocs: cycle("allocs")?,
            frees: cycle("frees")?,
            alloc_bytes: cycle("alloc_bytes").ok(),
            free_bytes: cycle("free_bytes").ok(),
        })
    }
}

/// The address of a field of a variable that is a structure.
pub(super) fn variable(exe: &GoExe, global: Global, structure: &str, path: &str) -> Fact<u64> {
    let (base, field) = (exe.global(global)?, exe.field(structure, path)?);
    let end = base.checked_add(field.offset).and_then(|address| address.checked_add(field.size));
    match end {
        Some(end) => Ok(end - field.size),
        None => Err(format!("`{structure}.{path}` would lie past the end of memory")),
    }
}
