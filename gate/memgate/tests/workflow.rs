//! The workflow that users copy calls memgate correctly, and memgate's own has a job for each task.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::fs;

use common::{memgate, repository, stderr};
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

#[test]
fn the_example_calls_memgate_with_arguments_that_it_has() {
    let text = fs::read_to_string(repository().join("docs/examples/memgate.yml")).unwrap();
    let calls = calls(&serde_yaml::from_str(&text).unwrap());
    let verbs: Vec<_> = calls.iter().map(|call| call.split_whitespace().next().unwrap()).collect();
    assert_eq!(verbs, ["plan", "record", "merge"]);
    // A pull request must not be judged by its own baselines, nor by evidence that it brings along.
    assert!(
        calls[2].starts_with("merge /opt/evidence ") && calls[2].contains("--baselines-from merge-base"),
        "{calls:?}"
    );
    // Nor may it say which user its code runs as.
    assert!(calls[1].contains("--user \"$(stat --format %u:%g .)\""), "{calls:?}");
    for call in calls {
        let call = call.replace("${{ matrix.platform }}", "linux/loong64");
        let call = call.replace("\"$(stat --format %u:%g .)\"", "1000:1000");
        let call = call
            .replace("${{ github.base_ref && '--baselines-from merge-base' || '' }}", "--baselines-from merge-base");
        assert!(!call.contains("${{"), "{call}");
        // clap refuses wrong arguments before it handles `--help`, so nothing runs.
        let output = memgate().args(call.split_whitespace()).arg("--help").output().unwrap();
        assert_eq!(output.status.code(), Some(0), "memgate {call}: {}", stderr(&output));
    }
}
