//! The recorder over fakes: when each reading is due, and how the records are compared with the totals.

use memgate_evidence::Exactness;
use memgate_goexe::{Field, PauseSites, arch::ArgumentLocation};

use super::*;
use crate::{
    cgroup::fake::FakeCgroup,
    collect::{
        sources::Counters,
        testing::{Fake, PID, attached_to, fault, nothing, record, totals},
    },
};

/// A recorder with its fakes. Its service's runtime has only pauses, with histograms at 0x100 and 0x900.
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
    fake.proc.open_files(PID, 3);
    let cgroup = FakeCgroup::v2();
    cgroup.holds(4096, 4096);
    recorder.watch_cgroup(cgroup.files(None));
    (0..10).for_each(|_| recorder.tick());
    let (signals, _) = recorder.into_signals(nothing_elsewhere());
    assert_eq!(signals.rss.data.value.len(), 5, "5 Hz");
    assert_eq!(signals.offheap.data.value.len(), 2, "2 Hz");
    assert_eq!(signals.cgroup_memory.data.shmem, [4096; 3], "2.5 Hz");
    assert_eq!(signals.fds.data.value, [3; 3], "2.5 Hz");
    assert_eq!(signals.huge_pages.data.value.len(), 0, "only at boundaries");
    assert_eq!(fake.programs.drained(), 12, "at each tick, and after each reading of the off-heap memory");
}

#[test]
fn after_15_hours_there_are_no_more_readings_and_a_note_says_so() {
    let (mut recorder, fake) = recorder();
    fake.proc.status(&[("RssAnon", 4)]);
    recorder.ticks = MOST_TICKS - 2;
    (0..2).for_each(|_| recorder.tick());
    (0..10).for_each(|_| recorder.tick());
    let notes = recorder.notes(None);
    assert!(notes.iter().any(|note| note.contains("15 hours")), "{notes:?}");
    assert_eq!(recorder.into_signals(nothing_elsewhere()).0.rss.data.value.len(), 1);
}

#[test]
fn a_reading_of_the_off_heap_memory_is_repeated_while_the_runtime_maps() {
    let (mut recorder, fake) = recorder();
    fake.proc.write("maps", "10000000-10004000 rw-p 00000000 00:00 0 \n");
    fake.proc.touch(4096, &[0x1000_0000]);
    fake.programs.push(record(kind::MAPPED, [0x1000_0000, 0x1000, 5]));
    recorder.sample_off_heap();
    let (signals, _) = recorder.into_signals(nothing_elsewhere());
    assert_eq!(signals.offheap.data.value, [0], "the record says that the page is the runtime's");
    assert_eq!(signals.mmap_latency.data.duration_ns, [5]);
}

#[test]
fn a_touch_in_a_mapping_of_the_runtime_is_not_off_heap() {
    const PAGE: u64 = 4096;
    let (mut recorder, fake) = recorder();
    fake.proc.write("maps", "10000000-10004000 rw-p 00000000 00:00 0 \n");
    recorder.reach(Boundary::MeasureStart);
    let (of_the_runtime, other) = (0x1000_0000, 0x1000_2000);
    fake.programs.push(record(kind::MAPPED, [of_the_runtime, PAGE, 5]));
    fake.programs.touch(fault(of_the_runtime, 0x7001));
    fake.programs.touch(fault(other, 0x8001));
    fake.proc.touch(PAGE, &[of_the_runtime, other]);
    recorder.drain();
    assert_eq!(fake.programs.left_out(), [vec![(of_the_runtime, of_the_runtime + PAGE)]]);
    // The page is no longer the runtime's. It would count now if its touch had been kept.
    fake.programs.push(record(kind::UNMAPPED, [of_the_runtime, PAGE, 0]));
    recorder.reach(Boundary::MeasureEnd);
    let (signals, code) = recorder.into_signals(nothing_elsewhere());
    let sites = &signals.offheap_sites.data;
    assert_eq!((&sites.start_bytes, &sites.end_bytes), (&vec![0], &vec![PAGE]));
    assert_eq!(code.stack(sites.stack[0]).next().unwrap().function, "0x8001");
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
fn a_record_of_an_unknown_kind_is_ignored() {
    let (mut recorder, fake) = recorder();
    fake.programs.push(record(999, [1, 2, 3]));
    recorder.drain();
    let (signals, _) = recorder.into_signals(nothing_elsewhere());
    assert!(signals.gc_pauses.data.at_ns.is_empty() && signals.live_heap.data.value.is_empty());
}
