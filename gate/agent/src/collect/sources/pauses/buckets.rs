//! Pauses without probes: the runtime's own histogram, read from the service's memory.

use memgate_goexe::PauseSites;

use crate::collect::memory::{ServiceMemory, number};

/// `timeHistMinBucketBits`, `timeHistNumSubBuckets` and the values that follow from them (histogram.go, Go 1.21 to
/// 1.27). Below 256 ns there are four buckets of 64 ns, and above four for each power of two.
const MINIMUM_BITS: u32 = 9;
const SUB_BUCKETS: usize = 4;
const BUCKETS: usize = 40;

/// Reads the histogram of the GC pauses of one process.
pub(super) struct PauseBuckets {
    memory: ServiceMemory,
    counts: u64,
    overflow: u64,
    last: Vec<u64>,
}

impl PauseBuckets {
    pub(super) fn new(memory: ServiceMemory, layout: &PauseSites) -> Self {
        let histogram = memory.global(layout.gc);
        let at = |offset: u64| histogram.wrapping_add(offset);
        Self {
            memory,
            counts: at(layout.counts.offset),
            overflow: at(layout.overflow.offset),
            last: vec![0; SUB_BUCKETS * BUCKETS],
        }
    }

    /// The pauses since the last reading: the upper end of each bucket, ns, which is at most a quarter above the pauses
    /// themselves, and their number.
    ///
    /// # Errors
    /// Fails if the process is gone, or if a pause was longer than the histogram's range (39 hours).
    pub(super) fn read(&mut self) -> nix::Result<Vec<(u64, u64)>> {
        let bytes = self.memory.read([self.counts], self.last.len() * 8)?;
        if self.memory.word(self.overflow)? > 0 {
            return Err(nix::Error::EOVERFLOW);
        }
        let mut pauses = Vec::new();
        for (index, (last, count)) in self.last.iter_mut().zip(bytes.chunks(8)).enumerate() {
            let count = number::<8>(count, 0);
            let new = count.saturating_sub(*last);
            pauses.extend((new > 0).then(|| (upper_end_ns(index), new)));
            *last = count;
        }
        Ok(pauses)
    }
}

/// The upper end of the bucket with this index, ns.
fn upper_end_ns(index: usize) -> u64 {
    let (bucket, sub_bucket) = (index / SUB_BUCKETS, index % SUB_BUCKETS);
    let part = |bits: u32| (sub_bucket as u64 + 1) << (bits - 3);
    match u32::try_from(bucket).unwrap_or(u32::MAX) {
        0 => part(MINIMUM_BITS),
        bucket => {
            let bits = (bucket + MINIMUM_BITS - 1).min(63);
            (1 << (bits - 1)) + part(bits)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::testing::FakeMemory;

    /// A second implementation of `(*timeHistogram).record`.
    fn bucket_of(duration_ns: u64) -> usize {
        let length = u64::BITS - duration_ns.leading_zeros();
        let (bit, bucket) =
            if length < MINIMUM_BITS { (MINIMUM_BITS, 0) } else { (length, (length - MINIMUM_BITS + 1) as usize) };
        bucket * SUB_BUCKETS + usize::try_from(duration_ns >> (bit - 3)).unwrap() % SUB_BUCKETS
    }

    #[test]
    fn the_upper_end_is_at_most_a_quarter_above() {
        for duration in (256..200_000_000).step_by(997).chain([256, 257, 511, 512, 1 << 20, (1 << 20) - 1, 1 << 40]) {
            let upper = upper_end_ns(bucket_of(duration));
            assert!(duration < upper && upper as f64 <= duration as f64 * 1.25, "{duration}: {upper}");
        }
        assert_eq!(upper_end_ns(bucket_of(0)), 64);
        assert_eq!(upper_end_ns(bucket_of(255)), 256);
    }

    #[test]
    fn a_reading_returns_only_new_pauses() {
        let fake = FakeMemory::default();
        let (counts, overflow) = (0x1000, 0x8000);
        fake.put(counts, &[0; 8 * SUB_BUCKETS * BUCKETS]);
        fake.put(overflow, &[0; 8]);
        let memory = ServiceMemory::new(fake.clone(), 0);
        let mut buckets = PauseBuckets { memory, counts, overflow, last: vec![0; SUB_BUCKETS * BUCKETS] };
        let bucket = counts + 8 * bucket_of(50_000) as u64;
        fake.put(bucket, &2_u64.to_le_bytes());
        assert_eq!(buckets.read().unwrap(), [(57_344, 2)]);
        fake.put(bucket, &3_u64.to_le_bytes());
        assert_eq!(buckets.read().unwrap(), [(57_344, 1)]);
        assert_eq!(buckets.read().unwrap(), []);
        fake.put(overflow, &1_u64.to_le_bytes());
        assert!(buckets.read().is_err());
    }
}
