//! The probe planner: the instruction for each BPF program, and the cost of the probe for the service.
//!
//! Pure: reads an executable and plans. `memgate doctor --probes` prints the plan, and the collectors carry it out. In
//! a virtual machine, a single-stepped instruction costs 10 to 22 µs a hit and an emulated one half a microsecond. So
//! memgate puts no probe on a single-stepped instruction unless the user asks for it.

use crate::{
    CallSite, Fact, GoExe, MmapSite,
    arch::{ProbeCost, Probed, probes_stay},
};

/// A probe and its cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The BPF program.
    pub program: &'static str,
    /// Its place for people, such as `call of runtime.mmap`.
    pub place: &'static str,
    /// Virtual address of the instruction in the file.
    pub address: u64,
    /// Its offset in the file, bytes.
    pub file_offset: u64,
    /// The instruction's name, such as `call`.
    pub mnemonic: String,
    /// How the kernel executes the instruction under a probe.
    pub cost: ProbeCost,
}

/// The probes of one signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalPlan {
    /// The signal.
    pub signal: ProbedSignal,
    /// The probes, or why there are none, as text for people.
    pub probes: Fact<Vec<Probe>>,
}

/// Makes [`ProbedSignal`] from a row for each signal.
macro_rules! probed_signals {
    ($( #[doc = $sentence:literal] $signal:ident { name: $name:literal, exactness: $exactness:literal } )+) => {
        /// The signals that come from probes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ProbedSignal {
            $( #[doc = $sentence] $signal, )+
        }

        impl ProbedSignal {
            /// Every signal, in the order of the evidence.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$signal),+];

            /// Its name in the evidence.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$signal => $name,)+ }
            }

            /// What it provides.
            pub const fn exactness(self) -> &'static str {
                match self { $(Self::$signal => $exactness,)+ }
            }
        }
    };
}

probed_signals! {
    /// `gc_pauses` and `other_pauses`.
    Pauses { name: "gc_pauses, other_pauses", exactness: "every pause, in the runtime's own nanoseconds" }
    /// `world_stops`.
    WorldStops { name: "world_stops", exactness: "every stop of the world, with its reason and its hidden tail" }
    /// `live_heap`.
    LiveHeap { name: "live_heap", exactness: "every GC cycle" }
    /// `mmap_latency`, and the ranges that `offheap` excludes.
    Mappings { name: "mmap_latency, offheap", exactness: "every mapping that the runtime makes" }
    /// `alloc_samples`.
    AllocSamples { name: "alloc_samples", exactness: "every allocation that the runtime samples" }
    /// `span_refills`.
    SpanRefills { name: "span_refills", exactness: "every refill in windows of the measuring phase" }
}

impl ProbedSignal {
    fn sites(self, exe: &GoExe) -> Fact<Vec<(&'static str, &'static str, CallSite)>> {
        let runtime = &exe.runtime;
        let one = |program, place, site: &CallSite| (program, place, *site);
        Ok(match self {
            Self::Pauses => {
                let sites = &runtime.pauses.as_ref().map_err(Clone::clone)?.sites;
                sites.iter().map(|site| one("pause", "call of (*timeHistogram).record", site)).collect()
            }
            Self::WorldStops => {
                let starts = runtime.world_starts.as_ref().map_err(Clone::clone)?;
                if starts.reason.is_none() {
                    return Err("Go 1.21 does not pass the reason for a stop to startTheWorldWithSema".to_owned());
                }
                starts.sites.iter().map(|(_, site)| one("world_start", "call of startTheWorldWithSema", site)).collect()
            }
            Self::LiveHeap => {
                let live = runtime.live_heap.as_ref().map_err(Clone::clone)?;
                vec![one("live_heap", "call of (*gcControllerState).resetLive", &live.site)]
            }
            Self::Mappings => {
                let mmaps = runtime.mmaps.as_ref().map_err(Clone::clone)?;
                let both = |site: &MmapSite| {
                    let call = one("mmap_call", "call of runtime.mmap", &site.call);
                    let result = site.result.as_ref();
                    std::iter::once(call).chain(result.map(|site| one("mmap_return", "branch on its result", site)))
                };
                let unmaps = mmaps.unmaps.iter().map(|site| one("munmap_call", "call of runtime.munmap", site));
                mmaps.sites.iter().flat_map(both).chain(unmaps).collect()
            }
            Self::AllocSamples => {
                let samples = runtime.alloc_samples.as_ref().map_err(Clone::clone)?;
                vec![one("alloc_sample", "call of setprofilebucket", &samples.site)]
            }
            Self::SpanRefills => {
                // Only these probes are attached in windows.
                if let Some(reason) = probes_stay(exe.platform) {
                    return Err(reason.to_owned());
                }
                let refills = runtime.span_refills.as_ref().map_err(Clone::clone)?;
                let hits = refills.refills.iter().map(|site| one("refill", "call of (*mcentral).cacheSpan", site));
                let misses = refills.grows.iter().map(|site| one("refill_miss", "call of (*mcentral).grow", site));
                hits.chain(misses).collect()
            }
        })
    }
}

/// Plans the probes of every signal. With `force`, also on instructions that the kernel single-steps.
pub fn plan(exe: &GoExe, force: bool) -> Vec<SignalPlan> {
    ProbedSignal::ALL.map(|signal| SignalPlan { signal, probes: plan_signal(exe, signal, force) }).into()
}

fn plan_signal(exe: &GoExe, signal: ProbedSignal, force: bool) -> Fact<Vec<Probe>> {
    let mut probes = Vec::new();
    for (program, place, site) in signal.sites(exe)? {
        probes.push(plan_probe(program, place, site, exe.probed(site.address), force)?);
    }
    Ok(probes)
}

fn plan_probe(
    program: &'static str,
    place: &'static str,
    CallSite { address, file_offset }: CallSite,
    instruction: Option<Probed>,
    force: bool,
) -> Fact<Probe> {
    let unreadable = || format!("there is no instruction at {address:#x}, the {place}");
    let Probed { cost, mnemonic } = instruction.ok_or_else(unreadable)?;
    if cost == ProbeCost::SingleStepped && !force {
        return Err(format!(
            "the kernel would single-step `{mnemonic}` at {address:#x}, the {place}, at 10 to 22 µs a hit; `--force-probes` puts the probe there anyway"
        ));
    }
    Ok(Probe { program, place, address, file_offset, mnemonic, cost })
}

#[cfg(test)]
mod tests {
    use memgate_evidence::Signals;

    use super::*;

    #[test]
    fn probed_signals_have_the_names_of_the_evidence() {
        let signals = Signals::default();
        let known = signals.provenance().map(|signal| signal.name);
        for name in ProbedSignal::ALL.iter().flat_map(|signal| signal.name().split(", ")) {
            assert!(known.contains(&name), "{name}");
        }
    }

    #[test]
    fn an_instruction_that_is_single_stepped_is_refused_unless_forced() {
        let site = CallSite { address: 0x1000, file_offset: 0x400 };
        let of = |cost| Some(Probed { cost, mnemonic: "cmp".to_owned() });
        let plan = |instruction, force| plan_probe("pause", "entry of a function", site, instruction, force);
        let refused = plan(of(ProbeCost::SingleStepped), false).unwrap_err();
        assert!(refused.contains("`cmp` at 0x1000") && refused.contains("--force-probes"), "{refused}");
        assert_eq!(plan(of(ProbeCost::SingleStepped), true).unwrap().cost, ProbeCost::SingleStepped);
        assert_eq!(plan(of(ProbeCost::Emulated), false).unwrap().file_offset, 0x400);
        assert!(plan(None, true).unwrap_err().contains("no instruction"));
    }
}
