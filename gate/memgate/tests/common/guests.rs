//! Runs in guests, as seen from outside.

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

/// The QEMU processes that memgate started.
pub fn guests() -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let is_guest = |line: String| line.starts_with("qemu-system-") && line.contains("memgate.agent");
    processes
        .filter(|process| fs::read_to_string(process.path().join("cmdline")).is_ok_and(is_guest))
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .collect()
}

/// The evidence of a run that succeeded.
#[track_caller]
pub fn evidence(output: &Output) -> Evidence {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    evidence_file::read(Path::new(stdout(output).trim())).unwrap()
}
