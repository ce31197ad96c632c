//! Shared helpers of the command line's tests: the binary, the fixtures, and a check for leftovers.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::unwrap_used,
    reason = "each test binary uses a part of it"
)]

pub mod busy;
pub mod faults;
pub mod go;
pub mod guests;
pub mod repository;
pub mod running;
pub mod schema;
pub mod uaa;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use assert_cmd::Command;
use tempfile::TempDir;

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the crate lies in the repository")
}

/// The command `memgate`, in the repository's root, without colours.
pub fn memgate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memgate"));
    command.current_dir(repository()).env("NO_COLOR", "1").env_remove("GITHUB_STEP_SUMMARY");
    command
}

/// Whether eBPF tests can run. Under CI they must: a test that cannot run there fails.
pub fn can_attach() -> bool {
    let root = nix::unistd::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "CI must run as root: BPF needs it");
    if !root {
        eprintln!("SKIPPED: attaching BPF programs needs root");
    }
    root
}

/// A configuration with the short phases that tests use.
pub struct Bench {
    pub directory: TempDir,
    /// What was mounted before.
    mounts: Vec<String>,
}

impl Bench {
    pub fn new(yaml: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mounts = mounts(directory.path());
        let bench = Self { directory, mounts };
        fs::write(bench.config(), yaml).expect("a writable temporary directory");
        bench
    }

    /// One service `s` of the fixtures on a port of its own, with these arguments. No limit on time is one that a busy machine reaches.
    pub fn service(command: &str, port: u16, args: &str) -> Self {
        let fixtures = repository().join("fixtures-go");
        Self::new(&format!(
            r#"version: 1
services:
  s:
    build: {{ dir: {}, package: ./cmd/{command}, env: {{ CGO_ENABLED: "0" }} }}
    run:
      args: [-listen, "127.0.0.1:{port}"{args}]
      ready: {{ http: "http://127.0.0.1:{port}/healthz", timeout: 60s }}
      stop_timeout: 1s
    load: {{ rate: 200/s, connections: 4, timeout: 60s, requests: [ {{ post: "http://127.0.0.1:{port}/login" }} ] }}
    phases: {{ warmup: 1s, measure: 3s, drain: 1s }}
    runs: 1
"#,
            fixtures.display()
        ))
    }

    /// The same with something else in its configuration.
    pub fn with(self, from: &str, to: &str) -> Self {
        let yaml = fs::read_to_string(self.config()).expect("a configuration");
        fs::write(self.config(), changed(&yaml, from, to)).expect("a configuration");
        self
    }

    pub fn config(&self) -> PathBuf {
        self.directory.path().join("memgate.yaml")
    }

    pub fn out(&self) -> PathBuf {
        self.directory.path().join("out")
    }

    /// `memgate VERB` with this configuration.
    pub fn command(&self, verb: &str) -> Command {
        let mut command = memgate();
        command.arg(verb).arg("--config").arg(self.config()).arg("--out").arg(self.out());
        command
    }

    /// Runs it and checks for leftovers.
    pub fn run(&self, verb: &str, args: &[&str]) -> Output {
        let output = self.command(verb).args(args).output().expect("memgate starts");
        self.assert_nothing_left();
        output
    }

    /// Checks that no process of the service, no cgroup, no mount and no temporary file is left.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.processes(), Vec::<String>::new(), "processes");
        assert_eq!(cgroups(), Vec::<PathBuf>::new(), "cgroups");
        assert_eq!(scratch(), Vec::<PathBuf>::new(), "directories of runs");
        assert_eq!(temporary_files(&self.out()), Vec::<PathBuf>::new(), "temporary files");
        assert_eq!(mounts(self.directory.path()), self.mounts, "mounts");
    }

    /// Command lines of the processes whose executable memgate has built here.
    pub fn processes(&self) -> Vec<String> {
        processes_below(self.directory.path())
    }

    /// The remaining processes and temporary files.
    pub fn left(&self) -> Vec<String> {
        let files = temporary_files(&self.out()).into_iter().map(|file| file.display().to_string());
        self.processes().into_iter().chain(files).collect()
    }
}

/// assert_cmd's command as a standard library command, which can be started without waiting for it.
pub fn plain(command: &Command) -> std::process::Command {
    let mut plain = std::process::Command::new(command.get_program());
    plain.args(command.get_args()).current_dir(repository());
    plain.env("NO_COLOR", "1").env_remove("GITHUB_STEP_SUMMARY");
    plain
}

/// The number of every process.
pub fn processes() -> Vec<i32> {
    let processes = fs::read_dir("/proc").expect("procfs").flatten();
    processes.filter_map(|process| process.file_name().to_str()?.parse().ok()).collect()
}

/// The processes that this one started and that nobody has waited for.
pub fn children(parent: i32) -> Vec<i32> {
    processes().into_iter().filter(|process| self::parent(*process) == Some(parent)).collect()
}

/// The process that has started this one, or has it since that one ended.
pub fn parent(process: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// What is mounted, but for what others mount below the directory for temporary files (proc_pid_mountinfo(5)).
fn mounts(own: &Path) -> Vec<String> {
    let others = |line: &str| {
        let at = Path::new(line.split(' ').nth(4).unwrap_or_default());
        at.starts_with(std::env::temp_dir()) && at != std::env::temp_dir() && !at.starts_with(own)
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    mounts.lines().filter(|line| !others(line)).map(str::to_owned).collect()
}

/// Command lines of processes whose executable lies in the directory.
fn processes_below(directory: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("procfs").flatten().map(|entry| entry.path());
    processes
        .filter(|process| fs::read_link(process.join("exe")).is_ok_and(|exe| exe.starts_with(directory)))
        .map(|process| fs::read_to_string(process.join("cmdline")).unwrap_or_default().replace('\0', " "))
        .collect()
}

/// The cgroups that a memgate has left in any hierarchy: their names begin with `memgate-` and end with a random number
/// of 16 digits, and nobody holds their locks.
pub fn cgroups() -> Vec<PathBuf> {
    fn below(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.flat_map(|entry| [vec![entry.path()], below(&entry.path())].concat()).collect()
    }
    below(Path::new("/sys/fs/cgroup")).into_iter().filter(is_left).collect()
}

/// The directories `MEMGATE_TMP` that a memgate has left.
pub fn scratch() -> Vec<PathBuf> {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(is_left).collect()
}

/// Whether a directory has a name of memgate's and nobody holds its lock.
fn is_left(path: &PathBuf) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let random = name.strip_prefix("memgate-").and_then(|rest| rest.split('-').nth(1));
    let is_memgates = random.is_some_and(|random| random.len() == 16);
    is_memgates && fs::File::open(path).is_ok_and(|folder| folder.try_lock_shared().is_ok())
}

/// Whether no process is in a cgroup.
pub fn is_empty(cgroup: &Path) -> bool {
    fs::read_to_string(cgroup.join("cgroup.procs")).is_ok_and(|processes| processes.is_empty())
}

fn temporary_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))).collect()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The text with every `from` replaced. A text that does not have it is a mistake in the test.
#[track_caller]
pub fn changed(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "`{from}` is not in:\n{text}");
    text.replace(from, to)
}

/// A message without the frame and the line breaks that miette adds.
pub fn flat(text: &str) -> String {
    text.replace(['│', '╰', '─', '▶', '×'], " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Checks the exit code and that stderr contains every one of the words.
#[track_caller]
pub fn assert_fails(output: &Output, code: i32, words: &[&str]) {
    let text = stderr(output);
    let flat = flat(&text);
    assert_eq!(output.status.code(), Some(code), "{text}");
    for word in words {
        assert!(flat.contains(word), "`{word}` is not in:\n{text}");
    }
}
