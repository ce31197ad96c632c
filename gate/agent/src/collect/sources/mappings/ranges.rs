//! Address ranges that belong to the Go runtime.

use std::{collections::BTreeMap, ops::Range};

/// Address ranges that the Go runtime has mapped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::collect) struct RuntimeRanges {
    /// End by start; ranges neither touch nor overlap.
    ranges: BTreeMap<u64, u64>,
}

impl RuntimeRanges {
    /// Adds a range that the runtime has mapped.
    pub(in crate::collect) fn insert(&mut self, range: Range<u64>) {
        let Range { mut start, mut end } = range;
        if start >= end {
            return;
        }
        let touching: Vec<_> = self
            .ranges
            .range(..=end)
            .rev()
            .take_while(|(_, other_end)| **other_end >= start)
            .map(|(s, e)| (*s, *e))
            .collect();
        for (other_start, other_end) in touching {
            self.ranges.remove(&other_start);
            start = start.min(other_start);
            end = end.max(other_end);
        }
        self.ranges.insert(start, end);
    }

    /// Removes a range that is no longer the runtime's.
    pub(in crate::collect) fn remove(&mut self, range: Range<u64>) {
        let overlapping: Vec<_> = self
            .ranges
            .range(..range.end)
            .rev()
            .take_while(|(_, end)| **end > range.start)
            .map(|(start, end)| (*start, *end))
            .collect();
        for (start, end) in overlapping {
            self.ranges.remove(&start);
            if start < range.start {
                self.ranges.insert(start, range.start);
            }
            if range.end < end {
                self.ranges.insert(range.end, end);
            }
        }
    }

    /// Whether the address is the runtime's.
    pub(in crate::collect) fn contains(&self, address: u64) -> bool {
        self.ranges.range(..=address).next_back().is_some_and(|(_, end)| address < *end)
    }

    /// The largest ranges, at most `most` of them, the largest first.
    pub(in crate::collect) fn largest(&self, most: usize) -> Vec<Range<u64>> {
        let mut ranges: Vec<_> = self.ranges.iter().map(|(start, end)| *start..*end).collect();
        ranges.sort_by_key(|range| std::cmp::Reverse(range.end - range.start));
        ranges.truncate(most);
        ranges
    }

    /// The parts of `range` that are not the runtime's, in order.
    pub(in crate::collect) fn outside(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut outside = Vec::new();
        let mut from = range.start;
        let before = self.ranges.range(..=range.start).next_back();
        for (start, end) in before.into_iter().chain(self.ranges.range(range.start + 1..range.end)) {
            if from < *start {
                outside.push(from..(*start).min(range.end));
            }
            from = from.max(*end);
        }
        if from < range.end {
            outside.push(from..range.end);
        }
        outside
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_outside_are_those_between_the_runtimes() {
        let mut ranges = RuntimeRanges::default();
        ranges.insert(10..20);
        ranges.insert(30..40);
        assert_eq!(ranges.outside(0..50), [0..10, 20..30, 40..50]);
        assert_eq!(ranges.outside(12..18), []);
        assert_eq!(ranges.outside(5..35), [5..10, 20..30]);
        ranges.insert(20..30);
        assert_eq!(ranges.outside(0..50), [0..10, 40..50]);
        ranges.remove(15..16);
        assert_eq!(ranges.outside(5..40), [5..10, 15..16]);
        assert_eq!(ranges.largest(2), [16..40, 10..15]);
        assert_eq!(
            [9, 10, 14, 15, 16, 39, 40].map(|at| ranges.contains(at)),
            [false, true, true, false, true, true, false]
        );
    }

    proptest! {
        /// The set agrees with a set of single addresses.
        #[test]
        fn ranges_agree_with_a_set_of_addresses(
            changes in prop::collection::vec((any::<bool>(), 0_u64..64, 0_u64..16), 0..40),
            start in 0_u64..64, length in 1_u64..64,
        ) {
            let mut ranges = RuntimeRanges::default();
            let mut addresses = HashSet::new();
            for (insert, from, length) in changes {
                if insert {
                    ranges.insert(from..from + length);
                    addresses.extend(from..from + length);
                } else {
                    ranges.remove(from..from + length);
                    addresses.retain(|address| !(from..from + length).contains(address));
                }
            }
            let outside: Vec<u64> = ranges.outside(start..start + length).into_iter().flatten().collect();
            let expected: Vec<u64> = (start..start + length).filter(|address| !addresses.contains(address)).collect();
            prop_assert_eq!(outside, expected);
        }
    }
}
