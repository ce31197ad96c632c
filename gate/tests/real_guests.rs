//! Guests: services of other platforms measured in QEMU, and every way that a guest can end.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    fs,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use common::{
    Bench, assert_fails,
    guests::{evidence, guests, record},
    stderr,
};
use memgate::{
    evidence::{Evidence, Exactness},
    platform::Platform,
    tier::Tier,
};

/// What a run in a guest must give on every kernel whose tier is T2 or more.
fn assert_measured(evidence: &Evidence, platform: Platform, page_size: u64) {
    assert_eq!(evidence.platform, platform);
    assert_eq!((evidence.environment.runner.as_str(), evidence.environment.page_size), ("qemu", page_size));
    let signals = &evidence.signals;
    // The agent holds every pause and cycle against the runtime's own totals.
    for (what, exactness) in [
        ("pauses", &signals.gc_pauses.exactness),
        ("stops", &signals.world_stops.exactness),
        ("live heap", &signals.live_heap.exactness),
    ] {
        assert_eq!(*exactness, Exactness::Exact, "{what}");
    }
    assert!(!signals.gc_pauses.data.duration_ns.is_empty(), "no pause");
    assert!(signals.alloc_bytes.data.value.last().is_some_and(|bytes| *bytes > 1 << 20), "no allocations");
    let requests = &signals.requests.data.measure;
    assert!(requests.succeeded > 100, "{requests:?}");
}

fn healthy(platform: Platform, page_size: u64, port: u16) {
    let bench = Bench::service("uaa", port, "");
    let evidence = evidence(&record(&bench, platform.name(), &[]));
    assert_measured(&evidence, platform, page_size);
    assert!(evidence.tier >= Tier::T2, "{}", evidence.tier);
}

#[test]
fn a_service_is_measured_on_arm64() {
    healthy(Platform::LinuxArm64, 4096, 18201);
}

#[test]
fn a_service_is_measured_on_loong64() {
    healthy(Platform::LinuxLoong64, 16384, 18202);
}

#[test]
fn a_service_is_measured_in_a_guest_of_the_hosts_own_platform() {
    healthy(Platform::LinuxAmd64, 4096, 18203);
}

/// A check of the saboteur with this fault on arm64.
fn sabotage(fault: &str, port: u16) -> (Output, String) {
    let (_bench, output, console) = sabotaged(fault, port);
    (output, console)
}

fn sabotaged(fault: &str, port: u16) -> (Bench, Output, String) {
    let bench = Bench::service("saboteur", port, &format!(", -fault, {fault}"));
    let yaml = fs::read_to_string(bench.config()).unwrap();
    fs::write(bench.config(), yaml + "platforms: { linux/arm64: { memory: 512MiB } }\n").unwrap();
    let output = record(&bench, "linux/arm64", &[]);
    let console = fs::read_to_string(bench.out().join("s.linux-arm64.run1.console.log")).unwrap_or_default();
    (bench, output, console)
}

#[test]
fn a_kernel_that_panics_is_told_with_its_reason() {
    let (output, console) = sabotage("panic-kernel", 18210);
    assert_fails(&output, 4, &["guest:", "panicked: Kernel panic - not syncing: sysrq triggered crash", "console.log"]);
    assert!(console.contains("Kernel panic"), "{console}");
}

#[test]
fn a_first_process_that_dies_is_a_panic() {
    let (output, _) = sabotage("kill-init", 18211);
    assert_fails(&output, 4, &["panicked: Kernel panic - not syncing: Attempted to kill init!"]);
}

#[test]
fn an_agent_that_is_killed_is_told_by_the_signal() {
    let (output, _) = sabotage("kill-agent", 18212);
    assert_fails(&output, 4, &["signalled: the agent was ended by SIGKILL"]);
}

#[test]
fn an_agent_that_stands_still_is_hung() {
    let (output, _) = sabotage("stop-agent", 18213);
    assert_fails(&output, 4, &["hung: the agent has said nothing for 15 s"]);
}

#[test]
fn a_channel_with_something_else_on_it_is_lost() {
    let (output, _) = sabotage("corrupt-channel", 18214);
    assert_fails(&output, 4, &["lost: its channel is corrupted: "]);
}

#[test]
fn a_console_that_is_flooded_changes_nothing() {
    let (output, console) = sabotage("flood-console", 18215);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(console.contains("flood flood") && console.len() < 6 << 20, "{}", console.len());
}

#[test]
fn a_service_that_uses_up_the_guests_memory_is_killed_and_told_of() {
    let (_bench, output, _) = sabotaged("use-memory", 18216);
    assert_eq!(evidence(&output).signals.oom_kills.data, 1);
}

/// Starts a check in the background, waits for its guest, does something to it, and waits for the end.
fn with_guest(port: u16, act: impl FnOnce(i32, i32)) -> (Output, Duration) {
    let bench = Bench::service("uaa", port, "");
    let mut command = bench.command("record");
    command.args(["--platform", "linux/arm64", "--runner", "qemu"]);
    let mut command = command_of(&command);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let memgate = child.id().cast_signed();
    let started = Instant::now();
    let qemu = loop {
        assert!(started.elapsed() < Duration::from_secs(120), "no guest");
        std::thread::sleep(Duration::from_millis(50));
        if let [qemu] = guests()[..] {
            break qemu;
        }
    };
    // It has booted or was resumed, and measures or is about to.
    std::thread::sleep(Duration::from_secs(5));
    let acted = Instant::now();
    act(memgate, qemu);
    let output = child.wait_with_output().unwrap();
    let took = acted.elapsed();
    assert_eq!(guests(), Vec::<i32>::new(), "guests are left");
    bench.assert_nothing_left();
    (output, took)
}

/// assert_cmd's command as the standard library's, which can be started without waiting for it.
fn command_of(command: &assert_cmd::Command) -> Command {
    let mut plain = Command::new(command.get_program());
    plain.args(command.get_args()).current_dir(common::repository());
    plain.env("NO_COLOR", "1").env_remove("GITHUB_STEP_SUMMARY");
    plain
}

fn signal(process: i32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), signal).unwrap();
}

#[test]
fn a_qemu_that_is_killed_is_lost() {
    let (output, took) = with_guest(18220, |_, qemu| signal(qemu, nix::sys::signal::Signal::SIGKILL));
    assert_fails(&output, 4, &["lost: QEMU was ended by SIGKILL"]);
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_guest_that_is_frozen_is_hung() {
    let (output, _) = with_guest(18221, |_, qemu| signal(qemu, nix::sys::signal::Signal::SIGSTOP));
    assert_fails(&output, 4, &["hung: the guest has said nothing for 15 s"]);
}

#[test]
fn an_interrupt_ends_the_guest() {
    let (output, took) = with_guest(18222, |memgate, _| signal(memgate, nix::sys::signal::Signal::SIGINT));
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn no_guest_outlives_a_memgate_that_is_killed() {
    let (output, _) = with_guest(18223, |memgate, _| signal(memgate, nix::sys::signal::Signal::SIGKILL));
    assert_eq!(output.status.code(), None);
}

/// A configuration with an executable that Debian built, which is linked with its C library, and these files beside it.
fn distribution_built(port: u16, files: &str) -> Bench {
    let binary = common::repository().join(".tools/prometheus-node-exporter-1.9.0-1+b4/prometheus-node-exporter");
    Bench::new(&format!(
        r#"version: 1
services:
  s:
    binary: {{ linux/amd64: "{}" }}
    run:
      args: ["--web.listen-address=127.0.0.1:{port}"]
      ready: {{ http: "http://127.0.0.1:{port}/metrics", timeout: 60s }}
    load: {{ rate: 5/s, connections: 2, timeout: 5s, requests: [ {{ get: "http://127.0.0.1:{port}/metrics" }} ] }}
    phases: {{ warmup: 2s, measure: 5s, drain: 1s }}
    runs: 1
platforms:
  linux/amd64: {{ files: {{ {files} }} }}
"#,
        binary.display()
    ))
}

#[test]
fn a_service_that_is_linked_with_what_the_guest_lacks_is_refused() {
    let output = record(&distribution_built(18230, ""), "linux/amd64", &[]);
    let words =
        ["preflight:", "dynamically linked", "/lib64/ld-linux-x86-64.so.2", "libc.so.6", "platforms.linux/amd64.files"];
    assert_fails(&output, 4, &words);
}

#[test]
fn a_distributions_service_runs_with_its_libraries() {
    let files = "/lib64/ld-linux-x86-64.so.2: /lib64/ld-linux-x86-64.so.2, \
                 /lib/x86_64-linux-gnu/libc.so.6: /lib/x86_64-linux-gnu/libc.so.6, \
                 /lib/x86_64-linux-gnu/libresolv.so.2: /lib/x86_64-linux-gnu/libresolv.so.2";
    let evidence = evidence(&record(&distribution_built(18231, files), "linux/amd64", &[]));
    assert_eq!(evidence.signals.gc_pauses.exactness, Exactness::Exact);
    assert!(evidence.signals.alloc_bytes.data.value.last().is_some_and(|bytes| *bytes > 1 << 20));
}

#[test]
fn an_executable_of_another_platform_is_refused_before_a_guest_is_started() {
    let bench = distribution_built(18232, "");
    let yaml = fs::read_to_string(bench.config()).unwrap();
    fs::write(bench.config(), yaml.replace("binary: { linux/amd64:", "binary: { linux/arm64:")).unwrap();
    let output = record(&bench, "linux/arm64", &[]);
    assert_fails(&output, 4, &["preflight:", "was built for", "not for linux/arm64"]);
}

#[test]
fn a_service_may_not_want_more_memory_than_its_guest_has() {
    let bench = Bench::service("uaa", 18233, "");
    let yaml = fs::read_to_string(bench.config()).unwrap();
    fs::write(bench.config(), yaml.replace("      stop_timeout", "      memory_max: 4GiB\n      stop_timeout"))
        .unwrap();
    let output = record(&bench, "linux/arm64", &[]);
    assert_fails(&output, 2, &["services.s.run.memory_max", "4096 MiB", "2048 MiB", "platforms.linux/arm64.memory"]);
}

#[test]
fn without_qemu_it_is_said_what_to_install() {
    let bench = Bench::service("uaa", 18234, "");
    let go = which_go();
    let mut command = bench.command("record");
    command.args(["--platform", "linux/loong64"]).env("PATH", go.parent().unwrap());
    let output = command.output().unwrap();
    assert_fails(&output, 4, &["guest:", "qemu-system-loongarch64 is not installed", "qemu-system-misc"]);
}

fn which_go() -> std::path::PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|place| place.join("go")).find(|go| go.is_file()).unwrap()
}

#[test]
fn a_guest_that_does_not_come_up_in_time_never_booted() {
    let bench = Bench::service("uaa", 18235, "");
    let yaml = fs::read_to_string(bench.config()).unwrap();
    fs::write(bench.config(), yaml + "platforms: { linux/loong64: { boot_timeout: 500ms } }\n").unwrap();
    let output = record(&bench, "linux/loong64", &["--no-snapshot"]);
    assert_fails(&output, 4, &["never booted: it was not ready after 0.5 s"]);
}

/// Two runs: the second goes on with the guest that the first one saved.
fn resumes(platform: Platform, port: u16) {
    let cache = tempfile::tempdir().unwrap();
    let packages = common::repository().join(".tools/guests/packages");
    if packages.exists() {
        std::os::unix::fs::symlink(packages, cache.path().join("packages")).unwrap();
    }
    let bench = Bench::service("saboteur", port, ", -fault, none");
    let run = || {
        let before = jiff::Timestamp::now();
        let mut command = bench.command("record");
        command.args(["--platform", platform.name()]).env("MEMGATE_CACHE", cache.path());
        let output = command.output().unwrap();
        bench.assert_nothing_left();
        let started: jiff::Timestamp = evidence(&output).started_at.parse().unwrap();
        assert!(before <= started && started <= jiff::Timestamp::now(), "{before} {started}");
        stderr(&output)
    };
    let said = run();
    assert!(said.contains("starting a guest") && !said.contains("resuming"), "{said}");
    let said = run();
    assert!(said.contains("resuming a guest") && !said.contains("starting a guest"), "{said}");
}

#[test]
fn a_guest_that_is_resumed_has_the_right_time() {
    resumes(Platform::LinuxArm64, 18236);
}

/// Its processors have to be given their timers back.
#[test]
fn a_guest_of_loong64_is_resumed() {
    resumes(Platform::LinuxLoong64, 18237);
}

#[test]
fn a_tier_that_the_kernel_does_not_have_is_refused() {
    let bench = Bench::service("uaa", 18238, "");
    let yaml = fs::read_to_string(bench.config()).unwrap();
    fs::write(bench.config(), yaml + "platforms: { linux/amd64: { kernel: \"5.10\" } }\n").unwrap();
    let output = record(&bench, "linux/amd64", &["--tier", "T3"]);
    assert_fails(&output, 4, &["tier T3 was asked for, and T2 is the highest here", "cookies"]);
}
