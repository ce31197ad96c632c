//! A whole run of the agent. Its final figures are the service's own: `runtime.MemStats`, `runtime.NumGoroutine` and
//! the runtime's pause histogram. `real_versions.rs` covers every version of Go and every build mode.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{cell::RefCell, collections::BTreeMap, fs, path::Path};

use common::{
    can_attach, repository,
    uaa::{self, Truth, left, post},
};
use memgate::gobuild;
use memgate_agent::{self as agent, RunEvent, RunLogs, cancel::Cancel};
use memgate_config::Build;
use memgate_evidence::{
    Evidence, Exactness, Series,
    plan::{Collecting, HttpLoad, Length, Load, PhaseLengths, Plan, Ready, Request},
    platform::Platform,
};
use nix::unistd::Pid;

#[test]
fn figures_equal_the_runtimes_own() {
    if can_attach() {
        let (evidence, truth) = measure(18131, &[], "", |port| {
            post(port, "/debug/gc?n=20");
            post(port, "/debug/alloc?n=5000&size=100");
            post(port, "/debug/alloc?n=7&size=100000");
            post(port, "/debug/goroutines?n=37");
        });
        uaa::assert_equal(&evidence.signals, &truth);
        assert!(truth.num_gc > 20 && truth.gc_pauses.total > 40);
        assert_eq!(left(&evidence.signals.goroutines.data), 37, "only the parked goroutines are left");
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
        uaa::assert_equal(&evidence.signals, &truth);
        let off_heap = &evidence.signals.offheap;
        assert_eq!((&off_heap.exactness, off_heap.lost), (&Exactness::Sampled, 0));
        let grown = left(&since_measuring(&off_heap.data, &evidence)) - i64::try_from(FORGOTTEN).unwrap();
        // Stacks of C threads and malloc's own arenas are off-heap too.
        assert!((0..1 << 20).contains(&grown), "{grown} bytes in addition to the forgotten ones");
    }
}

#[test]
fn memory_that_go_keeps_is_not_off_heap() {
    if can_attach() {
        // 64 MiB of the Go heap stay in use, and none of them are off-heap.
        let (evidence, truth) = measure(18134, &[], "", |port| post(port, "/debug/alloc?n=1&size=67108864"));
        uaa::assert_equal(&evidence.signals, &truth);
        let off_heap = left(&since_measuring(&evidence.signals.offheap.data, &evidence));
        assert!(off_heap < 1 << 20, "{off_heap} bytes");
    }
}

/// The entries from the start of the measuring phase.
fn since_measuring(series: &Series, evidence: &Evidence) -> Series {
    let start = evidence.phases.measure.unwrap().start_ns;
    let mut later = Series::default();
    for (at_ns, value) in series.at_ns.iter().zip(&series.value).filter(|(at_ns, _)| **at_ns >= start) {
        later.push(*at_ns, *value);
    }
    later
}

/// Runs `uaa` under a small load. Between the drain and the last reading, it calls `act`, asks the service for its
/// figures, and then leaves the service alone, however long that takes.
fn measure(port: u16, flags: &[&str], tags: &str, act: impl Fn(u16)) -> (Evidence, Truth) {
    let directory = tempfile::tempdir().unwrap();
    let plan = plan(port, directory.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime
        .block_on(gobuild::build(&build(flags, tags), Platform::host(), &plan.executable, &Cancel::never()))
        .unwrap();
    let truth = RefCell::new(None);
    let progress = |progress| {
        if progress == RunEvent::Stopping {
            act(port);
            truth.replace(Some(uaa::truth_at_rest(service(&plan.executable), port)));
        }
    };
    let files =
        RunLogs { service_log: directory.path().join("service.log"), load_log: directory.path().join("load.log") };
    let evidence = runtime.block_on(agent::run(&plan, &files, agent::Driver::Here, &progress, &Cancel::never()));
    (evidence.unwrap_or_else(|error| panic!("{error:?}")), truth.take().unwrap())
}

/// The process that the agent started with this executable.
fn service(executable: &Path) -> Pid {
    let children = common::children(Pid::this().as_raw());
    let is_it = |process: &i32| fs::read_link(format!("/proc/{process}/exe")).is_ok_and(|exe| exe == executable);
    Pid::from_raw(children.into_iter().find(is_it).expect("the service runs"))
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
        args: ["-debug-memgate", "-expiry-interval=1h", "-listen", &format!("127.0.0.1:{port}")]
            .map(str::to_owned)
            .to_vec(),
        env: BTreeMap::new(),
        directory: directory.to_path_buf(),
        ready: Ready { http: format!("http://127.0.0.1:{port}/healthz"), timeout_ms: 60_000 },
        memory_max: None,
        load: Load::Http(HttpLoad {
            rate_per_second: 300.0,
            connections: 8,
            timeout_ms: 60_000,
            requests: vec![login],
        }),
        phases: PhaseLengths { warmup: Length::Ms(300), measure: Length::Ms(500), drain_ms: 500 },
        seed: 1,
        stop_timeout_ms: 5000,
        collecting: Collecting::default(),
    }
}
