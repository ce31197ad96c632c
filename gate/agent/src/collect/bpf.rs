//! The BPF programs: loaded, attached to one process, and their records read.

use std::{collections::BTreeMap, ffi::CString, num::NonZeroU32, ops::Range, os::fd::OwnedFd};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, PerCpuValues, RingBuf},
    programs::{
        PerfEvent, UProbe,
        perf_event::{PerfEventConfig, PerfEventScope, SamplePolicy, SoftwareEvent},
        uprobe::{UProbeAttachLocation, UProbeLink, UProbeScope},
    },
    util::{nr_cpus, online_cpus},
};
use memgate_ebpf::{CONSTANTS, Fault, KINDS, RANGES, Ranges, Record, count};
use memgate_evidence::{
    error::{Error, Result, Stage},
    tier::Tier,
};
use memgate_goexe::probes::Probe;
use nix::unistd::Pid;

use super::{events::Events, multi::MultiPrograms};

/// One object for every architecture, built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../gate-ebpf/memgate.bpf.o");

/// The same without ring buffers and globals, for Linux 4.19 to 5.7.
static OBJECT_TIER1: &[u8] = aya::include_bytes_aligned!("../../../../gate-ebpf/memgate-tier1.bpf.o");

/// What the programs are told when they are loaded: constants of [`memgate_ebpf::CONSTANTS`] by name; the others are 0.
pub(super) type Constants = Vec<(&'static str, u64)>;

/// How the programs are loaded.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// At least [`Tier::T1`].
    pub tier: Tier,
    /// How much the buffer for records holds, bytes: a power of two from 4096 on; for tier T1 it is that much a CPU.
    pub buffer_bytes: u32,
}

/// The loaded programs. Dropping it detaches them.
pub struct Bpf {
    pid: Pid,
    programs: Ebpf,
    /// From tier T4 on.
    multi: Option<MultiPrograms>,
    /// The probes that are never taken off.
    kept: Vec<Links>,
    events: Events,
    lost: PerCpuArray<MapData, u64>,
    counts: PerCpuArray<MapData, u64>,
    captures: Option<Captures>,
}

/// Captures of first touches, from tier T2 on.
struct Captures {
    faults: RingBuf<MapData>,
    budget: PerCpuArray<MapData, u64>,
    /// How many slots the budget has.
    cpus: usize,
    threads: HashMap<MapData, u32, u64>,
    runtime: Array<MapData, RuntimeMappings>,
}

/// The ranges as they lie in the map.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
struct RuntimeMappings(Ranges);

// SAFETY: it is made of numbers, without padding.
unsafe impl aya::Pod for RuntimeMappings {}

impl Bpf {
    /// Loads the programs for the process `pid`; none is attached yet.
    ///
    /// # Errors
    /// When the kernel refuses the object, with its reason.
    pub fn load(constants: &Constants, pid: Pid, options: Options) -> Result<Self> {
        let namespace = nix::sys::stat::stat("/proc/self/ns/pid")
            .map_err(|error| failure(format!("/proc/self/ns/pid: {error}"), "mount procfs at /proc"))?;
        let mut constants = constants.clone();
        constants.extend([
            ("TARGET_PID", u64::from(pid.as_raw().cast_unsigned())),
            ("PID_NAMESPACE_DEVICE", namespace.st_dev),
            ("PID_NAMESPACE_INODE", namespace.st_ino),
        ]);
        let with_globals = options.tier >= Tier::T2;
        let mut loader = EbpfLoader::new();
        if with_globals {
            loader.map_max_entries("EVENTS", options.buffer_bytes);
            for (name, value) in &constants {
                loader.override_global(name, value, true);
            }
        }
        let object = if with_globals { OBJECT } else { OBJECT_TIER1 };
        let mut programs = loader.load(object).map_err(|error| refused("the BPF object was not loaded", &error))?;
        if !with_globals {
            set_constants(&mut programs, &constants)?;
        }
        let multi = (options.tier >= Tier::T4).then(|| MultiPrograms::read(object, &programs)).transpose();
        Ok(Self {
            pid,
            multi: multi.map_err(|reason| failure(reason, REBUILD))?,
            kept: Vec::new(),
            events: if with_globals {
                Events::ring(map(&mut programs, "EVENTS")?)
            } else {
                Events::perf(map(&mut programs, "EVENTS")?, options.buffer_bytes)
                    .map_err(|reason| failure(reason, REPORT))?
            },
            lost: map(&mut programs, "LOST")?,
            counts: map(&mut programs, "COUNTS")?,
            captures: if with_globals { Some(Captures::open(&mut programs)?) } else { None },
            programs,
        })
    }

    /// Puts probes on the running executable of the process, until the links are dropped.
    ///
    /// # Errors
    /// When the kernel refuses one, with its reason.
    pub fn attach(&mut self, probes: &[Probe]) -> Result<Links> {
        let mut links = Links::default();
        if let Some(multi) = &mut self.multi {
            let mut places = BTreeMap::<_, Vec<u64>>::new();
            for probe in probes {
                places.entry(probe.program).or_default().push(probe.file_offset);
            }
            for (program, offsets) in places {
                links.multi.push(attach_many(multi, self.pid, program, &offsets)?);
            }
        } else {
            for probe in probes {
                links.single.push(attach_one(&mut self.programs, self.pid, probe)?);
            }
        }
        Ok(links)
    }

    /// Puts probes on it for as long as the programs are loaded.
    ///
    /// # Errors
    /// When the kernel refuses one, with its reason.
    pub fn attach_for_good(&mut self, probes: &[Probe]) -> Result<()> {
        let links = self.attach(probes)?;
        self.kept.push(links);
        Ok(())
    }

    /// Has first touches outside the runtime's own mappings captured by the program of this name; from tier T2 on.
    ///
    /// # Errors
    /// When the kernel refuses, with its reason.
    pub fn attach_first_touch(&mut self, name: &str) -> Result<()> {
        let cpus = online_cpus().map_err(|(what, error)| failure(format!("{what}: {error}"), REPORT))?;
        let program = program::<PerfEvent>(&mut self.programs, name)?;
        program.load().map_err(|error| refused(name, &error))?;
        for cpu in cpus {
            let event = PerfEventConfig::Software(SoftwareEvent::PageFaults);
            let scope = PerfEventScope::AllProcessesOneCpu { cpu };
            program
                .attach(event, scope, SamplePolicy::Period(1), false)
                .map_err(|error| refused("page faults cannot be watched", &error))?;
        }
        Ok(())
    }

    /// Lets the CPUs together capture this many first touches, from now on, each its share and at least one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn allow_captures(&mut self, captures: u64) -> Result<()> {
        let refused = |reason: String| failure(format!("the captures cannot be allowed: {reason}"), REPORT);
        let Some(maps) = &mut self.captures else { return Ok(()) };
        let share = (captures / u64::try_from(maps.cpus).unwrap_or(1).max(1)).max(1);
        let values = PerCpuValues::try_from(vec![share; maps.cpus]).map_err(|error| refused(error.to_string()))?;
        maps.budget.set(0, values, 0).map_err(|error| refused(chain(&error)))
    }

    /// Leaves touches in these ranges, the largest first, out of the captures, as far as the programs can know so many.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn leave_out(&mut self, ranges: &[Range<u64>]) -> Result<()> {
        let Some(maps) = &mut self.captures else { return Ok(()) };
        let mut slots: Ranges = [[0; 2]; RANGES];
        for (slot, range) in slots.iter_mut().zip(ranges) {
            *slot = [range.start, range.end];
        }
        maps.runtime
            .set(0, RuntimeMappings(slots), 0)
            .map_err(|error| failure(format!("the runtime's mappings cannot be told: {}", chain(&error)), REPORT))
    }

    /// Tells the programs the address of a thread's `m`.
    ///
    /// # Errors
    /// When there are too many threads.
    pub fn name_thread(&mut self, thread: u32, m: u64) -> Result<()> {
        let Some(maps) = &mut self.captures else { return Ok(()) };
        maps.threads
            .insert(thread, m, 0)
            .map_err(|error| failure(format!("the threads cannot be told apart: {}", chain(&error)), REPORT))
    }

    /// Hands every record that is from before this call to `each`, in the order of their times.
    pub fn drain(&mut self, each: impl FnMut(Record)) {
        self.events.drain(each);
    }

    /// Hands every captured first touch that is waiting to `each`.
    pub fn drain_faults(&mut self, mut each: impl FnMut(&Fault)) {
        let Some(maps) = &mut self.captures else { return };
        while let Some(item) = maps.faults.next() {
            if item.len() == size_of::<Fault>() {
                // SAFETY: the item has the size of a `Fault`, every field of which is a number; it may not be aligned as one.
                let fault = unsafe { item.as_ptr().cast::<Fault>().read_unaligned() };
                each(&fault);
            }
        }
    }

    /// Records that did not fit since the programs were loaded, by kind.
    ///
    /// # Errors
    /// When the kernel does not tell, in which case nothing is known of losses.
    pub fn lost(&self) -> Result<Vec<u64>> {
        (0..KINDS).map(|kind| sum(&self.lost, kind)).collect()
    }

    /// What is only counted, since the programs were loaded: an entry for each constant of [`count`].
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn counts(&self) -> Result<[u64; count::COUNTS as usize]> {
        let mut counts = [0; count::COUNTS as usize];
        for (index, count) in (0..).zip(&mut counts) {
            *count = sum(&self.counts, index)?;
        }
        Ok(counts)
    }
}

/// Probes that are attached. Dropping it takes them off.
#[derive(Default)]
pub struct Links {
    /// One for each probe.
    single: Vec<UProbeLink>,
    /// One for each program.
    multi: Vec<OwnedFd>,
}

impl Links {
    /// Takes the probes off. That goes on after this call: for each link the kernel waits until nothing can still be running its program,
    /// a tenth of a second or on a busy machine seconds, and no reading may wait with it.
    pub fn take_off(self) {
        // Without a thread they are taken off here.
        let _ = std::thread::Builder::new().name("detach".to_owned()).spawn(move || drop(self));
    }
}

// Through /proc probes are on the very file that runs, whatever has become of its path meanwhile.
fn running_file(pid: Pid) -> String {
    format!("/proc/{pid}/exe")
}

fn attach_one(programs: &mut Ebpf, pid: Pid, probe: &Probe) -> Result<UProbeLink> {
    let scope = NonZeroU32::new(pid.as_raw().cast_unsigned());
    let scope = scope.map_or(UProbeScope::CallingProcess, UProbeScope::OneProcess);
    let program = program::<UProbe>(programs, probe.program)?;
    if program.fd().is_err() {
        program.load().map_err(|error| refused(probe.program, &error))?;
    }
    program
        .attach(UProbeAttachLocation::AbsoluteOffset(probe.file_offset), running_file(pid), scope)
        .and_then(|link| program.take_link(link))
        .map_err(|error| refused(&format!("the probe `{}` at {:#x}", probe.program, probe.address), &error))
}

fn attach_many(multi: &mut MultiPrograms, pid: Pid, program: &'static str, offsets: &[u64]) -> Result<OwnedFd> {
    let file = CString::new(running_file(pid)).unwrap_or_default();
    multi
        .attach(program, &file, offsets, pid.as_raw().cast_unsigned())
        .map_err(|error| refused(&format!("the probes `{program}` at offsets {offsets:#x?}"), &error))
}

impl Captures {
    fn open(programs: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            faults: map(programs, "FAULTS")?,
            budget: map(programs, "BUDGET")?,
            cpus: nr_cpus().map_err(|(what, error)| failure(format!("{what}: {error}"), REPORT))?,
            threads: map(programs, "THREADS")?,
            runtime: map(programs, "RUNTIME")?,
        })
    }
}

fn set_constants(programs: &mut Ebpf, constants: &Constants) -> Result<()> {
    // Borrowed, not taken: the programs that are loaded later refer to it.
    let slots = programs.map_mut("CONSTANTS").and_then(|map| Array::<&mut MapData, u64>::try_from(map).ok());
    let mut slots = slots.ok_or_else(|| failure("the BPF object lacks the map CONSTANTS", REBUILD))?;
    for (name, value) in constants {
        let slot = CONSTANTS.iter().position(|other| other == name).and_then(|slot| u32::try_from(slot).ok());
        let slot = slot.ok_or_else(|| failure(format!("the BPF object lacks the constant {name}"), REBUILD))?;
        slots.set(slot, value, 0).map_err(|error| refused("a constant cannot be set", &error))?;
    }
    Ok(())
}

const REBUILD: &str = "rebuild it with `cargo xtask ebpf`";
const REPORT: &str = "please report this with the kernel's version and the output above";

fn failure(message: impl Into<String>, help: &str) -> Error {
    Error::infrastructure(Stage::Collect, message, help)
}

fn sum(array: &PerCpuArray<MapData, u64>, index: u32) -> Result<u64> {
    let values = array.get(&index, 0).map_err(|error| failure(format!("a count cannot be read: {error}"), REPORT))?;
    Ok(values.iter().sum())
}

fn map<M: TryFrom<aya::maps::Map>>(programs: &mut Ebpf, name: &str) -> Result<M> {
    programs
        .take_map(name)
        .and_then(|map| M::try_from(map).ok())
        .ok_or_else(|| failure(format!("the BPF object lacks the map {name}"), REBUILD))
}

fn program<'ebpf, P>(programs: &'ebpf mut Ebpf, name: &str) -> Result<&'ebpf mut P>
where
    &'ebpf mut P: TryFrom<&'ebpf mut aya::programs::Program>,
{
    programs
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| failure(format!("the BPF object lacks the program `{name}`"), REBUILD))
}

fn refused(what: &str, error: &dyn std::error::Error) -> Error {
    failure(
        format!("{what}: {}", chain(error)),
        "run as root (or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE) on a kernel with BPF and uprobes, or ask for `--tier T0`",
    )
}

/// The error with what caused it: aya keeps the kernel's reason in the cause.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
