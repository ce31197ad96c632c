//! The names of addresses that have appeared. Most stacks share most of their addresses.

use std::collections::HashMap;

use memgate_evidence::Frame;

use super::MAXIMUM_FRAMES;

/// The most memory for names, bytes, without those of the last address.
const MAXIMUM_NAMED: usize = 16 << 20;

/// The calls at each address that has appeared.
#[derive(Default)]
pub(super) struct Named {
    frames: HashMap<u64, Vec<Frame>>,
    /// The size of the names in memory.
    bytes: usize,
}

impl Named {
    /// The calls at an address of the process. `find` finds them if they are not known yet.
    pub(super) fn at(&mut self, address: u64, find: impl FnOnce() -> Vec<Frame>) -> &[Frame] {
        if self.bytes > MAXIMUM_NAMED {
            self.clear();
        }
        let bytes = &mut self.bytes;
        self.frames.entry(address).or_insert_with(|| {
            let mut frames = find();
            frames.truncate(MAXIMUM_FRAMES);
            *bytes = bytes
                .saturating_add(frames.iter().map(size).fold(size_of::<(u64, Vec<Frame>)>(), usize::saturating_add));
            frames
        })
    }

    /// Forgets all names, because the addresses have another meaning.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

fn size(frame: &Frame) -> usize {
    size_of::<Frame>().saturating_add(frame.function.len()).saturating_add(frame.file.len())
}

#[cfg(test)]
mod tests {
    use memgate_evidence::Language;

    use super::*;
    use crate::collect::unwind::unknown;

    #[test]
    fn each_address_is_named_once_and_the_memory_is_limited() {
        let mut named = Named::default();
        let mut found = 0;
        let frame = unknown(1, Language::Native);
        for address in [1, 2, 1, 2] {
            let frames = named.at(address, || {
                found += 1;
                vec![frame.clone(); 2 * MAXIMUM_FRAMES]
            });
            assert_eq!(frames, vec![frame.clone(); MAXIMUM_FRAMES]);
        }
        assert_eq!(found, 2);
        let long = Frame { function: "x".repeat(1 << 20), ..frame };
        for address in 0..100 {
            named.at(address, || vec![long.clone()]);
            let held: usize = named.frames.values().flatten().map(|frame| frame.function.len()).sum();
            assert!(held <= MAXIMUM_NAMED + (1 << 20), "{held}");
        }
    }
}
