//! Helpers for tests on a busy machine. Such tests wait for a condition instead of a time, and one rule decides when
//! they repeat an attempt that the machine has spoilt.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// The most attempts.
const ATTEMPTS: u32 = 10;

/// Longer than any wait takes on a machine whose processors are busy.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why an attempt proves nothing. There are no other reasons; a wrong value is not one of them.
#[derive(Debug, Clone, PartialEq)]
pub enum HeldUp {
    /// The time between two readings was longer than a buffer lasts.
    Reader { longest: Duration, bearable: Duration },
    /// memgate's own generator reported that it was late or waited for a processor.
    Generator { note: String },
    /// The service's runtime started a thread during its answer and allocated for it (`allocm` in runtime/proc.go), so
    /// the figures in its answer are outdated. The runtime does so if a system call takes long.
    Thread { before: usize, after: usize },
    /// The service's figures before and after a reading differ by so large a share that nothing can be compared with
    /// the reading.
    Bounds { apart: f64, bearable: f64 },
    /// memgate reported that the service did not end a GC cycle in time.
    Collection { reason: String },
    /// memgate is inconclusive about these gates of a healthy service, or its pauses were long.
    Undecided { metrics: Vec<String> },
}

impl HeldUp {
    /// Whether the reader was held up.
    pub fn reader(longest: Duration, bearable: Duration) -> Option<Self> {
        (longest > bearable).then_some(Self::Reader { longest, bearable })
    }

    /// Whether the notes of a run show that the generator was held up.
    pub fn generator(notes: &[String]) -> Option<Self> {
        let note = notes.iter().find(|note| note.starts_with("The load generator "))?;
        Some(Self::Generator { note: note.clone() })
    }

    /// Whether the process has other threads than before.
    pub fn thread(before: &[i32], after: &[i32]) -> Option<Self> {
        (before != after).then_some(Self::Thread { before: before.len(), after: after.len() })
    }

    /// Whether the bounds are too far apart.
    pub fn bounds(apart: f64, bearable: f64) -> Option<Self> {
        (apart > bearable).then_some(Self::Bounds { apart, bearable })
    }
}

impl fmt::Display for HeldUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reader { longest, bearable } => {
                write!(f, "the reader was held up for {longest:.1?}, more than {bearable:.1?}")
            }
            Self::Generator { note } => f.write_str(note),
            Self::Collection { reason } => f.write_str(reason),
            Self::Thread { before, after } => {
                write!(f, "the service had {before} threads before its answer, and {after} after")
            }
            Self::Undecided { metrics } => write!(f, "undecided: {}", metrics.join(", ")),
            Self::Bounds { apart, bearable } => write!(f, "the bounds are {apart:e} apart, more than {bearable:e}"),
        }
    }
}

/// Repeats an attempt while the machine holds it up, up to ten times in all. It reports each such attempt on stderr. An
/// attempt that finds something wrong must panic, and is not repeated.
#[track_caller]
pub fn again<T>(mut attempt: impl FnMut() -> Result<T, HeldUp>) -> T {
    for number in 1..=ATTEMPTS {
        match attempt() {
            Ok(value) => return value,
            Err(held_up) => eprintln!("attempt {number} of {ATTEMPTS} proves nothing: {held_up}"),
        }
    }
    panic!("this machine held up the test in all {ATTEMPTS} attempts");
}

/// Waits until the condition holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "not within {} s: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until no thread of the process runs or waits for a processor.
#[track_caller]
pub fn until_at_rest(process: nix::unistd::Pid) {
    // This runs on its own thread, because the caller's may have a runtime that waits for it.
    let waiting = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(memgate_agent::rest::come(process, PATIENCE))
    });
    assert!(waiting.join().unwrap(), "process {process} is not at rest within {} s", PATIENCE.as_secs());
}
