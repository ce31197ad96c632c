//! The invariants that docs/explanation/architecture.md states as absences; one test holds each. That of the judge is in pure_judge.rs.
#![expect(clippy::unwrap_used, reason = "a test that cannot read the sources has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The code lines below `src/<place>`, comments and tests left out, with where they stand.
fn code(place: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(place);
    let files = if root.is_file() { vec![root] } else { rust_files(&root) };
    assert!(!files.is_empty(), "{place} has no code: the invariant would hold of nothing");
    files.iter().flat_map(|file| code_lines(file)).collect()
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

fn code_lines(file: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(file).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(index, line)| (format!("{}:{}", file.display(), index + 1), line.to_owned()))
        .collect()
}

fn assert_absent(places: &[&str], words: &[&str]) {
    let found: Vec<_> = places
        .iter()
        .flat_map(|place| code(place))
        .filter(|(_, line)| words.iter().any(|word| line.contains(word)))
        .map(|(place, line)| format!("{place}: {}", line.trim()))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn measuring_never_knows_a_threshold() {
    let judging = ["crate::judge", "crate::baseline", "crate::summarise", "crate::report", "crate::metric"];
    assert_absent(&["agent", "goexe", "arch", "plan.rs", "evidence.rs", "gobuild.rs"], &judging);
}

#[test]
fn an_architecture_is_named_only_where_it_must_be() {
    let names = ["x86_64", "amd64", "aarch64", "arm64", "loongarch", "loong64", "Amd64", "Arm64", "Loong64"];
    let places = [
        "agent",
        "baseline",
        "config",
        "judge",
        "report",
        "summarise",
        "plan.rs",
        "pipeline.rs",
        "evidence.rs",
        "evidence_file.rs",
        "gobuild.rs",
        "preflight.rs",
        "metric.rs",
    ];
    // What a message tells the user may name one.
    let found: Vec<_> = places
        .iter()
        .flat_map(|place| code(place))
        .filter(|(_, line)| names.iter().any(|name| line.contains(name)) && !line.contains('"'))
        .collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn nothing_but_the_writers_of_results_prints_to_stdout() {
    let places =
        ["agent", "baseline", "config", "goexe", "judge", "summarise", "pipeline.rs", "gobuild.rs", "narrator.rs"];
    assert_absent(&places, &["stdout()", "print!(", "println!("]);
}

#[test]
fn no_probe_is_placed_on_an_allocation_path() {
    let allocation = ["mallocgc", "runtime.newobject", "runtime.makeslice", "runtime.growslice", "mcache).refill"];
    assert_absent(&["agent", "goexe", "probes.rs"], &allocation);
}

/// A busy service refills its span caches some ten thousand times a second.
#[test]
fn refills_are_probed_in_windows_alone() {
    let places = code("agent").into_iter().filter(|(_, line)| line.contains(".attach(probes)"));
    let files: Vec<_> = places.map(|(place, _)| place.rsplit('/').next().unwrap().to_owned()).collect();
    let attaching = |file: &str| files.iter().filter(|place| place.starts_with(file)).count();
    assert_eq!((attaching("bpf.rs:"), attaching("refills.rs:"), files.len()), (1, 1, 2), "{files:?}");
    let planned: Vec<_> = code("agent/collect/attach.rs").into_iter().map(|(_, line)| line).collect();
    assert!(
        planned.iter().any(|line| line.contains("if plan.signal == ProbedSignal::SpanRefills")),
        "kept for the windows"
    );
}
