//! Throughput of a service with and without memgate's collectors, in interleaved pairs.
//!
//! `cargo xtask bench overhead` builds the service and runs this. One process of the service lives through all pairs; each pair
//! drives it as fast as it answers, once with the collectors attached and once without, in an order that alternates.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a benchmark prints its figures, and ends where it cannot"
)]

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use clap::Parser;
use memgate::{
    agent::{
        Clock,
        collect::{Recorder, Sampler},
    },
    goexe::GoExe,
};
use nix::unistd::Pid;
use statrs::distribution::{ContinuousCDF as _, StudentsT};

#[derive(Parser)]
struct Options {
    /// The service's executable: `uaa` of fixtures-go.
    #[arg(long)]
    service: PathBuf,
    /// How many pairs.
    #[arg(long, default_value_t = 30)]
    pairs: u32,
    /// Seconds for each half of a pair.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Connections that drive the service.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

const ADDRESS: &str = "127.0.0.1:18099";

fn main() {
    let options = Options::parse();
    let exe = GoExe::open(&options.service).unwrap_or_else(|error| panic!("{error}"));
    let service = RunningService::start(&options.service);
    let half = Duration::from_secs_f64(options.seconds);
    throughput(options.connections, half);
    let mut log_ratios = Vec::new();
    println!("pair  without/s     with/s  ratio");
    for pair in 0..options.pairs {
        let with = || {
            let sampler = service.attach(&exe);
            let rate = throughput(options.connections, half);
            drop(sampler.finish());
            rate
        };
        let without = || throughput(options.connections, half);
        let (with, without) = if pair % 2 == 0 {
            let without = without();
            (with(), without)
        } else {
            (with(), without())
        };
        println!("{:4} {without:10.0} {with:10.0} {:6.4}", pair + 1, with / without);
        log_ratios.push((with / without).ln());
    }
    let (mean, half_width) = mean_and_half_width(&log_ratios);
    println!(
        "throughput with / without: {:.4}, 95 % interval {:.4} to {:.4}, {} pairs",
        mean.exp(),
        (mean - half_width).exp(),
        (mean + half_width).exp(),
        options.pairs
    );
}

/// The mean and half of its 95 % interval (Student's t).
fn mean_and_half_width(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let t = StudentsT::new(0.0, 1.0, n - 1.0).expect("at least two pairs").inverse_cdf(0.975);
    (mean, t * (variance / n).sqrt())
}

struct RunningService(Child);

impl RunningService {
    fn start(executable: &PathBuf) -> Self {
        let child = Command::new(executable).args(["-listen", ADDRESS]).stdout(Stdio::null()).spawn();
        let service = Self(child.expect("the service starts"));
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(ADDRESS).is_err() {
            assert!(Instant::now() < deadline, "the service does not listen at {ADDRESS}");
            std::thread::sleep(Duration::from_millis(20));
        }
        service
    }

    fn attach(&self, exe: &GoExe) -> Sampler {
        let pid = Pid::from_raw(self.0.id().cast_signed());
        let clock = Clock::start().expect("a monotonic clock");
        let recorder = Recorder::attach(exe, pid, clock).unwrap_or_else(|error| panic!("{error}"));
        Sampler::start(recorder).unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for RunningService {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Requests answered per second when each of the connections asks again as soon as it is answered.
fn throughput(connections: usize, length: Duration) -> f64 {
    let (over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut connection = Connection::open();
                while !over.load(Ordering::Relaxed) {
                    connection.exchange();
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(length);
        over.store(true, Ordering::Relaxed);
    });
    answered.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

/// A connection that logs in over and over: the cheapest client there is, so that the service is what is measured.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    fn open() -> Self {
        let stream = TcpStream::connect(ADDRESS).expect("the service listens");
        stream.set_nodelay(true).expect("a TCP option");
        Self { stream, buffer: vec![0; 1 << 16] }
    }

    fn exchange(&mut self) {
        let request = format!("POST /login HTTP/1.1\r\nHost: {ADDRESS}\r\nContent-Length: 0\r\n\r\n");
        self.stream.write_all(request.as_bytes()).expect("the service reads");
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

/// The length of the response whose start this is, once its head is there.
fn response_length(start: &[u8]) -> Option<usize> {
    let head_length = start.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&start[..head_length]).expect("a head of ASCII");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    Some(head_length + length.expect("a response with its length"))
}
