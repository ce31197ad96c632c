//! The runtime's own heap profile, read from the service's memory without the service's help.
//!
//! The runtime samples allocations by bytes and counts them in buckets, one for each pair of object size and call stack
//! (mprof.go, Go 1.21 to 1.27). The runtime never frees a bucket or changes its stack, so memgate reads each bucket
//! once and only its counts again.
//!
//! memgate reads only what the runtime has published, as `runtime.MemProfile` does: allocations and frees up to the
//! same GC cycle, two cycles back. Later allocations may be alive or dead, and would look like growth.

use std::collections::HashMap;

use memgate_goexe::{Field, HeapProfileLayout};

use crate::collect::memory::{ServiceMemory, number};

/// More buckets than any program has. A longer list is a loop.
const MAXIMUM_BUCKETS: usize = 1 << 19;
/// More return addresses than all stacks of any program have together: 100,000 stacks have some 3 million.
const MAXIMUM_WORDS: usize = 1 << 22;
/// The structures of the profile have some 50 and 130 bytes (mprof.go, Go 1.21 to 1.27). Larger ones are others.
const MAXIMUM_SIZE: u64 = 4096;
/// `maxProfStackDepth` (mprof.go, Go 1.27) is 1024. A structure with a greater depth is not a bucket.
const MAXIMUM_DEPTH: u64 = 1024;
/// The most attempts at a reading of the counts during which the runtime does not move them between cycles.
const ATTEMPTS: u32 = 3;

/// Sampled objects of one size and call stack since the launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Allocated.
    pub(super) allocs: u64,
    /// Freed ones among them. The runtime counts them when it sweeps.
    pub(super) frees: u64,
}

/// A bucket of the profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    /// Its address in the process.
    address: u64,
    /// Size of its objects, bytes.
    pub(super) size: u64,
    /// Its call stack in the form of `runtime.Callers`, innermost first.
    pub(super) stack: Vec<u64>,
}

/// Reads the heap profile of one process.
pub(super) struct HeapProfileReader {
    memory: ServiceMemory,
    layout: HeapProfileLayout,
    /// In the order in which they were found. Buckets are never removed.
    buckets: Vec<Bucket>,
    index: HashMap<u64, usize>,
    /// The length of all stacks together.
    words: usize,
    /// The list's head when it was last walked.
    head: u64,
}

impl HeapProfileReader {
    /// A reader for a process that runs the executable of this layout.
    pub(super) fn new(memory: ServiceMemory, layout: HeapProfileLayout) -> Self {
        Self { memory, layout, buckets: Vec::new(), index: HashMap::new(), words: 0, head: 0 }
    }

    /// Every bucket found so far.
    pub(super) fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// The index of the bucket at this address.
    pub(super) fn bucket(&self, address: u64) -> Option<usize> {
        self.index.get(&address).copied()
    }

    /// Finds the new buckets.
    ///
    /// # Errors
    /// Fails if the process is gone or the list is invalid: a loop, an entry that cannot be read, or more than any program
    /// has. See [`reason`].
    pub(super) fn find_buckets(&mut self) -> nix::Result<()> {
        if self.layout.bucket_size > MAXIMUM_SIZE || self.layout.record_size > MAXIMUM_SIZE {
            return Err(nix::Error::EINVAL);
        }
        let head = self.memory.global_word(self.layout.mbuckets)?;
        let (mut found, mut words) = (Vec::new(), self.words);
        let mut next = head;
        while next != 0 && next != self.head {
            if found.len() + self.buckets.len() >= MAXIMUM_BUCKETS || self.index.contains_key(&next) {
                return Err(nix::Error::ELOOP);
            }
            let (bucket, following) = self.read_bucket(next)?;
            words += bucket.stack.len();
            if words > MAXIMUM_WORDS {
                return Err(nix::Error::EOVERFLOW);
            }
            found.push(bucket);
            next = following;
        }
        for bucket in found.into_iter().rev() {
            self.index.insert(bucket.address, self.buckets.len());
            self.buckets.push(bucket);
        }
        (self.head, self.words) = (head, words);
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
            // At the end of a GC cycle the runtime adds the counts of one cycle's record to the total.
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

    /// The published counts.
    fn published(&self, record: &[u8]) -> Counts {
        let layout = &self.layout;
        let at = |field: Field| to_usize(layout.active.offset.saturating_add(field.offset));
        Counts { allocs: number::<8>(record, at(layout.allocs)), frees: number::<8>(record, at(layout.frees)) }
    }

    fn cycle(&self) -> nix::Result<u64> {
        self.memory.global_int32(self.layout.cycle)
    }
}

/// Why the profile cannot be read, as text for people.
pub(super) fn reason(error: nix::Error) -> String {
    match error {
        nix::Error::ELOOP => "runtime.mbuckets has a loop, or more buckets than any program".to_owned(),
        nix::Error::EINVAL => "runtime.mbuckets leads to what is no bucket".to_owned(),
        nix::Error::EOVERFLOW => "the stacks of runtime.mbuckets are longer than those of any program".to_owned(),
        other => other.to_string(),
    }
}

/// Converts offsets and sizes of structures. Every platform of memgate has 64-bit pointers.
fn to_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::collect::testing::FakeMemory;

    /// Words for a bucket's link, size and depth, then the stack, then one record of published counts.
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

    #[test]
    fn more_than_any_program_has_is_an_error() {
        let fake = FakeMemory::default();
        put_head(&fake, 0x1000);
        put(&fake, 0x1000, 0, &[7, 8], [0, 0]);
        let mut almost = reader(&fake);
        almost.words = MAXIMUM_WORDS - 2;
        almost.find_buckets().unwrap();
        put_head(&fake, 0x2000);
        put(&fake, 0x2000, 0x1000, &[9], [0, 0]);
        let error = almost.find_buckets().unwrap_err();
        assert_eq!(reason(error), "the stacks of runtime.mbuckets are longer than those of any program");
        for (bucket_size, record_size) in [(u64::MAX, 16), (24, u64::MAX), (MAXIMUM_SIZE + 1, 16)] {
            let layout = HeapProfileLayout { bucket_size, record_size, ..layout() };
            let error = HeapProfileReader::new(ServiceMemory::new(fake.clone(), 0), layout).counts().unwrap_err();
            assert_eq!(reason(error), "runtime.mbuckets leads to what is no bucket");
        }
    }
}
