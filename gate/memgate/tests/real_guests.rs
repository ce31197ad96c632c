//! Guests: services of other platforms in QEMU, and every way in which a guest can end.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use common::{
    Bench, assert_fails, busy, changed,
    faults::{self, OwnCache, Setting, Small},
    flat,
    guests::{evidence, guests, record},
    running::{Ended, Running},
    stderr, stdout,
};
use memgate_evidence::{
    Evidence, Exactness,
    platform::{Platform, Runner},
    tier::Tier,
};
use memgate_files::evidence_file;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Checks the evidence that every kernel with tier T2 or higher must provide.
fn assert_measured(evidence: &Evidence, platform: Platform, page_size: u64) {
    assert_eq!(evidence.platform, platform);
    assert_exact(evidence, page_size);
    let requests = &evidence.signals.requests.data.measure;
    assert!(requests.succeeded > 100, "{requests:?}");
}

/// The same for any service.
fn assert_exact(evidence: &Evidence, page_size: u64) {
    assert_eq!((evidence.environment.runner, evidence.environment.page_size), (Runner::Qemu, page_size));
    let signals = &evidence.signals;
    // The agent compares every pause and cycle with the runtime's own totals.
    for (what, exactness) in [
        ("pauses", &signals.gc_pauses.exactness),
        ("stops", &signals.world_stops.exactness),
        ("live heap", &signals.live_heap.exactness),
    ] {
        assert_eq!(*exactness, Exactness::Exact, "{what}");
    }
    assert!(!signals.gc_pauses.data.duration_ns.is_empty(), "no pause");
    assert!(signals.alloc_bytes.data.value.last().is_some_and(|bytes| *bytes > 1 << 20), "no allocations");
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

/// A sidecar that is a second instance of the service, and a worker that the service starts by executing itself.
fn with_company(platform: Platform, port: u16) {
    let args = format!("args: [-listen, \"127.0.0.1:{port}\"");
    let bench = Bench::service("uaa", port, "")
        .with("./cmd/uaa", "./field/habits")
        .with(&args, &format!("watch: {{ argument: worker }}\n      {args}, -habit, leaking-worker"))
        .with("post: ", "get: ")
        .with("/login", "/work");
    let sidecar = port + 1;
    let more = format!(
        "    sidecars:\n      second: {{ command: [$MEMGATE_SERVICE, -listen, \"127.0.0.1:{sidecar}\", -habit, batch], \
         ready: {{ tcp: \"127.0.0.1:{sidecar}\" }} }}\n"
    );
    let yaml = fs::read_to_string(bench.config()).unwrap();
    fs::write(bench.config(), yaml + &more).unwrap();
    let evidence = evidence(&record(&bench, platform.name(), &[]));
    assert_eq!(evidence.signals.live_heap.exactness, Exactness::Exact);
    assert!(evidence.environment.dependencies.starts_with("second `$MEMGATE_SERVICE -listen"), "{evidence:?}");
    assert!(evidence.notes.iter().any(|note| note.contains("that `run.watch` names")), "{:?}", evidence.notes);
    let requests = &evidence.signals.requests.data.measure;
    assert!(requests.succeeded > 100 && requests.failed.is_empty(), "{requests:?}");
}

#[test]
fn a_worker_is_measured_beside_a_sidecar_on_loong64() {
    with_company(Platform::LinuxLoong64, 18244);
}

#[test]
fn a_worker_is_measured_beside_a_sidecar_on_arm64() {
    with_company(Platform::LinuxArm64, 18246);
}

#[test]
fn as_many_guests_run_at_once_as_the_processors_allow() {
    let bench = Bench::service("uaa", 18243, "");
    let one = "platforms: { linux/arm64: { cpus: 1 }, linux/loong64: { cpus: 1 } }\n";
    let yaml = fs::read_to_string(bench.config()).unwrap();
    // Each guest has half the CPUs of a usual one.
    let yaml = changed(&yaml, "rate: 200/s", "rate: 100/s");
    fs::write(bench.config(), yaml + one).unwrap();
    let mut command = common::plain(&bench.command("record"));
    command.args(["--platform", "linux/arm64", "--platform", "linux/loong64"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut most = 0;
    while child.try_wait().unwrap().is_none() {
        most = most.max(common::children(child.id().cast_signed()).len());
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(most, std::thread::available_parallelism().unwrap().get().min(2), "{}", stderr(&output));
    let printed = stdout(&output);
    let recorded = printed.lines().map(|file| evidence_file::read(Path::new(file)).unwrap());
    let expected = [(Platform::LinuxArm64, 4096), (Platform::LinuxLoong64, 16384)];
    for (evidence, (platform, page_size)) in recorded.zip(expected) {
        assert_measured(&evidence, platform, page_size);
        assert_eq!(evidence.environment.cpus, 1);
    }
    assert_eq!(printed.lines().count(), expected.len());
    bench.assert_nothing_left();
}

/// A check of the saboteur with this fault on arm64.
fn sabotage(fault: &str, port: u16) -> Output {
    let bench = Bench::service("saboteur", port, &format!(", -fault, {fault}"));
    record(&bench, "linux/arm64", &[])
}

#[test]
fn a_kernel_that_panics_before_its_first_process_is_reported_with_its_reason() {
    faults::assert_found("kernel panic before init");
}

#[test]
fn a_kernel_that_panics_is_reported_with_its_reason() {
    faults::assert_found("kernel panic after init");
}

#[test]
fn a_first_process_that_dies_is_a_panic() {
    faults::assert_found("init killed");
}

#[test]
fn a_signal_that_kills_the_agent_is_reported() {
    faults::assert_found("agent killed");
}

#[test]
fn an_agent_that_stops_is_hung() {
    assert_fails(&sabotage("stop-agent", 18213), 4, &["hung: the agent has said nothing for 15 s"]);
}

#[test]
fn a_guest_with_a_corrupted_channel_is_lost() {
    faults::assert_found("frames corrupted");
}

#[test]
fn a_flooded_console_changes_nothing() {
    faults::assert_found("console flooded with a million lines");
}

#[test]
fn a_service_that_exhausts_the_guests_memory_is_killed_and_fails_its_gate() {
    faults::assert_found("service out of memory");
}

#[test]
fn a_qemu_that_is_killed_is_lost() {
    faults::assert_found("QEMU killed");
}

#[test]
fn a_guest_that_is_frozen_is_hung() {
    faults::assert_found("guest frozen");
}

#[test]
fn a_console_that_cannot_be_written_ends_the_guest() {
    faults::assert_found("disk full on the host");
}

#[test]
fn a_kernel_that_does_not_boot_is_stopped_at_its_deadline() {
    faults::assert_found("wrong kernel");
}

#[test]
fn a_guest_without_its_firmware_never_boots() {
    faults::assert_found("missing firmware");
}

#[test]
fn a_qemu_that_is_too_old_is_not_started() {
    faults::assert_found("QEMU too old");
}

#[test]
fn two_guests_on_one_core_both_finish() {
    faults::assert_found("two guests on one core");
}

/// A service that fails as on a broken processor while the returned file contains `broken`.
fn on_a_broken_processor(port: u16) -> (Bench, PathBuf) {
    let bench = Bench::service("saboteur", port, "");
    let state = bench.directory.path().join("processor");
    fs::write(&state, "broken").unwrap();
    let yaml = fs::read_to_string(bench.config()).unwrap();
    let files = format!("platforms: {{ linux/arm64: {{ files: {{ /processor: {} }} }} }}\n", state.display());
    fs::write(bench.config(), yaml + &files).unwrap();
    (bench, state)
}

#[test]
fn a_run_whose_processor_always_fails_ends_after_three_attempts() {
    let (bench, _) = on_a_broken_processor(18244);
    let output = record(&bench, "linux/arm64", &[]);
    let words = ["guest:", "the emulated processor failed", "3 times in a row", "QEMU 10.0.13 or later"];
    assert_fails(&output, 4, &words);
    assert_eq!(stderr(&output).matches("starting the service").count(), 3, "{}", stderr(&output));
}

#[test]
fn a_run_whose_processor_fails_once_is_repeated_in_another_guest() {
    use std::io::{BufRead as _, BufReader};
    let (bench, state) = on_a_broken_processor(18245);
    let mut command = common::plain(&bench.command("record"));
    command.args(["--platform", "linux/arm64"]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines: Vec<_> = BufReader::new(child.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .inspect(|line| {
            if line.ends_with("starting the service") {
                // The first guest already has its file, and the next one gets this.
                fs::write(&state, "mended").unwrap();
            }
        })
        .collect();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| line.ends_with("starting the service")).count(), 2, "{lines:#?}");
    let evidence = evidence(&output);
    let reported = |note: &String| note.starts_with("attempt 2 in a guest: the emulated processor failed");
    assert!(evidence.notes.iter().any(reported), "{:?}", evidence.notes);
    bench.assert_nothing_left();
}

/// The output of a run if a file of an image has changed and the image cannot be made again.
fn spoilt(platform: Platform, spoil: impl FnOnce(&Path)) -> Output {
    let cache = OwnCache::new(platform);
    spoil(&cache.image());
    cache.record_alone()
}

#[test]
fn a_kernel_that_was_replaced_is_not_started() {
    let output = spoilt(Platform::LinuxArm64, |image| fs::write(image.join("kernel"), "another kernel").unwrap());
    let words = ["the image of arm64-7.2 in the cache is damaged", "guest:", "cannot fetch", "check the network"];
    assert_fails(&output, 4, &words);
    assert!(!stderr(&output).contains("starting a guest"), "{}", stderr(&output));
}

#[test]
fn missing_firmware_is_noticed_before_a_guest_is_started() {
    let output = spoilt(Platform::LinuxLoong64, |image| fs::remove_file(image.join("firmware")).unwrap());
    assert_fails(&output, 4, &["the image of loong64-7.2 in the cache is damaged", "guest:", "cannot fetch"]);
    assert!(!stderr(&output).contains("starting a guest"), "{}", stderr(&output));
}

/// The names in the directory of an image's snapshots.
fn snapshots(cache: &OwnCache) -> Vec<String> {
    let entries = fs::read_dir(cache.image().join("snapshots")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_snapshot_that_has_changed_is_made_again() {
    let cache = OwnCache::new(Platform::LinuxArm64);
    let setting = Setting::new(Platform::LinuxArm64, "none", "");
    let record = || {
        let output = setting.command("record").env("MEMGATE_CACHE", cache.directory.path()).output().unwrap();
        let notes = evidence(&output).notes;
        let noted = notes.iter().find(|note| note.contains("snapshot")).cloned();
        (noted, flat(&stderr(&output)))
    };
    assert_eq!(record().0, None);
    let [name] = &snapshots(&cache)[..] else { panic!("one snapshot") };
    let memory = cache.image().join("snapshots").join(name).join("memory");
    let (noted, said) = record();
    assert!(noted.is_none() && said.contains("resuming a guest"), "{noted:?} {said}");
    let file = File::options().read(true).write(true).open(&memory).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 0).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 0).unwrap();
    let (noted, _) = record();
    let noted = noted.expect("a note");
    assert!(noted.starts_with("a snapshot could not be resumed, so the guest was booted: "), "{noted}");
    assert!(noted.ends_with("memory has changed since it was saved"), "{noted}");
    assert_eq!(record().0, None, "the snapshot was made again");
    assert_eq!(setting.left(), Vec::<String>::new());
}

#[test]
fn a_qemu_that_does_not_answer_while_it_saves_costs_only_the_snapshot() {
    let cache = OwnCache::new(Platform::LinuxArm64);
    let setting = Setting::new(Platform::LinuxArm64, "none", "");
    let mut command = setting.command("record");
    command.env("MEMGATE_CACHE", cache.directory.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut memgate = command.spawn().unwrap();
    while snapshots(&cache).is_empty() {
        assert!(memgate.try_wait().unwrap().is_none(), "it has ended without a snapshot");
        std::thread::sleep(Duration::from_millis(1));
    }
    let [qemu] = common::children(memgate.id().cast_signed())[..] else { panic!("one guest") };
    kill(Pid::from_raw(qemu), Signal::SIGSTOP).unwrap();
    let output = memgate.wait_with_output().unwrap();
    let notes = evidence(&output).notes;
    let noted = |note: &String| {
        note.starts_with("a guest was booted again, and not saved: the guest cannot be saved: QEMU has not answered ")
    };
    assert!(notes.iter().any(noted), "{notes:?}");
    assert_eq!(snapshots(&cache), Vec::<String>::new());
    assert_eq!(setting.left(), Vec::<String>::new());
}

#[test]
fn no_room_for_temporary_files_is_reported() {
    let setting = Setting::new(Platform::LinuxArm64, "none", "");
    let full = setting.bench.directory.path().join("full");
    // One inode, which the root directory uses.
    let small = Small::mount(&full, "nr_inodes=1");
    let output = setting.command("record").env("TMPDIR", &full).output().unwrap();
    assert_fails(&output, 4, &["guest: a temporary directory:", "No space left on device", "make room"]);
    drop(small);
    assert_eq!(setting.left(), Vec::<String>::new());
}

#[test]
fn no_room_for_an_image_is_reported() {
    let setting = Setting::new(Platform::LinuxArm64, "none", "");
    let cache = setting.bench.directory.path().join("cache");
    let small = Small::mount(&cache, "size=4m,mode=755");
    faults::lend_packages(&cache);
    let output = setting.command("record").env("MEMGATE_CACHE", &cache).output().unwrap();
    assert_fails(&output, 4, &["guest:", "No space left on device", "free some space"]);
    drop(small);
    assert_eq!(setting.left(), Vec::<String>::new());
}

#[test]
fn no_room_for_the_evidence_is_reported() {
    let setting = Setting::new(Platform::LinuxArm64, "none", "");
    let small = Small::mount(&setting.bench.out(), "size=32k");
    let output = setting.command("record").output().unwrap();
    assert_fails(&output, 4, &["output:", "evidence.json", "No space left on device", "Make room"]);
    drop(small);
    assert_eq!(setting.left(), Vec::<String>::new());
}

/// Starts a record in the background, sends it a signal during its guest's long measuring phase, and waits for the end
/// of both.
fn signalled(port: u16, signal: Signal) -> Ended {
    let bench = Bench::service("uaa", port, "").with("measure: 3s", "measure: 600s");
    let mut command = common::plain(&bench.command("record"));
    command.args(["--platform", "linux/arm64", "--runner", "qemu"]);
    let mut memgate = Running::start(&mut command);
    memgate.says("measuring");
    let [qemu] = common::children(memgate.id())[..] else { panic!("one guest") };
    let asked = Instant::now();
    memgate.signal(signal);
    let ended = memgate.ends();
    // The measuring phase takes ten minutes.
    assert!(asked.elapsed() < Duration::from_secs(120), "{:?}", asked.elapsed());
    if ended.status.code().is_none() {
        // The kernel ends the guest of a killed memgate.
        busy::until("the guest has ended", || !is_running(qemu));
    }
    assert_eq!(guests(), Vec::<i32>::new(), "guests are left");
    bench.assert_nothing_left();
    ended
}

/// Whether a process has not ended yet. A process that is not reaped yet has no command line any more.
fn is_running(process: i32) -> bool {
    fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[test]
fn an_interrupt_ends_the_guest() {
    let ended = signalled(18222, Signal::SIGINT);
    assert_eq!(ended.status.code(), Some(130), "{}", ended.said);
}

#[test]
fn no_guest_outlives_a_memgate_that_is_killed() {
    let ended = signalled(18223, Signal::SIGKILL);
    assert_eq!(ended.status.code(), None, "{}", ended.said);
}

/// A configuration with Debian's executable, which needs its C library, and with these files.
fn distribution_built(platform: Platform, port: u16, files: &[(&str, PathBuf)]) -> Bench {
    let package = match platform {
        Platform::LinuxLoong64 => "prometheus-node-exporter-1.11.1-3",
        _ => "prometheus-node-exporter-1.9.0-1+b4",
    };
    let binary = tool(package).join("prometheus-node-exporter");
    let files: Vec<_> = files.iter().map(|(there, here)| format!("{there}: {}", here.display())).collect();
    Bench::new(&format!(
        r#"version: 1
services:
  s:
    binary: {{ {platform}: "{}" }}
    run:
      args: ["--web.listen-address=127.0.0.1:{port}"]
      ready: {{ http: "http://127.0.0.1:{port}/metrics", timeout: 120s }}
    load: {{ rate: 5/s, connections: 2, timeout: 60s, requests: [ {{ get: "http://127.0.0.1:{port}/metrics" }} ] }}
    phases: {{ warmup: 2s, measure: 5s, drain: 1s }}
    runs: 1
platforms:
  {platform}: {{ files: {{ {} }} }}
"#,
        binary.display(),
        files.join(", ")
    ))
}

/// A directory that set-up installed.
fn tool(name: &str) -> PathBuf {
    common::repository().join(".tools").join(name)
}

#[test]
fn a_service_whose_libraries_the_guest_lacks_is_refused() {
    let output = record(&distribution_built(Platform::LinuxAmd64, 18230, &[]), "linux/amd64", &[]);
    let words =
        ["preflight:", "dynamically linked", "/lib64/ld-linux-x86-64.so.2", "libc.so.6", "platforms.linux/amd64.files"];
    assert_fails(&output, 4, &words);
}

#[test]
fn a_distributions_service_runs_with_its_libraries() {
    let files =
        ["/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6", "/lib/x86_64-linux-gnu/libresolv.so.2"]
            .map(|file| (file, file.into()));
    let platform = Platform::LinuxAmd64;
    let evidence = evidence(&record(&distribution_built(platform, 18231, &files), platform.name(), &[]));
    assert_exporter_measured(&evidence, 4096);
}

#[test]
fn a_distributions_service_runs_on_loong64_with_its_libraries() {
    let libraries = tool("libc6-2.43-7");
    let files = [
        ("/lib64/ld-linux-loongarch-lp64d.so.1", "ld-linux-loongarch-lp64d.so.1"),
        ("/lib/loongarch64-linux-gnu/libc.so.6", "libc.so.6"),
        ("/lib/loongarch64-linux-gnu/libresolv.so.2", "libresolv.so.2"),
    ]
    .map(|(there, here)| (there, libraries.join(here)));
    let platform = Platform::LinuxLoong64;
    let evidence = evidence(&record(&distribution_built(platform, 18242, &files), platform.name(), &[]));
    assert_exporter_measured(&evidence, 16384);
}

/// Checks the exporter's evidence. It answers 25 requests in the measuring phase.
fn assert_exporter_measured(evidence: &Evidence, page_size: u64) {
    assert_exact(evidence, page_size);
    let requests = &evidence.signals.requests.data.measure;
    assert!(requests.succeeded >= 20 && requests.failed.is_empty(), "{requests:?}");
    assert_eq!(evidence.tier, Tier::T4);
}

/// Zig compiles its C code for the guest, statically. memgate detects the leak in the C code.
#[test]
fn a_service_with_c_is_built_for_its_guest_and_measured() {
    let tools = tool("");
    let is_zig = |path: &PathBuf| path.to_str().is_some_and(|path| path.contains("/zig-"));
    let zig = fs::read_dir(tools).unwrap().map(|entry| entry.unwrap().path()).find(is_zig).unwrap();
    let bench = Bench::service("uaa", 18239, ", -leak-malloc=16KiB");
    let yaml = fs::read_to_string(bench.config()).unwrap();
    let yaml = changed(&yaml, "env: { CGO_ENABLED: \"0\" }", "tags: [cgoleak], env: { CGO_ENABLED: \"1\", CC: none }");
    let platforms = format!(
        "platforms: {{ linux/arm64: {{ build_env: {{ CC: {}/zig cc -target aarch64-linux-musl, CGO_LDFLAGS: -static }} }} }}\n",
        zig.display()
    );
    fs::write(bench.config(), yaml + &platforms).unwrap();
    let evidence = evidence(&record(&bench, "linux/arm64", &[]));
    let signals = &evidence.signals;
    let off_heap = &signals.offheap.data.value;
    // 600 requests are measured, and more come before them.
    assert!(off_heap.last().unwrap() - off_heap[0] > 600 * (16 << 10), "{off_heap:?}");
    let culprit = evidence.code.frames.iter().any(|frame| frame.function.contains("render_and_forget"));
    assert!(culprit, "the C function is known");
}

#[test]
fn an_executable_of_another_platform_is_refused_before_a_guest_is_started() {
    let bench = distribution_built(Platform::LinuxAmd64, 18232, &[]);
    let yaml = fs::read_to_string(bench.config()).unwrap();
    fs::write(bench.config(), changed(&yaml, "binary: { linux/amd64:", "binary: { linux/arm64:")).unwrap();
    let output = record(&bench, "linux/arm64", &[]);
    assert_fails(&output, 4, &["preflight:", "was built for", "not for linux/arm64"]);
}

#[test]
fn a_service_may_not_have_more_memory_than_its_guest() {
    let bench = Bench::service("uaa", 18233, "");
    let yaml = fs::read_to_string(bench.config()).unwrap();
    fs::write(bench.config(), changed(&yaml, "      stop_timeout", "      memory_max: 4GiB\n      stop_timeout"))
        .unwrap();
    let output = record(&bench, "linux/arm64", &[]);
    assert_fails(&output, 2, &["services.s.run.memory_max", "4096 MiB", "2048 MiB", "platforms.linux/arm64.memory"]);
}

#[test]
fn without_qemu_and_apt_the_error_names_what_to_install() {
    let bench = Bench::service("uaa", 18234, "");
    let go = which_go();
    let mut command = bench.command("record");
    let cache = tempfile::tempdir().unwrap();
    command.args(["--platform", "linux/loong64"]).env("PATH", go.parent().unwrap()).env("MEMGATE_CACHE", cache.path());
    let output = command.output().unwrap();
    let words = ["guest:", "qemu-system-loongarch64 is not installed", "there is no `apt-get`", "install QEMU 10.0.13"];
    assert_fails(&output, 4, &words);
}

fn which_go() -> std::path::PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|place| place.join("go")).find(|go| go.is_file()).unwrap()
}

#[test]
fn a_guest_that_is_not_ready_in_time_never_booted() {
    let bench = Bench::service("uaa", 18235, "");
    let yaml = fs::read_to_string(bench.config()).unwrap();
    fs::write(bench.config(), yaml + "platforms: { linux/loong64: { boot_timeout: 500ms } }\n").unwrap();
    let output = record(&bench, "linux/loong64", &["--no-snapshot"]);
    assert_fails(&output, 4, &["never booted: it was not ready after 0.5 s"]);
}

/// Makes two runs. The second resumes the guest that the first one saved.
fn resumes(platform: Platform, port: u16) {
    let cache = faults::empty_cache();
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
fn a_resumed_guest_has_the_right_time() {
    resumes(Platform::LinuxArm64, 18236);
}

/// The timers of its processors must work again.
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

/// `memgate image boot` of this platform, with its output in a temporary directory.
fn boot(platform: &str, words: &[&str]) -> (tempfile::TempDir, std::process::Command) {
    let directory = tempfile::tempdir().unwrap();
    let mut command = common::plain(&common::memgate());
    command.args(["image", "boot", "--platform", platform, "--out"]).arg(directory.path());
    if !words.is_empty() {
        command.arg("--").args(words);
    }
    command.env("TMPDIR", directory.path());
    (directory, command)
}

/// The contents of a directory.
fn names(directory: &std::path::Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn run_a_command(platform: &str, machine: &str, kernel: &str) {
    let script =
        "uname -m; test -e /sys/kernel/tracing/trace -a -d /proc/1 -a -c /dev/null && echo complaint >&2; exit 7";
    let (directory, mut command) = boot(platform, &["sh", "-c", script]);
    let output = command.output().unwrap();
    assert_eq!(
        (stdout(&output).as_str(), output.status.code()),
        (&*format!("{machine}\n"), Some(7)),
        "{}",
        stderr(&output)
    );
    assert!(stderr(&output).ends_with("complaint\n"), "{}", stderr(&output));
    assert_eq!(names(directory.path()), [format!("boot.{kernel}.console.log")]);
}

#[test]
fn a_command_is_run_on_amd64() {
    run_a_command("linux/amd64", "x86_64", "amd64-7.2");
}

#[test]
fn a_command_is_run_on_arm64() {
    run_a_command("linux/arm64", "aarch64", "arm64-7.2");
}

#[test]
fn a_command_is_run_on_loong64() {
    run_a_command("linux/loong64", "loongarch64", "loong64-7.2");
}

#[test]
fn a_missing_command_has_the_exit_code_of_a_shell() {
    let output = boot("linux/arm64", &["frobnicate"]).1.output().unwrap();
    assert_fails(&output, 127, &["frobnicate: No such file or directory"]);
}

#[test]
fn an_endless_command_ends_with_memgate() {
    let (directory, mut command) = boot("linux/arm64", &["sh", "-c", "echo there; sleep 1000"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut there = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut there).unwrap();
    let asked = Instant::now();
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((&there, output.status.code()), (b"there\n", Some(130)), "{}", stderr(&output));
    // The command sleeps longer than this.
    assert!(asked.elapsed() < Duration::from_secs(120), "{:?}", asked.elapsed());
    assert_eq!(names(directory.path()), ["boot.arm64-7.2.console.log"]);
}

#[test]
fn a_shell_needs_a_terminal() {
    let output = boot("linux/arm64", &[]).1.stdin(Stdio::null()).output().unwrap();
    assert_fails(&output, 2, &["there is no terminal", "-- uname -a"]);
}

/// A user at a terminal with a guest's shell.
struct User {
    directory: tempfile::TempDir,
    terminal: fs::File,
    screen: std::sync::mpsc::Receiver<Vec<u8>>,
    /// The other end, which memgate uses.
    line: fs::File,
    before: nix::sys::termios::Termios,
    memgate: std::process::Child,
    shown: String,
}

impl User {
    fn starts() -> Self {
        use std::os::unix::process::CommandExt as _;
        let size = nix::pty::Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = nix::pty::openpty(&size, None).unwrap();
        let (terminal, line) = (fs::File::from(pair.master), fs::File::from(pair.slave));
        // If memgate also had this end, it would never notice that the user has left.
        let close = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
        nix::fcntl::fcntl(&terminal, close).unwrap();
        let before = nix::sys::termios::tcgetattr(&line).unwrap();
        let (directory, mut command) = boot("linux/arm64", &[]);
        let end = || line.try_clone().unwrap();
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "vt100");
        // SAFETY: between fork and exec the closure makes only two system calls, which are async-signal-safe, and
        // allocates nothing.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                match nix::libc::ioctl(0, nix::libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let memgate = command.spawn().unwrap();
        let (show, screen) = std::sync::mpsc::channel();
        let mut shown = terminal.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The thread ends with the test, or when the other end is closed.
            while let Ok(read @ 1..) = std::io::Read::read(&mut shown, &mut bytes) {
                if show.send(bytes[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        let mut user = Self { directory, terminal, screen, line, before, memgate, shown: String::new() };
        user.sees("# ");
        user
    }

    fn types(&mut self, keys: &str) {
        std::io::Write::write_all(&mut self.terminal, keys.as_bytes()).unwrap();
    }

    /// Waits until this text appears.
    fn sees(&mut self, text: &str) {
        let deadline = Instant::now() + Duration::from_secs(300);
        while !self.shown.contains(text) {
            assert!(Instant::now() < deadline, "`{text}` is not in:\n{}", self.shown);
            if let Ok(bytes) = self.screen.recv_timeout(Duration::from_millis(100)) {
                self.shown += &String::from_utf8_lossy(&bytes);
            }
        }
        self.shown.clear();
    }

    /// Waits for memgate's end with this exit code. memgate must restore the terminal.
    fn leaves_with(mut self, code: i32) {
        let status = self.memgate.wait().unwrap();
        assert_eq!(status.code(), Some(code), "{}", self.shown);
        let after = nix::sys::termios::tcgetattr(&self.line).unwrap();
        assert_eq!(after, self.before);
        assert_eq!(names(self.directory.path()), ["boot.arm64-7.2.console.log"]);
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // This cleans up after a failed test.
        let _ = self.memgate.kill();
        let _ = self.memgate.wait();
    }
}

#[test]
fn memgate_ends_with_the_exit_code_of_the_shell_on_its_terminal() {
    let mut user = User::starts();
    user.types("echo $TERM $((6 * 7)); stty size; tty; cat\n");
    user.sees("vt100 42\r\n33 99\r\n/dev/ttyAMA0");
    // The typed text appears once, and again from `cat`, which shows that `cat` runs.
    user.types("over there\n");
    user.sees("over there\r\nover there\r\n");
    // Ctrl-C goes to the guest.
    user.types("\x03");
    user.sees("# ");
    user.types("exit 3\n");
    user.leaves_with(3);
}

#[test]
fn ctrl_a_x_leaves_the_shell() {
    let mut user = User::starts();
    user.types("\x01x");
    user.leaves_with(0);
}

#[test]
fn switching_the_guest_off_leaves_the_shell() {
    let mut user = User::starts();
    user.types("poweroff\n");
    user.leaves_with(0);
}
