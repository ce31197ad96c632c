//! Services that misbehave, and machines that lack something: memgate ends with the right exit code, a helpful message,
//! and no leftovers.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::Command,
};

use common::{Bench, assert_fails, busy, can_attach, repository, running::Running, stderr, stdout};
use nix::sys::signal::Signal;

#[test]
fn a_service_that_is_never_ready() {
    if can_attach() {
        let bench =
            Bench::service("misbehave", 18111, ", -mode, never-ready").with("timeout: 60s }\n", "timeout: 8s }\n");
        let output = bench.run("check", &[]);
        assert_fails(&output, 4, &["launch:", "answered 503", "http://127.0.0.1:18111/healthz", "ready.timeout"]);
    }
}

#[test]
fn a_service_that_exits_at_once() {
    if can_attach() {
        let output = Bench::service("misbehave", 18112, ", -mode, exit").run("check", &[]);
        assert_fails(&output, 4, &["launch:", "exited with code 3 before it was ready", "service.log"]);
    }
}

#[test]
fn a_service_that_panics_under_load_fails_its_requests() {
    if can_attach() {
        let bench = Bench::service("misbehave", 18113, ", -mode, crash, -requests, \"400\"");
        let output = bench.run("check", &["--format", "json"]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        let report = json(&output);
        assert_eq!(gate(&report, "request_errors")["verdict"], "regressed");
        assert_eq!(gate(&report, "gc_pause_p99")["verdict"], "inconclusive");
        assert!(gate(&report, "gc_pause_p99")["reason"].as_str().unwrap().contains("exited with code 2"), "{report:#}");
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
        let reason = gate(&report, "rss_growth")["reason"].as_str().unwrap().to_owned();
        assert!(reason.contains("started other processes"), "{reason}");
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
        fs::write(bench.config(), yaml.replace("      stop_timeout", "      memory_max: 96MiB\n      stop_timeout"))
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
fn nothing_is_measured_before_every_service_is_built() {
    if can_attach() {
        let bench = Bench::service("uaa", 18146, "");
        let yaml = fs::read_to_string(bench.config()).unwrap();
        let (head, service) = yaml.split_once("  s:\n").unwrap();
        let broken = service.replace("./cmd/uaa", "./cmd/none");
        fs::write(bench.config(), format!("{head}  s:\n{service}  t:\n{broken}")).unwrap();
        let output = bench.run("record", &[]);
        assert_fails(&output, 4, &["build:", "cmd/none"]);
        assert!(!stderr(&output).contains("starting the service"), "{}", stderr(&output));
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
    let yaml = yaml.replace(&fixtures.display().to_string(), "module").replace("./cmd/uaa", ".");
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
        fs::write(bench.config(), yaml.replace(&repository().join("fixtures-go").display().to_string(), "module"))
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
        fs::write(bench.config(), yaml.replace(&load, "    load: { command: [sh, -c, \"exit 7\"] }")).unwrap();
        assert_fails(&bench.run("check", &[]), 4, &["load:", "7"]);
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
        fs::write(bench.config(), yaml.replace(&repository().join("fixtures-go").display().to_string(), "module"))
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
