//! The planned probes put on a process, as far as the kernel lets them.

use std::collections::HashMap;

use memgate_evidence::{
    error::{Error, Result, Stage},
    tier::Tier,
};
use memgate_goexe::{
    Fact, GoExe,
    arch::{ArgumentLocation, first_touch_program, registers},
    probes::{self, Probe, ProbedSignal},
};
use nix::unistd::Pid;

use super::{
    Bpf,
    bpf::{self, Constants},
    recorder::Options,
    tier,
};

/// The BPF programs on a process.
pub(super) struct Attached {
    pub(super) tier: Tier,
    /// `None` with tier T0.
    pub(super) bpf: Option<Bpf>,
    /// Why signals are lost.
    lost: HashMap<ProbedSignal, String>,
    /// The probes that are put on for short windows alone.
    pub(super) refill_probes: Result<Vec<Probe>, String>,
    /// Why first touches are not captured, if they are not.
    pub(super) no_captures: Option<String>,
}

impl Attached {
    /// Why a signal is lost, if it is.
    pub(super) fn lost(&self, signal: ProbedSignal) -> Option<&str> {
        self.lost.get(&signal).map(String::as_str)
    }

    fn without_bpf(reason: &str) -> Self {
        Self {
            tier: Tier::T0,
            bpf: None,
            lost: ProbedSignal::ALL.map(|signal| (signal, reason.to_owned())).into(),
            refill_probes: Err(reason.to_owned()),
            no_captures: Some(reason.to_owned()),
        }
    }
}

/// Attaches the probes of every signal to the process. What the kernel refuses loses its signal.
///
/// # Errors
/// When a tier is asked for that the kernel does not allow.
pub(super) fn attach(exe: &GoExe, pid: Pid, options: Options) -> Result<Attached> {
    let (highest, obstacle) = tier::probe();
    let tier = match options.collecting.tier {
        Some(wanted) if wanted > highest => {
            let obstacle = obstacle.unwrap_or_else(|| "the kernel has no more".to_owned());
            let message = format!("tier {wanted} was asked for, and {highest} is the highest here: {obstacle}");
            return Err(Error::infrastructure(Stage::Collect, message, "leave `--tier` out, or ask for a lower one"));
        }
        wanted => wanted.unwrap_or(highest),
    };
    if tier == Tier::T0 {
        let asked = options.collecting.tier.map(|_| "tier T0 was asked for".to_owned());
        return Ok(Attached::without_bpf(&asked.or(obstacle).unwrap_or_default()));
    }
    let load = bpf::Options { tier, buffer_bytes: options.buffer_bytes };
    let mut programs = match Bpf::load(&constants(exe), pid, load) {
        Ok(programs) => programs,
        Err(error) if options.collecting.tier.is_some() => return Err(error),
        Err(error) => return Ok(Attached::without_bpf(&error.to_string())),
    };
    let mut lost = HashMap::new();
    let mut refill_probes = None;
    for plan in probes::plan(exe, options.collecting.force_probes) {
        if plan.signal == ProbedSignal::SpanRefills {
            refill_probes = Some(plan.probes);
        } else if let Err(reason) = attach_for_good(&mut programs, plan.probes) {
            lost.insert(plan.signal, reason);
        }
    }
    let refill_probes = refill_probes.unwrap_or_else(|| Err("no probes on span refills are planned".to_owned()));
    if let Err(reason) = &refill_probes {
        lost.insert(ProbedSignal::SpanRefills, reason.clone());
    }
    let mut attached = Attached { tier, bpf: None, lost, refill_probes, no_captures: None };
    attached.no_captures = match (tier, attached.lost(ProbedSignal::Mappings)) {
        (Tier::T0 | Tier::T1, _) => Some(format!("tier {tier} has no captures of first touches")),
        (_, Some(reason)) => Some(format!("the runtime's own mappings are not known: {reason}")),
        _ => programs.attach_first_touch(first_touch_program(exe.platform)).err().map(|error| error.to_string()),
    };
    attached.bpf = Some(programs);
    Ok(attached)
}

fn attach_for_good(programs: &mut Bpf, probes: Fact<Vec<Probe>>) -> Result<(), String> {
    programs.attach_for_good(&probes?).map_err(|error| error.to_string())
}

/// What the programs are told of the executable and its architecture. What is not known is 0, and its signal lost.
fn constants(exe: &GoExe) -> Constants {
    let registers = registers(exe.platform);
    let runtime = &exe.runtime;
    let argument = |index| exe.argument(index).map_or(0, place);
    let result = |pick: fn(&memgate_goexe::Mmaps) -> ArgumentLocation| {
        runtime.mmaps.as_ref().map_or(0, |mmaps| place(pick(mmaps)))
    };
    let list = runtime.goroutine_list.as_ref().ok();
    vec![
        ("ARGUMENT_0", argument(0)),
        ("ARGUMENT_1", argument(1)),
        ("ARGUMENT_2", argument(2)),
        ("RESULT_0", result(|mmaps| mmaps.mapped)),
        ("RESULT_1", result(|mmaps| mmaps.error)),
        ("G_REGISTER", registers.g),
        ("STACK_POINTER", registers.sp),
        ("PROGRAM_COUNTER", registers.pc),
        ("REGISTER_COUNT", registers.count),
        ("G_M", list.map_or(0, |list| list.m.offset)),
        ("M_CURG", runtime.threads.as_ref().map_or(0, |threads| threads.curg.offset)),
        ("G_GOID", list.map_or(0, |list| list.goid.offset)),
        ("G_SYSCALLPC", list.map_or(0, |list| list.syscall_pc.offset)),
        ("G_SYSCALLSP", list.map_or(0, |list| list.syscall_sp.offset)),
    ]
}

/// As the programs read it: an offset in `pt_regs`, or with [`memgate_ebpf::ON_STACK`] one from the stack pointer.
const fn place(location: ArgumentLocation) -> u64 {
    match location {
        ArgumentLocation::Register(offset) => offset,
        ArgumentLocation::Stack(offset) => offset | memgate_ebpf::ON_STACK,
    }
}
