//! Runs in guests, from the user's view.

use std::{fs, path::Path, process::Output};

use memgate_evidence::Evidence;
use memgate_files::evidence_file;

use super::{Bench, stderr, stdout};

/// `memgate record` of the service on this platform in a guest.
pub fn record(bench: &Bench, platform: &str, args: &[&str]) -> Output {
    let all: Vec<_> = ["--platform", platform, "--runner", "qemu"].iter().chain(args).copied().collect();
    let output = bench.run("record", &all);
    assert_eq!(guests(), Vec::<i32>::new(), "guests are left");
    output
}

/// The QEMUs that a memgate has left behind. A QEMU with a running memgate, or with a test of memgate-qemu's emulators,
/// belongs to another test.
pub fn guests() -> Vec<i32> {
    let is_guest = |process: &i32| {
        let line = fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap_or_default();
        line.starts_with("qemu-system-") && line.contains("memgate.agent")
    };
    let has_owner = |process: &i32| {
        let parent = super::parent(*process).map(|parent| format!("/proc/{parent}/comm"));
        let name = parent.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
        name.trim_end() == "memgate" || name.starts_with("emulator-")
    };
    super::processes().into_iter().filter(is_guest).filter(|process| !has_owner(process)).collect()
}

/// The evidence of a successful run.
#[track_caller]
pub fn evidence(output: &Output) -> Evidence {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    evidence_file::read(Path::new(stdout(output).trim())).unwrap()
}
