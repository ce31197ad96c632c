//! The recorder over fakes: which reading is due when, and what the records are compared with.

use memgate_evidence::Exactness;
use memgate_goexe::{Field, PauseSites, arch::ArgumentLocation};

use super::*;
use crate::collect::{
    sources::Counters,
    testing::{Fake, attached_to, nothing, record, totals},
};

/// A recorder of a service whose runtime has pauses, at 0x100 and 0x900, and nothing else; and its fakes.
fn recorder() -> (Recorder, Fake) {
    let fake = Fake::new();
    let (field, argument) = (Field { offset: 0, size: 8 }, ArgumentLocation::Register(0));
    let pauses = Ok(PauseSites {
        sites: Vec::new(),
        histogram: argument,
        duration: argument,
        gc: 0x100,
        other: Some(0x900),
        counts: field,
        underflow: field,
        overflow: field,
    });
    let runtime = Runtime { pauses, ..nothing() };
    let attached = attached_to(&fake.programs);
    (Recorder::assemble(fake.another_scene(), &runtime, Platform::host(), &[], attached), fake)
}

fn nothing_elsewhere() -> Elsewhere {
    let nothing = || "there is none".to_owned();
    Elsewhere { requests: Err(nothing()), oom_kills: Err(nothing()) }
}

#[test]
fn each_reading_has_its_interval() {
    let (mut recorder, fake) = recorder();
    fake.proc.status(&[("RssAnon", 4)]);
    fake.proc.write("maps", "10000000-10004000 rw-p 00000000 00:00 0 \n");
    fake.proc.touch(4096, &[]);
    (0..10).for_each(|_| recorder.tick());
    let (signals, _) = recorder.into_signals(nothing_elsewhere());
    assert_eq!(signals.rss.data.value.len(), 5, "5 Hz");
    assert_eq!(signals.offheap.data.value.len(), 2, "2 Hz");
    assert_eq!(signals.huge_pages.data.value.len(), 0, "at boundaries alone");
    assert_eq!(fake.programs.drained(), 12, "each tick, and after each reading of the off-heap memory");
}

#[test]
fn a_reading_of_the_off_heap_memory_is_repeated_while_the_runtime_maps() {
    let (mut recorder, fake) = recorder();
    fake.proc.write("maps", "10000000-10004000 rw-p 00000000 00:00 0 \n");
    fake.proc.touch(4096, &[0x1000_0000]);
    fake.programs.push(record(kind::MAPPED, [0x1000_0000, 0x1000, 5]));
    recorder.sample_off_heap();
    let (signals, _) = recorder.into_signals(nothing_elsewhere());
    assert_eq!(signals.offheap.data.value, [0], "the page is the runtime's, as its record says");
    assert_eq!(signals.mmap_latency.data.duration_ns, [5]);
}

#[test]
fn a_touch_in_what_the_runtime_has_mapped_is_not_off_heap() {
    let (mut recorder, fake) = recorder();
    fake.programs.push(record(kind::MAPPED, [0x1000_0000, 0x1000, 5]));
    recorder.drain();
    assert_eq!(fake.programs.left_out(), [vec![(0x1000_0000, 0x1000_1000)]]);
}

#[test]
fn records_that_agree_with_the_runtimes_totals_are_exact_and_others_are_not() {
    for (gc_cycles, is_exact) in [(1, true), (2, false)] {
        let (mut recorder, fake) = recorder();
        let histogram = recorder.scene.memory.global(0x100);
        fake.programs.push(record(kind::WORLD_START, [1, 0, 0]));
        fake.programs.push(record(kind::PAUSE, [histogram, 40, 0]));
        fake.programs.push(record(kind::LIVE_HEAP, [4096, 0, 0]));
        recorder.drain();
        recorder.scene.totals = Some(Counters { pause_total_ns: 40, gc_cycles, ..totals() });
        recorder.cross_check = recorder.difference();
        let (signals, _) = recorder.into_signals(nothing_elsewhere());
        assert_eq!(signals.gc_pauses.exactness == Exactness::Exact, is_exact, "{:?}", signals.gc_pauses.exactness);
        assert_eq!(signals.live_heap.exactness == Exactness::Exact, is_exact);
        assert_eq!(signals.gc_pauses.data.duration_ns, [40]);
    }
}

#[test]
fn totals_that_cannot_be_read_are_a_doubt() {
    let (mut recorder, _fake) = recorder();
    recorder.reach(Boundary::Drained);
    let (signals, _) = recorder.into_signals(nothing_elsewhere());
    let reason = "the runtime's totals could not be read".to_owned();
    assert_eq!(signals.gc_pauses.exactness, Exactness::Inexact { reason });
}

#[test]
fn a_kind_of_record_that_nobody_knows_is_left_alone() {
    let (mut recorder, fake) = recorder();
    fake.programs.push(record(999, [1, 2, 3]));
    recorder.drain();
    let (signals, _) = recorder.into_signals(nothing_elsewhere());
    assert!(signals.gc_pauses.data.at_ns.is_empty() && signals.live_heap.data.value.is_empty());
}
