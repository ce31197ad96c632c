//! The span class of an object, from the runtime's map of its heap.
//!
//! `spanOf` (mheap.go, Go 1.21 to 1.27): the heap consists of arenas of 64 MiB. On every platform of memgate one table
//! leads to the structures of the arenas. An arena's structure has a pointer to the span of each of its pages of 8 KiB.

use std::collections::HashMap;

use memgate_evidence::platform::Platform;
use memgate_goexe::{Spans, arch};

use super::SampledObject;
use crate::collect::memory::{ServiceMemory, number};

const ARENA_BYTES: u64 = 64 << 20;
const PAGE_BYTES: u64 = 8 << 10;

/// Looks up span classes in one process.
pub(super) struct SpanClasses {
    memory: ServiceMemory,
    layout: Spans,
    arena_base: u64,
    /// `heapArena` by index of the arena. They never move.
    arenas: HashMap<u64, u64>,
}

impl SpanClasses {
    /// The class of an object whose span is not known.
    pub(super) const UNKNOWN: u8 = u8::MAX;

    pub(super) fn new(memory: ServiceMemory, layout: Spans, platform: Platform) -> Self {
        Self { memory, layout, arena_base: arch::arena_base(platform), arenas: HashMap::new() }
    }

    /// The class of each object's span, shortly after the object was allocated; [`SpanClasses::UNKNOWN`] if it no
    /// longer has a span.
    ///
    /// # Errors
    /// Fails if the process is gone.
    pub(super) fn of(&mut self, objects: &[SampledObject]) -> nix::Result<Vec<u8>> {
        let slots: Vec<_> = objects.iter().map(|object| self.slot(object.address)).collect::<nix::Result<_>>()?;
        let anywhere = self.memory.global(self.layout.arenas);
        let spans = self.memory.read(slots.iter().map(|slot| slot.unwrap_or(anywhere)), 8)?;
        let spans: Vec<u64> =
            spans.chunks(8).zip(&slots).map(|(span, slot)| slot.map_or(0, |_| number::<8>(span, 0))).collect();
        let class = |span: u64| span.wrapping_add(self.layout.span_class.offset);
        let known: Vec<u64> = spans.iter().copied().filter(|span| *span != 0).collect();
        let mut classes = self.memory.read(known.iter().map(|span| class(*span)), 1)?.into_iter();
        Ok(spans
            .iter()
            .map(|span| if *span == 0 { Self::UNKNOWN } else { classes.next().unwrap_or(Self::UNKNOWN) })
            .collect())
    }

    /// The address of the pointer to the object's span.
    fn slot(&mut self, object: u64) -> nix::Result<Option<u64>> {
        let place = object.wrapping_sub(self.arena_base);
        let (index, page) = (place / ARENA_BYTES, place % ARENA_BYTES / PAGE_BYTES);
        let arena = match self.arenas.get(&index) {
            Some(arena) => *arena,
            None => {
                let table = self.memory.global_word(self.layout.arenas)?;
                let arena = self.memory.word(table.wrapping_add(index.wrapping_mul(8)))?;
                if arena != 0 {
                    self.arenas.insert(index, arena);
                }
                arena
            }
        };
        Ok((arena != 0).then(|| arena.wrapping_add(self.layout.arena_spans.offset).wrapping_add(page * 8)))
    }
}

#[cfg(test)]
mod tests {
    use memgate_goexe::Field;

    use super::*;
    use crate::collect::testing::FakeMemory;

    #[test]
    fn an_object_has_the_class_of_its_pages_span() {
        let words = |words: &[u64]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
        let fake = FakeMemory::default();
        let layout = Spans {
            arenas: 0x100,
            arena_spans: Field { offset: 8, size: 8 },
            span_class: Field { offset: 2, size: 1 },
        };
        // The table of arenas, of which only the second exists. Its third page has a span of class 5.
        fake.put(0x100, &words(&[0x1000]));
        fake.put(0x1000, &words(&[0, 0x2000]));
        fake.put(0x2000, &words(&[0, 0, 0, 0x3000]));
        fake.put(0x3000, &[0, 0, 5]);
        let platform = Platform::host();
        let mut classes = SpanClasses::new(ServiceMemory::new(fake, 0), layout, platform);
        let object = |arena: u64, page: u64| SampledObject {
            address: arch::arena_base(platform).wrapping_add(arena * ARENA_BYTES + page * PAGE_BYTES + 24),
            bucket: 0,
            goroutine: 0,
        };
        let unknown = SpanClasses::UNKNOWN;
        assert_eq!(classes.of(&[object(1, 2), object(1, 1), object(0, 0)]), Ok(vec![5, unknown, unknown]));
        assert!(classes.of(&[object(7, 0)]).is_err(), "the table has no such arena");
    }
}
