//! What memgate's collectors cost a service, in interleaved pairs; beside them, what a probe on the allocation path costs.
//!
//! `cargo xtask bench overhead` builds the service and runs this. Two processes of one executable live through all pairs. In
//! a pair one of them is watched and the other is not, and short slices of load alternate between the two, so that whatever
//! else the machine does meets both alike; from pair to pair they change places, so that what tells two processes apart
//! cancels out. memgate's sampler runs during the slices of the watched process alone, as it would in a run.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a benchmark prints its figures, and ends where it cannot"
)]

mod driver;
mod statistics;

use std::{
    io::BufRead as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Parser;
use driver::{Driven, RunningService};
use memgate::{
    agent::{
        Clock,
        collect::{Options as CollectOptions, Recorder, Sampler},
    },
    goexe::GoExe,
};
use nix::unistd::Pid;
use statistics::{Pair, Ratios};

#[derive(Parser)]
struct Options {
    /// The service's executable: `uaa` of fixtures-go.
    #[arg(long)]
    service: PathBuf,
    /// Rounds of SHA-256 that each request costs the service beside its allocations.
    #[arg(long, default_value_t = 0)]
    hash_rounds: u64,
    /// How many pairs.
    #[arg(long, default_value_t = 30)]
    pairs: u32,
    /// Seconds of load for each half of a pair.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Connections that drive the service.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// bpftrace, to compare with; nothing is compared without it.
    #[arg(long)]
    bpftrace: Option<PathBuf>,
    /// The function of the allocation path that bpftrace probes.
    #[arg(long, default_value = "runtime.mallocgc")]
    function: String,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Slices of load alternate this fast.
const SLICE: Duration = Duration::from_millis(250);

fn main() {
    let options = Options::parse();
    let rounds = format!("-hash-rounds={}", options.hash_rounds);
    // Two files, for a probe lies on a file: bpftrace would slow both processes down.
    let copies = tempfile::tempdir().expect("a temporary directory");
    let services = [18098, 18099].map(|port| {
        let copy = copies.path().join(port.to_string());
        std::fs::copy(&options.service, &copy).expect("a copy of the service");
        RunningService::start(&copy, port, &rounds)
    });
    let started = Instant::now();
    let exes = services
        .each_ref()
        .map(|service| Arc::new(GoExe::open(service.executable()).unwrap_or_else(|error| panic!("{error}"))));
    println!("reading the executable took {:.1} ms", milliseconds(started) / 2.0);
    let half = Duration::from_secs_f64(options.seconds);
    for service in &services {
        service.drive(options.connections, half);
    }
    let (mut memgate, mut bpftrace) = (Ratios::default(), Ratios::default());
    println!("pair   without/s     with/s   ratio  p99 ratio");
    for pair in 0..options.pairs {
        let swapped = pair % 2 == 1;
        let [watched, other] = if swapped { [&services[1], &services[0]] } else { [&services[0], &services[1]] };
        let measured = with_memgate(&options, &exes[usize::from(swapped)], watched, other, pair == 0);
        println!("{:4}  {measured}", pair + 1);
        memgate.push(measured);
        if let Some(program) = &options.bpftrace {
            let probe = Bpftrace::attach(program, &options, watched);
            let measured = alternate(&options, half / 3, || watched.drive(options.connections, SLICE), other);
            drop(probe);
            println!("      {measured}  bpftrace");
            bpftrace.push(measured);
        }
    }
    println!("\nmemgate, every default collector: {memgate}");
    if options.bpftrace.is_some() {
        println!("bpftrace on {}: {bpftrace}", options.function);
    }
}

/// A pair with memgate's collectors; with `tell` also what attaching takes and how much is allocated.
fn with_memgate(
    options: &Options,
    exe: &Arc<GoExe>,
    watched: &RunningService,
    other: &RunningService,
    tell: bool,
) -> Pair {
    let (started, before) = (Instant::now(), memory());
    let clock = Clock::start().expect("a monotonic clock");
    let recorder = Recorder::attach(Arc::clone(exe), watched.pid(), clock, CollectOptions::default());
    let mut recorder = Some(recorder.unwrap_or_else(|error| panic!("{error}")));
    if tell {
        println!("attaching took {:.1} ms", milliseconds(started));
    }
    let watched_slice = || {
        let sampler =
            Sampler::start(recorder.take().expect("the recorder is back")).unwrap_or_else(|error| panic!("{error}"));
        let driven = watched.drive(options.connections, SLICE);
        recorder = Some(sampler.finish().unwrap_or_else(|error| panic!("{error}")));
        driven
    };
    let pair = alternate(options, Duration::from_secs_f64(options.seconds), watched_slice, other);
    if tell {
        let [process, kernel] = memory();
        println!(
            "the collectors take {:.1} MiB of this process and {:.1} MiB of the kernel's memory",
            (process.saturating_sub(before[0])) as f64 / 1024.0,
            (kernel.saturating_sub(before[1])) as f64 / 1024.0
        );
    }
    if tell && let Some(rate) = recorder.as_ref().and_then(Recorder::allocations_per_second) {
        println!("{rate:.0} allocations/s");
    }
    pair
}

/// Slices of the watched service and of the other in turn, `length` of each.
fn alternate(options: &Options, length: Duration, mut watched: impl FnMut() -> Driven, other: &RunningService) -> Pair {
    let (mut with, mut without) = (Driven::nothing(), Driven::nothing());
    while with.length < length {
        with.add(&watched());
        without.add(&other.drive(options.connections, SLICE));
    }
    Pair::of(&with, &without)
}

/// Resident memory of this process, and what the BPF maps that it has open take of the kernel's, KiB.
fn memory() -> [u64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let number = |line: &str| line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
    let resident = status.lines().find(|line| line.starts_with("VmRSS")).and_then(number).expect("VmRSS");
    let files = std::fs::read_dir("/proc/self/fdinfo").expect("procfs").flatten();
    let maps = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    let locked = maps.filter_map(|map| map.lines().find(|line| line.starts_with("memlock")).and_then(number));
    [resident, locked.sum::<u64>() / 1024]
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// A running bpftrace with one probe; ended when dropped.
struct Bpftrace(Child);

impl Bpftrace {
    /// Attaches and waits until the probe is there.
    fn attach(program: &Path, options: &Options, service: &RunningService) -> Self {
        let executable = service.executable();
        let script = format!(
            "BEGIN {{ printf(\"attached\\n\"); }} uprobe:{}:\"{}\" {{ @[ustack(3)] = count(); }} END {{ clear(@); }}",
            executable.display(),
            options.function
        );
        // bpftrace needs tracefs; in a mount namespace of its own it changes nothing on the machine.
        let mount = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing; exec \"$@\"";
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", mount, "sh"])
            .arg(program)
            .args(["-p", &service.pid().to_string(), "-e", &script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("bpftrace starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        let mut stdout = std::io::BufReader::new(stdout);
        while !line.contains("attached") {
            line.clear();
            assert!(stdout.read_line(&mut line).expect("bpftrace speaks") > 0, "bpftrace ended");
        }
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        Self(child)
    }
}

impl Drop for Bpftrace {
    fn drop(&mut self) {
        let _ = nix::sys::signal::kill(Pid::from_raw(self.0.id().cast_signed()), nix::sys::signal::Signal::SIGINT);
        let _ = self.0.wait();
    }
}
