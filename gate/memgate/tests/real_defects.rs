//! Each defect in fixtures-go/memgate.yaml fails a gate for which it was planted, and healthy behaviour passes. Judging
//! the evidence again gives the same report.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::process::Output;

use common::{
    busy::{self, HeldUp},
    can_attach, cgroups, memgate, repository, stderr, stdout,
};
use serde_json::Value;

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
        busy::again(|| {
            let (output, report) = check("warm-cache");
            let printed = format!("{}{}", stdout(&output), stderr(&output));
            let every: Vec<&str> = gates(&report).iter().map(|gate| gate["metric"].as_str().unwrap()).collect();
            assert!(every.contains(&"heap_live_growth"), "{report:#}");
            let regressed = are(&report, "regressed", &every);
            assert!(regressed.iter().all(|metric| OF_TIME.contains(metric)), "{regressed:?}: {printed}");
            // What a machine does to pauses says nothing of a working set, and may last for hours.
            let (of_time, undecided): (Vec<&str>, Vec<&str>) =
                are(&report, "inconclusive", &every).into_iter().partition(|metric| OF_TIME.contains(metric));
            if !undecided.is_empty() {
                // A short phase does not always decide the growth of a heap that the GC resizes. It must never be red.
                return Err(HeldUp::Undecided { metrics: undecided.into_iter().map(str::to_owned).collect() });
            }
            let code = match (regressed.is_empty(), of_time.is_empty()) {
                (false, _) => 1,
                (true, false) => 3,
                (true, true) => 0,
            };
            assert_eq!(output.status.code(), Some(code), "{printed}");
            Ok(())
        });
    }
}

/// Gates on time: on a busy machine the service pauses for longer, and that is no leak.
const OF_TIME: [&str; 3] = ["gc_pause_p99", "gc_pause_p90", "gc_stw_fraction"];

fn gates(report: &Value) -> &[Value] {
    report["results"][0]["gates"].as_array().unwrap()
}

/// Whether memgate's notes say that the machine held its generator up. Only then a defect's gate may stay undecided.
fn held_up(report: &Value) -> Option<HeldUp> {
    let notes = report["results"][0]["notes"].as_array().unwrap();
    HeldUp::generator(&notes.iter().map(|note| note.as_str().unwrap().to_owned()).collect::<Vec<_>>())
}

/// Those of the metrics whose gates have this verdict.
fn are<'a>(report: &Value, verdict: &str, metrics: &[&'a str]) -> Vec<&'a str> {
    let has_it =
        |metric: &&str| gates(report).iter().any(|gate| gate["metric"] == *metric && gate["verdict"] == verdict);
    metrics.iter().copied().filter(has_it).collect()
}

/// Checks that the service fails one of these gates, for which its defect was planted. The first call site of that gate
/// must be the defect's, or code that the defect calls.
fn is_stopped_by(service: &str, metrics: &[&str], site: Option<&str>) {
    if can_attach() {
        busy::again(|| {
            let (output, report) = check(service);
            let all = gates(&report);
            let wanted = |gate: &&&Value| metrics.contains(&gate["metric"].as_str().unwrap());
            let regressed: Vec<_> = all.iter().filter(|gate| gate["verdict"] == "regressed").collect();
            let Some(stopped) = regressed.iter().copied().find(|gate| wanted(&gate)) else {
                let undecided = !are(&report, "inconclusive", metrics).is_empty();
                let held_up = held_up(&report).filter(|_| undecided);
                let failed: Vec<_> = regressed.iter().map(|gate| &gate["metric"]).collect();
                let missed: Vec<_> =
                    all.iter().filter(|gate| wanted(&gate)).map(|gate| (&gate["metric"], &gate["reason"])).collect();
                return Err(held_up.unwrap_or_else(|| panic!("{service} fails {failed:?}, and not {missed:#?}")));
            };
            assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
            if let Some(site) = site {
                let first = stopped["sites"][0]["at"]["function"].as_str().unwrap_or_default();
                assert!(first.starts_with(site), "{service}: not the first of {:#}", stopped["sites"]);
            }
            Ok(())
        });
    }
}

/// Checks the service, and judges its evidence again, which must give the same result.
fn check(service: &str) -> (Output, Value) {
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
