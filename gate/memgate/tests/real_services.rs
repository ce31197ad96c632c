//! Services that misbehave, and machines that lack something: memgate ends with the right exit code, a helpful message,
//! and no leftovers.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    fs,
    net::TcpListener,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{fs::PermissionsExt as _, process::CommandExt as _},
    },
    path::Path,
    process::Command,
    str::FromStr as _,
    time::Duration,
};

use common::{Bench, assert_fails, busy, can_attach, changed, repository, running::Running, stderr, stdout};
use memgate_files::{evidence_file, sha256};
use memgate_report::Format;
use nix::sys::{
    signal::Signal,
    socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, sockopt},
};

#[test]
fn a_service_that_is_never_ready() {
    if can_attach() {
        let bench =
            Bench::service("misbehave", 18111, ", -mode, never-ready").with("timeout: 60s }\n", "timeout: 8s }\n");
        let output = bench.run("check", &[]);
        let words = ["launch:", "answered 503", "http://127.0.0.1:18111/healthz", "ready.timeout", "service.log"];
        assert_fails(&output, 4, &words);
        assert_fails(&output, 4, &["its output: | misbehave: listening on 127.0.0.1:18111"]);
    }
}

#[test]
fn a_service_that_exits_at_once() {
    if can_attach() {
        let output = Bench::service("misbehave", 18112, ", -mode, exit").run("check", &[]);
        let words =
            ["launch:", "exited with code 3 before it was ready; its output: | misbehave: an exit was asked for"];
        assert_fails(&output, 4, &words);
        assert_fails(&output, 4, &["service.log"]);
    }
}

#[test]
fn a_service_that_ends_with_its_standard_input() {
    if can_attach() {
        let output = Bench::service("misbehave", 18147, ", -mode, stdin").run("check", &[]);
        let words = [
            "launch:",
            "exited with code 0 before it was ready and printed nothing",
            "standard input is /dev/null",
            "stdin: open",
        ];
        assert_fails(&output, 4, &words);
    }
}

/// A socket that listens at the address with `SO_REUSEPORT`, as a copy of the service that an earlier run left.
fn left_behind(address: &str) -> OwnedFd {
    let kind = SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(AddressFamily::Inet, SockType::Stream, kind, None).unwrap();
    socket::setsockopt(&socket, sockopt::ReusePort, &true).unwrap();
    socket::bind(socket.as_raw_fd(), &SockaddrIn::from_str(address).unwrap()).unwrap();
    socket::listen(&socket, Backlog::new(64).unwrap()).unwrap();
    socket
}

/// The words of the error about this very process.
fn another_listens(address: &str) -> [String; 2] {
    let this = std::process::id();
    [format!("another process listens at {address}, where requests to {address} go"), format!("process {this} (")]
}

/// The service is ready at another address, which is free.
#[test]
fn a_process_that_takes_a_part_of_the_connections_from_the_start() {
    let other = left_behind("127.0.0.1:18190");
    let bench = Bench::service("misbehave", 18190, ", -mode, share")
        .with("\"127.0.0.1:18190\"", "\"0.0.0.0:18190\"")
        .with("http: \"http://127.0.0.1:18190", "http: \"http://127.0.0.2:18190");
    let output = bench.run("check", &["--tier", "T0"]);
    assert_fails(&output, 4, &["launch:", "Another process listens at 127.0.0.1:18190;", "sport = :18190"]);
    drop(other);
    // Without it nobody complains.
    let output = bench.run("record", &["--tier", "T0"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn a_process_that_takes_a_part_of_the_connections_later() {
    // The other one has until the end of the measuring phase to listen.
    let bench = Bench::service("misbehave", 18191, ", -mode, share").with("measure: 3s", "measure: 10s");
    let mut command = Command::new(env!("CARGO_BIN_EXE_memgate"));
    command.args(["record", "--tier", "T0", "--config"]).arg(bench.config()).arg("--out").arg(bench.out());
    let mut memgate = Running::start(command.env("NO_COLOR", "1").current_dir(repository()));
    // memgate has looked once.
    memgate.says("warming up");
    let _other = left_behind("127.0.0.1:18191");
    let ended = memgate.ends();
    assert_eq!(ended.status.code(), Some(4), "{}", ended.said);
    for words in another_listens("127.0.0.1:18191") {
        assert!(
            ended.said.split_whitespace().collect::<Vec<_>>().join(" ").contains(&words),
            "{words}: {}",
            ended.said
        );
    }
    bench.assert_nothing_left();
}

#[test]
fn the_evidence_names_what_it_is_of() {
    let bench = Bench::service("misbehave", 18192, ", -mode, share");
    let output = bench.run("record", &["--tier", "T0"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let evidence = evidence_file::read(&bench.out().join("s.linux-amd64.run1.evidence.json")).unwrap();
    let origin = evidence.origin.unwrap();
    assert_eq!(origin.executable, sha256::of_file(&bench.out().join("build/linux-amd64/s")).unwrap());
    assert_eq!((origin.plan.len(), origin.memgate.as_str()), (64, memgate_agent::BUILD));
    // An archive of the sources has no commit.
    let mut git = Command::new("git");
    let head = git.args(["rev-parse", "--verify", "HEAD"]).current_dir(repository()).output().unwrap();
    let head = head.status.success().then(|| stdout(&head).trim().to_owned());
    assert_eq!(origin.commit.map(|commit| commit.hash), head);
}

#[test]
fn a_service_that_panics_under_load_fails_its_requests() {
    if can_attach() {
        let bench = Bench::service("misbehave", 18113, ", -mode, crash, -requests, \"400\"");
        let output = bench.run("check", &["--format", "json"]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let report = json(&output);
        assert_eq!(gate(&report, "request_errors")["verdict"], "regressed");
        let of_gc = gate(&report, "gc_cpu_fraction");
        assert_eq!(of_gc["verdict"], "inconclusive");
        assert!(of_gc["reason"].as_str().unwrap().contains("exited with code 2"), "{report:#}");
    }
}

#[test]
fn a_signal_that_ends_the_service_is_reported_by_name() {
    if can_attach() {
        let bench = Bench::service("misbehave", 18114, ", -mode, segv, -requests, \"400\"");
        let output = bench.run("check", &["--format", "json"]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(stdout(&output).contains("SIGSEGV"), "{}", stdout(&output));
    }
}

#[test]
fn a_service_that_starts_other_processes_is_inconclusive() {
    if can_attach() {
        let output = Bench::service("misbehave", 18115, ", -mode, fork").run("check", &["--format", "json"]);
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        let report = json(&output);
        let reason = gate(&report, "heap_live_growth")["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("started other processes"), "{reason}");
        let notes = report["results"][0]["notes"].to_string();
        assert!(notes.contains("up to 2 processes"), "{notes}");
        // What the kernel sees of the whole cgroup is whole. The child holds 8 MiB.
        let trust = |name: &str| {
            let signals = report["results"][0]["signals"].as_array().unwrap();
            signals.iter().find(|signal| signal["name"] == name).unwrap()["exactness"].clone()
        };
        for name in ["rss", "rss_kinds", "rss_peak", "swap", "threads", "fds"] {
            assert_eq!(trust(name), "sampled", "{name}");
        }
        assert_eq!(trust("page_faults"), "inexact");
    }
}

#[test]
fn a_service_that_fails_every_request() {
    if can_attach() {
        let bench = Bench::service("misbehave", 18116, ", -mode, fail-all");
        let output = bench.run("check", &["--format", "json", "--tier", "t0"]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let report = json(&output);
        assert_eq!(gate(&report, "request_errors")["measured"], 1.0);
        // The line that repeats the run consists of these words.
        let config = bench.config();
        let options = ["--config", config.to_str().unwrap(), "--tier", "T0"];
        assert_eq!(report["results"][0]["options"], serde_json::json!(options));
        assert!(
            report["results"][0]["gates"].as_array().unwrap().iter().all(|gate| gate["verdict"] != "pass"),
            "{report:#}"
        );
    }
}

#[test]
fn a_service_that_ignores_sigterm_is_killed_and_still_measured() {
    if can_attach() {
        let bench = Bench::service("misbehave", 18117, ", -mode, ignore-sigterm");
        let output = bench.run("record", &[]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let evidence = fs::read_to_string(stdout(&output).trim()).unwrap();
        assert!(evidence.contains(r#""ending":{"kind":"killed","after_ms":1000}"#));
        assert!(evidence.contains("did not end within 1000 ms of SIGTERM"));
    }
}

#[test]
fn a_service_that_runs_out_of_memory() {
    if can_attach() {
        let bench = Bench::service("misbehave", 18118, ", -mode, hog");
        let yaml = fs::read_to_string(bench.config()).unwrap();
        fs::write(bench.config(), changed(&yaml, "      stop_timeout", "      memory_max: 96MiB\n      stop_timeout"))
            .unwrap();
        let output = bench.run("check", &["--format", "json"]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let report = json(&output);
        assert_eq!(gate(&report, "oom_kills")["measured"], 1.0);
        assert_eq!(gate(&report, "oom_kills")["verdict"], "regressed");
    }
}

#[test]
fn a_port_that_another_process_uses() {
    if can_attach() {
        let _taken = TcpListener::bind("127.0.0.1:18119").unwrap();
        let output = Bench::service("uaa", 18119, "").run("check", &[]);
        assert_fails(&output, 4, &["127.0.0.1:18119", "Another process listens"]);
    }
}

#[test]
fn what_filled_the_cgroup_before_a_kill_is_told() {
    if can_attach() {
        const LIMIT: u64 = 96 << 20;
        let bench = Bench::service("misbehave", 18148, ", -mode, spool")
            .with("      stop_timeout", "      memory_max: 96MiB\n      stop_timeout");
        let output = bench.run("record", &[]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let evidence = evidence_file::read(Path::new(stdout(&output).trim())).unwrap();
        assert_eq!(evidence.signals.oom_kills.data, 1);
        let note = evidence.notes.iter().find(|note| note.starts_with("when the kernel killed for memory"));
        let note = note.unwrap_or_else(|| panic!("{:?}", evidence.notes));
        let largest = note.split_once(" of at most 96.0 MiB: ").unwrap().1;
        assert!(largest.contains(" MiB of shared memory (tmpfs), "), "{note}");
        // The last reading before the kill is close to it. The kernel sums the kinds up later than the whole.
        let memory = &evidence.signals.cgroup_memory.data;
        let fullest = (0..memory.at_ns.len()).max_by_key(|row| memory.current[*row]).unwrap();
        assert!(memory.current[fullest] > LIMIT / 100 * 95, "{note}: {memory:?}");
        assert!(memory.shmem[fullest] > LIMIT / 2, "{note}: {memory:?}");
    }
}

#[test]
fn memory_outside_of_the_process_is_in_its_cgroup() {
    if can_attach() {
        const SPOOLED: u64 = 32 << 20;
        let bench = Bench::service("misbehave", 18150, ", -mode, spool, -hog-max, 32MiB");
        let output = bench.run("record", &[]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let evidence = evidence_file::read(Path::new(stdout(&output).trim())).unwrap();
        let ends = |column: &[u64]| (column[0], *column.last().unwrap());
        let memory = &evidence.signals.cgroup_memory.data;
        let (before, after) = ends(&memory.shmem);
        // The kernel moves what it counts in batches for each CPU.
        assert!((after - before).abs_diff(SPOOLED) <= 1 << 20, "{memory:?}");
        let charged = ends(&memory.current);
        assert!(charged.1 - charged.0 > SPOOLED / 10 * 9, "{memory:?}");
        let (_, resident) = ends(&evidence.signals.rss_kinds.data.shared);
        assert!(resident < 1 << 20, "no process maps it: {resident}");
        let (idle, left) = ends(&evidence.signals.fds.data.value);
        assert_eq!(left - idle, 1, "the open file: {:?}", evidence.signals.fds);
    }
}

/// A service that does not build and one that does not start, before and after a good one.
fn one_good_of_three(port: u16) -> Bench {
    let bench = Bench::service("uaa", port, "");
    let yaml = fs::read_to_string(bench.config()).unwrap();
    let (head, service) = yaml.split_once("  s:\n").unwrap();
    let broken = changed(service, "./cmd/uaa", "./cmd/none");
    let ends = changed(service, "./cmd/uaa", "./cmd/misbehave");
    let ends = changed(&ends, "args: [", "args: [-mode, exit, ");
    fs::write(bench.config(), format!("{head}  a-broken:\n{broken}  b-ends:\n{ends}  s:\n{service}")).unwrap();
    bench
}

#[test]
fn each_service_of_a_run_has_its_own_outcome_in_every_report() {
    if can_attach() {
        let bench = one_good_of_three(18146);
        let yaml = fs::read_to_string(bench.config()).unwrap();
        fs::write(bench.config(), changed(&yaml, "    runs: 1\n", "    runs: 1\n    max_runs: 1\n")).unwrap();
        let formats =
            Format::ALL.map(|format| format!("{format}={}", bench.directory.path().join(format.file_name()).display()));
        let formats: Vec<&str> = formats.iter().flat_map(|format| ["--format", format]).collect();
        let output = bench.run("check", &formats);
        assert_fails(&output, 4, &["a-broken", "failed: build:", "cmd/none", "help: fix the build"]);
        assert_fails(&output, 4, &["b-ends", "failed: launch: b-ends: it exited with code 3", "an exit was asked for"]);
        let text = stderr(&output);
        assert!(text.find("× build:") < text.find("starting the service"), "builds come first: {text}");
        for format in Format::ALL {
            let text = fs::read_to_string(bench.directory.path().join(format.file_name())).unwrap();
            for said in ["a-broken", "b-ends", "cmd/none", "an exit was asked for", "s on linux/"] {
                let said = if format == Format::Json { said.trim_end_matches(" on linux/") } else { said };
                assert!(text.contains(said), "{format}: `{said}` is not in {text}");
            }
        }
        let json: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(bench.directory.path().join("report.json")).unwrap()).unwrap();
        assert_eq!(json["verdict"], serde_json::Value::Null);
        assert_eq!(json["results"].as_array().unwrap().len(), 1);
        assert_eq!((&json["results"][0]["service"], &json["results"][0]["runs"]), (&"s".into(), &1.into()));
        assert!(json["results"][0]["gates"].as_array().unwrap().len() > 5);
        let stages: Vec<_> =
            json["failures"].as_array().unwrap().iter().map(|failed| &failed["failure"]["stage"]).collect();
        assert_eq!(stages, ["build", "launch"]);
    }
}

#[test]
fn record_keeps_the_evidence_of_the_services_that_can_be_measured() {
    if can_attach() {
        let bench = one_good_of_three(18149);
        let output = bench.run("record", &[]);
        assert_fails(&output, 4, &["failed: build:", "failed: launch:"]);
        let files: Vec<_> = stdout(&output).lines().map(str::to_owned).collect();
        assert_eq!(files.len(), 1);
        assert_eq!(evidence_file::read(Path::new(&files[0])).unwrap().service, "s");
        // What is missing is still an error where evidence is put together.
        let mut merge = bench.command("merge");
        let merged = merge.args(["--platform", "host"]).args(&files).output().unwrap();
        assert_fails(&merged, 4, &["evidence is missing", "a-broken", "0 of 1 runs"]);
    }
}

#[test]
fn a_service_that_does_not_build() {
    let bench = Bench::service("uaa", 18120, "");
    let module = bench.directory.path().join("module");
    fs::create_dir_all(&module).unwrap();
    fs::write(module.join("go.mod"), "module broken\n\ngo 1.21\n").unwrap();
    fs::write(module.join("main.go"), "package main\n\nfunc main() { undefined() }\n").unwrap();
    let yaml = fs::read_to_string(bench.config()).unwrap();
    let fixtures = repository().join("fixtures-go");
    let yaml = changed(&yaml, &fixtures.display().to_string(), "module");
    let yaml = changed(&yaml, "./cmd/uaa", ".");
    fs::write(bench.config(), yaml).unwrap();
    if can_attach() {
        let output = bench.run("check", &[]);
        assert_fails(&output, 4, &["build:", "undefined: undefined", "main.go:3", "go build"]);
    }
}

#[test]
fn no_go() {
    if can_attach() {
        let bench = Bench::service("uaa", 18121, "");
        let module = bench.directory.path().join("module");
        fs::create_dir_all(&module).unwrap();
        let yaml = fs::read_to_string(bench.config()).unwrap();
        fs::write(bench.config(), changed(&yaml, &repository().join("fixtures-go").display().to_string(), "module"))
            .unwrap();
        let output = bench.command("check").env("PATH", "/nonexistent").output().unwrap();
        assert_fails(&output, 4, &["build:", "no `go` on PATH", "install Go"]);
        bench.assert_nothing_left();
    }
}

#[test]
fn a_load_command_that_ends_early() {
    if can_attach() {
        let bench = Bench::service("uaa", 18122, "");
        let yaml = fs::read_to_string(bench.config()).unwrap();
        let load = yaml.lines().find(|line| line.trim_start().starts_with("load:")).unwrap().to_owned();
        fs::write(bench.config(), changed(&yaml, &load, "    load: { command: [sh, -c, \"exit 7\"] }")).unwrap();
        assert_fails(&bench.run("check", &[]), 4, &["load:", "exit code 7"]);
    }
}

#[test]
fn not_root() {
    if can_attach() {
        let bench = Bench::service("uaa", 18123, "");
        let directory = bench.directory.path();
        // The checkout may be in a directory that others cannot read.
        fs::create_dir(directory.join("module")).unwrap();
        let yaml = fs::read_to_string(bench.config()).unwrap();
        fs::write(bench.config(), changed(&yaml, &repository().join("fixtures-go").display().to_string(), "module"))
            .unwrap();
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
        let binary = directory.join("memgate");
        fs::copy(env!("CARGO_BIN_EXE_memgate"), &binary).unwrap();
        let mut command = Command::new(binary);
        command.current_dir(directory).args(["check", "--out", "out"]).uid(65534).gid(65534);
        let output = command.output().unwrap();
        assert_fails(&output, 4, &["preflight:", "CAP_BPF", "run memgate as root"]);
        bench.assert_nothing_left();
    }
}

#[test]
fn no_bpf() {
    if can_attach() {
        let bench = Bench::service("uaa", 18124, "");
        let mut command = Command::new(env!("CARGO_BIN_EXE_memgate"));
        command.args(["check", "--config"]).arg(bench.config()).arg("--out").arg(bench.out());
        // SAFETY: the closure makes one system call, which is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                const CAP_BPF: nix::libc::c_ulong = 39;
                match nix::libc::prctl(nix::libc::PR_CAPBSET_DROP, CAP_BPF, 0, 0, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        assert_fails(&command.output().unwrap(), 4, &["preflight:", "CAP_BPF"]);
        bench.assert_nothing_left();
    }
}

#[test]
fn ctrl_c_ends_the_service_and_leaves_nothing() {
    if can_attach() {
        for (words, signal) in [
            ("building", Signal::SIGINT),
            ("starting the service", Signal::SIGINT),
            ("warming up", Signal::SIGTERM),
            ("measuring", Signal::SIGINT),
            ("draining", Signal::SIGTERM),
        ] {
            let bench = Bench::service("uaa", 18125, "");
            let mut memgate = Running::start(&mut common::plain(&bench.command("check")));
            memgate.says(words);
            memgate.signal(signal);
            let ended = memgate.ends();
            assert_eq!(ended.status.code(), Some(130), "{words}: {}", ended.said);
            assert!(ended.said.contains("interrupted"), "{words}: {}", ended.said);
            bench.assert_nothing_left();
        }
    }
}

#[test]
fn ctrl_c_does_not_wait_for_a_service_that_ignores_sigterm() {
    if can_attach() {
        let bench = Bench::service("misbehave", 18128, ", -mode, ignore-sigterm")
            .with("stop_timeout: 1s", "stop_timeout: 600s");
        let mut memgate = Running::start(&mut common::plain(&bench.command("check")));
        memgate.says("stopping the service");
        memgate.signal(Signal::SIGINT);
        let ended = memgate.ends();
        assert_eq!(ended.status.code(), Some(130), "{}", ended.said);
        bench.assert_nothing_left();
    }
}

#[test]
fn a_killed_memgate_ends_its_service() {
    if can_attach() {
        let bench = Bench::service("uaa", 18126, "").with("measure: 3s", "measure: 600s");
        let mut memgate = Running::start(&mut common::plain(&bench.command("check")));
        memgate.says("measuring");
        assert_eq!(bench.processes().len(), 1, "the service");
        memgate.signal(Signal::SIGKILL);
        memgate.ends();
        busy::until("the service has ended", || bench.processes().is_empty());
        busy::until("its cgroup is empty", || common::cgroups().iter().all(|cgroup| common::is_empty(cgroup)));
        // The next memgate removes what a killed one could not remove.
        assert_fails(
            &Bench::service("misbehave", 18126, ", -mode, exit").run("check", &[]),
            4,
            &["exited with code 3"],
        );
        bench.assert_nothing_left();
    }
}

#[test]
fn a_run_that_the_machine_has_spoiled_is_measured_again() {
    if can_attach() {
        let bench = Bench::service("uaa", 18157, "").with("measure: 3s", "measure: 10s");
        let mut memgate = Running::start(&mut common::plain(&bench.command("record")));
        memgate.says("run 1: measuring");
        // Nobody reads until the phase is over, whatever a busy machine does meanwhile.
        memgate.signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_secs(12));
        memgate.signal(Signal::SIGCONT);
        let ended = memgate.ends();
        let told = "run 1: measuring again, because the resident-set samples ";
        assert!(ended.status.success() && ended.said.contains(told), "{}", ended.said);
        let evidence = evidence_file::read(&bench.out().join("s.linux-amd64.run1.evidence.json")).unwrap();
        let told = "Run 1 was measured again. In the first attempt, the resident-set samples ";
        assert!(evidence.notes.iter().any(|note| note.starts_with(told)), "{:#?}", evidence.notes);
        bench.assert_nothing_left();
    }
}

#[test]
fn a_full_disk_is_reported_and_leaves_nothing() {
    if can_attach() {
        let bench = Bench::service("uaa", 18127, "");
        // A separate mount namespace makes the small file system disappear at the end.
        let script = format!(
            "mkdir -p {out} && mount -t tmpfs -o size=8k tmpfs {out} && mkdir {out}/build && mount --bind {build} {out}/build && {memgate} check --config {config} --out {out}; code=$?; ls -A {out} >&2; exit $code",
            out = bench.out().display(),
            build = bench.directory.path().display(),
            memgate = env!("CARGO_BIN_EXE_memgate"),
            config = bench.config().display(),
        );
        let output =
            Command::new("unshare").args(["--mount", "sh", "-c", &script]).current_dir(repository()).output().unwrap();
        assert_fails(&output, 4, &["output:", "No space left on device", "Make room"]);
        assert!(!stderr(&output).contains(".memgate-"), "{}", stderr(&output));
        bench.assert_nothing_left();
    }
}

fn json(output: &std::process::Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}\n{}", stdout(output), stderr(output)))
}

fn gate<'report>(report: &'report serde_json::Value, metric: &str) -> &'report serde_json::Value {
    let gates = report["results"][0]["gates"].as_array().unwrap();
    gates.iter().find(|gate| gate["metric"] == metric).unwrap_or_else(|| panic!("no gate {metric} in {report:#}"))
}
