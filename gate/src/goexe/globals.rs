//! Addresses of the runtime's variables: from symbols, else discovered in the code.

use std::collections::HashMap;

use object::{Object as _, ObjectSymbol as _};

use super::{code::Code, discover::Discovery, offsets::Offsets};

/// A variable of the package `runtime`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Global {
    /// `gcController`.
    GcController,
    /// `memstats`.
    Memstats,
    /// `sched`.
    Sched,
    /// `allp`, a slice of pointers to `p`.
    Allp,
    /// `allglen`, a uintptr.
    Allglen,
    /// `allgptr`, a pointer to the first of `allglen` pointers to `g`.
    Allgptr,
    /// `allm`, a pointer to the first `m`.
    Allm,
    /// `mheap_`.
    Mheap,
    /// `work`, the state of the GC.
    Work,
    /// `mbuckets`, a pointer to the first bucket of the heap profile.
    Mbuckets,
    /// `mProfCycle`, a uint32.
    MProfCycle,
    /// `MemProfileRate`, an int.
    MemProfileRate,
    /// `disableMemoryProfiling`, a bool.
    DisableMemoryProfiling,
}

/// Every variable.
pub const GLOBALS: [Global; 13] = [
    Global::GcController,
    Global::Memstats,
    Global::Sched,
    Global::Allp,
    Global::Allglen,
    Global::Allgptr,
    Global::Allm,
    Global::Mheap,
    Global::Work,
    Global::Mbuckets,
    Global::MProfCycle,
    Global::MemProfileRate,
    Global::DisableMemoryProfiling,
];

impl Global {
    /// The variable's symbol.
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::GcController => "runtime.gcController",
            Self::Memstats => "runtime.memstats",
            Self::Sched => "runtime.sched",
            Self::Allp => "runtime.allp",
            Self::Allglen => "runtime.allglen",
            Self::Allgptr => "runtime.allgptr",
            Self::Allm => "runtime.allm",
            Self::Mheap => "runtime.mheap_",
            Self::Work => "runtime.work",
            Self::Mbuckets => "runtime.mbuckets",
            Self::MProfCycle => "runtime.mProfCycle",
            Self::MemProfileRate => "runtime.MemProfileRate",
            Self::DisableMemoryProfiling => "runtime.disableMemoryProfiling",
        }
    }
}

/// The variables' addresses, or why they are not known.
pub(super) struct Globals {
    addresses: HashMap<Global, Result<u64, String>>,
}

impl Globals {
    pub(super) fn read(file: &object::File<'_>, code: &Code, offsets: &Offsets) -> Self {
        let symbols: HashMap<_, _> = file
            .symbols()
            .filter(object::ObjectSymbol::is_definition)
            .filter_map(|symbol| Some((symbol.name().ok()?, symbol.address())))
            .collect();
        let discovery = Discovery::new(code, offsets);
        let addresses = GLOBALS.map(|global| {
            let address = match symbols.get(global.symbol()) {
                Some(address) => Ok(*address),
                None => discovery.find(global),
            };
            (global, address)
        });
        Self { addresses: addresses.into() }
    }

    pub(super) fn address(&self, global: Global) -> Result<u64, String> {
        match self.addresses.get(&global) {
            Some(Ok(address)) => Ok(*address),
            Some(Err(reason)) => Err(format!("`{}` was not found: {reason}", global.symbol())),
            None => Err(format!("`{}` was not looked for", global.symbol())),
        }
    }
}
