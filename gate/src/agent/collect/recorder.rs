//! All collectors of one service, read together.

use std::{
    collections::BTreeSet,
    fs,
    sync::{Arc, atomic::Ordering},
};

use memgate_ebpf::{Record, kind};
use nix::unistd::Pid;
use procfs::process::Process;

use super::{Bpf, CounterLayout, CounterReader, Counters, OffHeapReader, ProcessMemory, RuntimeRanges};
use crate::{
    agent::{clock::Clock, environment, load::Progress},
    error::{Error, Result, Stage},
    evidence::{Pauses, Series},
    goexe::GoExe,
};

/// Reads every collector of one service and keeps what they gave.
pub struct Recorder {
    pub(super) bpf: Bpf,
    counters: CounterReader,
    process: Process,
    off_heap: Result<OffHeapReader, String>,
    ranges: RuntimeRanges,
    /// Addresses of the histograms that the runtime records its pauses in.
    pauses_gc: Option<u64>,
    pauses_other: Option<u64>,
    page_size: u64,
    progress: Option<Arc<Progress>>,
    clock: Clock,
    pub(super) taken: Taken,
}

/// What the collectors gave.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) gc_pauses: Pauses,
    pub(super) other_pauses: Pauses,
    /// Pauses in neither of the runtime's two histograms: memgate misreads the runtime.
    pub(super) unknown_pauses: u64,
    pub(super) live_heap: Series,
    pub(super) alloc_bytes: Series,
    pub(super) alloc_objects: Series,
    pub(super) goroutines: Series,
    pub(super) rss: Series,
    pub(super) off_heap: Series,
    pub(super) page_faults: Series,
    pub(super) completed: Series,
    /// The counters as last read.
    pub(super) last: Option<Counters>,
    /// Largest resident set since it was last reset, bytes, or why it is not known.
    pub(super) rss_peak: Option<Result<u64, String>>,
    /// Names of processes that the service started.
    pub(super) children: BTreeSet<String>,
    /// How the records differ from the runtime's own totals, if they do.
    pub(super) cross_check: Option<String>,
    /// Why a reading failed, by what was read.
    pub(super) failures: Failures,
}

/// Why a reading failed; the first failure of each kind.
#[derive(Debug, Default)]
pub(super) struct Failures {
    pub(super) counters: Option<String>,
    pub(super) process: Option<String>,
    pub(super) off_heap: Option<String>,
}

impl Recorder {
    /// Attaches every collector to the process `pid`, which is stopped before its first instruction and runs `exe`.
    ///
    /// # Errors
    /// When BPF or the process's memory cannot be used.
    pub fn attach(exe: &GoExe, pid: Pid, clock: Clock) -> Result<Self> {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            Error::infrastructure(Stage::Collect, format!("{what}: {error}"), "mount procfs at /proc and run as root")
        };
        let process = Process::new(pid.as_raw()).map_err(|error| failed("the service's entry in /proc", &error))?;
        let bias = load_bias(exe, &process).map_err(|error| failed("where the service is loaded", &error))?;
        let memory = ProcessMemory::new(pid);
        let unfit = |reason: String| failed(&exe.path.display().to_string(), &reason);
        let layout = CounterLayout::of(&exe.runtime).map_err(unfit)?;
        memory
            .read([layout.alloc.total_alloc.wrapping_add(bias)], 8)
            .map_err(|error| failed("the service's memory cannot be read", &error))?;
        let page_size = environment::page_size();
        let segments = exe.segments.iter().map(|segment| {
            let page_aligned = (segment.start & !(page_size - 1))..segment.end.next_multiple_of(page_size);
            page_aligned.start.wrapping_add(bias)..page_aligned.end.wrapping_add(bias)
        });
        let off_heap = OffHeapReader::new(pid.as_raw(), segments.collect(), page_size);
        let bpf = Bpf::attach(exe, pid)?;
        let pauses = exe.runtime.pauses.as_ref().ok();
        Ok(Self {
            off_heap: match &bpf.no_address_space {
                Some(reason) => Err(reason.clone()),
                None => off_heap.map_err(|error| error.to_string()),
            },
            bpf,
            counters: CounterReader::new(memory, layout, bias),
            process,
            ranges: RuntimeRanges::default(),
            pauses_gc: pauses.map(|pauses| pauses.gc.wrapping_add(bias)),
            pauses_other: pauses.and_then(|pauses| pauses.other).map(|other| other.wrapping_add(bias)),
            page_size,
            progress: None,
            clock,
            taken: Taken::default(),
        })
    }

    /// Forgets the goroutines of the service's start, so that the next reading is the first.
    pub fn forget_start(&mut self) {
        self.taken.goroutines = Series::default();
    }

    /// From now on also takes down how many requests have succeeded.
    pub fn watch_requests(&mut self, progress: Arc<Progress>) {
        self.progress = Some(progress);
    }

    /// From now on counts from this launch.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// Hands over the records that wait in the ring buffer.
    pub fn drain(&mut self) {
        let Self { bpf, taken, ranges, clock, pauses_gc, pauses_other, .. } = self;
        bpf.drain(|record| {
            let at_ns = clock.since_launch(record.at_ns);
            match record {
                Record { kind: kind::PAUSE, first, second, .. } if Some(first) == *pauses_gc => {
                    taken.gc_pauses.push(at_ns, second);
                }
                Record { kind: kind::PAUSE, first, second, .. } if Some(first) == *pauses_other => {
                    taken.other_pauses.push(at_ns, second);
                }
                Record { kind: kind::PAUSE, .. } => taken.unknown_pauses += 1,
                Record { kind: kind::LIVE_HEAP, first, .. } => taken.live_heap.push(at_ns, first),
                Record { kind: kind::MAPPED, first, second, third: 1, .. } => ranges.insert(first..first + second),
                Record { kind: kind::MAPPED | kind::UNMAPPED, first, second, .. } => {
                    ranges.remove(first..first + second);
                }
                _ => {}
            }
        });
    }

    /// Reads everything that is read at intervals but off-heap memory.
    pub fn sample(&mut self) {
        self.drain();
        let at_ns = self.clock.now_ns();
        match self.counters.read() {
            Ok(Some(counters)) => self.taken.push_counters(at_ns, counters),
            Ok(None) => {}
            Err(error) => note(&mut self.taken.failures.counters, format!("the service's memory: {error}")),
        }
        if let Some(progress) = &self.progress {
            self.taken.completed.push(at_ns, progress.succeeded.load(Ordering::Relaxed));
        }
        if let Err(error) = self.sample_process(at_ns) {
            note(&mut self.taken.failures.process, error.to_string());
        }
    }

    fn sample_process(&mut self, at_ns: u64) -> procfs::ProcResult<()> {
        let memory = self.process.statm()?;
        self.taken.rss.push(at_ns, memory.resident * self.page_size);
        let stat = self.process.stat()?;
        self.taken.page_faults.push(at_ns, stat.minflt + stat.majflt);
        if stat.cminflt > 0 {
            self.taken.children.insert("one that has ended".to_owned());
        }
        Ok(())
    }

    /// Reads the off-heap memory, which costs a walk over the service's page tables.
    pub fn sample_off_heap(&mut self) {
        let Ok(reader) = &self.off_heap else { return };
        match reader.read(&self.ranges) {
            Ok(bytes) => self.taken.off_heap.push(self.clock.now_ns(), bytes),
            Err(error) => note(&mut self.taken.failures.off_heap, error.to_string()),
        }
    }

    /// Why off-heap memory is not measured at all.
    pub(super) fn off_heap_missing(&self) -> Option<&str> {
        self.off_heap.as_ref().err().map(String::as_str)
    }

    /// Takes down the processes of the service's cgroup other than the service.
    pub fn see_processes(&mut self, processes: &[Pid]) {
        for other in processes.iter().filter(|pid| pid.as_raw() != self.process.pid()) {
            let name = Process::new(other.as_raw()).and_then(|process| process.stat()).map(|stat| stat.comm);
            self.taken.children.insert(name.unwrap_or_else(|_| "one that has ended".to_owned()));
        }
    }

    /// Holds the records against the runtime's own totals: every pause and every cycle must be there.
    ///
    /// The runtime adds a cycle's pauses to its total at the cycle's end, so they are compared between cycles.
    pub fn cross_check(&mut self) {
        const ATTEMPTS: u32 = 50;
        for _ in 0..ATTEMPTS {
            self.sample();
            self.drain();
            self.taken.cross_check = self.taken.difference();
            if self.taken.cross_check.is_none() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// Starts anew the kernel's record of the largest resident set.
    pub fn reset_rss_peak(&mut self) {
        // 5 resets the high-water mark: Documentation/filesystems/proc.rst (Linux 6.18).
        let reset = fs::write(format!("/proc/{}/clear_refs", self.process.pid()), "5");
        self.taken.rss_peak = Some(reset.map(|()| 0).map_err(|error| format!("the peak cannot be reset: {error}")));
    }

    /// Reads the largest resident set since it was reset.
    pub fn read_rss_peak(&mut self) {
        if let Some(Ok(peak)) = &mut self.taken.rss_peak {
            match self.process.status().map(|status| status.vmhwm) {
                Ok(Some(kibibytes)) => *peak = kibibytes * 1024,
                Ok(None) => self.taken.rss_peak = Some(Err("/proc/PID/status has no VmHWM".to_owned())),
                Err(error) => self.taken.rss_peak = Some(Err(error.to_string())),
            }
        }
    }
}

impl Taken {
    fn difference(&self) -> Option<String> {
        let Some(runtime) = self.last else { return Some("the runtime's totals could not be read".to_owned()) };
        let pauses: u64 = self.gc_pauses.duration_ns.iter().sum();
        let cycles = self.live_heap.value.len() as u64;
        if (pauses, cycles, self.unknown_pauses) == (runtime.pause_total_ns, runtime.gc_cycles, 0) {
            return None;
        }
        Some(format!(
            "the records are {pauses} ns of GC pauses and {cycles} cycles with {} unknown, the runtime's own totals {} ns and {}",
            self.unknown_pauses, runtime.pause_total_ns, runtime.gc_cycles
        ))
    }

    fn push_counters(&mut self, at_ns: u64, counters: Counters) {
        // A reading under load may be of a time slightly before the last one's; totals do not go back.
        let least = self.last.map_or((0, 0), |last| (last.alloc_bytes, last.alloc_objects));
        let counters = Counters {
            alloc_bytes: counters.alloc_bytes.max(least.0),
            alloc_objects: counters.alloc_objects.max(least.1),
            ..counters
        };
        self.alloc_bytes.push(at_ns, counters.alloc_bytes);
        self.alloc_objects.push(at_ns, counters.alloc_objects);
        self.goroutines.push(at_ns, counters.goroutines);
        self.last = Some(counters);
    }
}

fn note(failure: &mut Option<String>, reason: String) {
    failure.get_or_insert(reason);
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
