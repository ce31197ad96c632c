//! What memgate can measure of an executable on this machine, and how.

use std::fmt::Write as _;

use memgate_agent::collect::tier;
use memgate_evidence::tier::Tier;
use memgate_goexe::{
    GoExe,
    arch::ProbeCost,
    probes::{self, Probe, SignalPlan},
};
use serde::Serialize;

/// The plan of an executable's probes, and the tier that this machine allows.
#[derive(Debug, Serialize)]
pub struct ProbeReport {
    executable: String,
    /// The Go version that built it.
    go: String,
    platform: String,
    tier: Tier,
    /// Why the tier is not higher.
    obstacle: Option<String>,
    signals: Vec<SignalReport>,
    /// What memgate does not know about the runtime, with reasons. The signals that need it are lost.
    unknown: Vec<Unknown>,
}

#[derive(Debug, Serialize)]
struct SignalReport {
    signal: &'static str,
    /// What the signal provides, or why it is lost.
    exactness: String,
    lost: bool,
    probes: Vec<ProbeLine>,
}

#[derive(Debug, Serialize)]
struct ProbeLine {
    place: &'static str,
    address: String,
    instruction: String,
    class: &'static str,
}

#[derive(Debug, Serialize)]
struct Unknown {
    what: &'static str,
    reason: String,
}

impl ProbeReport {
    /// Plans the probes of `exe`. `force` allows probes on instructions that the kernel single-steps.
    pub fn of(exe: &GoExe, force: bool) -> Self {
        let (tier, obstacle) = tier::probe();
        let unknown = exe.runtime.losses().into_iter();
        Self {
            executable: exe.path.display().to_string(),
            go: exe.version().to_owned(),
            platform: exe.platform.to_string(),
            tier,
            obstacle,
            signals: probes::plan(exe, force).into_iter().map(SignalReport::of).collect(),
            unknown: unknown.map(|(what, reason)| Unknown { what, reason: reason.to_owned() }).collect(),
        }
    }

    /// The report as text.
    pub fn text(&self) -> String {
        let mut text = format!("{}: {}, {}\n", self.executable, self.go, self.platform);
        let obstacle = self.obstacle.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        push(&mut text, format_args!("tier {}{obstacle}\n", self.tier));
        for signal in &self.signals {
            let state = if signal.lost { "lost: " } else { "" };
            push(&mut text, format_args!("\n{}\n  {state}{}\n", signal.signal, signal.exactness));
            for probe in &signal.probes {
                push(
                    &mut text,
                    format_args!(
                        "  {:>12}  {:<6} {:<14} {}\n",
                        probe.address, probe.instruction, probe.class, probe.place
                    ),
                );
            }
        }
        if !self.unknown.is_empty() {
            text.push_str("\nunknown about its runtime\n");
            for unknown in &self.unknown {
                push(&mut text, format_args!("  {}: {}\n", unknown.what, unknown.reason));
            }
        }
        text
    }
}

impl SignalReport {
    fn of(plan: SignalPlan) -> Self {
        let signal = plan.signal.name();
        match plan.probes {
            Ok(probes) => Self {
                signal,
                exactness: plan.signal.exactness().to_owned(),
                lost: false,
                probes: probes.into_iter().map(ProbeLine::of).collect(),
            },
            Err(reason) => Self { signal, exactness: reason, lost: true, probes: Vec::new() },
        }
    }
}

impl ProbeLine {
    fn of(probe: Probe) -> Self {
        Self {
            place: probe.place,
            address: format!("{:#x}", probe.address),
            instruction: probe.mnemonic,
            class: match probe.cost {
                ProbeCost::Emulated => "emulated",
                ProbeCost::SingleStepped => "single-stepped",
            },
        }
    }
}

/// Writing to a string cannot fail.
fn push(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = text.write_fmt(arguments);
}
