//! Each defect in fixtures-go/memgate.yaml fails a gate for which it was planted, and healthy behaviour passes. Judging
//! the evidence again gives the same report.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::process::Output;

use common::{can_attach, cgroups, memgate, repository, stderr, stdout};

#[test]
fn sessions_that_never_expire() {
    is_stopped_by("session-leak", &["heap_live_growth"], Some("memgate.dev/fixtures/internal/session."));
}

#[test]
fn goroutines_that_never_end() {
    is_stopped_by(
        "goroutine-leak",
        &["goroutines_leaked"],
        Some("memgate.dev/fixtures/internal/defect.(*Goroutines).OnRequest"),
    );
}

#[test]
fn more_allocation() {
    is_stopped_by("alloc-heavier", &["alloc_bytes_per_request"], None);
}

#[test]
fn memory_forgotten_in_c() {
    is_stopped_by("cgo-leak", &["offheap_growth"], Some("render_and_forget"));
}

#[test]
fn long_pauses() {
    is_stopped_by("long-pauses", &["gc_pause_p99", "gc_pause_p90", "gc_stw_fraction"], None);
}

#[test]
fn a_working_set_that_grows_to_a_limit_is_no_leak() {
    if can_attach() {
        let (output, report) = check("warm-cache");
        let gates = report["results"][0]["gates"].as_array().unwrap();
        let name = |gate: &serde_json::Value| gate["metric"].as_str().unwrap().to_owned();
        let bad =
            gates.iter().filter(|gate| !["pass", "improved", "advisory"].contains(&gate["verdict"].as_str().unwrap()));
        let bad: Vec<_> = bad.map(name).collect();
        let of_memory = bad.iter().filter(|metric| !OF_TIME.contains(&metric.as_str()));
        assert_eq!(of_memory.collect::<Vec<_>>(), Vec::<&String>::new(), "{}{}", stdout(&output), stderr(&output));
        assert!(gates.iter().any(|gate| name(gate) == "heap_live_growth"), "{report:#}");
        if bad.is_empty() {
            assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
        }
    }
}

/// On a busy machine that service has longer pauses. memgate reports that, and it is no leak.
const OF_TIME: [&str; 3] = ["gc_pause_p99", "gc_pause_p90", "gc_stw_fraction"];

/// Checks that the service fails one of these gates, for which its defect was planted. The first call site of that gate
/// must be the defect's, or code that the defect calls.
fn is_stopped_by(service: &str, metrics: &[&str], site: Option<&str>) {
    if can_attach() {
        let (output, report) = check(service);
        assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
        let gates = report["results"][0]["gates"].as_array().unwrap();
        let regressed: Vec<_> = gates.iter().filter(|gate| gate["verdict"] == "regressed").collect();
        let stopped = regressed.iter().find(|gate| metrics.contains(&gate["metric"].as_str().unwrap()));
        let stopped = stopped.unwrap_or_else(|| panic!("{service} fails the gates {regressed:#?}"));
        if let Some(site) = site {
            let first = stopped["sites"][0]["at"]["function"].as_str().unwrap_or_default();
            assert!(first.starts_with(site), "{service}: not the first of {:#}", stopped["sites"]);
        }
    }
}

/// Checks the service, and judges its evidence again, which must give the same result.
fn check(service: &str) -> (Output, serde_json::Value) {
    let out = tempfile::tempdir().unwrap();
    let config = ["--config", "fixtures-go/memgate.yaml", "--service", service, "--format", "json"];
    let output = memgate().arg("check").args(config).arg("--out").arg(out.path()).output().unwrap();
    assert_eq!(cgroups(), Vec::<std::path::PathBuf>::new());
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
    let again = memgate()
        .arg("judge")
        .arg(out.path())
        .args(["--format", "json", "--baselines"])
        .arg(repository().join("baselines"))
        .arg("--out")
        .arg(out.path())
        .output();
    let again = again.unwrap();
    assert_eq!(again.status.code(), output.status.code(), "{}", stderr(&again));
    assert_eq!(without_time(&again), without_time(&output), "judged again");
    (output, report)
}

fn without_time(output: &Output) -> String {
    let text = stdout(output);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    text.replace(report["judged_at"].as_str().unwrap(), "")
}
