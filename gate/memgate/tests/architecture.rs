//! Invariants that the compiler and clippy cannot check: which crate may use which, where code may name an
//! architecture, and where no probe may go. For each check, a planted violation shows that the check finds it.
#![expect(clippy::unwrap_used, reason = "a test that cannot read the sources has failed")]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use common::repository;

/// The crates below `gate/`, and which of memgate's crates each may use. There are no other crates.
const ARROWS: [(&str, &[&str]); 9] = [
    ("evidence", &[]),
    ("goexe", &["memgate-evidence"]),
    ("agent", &["memgate-ebpf", "memgate-evidence", "memgate-goexe", "memgate-qemu"]),
    ("verdict", &["memgate-evidence"]),
    ("config", &["memgate-evidence", "memgate-verdict"]),
    ("files", &["memgate-evidence"]),
    ("report", &["memgate-evidence", "memgate-files", "memgate-verdict"]),
    ("testing", &["memgate-evidence"]),
    (
        "memgate",
        &[
            "memgate-agent",
            "memgate-config",
            "memgate-evidence",
            "memgate-files",
            "memgate-goexe",
            "memgate-qemu",
            "memgate-report",
            "memgate-verdict",
        ],
    ),
];

/// Crates that act. A pure crate uses none of them, and neither does `memgate-files`.
const ACTING: [&str; 12] = [
    "aya",
    "futures-util",
    "hyper",
    "hyper-util",
    "indicatif",
    "nix",
    "procfs",
    "rustix",
    "sysinfo",
    "tempfile",
    "tokio",
    "xshell",
];

/// The names under `[dependencies]` of a manifest.
fn dependencies(manifest: &str) -> BTreeSet<&str> {
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    section.lines().filter_map(|line| line.split(['.', ' ', '=']).next()).filter(|name| !name.is_empty()).collect()
}

/// Crates that a manifest uses without permission.
fn forbidden<'a>(manifest: &'a str, allowed: &[&str], pure: bool) -> Vec<&'a str> {
    let is_own = |name: &str| name == "memgate" || name.starts_with("memgate-");
    let uses = dependencies(manifest).into_iter();
    uses.filter(|name| (is_own(name) && !allowed.contains(name)) || (pure && ACTING.contains(name))).collect()
}

#[test]
fn a_crate_uses_only_what_lies_below_it() {
    let gate = repository().join("gate");
    let there: BTreeSet<String> = fs::read_dir(&gate)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join("src/lib.rs").is_file())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(there, ARROWS.iter().map(|(name, _)| (*name).to_owned()).collect(), "every crate has its arrows");
    for (name, allowed) in ARROWS {
        let manifest = fs::read_to_string(gate.join(name).join("Cargo.toml")).unwrap();
        assert!(!dependencies(&manifest).is_empty(), "{name} depends on nothing: the check reads the wrong place");
        let pure = ["evidence", "verdict"].contains(&name);
        assert_eq!(forbidden(&manifest, allowed, pure), [""; 0], "gate/{name}/Cargo.toml");
    }
}

#[test]
fn a_dependency_in_the_wrong_direction_is_found() {
    let manifest = "[package]\nname = \"memgate-agent\"\n\n[dependencies]\nmemgate-evidence.workspace = true\n\
        memgate-verdict = { path = \"../verdict\" }\ntokio.workspace = true\n\n[dev-dependencies]\nmemgate-config.workspace = true\n";
    assert_eq!(forbidden(manifest, &["memgate-evidence"], false), ["memgate-verdict"]);
    assert_eq!(forbidden(manifest, &["memgate-evidence", "memgate-verdict"], true), ["tokio"]);
}

/// The lines of code below `gate/<place>`, each with its place, without comments and unit tests.
fn code(place: &str) -> Vec<(String, String)> {
    let root = repository().join("gate").join(place);
    let files = if root.is_file() { vec![root] } else { rust_files(&root) };
    assert!(!files.is_empty(), "{place} has no code: the invariant would hold of nothing");
    files.iter().flat_map(|file| code_lines(&file.display().to_string(), &fs::read_to_string(file).unwrap())).collect()
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .filter(|path| !path.components().any(|part| part.as_os_str() == "tests"))
        .filter(|path| !path.file_stem().is_some_and(|stem| stem == "tests" || stem == "testing" || stem == "fixture"))
        .collect()
}

fn code_lines(file: &str, text: &str) -> Vec<(String, String)> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(index, line)| (format!("{file}:{}", index + 1), line.to_owned()))
        .collect()
}

/// The line without quoted text, because messages may name an architecture.
fn without_strings(line: &str) -> String {
    let mut parts = line.replace("\\\"", "").split('"').map(str::to_owned).collect::<Vec<_>>();
    let mut index = 0;
    parts.retain(|_| {
        index += 1;
        index % 2 == 1
    });
    parts.join("\"\"")
}

/// The names of architectures in Go, Rust and Linux.
const ARCHITECTURES: [&str; 9] =
    ["x86_64", "amd64", "aarch64", "arm64", "loongarch", "loong64", "Amd64", "Arm64", "Loong64"];

fn naming(line: &str) -> bool {
    let line = without_strings(line);
    ARCHITECTURES.iter().any(|name| line.contains(name))
}

#[test]
fn an_architecture_is_named_only_where_it_must_be() {
    // goexe has `arch/` and reads the number of the machine from ELF; evidence has the platforms. gate-ebpf and qemu
    // may name them too.
    let places = [
        "agent/src",
        "config/src",
        "files/src",
        "memgate/src",
        "report/src",
        "verdict/src",
        "goexe/src",
        "evidence/src",
    ];
    let may = |place: &str| {
        ["goexe/src/arch/", "goexe/src/image.rs", "evidence/src/platform.rs", "memgate/src/architecture.rs"]
            .iter()
            .any(|may| place.contains(may))
    };
    let found: Vec<_> = places
        .iter()
        .flat_map(|place| code(place))
        .filter(|(place, line)| !may(place) && naming(line))
        .map(|(place, line)| format!("{place}: {}", line.trim()))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn an_architecture_in_code_is_found_and_one_in_a_message_is_not() {
    assert!(naming("if cfg!(target_arch = \"x86_64\") || platform == Platform::LinuxArm64 {"));
    assert!(naming("use crate::arch::loongarch64;"));
    assert!(naming("Platform::LinuxAmd64 => \"amd64\","), "a string on the line hides nothing beside it");
    assert!(!naming("help: \"write linux/arm64 or linux/loong64\","));
}

/// Functions on the path of every allocation.
const ALLOCATION: [&str; 5] =
    ["mallocgc", "runtime.newobject", "runtime.makeslice", "runtime.growslice", "mcache).refill"];

#[test]
fn no_probe_is_placed_on_an_allocation_path() {
    let found: Vec<_> = ["agent/src", "goexe/src"]
        .iter()
        .flat_map(|place| code(place))
        .filter(|(_, line)| on_allocation_path(line))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
    assert!(on_allocation_path("let site = functions.calls_of(\"runtime.mallocgc\");"), "a planted probe is found");
}

fn on_allocation_path(line: &str) -> bool {
    ALLOCATION.iter().any(|name| line.contains(name))
}

/// A busy service refills its span caches about ten thousand times a second.
#[test]
fn only_refills_are_probed_in_windows() {
    let attaching: BTreeMap<String, usize> = code("agent/src")
        .into_iter()
        .filter(|(_, line)| line.contains(".attach(probes)") || line.contains(".attach(&probes)"))
        .fold(BTreeMap::new(), |mut counts, (place, _)| {
            let file = place.rsplit('/').next().unwrap().split(':').next().unwrap().to_owned();
            *counts.entry(file).or_default() += 1;
            counts
        });
    let wanted = BTreeMap::from([("attach.rs".to_owned(), 1), ("refills.rs".to_owned(), 1)]);
    assert_eq!(attaching, wanted, "probes are put on at the start, and on refills in windows");
    let planned = code("agent/src/collect/programs/attach.rs");
    let kept = planned.iter().any(|(_, line)| line.contains("if signal == ProbedSignal::SpanRefills"));
    assert!(kept, "attach.rs keeps the probes on refills for the windows");
}
