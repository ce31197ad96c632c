//! A whole run of the agent. Its final figures are the service's own: `runtime.MemStats`, `runtime.NumGoroutine` and
//! the runtime's pause histogram. `real_versions.rs` covers every version of Go and every build mode.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use common::{
    busy::{self, HeldUp},
    can_attach, go, repository,
    uaa::{self, Truth, left, post},
};
use memgate::gobuild::Builder;
use memgate_agent::{self as agent, RunEvent, RunLogs, cancel::Cancel};
use memgate_config::Build;
use memgate_evidence::{
    Evidence, Exactness, RequestCounts, Requests, Series, TimeSpan,
    plan::{
        Collecting, CommandLoad, CommandResults, HttpLoad, Length, Load, PhaseLengths, Plan, Ready, ReadyBy, Request,
        ResultsFormat, Stdin, Transport,
    },
    platform::Platform,
    secrets::Secrets,
};
use memgate_testing::go::newest;
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
        uaa::assert_go_memory(&evidence.signals, &truth);
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

/// A service that allocates next to nothing, and therefore never collects by itself.
fn small(port: u16, directory: &Path) -> Plan {
    let mut plan = plan(port, directory);
    plan.executable = uaa::uaa();
    plan.phases =
        PhaseLengths { warmup: Length::Ms(9000), measure: Length::Ms(9000), drain_ms: 500, drain_max_ms: 500 };
    plan.load = Load::Http(HttpLoad {
        rate_per_second: 20.0,
        connections: 2,
        timeout_ms: 60_000,
        transport: Transport::default(),
        rows: None,
        requests: vec![request("GET", format!("http://127.0.0.1:{port}/healthz"))],
    });
    plan
}

/// The number of GC cycles that ended in each window, and in the measuring phase.
fn cycles(evidence: &Evidence) -> ([usize; 2], usize) {
    let within = |span: TimeSpan| evidence.signals.live_heap.data.at_ns.iter().filter(|at| span.contains(**at)).count();
    let windows = &evidence.signals.forced_collections.data.windows;
    let [first, second] = <[TimeSpan; 2]>::try_from(windows.clone()).unwrap();
    let (warmup, tail) = (evidence.phases.warmup.unwrap(), evidence.phases.tail.unwrap());
    assert!(warmup.start_ns < first.start_ns && first.end_ns <= warmup.end_ns, "{first:?} in {warmup:?}");
    assert!(tail.start_ns <= second.start_ns && second.end_ns <= tail.end_ns, "{second:?} in {tail:?}");
    ([first, second].map(within), within(evidence.phases.measure.unwrap()))
}

/// Carries the plan out until the machine holds nobody up, and compares the figures with the runtime's own.
fn undisturbed(plan: &Plan, directory: &Path) -> Evidence {
    busy::again(|| {
        let (evidence, truth) = run(plan, directory, |_| {});
        uaa::assert_equal(&evidence.signals, &truth);
        let readings = &evidence.signals.alloc_bytes.data.at_ns;
        let gaps = readings.iter().zip(&readings[1..]).map(|(one, next)| Duration::from_nanos(next - one));
        let held_up = HeldUp::reader(gaps.max().unwrap(), Duration::from_millis(500))
            .or_else(|| HeldUp::generator(&evidence.notes))
            .or_else(|| match &evidence.signals.forced_collections.exactness {
                Exactness::Inexact { reason } => Some(HeldUp::Collection { reason: reason.clone() }),
                Exactness::Exact | Exactness::Sampled | Exactness::Bucketed | Exactness::Missing { .. } => None,
            });
        held_up.map_or(Ok(evidence), Err)
    })
}

#[test]
fn the_live_heap_is_read_at_both_ends_and_the_measuring_phase_is_the_services_own() {
    if can_attach() {
        let directory = tempfile::tempdir().unwrap();
        let evidence = undisturbed(&small(18135, directory.path()), directory.path());
        let forced = &evidence.signals.forced_collections;
        assert_eq!(forced.exactness, Exactness::Exact);
        let ([first, second], measuring) = cycles(&evidence);
        assert!(first >= 4 && second >= 4, "{first} and {second} cycles; asked for {:?}", forced.data.asked);
        assert_eq!(measuring, 0, "by itself, the service does not collect");
        let requests = &evidence.signals.requests.data;
        assert_eq!((requests.warmup.intended, requests.measure.intended, requests.tail.intended), (180, 180, 60));
        assert_eq!(requests.tail.succeeded, 60);
        assert_eq!(uaa::last(&requests.completed), 420, "the load goes on in the tail");
    }
}

/// GOGC alone would allow 40 MiB.
#[test]
fn the_goal_under_a_memory_limit_is_the_runtimes_own() {
    if can_attach() {
        const LIMIT: u64 = 24 << 20;
        let directory = tempfile::tempdir().unwrap();
        let mut plan = small(18140, directory.path());
        plan.phases =
            PhaseLengths { warmup: Length::Ms(500), measure: Length::Ms(1000), drain_ms: 500, drain_max_ms: 500 };
        let limits = [("GOGC", "1000".to_owned()), ("GOMEMLIMIT", LIMIT.to_string())];
        plan.env = limits.map(|(name, value)| (name.to_owned(), value)).into();
        let (evidence, truth) = run(&plan, directory.path(), |port| post(port, "/debug/gc?n=2"));
        uaa::assert_equal(&evidence.signals, &truth);
        uaa::assert_go_memory(&evidence.signals, &truth);
        assert!(truth.heap_goal < LIMIT, "{}", truth.heap_goal);
    }
}

/// Nothing but memgate's own connections wakes the runtime.
#[test]
fn the_live_heap_of_an_idle_service_is_read_too() {
    if can_attach() {
        let directory = tempfile::tempdir().unwrap();
        let mut plan = small(18136, directory.path());
        plan.load = command(&["sleep", "3600"]);
        let evidence = undisturbed(&plan, directory.path());
        let ([first, second], measuring) = cycles(&evidence);
        assert!(first >= 3 && second >= 3 && measuring == 0, "{first}, {measuring} and {second} cycles");
    }
}

#[test]
fn a_service_without_gc_is_not_made_to_collect_and_has_no_tail() {
    if can_attach() {
        let directory = tempfile::tempdir().unwrap();
        let mut plan = small(18137, directory.path());
        plan.env = BTreeMap::from([("GOGC".to_owned(), "off".to_owned())]);
        plan.phases =
            PhaseLengths { warmup: Length::Ms(1500), measure: Length::Ms(1000), drain_ms: 500, drain_max_ms: 500 };
        let (evidence, truth) = run(&plan, directory.path(), |_| {});
        assert_eq!(uaa::last(&evidence.signals.alloc_bytes.data), truth.total_alloc);
        uaa::assert_missing(&evidence.signals.forced_collections, "GOGC is off");
        assert_eq!((truth.num_gc, evidence.phases.tail), (0, None));
        assert_eq!(evidence.signals.requests.data.tail, RequestCounts::default());
    }
}

/// A load command that lasts as long as the measuring phase is no failure.
#[test]
fn a_load_command_may_end_in_the_tail() {
    if can_attach() {
        let directory = tempfile::tempdir().unwrap();
        let mut plan = small(18138, directory.path());
        let ending = directory.path().join("ending");
        let script = format!("trap '' TERM; until [ -e {} ]; do sleep 0.05; done; echo done", ending.display());
        plan.load = command(&["sh", "-c", &script]);
        let files = logs(directory.path());
        let progress = |progress| {
            if matches!(progress, RunEvent::Collecting(_)) {
                fs::write(&ending, "").unwrap();
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let evidence = runtime.block_on(agent::run(
            &plan,
            &files,
            agent::Driver::Here(agent::load::start),
            &progress,
            &Cancel::never(),
        ));
        let phases = evidence.unwrap_or_else(|error| panic!("{error:?}")).phases;
        assert!(phases.tail.is_some() && phases.drain.is_some());
        assert_eq!(fs::read_to_string(files.load_log).unwrap(), "done\n");
    }
}

/// Sends a request every 10 ms, one after the other, and writes each result as vegeta does.
const LIKE_VEGETA: &str = r#"
import datetime, http.client, json, sys, time
port, file, number = int(sys.argv[1]), open(sys.argv[2], "w", buffering=1), 0
client = http.client.HTTPConnection("127.0.0.1", port)
while True:
    begun, start = datetime.datetime.now(datetime.timezone.utc), time.monotonic_ns()
    client.request("POST", "/login")
    answer = client.getresponse()
    answer.read()
    result = {"attack": "", "seq": number, "code": answer.status, "timestamp": begun.isoformat(),
              "latency": time.monotonic_ns() - start, "bytes_out": 0, "bytes_in": 2, "error": "", "body": None}
    file.write(json.dumps(result) + "\n")
    number += 1
    time.sleep(0.01)
"#;

/// The results of a load command give what memgate's own load gives, and the service's own counter agrees.
#[test]
fn a_load_command_with_results_has_figures_of_requests() {
    if can_attach() {
        let directory = tempfile::tempdir().unwrap();
        let mut plan = small(18140, directory.path());
        let file = directory.path().join("results.json");
        let words = ["python3", "-c", LIKE_VEGETA, "18140", file.to_str().unwrap()];
        let Load::Command(load) = command(&words) else { panic!("{words:?}") };
        let results = CommandResults { format: ResultsFormat::Vegeta, file: file.clone() };
        plan.load = Load::Command(CommandLoad { results: Some(results), ..load });
        let (evidence, _) = run(&plan, directory.path(), |_| ());
        let requests = &evidence.signals.requests;
        assert_eq!(requests.exactness, Exactness::Exact, "{requests:?}");
        let written = fs::read_to_string(&file).unwrap().lines().count() as u64;
        let Requests { completed, warmup, measure, tail, latency, .. } = &requests.data;
        assert!(measure.intended > 0 && measure.succeeded == measure.intended, "{measure:?}");
        assert_eq!(latency.count.iter().sum::<u64>(), measure.intended);
        // Between two phases memgate reads the service's counters.
        let counted = warmup.intended + measure.intended + tail.intended;
        assert!(counted <= written, "{counted} of {written}");
        assert!(completed.value.last().unwrap() + 1 >= written, "{completed:?}, {written} written");
        // The first and the last reading of the phase lie a little within it.
        let span = evidence.phases.measure.unwrap();
        let read = completed.at_ns.iter().zip(&completed.value);
        let read: Vec<_> = read.filter(|(at, _)| (span.start_ns..=span.end_ns).contains(*at)).collect();
        let inside = read.last().unwrap().1 - read[0].1;
        let least = measure.intended - measure.intended / 10;
        assert!((least..=measure.intended + 1).contains(&inside), "{inside} completed, {} sent", measure.intended);
    }
}

/// Goroutines that end by themselves, long after the configured drain. The first of them end before the load does.
#[test]
fn the_drain_lasts_while_goroutines_end() {
    const HOLDS: &str = r#"package main

import (
	"net/http"
	"os"
	"time"
)

func main() {
	http.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	http.HandleFunc("/hold", func(http.ResponseWriter, *http.Request) { go time.Sleep(6 * time.Second) })
	panic(http.ListenAndServe(os.Args[1], nil))
}
"#;
    if can_attach() {
        let program = go::Program::new(HOLDS);
        let directory = tempfile::tempdir().unwrap();
        let mut plan = small(18139, directory.path());
        plan.executable = program.build(&newest(), Platform::host(), go::Mode::Plain, "-w");
        plan.args = vec!["127.0.0.1:18139".to_owned()];
        plan.load = Load::Http(HttpLoad {
            rate_per_second: 20.0,
            connections: 2,
            timeout_ms: 60_000,
            transport: Transport::default(),
            rows: None,
            requests: vec![request("GET", "http://127.0.0.1:18139/hold".to_owned())],
        });
        plan.phases =
            PhaseLengths { warmup: Length::Ms(4000), measure: Length::Ms(3000), drain_ms: 1000, drain_max_ms: 120_000 };
        let lasted = busy::again(|| drained(&plan, directory.path()));
        assert!(lasted > Duration::from_secs(4), "the last goroutines ended 6 s after the load, and not {lasted:?}");
    }
}

/// How long the drain lasted until no goroutine was left. A machine that lets the service stand still for 0.5 s may end
/// it earlier.
fn drained(plan: &Plan, directory: &Path) -> Result<Duration, HeldUp> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let evidence = runtime.block_on(agent::run(
        plan,
        &logs(directory),
        agent::Driver::Here(agent::load::start),
        &|_| {},
        &Cancel::never(),
    ));
    let evidence = evidence.unwrap_or_else(|error| panic!("{error:?}"));
    let drain = evidence.phases.drain.unwrap();
    let goroutines = &evidence.signals.goroutines.data;
    if left(goroutines) > 0 {
        // The longest time without a new low.
        let (mut least, mut low_ns, mut still_ns) = (u64::MAX, drain.start_ns, 0);
        for (at_ns, value) in
            goroutines.at_ns.iter().zip(&goroutines.value).filter(|(at_ns, _)| drain.contains(**at_ns))
        {
            still_ns = still_ns.max(at_ns - low_ns);
            if *value < least {
                (least, low_ns) = (*value, *at_ns);
            }
        }
        let held_up = HeldUp::reader(Duration::from_nanos(still_ns), Duration::from_millis(450));
        return Err(held_up.expect("the goroutines were still ending"));
    }
    Ok(Duration::from_nanos(drain.length_ns()))
}

#[test]
fn figures_of_the_process_and_its_cgroup_equal_the_kernels_own() {
    if can_attach() {
        let kernels = RefCell::new(None);
        let (evidence, _) = measure_with(
            18141,
            &[],
            "",
            |_| (),
            |service| {
                kernels.replace(Some(Kernels::read(service)));
            },
        );
        let kernels = kernels.take().unwrap();
        let signals = &evidence.signals;
        assert_eq!(uaa::last(&signals.threads.data), kernels.threads, "Threads");
        assert_eq!(uaa::last(&signals.fds.data), kernels.fds, "entries of fd");
        assert_eq!((&signals.swap.exactness, uaa::last(&signals.swap.data)), (&Exactness::Sampled, kernels.swap));
        // Both series begin before the load, and end after the drain.
        let (warmup, drain) = (evidence.phases.warmup.unwrap(), evidence.phases.drain.unwrap());
        for series in [&signals.threads.data, &signals.fds.data] {
            let [first, .., last] = series.at_ns.as_slice() else { panic!("{series:?}") };
            assert!(*first < warmup.start_ns && *last >= drain.end_ns, "{first}, {last}, {:?}", evidence.phases);
        }
        let memory = &signals.cgroup_memory.data;
        assert_eq!(signals.cgroup_memory.exactness, Exactness::Sampled);
        // The service is at rest. The kernel moves what it counts in batches for each CPU.
        const BATCHES: u64 = 2 << 20;
        let lasts =
            [("anon", &memory.anon), ("file", &memory.file), ("shmem", &memory.shmem), ("current", &memory.current)];
        for (name, column) in lasts {
            let (ours, theirs) = (*column.last().unwrap(), kernels.memory[name]);
            assert!(ours.abs_diff(theirs) <= BATCHES, "{name}: {ours}, and the kernel says {theirs}");
        }
        // What the process has is in its cgroup.
        let anonymous = *signals.rss_kinds.data.anonymous.last().unwrap();
        assert!(
            anonymous > 1 << 20 && anonymous.abs_diff(*memory.anon.last().unwrap()) <= BATCHES,
            "{anonymous}, {memory:?}"
        );
        assert!(*memory.kernel.as_ref().unwrap().last().unwrap() > 0, "{memory:?}");
        let working_sets =
            memory.current.iter().zip(&memory.inactive_file).map(|(current, file)| current.saturating_sub(*file));
        let measured = memory.at_ns.iter().zip(working_sets);
        let phase = evidence.phases.measure.unwrap();
        let largest =
            measured.filter(|(at_ns, _)| phase.contains(**at_ns)).map(|(_, bytes)| bytes).skip(1).max().unwrap();
        assert!(signals.cgroup_peak.data >= largest, "{} and {largest}", signals.cgroup_peak.data);
    }
}

/// What the kernel says of a process at rest and of its memory cgroup.
struct Kernels {
    threads: u64,
    fds: u64,
    swap: u64,
    /// Bytes by the name in version 2.
    memory: BTreeMap<&'static str, u64>,
}

impl Kernels {
    fn read(service: Pid) -> Self {
        common::busy::until_at_rest(service);
        let status = fs::read_to_string(format!("/proc/{service}/status")).unwrap();
        let number = |text: &str, name: &str| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix([' ', ':']));
            line.unwrap_or_else(|| panic!("{name} in {text}")).trim().trim_end_matches(" kB").parse().unwrap()
        };
        let fds = fs::read_dir(format!("/proc/{service}/fd")).unwrap().count() as u64;
        let (folder, names) = memory_cgroup(service);
        let stat = fs::read_to_string(folder.join("memory.stat")).unwrap();
        let mut memory: BTreeMap<_, _> =
            names[1..].iter().map(|(ours, theirs)| (*ours, number(&stat, theirs))).collect();
        let current = fs::read_to_string(folder.join(names[0].1)).unwrap();
        memory.insert("current", current.trim().parse().unwrap());
        Self { threads: number(&status, "Threads"), fds, swap: 1024 * number(&status, "VmSwap"), memory }
    }
}

/// The folder of the cgroup that has the process's memory, and the names there of what version 2 calls otherwise.
fn memory_cgroup(service: Pid) -> (PathBuf, [(&'static str, &'static str); 4]) {
    let cgroups = fs::read_to_string(format!("/proc/{service}/cgroup")).unwrap();
    let of = |controller: &str| {
        cgroups.lines().find_map(|line| line.split_once(controller)).map(|(_, path)| path.to_owned())
    };
    match of(":memory:/") {
        Some(path) => {
            let names = [
                ("current", "memory.usage_in_bytes"),
                ("anon", "total_rss"),
                ("file", "total_cache"),
                ("shmem", "total_shmem"),
            ];
            (Path::new("/sys/fs/cgroup/memory").join(path), names)
        }
        None => {
            let names = [("current", "memory.current"), ("anon", "anon"), ("file", "file"), ("shmem", "shmem")];
            (Path::new("/sys/fs/cgroup").join(of("0::/").unwrap()), names)
        }
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
    measure_with(port, flags, tags, act, |_| ())
}

/// The same, with a look at the process after that.
fn measure_with(port: u16, flags: &[&str], tags: &str, act: impl Fn(u16), look: impl Fn(Pid)) -> (Evidence, Truth) {
    let directory = tempfile::tempdir().unwrap();
    let plan = plan(port, directory.path());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let build = build(flags, tags);
    let builder = Builder { tools: &build.dir, account: None, directory: directory.path() };
    let built = runtime.block_on(builder.build(&build, Platform::host(), "uaa", &Cancel::never())).unwrap();
    assert_eq!(built, plan.executable);
    run_with(&plan, directory.path(), act, look)
}

/// Carries the plan out. Before the last reading, it calls `act`, asks the service for its figures, and then leaves the
/// service alone.
fn run(plan: &Plan, directory: &Path, act: impl Fn(u16)) -> (Evidence, Truth) {
    run_with(plan, directory, act, |_| ())
}

/// The same, with a look at the process after that.
fn run_with(plan: &Plan, directory: &Path, act: impl Fn(u16), look: impl Fn(Pid)) -> (Evidence, Truth) {
    let ReadyBy::Http(url) = &plan.ready.by else { panic!("{plan:?}") };
    let port = url.split([':', '/']).find_map(|part| part.parse().ok()).unwrap();
    let truth = RefCell::new(None);
    let progress = |progress| {
        if progress == RunEvent::Stopping {
            act(port);
            let service = service(&plan.executable);
            truth.replace(Some(uaa::truth_at_rest(service, port)));
            look(service);
        }
    };
    let files = logs(directory);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let evidence = runtime.block_on(agent::run(
        plan,
        &files,
        agent::Driver::Here(agent::load::start),
        &progress,
        &Cancel::never(),
    ));
    (evidence.unwrap_or_else(|error| panic!("{error:?}")), truth.take().unwrap())
}

fn logs(directory: &Path) -> RunLogs {
    RunLogs::of(&memgate_testing::plan(), |name| directory.join(format!("{name}.log")))
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
        pass_env: Vec::new(),
    }
}

fn request(method: &str, url: String) -> Request {
    Request { method: method.to_owned(), ..Request::get(url) }
}

fn command(words: &[&str]) -> Load {
    Load::Command(CommandLoad {
        words: words.iter().copied().map(str::to_owned).collect(),
        env: BTreeMap::new(),
        results: None,
    })
}

fn plan(port: u16, directory: &Path) -> Plan {
    let login = request("POST", format!("http://127.0.0.1:{port}/login"));
    Plan {
        service: "uaa".to_owned(),
        platform: Platform::host(),
        run: 1,
        baseline: "uaa".to_owned(),
        executable: directory.join("uaa"),
        args: ["-debug-memgate", "-expiry-interval=1h", "-listen", &format!("127.0.0.1:{port}")]
            .map(str::to_owned)
            .to_vec(),
        watch: None,
        env: BTreeMap::new(),
        directory: directory.to_path_buf(),
        account: None,
        ready: Ready { by: ReadyBy::Http(format!("http://127.0.0.1:{port}/healthz")), timeout_ms: 60_000 },
        memory_max: None,
        stdin: Stdin::Empty,
        secrets: Secrets::default(),
        sidecars: Vec::new(),
        before: Vec::new(),
        load: Load::Http(HttpLoad {
            rate_per_second: 300.0,
            connections: 8,
            timeout_ms: 60_000,
            transport: Transport::default(),
            rows: None,
            requests: vec![login],
        }),
        phases: PhaseLengths { warmup: Length::Ms(300), measure: Length::Ms(500), drain_ms: 500, drain_max_ms: 500 },
        seed: 1,
        stop_timeout_ms: 5000,
        collecting: Collecting::default(),
    }
}
