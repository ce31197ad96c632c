//! The planned probes put on a process, as far as the kernel lets them.

use std::collections::HashMap;

use memgate_evidence::{
    error::{FailureKind, Result, Stage},
    tier::Tier,
};
use memgate_goexe::{
    GoExe,
    arch::{ArgumentLocation, first_touch_program, registers},
    probes::{self, Probe, ProbedSignal, SignalPlan},
};
use nix::unistd::Pid;

use super::{
    Links, Programs,
    bpf::{self, Bpf, Constants},
    tier,
};
use crate::collect::options::Options;

/// The BPF programs on a process.
pub(in crate::collect) struct Attached {
    pub(in crate::collect) tier: Tier,
    /// `None` in tier T0.
    pub(in crate::collect) programs: Option<Box<dyn Programs>>,
    /// The probes that stay until the end.
    #[expect(dead_code, reason = "dropping it takes them off")]
    links: Vec<Links>,
    /// Why signals are missing.
    missing: HashMap<ProbedSignal, String>,
    /// The probes that are put on for short windows alone.
    pub(in crate::collect) refill_probes: Result<Vec<Probe>, String>,
    /// Why first touches are not captured, if they are not.
    pub(in crate::collect) no_captures: Option<String>,
}

impl Attached {
    /// Why there are no probes for a signal, if there are none.
    pub(in crate::collect) fn missing(&self, signal: ProbedSignal) -> Option<String> {
        self.missing.get(&signal).cloned()
    }

    /// No programs, for this reason.
    pub(in crate::collect) fn without_programs(reason: &str) -> Self {
        Self {
            tier: Tier::T0,
            programs: None,
            links: Vec::new(),
            missing: ProbedSignal::ALL.map(|signal| (signal, reason.to_owned())).into(),
            refill_probes: Err(reason.to_owned()),
            no_captures: Some(reason.to_owned()),
        }
    }

    /// Puts the planned probes on. What the kernel refuses leaves its signal missing.
    pub(in crate::collect) fn put_on(
        tier: Tier,
        mut programs: Box<dyn Programs>,
        plans: Vec<SignalPlan>,
        first_touch: &str,
    ) -> Self {
        let (mut links, mut missing) = (Vec::new(), HashMap::new());
        let mut refill_probes = Err("no probes on span refills are planned".to_owned());
        for SignalPlan { signal, probes } in plans {
            if signal == ProbedSignal::SpanRefills {
                refill_probes = probes;
                continue;
            }
            match probes.and_then(|probes| programs.attach(&probes).map_err(|error| error.reason())) {
                Ok(attached) => links.push(attached),
                Err(reason) => {
                    missing.insert(signal, reason);
                }
            }
        }
        let no_captures = match (tier, missing.get(&ProbedSignal::Mappings)) {
            (Tier::T0 | Tier::T1, _) => Some(format!("tier {tier} has no captures of first touches")),
            (_, Some(reason)) => Some(format!("the runtime's own mappings are not known: {reason}")),
            _ => programs.attach_first_touch(first_touch).err().map(|error| error.reason()),
        };
        Self { tier, programs: Some(programs), links, missing, refill_probes, no_captures }
    }
}

/// Attaches the probes of every signal to the process.
///
/// # Errors
/// Fails if the user asks for a tier that the kernel does not allow.
pub(in crate::collect) fn attach(exe: &GoExe, pid: Pid, options: Options) -> Result<Attached> {
    let wanted = options.collecting.tier;
    let tier = match choose(wanted, tier::probe())? {
        (Tier::T0, reason) => return Ok(Attached::without_programs(&reason)),
        (tier, _) => tier,
    };
    let load = bpf::Options { tier, buffer_bytes: options.buffer_bytes };
    match Bpf::load(&constants(exe), pid, load) {
        Ok(programs) => {
            let plans = probes::plan(exe, options.collecting.force_probes);
            Ok(Attached::put_on(tier, Box::new(programs), plans, first_touch_program(exe.platform)))
        }
        Err(error) if wanted.is_some() => Err(error.into()),
        Err(error) => Ok(Attached::without_programs(&error.reason())),
    }
}

/// A tier that cannot be had here.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("tier {wanted} was asked for, and {highest} is the highest here: {obstacle}")]
#[diagnostic(help("leave `--tier` out, or ask for a lower one"))]
struct TierError {
    wanted: Tier,
    highest: Tier,
    obstacle: String,
}

impl FailureKind for TierError {
    fn stage(&self) -> Stage {
        Stage::Collect
    }
}

/// The tier to use, and why no higher one. `highest` is the highest that works here, with the obstacle to a higher one.
fn choose(wanted: Option<Tier>, (highest, obstacle): (Tier, Option<String>)) -> Result<(Tier, String)> {
    match wanted {
        Some(wanted) if wanted > highest => {
            let obstacle = obstacle.unwrap_or_else(|| "the kernel has no more".to_owned());
            Err(TierError { wanted, highest, obstacle }.into())
        }
        Some(wanted) => Ok((wanted, format!("tier {wanted} was asked for"))),
        None => Ok((highest, obstacle.unwrap_or_default())),
    }
}

/// What the programs must know of the executable and its architecture. A value that is not known is 0, and its signal is missing.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::testing::{FakePrograms, probe};

    fn plan(signal: ProbedSignal, program: &'static str) -> SignalPlan {
        SignalPlan { signal, probes: Ok(vec![probe(program)]) }
    }

    fn plans() -> Vec<SignalPlan> {
        let lost = SignalPlan { signal: ProbedSignal::WorldStops, probes: Err("no such call".to_owned()) };
        let refills = plan(ProbedSignal::SpanRefills, "refill");
        vec![plan(ProbedSignal::Pauses, "pause"), lost, plan(ProbedSignal::Mappings, "mmap_call"), refills]
    }

    #[test]
    fn a_probe_that_is_refused_or_not_planned_leaves_its_signal_missing() {
        let programs = FakePrograms::default();
        programs.refuse("pause");
        let attached = Attached::put_on(Tier::T3, Box::new(programs.clone()), plans(), "first_touch");
        let missing = |signal| attached.missing(signal).unwrap_or_default();
        assert!(missing(ProbedSignal::Pauses).contains("`pause`"), "{}", missing(ProbedSignal::Pauses));
        assert_eq!(missing(ProbedSignal::WorldStops), "no such call");
        assert_eq!(attached.missing(ProbedSignal::Mappings), None);
        assert_eq!(attached.no_captures, None);
        assert_eq!(attached.refill_probes.as_ref().map(Vec::len), Ok(1));
        assert_eq!(programs.attached(), ["mmap_call", "first_touch"], "refills wait for their windows");
        drop(attached);
        assert_eq!(programs.attached(), ["first_touch"], "the links are gone");
    }

    #[test]
    fn first_touches_are_captured_only_where_the_runtimes_mappings_are_known() {
        let programs = FakePrograms::default();
        programs.refuse("mmap_call");
        let attached = Attached::put_on(Tier::T3, Box::new(programs), plans(), "first_touch");
        assert!(attached.no_captures.unwrap().starts_with("the runtime's own mappings are not known: "));
        let attached = Attached::put_on(Tier::T1, Box::new(FakePrograms::default()), plans(), "first_touch");
        assert_eq!(attached.no_captures.unwrap(), "tier T1 has no captures of first touches");
    }

    #[test]
    fn a_tier_above_the_highest_is_refused_and_the_obstacle_said() {
        let here = || (Tier::T1, Some("the kernel has no BPF ring buffer (Linux 5.8)".to_owned()));
        let error = choose(Some(Tier::T3), here()).unwrap_err().to_string();
        assert!(error.contains("T3 was asked for, and T1 is the highest here: the kernel has no BPF ring"), "{error}");
        assert_eq!(choose(None, here()).unwrap().0, Tier::T1);
        assert_eq!(choose(Some(Tier::T0), here()).unwrap(), (Tier::T0, "tier T0 was asked for".to_owned()));
    }
}
