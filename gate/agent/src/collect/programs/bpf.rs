//! The BPF programs: loads them, attaches them to one process, and reads their records.

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
use memgate_ebpf::{CONSTANTS, Fault, KINDS, RANGES, Ranges, Record};
use memgate_evidence::tier::Tier;
use memgate_goexe::probes::Probe;
use nix::unistd::Pid;

use super::{Counts, Links, ProgramError, Programs, events::Events, multi::MultiPrograms};

type Result<T> = std::result::Result<T, ProgramError>;

/// One object for every architecture, built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../../gate-ebpf/memgate.bpf.o");

/// The same without ring buffers and global variables, for Linux 4.19 to 5.7.
static OBJECT_TIER1: &[u8] = aya::include_bytes_aligned!("../../../../../gate-ebpf/memgate-tier1.bpf.o");

/// Values for constants of [`memgate_ebpf::CONSTANTS`], by name, set when the programs are loaded. Other constants are
/// 0.
pub(super) type Constants = Vec<(&'static str, u64)>;

/// How the programs are loaded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Options {
    /// At least [`Tier::T1`].
    pub(super) tier: Tier,
    /// The size of the buffer for records, bytes: a power of two, at least 4096. In tier T1 each CPU has a buffer of
    /// this size.
    pub(super) buffer_bytes: u32,
}

/// The loaded programs.
pub(super) struct Bpf {
    pid: Pid,
    programs: Ebpf,
    /// From tier T4 on.
    multi: Option<MultiPrograms>,
    events: Events,
    lost: PerCpuArray<MapData, u64>,
    counts: PerCpuArray<MapData, u64>,
    captures: Option<Captures>,
}

/// Captures of first touches, from tier T2 on.
struct Captures {
    faults: RingBuf<MapData>,
    budget: PerCpuArray<MapData, u64>,
    /// The number of CPUs in the budget.
    cpus: usize,
    threads: HashMap<MapData, u32, u64>,
    runtime: Array<MapData, RuntimeMappings>,
}

/// The ranges in the map's layout.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
struct RuntimeMappings(Ranges);

// SAFETY: it consists of numbers, without padding.
unsafe impl aya::Pod for RuntimeMappings {}

impl Bpf {
    /// Loads the programs for the process `pid`. It attaches none.
    ///
    /// # Errors
    /// Fails if the kernel refuses the object.
    pub(super) fn load(constants: &Constants, pid: Pid, options: Options) -> Result<Self> {
        let namespace = nix::sys::stat::stat("/proc/self/ns/pid").map_err(ProgramError::Namespace)?;
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
        let mut programs =
            loader.load(object).map_err(|error| ProgramError::refused("the BPF object was not loaded", error))?;
        if !with_globals {
            set_constants(&mut programs, &constants)?;
        }
        let multi = (options.tier >= Tier::T4).then(|| MultiPrograms::read(object, &programs)).transpose();
        Ok(Self {
            pid,
            multi: multi?,
            events: if with_globals {
                Events::ring(map(&mut programs, "EVENTS")?)
            } else {
                Events::perf(map(&mut programs, "EVENTS")?, options.buffer_bytes)?
            },
            lost: map(&mut programs, "LOST")?,
            counts: map(&mut programs, "COUNTS")?,
            captures: if with_globals { Some(Captures::open(&mut programs)?) } else { None },
            programs,
        })
    }
}

impl Programs for Bpf {
    fn attach(&mut self, probes: &[Probe]) -> Result<Links> {
        let Some(multi) = &mut self.multi else {
            let links = probes.iter().map(|probe| attach_one(&mut self.programs, self.pid, probe));
            return Ok(Links::new(links.collect::<Result<Vec<_>>>()?));
        };
        let mut places = BTreeMap::<_, Vec<u64>>::new();
        for probe in probes {
            places.entry(probe.program).or_default().push(probe.file_offset);
        }
        let file = CString::new(running_file(self.pid)).unwrap_or_default();
        let pid = self.pid.as_raw().cast_unsigned();
        let links = places.into_iter().map(|(program, offsets)| multi.attach(program, &file, &offsets, pid));
        Ok(Links::new(links.collect::<Result<Vec<OwnedFd>>>()?))
    }

    fn attach_first_touch(&mut self, name: &str) -> Result<()> {
        let cpus = online_cpus().map_err(|(what, error)| ProgramError::unexpected(what, error))?;
        let program = program::<PerfEvent>(&mut self.programs, name)?;
        program.load().map_err(|error| ProgramError::refused(name, error))?;
        for cpu in cpus {
            let event = PerfEventConfig::Software(SoftwareEvent::PageFaults);
            let scope = PerfEventScope::AllProcessesOneCpu { cpu };
            program
                .attach(event, scope, SamplePolicy::Period(1), false)
                .map_err(|error| ProgramError::refused("page faults cannot be watched", error))?;
        }
        Ok(())
    }

    fn drain(&mut self, each: &mut dyn FnMut(Record)) {
        self.events.drain(each);
    }

    fn drain_faults(&mut self, each: &mut dyn FnMut(&Fault)) {
        let Some(maps) = &mut self.captures else { return };
        while let Some(item) = maps.faults.next() {
            if item.len() == size_of::<Fault>() {
                // SAFETY: the item has the size of a `Fault`, all fields of which are numbers. The read needs no
                // alignment.
                let fault = unsafe { item.as_ptr().cast::<Fault>().read_unaligned() };
                each(&fault);
            }
        }
    }

    fn allow_captures(&mut self, captures: u64) -> Result<()> {
        const WHAT: &str = "the captures cannot be allowed";
        let Some(maps) = &mut self.captures else { return Ok(()) };
        let share = (captures / u64::try_from(maps.cpus).unwrap_or(1).max(1)).max(1);
        let values = PerCpuValues::try_from(vec![share; maps.cpus]);
        let values = values.map_err(|error| ProgramError::unexpected(WHAT, error))?;
        maps.budget.set(0, values, 0).map_err(|error| ProgramError::unexpected(WHAT, error))
    }

    fn leave_out(&mut self, ranges: &[Range<u64>]) -> Result<()> {
        let Some(maps) = &mut self.captures else { return Ok(()) };
        let mut slots: Ranges = [[0; 2]; RANGES];
        for (slot, range) in slots.iter_mut().zip(ranges) {
            *slot = [range.start, range.end];
        }
        let set = maps.runtime.set(0, RuntimeMappings(slots), 0);
        set.map_err(|error| ProgramError::unexpected("the BPF programs cannot get the runtime's mappings", error))
    }

    fn name_thread(&mut self, thread: u32, m: u64) -> Result<()> {
        let Some(maps) = &mut self.captures else { return Ok(()) };
        let named = maps.threads.insert(thread, m, 0);
        named.map_err(|error| ProgramError::unexpected("the BPF programs cannot get the service's threads", error))
    }

    fn lost(&self) -> Result<Vec<u64>> {
        (0..KINDS).map(|kind| sum(&self.lost, kind)).collect()
    }

    fn counts(&self) -> Result<Counts> {
        let mut counts = Counts::default();
        for (index, count) in (0..).zip(&mut counts) {
            *count = sum(&self.counts, index)?;
        }
        Ok(counts)
    }
}

// This path in /proc is the very file that runs, even if its own path has changed meanwhile.
fn running_file(pid: Pid) -> String {
    format!("/proc/{pid}/exe")
}

fn attach_one(programs: &mut Ebpf, pid: Pid, probe: &Probe) -> Result<UProbeLink> {
    let scope = NonZeroU32::new(pid.as_raw().cast_unsigned());
    let scope = scope.map_or(UProbeScope::CallingProcess, UProbeScope::OneProcess);
    let program = program::<UProbe>(programs, probe.program)?;
    if program.fd().is_err() {
        program.load().map_err(|error| ProgramError::refused(probe.program, error))?;
    }
    program
        .attach(UProbeAttachLocation::AbsoluteOffset(probe.file_offset), running_file(pid), scope)
        .and_then(|link| program.take_link(link))
        .map_err(|error| ProgramError::refused(format!("the probe `{}` at {:#x}", probe.program, probe.address), error))
}

impl Captures {
    fn open(programs: &mut Ebpf) -> Result<Self> {
        Ok(Self {
            faults: map(programs, "FAULTS")?,
            budget: map(programs, "BUDGET")?,
            cpus: nr_cpus().map_err(|(what, error)| ProgramError::unexpected(what, error))?,
            threads: map(programs, "THREADS")?,
            runtime: map(programs, "RUNTIME")?,
        })
    }
}

fn set_constants(programs: &mut Ebpf, constants: &Constants) -> Result<()> {
    // The map is borrowed, because programs that are loaded later refer to it.
    let slots = programs.map_mut("CONSTANTS").and_then(|map| Array::<&mut MapData, u64>::try_from(map).ok());
    let mut slots = slots.ok_or_else(|| lacks("the map CONSTANTS"))?;
    for (name, value) in constants {
        let slot = CONSTANTS.iter().position(|other| other == name).and_then(|slot| u32::try_from(slot).ok());
        let slot = slot.ok_or_else(|| lacks(&format!("the constant {name}")))?;
        slots.set(slot, value, 0).map_err(|error| ProgramError::refused("a constant cannot be set", error))?;
    }
    Ok(())
}

fn lacks(what: &str) -> ProgramError {
    ProgramError::Object(format!("lacks {what}"))
}

fn sum(array: &PerCpuArray<MapData, u64>, index: u32) -> Result<u64> {
    let values = array.get(&index, 0).map_err(|error| ProgramError::unexpected("a count cannot be read", error))?;
    Ok(values.iter().sum())
}

fn map<M: TryFrom<aya::maps::Map>>(programs: &mut Ebpf, name: &str) -> Result<M> {
    programs.take_map(name).and_then(|map| M::try_from(map).ok()).ok_or_else(|| lacks(&format!("the map {name}")))
}

fn program<'ebpf, P>(programs: &'ebpf mut Ebpf, name: &str) -> Result<&'ebpf mut P>
where
    &'ebpf mut P: TryFrom<&'ebpf mut aya::programs::Program>,
{
    programs
        .program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| lacks(&format!("the program `{name}`")))
}
