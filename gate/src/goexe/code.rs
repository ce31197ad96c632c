//! The code of the Go runtime in an executable: which function calls which, and where.

use super::{
    functions::{Function, Functions},
    image::Image,
};
use crate::arch::{self, Call, Event, Probed};

/// A place that a probe is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallSite {
    /// Virtual address of the instruction.
    pub address: u64,
    /// Its offset in the file, which is what a uprobe is attached by.
    pub file_offset: u64,
}

/// The code.
pub(super) struct Code {
    pub(super) image: Image,
    functions: Functions,
    minor: Option<u32>,
    /// Every direct call in a function of the runtime, in order of the function called, then of address.
    calls: Vec<Call>,
}

impl Code {
    /// The code of an executable that Go 1.`minor` built.
    pub(super) fn new(image: Image, functions: Functions, minor: Option<u32>) -> Self {
        let mut calls: Vec<_> = functions
            .all()
            .iter()
            .flat_map(|function| {
                arch::calls(image.platform, image.code(&function.range).unwrap_or_default(), function.range.start)
            })
            .collect();
        calls.sort_unstable_by_key(|call| (call.target, call.at));
        calls.dedup();
        Self { image, functions, minor, calls }
    }

    /// The same code with functions that are known from elsewhere.
    pub(super) fn with_functions_of(self, other: Self) -> Self {
        Self::new(self.image, other.functions, self.minor)
    }

    /// Whether it has any function of the runtime.
    pub(super) fn is_known(&self) -> bool {
        !self.functions.all().is_empty()
    }

    /// Whether it has a function of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.functions.named(name).next().is_some()
    }

    /// The calls of `callee` in every function but itself, with the caller's name, in order of address.
    pub(super) fn calls_of(&self, callee: &str) -> Vec<(&str, CallSite)> {
        let calls = self.functions.named(callee).flat_map(|function| self.calls_to(function.range.start));
        let mut sites: Vec<_> = calls
            .filter_map(|call| Some((self.function_at(call.at)?.name.as_str(), self.site(call.at)?)))
            .filter(|(caller, _)| *caller != callee)
            .collect();
        sites.sort_unstable_by_key(|(_, site)| site.address);
        sites
    }

    /// The functions that call one whose name starts so.
    pub(super) fn callers_of(&self, prefix: &str) -> Vec<&Function> {
        let callees = self.functions.all().iter().filter(|function| function.name.starts_with(prefix));
        let calls = callees.flat_map(|function| self.calls_to(function.range.start));
        let mut callers: Vec<_> = calls.filter_map(|call| self.function_at(call.at)).collect();
        callers.sort_unstable_by_key(|function| function.range.start);
        callers.dedup_by_key(|function| function.range.start);
        callers
    }

    /// The place of an instruction.
    pub(super) fn site(&self, address: u64) -> Option<CallSite> {
        self.image.file_offset(address).map(|file_offset| CallSite { address, file_offset })
    }

    pub(super) fn probed(&self, address: u64) -> Option<Probed> {
        /// No instruction is longer.
        const LONGEST: u64 = 15;
        let code = (1..=LONGEST).rev().find_map(|length| self.image.code(&(address..address.checked_add(length)?)))?;
        arch::probed(self.image.platform, code)
    }

    /// The first conditional branch behind the call at `site` where its first two results can still be read.
    pub(super) fn branch_behind(&self, site: CallSite) -> Option<CallSite> {
        let function = self.function_at(site.address)?;
        let code = self.image.code(&function.range)?;
        let branch =
            arch::branch_with_results(self.image.platform, code, function.range.start, site.address, self.minor?)?;
        self.site(branch)
    }

    /// What the functions of this name refer to and call.
    pub(super) fn events(&self, name: &str) -> Vec<Event> {
        self.functions.named(name).flat_map(|function| self.events_in(function)).collect()
    }

    pub(super) fn events_in(&self, function: &Function) -> Vec<Event> {
        let code = self.image.code(&function.range).unwrap_or_default();
        arch::trace(self.image.platform, code, function.range.start, self.minor)
    }

    /// The name of the function that starts at the address.
    pub(super) fn name_of(&self, address: u64) -> Option<&str> {
        self.functions.starting_at(address).map(|function| function.name.as_str())
    }

    fn calls_to(&self, target: u64) -> impl Iterator<Item = &Call> {
        let first = self.calls.partition_point(|call| call.target < target);
        self.calls.get(first..).into_iter().flatten().take_while(move |call| call.target == target)
    }

    fn function_at(&self, address: u64) -> Option<&Function> {
        let all = self.functions.all();
        let next = all.partition_point(|function| function.range.start <= address);
        all.get(next.checked_sub(1)?).filter(|function| function.range.contains(&address))
    }
}
