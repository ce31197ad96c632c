//! The faults of guests: causes each fault, and compares memgate's result with the required one. Tests and `cargo xtask
//! bench faults` share this.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use memgate_evidence::platform::Platform;
use memgate_files::evidence_file;
use memgate_testing::go::newest;
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CpuSet, sched_setaffinity},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::{Bench, go, repository};

/// A fault, and the required result.
pub struct Fault {
    /// Its name in tables.
    pub name: &'static str,
    /// memgate's message in tables.
    pub summary: &'static str,
    /// What memgate must print, without line breaks.
    pub said: &'static [&'static str],
    /// The required exit code.
    pub code: i32,
    /// What the guest's console must contain, if a guest was started.
    pub console: Option<&'static str>,
    bring: fn() -> Brought,
}

/// The actual result of a fault.
pub struct Brought {
    output: Output,
    console: String,
    /// Seconds from the event to the end of memgate, or from the deadline if the deadline reveals the fault. `None` if
    /// memgate continues to its verdict.
    late: Option<f64>,
    /// Leftovers, and everything else that is wrong.
    wrong: Vec<String>,
}

/// How soon a fault must be found on a machine that is not busy, seconds.
pub const SOON: f64 = 2.0;

/// The same on a busy machine, seconds. It is less than the 15 s after which silence reveals a fault.
const BUSY: f64 = 10.0;

/// The outcome of one fault.
pub struct Outcome {
    /// The exit code; `None` if a signal ended memgate.
    pub code: Option<i32>,
    /// See [`Brought::late`].
    pub late: Option<f64>,
    /// What was wrong.
    pub wrong: Vec<String>,
}

impl Fault {
    /// Causes the fault. Compares memgate's result with the required one, and the delay with `soon`, seconds.
    pub fn bring(&self, soon: f64) -> Outcome {
        let Brought { output, console, late, mut wrong } = (self.bring)();
        let text = String::from_utf8_lossy(&output.stderr);
        let flat = super::flat(&text);
        for word in self.said.iter().filter(|word| !flat.contains(**word)) {
            wrong.push(format!("`{word}` is not in the output: {text}"));
        }
        if output.status.code() != Some(self.code) {
            wrong.push(format!("the exit code is {:?}, not {}: {text}", output.status.code(), self.code));
        }
        if let Some(word) = self.console.filter(|word| !console.contains(word)) {
            let (_, end) = console.split_at(console.floor_char_boundary(console.len().saturating_sub(2000)));
            wrong.push(format!("the console's log of {} bytes lacks `{word}`; it ends with: {end}", console.len()));
        }
        if let Some(late) = late.filter(|late| *late > soon) {
            wrong.push(format!("it was found after {late:.2} s: {text}"));
        }
        Outcome { code: output.status.code(), late, wrong }
    }
}

/// Causes the fault with this name. Any difference fails the test.
#[track_caller]
pub fn assert_found(name: &str) {
    let fault = FAULTS.iter().find(|fault| fault.name == name).expect("a fault of this name");
    let outcome = fault.bring(BUSY);
    assert!(outcome.wrong.is_empty(), "{name}:\n{}", outcome.wrong.join("\n"));
}

/// Every fault.
pub const FAULTS: [Fault; 14] = [
    Fault {
        name: "kernel panic before init",
        summary: "panicked: Kernel panic",
        said: &["guest:", "panicked: Kernel panic - not syncing:", "console.log"],
        code: 4,
        console: Some("Kernel panic"),
        bring: panic_before_init,
    },
    Fault {
        name: "kernel panic after init",
        summary: "panicked: sysrq triggered crash",
        said: &["guest:", "panicked: Kernel panic - not syncing: sysrq triggered crash", "console.log"],
        code: 4,
        console: Some("Kernel panic"),
        bring: || sabotaged("panic-kernel", "record"),
    },
    Fault {
        name: "init killed",
        summary: "panicked: Attempted to kill init!",
        said: &["guest:", "panicked: Kernel panic - not syncing: Attempted to kill init!"],
        code: 4,
        console: Some("Attempted to kill init"),
        bring: || sabotaged("kill-init", "record"),
    },
    Fault {
        name: "agent killed",
        summary: "signalled: SIGKILL",
        said: &["guest:", "signalled: the agent was ended by SIGKILL"],
        code: 4,
        console: Some("saboteur: kill-agent"),
        bring: || sabotaged("kill-agent", "record"),
    },
    Fault {
        name: "service out of memory",
        summary: "a verdict: `oom_kills` regressed",
        // The verdict is on stdout. The gate is compared with the report.
        said: &["measuring"],
        code: 1,
        console: Some("cgroup out of memory"),
        bring: service_out_of_memory,
    },
    Fault {
        name: "guest frozen",
        summary: "hung: the guest",
        said: &["guest:", "hung: the guest has said nothing for 15 s"],
        code: 4,
        console: Some("saboteur: none"),
        bring: || signalled(Signal::SIGSTOP, Duration::from_secs(15)),
    },
    Fault {
        name: "QEMU killed",
        summary: "lost: QEMU was ended by SIGKILL",
        said: &["guest:", "lost: QEMU was ended by SIGKILL"],
        code: 4,
        console: Some("saboteur: none"),
        bring: || signalled(Signal::SIGKILL, Duration::ZERO),
    },
    Fault {
        name: "frames corrupted",
        summary: "lost: its channel is corrupted",
        said: &["guest:", "lost: its channel is corrupted: "],
        code: 4,
        console: Some("saboteur: corrupt-channel"),
        bring: || sabotaged("corrupt-channel", "record"),
    },
    Fault {
        name: "console flooded with a million lines",
        summary: "evidence, as if nothing were",
        said: &["measuring"],
        code: 0,
        console: Some("flooded"),
        bring: console_flooded,
    },
    Fault {
        name: "disk full on the host",
        summary: "lost: its console cannot be kept",
        said: &["guest:", "lost: its console cannot be kept: No space left on device", "make room for "],
        code: 4,
        console: Some("saboteur: flood-console"),
        bring: disk_full,
    },
    Fault {
        name: "wrong kernel",
        summary: "never booted: not ready in time",
        said: &["guest:", "never booted: it was not ready after 5 s"],
        code: 4,
        console: None,
        bring: wrong_kernel,
    },
    Fault {
        name: "missing firmware",
        summary: "never booted: QEMU could not load the kernel",
        said: &["guest:", "never booted: QEMU exited with code 1", "QEMU said:", "could not load kernel"],
        code: 4,
        console: None,
        bring: missing_firmware,
    },
    Fault {
        name: "QEMU too old",
        summary: "guests need 10.0.13 or later",
        said: &[
            "guest:",
            "qemu-system-aarch64 is of version 9.2.0, and guests need 10.0.13 or later",
            "cannot make its own",
            "there is no `apt-get`",
            "install QEMU 10.0.13 or later",
        ],
        code: 4,
        console: None,
        bring: qemu_too_old,
    },
    Fault {
        name: "two guests on one core",
        summary: "evidence of both",
        said: &["measuring"],
        code: 0,
        console: Some("saboteur: none"),
        bring: two_on_one_core,
    },
];

/// A service in guests of one platform, with a temporary directory for everything that memgate makes there.
pub struct Setting {
    pub bench: Bench,
    platform: Platform,
    temporary: TempDir,
}

impl Setting {
    /// The saboteur with this fault. `options` are those of its platform.
    pub fn new(platform: Platform, fault: &str, options: &str) -> Self {
        let executable = built("saboteur", platform);
        let name = platform.name();
        let yaml = format!(
            r#"version: 1
services:
  s:
    binary: {{ {name}: {} }}
    run:
      args: [-listen, "127.0.0.1:8080", -fault, {fault}]
      ready: {{ http: "http://127.0.0.1:8080/healthz", timeout: 120s }}
      stop_timeout: 1s
    load: {{ rate: 200/s, connections: 4, timeout: 60s, requests: [ {{ post: "http://127.0.0.1:8080/login" }} ] }}
    phases: {{ warmup: 1s, measure: 3s, drain: 1s }}
    runs: 1
platforms: {{ {name}: {{ memory: 512MiB, {options} }} }}
"#,
            executable.display()
        );
        let temporary = tempfile::tempdir().expect("a temporary directory");
        Self { bench: Bench::new(&yaml), platform, temporary }
    }

    /// The same with a measuring phase of this length instead of 3 s.
    fn measuring(self, length: &str) -> Self {
        self.with("measure: 3s", &format!("measure: {length}"))
    }

    /// The same with another line in its configuration.
    fn with(self, from: &str, to: &str) -> Self {
        Self { bench: self.bench.with(from, to), ..self }
    }

    /// `memgate VERB` for it in a guest.
    pub fn command(&self, verb: &str) -> Command {
        let mut command = super::plain(&self.bench.command(verb));
        command.args(["--platform", self.platform.name(), "--runner", "qemu"]).env("TMPDIR", self.temporary.path());
        command
    }

    /// The guest's console so far.
    pub fn console(&self) -> String {
        let file = self.bench.out().join(format!("s.{}.run1.console.log", self.platform.folder()));
        String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()
    }

    /// Leftovers of memgate, its guests and its temporary files.
    pub fn left(&self) -> Vec<String> {
        let mut left = self.bench.left();
        let entries = fs::read_dir(self.temporary.path()).into_iter().flatten().flatten();
        left.extend(entries.map(|entry| entry.path().display().to_string()));
        left.extend(super::processes().into_iter().filter_map(|process| {
            let line = fs::read_to_string(format!("/proc/{process}/cmdline")).ok()?.replace('\0', " ");
            line.contains(self.temporary.path().to_str()?).then_some(line)
        }));
        left.extend(super::guests::guests().into_iter().map(|process| format!("QEMU {process}")));
        left
    }

    /// Runs the command to its end. `late` computes the delay.
    pub fn run(&self, command: Command, late: impl FnOnce(&Watched) -> Option<f64>) -> Brought {
        self.run_and(command, |_, _| {}, late)
    }

    /// As [`Setting::run`]. `act` is called with the process every few milliseconds.
    pub fn run_and(
        &self,
        command: Command,
        mut act: impl FnMut(&Self, i32),
        late: impl FnOnce(&Watched) -> Option<f64>,
    ) -> Brought {
        let mut running = Running::start(command);
        let mut marked = None;
        let (status, ended) = loop {
            if let Some(status) = running.child.try_wait().expect("a child") {
                break (status, Instant::now());
            }
            assert!(running.started.elapsed() < PATIENCE, "memgate does not end; it said {}", running.text());
            if marked.is_none() && MARKS.iter().any(|mark| self.console().contains(mark)) {
                marked = Some(Instant::now());
            }
            act(self, running.child.id().cast_signed());
            std::thread::sleep(Duration::from_millis(5));
        };
        // The mark may have appeared after the last check, before memgate ended.
        marked = marked.or_else(|| MARKS.iter().any(|mark| self.console().contains(mark)).then_some(ended));
        let watched = running.finish(status, ended, marked);
        let late = late(&watched);
        let wrong = self.left().into_iter().map(|what| format!("left behind: {what}")).collect();
        Brought { output: watched.output, console: self.console(), late, wrong }
    }
}

/// Text on a console that shows that the fault has happened: the saboteur acts, or the kernel panicked before it could.
const MARKS: [&str; 2] = ["saboteur: ", "Kernel panic"];

/// The time limit of a memgate.
const PATIENCE: Duration = Duration::from_secs(300);

/// A running memgate and its output.
struct Running {
    child: Child,
    started: Instant,
    lines: Arc<Mutex<Vec<(Instant, String)>>>,
    readers: Vec<std::thread::JoinHandle<Vec<u8>>>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let started = Instant::now();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("memgate starts");
        let (mut stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        let lines = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&lines);
        let of_stdout = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).expect("a pipe");
            bytes
        });
        let of_stderr = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                bytes.extend_from_slice(line.as_bytes());
                bytes.push(b'\n');
                heard.lock().expect("no panic").push((Instant::now(), line));
            }
            bytes
        });
        Self { child, started, lines, readers: vec![of_stdout, of_stderr] }
    }

    fn text(&self) -> String {
        let lines = self.lines.lock().expect("no panic");
        lines.iter().map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
    }

    fn finish(self, status: ExitStatus, ended: Instant, marked: Option<Instant>) -> Watched {
        let [stdout, stderr] = <[_; 2]>::try_from(self.readers).expect("two readers");
        let [stdout, stderr] = [stdout, stderr].map(|reader| reader.join().expect("no panic"));
        let lines = std::mem::take(&mut *self.lines.lock().expect("no panic"));
        Watched { output: Output { status, stdout, stderr }, started: self.started, ended, marked, lines }
    }
}

/// A memgate that has ended.
pub struct Watched {
    output: Output,
    started: Instant,
    ended: Instant,
    /// When the first of [`MARKS`] appeared on the console.
    marked: Option<Instant>,
    lines: Vec<(Instant, String)>,
}

impl Watched {
    /// Seconds from an instant to the end.
    fn since(&self, instant: Instant) -> f64 {
        let after = self.ended.saturating_duration_since(instant).as_secs_f64();
        after - instant.saturating_duration_since(self.ended).as_secs_f64()
    }

    /// From the moment of the fault.
    fn since_mark(&self) -> Option<f64> {
        // Without a mark nothing happened, which is never soon enough.
        Some(self.marked.map_or(f64::INFINITY, |marked| self.since(marked)))
    }

    /// From the start of memgate.
    fn since_start(&self) -> Option<f64> {
        Some(self.since(self.started))
    }

    /// From the message that memgate starts a guest.
    fn since_boot(&self) -> Option<f64> {
        let line = self.lines.iter().find(|(_, line)| line.ends_with("starting a guest"));
        Some(line.map_or(f64::INFINITY, |(at, _)| self.since(*at)))
    }
}

/// A command of the fixtures, built by the newest Go for a platform. Each process builds it once.
pub fn built(command: &str, platform: Platform) -> PathBuf {
    let executable = repository().join(format!("target/tmp/{command}-{}", platform.folder()));
    let package = format!("./cmd/{command}");
    go::build(&newest(), &repository().join("fixtures-go"), &[&package], platform, false, &executable);
    executable
}

/// Runs the saboteur to memgate's end.
fn sabotaged(fault: &str, verb: &str) -> Brought {
    let setting = Setting::new(Platform::LinuxArm64, fault, "");
    setting.run(setting.command(verb), Watched::since_mark)
}

/// What is wrong with the verdict of a check, if anything. The saboteur has no baseline, so only this metric may gate.
fn wrong_verdict(setting: &Setting, metric: &str, verdict: &str) -> Option<String> {
    let report = fs::read(setting.bench.out().join("report.json")).unwrap_or_default();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap_or_default();
    let gates = report["results"][0]["gates"].as_array().cloned().unwrap_or_default();
    let found = gates.iter().find(|gate| gate["metric"] == metric).map(|gate| gate["verdict"].clone());
    (found.as_ref().and_then(serde_json::Value::as_str) != Some(verdict))
        .then(|| format!("a report in which {metric} is {found:?}, not {verdict}"))
}

fn service_out_of_memory() -> Brought {
    // The run ends with the service.
    let setting = Setting::new(Platform::LinuxArm64, "use-memory", "").measuring("300s");
    let mut brought = setting.run(setting.command("check"), |_| None);
    brought.wrong.extend(wrong_verdict(&setting, "oom_kills", "regressed"));
    brought
}

/// What is wrong with the evidence of a record, if anything.
fn wrong_evidence(setting: &Setting) -> Option<String> {
    let file = setting.bench.out().join(format!("s.{}.run1.evidence.json", setting.platform.folder()));
    match evidence_file::read(&file) {
        Ok(evidence) if evidence.signals.requests.data.measure.succeeded > 10 => None,
        Ok(evidence) => Some(format!("evidence of {:?}", evidence.signals.requests.data.measure)),
        Err(error) => Some(format!("no evidence: {error}")),
    }
}

fn console_flooded() -> Brought {
    let setting = Setting::new(Platform::LinuxArm64, "flood-console", "").measuring("20s");
    let mut brought = setting.run(setting.command("record"), |_| None);
    brought.wrong.extend(wrong_evidence(&setting));
    if brought.console.len() >= 6 << 20 {
        brought.wrong.push(format!("a console's log of {} bytes", brought.console.len()));
    }
    brought
}

/// Sends a signal to the guest's QEMU when the service is under load.
fn signalled(signal: Signal, deadline: Duration) -> Brought {
    let setting = Setting::new(Platform::LinuxArm64, "none", "").measuring("300s");
    let acted = std::cell::Cell::new(None);
    let act = |setting: &Setting, memgate: i32| {
        if acted.get().is_none() && setting.console().contains("saboteur: none") {
            let [qemu] = super::children(memgate)[..] else { return };
            acted.set(Some(Instant::now()));
            kill(Pid::from_raw(qemu), signal).expect("a process of ours");
        }
    };
    setting.run_and(setting.command("record"), act, |watched| {
        let since = acted.get().map_or(f64::INFINITY, |acted| watched.since(acted));
        Some(since - deadline.as_secs_f64())
    })
}

/// A separate cache with the image of one platform, which a test may damage.
pub struct OwnCache {
    pub directory: TempDir,
    platform: Platform,
}

impl OwnCache {
    pub fn new(platform: Platform) -> Self {
        let cache = Self { directory: empty_cache(), platform };
        let mut command = super::plain(&super::memgate());
        command.args(["image", "build", "--platform", platform.name()]).env("MEMGATE_CACHE", cache.directory.path());
        let output = command.output().expect("memgate starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        cache
    }

    /// The directory of the image.
    pub fn image(&self) -> PathBuf {
        let only = |directory: &Path| {
            let entries: Vec<_> = fs::read_dir(directory).expect("a directory").flatten().collect();
            let [entry] = &entries[..] else { panic!("{} entries in {}", entries.len(), directory.display()) };
            entry.path()
        };
        only(&only(&self.directory.path().join("images")))
    }

    /// Changes the description of the image so that it contains the hash of the current files. This cannot happen by
    /// accident: if an image's files do not match its description, memgate makes the image again.
    pub fn describe_again(&self, change: impl FnOnce(&mut serde_json::Value)) {
        let file = self.image().join("image.json");
        let mut image: serde_json::Value = serde_json::from_slice(&fs::read(&file).expect("an image")).expect("JSON");
        change(&mut image);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut all = Sha256::new();
        for part in ["kernel", "initramfs", "firmware"] {
            if let Some(name) = image[part].as_str() {
                let contents = fs::read(self.image().join(name)).expect("a file of the image");
                all.update(format!("{part} {}\n", hex(&Sha256::digest(contents))));
            }
        }
        image["digest"] = hex(&all.finalize()).into();
        fs::write(file, image.to_string()).expect("a writable cache");
    }

    /// `memgate record` of the saboteur without a fault, with this cache.
    fn record(&self, options: &str, late: impl FnOnce(&Watched) -> Option<f64>) -> Brought {
        let setting = Setting::new(self.platform, "none", options);
        let mut command = setting.command("record");
        command.env("MEMGATE_CACHE", self.directory.path());
        setting.run(command, late)
    }

    /// The same without a reachable mirror and without packages in the cache.
    pub fn record_alone(&self) -> Output {
        fs::remove_file(self.directory.path().join("packages")).expect("a link");
        let apt = self.directory.path().join("apt.conf");
        let nowhere =
            r#"Acquire { Retries "0"; http::Proxy "http://127.0.0.1:9"; https::Proxy "http://127.0.0.1:9"; }"#;
        fs::write(&apt, nowhere).expect("a writable cache");
        let setting = Setting::new(self.platform, "none", "");
        let mut command = setting.command("record");
        command.env("MEMGATE_CACHE", self.directory.path()).env("APT_CONFIG", apt);
        let brought = setting.run(command, |_| None);
        assert_eq!(brought.wrong, Vec::<String>::new());
        brought.output
    }
}

/// A cache that contains only the packages that other tests fetched.
pub fn empty_cache() -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    lend_packages(directory.path());
    directory
}

/// Makes a cache use the packages that other tests fetched.
pub fn lend_packages(cache: &Path) {
    let packages = repository().join(".tools/guests/packages");
    fs::create_dir_all(&packages).expect("a writable .tools");
    std::os::unix::fs::symlink(packages, cache.join("packages")).expect("a writable cache");
}

fn panic_before_init() -> Brought {
    let cache = OwnCache::new(Platform::LinuxArm64);
    // An archive whose `/init` is not a program.
    let archive = cpio_of("init", b"no program");
    fs::write(cache.image().join("initramfs"), archive).expect("a writable cache");
    cache.describe_again(|_| {});
    cache.record("", Watched::since_mark)
}

/// An archive in cpio's format newc with one executable file; see
/// Documentation/driver-api/early-userspace/buffer-format.rst.
fn cpio_of(name: &str, contents: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, contents) in [(name, 0o100_755, contents), ("TRAILER!!!", 0, &b""[..])] {
        let fields = [1, mode, 0, 0, 1, 0, contents.len(), 0, 0, 0, 0, name.len() + 1, 0];
        archive.extend_from_slice(b"070701");
        fields.iter().for_each(|field| archive.extend_from_slice(format!("{field:08x}").as_bytes()));
        archive.extend_from_slice(name.as_bytes());
        archive.push(0);
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend_from_slice(contents);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

fn wrong_kernel() -> Brought {
    let cache = OwnCache::new(Platform::LinuxArm64);
    // `b .`: an endless loop.
    fs::write(cache.image().join("kernel"), 0x1400_0000_u32.to_le_bytes().repeat(1024)).expect("a writable cache");
    cache.describe_again(|_| {});
    cache.record("boot_timeout: 5s", |watched| watched.since_boot().map(|since| since - 5.0))
}

fn missing_firmware() -> Brought {
    let cache = OwnCache::new(Platform::LinuxLoong64);
    fs::remove_file(cache.image().join("firmware")).expect("firmware");
    cache.describe_again(|image| image["firmware"] = serde_json::Value::Null);
    cache.record("", Watched::since_boot)
}

/// memgate cannot make its own either, because it cannot fetch anything.
fn qemu_too_old() -> Brought {
    let setting = Setting::new(Platform::LinuxArm64, "none", "");
    let old = tempfile::tempdir().expect("a temporary directory");
    let emulator = old.path().join("qemu-system-aarch64");
    fs::write(&emulator, "#!/bin/sh\necho QEMU emulator version 9.2.0\n").expect("a writable directory");
    fs::set_permissions(&emulator, fs::Permissions::from_mode(0o755)).expect("a writable directory");
    let mut command = setting.command("record");
    command.env("PATH", old.path()).env("MEMGATE_CACHE", old.path().join("cache"));
    setting.run(command, Watched::since_start)
}

/// A file system in memory with limited bytes and inodes.
pub struct Small(PathBuf);

impl Small {
    pub fn mount(at: &Path, options: &str) -> Self {
        fs::create_dir_all(at).expect("a writable directory");
        mount(Some("tmpfs"), at, Some("tmpfs"), MsFlags::empty(), Some(options)).expect("a tmpfs, as root");
        Self(at.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("what was mounted");
    }
}

fn disk_full() -> Brought {
    let setting = Setting::new(Platform::LinuxArm64, "flood-console", "");
    let small = Small::mount(&setting.bench.out(), "size=64k");
    let full = std::cell::Cell::new(None);
    let is_full = || nix::sys::statvfs::statvfs(&setting.bench.out()).is_ok_and(|free| free.blocks_available() == 0);
    let act = |_: &Setting, _| {
        if full.get().is_none() && is_full() {
            full.set(Some(Instant::now()));
        }
    };
    let brought = setting.run_and(setting.command("record"), act, |watched| {
        // The disk may have become full after the last check, before memgate ended.
        let never = if is_full() { 0.0 } else { f64::INFINITY };
        Some(full.get().map_or(never, |full| watched.since(full)))
    });
    drop(small);
    brought
}

/// Two memgates, because a single one would run its guests one after the other.
fn two_on_one_core() -> Brought {
    let patient = "boot_timeout: 5min";
    let settings = [Platform::LinuxArm64, Platform::LinuxAmd64]
        .map(|platform| Setting::new(platform, "none", patient).with("rate: 200/s", "rate: 20/s"));
    let pinned = |setting: &Setting| {
        let mut command = setting.command("record");
        let mut one = CpuSet::new();
        one.set(0).expect("a processor");
        // SAFETY: between fork and exec the closure makes only one system call, which is async-signal-safe, and
        // allocates nothing.
        unsafe {
            command.pre_exec(move || sched_setaffinity(Pid::from_raw(0), &one).map_err(std::io::Error::from));
        }
        command
    };
    let [mut first, second] = std::thread::scope(|scope| {
        let running = settings.each_ref().map(|setting| {
            let command = pinned(setting);
            scope.spawn(move || setting.run(command, |_| None))
        });
        running.map(|running| running.join().expect("no panic"))
    });
    first.wrong.extend(second.wrong);
    first.wrong.extend(settings.iter().filter_map(wrong_evidence));
    if first.output.status.success() {
        first.output = second.output;
    }
    first
}
