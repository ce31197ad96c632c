//! Makes memgate's own QEMU from the real packages, and boots guests with it.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use common::{agent, seeded, tree};
use memgate_agent::BUILD;
use memgate_qemu::{
    architecture::Architecture,
    emulator::{Emulator, HOSTS, OLDEST, ensure},
    ending::{Ending, Patience},
    guest::{Guest, GuestError, Start},
    image::{self, Cache, ImageError, Lock, clean, find, relock},
    machine::Machine,
    snapshot::Snapshot,
};

/// A mirror from which nothing can be fetched.
const NOWHERE: &str = "file:/nonexistent";

/// memgate's own QEMU and the messages while it was made; `None` on a machine for which none is pinned.
fn made(cache: &Cache, architecture: Architecture, mirror: Option<&str>) -> Option<(Emulator, Vec<String>)> {
    let (start, mut said) = (Instant::now(), Vec::new());
    let made = ensure(cache, architecture, mirror, &mut |text| said.push(text.to_owned()));
    let made = made.unwrap_or_else(|error| panic!("{architecture}: {error}\n{}", error.help()));
    eprintln!("{architecture}: {:.2} s, {said:?}", start.elapsed().as_secs_f64());
    Some((made?, said))
}

fn version(emulator: &Emulator) -> String {
    let output =
        std::process::Command::new(&emulator.program).args(&emulator.leading).arg("--version").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Boots the usual kernel with a first process that it cannot run, so the kernel panics when everything is loaded.
fn boots(architecture: Architecture) {
    let directory = tempfile::tempdir().unwrap();
    let cache = seeded(&directory.path().join("cache"));
    let Some((emulator, said)) = made(&cache, architecture, None) else { return };
    assert_eq!(said.last().unwrap(), &format!("unpacking QEMU for guests of {architecture}"));
    assert!(emulator.version.starts_with("10.0.") && version(&emulator).contains(&emulator.version), "{emulator:?}");
    let kernel = find(architecture, None, None).unwrap();
    let agent = agent(directory.path(), architecture, "a");
    let image = image::ensure(&cache, kernel, &agent, None, &mut |_| {}).unwrap();
    let machine = Machine::of(&image, emulator, 1 << 30, 2);
    let console = directory.path().join("console.log");
    let (patience, build) = (Patience::default(), "any".to_owned());
    let start = Start { machine, console: console.clone(), patience, build, is_joined: false };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(Guest::boot(&start)).unwrap_err();
    let GuestError::Ended { ending: Ending::Panicked(line), .. } = &error else { panic!("{error}") };
    assert!(line.contains("Kernel panic"), "{line}");
    let console = std::fs::read_to_string(console).unwrap();
    assert!(console.contains("/init"), "{console}");
}

/// memgate's agent for guests of this architecture, if it was built: see `cargo xtask dist`.
fn real_agent(architecture: Architecture) -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/dist");
    let directory = std::env::var_os("MEMGATE_AGENTS").map_or(built, PathBuf::from);
    Some(directory.join(format!("memgate-agent-linux-{architecture}"))).filter(|agent| agent.is_file())
}

/// Checks in `/proc` that each thread of this process's only child is confined.
fn assert_confined(what: &str) {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let tasks = Path::new("/proc/self/task").read_dir().unwrap();
    let children: String = tasks.map(|task| read(&task.unwrap().path().join("children"))).collect();
    let qemu = children.trim();
    let threads: Vec<_> = Path::new(&format!("/proc/{qemu}/task")).read_dir().unwrap().collect();
    assert!(threads.len() > 2, "{what}: {} threads", threads.len());
    for thread in threads {
        let status = read(&thread.unwrap().path().join("status"));
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_else(|| panic!("{what}: no {name} in {status}"))
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!((&*field("Seccomp"), &*field("NoNewPrivs")), ("2", "1"), "{what}: {status}");
        if nix::unistd::geteuid().is_root() {
            for (name, value) in
                [("Uid", "65534 65534 65534 65534"), ("Gid", "65534 65534 65534 65534"), ("Groups", "")]
            {
                assert_eq!(field(name), value, "{what}: {status}");
            }
            for name in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
                assert_eq!(field(name), "0000000000000000", "{what}: {status}");
            }
        }
    }
}

/// Boots a guest with the real agent, saves it and resumes it, all below a directory that only this user can enter.
fn is_confined(architecture: Architecture) {
    let Some(agent) = real_agent(architecture) else {
        eprintln!("no agent for {architecture}: run `cargo xtask dist`");
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let cache = seeded(&directory.path().join("cache"));
    let Some((emulator, _)) = made(&cache, architecture, None) else { return };
    let kernel = find(architecture, None, None).unwrap();
    let image = image::ensure(&cache, kernel, &agent, None, &mut |_| {}).unwrap();
    let machine = Machine::of(&image, emulator, 512 << 20, 2);
    let snapshot = Snapshot::of(&image, &machine, BUILD);
    let console = directory.path().join("console.log");
    let start = Start { machine, console, patience: Patience::default(), build: BUILD.to_owned(), is_joined: false };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut guest = Guest::boot(&start).await.unwrap();
        assert_confined("booted");
        guest.save(&snapshot).await.unwrap();
        guest.begin().await.unwrap();
        assert_confined("saved");
        assert_eq!(guest.notes(), [""; 0]);
        drop(guest);
        let mut guest = Guest::resume(&start, &snapshot).await.unwrap();
        guest.begin().await.unwrap();
        assert_confined("resumed");
    });
}

#[test]
fn real_emulators_are_confined_amd64() {
    is_confined(Architecture::Amd64);
}

#[test]
fn real_emulators_are_confined_arm64() {
    is_confined(Architecture::Arm64);
}

#[test]
fn real_emulators_are_confined_loong64() {
    is_confined(Architecture::Loong64);
}

#[test]
fn real_emulators_boot_amd64() {
    boots(Architecture::Amd64);
}

#[test]
fn real_emulators_boot_arm64() {
    boots(Architecture::Arm64);
}

#[test]
fn real_emulators_boot_loong64() {
    boots(Architecture::Loong64);
}

#[test]
fn real_emulators_are_made_once_and_whole() {
    let directory = tempfile::tempdir().unwrap();
    let cache = seeded(directory.path());
    let first = std::thread::scope(|scope| {
        let threads = [(); 2].map(|()| scope.spawn(|| made(&cache, Architecture::Arm64, None)));
        let [first, second] = threads.map(|thread| thread.join().unwrap());
        let (Some((first, of_first)), Some((second, of_second))) = (first, second) else { return None };
        assert_eq!(first, second);
        let unpacked = of_first.iter().chain(&of_second).filter(|text| text.starts_with("unpacking")).count();
        assert_eq!(unpacked, 1, "{of_first:?} {of_second:?}");
        Some(first)
    });
    let Some(first) = first else { return };
    assert_eq!(made(&cache, Architecture::Arm64, Some(NOWHERE)).unwrap(), (first.clone(), Vec::new()));
    let place = first.program.ancestors().nth(2).unwrap();
    assert_eq!(place.parent().unwrap(), cache.emulators().join("arm64"));
    let before = tree(place);
    for damaged in ["bin/qemu-system-aarch64", "lib/libc.so.6", "share/qemu-system-data/keymaps/en-us", "emulator.json"]
    {
        std::fs::remove_file(place.join(damaged)).unwrap();
        let (again, said) = made(&cache, Architecture::Arm64, Some(NOWHERE)).unwrap();
        assert_eq!((&said[0][..], &again), ("QEMU for guests of arm64 in the cache is damaged", &first), "{damaged}");
        assert_eq!(tree(place), before);
    }
    let (held, _) = made(&cache, Architecture::Arm64, Some(NOWHERE)).unwrap();
    clean(&cache).unwrap();
    assert!(version(&held).contains(&held.version), "what is in use was removed");
    drop((held, first));
    clean(&cache).unwrap();
    assert_eq!(tree(&cache.emulators()), [""; 0]);
}

#[test]
fn a_package_that_left_the_mirror_is_named_with_advice() {
    let directory = tempfile::tempdir().unwrap();
    let cache = Cache::new(directory.path()).unwrap();
    let error = match ensure(&cache, Architecture::Arm64, Some(NOWHERE), &mut |_| {}) {
        Ok(None) => return,
        other => other.unwrap_err(),
    };
    assert!(matches!(error, ImageError::Debian(_)), "{error}");
    assert!(error.message().contains("trixie"), "{error}");
    assert!(error.help().contains("a cache that already has the package"), "{}", error.help());
    assert_eq!(tree(&cache.emulators()), [""; 0]);
}

#[test]
fn real_emulators_are_locked_again_from_what_the_mirror_has() {
    let directory = tempfile::tempdir().unwrap();
    let cache = seeded(directory.path());
    for host in HOSTS {
        let lock = relock(&cache, &[], &[host], None, &mut |_| {}).unwrap();
        let names = |lock: &Lock| -> Vec<_> {
            lock.emulator(host).unwrap().packages.iter().map(|pin| pin.package.clone()).collect()
        };
        assert_eq!(names(&lock), names(&cache.lock));
        let qemu = lock.emulator(host).unwrap().packages.iter().find(|pin| pin.package == "qemu-system-arm").unwrap();
        assert!(qemu.version.starts_with("1:10.0."), "{qemu:?}: older than {OLDEST}, or of another series");
        assert_eq!(lock.kernels(), cache.lock.kernels());
        assert_eq!(Lock::parse(&lock.text().unwrap()).unwrap(), lock);
    }
    assert!(!Path::new(&cache.emulators()).exists());
}
