//! Cgroups where memgate is not root on the machine itself, and what memgates do to each other.
//!
//! The hierarchy of version 2 has the memory controller only on a machine that does not use it in version 1. So these
//! tests run memgate in a guest, as in a container and as an ordinary user there.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::{Bench, assert_fails, busy, can_attach, go, plain, running::Running, stderr};
use memgate::{architecture::architecture, guest_runner};
use memgate_agent::cancel::Cancel;
use memgate_evidence::{Evidence, Exactness, platform::Platform};
use memgate_files::evidence_file;
use memgate_qemu::{
    channel::{FromAgent, ToAgent},
    emulator,
    ending::Patience,
    guest::{Guest, Spoken, Start},
    image,
    machine::Machine,
};
use memgate_testing::go::newest;
use nix::sys::signal::Signal;

/// Runs a script in a guest that has memgate, the services `uaa` and `misbehave`, `unshare` and `setpriv` in `/opt`.
/// Returns its exit code and all that it printed.
fn in_a_guest(script: &str) -> (u8, String) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (platform, directory) = (Platform::host(), tempfile::tempdir().unwrap());
        let say = &mut |line: &str| eprintln!("{line}");
        let cache = guest_runner::cache(&Cancel::never()).unwrap();
        let kernel = guest_runner::kernel("this test", platform, None, None).unwrap();
        let emulator = emulator::find(&cache, architecture(platform), None, say).unwrap();
        let target = Path::new(env!("CARGO_BIN_EXE_memgate")).ancestors().nth(2).unwrap();
        let agent = target.join("dist").join(format!("memgate-agent-{}", platform.folder()));
        let image = image::ensure(&cache, kernel, &agent, None, say).unwrap();
        let shelled = image::with_shell(&cache, &image, None, say).unwrap();
        let machine = Machine { initramfs: shelled.path(), ..Machine::of(&image, emulator, 2 << 30, 2) };
        let console = directory.path().join("console.log");
        let start = Start {
            machine,
            console,
            patience: Patience::default(),
            is_joined: false,
            build: memgate_agent::BUILD.to_owned(),
        };
        let mut guest = Guest::boot(&start).await.unwrap();
        guest.begin().await.unwrap();
        for (from, to) in files(directory.path()) {
            guest.store(&from, &to).await.unwrap();
        }
        // One pipe keeps what is printed in order.
        let script = format!("exec 2>&1\n{script}");
        let words = ["sh", "-ec", &script].map(str::to_owned).to_vec();
        guest.message(&ToAgent::Command { words, terminal: None }).await.unwrap();
        let mut printed = Vec::new();
        loop {
            match guest.next().await.unwrap() {
                Spoken::Data(bytes) => {
                    eprint!("{}", String::from_utf8_lossy(&bytes));
                    printed.extend(bytes);
                }
                Spoken::Message(FromAgent::CommandEnded(code)) => {
                    return (code, String::from_utf8_lossy(&printed).into_owned());
                }
                Spoken::Message(FromAgent::Printed { .. } | FromAgent::Heartbeat) => {}
                other @ Spoken::Message(_) => panic!("{other:?}"),
            }
        }
    })
}

/// What the guest needs, with the places in the guest.
fn files(directory: &Path) -> Vec<(PathBuf, String)> {
    let fixtures = common::repository().join("fixtures-go");
    let service = |name: &str| {
        let executable = directory.join(name);
        go::build(&newest(), &fixtures, &[&format!("./cmd/{name}")], Platform::host(), false, &executable);
        executable
    };
    // Symbols would be most of what is copied.
    let memgate = directory.join("memgate");
    let strip = Command::new("strip").arg("-o").args([&memgate, Path::new(env!("CARGO_BIN_EXE_memgate"))]).status();
    assert!(strip.unwrap().success());
    let config = directory.join("memgate.yaml");
    fs::write(&config, CONFIG.replace("PLATFORM", Platform::host().name())).unwrap();
    let programs =
        [memgate, service("uaa"), service("misbehave"), "/usr/bin/unshare".into(), "/usr/bin/setpriv".into()];
    let libraries: std::collections::BTreeSet<_> = programs.iter().flat_map(|program| libraries(program)).collect();
    let programs = programs.into_iter().chain([config]).map(|file| {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        (file, format!("/opt/{name}"))
    });
    programs.chain(libraries.into_iter().map(|library| (PathBuf::from(&library), library))).collect()
}

/// The libraries of a program, and its loader.
fn libraries(program: &Path) -> Vec<String> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(|word| word.trim_end_matches(':').to_owned())
        .collect()
}

/// A healthy service with a limit, and one that fills a file system in memory up to its limit.
const CONFIG: &str = r#"version: 1
baselines: /tmp/baselines
services:
  healthy:
    binary: { PLATFORM: /opt/uaa }
    run:
      args: [-listen, "127.0.0.1:18200"]
      ready: { http: "http://127.0.0.1:18200/healthz", timeout: 60s }
      memory_max: 256MiB
    load: { rate: 100/s, connections: 2, timeout: 60s, requests: [ { post: "http://127.0.0.1:18200/login" } ] }
    phases: { warmup: 2s, measure: 6s, drain: 1s }
    runs: 2
  greedy:
    binary: { PLATFORM: /opt/misbehave }
    run:
      args: [-listen, "127.0.0.1:18201", -mode, spool]
      ready: { http: "http://127.0.0.1:18201/healthz", timeout: 60s }
      memory_max: 96MiB
    load: { rate: 200/s, connections: 4, timeout: 60s, requests: [ { post: "http://127.0.0.1:18201/login" } ] }
    phases: { warmup: 1s, measure: 3s, drain: 1s }
    runs: 1
"#;

/// Records both services and prints the evidence.
const RECORD: &str = r#"
cd /tmp
for service in healthy greedy; do
  /opt/memgate record -c /opt/memgate.yaml --tier T0 --service $service --out /tmp/$service
done
for file in /tmp/healthy/*.evidence.json /tmp/greedy/*.evidence.json; do echo; echo "EVIDENCE $(cat $file)"; done
"#;

/// Judges the healthy service by a baseline of itself. Tier T0 does not measure `offheap_growth`, which has a default
/// limit.
const CHECK: &str = r#"
/opt/memgate baseline record /tmp/healthy --baselines /tmp/baselines
sed -i 's/^metrics:/&\n  offheap_growth: { limit: none }/' /tmp/baselines/*/healthy.yaml
code=0
/opt/memgate judge /tmp/healthy --baselines /tmp/baselines --out /tmp/judged || code=$?
echo "CHECK $code"
"#;

/// The evidence that a script printed.
fn evidence(printed: &str) -> Vec<Evidence> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("evidence.json");
    let texts = printed.lines().filter_map(|line| line.strip_prefix("EVIDENCE "));
    texts
        .map(|text| {
            fs::write(&file, format!("{text}\n")).unwrap();
            evidence_file::read(&file).unwrap()
        })
        .collect()
}

/// Checks that the limit held and that the kernel's kill was counted.
#[track_caller]
fn assert_measured(printed: &str) -> Vec<Evidence> {
    let all = evidence(printed);
    let [healthy, _, greedy] = all.as_slice() else { panic!("{printed}") };
    for run in &all {
        let signals = &run.signals;
        assert_eq!(signals.oom_kills.exactness, Exactness::Exact, "{:?}", run.notes);
        assert_eq!(signals.cgroup_memory.exactness, Exactness::Sampled, "{:?}", run.notes);
    }
    assert_eq!(healthy.signals.rss.exactness, Exactness::Sampled, "{:?}", healthy.notes);
    assert_eq!((healthy.signals.oom_kills.data, greedy.signals.oom_kills.data), (0, 1));
    let fullest = greedy.signals.cgroup_memory.data.current.iter().max().unwrap();
    // The kernel charges what it cannot refuse also above the limit: some pages.
    assert!((90 << 20..=97 << 20).contains(fullest), "{fullest}");
    all
}

#[test]
fn in_a_container_memgate_makes_room_in_its_root_and_gives_it_back() {
    if !can_attach() {
        return;
    }
    let (code, printed) = in_a_guest(&format!(
        r#"
echo +memory > /sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/box
echo $$ > /sys/fs/cgroup/box/cgroup.procs
sleep 1000 > /dev/null 2>&1 &
cat > /tmp/inside <<'END'
umount /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo "BEFORE $(wc -l < /sys/fs/cgroup/cgroup.procs) processes"
{RECORD}
echo "AFTER $(cat /sys/fs/cgroup/cgroup.procs | grep -c -x $1) bystander"
echo "AFTER $(find /sys/fs/cgroup -mindepth 1 -type d | wc -l) cgroups, controllers: $(cat /sys/fs/cgroup/cgroup.subtree_control)"
END
/opt/unshare --cgroup --mount sh -e /tmp/inside $!
"#
    ));
    assert_eq!(code, 0, "{printed}");
    let all = assert_measured(&printed);
    let note = "from its own cgroup /sys/fs/cgroup into memgate-leaf below it";
    assert!(all.iter().all(|run| run.notes.iter().any(|line| line.contains(note))), "{:?}", all[0].notes);
    assert!(printed.contains("AFTER 1 bystander"), "{printed}");
    assert!(printed.contains("AFTER 0 cgroups, controllers: \n"), "{printed}");
}

#[test]
fn an_ordinary_user_with_a_delegated_cgroup_measures_its_memory() {
    if !can_attach() {
        return;
    }
    let (code, printed) = in_a_guest(&format!(
        r#"
echo +memory > /sys/fs/cgroup/cgroup.subtree_control
own=/sys/fs/cgroup/delegated
mkdir $own
chown 65534:65534 $own $own/cgroup.procs $own/cgroup.threads $own/cgroup.subtree_control
cat > /tmp/inside <<'END'
{RECORD}
{CHECK}
END
echo $$ > $own/cgroup.procs
/opt/setpriv --reuid 65534 --regid 65534 --clear-groups sh -e /tmp/inside
echo "AFTER $(find $own -mindepth 1 -type d | wc -l) cgroups, controllers: $(cat $own/cgroup.subtree_control)"
"#
    ));
    assert_eq!(code, 0, "{printed}");
    assert_measured(&printed);
    assert!(printed.contains("CHECK 0"), "{printed}");
    assert!(printed.contains("AFTER 0 cgroups, controllers: \n"), "{printed}");
}

#[test]
fn what_a_killed_memgate_leaves_is_ended_by_the_next_one() {
    if !can_attach() {
        return;
    }
    let bench = Bench::service("uaa", 18202, "").with("measure: 3s", "measure: 600s").with(
        r#"load: { rate: 200/s, connections: 4, timeout: 60s, requests: [ { post: "http://127.0.0.1:18202/login" } ] }"#,
        "load: { command: [sh, -c, \"setsid sleep 60007 & wait\"] }",
    );
    let orphans = || {
        common::processes().into_iter().filter(|process| {
            fs::read_to_string(format!("/proc/{process}/cmdline")).is_ok_and(|line| line == "sleep\x0060007\x00")
        })
    };
    let mut memgate = Running::start(plain(&bench.command("check")).args(["--tier", "T0"]));
    memgate.says("measuring");
    busy::until("the load has started its process", || orphans().count() == 1);
    memgate.signal(Signal::SIGKILL);
    memgate.ends();
    busy::until("the service has ended", || bench.processes().is_empty());
    assert_eq!(orphans().count(), 1, "nobody has ended it");
    let output = Bench::service("misbehave", 18202, ", -mode, exit").command("check").args(["--tier", "T0"]).output();
    let output = output.unwrap();
    assert_fails(&output, 4, &["exited with code 3"]);
    let said = stderr(&output);
    let line = said.lines().find(|line| line.starts_with("an earlier memgate was killed and left 1 process in "));
    assert!(line.is_some(), "{said}");
    assert_eq!(orphans().count(), 0);
    bench.assert_nothing_left();
}

#[test]
fn one_memgate_measures_at_a_time_unless_it_is_told_not_to_wait() {
    if !can_attach() {
        return;
    }
    let bench = |port| Bench::service("uaa", port, "").with("measure: 3s", "measure: 600s");
    let start = |bench: &Bench, args: &[&str]| {
        Running::start(plain(&bench.command("record")).args(["--tier", "T0"]).args(args))
    };
    let benches = [bench(18203), bench(18204), bench(18205)];
    let mut first = start(&benches[0], &[]);
    first.says("measuring");
    let waiting = format!("waiting for another memgate, which measures on this machine (process {}", first.id());
    let mut interrupted = start(&benches[1], &[]);
    interrupted.says(&waiting);
    interrupted.signal(Signal::SIGINT);
    let ended = interrupted.ends();
    assert_eq!(ended.status.code(), Some(130), "{}", ended.said);
    let mut second = start(&benches[1], &[]);
    second.says(&waiting);
    let mut beside = start(&benches[2], &["--no-wait"]);
    beside.says("the two disturb each other");
    beside.says("measuring");
    first.signal(Signal::SIGINT);
    first.ends();
    second.says("measuring");
    for memgate in [second, beside] {
        memgate.signal(Signal::SIGINT);
        let ended = memgate.ends();
        assert_eq!(ended.status.code(), Some(130), "{}", ended.said);
    }
    benches.iter().for_each(Bench::assert_nothing_left);
}
