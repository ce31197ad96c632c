//! The identity service of the fixtures, what it says of itself, and a collector's recorder on it without an agent: what is
//! measured is then done step by step, and nothing depends on how long a step takes.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
    time::{Duration, Instant},
};

use super::{go::toolchains, repository};
use memgate::{
    agent::{
        Clock,
        collect::{Elsewhere, Options, Recorder},
    },
    evidence::{Code, Exactness, Series, Signals},
    goexe::GoExe,
    platform::Platform,
};
use nix::{
    sys::{
        ptrace,
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// The service's executable as the newest Go builds it, built once by each process.
pub fn uaa() -> PathBuf {
    static BUILT: LazyLock<PathBuf> = LazyLock::new(|| {
        let executable = repository().join("target/tmp/uaa");
        let toolchain = toolchains().pop().unwrap();
        toolchain.build(&repository().join("fixtures-go"), &["./cmd/uaa"], Platform::host(), false, &executable);
        executable
    });
    BUILT.clone()
}

/// The service's own figures, `GET /debug/runtime` of fixtures-go/cmd/uaa.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Truth {
    pub pause_total_ns: u64,
    #[serde(rename = "NumGC")]
    pub num_gc: u64,
    pub total_alloc: u64,
    pub mallocs: u64,
    pub num_goroutine: u64,
    pub live_heap: u64,
    #[serde(rename = "GCCPUSeconds")]
    pub gc_cpu_seconds: f64,
    #[serde(rename = "TotalCPUSeconds")]
    pub total_cpu_seconds: f64,
    #[serde(rename = "GCPauses")]
    pub gc_pauses: Histogram,
    /// Go 1.21 has none.
    pub other_pauses: Option<Histogram>,
}

/// A histogram of the runtime.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Histogram {
    /// How many values it holds.
    pub total: u64,
}

/// What the service says that one place allocated of one size, `GET /debug/memprofile`.
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

/// A service with a recorder on it from before its first instruction on.
pub struct Watched {
    service: Service,
    pub recorder: Recorder,
    port: u16,
}

/// A process that is killed in the end.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Watched {
    /// Starts the identity service on this port. Must be dropped by the thread that calls it.
    pub fn start(executable: &Path, port: u16, godebug: &str) -> Self {
        let mut command = Command::new(executable);
        let address = format!("127.0.0.1:{port}");
        command.args(["-debug-memgate", "-session-ttl=1h", "-expiry-interval=1h", "-listen", &address]);
        command.env_clear().env("GODEBUG", godebug);
        Self::launch(command, port)
    }

    /// Starts a Go service that listens on this port. Must be dropped by the thread that calls it.
    pub fn launch(command: Command, port: u16) -> Self {
        // Room for every allocation of a start or an answer: services here sample them all.
        Self::launch_with(command, port, Options { buffer_bytes: 16 << 20, ..Options::default() })
    }

    /// Starts a Go service that listens on this port, with such a recorder. Must be dropped by the thread that calls it.
    pub fn launch_with(mut command: Command, port: u16, options: Options) -> Self {
        let exe = GoExe::open(Path::new(command.get_program())).unwrap_or_else(|error| panic!("{error}"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec nothing but a system call is made.
        unsafe { command.pre_exec(|| ptrace::traceme().map_err(std::io::Error::from)) };
        let service = Service(command.spawn().unwrap());
        let pid = Pid::from_raw(service.0.id().cast_signed());
        assert!(matches!(waitpid(pid, None).unwrap(), WaitStatus::Stopped(_, Signal::SIGTRAP)), "the exec");
        let recorder = Recorder::attach(&exe, pid, Clock::start().unwrap(), options);
        let recorder = recorder.unwrap_or_else(|error| panic!("{error}"));
        ptrace::detach(pid, None).unwrap();
        wait_until_it_listens(port);
        let mut watched = Self { service, recorder, port };
        watched.recorder.sample();
        watched
    }

    /// What the service answers.
    pub fn get(&mut self, path: &str) -> String {
        let answer = exchange(self.port, "GET", path);
        self.recorder.sample();
        answer
    }

    /// Has the service do something known, and takes down what the collectors have of it.
    pub fn post(&mut self, path: &str) {
        post(self.port, path);
        self.recorder.sample();
    }

    /// Lets so many users in.
    pub fn log_in(&mut self, users: u32) {
        for _ in 0..users {
            exchange(self.port, "POST", "/login");
            self.recorder.sample();
        }
    }

    /// Returns when the goroutines of the last connections are gone.
    pub fn rest(&mut self) {
        std::thread::sleep(Duration::from_millis(100));
        self.recorder.sample();
    }

    /// What the service says of its heap.
    pub fn profile(&mut self) -> Vec<ProfileSite> {
        parsed(&self.get("/debug/memprofile"))
    }

    /// What the service says of itself.
    pub fn truth(&mut self) -> Truth {
        parsed(&self.get("/debug/runtime"))
    }

    /// The service's process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.service.0.id().cast_signed())
    }

    /// Ends the recording of a service that has ended.
    pub fn finish_dead(mut self) -> (Signals, Code) {
        self.recorder.cross_check();
        self.into_signals()
    }

    /// Ends the recording of a service that is quiet.
    pub fn finish(mut self) -> (Signals, Code) {
        self.rest();
        self.recorder.cross_check();
        self.recorder.sample_off_heap();
        self.into_signals()
    }

    fn into_signals(self) -> (Signals, Code) {
        drop(self.service);
        let nothing = || "there is no agent".to_owned();
        self.recorder.into_signals(Elsewhere { requests: Err(nothing()), oom_kills: Err(nothing()) })
    }
}

/// What the runtime's own totals tell of every version: pauses, cycles, live heap, allocations and goroutines.
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
    // The goroutine that answered was the request's own, and is gone.
    assert_eq!(last(&signals.goroutines.data), truth.num_goroutine - 1, "NumGoroutine");
}

pub fn last(series: &Series) -> u64 {
    *series.value.last().unwrap()
}

/// Last less first.
pub fn left(series: &Series) -> i64 {
    last(series).cast_signed() - series.value[0].cast_signed()
}

pub fn wait_until_it_listens(port: u16) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline, "nobody listens on port {port}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The service's figures of itself.
pub fn truth(port: u16) -> Truth {
    parsed(&exchange(port, "GET", "/debug/runtime"))
}

fn parsed<T: serde::de::DeserializeOwned>(body: &str) -> T {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

/// Has the service do something known.
pub fn post(port: u16, path: &str) {
    let answer = exchange(port, "POST", path);
    assert!(answer.starts_with("done"), "{path}: {answer}");
}

/// The body of the answer to a request on a connection of its own.
pub fn exchange(port: u16, method: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let request = format!("{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.split(' ').nth(1) == Some("200"), "{method} {path}: {head}");
    body.to_owned()
}
