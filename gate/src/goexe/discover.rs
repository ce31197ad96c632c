//! Finding the runtime's variables in the code of an executable without symbols.
//!
//! Each variable is what certain functions alone have in common, or the first argument of certain calls. The functions were
//! read in proc.go, mprof.go, mgc.go, mcache.go and mstats.go of Go 1.21 to 1.27; a test holds every variable against the
//! symbols of executables built by each version for each architecture. Where the code leaves a choice, nothing is found.

use std::collections::BTreeSet;

use super::{Global, code::Code, offsets::Offsets};
use crate::arch::{Access, Event, Reference};

/// Looks for variables in the code of one executable.
pub(super) struct Discovery<'exe> {
    code: &'exe Code,
    offsets: &'exe Offsets,
}

impl<'exe> Discovery<'exe> {
    pub(super) const fn new(code: &'exe Code, offsets: &'exe Offsets) -> Self {
        Self { code, offsets }
    }

    /// The variable's address.
    ///
    /// # Errors
    /// When the code does not tell, or leaves a choice.
    pub(super) fn find(&self, global: Global) -> Result<u64, String> {
        if let Some(reason) = self.code.functions_missing() {
            return Err(reason.to_owned());
        }
        let (address, alignment, size) = match global {
            Global::GcController => (
                self.receiver("runtime.(*gcControllerState).")?,
                8,
                self.end("runtime.gcControllerState", "totalAlloc")?,
            ),
            Global::Memstats => (self.memstats()?, 8, self.end("runtime.mstats", "gc_cpu_fraction")?),
            Global::Sched => (self.sched()?, 8, self.end("runtime.schedt", "timeToRun")?),
            Global::Allp => (self.allp()?, 8, 24),
            Global::Allglen => (self.allglen()?, 8, 8),
            Global::Allgptr => (self.argument("runtime.allgadd", "runtime.atomicwb")?, 8, 8),
            Global::Allm => (self.argument("runtime.mcommoninit", "runtime.atomicwb")?, 8, 8),
            Global::Mheap => (self.receiver("runtime.(*mheap).")?, 8, 8),
            Global::Work => (self.inside("runtime.(*cpuStats).", "runtime.workType", "cpuStats")?, 8, 8),
            Global::Mbuckets => (self.mbuckets()?, 8, 8),
            Global::MProfCycle => {
                (self.common(&["runtime.mProf_Malloc", "runtime.mProf_Free", "runtime.mProf_Flush"], 4)?, 4, 4)
            }
            Global::MemProfileRate => (self.common(&["runtime.profilealloc", "runtime.allocmcache"], 8)?, 8, 8),
            Global::DisableMemoryProfiling => (self.disable_memory_profiling()?, 1, 1),
        };
        if address % alignment != 0 || !self.code.image.holds_variable(address, size) {
            return Err(format!("the code points to {address:#x}, which is no place for it"));
        }
        Ok(address)
    }

    /// The first argument of every call of a method whose name starts so.
    fn receiver(&self, methods: &str) -> Result<u64, String> {
        let mut arguments = BTreeSet::new();
        for caller in self.code.callers_of(methods) {
            for event in self.code.events_in(caller) {
                if let Event::Call { target, argument_0: Some(argument), .. } = event
                    && self.code.name_of(target).is_some_and(|name| name.starts_with(methods))
                    && self.code.image.holds_variable(argument, 1)
                {
                    arguments.insert(argument);
                }
            }
        }
        only(&arguments, &format!("the receiver of `{methods}…`"))
    }

    /// `memstats.heapStats` is the only variable of its type.
    fn memstats(&self) -> Result<u64, String> {
        let field = self.offsets.field("runtime.mstats", "heapStats")?;
        let statistics = self.receiver("runtime.(*consistentHeapStats).")?;
        statistics.checked_sub(field.offset).ok_or_else(|| "`memstats` would start below 0".to_owned())
    }

    /// Where a field ends in its structure.
    fn end(&self, structure: &str, path: &str) -> Result<u64, String> {
        let field = self.offsets.field(structure, path)?;
        field.offset.checked_add(field.size).ok_or_else(|| format!("`{structure}` would be larger than memory"))
    }

    /// The first argument of the calls of `callee` in `caller`.
    fn argument(&self, caller: &str, callee: &str) -> Result<u64, String> {
        let arguments = self.events(caller)?.into_iter().filter_map(|event| match event {
            Event::Call { target, argument_0, .. } if self.code.name_of(target) == Some(callee) => argument_0,
            _ => None,
        });
        let variables = arguments.filter(|address| self.code.image.holds_variable(*address, 1)).collect();
        only(&variables, &format!("the argument of `{callee}` in `{caller}`"))
    }

    /// `casgstatus` records how long goroutines waited in `sched.timeToRun`.
    fn sched(&self) -> Result<u64, String> {
        let field = self.offsets.field("runtime.schedt", "timeToRun")?;
        let histogram = self.argument("runtime.casgstatus", "runtime.(*timeHistogram).record")?;
        histogram.checked_sub(field.offset).ok_or_else(|| "`sched` would start below 0".to_owned())
    }

    /// `gcMarkTinyAllocs` reads nothing but the pointer and the length of `allp`.
    fn allp(&self) -> Result<u64, String> {
        let words: Vec<_> = self.accesses("runtime.gcMarkTinyAllocs", 8)?.into_iter().collect();
        match words.as_slice() {
            [pointer, length] if pointer.checked_add(8) == Some(*length) => Ok(*pointer),
            _ => Err(format!("`runtime.gcMarkTinyAllocs` reads {} words where 2 were expected", words.len())),
        }
    }

    /// `allgadd` writes `allgptr` and `allglen`, `forEachGRace` reads them.
    fn allglen(&self) -> Result<u64, String> {
        let allgptr = self.find(Global::Allgptr)?;
        let mut both = self.shared(&["runtime.allgadd", "runtime.forEachGRace"], 8)?;
        both.remove(&allgptr);
        only(&both, "what `runtime.allgadd` and `runtime.forEachGRace` share")
    }

    /// `mProf_FlushLocked` reads it, `stkbucket` takes its address.
    fn mbuckets(&self) -> Result<u64, String> {
        let read = self.accesses("runtime.mProf_FlushLocked", 8)?;
        let both = self.references("runtime.stkbucket")?.into_iter().map(|reference| reference.address);
        only(
            &both.filter(|address| read.contains(address)).collect(),
            "what `runtime.mProf_FlushLocked` and `runtime.stkbucket` share",
        )
    }

    /// `schedinit` looks at it and then sets `MemProfileRate` to 0.
    fn disable_memory_profiling(&self) -> Result<u64, String> {
        let rate = self.find(Global::MemProfileRate)?;
        let references: Vec<_> = self.references("runtime.schedinit")?;
        let flags = references.array_windows().filter_map(|[flag, store]| {
            let sets = store.access == Access::Store && store.address == rate;
            (sets && flag.access == Access::Load && flag.size == 1).then_some(flag.address)
        });
        only(&flags.collect(), "the flag that `runtime.schedinit` reads before it sets MemProfileRate")
    }

    /// The one place that all these functions read or write with this size.
    fn common(&self, functions: &[&str], size: u8) -> Result<u64, String> {
        only(&self.shared(functions, size)?, &format!("what {} share", functions.join(", ")))
    }

    fn shared(&self, functions: &[&str], size: u8) -> Result<BTreeSet<u64>, String> {
        let mut sets = functions.iter().map(|function| self.accesses(function, size));
        let first = sets.next().unwrap_or_else(|| Ok(BTreeSet::new()))?;
        sets.try_fold(first, |all, set| Ok(&all & &set?))
    }

    /// The places that a function reads or writes with this size.
    fn accesses(&self, function: &str, size: u8) -> Result<BTreeSet<u64>, String> {
        let references = self.references(function)?.into_iter();
        Ok(references.filter(|reference| reference.size == size).map(|reference| reference.address).collect())
    }

    /// What a function does with variables.
    fn references(&self, function: &str) -> Result<Vec<Reference>, String> {
        let references = self.events(function)?.into_iter().filter_map(|event| match event {
            Event::Reference(reference) if self.code.image.holds_variable(reference.address, 1) => Some(reference),
            _ => None,
        });
        Ok(references.collect())
    }

    fn events(&self, function: &str) -> Result<Vec<Event>, String> {
        if self.code.has(function) {
            return Ok(self.code.events(function));
        }
        Err(format!("there is no function `{function}`"))
    }
}

/// The only one of a set.
fn only(set: &BTreeSet<u64>, what: &str) -> Result<u64, String> {
    match (set.first(), set.len()) {
        (Some(address), 1) => Ok(*address),
        (_, 0) => Err(format!("{what} could not be told from the code")),
        (_, count) => Err(format!("{what} could be one of {count} places")),
    }
}
