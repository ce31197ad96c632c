//! Figures against the service's own: `runtime.MemStats`, `runtime.NumGoroutine` and the runtime's pause histogram.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use common::{can_attach, repository};
use memgate::{
    agent::{self, Files},
    cancel::Cancel,
    config::Build,
    evidence::{Evidence, Exactness, Series},
    gobuild,
    plan::{Collecting, HttpLoad, Load, PhaseLengths, Plan, Ready, Request},
    platform::Platform,
};

/// The service's own figures, `GET /debug/runtime` of fixtures-go/cmd/uaa.
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Truth {
    pause_total_ns: u64,
    #[serde(rename = "NumGC")]
    num_gc: u64,
    total_alloc: u64,
    mallocs: u64,
    num_goroutine: u64,
    #[serde(rename = "GCPauses")]
    gc_pauses: Histogram,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Histogram {
    total: u64,
}

#[test]
fn figures_equal_the_runtimes_own() {
    if can_attach() {
        let (evidence, truth) = measure(18131, &[], "", |port| {
            post(port, "/debug/gc?n=20");
            post(port, "/debug/alloc?n=5000&size=100");
            post(port, "/debug/alloc?n=7&size=100000");
            post(port, "/debug/goroutines?n=37");
        });
        assert_equal(&evidence, &truth);
        assert!(truth.num_gc > 20 && truth.gc_pauses.total > 40);
        assert_eq!(left(&evidence.signals.goroutines.data), 37, "the parked goroutines are left");
    }
}

#[test]
fn figures_equal_the_runtimes_own_in_a_position_independent_executable() {
    if can_attach() {
        let (evidence, truth) = measure(18132, &["-buildmode=pie"], "", |port| post(port, "/debug/gc?n=5"));
        assert_equal(&evidence, &truth);
    }
}

#[test]
fn figures_equal_the_runtimes_own_with_cgo_and_forgotten_memory_is_off_heap() {
    if can_attach() {
        const FORGOTTEN: u64 = 24 << 20;
        let (evidence, truth) = measure(18133, &["cgo"], "cgoleak", |port| {
            post(port, "/debug/gc?n=5");
            post(port, &format!("/debug/malloc?bytes={}", FORGOTTEN / 2));
            post(port, &format!("/debug/mmap?bytes={}", FORGOTTEN / 2));
        });
        assert_equal(&evidence, &truth);
        let off_heap = &evidence.signals.offheap;
        assert_eq!((&off_heap.exactness, off_heap.lost), (&Exactness::Sampled, 0));
        let grown = left(&since_measuring(&off_heap.data, &evidence)) - i64::try_from(FORGOTTEN).unwrap();
        // Stacks of C threads and malloc's own arenas are off-heap too.
        assert!((0..1 << 20).contains(&grown), "{grown} bytes beside what was forgotten");
    }
}

#[test]
fn memory_that_go_keeps_is_not_off_heap() {
    if can_attach() {
        // 64 MiB of Go heap that stays, and none of it off-heap.
        let (evidence, truth) = measure(18134, &[], "", |port| post(port, "/debug/alloc?n=1&size=67108864"));
        assert_equal(&evidence, &truth);
        let off_heap = left(&since_measuring(&evidence.signals.offheap.data, &evidence));
        assert!(off_heap < 1 << 20, "{off_heap} bytes");
    }
}

/// Every figure of a quiet service is the runtime's own.
#[track_caller]
fn assert_equal(evidence: &Evidence, truth: &Truth) {
    let signals = &evidence.signals;
    assert_eq!((&signals.gc_pauses.exactness, signals.gc_pauses.lost), (&Exactness::Exact, 0));
    let pauses = &signals.gc_pauses.data.duration_ns;
    assert_eq!(pauses.iter().sum::<u64>(), truth.pause_total_ns, "PauseTotalNs");
    assert_eq!(pauses.len() as u64, truth.gc_pauses.total, "entries in /sched/pauses/total/gc:seconds");
    assert_eq!(signals.live_heap.data.value.len() as u64, truth.num_gc, "NumGC");
    assert_eq!(last(&signals.alloc_bytes.data), truth.total_alloc, "TotalAlloc");
    assert_eq!(last(&signals.alloc_objects.data), truth.mallocs, "Mallocs");
    // The goroutine that answered was the request's own, and is gone.
    assert_eq!(last(&signals.goroutines.data), truth.num_goroutine - 1, "NumGoroutine");
}

fn last(series: &Series) -> u64 {
    *series.value.last().unwrap()
}

/// Last less first.
fn left(series: &Series) -> i64 {
    series.value.last().unwrap().cast_signed() - series.value[0].cast_signed()
}

/// The entries from the measuring phase on.
fn since_measuring(series: &Series, evidence: &Evidence) -> Series {
    let start = evidence.phases.measure.unwrap().start_ns;
    let mut later = Series::default();
    for (at_ns, value) in series.at_ns.iter().zip(&series.value).filter(|(at_ns, _)| **at_ns >= start) {
        later.push(*at_ns, *value);
    }
    later
}

/// Runs `uaa` under a little load; has `act` done in the drain, then asks the service for its figures and lets it be quiet.
fn measure(port: u16, flags: &[&str], tags: &str, act: impl FnOnce(u16) + Send + 'static) -> (Evidence, Truth) {
    let directory = tempfile::tempdir().unwrap();
    let plan = plan(port, directory.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime
        .block_on(gobuild::build(&build(flags, tags), Platform::host(), &plan.executable, &Cancel::never()))
        .unwrap();
    let asked = std::thread::spawn(move || {
        wait_until_it_listens(port);
        // Settling, warm-up and measuring take 2.2 s; the drain lasts 6 s from then on.
        std::thread::sleep(Duration::from_millis(3500));
        act(port);
        let body = exchange(port, "GET", "/debug/runtime");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    });
    let files =
        Files { service_log: directory.path().join("service.log"), load_log: directory.path().join("load.log") };
    let evidence = runtime.block_on(agent::run(&plan, &files, &|_| {}, &Cancel::never()));
    (evidence.unwrap_or_else(|error| panic!("{error:?}")), asked.join().unwrap())
}

fn build(flags: &[&str], tags: &str) -> Build {
    let cgo = if flags.contains(&"cgo") || flags.contains(&"-buildmode=pie") { "1" } else { "0" };
    let go_flags = flags.iter().filter(|flag| flag.starts_with('-')).copied().collect::<Vec<_>>().join(" ");
    Build {
        dir: repository().join("fixtures-go"),
        package: "./cmd/uaa".to_owned(),
        tags: if tags.is_empty() { Vec::new() } else { vec![tags.to_owned()] },
        ldflags: None,
        env: BTreeMap::from([("CGO_ENABLED".to_owned(), cgo.to_owned()), ("GOFLAGS".to_owned(), go_flags)]),
    }
}

fn plan(port: u16, directory: &Path) -> Plan {
    let login = Request {
        method: "POST".to_owned(),
        url: format!("http://127.0.0.1:{port}/login"),
        headers: BTreeMap::new(),
        body: String::new(),
        weight: 1,
        expect: Vec::new(),
    };
    Plan {
        service: "uaa".to_owned(),
        platform: Platform::host(),
        run: 1,
        baseline: "uaa".to_owned(),
        executable: directory.join("uaa"),
        args: ["-debug-memgate", "-listen", &format!("127.0.0.1:{port}")].map(str::to_owned).to_vec(),
        env: BTreeMap::new(),
        directory: directory.to_path_buf(),
        ready: Ready { http: format!("http://127.0.0.1:{port}/healthz"), timeout_ms: 10_000 },
        memory_max: None,
        load: Load::Http(HttpLoad { rate_per_second: 300.0, connections: 8, timeout_ms: 2000, requests: vec![login] }),
        phases: PhaseLengths { warmup_ms: 1000, measure_ms: 1000, drain_ms: 6000 },
        seed: 1,
        stop_timeout_ms: 5000,
        collecting: Collecting::default(),
    }
}

fn wait_until_it_listens(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "nobody listens on port {port}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn post(port: u16, path: &str) {
    let answer = exchange(port, "POST", path);
    assert!(answer.starts_with("done"), "{path}: {answer}");
}

/// The body of the answer to a request on a connection of its own.
fn exchange(port: u16, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{method} {path}: {head}");
    body.to_owned()
}
