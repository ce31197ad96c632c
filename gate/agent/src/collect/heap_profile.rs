//! The runtime's own heap profile, read from the service's memory without its help.
//!
//! The runtime samples allocations by bytes and counts them in buckets, one for each pair of object size and call stack
//! (mprof.go, Go 1.21 to 1.27). Buckets are never freed and their stacks never change, so each is read once; what is read
//! again are its counts.
//!
//! Only what the runtime has published is read, as `runtime.MemProfile` does: allocations and frees up to the same GC cycle, two
//! back. What was allocated since then is not known to be alive or dead, and would look like growth.

use std::collections::HashMap;

use memgate_goexe::{Field, HeapProfileLayout};

use super::memory::{ProcessMemory, number};

/// More buckets than any program has; a list that is longer is a loop.
const MAXIMUM_BUCKETS: usize = 1 << 20;
/// `maxProfStackDepth` (mprof.go, Go 1.27) is 1024; a bucket that says more is none.
const MAXIMUM_DEPTH: u64 = 1024;
/// How often the counts are read until the runtime has not moved them between cycles meanwhile.
const ATTEMPTS: u32 = 3;

/// Sampled objects of one size and call stack since the launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Allocated.
    pub allocs: u64,
    /// Of those, freed; the runtime counts them when it sweeps.
    pub frees: u64,
}

/// A bucket of the profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its address in the process.
    pub address: u64,
    /// Size of its objects, bytes.
    pub size: u64,
    /// Its call stack as `runtime.Callers` gives it, innermost first.
    pub stack: Vec<u64>,
}

/// Reads the heap profile of one process.
#[derive(Debug)]
pub struct HeapProfileReader {
    memory: ProcessMemory,
    layout: HeapProfileLayout,
    bias: u64,
    /// In the order in which they were found; none is ever lost.
    buckets: Vec<Bucket>,
    index: HashMap<u64, usize>,
    /// The list's head when it was last walked.
    head: u64,
}

impl HeapProfileReader {
    /// A reader for a process that runs the executable of this layout, loaded at `bias`.
    pub fn new(memory: ProcessMemory, layout: HeapProfileLayout, bias: u64) -> Self {
        Self { memory, layout, bias, buckets: Vec::new(), index: HashMap::new(), head: 0 }
    }

    /// Every bucket found so far.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// The bucket at this address.
    pub fn bucket(&self, address: u64) -> Option<usize> {
        self.index.get(&address).copied()
    }

    /// Finds the buckets that are new.
    ///
    /// # Errors
    /// When the process is gone, or the list is none: a loop, or an entry that cannot be read.
    pub fn find_buckets(&mut self) -> nix::Result<()> {
        let head = self.word(self.layout.mbuckets.wrapping_add(self.bias))?;
        let mut found = Vec::new();
        let mut next = head;
        while next != 0 && next != self.head {
            if found.len() + self.buckets.len() >= MAXIMUM_BUCKETS || self.index.contains_key(&next) {
                return Err(nix::Error::ELOOP);
            }
            let (bucket, following) = self.read_bucket(next)?;
            found.push(bucket);
            next = following;
        }
        for bucket in found.into_iter().rev() {
            self.index.insert(bucket.address, self.buckets.len());
            self.buckets.push(bucket);
        }
        self.head = head;
        Ok(())
    }

    fn read_bucket(&self, address: u64) -> nix::Result<(Bucket, u64)> {
        let layout = &self.layout;
        let header = self.memory.read([address], to_usize(layout.bucket_size))?;
        let at = |offset: u64| number::<8>(&header, to_usize(offset));
        let depth = at(layout.bucket_depth.offset);
        if depth > MAXIMUM_DEPTH {
            return Err(nix::Error::EINVAL);
        }
        let stack = self.memory.read([address.wrapping_add(layout.bucket_size)], to_usize(depth * 8))?;
        let stack = stack.chunks(8).map(|pc| number::<8>(pc, 0)).collect();
        Ok((Bucket { address, size: at(layout.bucket_bytes.offset), stack }, at(layout.bucket_next.offset)))
    }

    /// The counts of every bucket, in the order of [`HeapProfileReader::buckets`].
    ///
    /// # Errors
    /// When the process is gone.
    pub fn counts(&mut self) -> nix::Result<Vec<Counts>> {
        self.find_buckets()?;
        let mut counts = Vec::new();
        for _ in 0..ATTEMPTS {
            let before = self.cycle()?;
            counts = self.counts_once()?;
            // At a GC cycle's end the runtime moves counts from one cycle's record to the total.
            if self.cycle()? == before {
                break;
            }
        }
        Ok(counts)
    }

    fn counts_once(&self) -> nix::Result<Vec<Counts>> {
        let layout = &self.layout;
        let records = self
            .buckets
            .iter()
            .map(|bucket| bucket.address.wrapping_add(layout.bucket_size).wrapping_add(8 * bucket.stack.len() as u64));
        let length = to_usize(layout.record_size);
        let bytes = self.memory.read(records, length)?;
        Ok(bytes.chunks(length.max(1)).map(|record| self.published(record)).collect())
    }

    /// What is published.
    fn published(&self, record: &[u8]) -> Counts {
        let layout = &self.layout;
        let at = |field: Field| to_usize(layout.active.offset.saturating_add(field.offset));
        Counts { allocs: number::<8>(record, at(layout.allocs)), frees: number::<8>(record, at(layout.frees)) }
    }

    fn cycle(&self) -> nix::Result<u64> {
        Ok(number::<4>(&self.memory.read([self.layout.cycle.wrapping_add(self.bias)], 4)?, 0))
    }

    fn word(&self, address: u64) -> nix::Result<u64> {
        Ok(number::<8>(&self.memory.read([address], 8)?, 0))
    }
}

/// Offsets and sizes of structures; every platform of memgate has 64-bit pointers.
fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
