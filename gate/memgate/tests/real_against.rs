//! Two builds that are measured in turn: what differs is found and laid to its line, and what does not is no difference.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{fs, process::Output};

use common::{
    busy::{self, HeldUp},
    can_attach, cgroups, changed, plain,
    repository::{FIRST_LINE, Repository, path_with_go},
    running::Running,
    schema::assert_fits,
    stderr, stdout,
};
use nix::sys::signal::Signal;
use serde_json::Value;

#[test]
fn what_grew_between_two_builds_is_laid_to_its_line() {
    if can_attach() {
        let repository = measured_longer(Repository::new(18180));
        repository.handle("kept <- make([]byte, 20_000)");
        busy::again(|| {
            let (output, report) = check(&repository, "main");
            let leak = against(&report, "heap_live_growth");
            if leak["verdict"] == "inconclusive" {
                return Err(HeldUp::Undecided { metrics: vec!["heap_live_growth".to_owned()] });
            }
            assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
            for metric in ["heap_live_growth", "alloc_bytes_per_request"] {
                let gate = against(&report, metric);
                assert_eq!(gate["verdict"], "regressed", "{gate:#}");
                let at = &gate["sites"][0]["at"];
                assert_eq!(
                    (at["function"].as_str(), at["line"].as_u64()),
                    (Some("main.handle"), Some(FIRST_LINE.into()))
                );
            }
            let figure = |name: &str| against(&report, "alloc_bytes_per_request")[name].as_f64().unwrap();
            let difference = figure("measured") - figure("baseline");
            // Go's size class of 20,000 bytes has 20,480.
            assert!((20_400.0..20_900.0).contains(&difference), "{difference}");
            let graphs = report["results"][0]["files"].to_string();
            assert!(graphs.contains("s.linux-amd64.alloc.against.svg"), "{graphs}");
            judged_again(&repository, &output);
            Ok(())
        });
    }
}

#[test]
fn a_build_does_not_differ_from_itself() {
    if can_attach() {
        let repository = measured_longer(Repository::new(18181));
        let checkout = tempfile::tempdir().unwrap();
        let there = checkout.path().join("other");
        repository.git(&["clone", "--quiet", ".", there.to_str().unwrap()]);
        busy::again(|| {
            let (output, report) = check(&repository, there.to_str().unwrap());
            let gates: Vec<_> = gates(&report).filter(|gate| gate["against"].is_string()).collect();
            for metric in ["alloc_bytes_per_request", "allocs_per_request", "goroutines_max", "rss_peak", "gc_cycles"] {
                assert!(gates.iter().any(|gate| gate["metric"] == metric), "{metric}: {report:#}");
            }
            let open = |gate: &&Value| matches!(gate["verdict"].as_str(), Some("inconclusive" | "regressed"));
            let open: Vec<_> = gates.iter().copied().filter(open).collect();
            let undecided: Vec<_> = open.iter().map(|gate| gate["metric"].as_str().unwrap().to_owned()).collect();
            // A short phase does not decide each gate on a busy machine. None may be red.
            assert!(open.iter().all(|gate| gate["verdict"] == "inconclusive"), "{open:#?}");
            if !undecided.is_empty() {
                return Err(HeldUp::Undecided { metrics: undecided });
            }
            // There is no baseline.
            assert_eq!(output.status.code(), Some(3), "{}{}", stdout(&output), stderr(&output));
            judged_again(&repository, &output);
            Ok(())
        });
        assert!(there.join("service/main.go").exists(), "a second checkout stays");
    }
}

#[test]
fn an_interrupted_comparison_leaves_no_worktree() {
    if can_attach() {
        let repository = Repository::new(18183);
        for words in ["of main (", "run 1: measuring"] {
            let mut command = repository.memgate();
            command.args(["check", "--out", "out", "--against", "main"]);
            let mut memgate =
                Running::start(plain(&command).current_dir(repository.path()).env("PATH", path_with_go()));
            memgate.says(words);
            memgate.signal(Signal::SIGINT);
            let ended = memgate.ends();
            assert_eq!(ended.status.code(), Some(130), "{words}: {}", ended.said);
            repository.assert_no_worktree();
            assert_eq!(cgroups(), Vec::<std::path::PathBuf>::new());
        }
    }
}

/// With phases in which the live heap has a slope.
fn measured_longer(repository: Repository) -> Repository {
    let text = fs::read_to_string(repository.path().join("memgate.yaml")).unwrap();
    let phases = "phases: { warmup: 4s, measure: 10s, drain: 1s }";
    repository.write("memgate.yaml", &changed(&text, "phases: { warmup: 1s, measure: 3s, drain: 1s }", phases));
    repository.commit("longer");
    repository
}

fn check(repository: &Repository, against: &str) -> (Output, Value) {
    let mut command = repository.memgate();
    command.args(["check", "--out", "out", "--format", "json", "--against", against]);
    let output = command.output().unwrap();
    repository.assert_no_worktree();
    assert_eq!(cgroups(), Vec::<std::path::PathBuf>::new());
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
    assert_fits("report", &report);
    (output, report)
}

/// Checks that the evidence gives the same report again.
fn judged_again(repository: &Repository, output: &Output) {
    let mut command = repository.memgate();
    let again = command.args(["judge", "out", "--out", "out", "--format", "json"]).output().unwrap();
    assert_eq!(again.status.code(), output.status.code(), "{}", stderr(&again));
    let judged = |output: &Output| {
        let mut report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["judged_at"].take();
        report
    };
    assert_eq!(judged(&again), judged(output), "judged again");
}

fn gates(report: &Value) -> impl Iterator<Item = &Value> {
    report["results"][0]["gates"].as_array().unwrap().iter()
}

/// The gate on the difference from the other build.
fn against<'a>(report: &'a Value, metric: &str) -> &'a Value {
    let found = gates(report).find(|gate| gate["metric"] == metric && gate["against"].is_string());
    found.unwrap_or_else(|| panic!("no gate on {metric}: {report:#}"))
}
