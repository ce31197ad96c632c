//! The runtime's own heap profile, read from the service's memory without its help.
//!
//! The runtime samples allocations by bytes and counts them in buckets, one for each pair of object size and call stack
//! (mprof.go, Go 1.21 to 1.27). Buckets are never freed and their stacks never change, so each is read once; what is read
//! again are its counts.
//!
//! memgate reads only what the runtime has published, as `runtime.MemProfile` does: allocations and frees up to the same GC cycle,
//! two back. What was allocated since then may be alive or dead, and would look like growth.

use std::collections::HashMap;

use memgate_goexe::{Field, HeapProfileLayout};

use crate::collect::memory::{ServiceMemory, number};

/// More buckets than any program has; a list that is longer is a loop.
const MAXIMUM_BUCKETS: usize = 1 << 20;
/// `maxProfStackDepth` (mprof.go, Go 1.27) is 1024; what says more cannot be a bucket.
const MAXIMUM_DEPTH: u64 = 1024;
/// How often the counts are read until the runtime has not moved them between cycles meanwhile.
const ATTEMPTS: u32 = 3;

/// Sampled objects of one size and call stack since the launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Allocated.
    pub(super) allocs: u64,
    /// Of those, freed; the runtime counts them when it sweeps.
    pub(super) frees: u64,
}

/// A bucket of the profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    /// Its address in the process.
    address: u64,
    /// Size of its objects, bytes.
    pub(super) size: u64,
    /// Its call stack as `runtime.Callers` gives it, innermost first.
    pub(super) stack: Vec<u64>,
}

/// Reads the heap profile of one process.
pub(super) struct HeapProfileReader {
    memory: ServiceMemory,
    layout: HeapProfileLayout,
    /// In the order in which they were found; none is ever lost.
    buckets: Vec<Bucket>,
    index: HashMap<u64, usize>,
    /// The list's head when it was last walked.
    head: u64,
}

impl HeapProfileReader {
    /// A reader for a process that runs the executable of this layout.
    pub(super) fn new(memory: ServiceMemory, layout: HeapProfileLayout) -> Self {
        Self { memory, layout, buckets: Vec::new(), index: HashMap::new(), head: 0 }
    }

    /// Every bucket found so far.
    pub(super) fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// The bucket at this address.
    pub(super) fn bucket(&self, address: u64) -> Option<usize> {
        self.index.get(&address).copied()
    }

    /// Finds the buckets that are new.
    ///
    /// # Errors
    /// Fails if the process is gone, or the list cannot be one: a loop, or an entry that cannot be read.
    pub(super) fn find_buckets(&mut self) -> nix::Result<()> {
        let head = self.memory.global_word(self.layout.mbuckets)?;
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
    /// Fails if the process is gone.
    pub(super) fn counts(&mut self) -> nix::Result<Vec<Counts>> {
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
        self.memory.global_int32(self.layout.cycle)
    }
}

/// Offsets and sizes of structures; every platform of memgate has 64-bit pointers.
fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::collect::testing::FakeMemory;

    /// Two words of a bucket's link and size, its depth, the stack, and then one record of published counts.
    pub(in crate::collect::sources::allocations) fn layout() -> HeapProfileLayout {
        let field = |offset, size| Field { offset, size };
        HeapProfileLayout {
            mbuckets: 0x100,
            cycle: 0x108,
            bucket_size: 24,
            bucket_next: field(0, 8),
            bucket_type: field(0, 8),
            bucket_hash: field(0, 8),
            bucket_bytes: field(8, 8),
            bucket_depth: field(16, 8),
            record_size: 16,
            active: field(0, 16),
            future: field(0, 16),
            cycle_size: 16,
            allocs: field(0, 8),
            frees: field(8, 8),
            alloc_bytes: None,
            free_bytes: None,
        }
    }

    fn words(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Puts a bucket of 16-byte objects with this link, stack and counts at `address`.
    pub(in crate::collect::sources::allocations) fn put(
        fake: &FakeMemory,
        address: u64,
        next: u64,
        stack: &[u64],
        counts: [u64; 2],
    ) {
        let header = [next, 16, stack.len() as u64];
        fake.put(address, &words(&[&header, stack, &counts].concat()));
    }

    pub(in crate::collect::sources::allocations) fn put_head(fake: &FakeMemory, head: u64) {
        fake.put(0x100, &words(&[head, 1]));
    }

    fn reader(fake: &FakeMemory) -> HeapProfileReader {
        HeapProfileReader::new(ServiceMemory::new(fake.clone(), 0), layout())
    }

    #[test]
    fn new_buckets_are_found_before_the_known_ones_and_keep_their_order() {
        let fake = FakeMemory::default();
        put_head(&fake, 0x2000);
        put(&fake, 0x2000, 0x1000, &[7, 8], [5, 2]);
        put(&fake, 0x1000, 0, &[9], [3, 3]);
        let mut reader = reader(&fake);
        let counts = |allocs, frees| Counts { allocs, frees };
        assert_eq!(reader.counts().unwrap(), [counts(3, 3), counts(5, 2)]);
        put_head(&fake, 0x3000);
        put(&fake, 0x3000, 0x2000, &[], [1, 0]);
        put(&fake, 0x1000, 0, &[9], [4, 3]);
        assert_eq!(reader.counts().unwrap(), [counts(4, 3), counts(5, 2), counts(1, 0)]);
        let stacks: Vec<_> = reader.buckets().iter().map(|bucket| bucket.stack.clone()).collect();
        assert_eq!(stacks, [vec![9], vec![7, 8], vec![]]);
        assert_eq!((reader.bucket(0x2000), reader.bucket(0x2001)), (Some(1), None));
    }

    #[test]
    fn a_loop_and_an_impossible_depth_are_errors() {
        let fake = FakeMemory::default();
        put_head(&fake, 0x1000);
        put(&fake, 0x1000, 0x2000, &[], [0, 0]);
        put(&fake, 0x2000, 0x1000, &[], [0, 0]);
        assert_eq!(reader(&fake).find_buckets(), Err(nix::Error::ELOOP));
        fake.put(0x1000, &words(&[0, 16, MAXIMUM_DEPTH + 1]));
        assert_eq!(reader(&fake).find_buckets(), Err(nix::Error::EINVAL));
    }
}
