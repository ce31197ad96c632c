//! The workflow that users copy calls memgate correctly, and memgate's own has a job for each task.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{fs, path::Path, process::Command};

use common::{assert_fails, memgate, repository, stderr};
use memgate_evidence::{Evidence, platform::Platform};
use memgate_files::{
    evidence_file,
    names::{self, RunFiles},
};
use memgate_testing::evidence::healthy;
use serde_yaml::Value;

/// The lines of the workflow's scripts that call memgate, with their continuations.
fn calls(workflow: &Value) -> Vec<String> {
    let jobs = workflow["jobs"].as_mapping().unwrap();
    let steps = jobs.iter().flat_map(|(_, job)| job["steps"].as_sequence().unwrap().clone());
    let scripts: Vec<_> = steps.filter_map(|step| step["run"].as_str().map(str::to_owned)).collect();
    let lines = scripts.iter().flat_map(|script| script.lines());
    let called = |line: &str| {
        let call = line.trim().strip_prefix("matrix=$(").map_or(line.trim(), |rest| rest.trim_end_matches(')'));
        call.strip_prefix("memgate ").map(str::to_owned)
    };
    lines.filter_map(called).collect()
}

#[test]
fn every_chore_that_must_pass_has_a_job() {
    let text = fs::read_to_string(repository().join(".github/workflows/ci.yml")).unwrap();
    let workflow: Value = serde_yaml::from_str(&text).unwrap();
    let job = &workflow["jobs"]["ci"];
    let jobs = job["strategy"]["matrix"]["include"].as_sequence().unwrap();
    let chores: Vec<_> = jobs.iter().map(|job| job["xtask"].as_str().unwrap()).collect();
    assert_eq!(chores, ["lint --advisories", "docs", "test", "check"]);
    let runs = |step: &Value| step["run"].as_str().is_some_and(|run| run.ends_with("xtask ${{ matrix.xtask }}"));
    assert!(job["steps"].as_sequence().unwrap().iter().any(runs), "each job calls its chore");
}

/// The calls of the workflow with their expressions filled in, as words.
fn words(call: &str) -> Vec<String> {
    let call = call.replace("${{ matrix.platform }}", Platform::host().name());
    let call =
        call.replace("${{ github.base_ref && '--baselines-from merge-base' || '' }}", "--baselines-from merge-base");
    assert!(!call.contains("${{") && !call.contains("$("), "{call}");
    call.split_whitespace().map(str::to_owned).collect()
}

/// Runs git in the checkout.
fn git(checkout: &Path, words: &[&str]) {
    let names = ["-c", "user.name=a", "-c", "user.email=a@example.com"];
    let done = Command::new("git").args(names).args(words).current_dir(checkout).output().unwrap();
    assert!(done.status.success(), "git {words:?}: {}", stderr(&done));
}

/// A checkout of a pull request that brings evidence along, wherever memgate or the workflow might look for some.
fn forged_checkout(checkout: &Path) {
    fs::create_dir_all(checkout).unwrap();
    git(checkout, &["init", "--quiet"]);
    let yaml = r#"version: 1
services:
  uaa:
    binary: { linux/amd64: uaa, linux/arm64: uaa, linux/loong64: uaa }
    run: { ready: { http: "http://127.0.0.1:1/" } }
    load: { rate: 1/s, requests: [ { get: "http://127.0.0.1:1/" } ] }
    runs: 2
"#;
    fs::write(checkout.join("memgate.yaml"), yaml).unwrap();
    for place in ["target/memgate", "memgate-out", "evidence"] {
        for platform in Platform::ALL {
            for run in [1, 2] {
                let file = RunFiles::of(&checkout.join(place), "uaa", platform, run).evidence();
                evidence_file::write(&file, &Evidence { platform, ..healthy(run, 2000) }).unwrap();
            }
        }
    }
    git(checkout, &["add", "--force", "."]);
    git(checkout, &["commit", "--quiet", "-m", "forged"]);
    git(checkout, &["update-ref", "refs/remotes/origin/main", "HEAD"]);
}

/// `/opt` of the job stands in another directory, so that the test leaves this machine's own alone.
#[test]
fn evidence_that_a_pull_request_brings_along_is_not_taken() {
    let text = fs::read_to_string(repository().join("docs/examples/memgate.yml")).unwrap();
    let workflow: Value = serde_yaml::from_str(&text).unwrap();
    let calls = calls(&workflow);
    let place = tempfile::tempdir().unwrap();
    let (checkout, opt) = (place.path().join("checkout"), place.path().join("opt"));
    forged_checkout(&checkout);
    fs::create_dir_all(opt.join("evidence")).unwrap();
    let run = |call: &str| {
        let words = words(call).into_iter().map(|word| match word.strip_prefix("/opt/") {
            Some(below) => opt.join(below).display().to_string(),
            None => word,
        });
        memgate().current_dir(&checkout).env("GITHUB_BASE_REF", "main").args(words).output().unwrap()
    };
    // The executable is not there, so that nothing is measured; what the job keeps has no evidence.
    assert_ne!(run(&calls[1]).status.code(), Some(0));
    let uploads = workflow["jobs"]["record"]["steps"].as_sequence().unwrap().iter();
    let kept: Vec<_> =
        uploads.filter_map(|step| step["with"]["path"].as_str()).filter(|path| path.contains('!')).collect();
    let [kept] = kept[..] else { panic!("{kept:?}") };
    let place_of = kept.lines().next().unwrap().trim().strip_prefix("/opt/").unwrap();
    assert!(words(&calls[1]).contains(&format!("/opt/{place_of}")), "what is kept is what `record` writes");
    let names = fs::read_dir(opt.join(place_of)).into_iter().flatten().flatten();
    let names: Vec<_> = names.map(|entry| entry.file_name().display().to_string()).collect();
    assert!(names.iter().all(|name| !name.ends_with(names::EVIDENCE)), "{names:?}");
    // No job has uploaded evidence.
    let none = run(&calls[2]);
    assert_fails(&none, 2, &["evidence", "no file in this directory"]);
    // With that of one platform, that of the others is missing.
    for number in [1, 2] {
        let file = RunFiles::of(&opt.join("evidence"), "uaa", Platform::LinuxAmd64, number).evidence();
        evidence_file::write(&file, &healthy(number, 2000)).unwrap();
    }
    assert_fails(&run(&calls[2]), 4, &["uaa linux/arm64: 0 of 2 runs", "uaa linux/loong64: 0 of 2 runs"]);
}

#[test]
fn the_example_calls_memgate_with_arguments_that_it_has() {
    let text = fs::read_to_string(repository().join("docs/examples/memgate.yml")).unwrap();
    let calls = calls(&serde_yaml::from_str(&text).unwrap());
    let verbs: Vec<_> = calls.iter().map(|call| call.split_whitespace().next().unwrap()).collect();
    assert_eq!(verbs, ["plan", "record", "merge"]);
    // A pull request must not be judged by its own baselines.
    assert!(
        calls[2].starts_with("merge /opt/evidence ") && calls[2].contains("--baselines-from merge-base"),
        "{calls:?}"
    );
    // Nor may it say which user its code runs as.
    assert!(calls[1].contains("--user 60001:60001"), "{calls:?}");
    for call in calls {
        // clap refuses wrong arguments before it handles `--help`, so nothing runs.
        let output = memgate().args(words(&call)).arg("--help").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "memgate {call}: {}", stderr(&output));
    }
}
