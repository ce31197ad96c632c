//! All collectors of one service, read together.

use std::{
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use memgate_ebpf::{Record, kind};
use memgate_evidence::{Code, Requests, Signals, error::Result, platform::Platform, tier::Tier};
use memgate_goexe::{GoExe, Runtime};
use nix::unistd::Pid;

use super::{
    code::Symboliser,
    collector::{Boundary, Collector, Mapped, Reading, Scene, Window},
    memory::{ProcessMemory, ServiceMemory},
    options::Options,
    programs::{Attached, attach},
    service::ServiceProcess,
    sources::{
        Allocations, Attempt, CgroupCollector, CounterCollector, DescriptorCollector, ForcedCollector, GcCpuCollector,
        GoMemoryCollector, GoroutineCollector, LiveHeapCollector, MappingCollector, OffHeapCollector, PauseCollector,
        RefillCollector, RequestCollector, ResidentCollector, Touched,
    },
    worth::Ending,
};
use crate::{cgroup::CgroupFiles, clock::Clock, environment, load::Progress};

/// Everything is read at each tick whose number is a multiple of this.
const READ_EVERY: u32 = 2;
/// The off-heap memory is read at each tick whose number is a multiple of this.
const OFF_HEAP_EVERY: u32 = 5;
/// The cgroup's memory and the file descriptors are read at each tick whose number is a multiple of this.
const OUTSIDE_EVERY: u32 = 4;

/// The most ticks of a run: 15 hours. Later readings are not made, so no gate passes on a phase that lasts longer.
const MOST_TICKS: u32 = 15 * 3600 * 10;

/// Reads every collector of one service with one clock, and keeps their results.
pub struct Recorder {
    scene: Scene,
    collectors: Collectors,
    attached: Attached,
    ticks: u32,
    /// When the next look at the cgroup is due.
    look_at: Instant,
    /// How the records differ from the runtime's own totals, if they do.
    cross_check: Option<String>,
}

/// Parts of the run's result that do not come from collectors.
#[derive(Debug)]
pub struct Elsewhere {
    /// The load generator's figures, or why there are none.
    pub requests: Result<Requests, String>,
    /// OOM kills, or why their number is not known.
    pub oom_kills: Result<u64, String>,
}

/// Every collector.
struct Collectors {
    counters: CounterCollector,
    gc_cpu: GcCpuCollector,
    pauses: PauseCollector,
    live_heap: LiveHeapCollector,
    forced: ForcedCollector,
    go_memory: GoMemoryCollector,
    requests: RequestCollector,
    resident: ResidentCollector,
    allocations: Allocations,
    mappings: MappingCollector,
    off_heap: OffHeapCollector,
    goroutines: GoroutineCollector,
    refills: RefillCollector,
    cgroup: CgroupCollector,
    descriptors: DescriptorCollector,
}

impl Collectors {
    /// Each collector, in the order of the calls. The counters come first, because they check the process, and others
    /// use their cycles and totals.
    fn each(&mut self) -> [&mut dyn Collector; 14] {
        let Self {
            counters,
            gc_cpu,
            pauses,
            live_heap,
            forced,
            go_memory,
            requests,
            resident,
            allocations,
            // It reads nothing by itself: it gets records.
            mappings: _,
            off_heap,
            goroutines,
            refills,
            cgroup,
            descriptors,
        } = self;
        [
            counters,
            gc_cpu,
            pauses,
            live_heap,
            forced,
            go_memory,
            requests,
            resident,
            allocations,
            off_heap,
            goroutines,
            refills,
            cgroup,
            descriptors,
        ]
    }

    /// Passes a record to its collector.
    fn record(&mut self, record: Record, clock: Clock, mapped: &mut Mapped) {
        let at_ns = clock.since_launch(record.at_ns);
        match record.kind {
            kind::PAUSE => self.pauses.record_pause(at_ns, record),
            kind::WORLD_START => self.pauses.record_start(record),
            kind::LIVE_HEAP => self.live_heap.record(at_ns, record.first),
            kind::MAPPED | kind::UNMAPPED => self.mappings.record(at_ns, record, mapped),
            kind::ALLOC_SAMPLE => self.allocations.record(record),
            // This cannot happen: the BPF programs and memgate are built from the same list.
            _ => {}
        }
    }
}

impl Recorder {
    /// Attaches every collector to the process `pid`, which runs `exe`. The process should be stopped before its first
    /// instruction, because memgate does not see what happened before this call.
    ///
    /// # Errors
    /// Fails if the process's memory cannot be read. If the kernel refuses BPF programs, signals are missing or the
    /// tier is lower.
    pub fn attach(exe: &GoExe, pid: Pid, clock: Clock, options: Options) -> Result<Self> {
        let service = ServiceProcess::open(format!("/proc/{pid}").into())?;
        let bias = if exe.position_independent { service.load_bias(&exe.segments)? } else { 0 };
        if let Some(file) = exe.file {
            service.must_run(file, &exe.path)?;
        }
        let scene = Scene {
            clock,
            service,
            cgroup: CgroupFiles::default(),
            memory: ServiceMemory::new(ProcessMemory::new(pid), bias),
            programs: None,
            functions: exe.function_table.clone(),
            code: Symboliser::default(),
            mapped: Mapped::default(),
            totals: None,
            new_cycles: None,
        };
        let attached = attach(exe, pid, options)?;
        Ok(Self::assemble(scene, &exe.runtime, exe.platform, &exe.segments, attached))
    }

    /// `segments` are the executable's, with the addresses of the file.
    fn assemble(
        mut scene: Scene,
        runtime: &Runtime,
        platform: Platform,
        segments: &[Range<u64>],
        mut attached: Attached,
    ) -> Self {
        let page_size = environment::page_size();
        let segments = segments.iter().map(|segment| {
            let end = segment.end.checked_next_multiple_of(page_size).unwrap_or(u64::MAX);
            scene.memory.global(segment.start & !(page_size - 1))..scene.memory.global(end)
        });
        let (service, memory, segments) = (&scene.service, &scene.memory, segments.collect());
        let collectors = Collectors {
            counters: CounterCollector::new(runtime, memory),
            gc_cpu: GcCpuCollector::new(runtime),
            pauses: PauseCollector::new(runtime, memory, &attached),
            live_heap: LiveHeapCollector::new(&attached),
            forced: ForcedCollector::new(runtime, memory),
            go_memory: GoMemoryCollector::new(runtime),
            requests: RequestCollector::default(),
            resident: ResidentCollector::default(),
            allocations: Allocations::new(runtime, memory, platform, &attached),
            mappings: MappingCollector::new(&attached),
            off_heap: OffHeapCollector::new(service, segments, page_size, platform, runtime, &attached),
            goroutines: GoroutineCollector::new(runtime),
            refills: RefillCollector::new(&attached),
            cgroup: CgroupCollector::default(),
            descriptors: DescriptorCollector::default(),
        };
        scene.programs = attached.programs.take();
        Self { scene, collectors, attached, ticks: 0, look_at: Instant::now(), cross_check: None }
    }

    /// The tier that the collectors use.
    pub const fn tier(&self) -> Tier {
        self.attached.tier
    }

    /// When the goroutines were last counted, ns since launch, and their number (`runtime.NumGoroutine`); `None` before
    /// the first reading.
    pub fn goroutines(&self) -> Option<(u64, u64)> {
        self.collectors.counters.goroutines()
    }

    /// Bytes allocated since the launch, at the last reading; `None` before the first one.
    pub fn allocated(&self) -> Option<u64> {
        self.scene.totals.map(|totals| totals.alloc_bytes)
    }

    /// Objects allocated since the launch, at the last reading; `None` before the first one.
    pub fn allocated_objects(&self) -> Option<u64> {
        self.scene.totals.map(|totals| totals.alloc_objects)
    }

    /// Counts the requests of this load from now on.
    pub fn watch_requests(&mut self, progress: Arc<Progress>) {
        self.collectors.requests.watch(progress);
    }

    /// Watches this cgroup from now on, which holds the service's processes and no others. Without it, memgate sees the
    /// launched process and its children.
    pub fn watch_cgroup(&mut self, cgroup: CgroupFiles) {
        self.scene.cgroup = cgroup;
    }

    /// Takes other processes beside the measured one for right: the user has said which one is measured.
    pub const fn expect_others(&mut self) {
        self.scene.service.expect_others();
    }

    /// Uses this clock from now on.
    pub const fn set_clock(&mut self, clock: Clock) {
        self.scene.clock = clock;
    }

    /// Empties the kernel's buffers.
    pub fn drain(&mut self) {
        let Scene { programs, clock, mapped, functions, code, .. } = &mut self.scene;
        let collectors = &mut self.collectors;
        let Some(programs) = programs else { return };
        programs.drain(&mut |record| collectors.record(record, *clock, mapped));
        let mut touched = Touched { mapped, functions: functions.as_deref().ok(), code };
        programs.drain_faults(&mut |fault| collectors.off_heap.record(fault, &mut touched));
        collectors.off_heap.leave_out(mapped, programs.as_mut());
        collectors.allocations.group();
    }

    /// Makes the readings that are due five times a second, as exactly as possible.
    pub fn sample(&mut self) {
        self.read(3);
    }

    /// The same. A source that changes during a reading is read at most this many times.
    fn read(&mut self, attempts: u32) {
        self.drain();
        let reading = Reading { at_ns: self.scene.clock.now_ns(), attempts };
        for collector in self.collectors.each() {
            collector.read(reading, &mut self.scene);
        }
        self.collectors.off_heap.allow_captures(&mut self.scene);
    }

    /// Reads the off-heap memory, and repeats the reading if the runtime maps memory meanwhile.
    pub fn sample_off_heap(&mut self) {
        /// A runtime that maps memory during each attempt is starting or grows fast. The next reading comes soon.
        const ATTEMPTS: u32 = 3;
        self.collectors.off_heap.name_threads(&mut self.scene);
        for _ in 0..ATTEMPTS {
            let Some(reading) = self.collectors.off_heap.read_once(&self.scene) else { return };
            self.drain();
            if self.collectors.off_heap.check(reading, &self.scene) == Attempt::Ended {
                return;
            }
        }
    }

    /// Does what is due at each tenth of a second of a run: empties the kernel's buffers, and makes each reading at its
    /// interval.
    pub fn tick(&mut self) {
        if self.ticks >= MOST_TICKS {
            return self.drain();
        }
        if self.ticks.is_multiple_of(READ_EVERY) {
            // These readings show what happens within the phases. Another attempt would double their cost.
            self.read(1);
        } else {
            self.drain();
            self.collectors.off_heap.allow_captures(&mut self.scene);
        }
        for collector in self.collectors.each() {
            collector.tick(&mut self.scene);
        }
        if self.ticks.is_multiple_of(OFF_HEAP_EVERY) {
            self.sample_off_heap();
        }
        if self.ticks.is_multiple_of(OUTSIDE_EVERY) {
            self.sample_outside();
        }
        self.ticks += 1;
    }

    /// Handles the start or end of a phase. After the drain it also compares the records with the runtime's own totals.
    pub fn reach(&mut self, boundary: Boundary) {
        self.drain();
        if boundary == Boundary::Drained {
            self.compare();
        }
        for collector in self.collectors.each() {
            collector.reach(boundary, &mut self.scene);
        }
    }

    /// Whether the runtime collects when memgate asks for it, as far as memgate knows.
    pub fn can_force_collections(&mut self) -> bool {
        self.collectors.forced.is_possible(&self.scene)
    }

    /// Makes the runtime collect at intervals from now on, up to the window's end.
    pub fn open(&mut self, window: Window) {
        self.collectors.forced.open(window, &mut self.scene);
    }

    /// Closes the window. From now on the runtime collects only when it wants to.
    pub fn close_window(&mut self) {
        self.collectors.forced.close(&mut self.scene);
    }

    /// Reads everything at once, as at a boundary.
    pub fn read_all(&mut self) {
        self.sample();
        self.sample_off_heap();
        self.sample_outside();
        self.collectors.off_heap.read_huge_pages(&self.scene);
    }

    /// Reads what is outside of the process: the memory of its cgroup, and its open file descriptors.
    fn sample_outside(&mut self) {
        self.collectors.cgroup.read_memory(&self.scene);
        self.collectors.descriptors.count(&self.scene);
    }

    /// When the next look at the service's processes and at its cgroup is due.
    pub const fn look_at(&self) -> Instant {
        self.look_at
    }

    /// Looks at the service's processes and at its cgroup. The next look is due soon if the memory limit is near.
    pub fn look(&mut self) {
        self.look_at = Instant::now() + self.collectors.cgroup.look(&mut self.scene);
    }

    /// What the reader of the signals must know. `oom_kills` is the number of OOM kills, if it is known.
    pub fn notes(&self, oom_kills: Option<u64>) -> Vec<String> {
        let kill = oom_kills.filter(|kills| *kills > 0);
        let held = kill.and_then(|_| self.collectors.cgroup.before_the_kill(self.scene.cgroup.limit()));
        let processes = self.collectors.resident.processes();
        let sums = (processes > 1).then(|| {
            format!(
                "the service had up to {processes} processes: its resident set, swapped-out memory, threads and open \
                 file descriptors are sums over them, in which a page counts once for each process that has it"
            )
        });
        let short_lived = self.scene.service.other_processes(self.scene.clock.now_ns());
        let too_long = (self.ticks >= MOST_TICKS).then(|| {
            "memgate reads a service for 15 hours, and made no readings after that: shorten `phases`".to_owned()
        });
        held.into_iter().chain(sums).chain(short_lived).chain(too_long).collect()
    }

    /// Compares the records with the runtime's own totals. Every pause and every cycle must have a record.
    ///
    /// The runtime adds a cycle's pauses to its total at the cycle's end, so the two agree between cycles.
    fn compare(&mut self) {
        /// A cycle lasts milliseconds, or longer where other processes have the processors.
        const PATIENCE: Duration = Duration::from_secs(3);
        if !self.collectors.pauses.is_complete() {
            return;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.sample();
            self.drain();
            self.cross_check = self.difference();
            if self.cross_check.is_none() || self.scene.totals.is_none() || Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How the records differ from the last reading of the runtime's own totals.
    fn difference(&self) -> Option<String> {
        let Some(runtime) = self.scene.totals else {
            return Some("the runtime's totals could not be read".to_owned());
        };
        let (pauses, unknown) = self.collectors.pauses.totals();
        let cycles = self.collectors.live_heap.cycles();
        if (pauses, cycles, unknown) == (runtime.pause_total_ns, runtime.gc_cycles, 0) {
            return None;
        }
        Some(format!(
            "the records have {pauses} ns of GC pauses and {cycles} cycles with {unknown} unknown, the runtime's own totals {} ns and {}",
            runtime.pause_total_ns, runtime.gc_cycles
        ))
    }

    /// Ends the recording. Returns every signal with its exactness, and the call stacks that the signals use.
    pub fn into_signals(self, elsewhere: Elsewhere) -> (Signals, Code) {
        let Self { mut scene, collectors, cross_check, attached: _attached, ticks: _, look_at: _ } = self;
        let ending = Ending::new(scene.service.doubt(scene.clock.now_ns()), cross_check, scene.programs.as_deref());
        let ending = match scene.cgroup.processes() {
            Some(_) => ending.summed_over_the_cgroup(scene.service.doubt_of_sums()),
            None => ending,
        };
        let worth = collectors.counters.worth(&ending);
        let within_sums = collectors.counters.worth_within_sums(&ending);
        let allocations = collectors.allocations.into_signals(&ending, &mut scene);
        let goroutine_sites = collectors.goroutines.into_signal(&ending, &mut scene);
        let counters = collectors.counters.into_signals(&ending);
        let pauses = collectors.pauses.into_signals(&ending);
        let resident = collectors.resident.into_signals(&ending);
        let off_heap = collectors.off_heap.into_signals(&ending);
        let cgroup = collectors.cgroup.into_signals(elsewhere.oom_kills);
        let signals = Signals {
            gc_pauses: pauses.gc_pauses,
            other_pauses: pauses.other_pauses,
            world_stops: pauses.world_stops,
            gc_cpu: collectors.gc_cpu.into_signal(worth.clone()),
            forced_collections: collectors.forced.into_signal(&ending),
            go_memory: collectors.go_memory.into_signal(within_sums),
            live_heap: collectors.live_heap.into_signal(&ending, worth),
            alloc_bytes: counters.alloc_bytes,
            alloc_objects: counters.alloc_objects,
            goroutines: counters.goroutines,
            rss: resident.rss,
            rss_kinds: resident.rss_kinds,
            swap: resident.swap,
            threads: resident.threads,
            fds: collectors.descriptors.into_signal(&ending),
            cgroup_memory: cgroup.cgroup_memory,
            cgroup_peak: cgroup.cgroup_peak,
            huge_pages: off_heap.huge_pages,
            thp_events: cgroup.thp_events,
            rss_peak: resident.rss_peak,
            offheap: off_heap.offheap,
            mmap_latency: collectors.mappings.into_signal(&ending),
            span_refills: collectors.refills.into_signal(&ending),
            alloc_samples: allocations.alloc_samples,
            heap_profile: allocations.heap_profile,
            goroutine_sites,
            offheap_sites: off_heap.offheap_sites,
            page_faults: resident.page_faults,
            requests: collectors.requests.into_signal(elsewhere.requests),
            oom_kills: cgroup.oom_kills,
        };
        (signals, scene.code.into_code())
    }
}

#[cfg(test)]
mod tests;
