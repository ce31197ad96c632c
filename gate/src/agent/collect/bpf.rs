//! The BPF programs: loaded, attached to one process, and their records read.

use std::num::NonZeroU32;

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, PerCpuArray, RingBuf},
    programs::{
        TracePoint, UProbe,
        uprobe::{UProbeAttachLocation, UProbeScope},
    },
};
use memgate_ebpf::{KINDS, Record};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    unistd::Pid,
};

use crate::{
    arch::ArgumentLocation,
    error::{Error, Result, Stage},
    goexe::{CallSite, Fact, GoExe},
};

/// One object for every architecture, built by `cargo xtask ebpf`.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../../gate-ebpf/memgate.bpf.o");

/// System calls that change the address space, with the programs on their tracepoints.
const TRACEPOINTS: [(&str, &str); 4] = [
    ("enter_mmap", "sys_enter_mmap"),
    ("exit_mmap", "sys_exit_mmap"),
    ("enter_munmap", "sys_enter_munmap"),
    ("exit_munmap", "sys_exit_munmap"),
];

/// The attached programs. Dropping it detaches them.
pub struct Bpf {
    events: RingBuf<MapData>,
    lost: PerCpuArray<MapData, u64>,
    /// Why changes of the address space are not seen, if they are not.
    pub no_address_space: Option<String>,
    _programs: Ebpf,
}

impl Bpf {
    /// Attaches to the process `pid`, which is stopped before its first instruction and runs `exe`.
    ///
    /// # Errors
    /// When the kernel refuses a program or a probe, with its reason.
    pub fn attach(exe: &GoExe, pid: Pid) -> Result<Self> {
        let sites = ProbeSites::find(exe)?;
        let mut programs = load(sites.arguments, pid)?;
        attach_probes(&mut programs, "pause", &sites.pause, exe, pid)?;
        attach_probes(&mut programs, "live_heap", &sites.live_heap, exe, pid)?;
        attach_probes(&mut programs, "runtime_mmap", &sites.runtime_mmap, exe, pid)?;
        let no_address_space = attach_tracepoints(&mut programs).err();
        let events = programs.take_map("EVENTS").and_then(|map| RingBuf::try_from(map).ok());
        let lost = programs.take_map("LOST").and_then(|map| PerCpuArray::try_from(map).ok());
        match (events, lost) {
            (Some(events), Some(lost)) => Ok(Self { events, lost, no_address_space, _programs: programs }),
            _ => Err(failure("the BPF object lacks the map EVENTS or LOST", REBUILD)),
        }
    }

    /// Hands every record that is waiting to `each`.
    pub fn drain(&mut self, mut each: impl FnMut(Record)) {
        while let Some(item) = self.events.next() {
            if let Some(record) = Record::from_bytes(&item) {
                each(record);
            }
        }
    }

    /// Records that did not fit since the attachment, by kind.
    ///
    /// # Errors
    /// When the kernel does not tell, in which case nothing is known of losses.
    pub fn lost(&self) -> Result<Vec<u64>> {
        (0..KINDS)
            .map(|kind| match self.lost.get(&kind, 0) {
                Ok(per_cpu) => Ok(per_cpu.iter().sum()),
                Err(error) => Err(failure(format!("the count of lost records cannot be read: {error}"), REPORT)),
            })
            .collect()
    }
}

const REBUILD: &str = "rebuild it with `cargo xtask ebpf`";
const REPORT: &str = "please report this with the kernel's version and the output above";

fn failure(message: impl Into<String>, help: &str) -> Error {
    Error::infrastructure(Stage::Collect, message, help)
}

/// Where the probes go. Calls only: see [`crate::arch::calls`].
struct ProbeSites {
    pause: Vec<CallSite>,
    live_heap: Vec<CallSite>,
    runtime_mmap: Vec<CallSite>,
    /// Where the first two arguments of a call lie in the saved registers.
    arguments: [u64; 2],
}

impl ProbeSites {
    fn find(exe: &GoExe) -> Result<Self> {
        let pauses = known(exe, &exe.runtime.pauses)?;
        let (ArgumentLocation::Register(first), ArgumentLocation::Register(second)) =
            (pauses.histogram, pauses.duration)
        else {
            let message = format!("{}: {} passes arguments on the stack", exe.path.display(), exe.version());
            return Err(failure(message, "build it with Go 1.22 or later"));
        };
        Ok(Self {
            pause: pauses.sites.clone(),
            live_heap: vec![known(exe, &exe.runtime.live_heap)?.site],
            runtime_mmap: known(exe, &exe.runtime.mmaps)?.sites.iter().map(|site| site.call).collect(),
            arguments: [first, second],
        })
    }
}

/// What has to be known of the executable.
fn known<'exe, T>(exe: &GoExe, fact: &'exe Fact<T>) -> Result<&'exe T> {
    fact.as_ref().map_err(|reason| {
        failure(format!("{}: {reason}", exe.path.display()), "build it with Go 1.21 to 1.27, without `-s` and `-w`")
    })
}

fn load([argument_0, argument_1]: [u64; 2], pid: Pid) -> Result<Ebpf> {
    let namespace = nix::sys::stat::stat("/proc/self/ns/pid")
        .map_err(|error| failure(format!("/proc/self/ns/pid: {error}"), "mount procfs at /proc"))?;
    let pid = u64::from(pid.as_raw().cast_unsigned());
    EbpfLoader::new()
        .override_global("ARGUMENT_0", &argument_0, true)
        .override_global("ARGUMENT_1", &argument_1, true)
        .override_global("TARGET_PID", &pid, true)
        .override_global("PID_NAMESPACE_DEVICE", &namespace.st_dev, true)
        .override_global("PID_NAMESPACE_INODE", &namespace.st_ino, true)
        .load(OBJECT)
        .map_err(|error| refused("the BPF object was not loaded", &error))
}

fn attach_probes(programs: &mut Ebpf, name: &str, sites: &[CallSite], exe: &GoExe, pid: Pid) -> Result<()> {
    let scope =
        NonZeroU32::new(pid.as_raw().cast_unsigned()).map_or(UProbeScope::CallingProcess, UProbeScope::OneProcess);
    let program = program::<UProbe>(programs, name)?;
    program.load().map_err(|error| refused(name, &error))?;
    for site in sites {
        // Through /proc the probe is on the very file that runs, whatever has become of its path meanwhile.
        let file = format!("/proc/{pid}/exe");
        program.attach(UProbeAttachLocation::AbsoluteOffset(site.file_offset), file, scope).map_err(|error| {
            refused(&format!("the probe `{name}` at {:#x} in {}", site.address, exe.path.display()), &error)
        })?;
    }
    Ok(())
}

/// Attaches to tracepoints, whose numbers only tracefs tells. Where it is not mounted it is mounted in a mount namespace
/// that ends with this function, so that nothing changes on the host.
fn attach_tracepoints(programs: &mut Ebpf) -> Result<(), String> {
    std::thread::scope(|scope| {
        let attached = scope.spawn(|| {
            if !std::path::Path::new("/sys/kernel/tracing/events").exists() {
                mount_tracefs().map_err(|error| format!("tracefs is not mounted and cannot be: {error}"))?;
            }
            for (name, tracepoint) in TRACEPOINTS {
                let program = program::<TracePoint>(programs, name).map_err(|error| error.to_string())?;
                program.load().map_err(|error| format!("{name}: {}", chain(&error)))?;
                program
                    .attach("syscalls", tracepoint)
                    .map_err(|error| format!("syscalls:{tracepoint}: {}", chain(&error)))?;
            }
            Ok(())
        });
        attached.join().unwrap_or_else(|_| Err("attaching to the tracepoints failed".to_owned()))
    })
}

fn mount_tracefs() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let nothing = None::<&str>;
    mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)?;
    mount(Some("tracefs"), "/sys/kernel/tracing", Some("tracefs"), MsFlags::empty(), nothing)
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
        "memgate needs root (or CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE) and a kernel of 5.8 or later with uprobes",
    )
}

/// The error with what caused it: aya keeps the kernel's reason in the cause.
fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
