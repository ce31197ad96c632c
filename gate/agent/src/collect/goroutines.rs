//! Goroutines by the `go` statement that made them, from the runtime's list of all goroutines.

use std::collections::HashMap;

use memgate_goexe::{GoroutineList, Threads};

use super::memory::{ProcessMemory, number};

/// More goroutines than fit into memory: a list that is longer is none.
const MAXIMUM_GOROUTINES: u64 = 1 << 26;
/// More threads than the runtime makes: its own limit is 10,000 (`sched.maxmcount`, proc.go).
const MAXIMUM_THREADS: usize = 1 << 14;
/// Goroutines read at a time.
const BATCH: usize = 4096;
/// `_Gdead` (runtime2.go, Go 1.21 to 1.27): used before or free to be used.
const DEAD: u64 = 6;
/// `_Gidle`: just allocated.
const IDLE: u64 = 0;
/// `_Gdeadextra` (Go 1.26 and 1.27): dead, and kept for a C thread's call of Go. Earlier Go has no such status.
const DEAD_EXTRA: u64 = 11;
/// `_Gscan` is added to a status while the goroutine's stack is being scanned.
const SCAN: u64 = 0x1000;

/// Where goroutines come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Site {
    /// Return address of the `go` statement in the function that has it; 0 for the main goroutine.
    pub created: u64,
    /// Entry of the function that it started.
    pub started: u64,
}

/// Counts the live goroutines of each site.
///
/// # Errors
/// When the process is gone or the list is none.
pub(super) fn sites(memory: ProcessMemory, layout: &GoroutineList, bias: u64) -> nix::Result<HashMap<Site, u64>> {
    let word = |address: u64| Ok::<_, nix::Error>(number::<8>(&memory.read([address.wrapping_add(bias)], 8)?, 0));
    // The length first, as `atomicAllG` (proc.go) does: the list of that length or a longer one is then there.
    let length = word(layout.allglen)?;
    let list = word(layout.allgptr)?;
    if length > MAXIMUM_GOROUTINES {
        return Err(nix::Error::EINVAL);
    }
    let pointers = memory.read([list], usize::try_from(length * 8).unwrap_or(0))?;
    let pointers: Vec<u64> = pointers.chunks(8).map(|pointer| number::<8>(pointer, 0)).filter(|g| *g != 0).collect();
    let fields = [layout.status, layout.gopc, layout.startpc];
    let first = fields.iter().map(|field| field.offset).min().unwrap_or(0);
    let end = fields.iter().map(|field| field.offset.saturating_add(field.size)).max().unwrap_or(0);
    let size = usize::try_from(end - first).unwrap_or(usize::MAX);
    let at = |offset: u64| usize::try_from(offset - first).unwrap_or(usize::MAX);
    let mut sites = HashMap::new();
    for batch in pointers.chunks(BATCH) {
        let bytes = memory.read(batch.iter().map(|g| g.wrapping_add(first)), size)?;
        for g in bytes.chunks(size.max(1)) {
            let status = number::<4>(g, at(layout.status.offset)) & !SCAN;
            if ![IDLE, DEAD, DEAD_EXTRA].contains(&status) {
                let created = number::<8>(g, at(layout.gopc.offset));
                let started = number::<8>(g, at(layout.startpc.offset));
                *sites.entry(Site { created, started }).or_insert(0) += 1;
            }
        }
    }
    Ok(sites)
}

/// The runtime's threads: the id of each with the address of its `m`.
///
/// # Errors
/// When the process is gone or the list is none.
pub(super) fn threads(memory: ProcessMemory, layout: &Threads, bias: u64) -> nix::Result<Vec<(u32, u64)>> {
    let mut threads = Vec::new();
    let mut m = memory.word(layout.allm.wrapping_add(bias))?;
    while m != 0 {
        if threads.len() >= MAXIMUM_THREADS {
            return Err(nix::Error::ELOOP);
        }
        // A thread that is being made has no id yet.
        if let Ok(id @ 1..) = u32::try_from(memory.word(m.wrapping_add(layout.procid.offset))?) {
            threads.push((id, m));
        }
        m = memory.word(m.wrapping_add(layout.next.offset))?;
    }
    Ok(threads)
}
