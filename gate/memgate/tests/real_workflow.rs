//! The workflow that users copy works in a container: its own commands, natively, with namespaces of their own, a root
//! file system that cannot be written, no tracefs, and a checkout of another owner.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::{Command, Output},
};

use common::{can_attach, cgroups, changed, repository, stderr, stdout, uaa};
use memgate_evidence::{Exactness, platform::Platform, tier::Tier};
use memgate_files::{evidence_file, names::RunFiles};
use serde_yaml::Value;

/// The user that the workflow names.
const UID: u32 = 60_001;

const CONFIG: &str = r#"version: 1
services:
  s:
    binary: { PLATFORM: uaa }
    run:
      args: [-listen, "127.0.0.1:PORT"]
      ready: { http: "http://127.0.0.1:PORT/healthz", timeout: 60s }
      memory_max: 256MiB
    load: { rate: 100/s, connections: 2, timeout: 60s, requests: [ { post: "http://127.0.0.1:PORT/login" } ] }
    phases: { warmup: 1s, measure: 3s, drain: 1s }
    runs: 2
"#;

/// Makes the container's file systems: `$0` is memgate, `$1` the checkout, `$2` where results are kept.
const CONTAINER: &str = r#"set -e
mount --make-rprivate /
mount -t tmpfs -o mode=777 tmpfs /opt
mkdir -m 777 /opt/memgate /opt/checkout /opt/kept
cp "$0" /opt/memgate/memgate
mount --bind "$1" /opt/checkout
mount --bind "$2" /opt/kept
for place in /sys/kernel/tracing /sys/kernel/debug; do umount --lazy $place 2>/dev/null || :; done
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -o remount,bind,ro /
cd /opt/checkout
export PATH="/opt/memgate:$PATH" HOME=/nonexistent
"#;

fn config(port: u16) -> String {
    CONFIG.replace("PLATFORM", Platform::host().name()).replace("PORT", &port.to_string())
}

/// The script of a step of the workflow, with the platform of this machine, for a push.
fn step(job: &str, name: &str) -> String {
    let text = fs::read_to_string(repository().join("docs/examples/memgate.yml")).unwrap();
    let workflow: Value = serde_yaml::from_str(&text).unwrap();
    let steps = workflow["jobs"][job]["steps"].as_sequence().unwrap();
    let step = steps.iter().find(|step| step["name"] == name).unwrap();
    let script = step["run"].as_str().unwrap().replace("${{ matrix.platform }}", Platform::host().name());
    let script = script.replace("${{ github.base_ref && '--baselines-from merge-base' || '' }}", "");
    assert!(!script.contains("${{"), "{script}");
    script
}

/// Runs the steps `Record` and `Judge`, with these options more, and keeps what they wrote in `kept`. `prefix` is a
/// command that runs another one.
fn measure(config: &str, prefix: &str, options: &str, kept: &Path) -> Output {
    let checkout = tempfile::tempdir().unwrap();
    let place = checkout.path();
    fs::set_permissions(place, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(place.join("memgate.yaml"), config).unwrap();
    fs::copy(uaa::uaa(), place.join("uaa")).unwrap();
    chown(place, Some(UID), Some(UID)).unwrap();
    let (record, judge) = (step("record", "Record"), step("verdict", "Judge"));
    let platform = Platform::host();
    // In the workflow, artifacts carry the evidence from one job to the other.
    let steps = format!(
        "{record} {options}\nmkdir -p /opt/evidence\ncp -r /opt/memgate-out /opt/evidence/evidence-{folder}\n\
         cp -r /opt/memgate-out/. /opt/kept\n{judge} --platform {platform} {options}\n",
        folder = platform.folder(),
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--mount-proc", "--cgroup", "--ipc", "--uts", "sh", "-c"]);
    command.arg(format!("{CONTAINER}exec {prefix} sh -e -c \"$3\""));
    command.arg(env!("CARGO_BIN_EXE_memgate")).arg(place).arg(kept).arg(steps);
    command.env("NO_COLOR", "1").env_remove("GITHUB_STEP_SUMMARY").output().unwrap()
}

#[track_caller]
fn assert_measured(output: &Output) {
    // There is no baseline yet, and nothing else is wrong.
    assert_eq!(output.status.code(), Some(3), "{}\n{}", stdout(output), stderr(output));
    assert!(stdout(output).contains("no-baseline") && !stdout(output).contains("regressed"), "{}", stdout(output));
    assert_eq!(cgroups(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn the_commands_of_the_workflow_measure_in_a_container_as_root() {
    if !can_attach() {
        return;
    }
    let kept = tempfile::tempdir().unwrap();
    let output = measure(&config(18481), "", "", kept.path());
    assert_measured(&output);
    assert!(stderr(&output).contains("run 1: starting the service"), "{}", stderr(&output));
    for run in [1, 2] {
        let file = RunFiles::of(kept.path(), "s", Platform::host(), run).evidence();
        let evidence = evidence_file::read(&file).unwrap();
        assert!(evidence.tier > Tier::T0, "{:?}", evidence.tier);
        let signals = &evidence.signals;
        assert_eq!((&signals.oom_kills.exactness, signals.oom_kills.data), (&Exactness::Exact, 0));
        assert_eq!(signals.gc_pauses.exactness, Exactness::Exact);
        assert!(!signals.cgroup_memory.data.at_ns.is_empty(), "{:?}", signals.cgroup_memory.exactness);
    }
}

#[test]
fn the_commands_of_the_workflow_measure_in_a_container_as_an_ordinary_user() {
    if !can_attach() {
        return;
    }
    let kept = tempfile::tempdir().unwrap();
    fs::set_permissions(kept.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let user = format!("setpriv --reuid={UID} --regid={UID} --clear-groups");
    // Nothing holds a limit there.
    let limited = measure(&config(18482), &user, "--tier T0", kept.path());
    assert_eq!(limited.status.code(), Some(4), "{}", stderr(&limited));
    assert!(stderr(&limited).contains("memory cannot be limited"), "{}", stderr(&limited));
    let config = changed(&config(18482), "      memory_max: 256MiB\n", "");
    let output = measure(&config, &user, "--tier T0", kept.path());
    assert_measured(&output);
    let file = RunFiles::of(kept.path(), "s", Platform::host(), 2).evidence();
    let evidence = evidence_file::read(&file).unwrap();
    assert_eq!(evidence.tier, Tier::T0);
    assert!(evidence.signals.alloc_bytes.data.value.last().is_some_and(|bytes| *bytes > 0));
}
