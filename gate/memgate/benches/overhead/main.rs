//! Measures the cost of memgate's collectors for a service, in interleaved pairs, and for comparison the cost of a
//! probe on the allocation path.
//!
//! `cargo xtask bench overhead` builds the service and runs this. Of two fresh processes of one executable, one is
//! watched from before its first instruction and the other is not. Short slices of load alternate between the two, so
//! other activity of the machine affects both alike. From pair to pair the two copies of the file change places. The
//! watched process is in its measuring phase, with everything that a run has then; memgate's sampler works only during
//! the slices of that process. The other process is as the linker made it: its runtime samples no allocations.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a benchmark prints its figures, and ends where it cannot"
)]

mod driver;
mod statistics;

use std::{
    cell::Cell,
    io::BufRead as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use clap::Parser;
use driver::{Client, Driven, RunningService};
use memgate_agent::{
    Clock,
    collect::{Boundary, Options as CollectOptions, Recorder, Requested, Sampler},
    give_memory_back,
};
use memgate_evidence::{plan::Collecting, tier::Tier};
use memgate_goexe::GoExe;
use nix::unistd::Pid;
use statistics::{Pair, Ratios};

#[derive(Parser)]
struct Options {
    /// The service's executable: `uaa` of fixtures-go.
    #[arg(long)]
    service: PathBuf,
    /// Rounds of SHA-256 that each request costs the service, in addition to its allocations.
    #[arg(long, default_value_t = 0)]
    hash_rounds: u64,
    /// The number of pairs.
    #[arg(long, default_value_t = 30)]
    pairs: u32,
    /// Seconds of load for each half of a pair.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Connections that load the service.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// The tier of the collectors; the highest that the kernel allows if none is named.
    #[arg(long, ignore_case = true, value_parser = memgate::cli::one_of(&Tier::ALL, Tier::name))]
    tier: Option<Tier>,
    /// bpftrace, to compare with. Without it, nothing is compared.
    #[arg(long)]
    bpftrace: Option<PathBuf>,
    /// The function of the allocation path that bpftrace probes.
    #[arg(long, default_value = "runtime.mallocgc")]
    function: String,
    /// `cargo bench` passes this.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The length of a slice of load. It is slightly shorter than the sampler's interval, so that one tick falls into each
/// slice, at its start. A slice of the same length would often have a second tick at its end, and twice the sampler's
/// work.
const SLICE: Duration = Duration::from_millis(95);
/// Slices before the measuring phase: the sampling rate is set after a second.
const WARM_UP: u32 = 15;

fn main() {
    let options = Options::parse();
    // Two files, because a probe belongs to a file: bpftrace would slow both processes down.
    let directory = tempfile::tempdir().expect("a temporary directory");
    let copies = [0, 1].map(|copy| {
        let path = directory.path().join(copy.to_string());
        std::fs::copy(&options.service, &path).expect("a copy of the service");
        path
    });
    let (mut memgate, mut bpftrace) = (Ratios::default(), Ratios::default());
    println!("pair   without/s     with/s   ratio  p99 ratio");
    for pair in 0..options.pairs {
        let [watched, other] = if pair % 2 == 0 { [&copies[0], &copies[1]] } else { [&copies[1], &copies[0]] };
        let (measured, under_bpftrace) = measure(&options, watched, other, pair == 0);
        println!("{:4}  {measured}", pair + 1);
        memgate.push(measured);
        if let Some(measured) = under_bpftrace {
            println!("      {measured}  bpftrace");
            bpftrace.push(measured);
        }
    }
    println!("\nmemgate, every default collector: {memgate}");
    if options.bpftrace.is_some() {
        println!("bpftrace on {}: {bpftrace}", options.function);
    }
}

/// A pair of fresh processes, one with memgate's collectors. On request, a second pair with bpftrace instead. With
/// `tell`, it also prints how long attaching takes and how much is allocated.
fn measure(options: &Options, watched: &Path, other: &Path, tell: bool) -> (Pair, Option<Pair>) {
    let rounds = format!("-hash-rounds={}", options.hash_rounds);
    let before = memory();
    let (watched, recorder) = RunningService::start(watched, 18098, &rounds, |pid| attach(options, watched, pid, tell));
    let (other, ()) = RunningService::start(other, 18099, &rounds, |_| ());
    let half = Duration::from_secs_f64(options.seconds);
    let (mut client, mut of_other) = (watched.connect(options.connections), other.connect(options.connections));
    let (pair, allocations, recorder) = with_memgate(recorder, &mut client, &mut of_other, half);
    if tell {
        let [process, kernel] = memory();
        println!(
            "the collectors take {:.1} MiB of this process and {:.1} MiB of the kernel's memory",
            (process.saturating_sub(before[0])) as f64 / 1024.0,
            (kernel.saturating_sub(before[1])) as f64 / 1024.0
        );
        println!("{allocations:.0} allocations/s");
    }
    drop(recorder);
    let under_bpftrace = options.bpftrace.as_ref().map(|program| {
        let _probe = Bpftrace::attach(program, options, &watched);
        alternate(half / 3, || client.drive(SLICE), &mut of_other)
    });
    (pair, under_bpftrace)
}

fn attach(options: &Options, executable: &Path, pid: Pid, tell: bool) -> Recorder {
    let started = Instant::now();
    let exe = GoExe::open(executable).unwrap_or_else(|error| panic!("{error}"));
    let read = milliseconds(started);
    let clock = Clock::start().expect("a monotonic clock");
    let collecting = Collecting { tier: options.tier, ..Collecting::default() };
    let recorder = Recorder::attach(&exe, pid, clock, CollectOptions { collecting, ..CollectOptions::default() });
    let recorder = recorder.unwrap_or_else(|error| panic!("{error}"));
    drop(exe);
    give_memory_back();
    if tell {
        println!("reading the executable took {read:.1} ms, attaching {:.1} ms", milliseconds(started) - read);
        println!("tier {}", recorder.tier());
    }
    recorder
}

/// Slices of the watched service from the measuring phase of a run on, and of the other service.
fn with_memgate(recorder: Recorder, watched: &mut Client, other: &mut Client, half: Duration) -> (Pair, f64, Recorder) {
    let resting = Cell::new(Some(recorder));
    let mut slice = |before: Option<Requested>, after: Option<Requested>| {
        let sampler = Sampler::start(resting.take().expect("the recorder is back"));
        let sampler = sampler.unwrap_or_else(|error| panic!("{error}"));
        let ask =
            |what: Option<Requested>| what.map(|what| sampler.request(what).unwrap_or_else(|error| panic!("{error}")));
        ask(before);
        let driven = watched.drive(SLICE);
        ask(after);
        resting.set(Some(sampler.finish().unwrap_or_else(|error| panic!("{error}"))));
        driven
    };
    let objects = || {
        let recorder = resting.take().expect("the recorder is back");
        let objects = recorder.allocated_objects().expect("a reading");
        resting.set(Some(recorder));
        objects
    };
    // As in a run, the sampling rate depends on the first allocations.
    slice(Some(Requested::Boundary(Boundary::Idle)), None);
    alternate(SLICE * WARM_UP, || slice(None, None), other);
    slice(None, Some(Requested::Boundary(Boundary::MeasureStart)));
    let before = objects();
    let pair = alternate(half, || slice(None, None), other);
    // The last slice reads at its end.
    slice(None, Some(Requested::Boundary(Boundary::MeasureEnd)));
    let allocations = (objects() - before) as f64 / (half + SLICE).as_secs_f64();
    (pair, allocations, resting.take().expect("the recorder is back"))
}

/// Alternating slices of the watched service and of the other, each of `length`.
fn alternate(length: Duration, mut watched: impl FnMut() -> Driven, other: &mut Client) -> Pair {
    let (mut with, mut without) = (Driven::nothing(), Driven::nothing());
    while with.length < length {
        with.add(&watched());
        // A run starts its sampler's thread once. Here each slice of the watched service does, so each slice of the
        // other starts a thread that sleeps.
        let (over, sleeps) = std::sync::mpsc::channel::<()>();
        let sleeper = std::thread::spawn(move || sleeps.recv());
        without.add(&other.drive(SLICE));
        drop(over);
        let _ = sleeper.join();
    }
    Pair::of(&with, &without)
}

/// This process's own memory, and the kernel memory of the BPF maps that it has open, KiB. The buffers that both
/// share count as the kernel's.
fn memory() -> [u64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let number = |line: &str| line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
    let resident = status.lines().find(|line| line.starts_with("RssAnon")).and_then(number).expect("RssAnon");
    let files = std::fs::read_dir("/proc/self/fdinfo").expect("procfs").flatten();
    let maps = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    let locked = maps.filter_map(|map| map.lines().find(|line| line.starts_with("memlock")).and_then(number));
    [resident, locked.sum::<u64>() / 1024]
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// A running bpftrace with one probe. Dropping it ends it.
struct Bpftrace(Child);

impl Bpftrace {
    /// Attaches the probe and waits until it is active.
    fn attach(program: &Path, options: &Options, service: &RunningService) -> Self {
        let executable = service.executable();
        let script = format!(
            "BEGIN {{ printf(\"attached\\n\"); }} uprobe:{}:\"{}\" {{ @[ustack(3)] = count(); }} END {{ clear(@); }}",
            executable.display(),
            options.function
        );
        // bpftrace needs tracefs. In a separate mount namespace it changes nothing on the machine.
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
