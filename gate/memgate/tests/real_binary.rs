//! Executables that memgate did not build: from a distribution, built by an old Go, with garbled names, without Go, for
//! another platform.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::{
    Bench, assert_fails, can_attach, go, repository, stderr, stdout,
    uaa::{Watched, last},
};
use memgate_agent::collect::Boundary;
use memgate_evidence::{Evidence, Exactness, Frame, StopReason, platform::Platform};
use memgate_files::evidence_file;
use memgate_testing::go::newest;
use object::{Object as _, ObjectSection as _};

/// Built by Go 1.24.4 with C, stripped; see xtask/src/setup/services.rs.
const NODE_EXPORTER: &str = "prometheus-node-exporter-1.9.0-1+b4";
/// Built by Go 1.19.8.
const NODE_EXPORTER_OF_OLD_GO: &str = "prometheus-node-exporter-1.5.0-1+b6";

/// The program of one of Debian's packages; `None` on machines for which `cargo xtask setup` does not fetch it.
fn debian(package: &str) -> Option<PathBuf> {
    if !can_attach() || Platform::host() != Platform::LinuxAmd64 {
        eprintln!("SKIPPED: Debian's services are pinned for amd64, and memgate needs root to watch them");
        return None;
    }
    let program = repository().join(".tools").join(package).join("prometheus-node-exporter");
    assert!(program.is_file(), "{} is missing: run `cargo xtask setup`", program.display());
    Some(program)
}

/// A few collectors that read /proc and start nothing.
fn arguments(port: u16) -> [String; 4] {
    let flags = ["--collector.disable-defaults", "--collector.loadavg", "--collector.meminfo"];
    let [first, second, third] = flags.map(str::to_owned);
    [first, second, third, format!("--web.listen-address=127.0.0.1:{port}")]
}

#[test]
fn figures_of_a_distributions_service_equal_its_own() {
    let Some(program) = debian(NODE_EXPORTER) else { return };
    let mut command = Command::new(program);
    // Every allocation is sampled. The GC runs on request, and not between a figure and its comparison.
    command.args(arguments(18281)).env_clear().env("GODEBUG", "memprofilerate=1").env("GOGC", "off");
    let mut service = Watched::launch(command, 18281);
    service.get("/metrics");
    service.rest();
    service.recorder.reach(Boundary::Idle);
    service.recorder.sample_off_heap();
    service.recorder.reach(Boundary::MeasureStart);
    for _ in 0..5 {
        service.get("/metrics");
    }
    // A requested GC cycle publishes all samples so far.
    service.get("/debug/pprof/heap?debug=1&gc=1");
    service.rest();
    service.recorder.reach(Boundary::MeasureEnd);
    let profile = service.get("/debug/pprof/heap?debug=1&gc=1");
    service.get("/debug/pprof/heap?debug=1&gc=1");
    service.rest();
    let goroutines = service.get("/debug/pprof/goroutine?debug=1");
    service.rest();
    let [before, (truth, stats)] = [(); 2].map(|()| {
        let truth = metrics(&service.get("/metrics"));
        (truth, mem_stats(&service.get("/debug/pprof/heap?debug=1")))
    });
    let (signals, code) = service.finish();

    assert_eq!((&signals.gc_pauses.exactness, signals.gc_pauses.lost), (&Exactness::Exact, 0));
    let pauses: u64 = signals.gc_pauses.data.duration_ns.iter().sum();
    // Like `time.Duration.Seconds` (Go 1.24).
    let seconds = (pauses / 1_000_000_000) as f64 + (pauses % 1_000_000_000) as f64 / 1e9;
    assert!(pauses > 0);
    assert_eq!(seconds, truth["go_gc_duration_seconds_sum"]);
    assert_eq!(signals.live_heap.data.value.len() as f64, truth["go_gc_duration_seconds_count"]);
    assert_eq!(signals.live_heap.data.value.len() as u64, stats["NumGC"]);
    for (name, series) in [("TotalAlloc", &signals.alloc_bytes), ("Mallocs", &signals.alloc_objects)] {
        // The service counts while it answers. The rest of the answer allocates less than this answer and the previous
        // one together.
        let (rest, answers) = (last(&series.data) - stats[name], stats[name] - before.1[name]);
        assert!(rest <= answers, "{name}: {rest} of {answers}");
    }
    assert_eq!(last(&signals.goroutines.data), at_rest(&goroutines));
    let profiles = |reason: &&StopReason| **reason == StopReason::GoroutineProfile;
    assert_eq!(signals.world_stops.data.reason.iter().filter(profiles).count(), 1, "the goroutine profile");
    let evidence = |function: &str| function.contains("node_exporter/collector.") || function.contains("client_golang");
    let heap = &signals.heap_profile.data;
    let mut places: BTreeMap<Place, u64> = BTreeMap::new();
    for ((stack, size), allocs) in heap.stack.iter().zip(&heap.size).zip(&heap.allocs_end) {
        let frame = code.stack(*stack).next().unwrap();
        let place = (frame.function.clone(), format!("{}:{}", frame.file, frame.line), *size);
        if evidence(&frame.function) && *allocs > 0 {
            *places.entry(place).or_default() += allocs;
        }
    }
    let mut own = own_profile(&profile);
    own.retain(|(function, ..), _| evidence(function));
    assert!(own.len() > 20, "{own:?}");
    let all: BTreeSet<_> = places.keys().chain(own.keys()).collect();
    let unlike = all.into_iter().filter(|place| places.get(*place) != own.get(*place));
    let unlike: Vec<_> = unlike.map(|place| (place, places.get(place), own.get(place))).collect();
    assert_eq!(unlike, [], "measured, and the service's own");
}

/// Function, file and line, and the size of the objects that are allocated there.
type Place = (String, String, u64);

/// Values of metrics without labels, by name.
fn metrics(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

/// The single numbers of the `runtime.MemStats` in /debug/pprof/heap?debug=1.
fn mem_stats(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("# ")?.split_once(" = "));
    lines.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

/// Goroutines in /debug/pprof/goroutine?debug=1, without the two of the request itself: one serves it, and one waits
/// for the client to disconnect. The latter may not have run yet and then has no frames.
fn at_rest(profile: &str) -> u64 {
    let stacks = profile
        .split("\n\n")
        .filter(|stack| stack.contains("\n#") && !stack.contains("net/http.(*conn"))
        .filter_map(|stack| {
            let first = stack.lines().find(|line| line.contains(" @ "))?;
            first.split(' ').next()?.parse::<u64>().ok()
        });
    stacks.sum()
}

/// Allocated objects by place, from /debug/pprof/heap?debug=1 (runtime/pprof/pprof.go, `writeHeapInternal` and
/// `printStackRecord`, Go 1.24).
fn own_profile(text: &str) -> BTreeMap<Place, u64> {
    let mut places = BTreeMap::new();
    for record in text.split("\n\n") {
        // A line with the sums comes before the first record.
        let is_record = |line: &&str| line.contains("] @ 0x");
        let lines = record.lines().skip_while(|line| !is_record(line)).collect::<Vec<_>>();
        let [counts, first, ..] = lines.as_slice() else { continue };
        let allocated = counts.split_once('[').unwrap().1.split_once(']').unwrap().0;
        let (objects, bytes) = allocated.split_once(": ").unwrap();
        let (objects, bytes): (u64, u64) = (objects.parse().unwrap(), bytes.parse().unwrap());
        let words: Vec<_> = first.split('\t').filter(|word| !word.is_empty()).collect();
        let ["#", _, function, place] = words.as_slice() else { continue };
        let function = function.rsplit_once("+0x").unwrap().0.to_owned();
        if objects > 0 {
            *places.entry((function, (*place).to_owned(), bytes / objects)).or_default() += objects;
        }
    }
    places
}

/// A configuration for an existing executable.
fn bench(program: &Path, port: u16, arguments: &[String], path: &str) -> Bench {
    Bench::new(&format!(
        r#"version: 1
services:
  s:
    binary: {{ linux/amd64: {program}, linux/arm64: {program}, linux/loong64: {program} }}
    run:
      args: {arguments:?}
      ready: {{ http: "http://127.0.0.1:{port}{path}", timeout: 60s }}
    load: {{ rate: 50/s, connections: 2, timeout: 60s, requests: [ {{ get: "http://127.0.0.1:{port}{path}" }} ] }}
    phases: {{ warmup: 1s, measure: 1s, drain: 1s }}
    runs: 1
"#,
        program = program.display()
    ))
}

fn record(bench: &Bench) -> Evidence {
    let output = bench.command("record").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    evidence_file::read(Path::new(stdout(&output).lines().next().unwrap())).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_distributions_service_has_every_signal() {
    let Some(program) = debian(NODE_EXPORTER) else { return };
    let evidence = record(&bench(&program, 18282, &arguments(18282), "/metrics"));
    assert_eq!(evidence.environment.go, "go1.24.4");
    assert_eq!(
        kinds(&evidence),
        "gc_pauses other_pauses world_stops live_heap mmap_latency alloc_samples heap_profile goroutine_sites: exact; gc_cpu go_memory alloc_bytes alloc_objects goroutines rss rss_kinds swap threads fds offheap offheap_sites page_faults: sampled; : missing"
    );
    let (signals, code) = (&evidence.signals, &evidence.code);
    let samples = &signals.alloc_samples.data;
    assert!(!samples.stack.is_empty());
    for stack in &samples.stack {
        let first = code.stack(*stack).next().unwrap();
        assert!(first.line > 0 && first.file.ends_with(".go"), "{first:?}");
    }
    let own = |frame: &Frame| frame.function.starts_with("github.com/prometheus/node_exporter/");
    assert!(samples.stack.iter().any(|stack| code.stack(*stack).any(own)));
}

#[test]
fn a_service_built_by_an_old_go_has_the_kernels_signals() {
    let Some(program) = debian(NODE_EXPORTER_OF_OLD_GO) else { return };
    let evidence = record(&bench(&program, 18283, &arguments(18283), "/metrics"));
    assert_eq!(evidence.environment.go, "go1.19.8");
    only_the_kernels(&evidence, "go1.19.8 built it; memgate reads the runtime of Go 1.21 and later");
}

#[test]
fn a_static_program_without_go_has_the_kernels_signals() {
    if can_attach() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("program");
        let source = repository().join("gate/memgate/tests/static_server.c");
        let compiled = Command::new("gcc").args(["-O2", "-static", "-o"]).args([&program, &source]).status().unwrap();
        assert!(compiled.success());
        let evidence = record(&bench(&program, 18284, &["18284".to_owned()], "/"));
        only_the_kernels(&evidence, "Go did not build it");
    }
}

/// A garbled executable differs only in the names of functions.
#[test]
fn garbled_names_of_the_service_are_reported_unchanged() {
    if can_attach() {
        let directory = tempfile::tempdir().unwrap();
        let program = garbled(directory.path(), "main.", b'x');
        let evidence = record(&bench(&program, 18285, &["-listen=127.0.0.1:18285".to_owned()], "/healthz"));
        assert!(kinds(&evidence).ends_with("; : missing"), "{}", kinds(&evidence));
        let functions: Vec<_> = evidence.code.frames.iter().map(|frame| frame.function.as_str()).collect();
        assert!(functions.iter().any(|name| name.starts_with("main.xxx")), "{functions:?}");
        assert!(functions.iter().any(|name| name.starts_with("net/http.")), "{functions:?}");
    }
}

#[test]
fn without_the_runtimes_names_its_signals_are_missing_with_the_reason() {
    if can_attach() {
        let directory = tempfile::tempdir().unwrap();
        let program = garbled(directory.path(), "runtime.", b'x');
        let evidence = record(&bench(&program, 18286, &["-listen=127.0.0.1:18286".to_owned()], "/healthz"));
        assert_eq!(evidence.environment.go, newest().version);
        only_the_kernels(&evidence, "found");
    }
}

/// The identity service, stripped, with every letter after `package` in its functions' names replaced.
fn garbled(directory: &Path, package: &str, letter: u8) -> PathBuf {
    let program = directory.join("uaa");
    let flags = ["-ldflags=-s -w", "./cmd/uaa"];
    go::build(&newest(), &repository().join("fixtures-go"), &flags, Platform::host(), false, &program);
    let mut bytes = fs::read(&program).unwrap();
    let table = object::File::parse(&*bytes).unwrap().section_by_name(".gopclntab").unwrap().file_range().unwrap();
    let table = usize::try_from(table.0).unwrap()..usize::try_from(table.0 + table.1).unwrap();
    let mut names = 0;
    for name in bytes[table].split_mut(|byte| *byte == 0) {
        if name.starts_with(package.as_bytes()) && name.is_ascii() {
            names += 1;
            for byte in name[package.len()..].iter_mut().filter(|byte| byte.is_ascii_alphanumeric()) {
                *byte = letter;
            }
        }
    }
    assert!(names > 10, "{names} names");
    fs::write(&program, bytes).unwrap();
    program
}

#[test]
fn an_executable_of_another_platform_is_refused() {
    if can_attach() {
        let other = Platform::ALL.into_iter().find(|platform| *platform != Platform::host()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("uaa");
        let fixtures = repository().join("fixtures-go");
        go::build(&newest(), &fixtures, &["./cmd/misbehave"], other, false, &program);
        let output = bench(&program, 18287, &[], "/").command("record").output().unwrap();
        let words = [other.name(), Platform::host().name(), "binary"];
        assert_fails(&output, 4, &words);
    }
}

/// Checks that the signals of the runtime are missing for this reason, and that those of the kernel are available.
#[track_caller]
fn only_the_kernels(evidence: &Evidence, why: &str) {
    assert_eq!(
        kinds(evidence),
        ": exact; rss rss_kinds swap threads fds page_faults: sampled; gc_pauses other_pauses world_stops gc_cpu live_heap go_memory alloc_bytes alloc_objects goroutines offheap mmap_latency alloc_samples heap_profile goroutine_sites offheap_sites: missing"
    );
    let signals = &evidence.signals;
    for (name, exactness) in exactnesses(evidence) {
        if let Exactness::Missing { reason } = exactness {
            assert!(reason.contains(why), "{name}: {reason}");
        }
    }
    assert!(last(&signals.rss.data) > 0 && last(&signals.page_faults.data) > 0);
    let requests = &signals.requests;
    assert_eq!(requests.exactness, Exactness::Exact);
    assert_eq!((requests.data.measure.succeeded, requests.data.measure.intended), (50, 50));
}

/// The names of the signals, by exactness.
fn kinds(evidence: &Evidence) -> String {
    let of = |kind: fn(&Exactness) -> bool| {
        exactnesses(evidence)
            .filter(|(_, exactness)| kind(exactness))
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
            .join(" ")
    };
    let exact = of(|exactness| *exactness == Exactness::Exact);
    let sampled = of(|exactness| *exactness == Exactness::Sampled);
    let missing = of(|exactness| matches!(exactness, Exactness::Missing { .. }));
    format!("{exact}: exact; {sampled}: sampled; {missing}: missing")
}

/// The exactness of each signal, except those that depend on the machine and on the run's length.
fn exactnesses(evidence: &Evidence) -> impl Iterator<Item = (&'static str, &Exactness)> {
    const VARYING: [&str; 9] = [
        "cgroup_memory",
        "cgroup_peak",
        "huge_pages",
        "thp_events",
        "rss_peak",
        "forced_collections",
        "span_refills",
        "requests",
        "oom_kills",
    ];
    let all = evidence.signals.provenance().into_iter();
    all.map(|signal| (signal.name, signal.exactness)).filter(|(name, _)| !VARYING.contains(name))
}
