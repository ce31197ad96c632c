//! The figures of a service in a guest are its own: those that it writes under load, and those that it writes at the
//! end, when it is quiet. The tests cover every architecture with the oldest, a middle and the newest Go, and every
//! kernel of qemu/images.lock.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::fs;

use common::{
    Bench,
    busy::{self, HeldUp},
    go,
    guests::{evidence, record},
    repository,
    uaa::{
        self, Truth, assert_cpu_time, assert_equal, assert_goroutine_sites, assert_stops,
        attributed_to_forgotten_mappings, last,
    },
};
use memgate_evidence::{
    Evidence, Exactness, Series, Signals, StopReason,
    platform::{Platform, Runner},
    tier::Tier,
};
use memgate_testing::go::{Toolchain, toolchain};

/// The guest in which a service runs.
struct Guest {
    platform: Platform,
    /// Settings of `platforms.PLATFORM` in memgate.yaml.
    options: &'static str,
    /// The start of the kernel's release.
    release: &'static str,
    page_size: u64,
    /// The requested tier, if it is not the kernel's highest.
    ask: Option<&'static str>,
    tier: Tier,
    /// Whether other tests use the same guests, so that a snapshot saves all of them a boot.
    snapshot: bool,
}

const ARM64: Guest = Guest {
    platform: Platform::LinuxArm64,
    options: "",
    release: "7.2.",
    page_size: 4096,
    ask: None,
    tier: Tier::T4,
    snapshot: true,
};

const LOONG64: Guest = Guest { platform: Platform::LinuxLoong64, page_size: 16384, ..ARM64 };

/// The minor version of the newest Go.
fn newest() -> u32 {
    memgate_testing::go::newest().minor
}

/// Compares the figures that memgate measures in this guest, for the service built by this Go, with the service's own.
fn figures_are_the_services_own(guest: &Guest, minor: u32) {
    busy::again(|| figures_of_a_run(guest, minor));
}

fn figures_of_a_run(guest: &Guest, minor: u32) -> Result<(), HeldUp> {
    let toolchain = toolchain(minor);
    let (evidence, logged) = measure(guest, &toolchain);
    let environment = &evidence.environment;
    assert_eq!((environment.runner, environment.page_size), (Runner::Qemu, guest.page_size));
    assert_eq!((evidence.platform, environment.go.as_str()), (guest.platform, toolchain.version.as_str()));
    assert!(environment.kernel.starts_with(guest.release), "{}", environment.kernel);
    assert_eq!(evidence.tier, guest.tier);
    let requests = &evidence.signals.requests.data.measure;
    assert!(requests.succeeded > 50 && requests.failed.is_empty(), "{requests:?}");
    let loaded = assert_own(&evidence, &logged, guest.tier);
    // Requests park the goroutines under load. A generator that was held up may send them only after the load's end.
    match HeldUp::generator(&evidence.notes) {
        Some(held_up) if loaded == 0 => Err(held_up),
        _ => {
            assert!(loaded > 0, "no goroutine was parked under load, although the generator was in time");
            Ok(())
        }
    }
}

/// Compares the evidence with the service's figures, the last of which are from the end. Returns how many goroutines
/// were parked at the end of the load.
#[track_caller]
fn assert_own(evidence: &Evidence, logged: &[Truth], tier: Tier) -> u64 {
    let (end, under_load) = logged.split_last().unwrap();
    assert!(under_load.len() > 10 && end.num_gc > 20 && end.parked > 5 && end.mapped > 1 << 20, "{logged:?}");
    assert_equal(&evidence.signals, end);
    assert_stops(&evidence.signals, end);
    assert_cpu_time(&evidence.signals, end);
    let (before, loaded) = assert_goroutine_sites(&evidence.signals, &evidence.code, end);
    assert!(before == 0 && loaded <= end.parked, "{before} {loaded} {}", end.parked);
    off_heap(evidence, end, tier);
    if end.other_pauses.is_some() {
        let stops: Vec<_> = under_load.iter().map(|truth| stop_of(evidence, truth)).collect();
        for (truth, at_ns) in under_load.iter().zip(&stops) {
            until(evidence, truth, *at_ns);
        }
        let Signals { alloc_bytes, alloc_objects, offheap, .. } = &evidence.signals;
        let each = |figure: fn(&Truth) -> u64| logged.iter().map(figure).collect::<Vec<_>>();
        between(&alloc_bytes.data, &stops, &each(|truth| truth.total_alloc), [SPANS, SPANS]);
        between(&alloc_objects.data, &stops, &each(|truth| truth.mallocs), [OBJECTS, OBJECTS]);
        between(&offheap.data, &stops, &each(|truth| truth.mapped), [0, BESIDE]);
    }
    loaded
}

fn measure(guest: &Guest, toolchain: &Toolchain) -> (Evidence, Vec<Truth>) {
    let Guest { platform, options, ask, snapshot, .. } = guest;
    const AT: &str = "http://127.0.0.1:8080";
    let bench = Bench::new("");
    let executable = bench.directory.path().join("uaa");
    go::build(toolchain, &repository().join("fixtures-go"), &["./cmd/uaa"], *platform, false, &executable);
    let yaml = format!(
        r#"version: 1
services:
  s:
    binary: {{ {platform}: uaa }}
    run:
      args: [-debug-memgate, -expiry-interval=1h]
      ready: {{ http: "{AT}/healthz", timeout: 120s }}
      stop_timeout: 60s
    load:
      rate: 60/s
      connections: 4
      timeout: 60s
      requests:
        - {{ post: "{AT}/login", weight: 6 }}
        - {{ post: "{AT}/debug/log", weight: 3 }}
        - {{ post: "{AT}/debug/gc?n=1", weight: 3 }}
        - {{ post: "{AT}/debug/alloc?n=100&size=1000" }}
        - {{ post: "{AT}/debug/goroutines?n=1" }}
        - {{ post: "{AT}/debug/mmap?bytes=131072" }}
    phases: {{ warmup: 500ms, measure: 2s, drain: 500ms }}
    runs: 1
platforms: {{ {platform}: {{ {options} }} }}
"#
    );
    fs::write(bench.config(), yaml).unwrap();
    let mut flags = vec![];
    flags.extend((!snapshot).then_some("--no-snapshot"));
    flags.extend(ask.iter().flat_map(|tier| ["--tier", tier]));
    let evidence = evidence(&record(&bench, platform.name(), &flags));
    let log = bench.out().join(format!("s.{}.run1.service.log", platform.folder()));
    (evidence, uaa::logged(&fs::read_to_string(log).unwrap()))
}

/// The time at which the world was stopped for the service to read these figures, ns since launch: that of the last
/// pause in them.
#[track_caller]
fn stop_of(evidence: &Evidence, truth: &Truth) -> u64 {
    let count = usize::try_from(truth.other_pauses.as_ref().unwrap().total).unwrap();
    let at_ns = evidence.signals.other_pauses.data.at_ns[count - 1];
    let stops = &evidence.signals.world_stops.data;
    let stop = stops.at_ns.iter().position(|at| *at == at_ns).unwrap();
    assert_eq!(stops.reason[stop], StopReason::ReadMemStats);
    at_ns
}

/// Checks that pauses and cycles until then match the service's count. It counts while no cycle runs.
#[track_caller]
fn until(evidence: &Evidence, truth: &Truth, at_ns: u64) {
    let (pauses, live_heap) = (&evidence.signals.gc_pauses.data, &evidence.signals.live_heap.data);
    let count = |times: &[u64]| times.partition_point(|time| *time < at_ns);
    let (paused, cycles) = (count(&pauses.at_ns), count(&live_heap.at_ns));
    let sum: u64 = pauses.duration_ns[..paused].iter().sum();
    assert_eq!((paused as u64, sum), (truth.gc_pauses.total, truth.pause_total_ns), "pauses until {at_ns}");
    assert_eq!(cycles as u64, truth.num_gc, "cycles until {at_ns}");
    if cycles > 0 {
        assert_eq!(live_heap.value[cycles - 1], truth.live_heap, "live heap at {at_ns}");
    }
}

/// Checks that each reading is between the service's figures before it and those after its end, which come before the
/// next reading, with these tolerances below and above.
#[track_caller]
fn between(readings: &Series, stops: &[u64], logged: &[u64], [below, above]: [u64; 2]) {
    assert!(readings.value.len() > 5, "{readings:?}");
    let ends = readings.at_ns.iter().skip(1).copied().chain([u64::MAX]);
    for ((at, end), value) in readings.at_ns.iter().zip(ends).zip(&readings.value) {
        let before = stops.partition_point(|stop| stop <= at).checked_sub(1).map_or(0, |before| logged[before]);
        // The last figures are from the end.
        let after = logged[stops.partition_point(|stop| *stop < end)];
        assert!(before <= value + below && *value <= after + above, "{value} at {at} is not {before} to {after}");
    }
}

/// The tolerance of a reading under load, bytes and objects: what the Ps have and the totals do not, if it moves to the
/// totals during the reading.
const SPANS: u64 = 128 << 10;
const OBJECTS: u64 = 1024;

/// The most off-heap bytes that are not forgotten: the first thread's stack. It is less than the smallest forgotten
/// mapping.
const BESIDE: u64 = 96 << 10;

/// Checks that everything forgotten is resident, and that little else is off-heap.
#[track_caller]
fn off_heap(evidence: &Evidence, end: &Truth, tier: Tier) {
    let signals = &evidence.signals;
    assert_eq!((&signals.offheap.exactness, signals.offheap.lost), (&Exactness::Sampled, 0));
    let beside = last(&signals.offheap.data).checked_sub(end.mapped);
    assert!(beside.is_some_and(|beside| beside <= BESIDE), "{beside:?} beside {}", end.mapped);
    if tier >= Tier::T2 {
        let bytes = attributed_to_forgotten_mappings(signals, &evidence.code);
        assert!(bytes > 0 && bytes <= end.mapped, "{bytes} of {} bytes are attributed to the code", end.mapped);
    }
}

#[test]
fn figures_on_arm64_are_those_of_go_1_22() {
    figures_are_the_services_own(&ARM64, 22);
}

#[test]
fn figures_on_arm64_are_those_of_go_1_25() {
    figures_are_the_services_own(&ARM64, 25);
}

#[test]
fn figures_on_arm64_are_those_of_the_newest_go() {
    figures_are_the_services_own(&ARM64, newest());
}

#[test]
fn figures_on_loong64_are_those_of_go_1_21() {
    figures_are_the_services_own(&LOONG64, 21);
}

#[test]
fn figures_on_loong64_are_those_of_go_1_22() {
    figures_are_the_services_own(&LOONG64, 22);
}

#[test]
fn figures_on_loong64_are_those_of_go_1_25() {
    figures_are_the_services_own(&LOONG64, 25);
}

#[test]
fn figures_on_loong64_are_those_of_the_newest_go() {
    figures_are_the_services_own(&LOONG64, newest());
}

#[test]
fn figures_on_amd64_are_those_of_the_newest_go() {
    figures_are_the_services_own(&Guest { platform: Platform::LinuxAmd64, ..ARM64 }, newest());
}

/// A kernel that no other test uses.
fn kernel(platform: Platform, options: &'static str, release: &'static str) -> Guest {
    Guest { platform, options, release, snapshot: false, ..ARM64 }
}

/// Linux 5.10, which has no cookies for probes.
fn linux_5_10(platform: Platform) -> Guest {
    Guest { tier: Tier::T2, ..kernel(platform, r#"kernel: "5.10""#, "5.10.") }
}

/// The tier for kernels without ring buffers, on the oldest such kernel.
fn lowest_with_bpf(platform: Platform) -> Guest {
    Guest { ask: Some("T1"), tier: Tier::T1, ..linux_5_10(platform) }
}

#[test]
fn figures_on_arm64_are_the_services_own_with_linux_5_10() {
    figures_are_the_services_own(&linux_5_10(Platform::LinuxArm64), newest());
}

#[test]
fn figures_on_arm64_are_the_services_own_in_tier_t1() {
    figures_are_the_services_own(&lowest_with_bpf(Platform::LinuxArm64), newest());
}

#[test]
fn figures_on_arm64_are_the_services_own_with_linux_6_1() {
    let guest = kernel(Platform::LinuxArm64, r#"kernel: "6.1""#, "6.1.");
    figures_are_the_services_own(&Guest { tier: Tier::T3, ..guest }, newest());
}

#[test]
fn figures_on_arm64_are_the_services_own_with_linux_6_12() {
    figures_are_the_services_own(&kernel(Platform::LinuxArm64, r#"kernel: "6.12""#, "6.12."), newest());
}

#[test]
fn figures_on_arm64_are_the_services_own_with_large_pages() {
    let guest = kernel(Platform::LinuxArm64, r#"kernel: "7.2", page_size: 16KiB"#, "7.2.");
    figures_are_the_services_own(&Guest { page_size: 16384, ..guest }, newest());
}

#[test]
fn figures_on_amd64_are_the_services_own_with_linux_5_10() {
    figures_are_the_services_own(&linux_5_10(Platform::LinuxAmd64), newest());
}

#[test]
fn figures_on_amd64_are_the_services_own_in_tier_t1() {
    figures_are_the_services_own(&lowest_with_bpf(Platform::LinuxAmd64), newest());
}

#[test]
fn figures_on_amd64_are_the_services_own_with_linux_6_12() {
    figures_are_the_services_own(&kernel(Platform::LinuxAmd64, r#"kernel: "6.12""#, "6.12."), newest());
}
