//! The identity service of the fixtures, its own figures, and a collector's recorder on it without an agent. The tests
//! measure step by step, so nothing depends on how long a step takes.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
};

use memgate_agent::{
    Clock,
    collect::{Boundary, Elsewhere, Options, Recorder},
};
use memgate_evidence::{Code, Exactness, Frame, GoMemory, Series, Signal, Signals, StopReason, platform::Platform};
use memgate_goexe::GoExe;
use memgate_testing::go::newest;
use nix::{
    sys::{
        ptrace, signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{
    busy::{self, HeldUp},
    go, repository,
};

/// The service's executable, built by the newest Go. Each process builds it once.
pub fn uaa() -> PathBuf {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
        let executable = repository().join("target/tmp/uaa");
        go::build(&newest(), &repository().join("fixtures-go"), &["./cmd/uaa"], Platform::host(), false, &executable);
        executable
    });
    BUILT.clone()
}

/// The service's own figures: `GET /debug/runtime` of fixtures-go/cmd/uaa, or a line of its log.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Truth {
    pub pause_total_ns: u64,
    #[serde(rename = "NumGC")]
    pub num_gc: u64,
    pub total_alloc: u64,
    pub mallocs: u64,
    /// Without the goroutine that answered the request, which ends with the answer.
    pub num_goroutine: u64,
    pub live_heap: u64,
    pub heap_inuse: u64,
    pub stack_inuse: u64,
    /// `MSpanSys + MCacheSys + BuckHashSys + GCSys + OtherSys + StackSys - StackInuse`.
    pub runtime_other: u64,
    pub heap_goal: u64,
    pub heap_free: u64,
    #[serde(rename = "GCCPUSeconds")]
    pub gc_cpu_seconds: f64,
    #[serde(rename = "TotalCPUSeconds")]
    pub total_cpu_seconds: f64,
    #[serde(rename = "GCIdleCPUSeconds")]
    pub gc_idle_cpu_seconds: f64,
    #[serde(rename = "IdleCPUSeconds")]
    pub idle_cpu_seconds: f64,
    #[serde(rename = "GCPauses")]
    pub gc_pauses: Histogram,
    /// `None` in Go 1.21.
    pub other_pauses: Option<Histogram>,
    /// Goroutines that the service has parked.
    pub parked: u64,
    /// Bytes that the service has mapped, touched and forgotten.
    pub mapped: u64,
}

/// A histogram of the runtime.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Histogram {
    /// The number of values.
    pub total: u64,
}

/// The service's figures for one place that allocates objects of one size, from `GET /debug/memprofile`.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ProfileSite {
    pub function: String,
    pub file: String,
    pub line: u32,
    pub size: u64,
    pub allocs: u64,
    pub frees: u64,
}

/// A service with a recorder attached before its first instruction.
pub struct Watched {
    service: Service,
    pub recorder: Recorder,
    port: u16,
}

/// A process that is killed when this is dropped.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Watched {
    /// Starts the identity service on this port. The calling thread must also drop it.
    pub fn start(executable: &Path, port: u16, godebug: &str) -> Self {
        let mut command = Command::new(executable);
        let address = format!("127.0.0.1:{port}");
        command.args(["-debug-memgate", "-session-ttl=1h", "-expiry-interval=1h", "-listen", &address]);
        command.env_clear().env("GODEBUG", godebug);
        Self::launch(command, port)
    }

    /// Starts a Go service that listens on this port. The calling thread must also drop it.
    pub fn launch(command: Command, port: u16) -> Self {
        // The buffer has room for every allocation of a start or an answer, because these services sample all of them.
        Self::launch_with(command, port, Options { buffer_bytes: 16 << 20, ..Options::default() })
    }

    /// Starts a Go service that listens on this port, with this recorder. The calling thread must also drop it.
    pub fn launch_with(mut command: Command, port: u16, options: Options) -> Self {
        let exe = GoExe::open(Path::new(command.get_program())).unwrap_or_else(|error| panic!("{error}"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec the closure makes only one system call.
        unsafe { command.pre_exec(|| ptrace::traceme().map_err(std::io::Error::from)) };
        let service = Service(command.spawn().unwrap());
        let pid = Pid::from_raw(service.0.id().cast_signed());
        assert!(matches!(waitpid(pid, None).unwrap(), WaitStatus::Stopped(_, signal::Signal::SIGTRAP)), "the exec");
        let recorder = Recorder::attach(&exe, pid, Clock::start().unwrap(), options);
        let recorder = recorder.unwrap_or_else(|error| panic!("{error}"));
        ptrace::detach(pid, None).unwrap();
        wait_until_it_listens(port);
        let mut watched = Self { service, recorder, port };
        // Nothing has been read from the kernel's buffers yet. This reads the runtime's mappings so far.
        watched.recorder.sample_off_heap();
        watched.recorder.sample();
        watched
    }

    /// The service's answer.
    pub fn get(&mut self, path: &str) -> String {
        let answer = exchange(self.port, "GET", path);
        self.recorder.sample();
        answer
    }

    /// Makes the service do something known, and reads the collectors.
    pub fn post(&mut self, path: &str) {
        post(self.port, path);
        self.recorder.sample();
    }

    /// Logs in this many users.
    pub fn log_in(&mut self, users: u32) {
        for _ in 0..users {
            exchange(self.port, "POST", "/login");
            self.recorder.sample();
        }
    }

    /// Waits until the goroutines of the last connections have ended.
    pub fn rest(&mut self) {
        busy::until_at_rest(self.pid());
        self.recorder.sample();
    }

    /// The service's own heap figures.
    pub fn profile(&mut self) -> Vec<ProfileSite> {
        parsed(&self.get("/debug/memprofile"))
    }

    /// The service's own figures when it is at rest, so that the goroutines of earlier connections do not count.
    pub fn truth(&mut self) -> Truth {
        let truth = truth_at_rest(self.pid(), self.port);
        self.recorder.sample();
        truth
    }

    /// The service's process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.service.0.id().cast_signed())
    }

    /// Ends the recording of a service that has ended.
    pub fn finish_dead(mut self) -> (Signals, Code) {
        self.recorder.reach(Boundary::Drained);
        self.into_signals()
    }

    /// Ends the recording of a service that is quiet.
    pub fn finish(mut self) -> (Signals, Code) {
        self.rest();
        self.recorder.reach(Boundary::Drained);
        self.recorder.sample_off_heap();
        self.into_signals()
    }

    fn into_signals(self) -> (Signals, Code) {
        drop(self.service);
        let nothing = || "there is no agent".to_owned();
        self.recorder.into_signals(Elsewhere { requests: Err(nothing()), oom_kills: Err(nothing()) })
    }
}

/// Compares the runtime's own totals that every version has: pauses, cycles, live heap, allocations and goroutines.
#[track_caller]
pub fn assert_equal(signals: &Signals, truth: &Truth) {
    assert_eq!((&signals.gc_pauses.exactness, signals.gc_pauses.lost), (&Exactness::Exact, 0));
    let pauses = &signals.gc_pauses.data.duration_ns;
    assert_eq!(pauses.iter().sum::<u64>(), truth.pause_total_ns, "PauseTotalNs");
    assert_eq!(pauses.len() as u64, truth.gc_pauses.total, "entries in /sched/pauses/total/gc:seconds");
    assert_eq!(signals.live_heap.data.value.len() as u64, truth.num_gc, "NumGC");
    assert_eq!(last(&signals.live_heap.data), truth.live_heap, "/gc/heap/live:bytes");
    let allocated = (last(&signals.alloc_bytes.data), last(&signals.alloc_objects.data));
    assert_eq!(allocated, (truth.total_alloc, truth.mallocs), "TotalAlloc and Mallocs");
    assert_eq!(last(&signals.goroutines.data), truth.num_goroutine, "NumGoroutine");
}

/// Compares the runtime's memory by use and the GC's goal. After its answer, the runtime returns free memory to the
/// system, and may take another span or two for stacks, which a goal by the memory limit follows.
#[track_caller]
pub fn assert_go_memory(signals: &Signals, truth: &Truth) {
    /// Spans of stacks (`_StackCacheSize`, stack.go).
    const TWO_SPANS: u64 = 2 * (32 << 10);
    assert_eq!(signals.go_memory.exactness, Exactness::Sampled);
    let GoMemory { at_ns: _, heap_in_use, heap_free, heap_goal, heap_live, stacks, runtime_other } =
        &signals.go_memory.data;
    let last = |column: &[u64]| *column.last().unwrap();
    assert_eq!(last(heap_in_use), truth.heap_inuse, "HeapInuse");
    assert_eq!(last(runtime_other), truth.runtime_other, "the rest of Sys");
    let taken = last(stacks).abs_diff(truth.stack_inuse);
    assert!(taken <= TWO_SPANS, "{} and StackInuse {}", last(stacks), truth.stack_inuse);
    let lower = last(heap_goal).abs_diff(truth.heap_goal);
    assert!(lower == 0 || lower == taken, "{} and /gc/heap/goal:bytes {}", last(heap_goal), truth.heap_goal);
    let most = truth.heap_free + TWO_SPANS;
    assert!(last(heap_free) <= most, "{} of {} free bytes", last(heap_free), truth.heap_free);
    assert!((truth.live_heap..=truth.heap_inuse).contains(&last(heap_live)), "{}", last(heap_live));
}

/// Compares the runtime's own seconds with its own nanoseconds.
#[track_caller]
pub fn assert_cpu_time(signals: &Signals, truth: &Truth) {
    let gc_cpu = &signals.gc_cpu;
    assert_eq!(gc_cpu.exactness, Exactness::Sampled);
    let seconds = |column: &[u64]| *column.last().unwrap() as f64 / 1e9;
    let (gc, total) = (seconds(&gc_cpu.data.gc_ns), seconds(&gc_cpu.data.total_ns));
    assert_eq!((gc, total), (truth.gc_cpu_seconds, truth.total_cpu_seconds), "/cpu/classes/…:cpu-seconds");
    let (gc_idle, idle) = (seconds(&gc_cpu.data.gc_idle_ns), seconds(&gc_cpu.data.idle_ns));
    assert_eq!(
        (gc_idle, idle),
        (truth.gc_idle_cpu_seconds, truth.idle_cpu_seconds),
        "idle, /cpu/classes/…:cpu-seconds"
    );
    assert!(gc > 0.0 && total > gc && idle > 0.0 && gc >= gc_idle);
}

/// Checks that every stop of the world is a pause, with its reason. Go 1.21 gives no reasons and records only GC
/// pauses.
#[track_caller]
pub fn assert_stops(signals: &Signals, truth: &Truth) {
    let (stops, other) = (&signals.world_stops, &signals.other_pauses);
    if truth.other_pauses.is_none() {
        assert_missing(stops, "Go 1.21");
        assert_missing(other, "Go 1.21");
        return;
    }
    assert_exact(stops);
    assert_exact(other);
    let stops = &stops.data;
    let (mut of_gc, mut of_others, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
    for (reason, duration) in stops.reason.iter().zip(&stops.duration_ns) {
        match reason {
            StopReason::GcMarkTermination | StopReason::GcSweepTermination => {
                of_gc.push(*duration);
                reasons.push(*reason);
            }
            // Each answer of /debug/runtime, and each line of the log, is one stop.
            StopReason::ReadMemStats => of_others.push(*duration),
            other => panic!("the service has no reason for {other:?}"),
        }
    }
    assert_eq!((&of_gc, &of_others), (&signals.gc_pauses.data.duration_ns, &other.data.duration_ns));
    // A cycle begins with sweep termination and ends with mark termination, sometimes with more than one.
    assert_eq!(reasons.iter().filter(|reason| **reason == StopReason::GcSweepTermination).count() as u64, truth.num_gc);
    assert_eq!(reasons[0], StopReason::GcSweepTermination);
    assert_eq!(reasons.last(), Some(&StopReason::GcMarkTermination));
    let twice = reasons.windows(2).find(|pair| **pair == [StopReason::GcSweepTermination; 2]);
    assert_eq!(twice, None, "a cycle has no mark termination");
    // A stop with its hidden tail begins after the previous one ends.
    let mut end_of_last = 0;
    for ((end, duration), tail) in stops.at_ns.iter().zip(&stops.duration_ns).zip(&stops.tail_ns) {
        assert!(end - duration - tail >= end_of_last, "{tail} ns of tail at {end}");
        end_of_last = *end;
    }
}

/// Checks that the goroutines parked by the service are found at their `go` statement, and that the total is the
/// runtime's. Returns how many of them there were before the load and under it.
#[track_caller]
pub fn assert_goroutine_sites(signals: &Signals, code: &Code, truth: &Truth) -> (u64, u64) {
    assert_exact(&signals.goroutine_sites);
    let sites = &signals.goroutine_sites.data;
    let source = std::fs::read_to_string(repository().join("fixtures-go/cmd/uaa/debug.go")).unwrap();
    let line = source.lines().zip(1_u32..).find(|(line, _)| line.trim().starts_with("go parkUntil(")).unwrap().1;
    let mut of_services = 0;
    let mut parked = Vec::new();
    let mut earlier = (0, 0);
    for (index, left) in sites.left.iter().enumerate() {
        let place = |stack: u32| code.stack(stack).next();
        let started = place(sites.started[index]).map_or("", |frame| frame.function.as_str());
        if !started.starts_with("runtime.") || started == "runtime.main" {
            of_services += left;
        }
        if let Some(Frame { function, file, line, .. }) = place(sites.created[index])
            && function == "main.(*debug).goroutines"
        {
            // The compiler wraps a call with arguments in a function without arguments: `gowrap1`, or `func1` in Go
            // 1.21.
            assert!(started.starts_with("main.(*debug).goroutines."), "{started}");
            parked.push((file.rsplit('/').next().unwrap(), *line, *left));
            earlier = (sites.before[index], sites.loaded[index]);
        }
    }
    assert_eq!(parked, [("debug.go", line, truth.parked)]);
    assert_eq!(of_services, truth.num_goroutine, "NumGoroutine");
    earlier
}

/// Bytes of off-heap memory at the end of the measuring phase that belong to the code that forgets mappings.
#[track_caller]
pub fn attributed_to_forgotten_mappings(signals: &Signals, code: &Code) -> u64 {
    let touched = &signals.offheap_sites;
    assert_eq!(touched.exactness, Exactness::Sampled);
    let names = |stack: &u32| code.stack(*stack).any(|frame| frame.function.ends_with("defect.MapAndForget"));
    let known = touched.data.stack.iter().zip(&touched.data.end_bytes).filter(|(stack, _)| names(stack));
    known.map(|(_, bytes)| bytes).sum()
}

#[track_caller]
pub fn assert_exact<T>(signal: &Signal<T>) {
    assert_eq!((&signal.exactness, signal.lost), (&Exactness::Exact, 0), "{}", signal.source);
}

#[track_caller]
pub fn assert_missing<T>(signal: &Signal<T>, why: &str) {
    let Exactness::Missing { reason } = &signal.exactness else {
        panic!("{}: {:?}", signal.source, signal.exactness);
    };
    assert!(reason.contains(why), "{reason}");
}

pub fn last(series: &Series) -> u64 {
    *series.value.last().unwrap()
}

/// The last value minus the first.
pub fn left(series: &Series) -> i64 {
    last(series).cast_signed() - series.value[0].cast_signed()
}

pub fn wait_until_it_listens(port: u16) {
    busy::until(&format!("the service listens on port {port}"), || TcpStream::connect(("127.0.0.1", port)).is_ok());
}

/// The service's own figures.
pub fn truth(port: u16) -> Truth {
    // This request has a body that is not read. So it has no goroutine that waits for the client to disconnect
    // (net/http, `startBackgroundRead`). Such a goroutine must end when the connection is hijacked, and may still
    // count.
    answered(&request(port, "GET", "/debug/runtime", "x"))
}

/// The same, with the service at rest before and after. The figures stay valid until the next request.
#[track_caller]
pub fn truth_at_rest(service: Pid, port: u16) -> Truth {
    let threads = || {
        let threads = std::fs::read_dir(format!("/proc/{service}/task")).unwrap().flatten();
        let mut threads: Vec<i32> = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok()).collect();
        threads.sort_unstable();
        threads
    };
    busy::again(|| {
        busy::until_at_rest(service);
        let before = threads();
        let truth = truth(port);
        busy::until_at_rest(service);
        HeldUp::thread(&before, &threads()).map_or(Ok(truth), Err)
    })
}

/// The figures in the answer of `/debug/runtime`, without the goroutine that answers.
fn answered(body: &str) -> Truth {
    let truth: Truth = parsed(body);
    Truth { num_goroutine: truth.num_goroutine - 1, ..truth }
}

/// The figures in the service's log, oldest first.
pub fn logged(log: &str) -> Vec<Truth> {
    log.lines().filter(|line| line.starts_with('{')).map(parsed).collect()
}

fn parsed<T: serde::de::DeserializeOwned>(body: &str) -> T {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// Makes the service do something known.
pub fn post(port: u16, path: &str) {
    let answer = exchange(port, "POST", path);
    assert!(answer.starts_with("done"), "{path}: {answer}");
}

/// The body of the answer to a request on its own connection.
pub fn exchange(port: u16, method: &str, path: &str) -> String {
    request(port, method, path, "")
}

fn request(port: u16, method: &str, path: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let length = body.len();
    let request = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.split(' ').nth(1) == Some("200"), "{method} {path}: {head}");
    body.to_owned()
}
