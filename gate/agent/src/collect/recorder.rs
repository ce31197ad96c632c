//! All collectors of one service, read together.

use std::{
    collections::HashMap,
    fs,
    ops::Range,
    os::unix::fs::MetadataExt as _,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use memgate_ebpf::RANGES;
use memgate_evidence::{
    Series,
    error::{Error, Result, Stage},
    plan::Collecting,
    tier::Tier,
};
use memgate_goexe::{FileIdentity, FunctionTable, GoExe, Runtime, probes::ProbedSignal};
use nix::unistd::Pid;
use procfs::process::{Process, Stat};

use super::{
    Bpf, CounterLayout, CounterReader, Counters, HeapProfileReader, OffHeapReader, ProcessMemory,
    address_space::huge_pages,
    attach::{Attached, attach},
    buckets::PauseBuckets,
    code::Symboliser,
    first_touch::FirstTouches,
    goroutines,
    refills::RefillWindows,
    sampling::Sampling,
    spans::SpanClasses,
    taken::{Histograms, Sample, Taken, note},
    unwind::Unwinder,
};
use crate::{clock::Clock, environment, load::Progress};

/// How the collectors work.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What of it the user decides.
    pub collecting: Collecting,
    /// How much the buffer for records holds, bytes: a power of two from 4096 on.
    pub buffer_bytes: u32,
}

impl Default for Options {
    /// 2 MiB hold 43,690 records with their headers: most of a second of 50,000 events a second, which are what 10,000 GC cycles
    /// make; the sampler comes ten times a second, unless the machine is busy.
    fn default() -> Self {
        Self { collecting: Collecting::default(), buffer_bytes: 2 << 20 }
    }
}

/// From the start of the load to the setting of the rate of sampling, ns.
const ADJUST_AFTER_NS: u64 = 1_000_000_000;

/// Reads every collector of one service and keeps what they gave.
pub struct Recorder {
    pub(super) runtime: Runtime,
    /// What of the executable stays: names for its addresses.
    pub(super) functions: Result<Arc<FunctionTable>, String>,
    pub(super) attached: Attached,
    counters: Result<CounterReader, String>,
    pub(super) heap_profile: Result<HeapProfileReader, String>,
    sampling: Result<Sampling, String>,
    /// When the service was ready and idle, ns since launch, and what it had allocated by then, bytes.
    idle: Option<(u64, u64)>,
    spans: Option<SpanClasses>,
    memory: ProcessMemory,
    process: Process,
    /// What was launched.
    identity: Identity,
    pub(super) off_heap: Result<OffHeapReader, String>,
    pub(super) touches: FirstTouches,
    /// The runtime's mappings that the BPF programs know.
    left_out: Vec<Range<u64>>,
    pub(super) refills: RefillWindows,
    pub(super) code: Symboliser,
    pub(super) bias: u64,
    histograms: Option<Histograms>,
    /// Pauses by the runtime's own histogram, where there are no probes for them.
    pub(super) buckets: Option<PauseBuckets>,
    progress: Option<Arc<Progress>>,
    clock: Clock,
    ticks: u32,
    pub(super) taken: Taken,
}

impl Recorder {
    /// Attaches every collector to the process `pid`, which runs `exe` and is best stopped before its first instruction: what
    /// happened before this call is not seen.
    ///
    /// # Errors
    /// When the process's memory cannot be read. What the kernel refuses of BPF loses signals, or lowers the tier.
    pub fn attach(exe: &GoExe, pid: Pid, clock: Clock, options: Options) -> Result<Self> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Error::infrastructure(Stage::Collect, format!("{what}: {error}"), "mount procfs at /proc and run as root")
        };
        let process = Process::new(pid.as_raw()).map_err(|error| failed("the service's entry in /proc", &error))?;
        let bias = load_bias(exe, &process).map_err(|error| failed("where the service is loaded", &error))?;
        let running =
            fs::metadata(format!("/proc/{pid}/exe")).map_err(|error| failed("the service's executable", &error))?;
        if exe.file.is_some_and(|file| file != FileIdentity::of(&running)) {
            let message = format!("{} was replaced between its reading and its start", exe.path.display());
            return Err(Error::infrastructure(
                Stage::Collect,
                message,
                "run memgate again when nothing builds it meanwhile",
            ));
        }
        let stat = process.stat().map_err(|error| failed("the service's status", &error))?;
        let identity = Identity::of(pid.as_raw(), &stat).map_err(|error| failed("the service's executable", &error))?;
        let memory = ProcessMemory::new(pid);
        let page_size = environment::page_size();
        let segments = exe.segments.iter().map(|segment| {
            let start = segment.start & !(page_size - 1);
            let end = segment.end.checked_next_multiple_of(page_size).unwrap_or(u64::MAX);
            start.wrapping_add(bias)..end.wrapping_add(bias)
        });
        let off_heap = OffHeapReader::new(pid.as_raw(), segments.collect(), page_size);
        let attached = attach(exe, pid, options)?;
        let runtime = &exe.runtime;
        Ok(Self {
            off_heap: match attached.lost(ProbedSignal::Mappings) {
                Some(reason) => Err(format!("the runtime's own mappings are not known: {reason}")),
                None => off_heap.map_err(|error| error.to_string()),
            },
            counters: CounterLayout::of(runtime).map(|layout| CounterReader::new(memory, layout, bias)),
            heap_profile: runtime.heap_profile.clone().map(|layout| HeapProfileReader::new(memory, layout, bias)),
            sampling: Sampling::switch_on(memory, exe, bias),
            idle: None,
            spans: runtime.spans.as_ref().ok().map(|spans| SpanClasses::new(memory, *spans, exe.platform, bias)),
            touches: FirstTouches::new(Unwinder::new(pid.as_raw(), exe.platform), exe.platform, page_size),
            left_out: Vec::new(),
            refills: RefillWindows::default(),
            histograms: runtime.pauses.as_ref().ok().map(|pauses| Histograms {
                gc: pauses.gc.wrapping_add(bias),
                other: pauses.other.map(|other| other.wrapping_add(bias)),
            }),
            buckets: match (&runtime.pauses, attached.lost(ProbedSignal::Pauses)) {
                (Ok(pauses), Some(_)) => Some(PauseBuckets::new(memory, pauses, bias)),
                _ => None,
            },
            code: Symboliser::default(),
            attached,
            memory,
            process,
            identity,
            bias,
            progress: None,
            clock,
            ticks: 0,
            taken: Taken::default(),
            runtime: runtime.clone(),
            functions: exe.function_table.clone(),
        })
    }

    /// The tier that the collectors use.
    pub const fn tier(&self) -> Tier {
        self.attached.tier
    }

    /// Bytes allocated since the launch as last read; `None` before the first reading.
    pub fn allocated(&self) -> Option<u64> {
        self.taken.last.map(|last| last.alloc_bytes)
    }

    /// Objects allocated since the launch as last read; `None` before the first reading.
    pub fn allocated_objects(&self) -> Option<u64> {
        self.taken.last.map(|last| last.alloc_objects)
    }

    /// Forgets the goroutines of the service's start, so that the next reading is the first, and takes down where those come
    /// from that there are now.
    pub fn start_idle(&mut self) {
        self.idle = self.taken.last.map(|last| (self.clock.now_ns(), last.alloc_bytes));
        self.taken.goroutines = Series::default();
        self.take_goroutine_sites(0);
    }

    /// From now on also takes down how many requests have succeeded.
    pub fn watch_requests(&mut self, progress: Arc<Progress>) {
        self.progress = Some(progress);
    }

    /// From now on counts from this launch.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// Hands over what waits in the kernel's buffers.
    pub fn drain(&mut self) {
        let Self { attached, taken, clock, histograms, touches, code, functions, left_out, .. } = self;
        let Some(bpf) = &mut attached.bpf else { return };
        bpf.drain(|record| taken.record(record, *clock, *histograms));
        let functions = functions.as_deref().ok();
        bpf.drain_faults(|fault| {
            // What the runtime had just mapped, the programs did not know of.
            if !taken.ranges.contains(fault.address) {
                touches.take(fault, functions, code);
            }
        });
        let largest = taken.ranges.largest(RANGES);
        if *left_out != largest {
            if let Err(error) = bpf.leave_out(&largest) {
                attached.no_captures.get_or_insert_with(|| error.to_string());
            }
            *left_out = largest;
        }
        self.group_samples();
    }

    /// Groups the allocations sampled since the last call.
    fn group_samples(&mut self) {
        let objects = std::mem::take(&mut self.taken.sampled);
        let classes = match &mut self.spans {
            // A process that has ended has no spans any more, and no harm is done.
            Some(spans) => spans.of(&objects).unwrap_or_else(|_| vec![SpanClasses::UNKNOWN; objects.len()]),
            None => vec![SpanClasses::UNKNOWN; objects.len()],
        };
        for (object, span_class) in objects.into_iter().zip(classes) {
            let sample = Sample { bucket: object.bucket, goroutine: object.goroutine, span_class };
            *self.taken.samples.entry(sample).or_insert(0) += 1;
        }
    }

    /// Reads the counters, the resident set and the page faults, as exactly as can be.
    pub fn sample(&mut self) {
        self.read(3);
    }

    /// The same, with so many attempts at the counters.
    fn read(&mut self, attempts: u32) {
        self.drain();
        let at_ns = self.clock.now_ns();
        let counters = self.counters.as_ref().ok().map(|reader| reader.read(attempts));
        // Looked at after the reading, and in any case: in another program the counters' addresses may not even be mapped.
        let stat = self.process.stat();
        let is_itself = self.is_still_itself(stat.as_ref().ok());
        // Where they cannot be read the signals are missing, which is said elsewhere.
        if let Some(counters) = counters.filter(|_| is_itself)
            && let Err(reason) =
                counters.map_err(|error| error.to_string()).and_then(|counters| self.take_counters(at_ns, counters))
        {
            note(&mut self.taken.failures.counters, reason);
        }
        if let Some(progress) = &self.progress {
            self.taken.completed.push(at_ns, progress.succeeded.load(Ordering::Relaxed));
        }
        if let Err(error) = stat.and_then(|stat| self.sample_process(at_ns, &stat)) {
            note(&mut self.taken.failures.process, error.to_string());
        }
        self.allow_captures();
        self.adjust_sampling(ADJUST_AFTER_NS);
    }

    /// Sets the rate of sampling, once, when the load has lasted so long.
    fn adjust_sampling(&mut self, after_ns: u64) {
        let (Ok(sampling), Some((idle_ns, idle_bytes)), Some(last)) = (&mut self.sampling, self.idle, self.taken.last)
        else {
            return;
        };
        let loaded_ns = self.clock.now_ns().saturating_sub(idle_ns);
        if sampling.is_adjusted() || loaded_ns < after_ns || loaded_ns == 0 || self.taken.failures.replaced.is_some() {
            return;
        }
        let allocated = u128::from(last.alloc_bytes.saturating_sub(idle_bytes));
        let bytes_per_second = allocated * 1_000_000_000 / u128::from(loaded_ns);
        if let Err(error) = sampling.adjust(u64::try_from(bytes_per_second).unwrap_or(u64::MAX)) {
            note(&mut self.taken.failures.sampling, format!("the rate of sampling cannot be set: {error}"));
        }
    }

    fn take_counters(&mut self, at_ns: u64, counters: Option<Counters>) -> Result<(), String> {
        // Before the runtime has set itself up there is nothing to read.
        let Some(counters) = counters else { return Ok(()) };
        let before = self.taken.last.map_or(0, |last| last.gc_cycles);
        let new_cycles = counters.gc_cycles.saturating_sub(before);
        self.taken.counters(at_ns, counters);
        if let Some(buckets) = &mut self.buckets {
            for upper_end_ns in buckets.read().map_err(|error| format!("the histogram of pauses: {error}"))? {
                self.taken.gc_pauses.push(at_ns, upper_end_ns);
            }
        }
        if self.attached.lost(ProbedSignal::LiveHeap).is_some() {
            // An entry a cycle, also where one was too fast to be seen.
            for _ in 0..new_cycles.min(1 << 20) {
                self.taken.live_heap.push(at_ns, counters.live_heap);
            }
        }
        if let Ok(gc_cpu) = &self.runtime.gc_cpu
            && new_cycles > 0
        {
            let word =
                |address: u64| self.memory.word(address.wrapping_add(self.bias)).map_err(|error| error.to_string());
            let (gc_ns, total_ns) = (word(gc_cpu.gc_ns)?, word(gc_cpu.total_ns)?);
            let columns = &mut self.taken.gc_cpu;
            columns.at_ns.push(at_ns);
            columns.gc_ns.push(gc_ns);
            columns.total_ns.push(total_ns);
        }
        Ok(())
    }

    /// Whether the process still runs the executable that was launched: addresses hold in no other.
    fn is_still_itself(&mut self, stat: Option<&Stat>) -> bool {
        match stat.and_then(|stat| Identity::of(self.process.pid(), stat).ok()) {
            Some(now) if now == self.identity => {}
            Some(_) => {
                let other = self.process.exe().map_or_else(|_| "another".to_owned(), |path| path.display().to_string());
                note(
                    &mut self.taken.failures.replaced,
                    format!("the service replaced itself by a new execution of {other}"),
                );
            }
            // It has ended; the readings themselves say so.
            None => {}
        }
        self.taken.failures.replaced.is_none()
    }

    fn sample_process(&mut self, at_ns: u64, stat: &Stat) -> procfs::ProcResult<()> {
        let status = self.process.status()?;
        // A process that has ended still has a status, which tells nothing of its memory.
        let gone = || procfs::ProcError::NotFound(None);
        let bytes = |kibibytes: Option<u64>| kibibytes.unwrap_or(0) * 1024;
        let kinds = [status.rssanon, status.rssfile, status.rssshmem].map(bytes);
        let resident = match (status.rssanon, status.vmrss) {
            (Some(_), _) => kinds.iter().sum(),
            // Linux before 4.5 does not tell the kinds.
            (None, Some(resident)) => bytes(Some(resident)),
            (None, None) => return Err(gone()),
        };
        self.taken.rss.push(at_ns, resident);
        let by_kind = &mut self.taken.rss_kinds;
        by_kind.at_ns.push(at_ns);
        by_kind.anonymous.push(kinds[0]);
        by_kind.file.push(kinds[1]);
        by_kind.shared.push(kinds[2]);
        self.taken.page_faults.push(at_ns, stat.minflt + stat.majflt);
        if stat.cminflt > 0 {
            self.taken.children.insert("one that has ended".to_owned());
        }
        Ok(())
    }

    /// Lets the BPF programs capture first touches until the next tick.
    fn allow_captures(&mut self) {
        /// Captures of all CPUs between two ticks: each costs some microseconds there and some tens here.
        const CAPTURES: u64 = 64;
        let Some(bpf) = &mut self.attached.bpf else { return };
        if let Err(error) = bpf.allow_captures(CAPTURES) {
            self.attached.no_captures.get_or_insert_with(|| error.to_string());
        }
    }

    /// Tells the BPF programs the runtime's threads, so that the C stacks of their captures go on in Go.
    fn name_threads(&mut self) {
        let (Some(bpf), Ok(threads)) = (&mut self.attached.bpf, &self.runtime.threads) else { return };
        for (thread, m) in goroutines::threads(self.memory, threads, self.bias).unwrap_or_default() {
            // One thread too many loses the Go part of its stacks, nothing else.
            let _ = bpf.name_thread(thread, m);
        }
    }

    /// Reads the process's mappings and the pages of those that are not the runtime's: off-heap memory.
    ///
    /// What the runtime maps while they are read would count as off-heap, so that they are read again then. It touches a mapping
    /// only when the probe behind its making has told of it: what is told in the end is all that can have been resident.
    pub fn sample_off_heap(&mut self) {
        /// A runtime that maps during each of them is starting, or grows fast; the next reading comes soon.
        const ATTEMPTS: u32 = 3;
        self.name_threads();
        for _ in 0..ATTEMPTS {
            let mapped = self.taken.mapped;
            let Ok(reader) = &self.off_heap else { return };
            let at_ns = self.clock.now_ns();
            let read = reader.maps(&self.taken.ranges).and_then(|maps| {
                self.touches.refresh(&maps);
                reader.resident(&maps, &self.taken.ranges)
            });
            self.drain();
            match read {
                Ok(_) if self.taken.mapped != mapped => {}
                Ok(off_heap) => return self.taken.off_heap.push(at_ns, off_heap),
                Err(error) => return note(&mut self.taken.failures.off_heap, error.to_string()),
            }
        }
    }

    /// Reads how much of the process lies in huge pages, which costs a walk over all of its page tables: some milliseconds.
    pub fn sample_huge_pages(&mut self) {
        let Ok(reader) = &self.off_heap else { return };
        let at_ns = self.clock.now_ns();
        match reader.maps_with_resident() {
            Ok(maps) => self.taken.huge_pages.push(at_ns, huge_pages(&maps)),
            Err(error) => note(&mut self.taken.failures.off_heap, error.to_string()),
        }
    }

    /// The measuring phase begins.
    pub fn start_measuring(&mut self) {
        self.drain();
        // 5 resets the high-water mark: Documentation/filesystems/proc.rst (Linux 6.18).
        let reset = fs::write(format!("/proc/{}/clear_refs", self.process.pid()), "5");
        self.taken.rss_peak = Some(reset.map(|()| 0).map_err(|error| format!("the peak cannot be reset: {error}")));
        self.adjust_sampling(0);
        self.take_profiles(0);
        self.taken.measuring = true;
    }

    /// The measuring phase ends.
    pub fn end_measuring(&mut self) {
        if let Some(Ok(peak)) = &mut self.taken.rss_peak {
            match self.process.status().map(|status| status.vmhwm) {
                Ok(Some(kibibytes)) => *peak = kibibytes * 1024,
                Ok(None) => self.taken.rss_peak = Some(Err("/proc/PID/status has no VmHWM".to_owned())),
                Err(error) => self.taken.rss_peak = Some(Err(error.to_string())),
            }
        }
        self.drain();
        self.taken.measuring = false;
        self.take_profiles(1);
        self.take_goroutine_sites(1);
    }

    /// Takes down the heap profile and who touched the off-heap memory, at the measuring phase's start (0) or end (1).
    fn take_profiles(&mut self, end: usize) {
        let rate = self.sampling.as_ref().map_err(Clone::clone);
        self.taken.rate(end, rate.and_then(|sampling| sampling.rate().map_err(|error| error.to_string())));
        if let Ok(reader) = &mut self.heap_profile {
            match reader.counts() {
                Ok(counts) => self.taken.heap_profile[end] = Some(counts),
                Err(error) => note(&mut self.taken.failures.heap_profile, error.to_string()),
            }
        }
        let Ok(reader) = &self.off_heap else { return };
        let resident = reader.maps(&self.taken.ranges).map_err(|error| error.to_string()).and_then(|maps| {
            let ranges = reader.ranges(&maps, &self.taken.ranges);
            self.touches.resident(reader.page_map(), &ranges).map_err(|error| error.to_string())
        });
        match resident {
            Ok(resident) => self.taken.off_heap_sites[end] = Some(resident),
            Err(reason) => note(&mut self.taken.failures.off_heap, reason),
        }
    }

    fn take_goroutine_sites(&mut self, when: usize) {
        let Ok(list) = &self.runtime.goroutine_list else { return };
        match goroutines::sites(self.memory, list, self.bias) {
            Ok(sites) => self.taken.goroutine_sites[when] = Some(sites),
            Err(error) => note(&mut self.taken.failures.goroutine_sites, error.to_string()),
        }
    }

    /// Does what is due each tenth of a second of a run: the kernel's buffers are emptied, and each reading is made at its interval.
    pub fn tick(&mut self) {
        /// Every how many ticks counters and `/proc` are read.
        const READ_EVERY: u32 = 2;
        /// Every how many ticks the off-heap memory is read too.
        const OFF_HEAP_EVERY: u32 = 5;
        if self.ticks.is_multiple_of(READ_EVERY) {
            // What lies between the phases' ends is for the eye; an attempt more would cost as much again.
            self.read(1);
        } else {
            self.drain();
            self.allow_captures();
        }
        self.tick_refills();
        if self.ticks.is_multiple_of(OFF_HEAP_EVERY) {
            self.sample_off_heap();
        }
        self.ticks = self.ticks.wrapping_add(1);
    }

    /// Begins and ends the windows in which refills of span caches are counted.
    fn tick_refills(&mut self) {
        let Some(bpf) = &mut self.attached.bpf else { return };
        let Ok(probes) = &self.attached.refill_probes else { return };
        let Taken { measuring, span_refills, .. } = &mut self.taken;
        if let Err(error) = self.refills.tick(bpf, probes, *measuring, self.clock, span_refills) {
            note(&mut self.taken.failures.span_refills, error.to_string());
        }
    }

    /// Takes down the processes of the service's cgroup other than the service, and the cgroup's count of huge pages.
    pub fn see_cgroup(&mut self, processes: &[Pid], thp_events: Option<u64>) {
        for other in processes.iter().filter(|pid| pid.as_raw() != self.process.pid()) {
            let name = Process::new(other.as_raw()).and_then(|process| process.stat()).map(|stat| stat.comm);
            self.taken.children.insert(name.unwrap_or_else(|_| "one that has ended".to_owned()));
        }
        if let Some(events) = thp_events {
            self.taken.thp_events.push(self.clock.now_ns(), events);
        }
    }

    /// Holds the records against the runtime's own totals: every pause and every cycle must be there. Also takes down the
    /// goroutines that are left.
    ///
    /// The runtime adds a cycle's pauses to its total at the cycle's end, so they are compared between cycles.
    pub fn cross_check(&mut self) {
        let attempts = if self.buckets.is_some() { 0 } else { 50 };
        for _ in 0..attempts {
            self.sample();
            self.drain();
            self.taken.cross_check = self.taken.difference();
            if self.taken.cross_check.is_none() {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.take_goroutine_sites(2);
    }

    /// Why the counters are not read, if they are not.
    pub(super) fn counters_missing(&self) -> Option<String> {
        self.counters.as_ref().err().cloned()
    }

    /// What the BPF programs lost, by kind, or why that is not known; `None` without BPF.
    pub(super) fn lost(&self) -> Option<Result<Vec<u64>, String>> {
        self.attached.bpf.as_ref().map(|bpf: &Bpf| bpf.lost().map_err(|error| error.to_string()))
    }
}

/// What a process executes: another execution of the same file has another stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    /// Where its first stack begins (`startstack` of /proc/PID/stat), which the kernel chooses anew for each execution.
    stack: u64,
}

impl Identity {
    fn of(pid: i32, stat: &Stat) -> std::io::Result<Self> {
        let executable = fs::metadata(format!("/proc/{pid}/exe"))?;
        Ok(Self { device: executable.dev(), inode: executable.ino(), stack: stat.startstack })
    }
}

/// What is added to an address of the file to get one of the process.
fn load_bias(exe: &GoExe, process: &Process) -> procfs::ProcResult<u64> {
    if !exe.position_independent {
        return Ok(0);
    }
    let loaded = process.exe()?;
    let is_executable =
        |map: &&procfs::process::MemoryMap| map.pathname == procfs::process::MMapPath::Path(loaded.clone());
    let maps = process.maps()?;
    let first = maps.0.iter().filter(is_executable).map(|map| map.address.0).min();
    let lowest = exe.segments.iter().map(|segment| segment.start & !(environment::page_size() - 1)).min();
    Ok(first.unwrap_or(0).wrapping_sub(lowest.unwrap_or(0)))
}

/// Counts by what is counted, for the evidence: largest first, then by key.
pub(super) fn sorted<K: Copy + Ord>(counts: &HashMap<K, u64>) -> Vec<(K, u64)> {
    let mut sorted: Vec<_> = counts.iter().map(|(key, count)| (*key, *count)).collect();
    sorted.sort_unstable_by_key(|(key, count)| (std::cmp::Reverse(*count), *key));
    sorted
}
