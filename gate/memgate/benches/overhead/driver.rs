//! A running service and a client that costs as little as possible, so that the service's own cost counts.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use nix::{
    sys::{
        prctl, ptrace,
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// The results of a service under load.
pub(crate) struct Driven {
    /// How long the load lasted.
    pub(crate) length: Duration,
    /// Latencies of the answered requests, ns.
    pub(crate) latencies: Histogram<u64>,
}

impl Driven {
    pub(crate) fn nothing() -> Self {
        Self { length: Duration::ZERO, latencies: histogram() }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.length += other.length;
        self.latencies.add(&other.latencies).expect("histograms of one range");
    }

    /// Answered requests per second.
    pub(crate) fn throughput(&self) -> f64 {
        self.latencies.len() as f64 / self.length.as_secs_f64()
    }

    /// 99th percentile of the latencies, ns.
    pub(crate) fn p99(&self) -> f64 {
        self.latencies.value_at_quantile(0.99) as f64
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1000, 10_000_000_000, 3).expect("valid bounds")
}

/// A service that listens on its own port; killed when dropped.
pub(crate) struct RunningService {
    child: Child,
    executable: PathBuf,
    address: String,
}

impl RunningService {
    /// Starts the service and returns when it listens. `watch` is called before the service executes anything.
    pub(crate) fn start<W>(executable: &Path, port: u16, argument: &str, watch: impl FnOnce(Pid) -> W) -> (Self, W) {
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new(executable);
        command.args(["-listen", &address, argument]).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec only system calls are made.
        unsafe {
            command.pre_exec(|| {
                prctl::set_pdeathsig(Signal::SIGKILL)?;
                ptrace::traceme().map_err(std::io::Error::from)
            })
        };
        let child = command.spawn().expect("the service starts");
        let mut service = Self { child, executable: executable.to_path_buf(), address };
        assert!(matches!(waitpid(service.pid(), None), Ok(WaitStatus::Stopped(_, Signal::SIGTRAP))), "the exec");
        let watched = watch(service.pid());
        ptrace::detach(service.pid(), None).expect("the service resumes");
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(&service.address).is_err() {
            assert!(Instant::now() < deadline, "the service does not listen at {}", service.address);
            std::thread::sleep(Duration::from_millis(20));
        }
        // Another process may be listening.
        std::thread::sleep(Duration::from_millis(100));
        assert!(matches!(service.child.try_wait(), Ok(None)), "the service ended: is its port taken?");
        (service, watched)
    }

    pub(crate) fn executable(&self) -> &Path {
        &self.executable
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// The number of connections to it.
    pub(crate) fn connect(&self, connections: usize) -> Client {
        Client((0..connections).map(|_| Connection::open(&self.address)).collect())
    }
}

/// Connections that one thread drives together.
pub(crate) struct Client(Vec<Connection>);

impl Client {
    /// Each connection sends its next request as soon as it has the answer.
    pub(crate) fn drive(&mut self, length: Duration) -> Driven {
        let over = AtomicBool::new(false);
        let start = Instant::now();
        let latencies = std::thread::scope(|scope| {
            let threads: Vec<_> =
                self.0.iter_mut().map(|connection| scope.spawn(|| connection.ask_until(&over))).collect();
            std::thread::sleep(length);
            over.store(true, Ordering::Relaxed);
            let mut all = histogram();
            for thread in threads {
                all.add(thread.join().expect("a client that ends")).expect("histograms of one range");
            }
            all
        });
        Driven { length: start.elapsed(), latencies }
    }
}

impl Drop for RunningService {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that logs in over and over.
struct Connection {
    stream: TcpStream,
    request: String,
    buffer: Vec<u8>,
}

impl Connection {
    fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the service listens");
        stream.set_nodelay(true).expect("a TCP option");
        let request = format!("POST /login HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n");
        Self { stream, request, buffer: vec![0; 1 << 16] }
    }

    fn ask_until(&mut self, over: &AtomicBool) -> Histogram<u64> {
        let mut latencies = histogram();
        while !over.load(Ordering::Relaxed) {
            let start = Instant::now();
            self.exchange();
            latencies.saturating_record(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
        latencies
    }

    fn exchange(&mut self) {
        self.stream.write_all(self.request.as_bytes()).expect("the service reads");
        let mut read = 0;
        loop {
            read += match self.stream.read(&mut self.buffer[read..]) {
                Ok(count) if count > 0 => count,
                other => panic!("the service closed the connection: {other:?}"),
            };
            if let Some(length) = response_length(&self.buffer[..read])
                && read >= length
            {
                return;
            }
        }
    }
}

/// The length of the response that starts like this, when its head is complete.
fn response_length(start: &[u8]) -> Option<usize> {
    let head_length = start.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&start[..head_length]).expect("a head of ASCII");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    Some(head_length + length.expect("a response with its length"))
}
