//! What tests do where another process may have the processors: they wait for a condition and not for a time, and they try again what the
//! machine has spoilt, by one rule.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// How often something is tried.
const ATTEMPTS: u32 = 10;

/// Longer than whatever is waited for takes on a machine whose processors others have.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why an attempt says nothing. There are no other reasons: a wrong value is none.
#[derive(Debug, Clone, PartialEq)]
pub enum HeldUp {
    /// From one reading to the next it was longer than a buffer lasts.
    Reader { longest: Duration, bearable: Duration },
    /// memgate's own generator told that it was late, or waited for a processor.
    Generator { note: String },
    /// The service's runtime has started a thread amid its answer, for which it allocates (`allocm` in runtime/proc.go): what it told of
    /// itself does not hold any more. It does so where a system call takes long.
    Thread { before: usize, after: usize },
    /// What was told before a reading and after it lay so far apart, as a share, that the reading is held against nothing.
    Bounds { apart: f64, bearable: f64 },
}

impl HeldUp {
    /// Whether the reader was held up.
    pub fn reader(longest: Duration, bearable: Duration) -> Option<Self> {
        (longest > bearable).then_some(Self::Reader { longest, bearable })
    }

    /// Whether the notes of a run say that the generator was.
    pub fn generator(notes: &[String]) -> Option<Self> {
        let note = notes.iter().find(|note| note.starts_with("The load generator "))?;
        Some(Self::Generator { note: note.clone() })
    }

    /// Whether the process has other threads than before.
    pub fn thread(before: &[i32], after: &[i32]) -> Option<Self> {
        (before != after).then_some(Self::Thread { before: before.len(), after: after.len() })
    }

    /// Whether the bounds were too far apart.
    pub fn bounds(apart: f64, bearable: f64) -> Option<Self> {
        (apart > bearable).then_some(Self::Bounds { apart, bearable })
    }
}

impl fmt::Display for HeldUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reader { longest, bearable } => {
                write!(f, "the reader was held up for {longest:.1?}, which may be {bearable:.1?}")
            }
            Self::Generator { note } => f.write_str(note),
            Self::Thread { before, after } => {
                write!(f, "the service had {before} threads before its answer, and {after} after")
            }
            Self::Bounds { apart, bearable } => write!(f, "the bounds lay {apart:e} apart, which may be {bearable:e}"),
        }
    }
}

/// Does something again, at most ten times in all, while it says that the machine held it up. Each such attempt is told on stderr. An
/// attempt that finds something wrong must panic, and is not repeated.
#[track_caller]
pub fn again<T>(mut attempt: impl FnMut() -> Result<T, HeldUp>) -> T {
    for number in 1..=ATTEMPTS {
        match attempt() {
            Ok(value) => return value,
            Err(held_up) => eprintln!("attempt {number} of {ATTEMPTS} says nothing: {held_up}"),
        }
    }
    panic!("in {ATTEMPTS} attempts this machine never let the test run in time");
}

/// Waits until this holds.
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
    // On a thread of its own: the caller's may have a runtime that waits for it.
    let waiting = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(memgate_agent::rest::come(process, PATIENCE))
    });
    assert!(waiting.join().unwrap(), "process {process} is not at rest within {} s", PATIENCE.as_secs());
}
