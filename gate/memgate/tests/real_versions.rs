//! Every version of Go in every build mode: each figure of a quiet service equals the service's own exactly.
//!
//! Nothing here depends on the speed of the machine, because the tests measure step by step between the recorder's
//! phases.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{collections::BTreeMap, path::PathBuf, thread};

use common::{
    can_attach, go, repository,
    uaa::{
        ProfileSite, Truth, Watched, assert_cpu_time, assert_equal, assert_exact, assert_go_memory,
        assert_goroutine_sites, assert_stops, attributed_to_forgotten_mappings, left,
    },
};
use memgate_agent::collect::Boundary;
use memgate_evidence::{Code, Exactness, Signals, platform::Platform};
use memgate_testing::go::{Toolchain, minors, toolchain};

/// How the service is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Build {
    Plain,
    Stripped,
    PositionIndependent,
    Cgo,
}

impl Build {
    const ALL: [Self; 4] = [Self::Plain, Self::Stripped, Self::PositionIndependent, Self::Cgo];

    /// Arguments for `go build`. Only with the tag memprofile does the service read and report its heap profile.
    /// Without the tag the linker switches sampling off, and memgate must switch it on.
    const fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &[],
            Self::Stripped => &["-ldflags=-s -w"],
            Self::PositionIndependent => &["-buildmode=pie", "-tags=memprofile"],
            Self::Cgo => &["-tags=memprofile,cgoleak"],
        }
    }

    const fn reports_its_profile(self) -> bool {
        matches!(self, Self::PositionIndependent | Self::Cgo)
    }
}

/// The measured data, and the service's own figures.
struct Measured {
    signals: Signals,
    code: Code,
    truth: Truth,
    profile: Option<Vec<ProfileSite>>,
}

const PARKED: u64 = 37;
const FORGOTTEN: u64 = 12 << 20;

/// Compares all builds at the same time, because the comparisons do not depend on time.
fn every_figure_is_the_runtimes_own(minor: u32) {
    if !can_attach() {
        return;
    }
    let toolchain = toolchain(minor);
    let directory = tempfile::tempdir().unwrap();
    let executables = Build::ALL.map(|build| build_uaa(&toolchain, build, directory.path().join(format!("{build:?}"))));
    thread::scope(|scope| {
        for ((build, executable), port) in Build::ALL.into_iter().zip(&executables).zip(18200 + 4 * (minor - 21)..) {
            let name = format!("{} {build:?}", toolchain.version);
            let compare = move || {
                let measured = measure(executable, u16::try_from(port).unwrap(), build);
                assert_equal(&measured.signals, &measured.truth);
                assert_go_memory(&measured.signals, &measured.truth);
                assert_stops(&measured.signals, &measured.truth);
                let others = measured.truth.other_pauses.as_ref().map_or(0, |others| others.total);
                assert_eq!(measured.signals.other_pauses.data.duration_ns.len() as u64, others);
                assert_eq!(others == 0, minor == 21, "only Go 1.21 does not record them");
                assert_cpu_time(&measured.signals, &measured.truth);
                memory(&measured, build);
                let earlier = assert_goroutine_sites(&measured.signals, &measured.code, &measured.truth);
                assert_eq!((earlier, measured.truth.parked), ((0, PARKED), PARKED));
                profile(&measured);
            };
            thread::Builder::new().name(name).spawn_scoped(scope, compare).unwrap();
        }
    });
}

fn build_uaa(toolchain: &Toolchain, build: Build, executable: PathBuf) -> PathBuf {
    let flags: Vec<_> = build.flags().iter().copied().chain(["./cmd/uaa"]).collect();
    go::build(toolchain, &repository().join("fixtures-go"), &flags, Platform::host(), build == Build::Cgo, &executable);
    executable
}

/// Samples every allocation, so that the samples can be counted.
fn measure(executable: &std::path::Path, port: u16, build: Build) -> Measured {
    let mut service = Watched::start(executable, port, "memprofilerate=1");
    service.post("/debug/gc?n=2");
    service.rest();
    service.recorder.reach(Boundary::Idle);
    service.recorder.sample_off_heap();
    service.recorder.reach(Boundary::MeasureStart);
    service.log_in(20);
    service.post("/debug/alloc?n=5000&size=100");
    service.post("/debug/alloc?n=7&size=100000");
    service.post(&format!("/debug/goroutines?n={PARKED}"));
    service.post(&format!("/debug/mmap?bytes={FORGOTTEN}"));
    if build == Build::Cgo {
        service.post(&format!("/debug/malloc?bytes={FORGOTTEN}"));
    }
    service.post("/debug/gc?n=20");
    service.rest();
    service.recorder.reach(Boundary::MeasureEnd);
    let profile = build.reports_its_profile().then(|| service.profile());
    let truth = service.truth();
    let (signals, code) = service.finish();
    Measured { signals, code, truth, profile }
}

#[track_caller]
fn memory(Measured { signals, code, .. }: &Measured, build: Build) {
    let (rss, kinds) = (&signals.rss.data, &signals.rss_kinds.data);
    assert_eq!((&signals.rss.exactness, &signals.rss_kinds.exactness), (&Exactness::Sampled, &Exactness::Sampled));
    assert_eq!(rss.at_ns, kinds.at_ns);
    let sums =
        kinds.anonymous.iter().zip(&kinds.file).zip(&kinds.shared).map(|((anon, file), shared)| anon + file + shared);
    assert_eq!(sums.collect::<Vec<_>>(), rss.value);
    assert_exact(&signals.mmap_latency);
    assert!(signals.mmap_latency.data.duration_ns.len() >= 3, "{:?}", signals.mmap_latency.data);
    let off_heap = &signals.offheap;
    assert_eq!((&off_heap.exactness, off_heap.lost), (&Exactness::Sampled, 0));
    let forgotten = if build == Build::Cgo { 2 * FORGOTTEN } else { FORGOTTEN };
    let beside = left(&off_heap.data) - forgotten.cast_signed();
    // Stacks of C threads and malloc's own arenas are off-heap too.
    assert!((0..1 << 20).contains(&beside), "{beside} bytes in addition to the forgotten ones");
    let bytes = attributed_to_forgotten_mappings(signals, code);
    assert!(bytes > 0 && bytes <= FORGOTTEN, "{bytes} bytes are attributed to MapAndForget");
}

/// A place in the service's code and the size of its allocations.
type Place = (String, String, u32, u64);

#[track_caller]
fn profile(Measured { signals, code, profile, .. }: &Measured) {
    assert_exact(&signals.heap_profile);
    assert_exact(&signals.alloc_samples);
    let (heap, samples) = (&signals.heap_profile.data, &signals.alloc_samples.data);
    assert_eq!((heap.rate, samples.rate), (1, 1));
    let mut measured: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    let mut places: BTreeMap<Place, (u64, u64)> = BTreeMap::new();
    let mut known = 0;
    for (index, (stack, size)) in heap.stack.iter().zip(&heap.size).enumerate() {
        let allocated = heap.allocs_end[index] - heap.allocs_start[index];
        if allocated > 0 {
            *measured.entry((*stack, *size)).or_default() += allocated;
        }
        let frame = code.stack(*stack).next().unwrap();
        let place = (frame.function.clone(), frame.file.clone(), frame.line, *size);
        let counts = places.entry(place).or_default();
        counts.0 += heap.allocs_end[index];
        counts.1 += heap.frees_end[index];
        known += if frame.function == "main.allocateKnownSize" { allocated } else { 0 };
    }
    assert_eq!(known, 5007, "objects of /debug/alloc");
    let mut sampled: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    for ((stack, size), count) in samples.stack.iter().zip(&samples.size).zip(&samples.count) {
        *sampled.entry((*stack, *size)).or_default() += count;
    }
    // The profile is that of the last GC cycle. The allocations of the requests around that cycle are in only one of
    // the two.
    let logging_in = |stack: u32| {
        code.stack(stack).any(|frame| frame.function.starts_with("memgate.dev/fixtures/internal/session."))
    };
    let known = |stack: u32| code.stack(stack).any(|frame| frame.function == "main.allocateKnownSize");
    let settled =
        |counts: &mut BTreeMap<(u32, u64), u64>| counts.retain(|(stack, _), _| logging_in(*stack) || known(*stack));
    settled(&mut sampled);
    settled(&mut measured);
    assert!(sampled.len() > 5, "{sampled:?}");
    assert_eq!(sampled, measured, "the samples are the growth of the profile");
    if let Some(profile) = profile {
        own_profile(profile, &places);
    }
}

/// Compares with the service's own profile, which is read slightly later. The allocations of the service's own code are
/// the same, and the reading adds its own.
#[track_caller]
fn own_profile(profile: &[ProfileSite], places: &BTreeMap<Place, (u64, u64)>) {
    let mut own: BTreeMap<Place, (u64, u64)> = BTreeMap::new();
    for site in profile {
        let place = (site.function.clone(), site.file.clone(), site.line, site.size);
        let counts = own.entry(place).or_default();
        counts.0 += site.allocs;
        counts.1 += site.frees;
    }
    for (place, (allocs, frees)) in places {
        let (own_allocs, own_frees) = own.get(place).copied().unwrap_or_default();
        assert!(
            own_allocs >= *allocs && own_frees >= *frees,
            "{place:?}: {allocs} {frees}, but {own_allocs} {own_frees}"
        );
    }
    // The code that reads the profile, and code with objects that were still alive in the last requested GC cycle.
    const LATER: [&str; 3] = ["emProfile", "counted.", "(*debug).gc"];
    let by_service = |function: &str| {
        let own = function.starts_with("main.") || function.starts_with("memgate.dev/");
        own && !LATER.iter().any(|later| function.contains(later))
    };
    let of_service: Vec<_> = own.iter().filter(|((function, ..), _)| by_service(function)).collect();
    for (place, counts) in &of_service {
        assert_eq!(places.get(place), Some(*counts), "{place:?}");
    }
    assert!(of_service.len() > 10, "{of_service:?}");
}

#[test]
fn every_figure_is_that_of_go_1_21() {
    every_figure_is_the_runtimes_own(21);
}

#[test]
fn every_figure_is_that_of_go_1_22() {
    every_figure_is_the_runtimes_own(22);
}

#[test]
fn every_figure_is_that_of_go_1_23() {
    every_figure_is_the_runtimes_own(23);
}

#[test]
fn every_figure_is_that_of_go_1_24() {
    every_figure_is_the_runtimes_own(24);
}

#[test]
fn every_figure_is_that_of_go_1_25() {
    every_figure_is_the_runtimes_own(25);
}

#[test]
fn every_figure_is_that_of_go_1_26() {
    every_figure_is_the_runtimes_own(26);
}

#[test]
fn every_figure_is_that_of_go_1_27_and_later() {
    minors().filter(|minor| *minor >= 27).for_each(every_figure_is_the_runtimes_own);
}
