//! `memgate calibrate` and `memgate selftest` on recorded evidence. Nothing is measured here.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use common::{assert_fails, changed, memgate, schema::assert_fits, stderr, stdout};
use memgate_evidence::{Evidence, Exactness, platform::Runner};
use memgate_files::evidence_file;
use memgate_testing::evidence;
use serde_json::Value;
use tempfile::TempDir;

/// A run of the healthy service, whose requests allocate `bytes`. Each begins at another time.
fn healthy(run: u32, bytes: u64) -> Evidence {
    Evidence { started_at: format!("2026-11-23T12:{run:02}:00Z"), ..evidence::healthy(run, bytes) }
}

/// Evidence files, and a directory for baselines.
struct Recorded(TempDir);

impl Recorded {
    fn of(runs: &[Evidence]) -> Self {
        let recorded = Self(tempfile::tempdir().unwrap());
        for run in runs {
            recorded.add("evidence", run);
        }
        recorded
    }

    /// Evidence of this many runs, each a little different.
    fn healthy(runs: u32) -> Self {
        Self::of(&(1..=runs).map(|run| healthy(run, 2000 + u64::from(run % 3))).collect::<Vec<_>>())
    }

    /// The same with the baseline of the runs.
    fn with_baseline(runs: &[Evidence]) -> Self {
        let recorded = Self::of(runs);
        let mut command = memgate();
        command.args(["baseline", "record"]).arg(recorded.directory()).arg("--baselines").arg(recorded.baselines());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        recorded
    }

    /// Runs with the gates of a baseline of steady ones, which tolerates 0.4 %.
    fn with_close_gates(runs: u32, bytes: impl Fn(u32) -> u64) -> Self {
        let recorded = Self::with_baseline(&(1..=runs).map(|run| healthy(run, 2000)).collect::<Vec<_>>());
        for run in 1..=runs {
            recorded.add("evidence", &healthy(run, bytes(run)));
        }
        recorded
    }

    fn add(&self, directory: &str, run: &Evidence) {
        let directory = self.0.path().join(directory);
        fs::create_dir_all(&directory).unwrap();
        let Evidence { service, run: number, .. } = run;
        evidence_file::write(&directory.join(format!("{service}.linux-amd64.run{number}.evidence.json")), run).unwrap();
    }

    fn directory(&self) -> PathBuf {
        self.0.path().join("evidence")
    }

    fn baselines(&self) -> PathBuf {
        self.0.path().join("baselines")
    }

    fn baseline(&self) -> PathBuf {
        self.baselines().join("linux-amd64/uaa.yaml")
    }

    /// Changes the baseline.
    fn edit(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.baseline()).unwrap();
        fs::write(self.baseline(), changed(&text, from, to)).unwrap();
    }

    fn run(&self, verb: &str, more: &[&str]) -> Output {
        self.run_on(verb, &[&self.directory()], more)
    }

    fn run_on(&self, verb: &str, directories: &[&Path], more: &[&str]) -> Output {
        let mut command = memgate();
        command.arg(verb).arg("--from").args(directories).arg("--baselines").arg(self.baselines()).args(more);
        command.output().unwrap()
    }

    /// The first result in JSON, after this exit code.
    #[track_caller]
    fn result(&self, verb: &str, code: i32) -> Value {
        let output = self.run(verb, &["--format", "json"]);
        assert_eq!(output.status.code(), Some(code), "{}{}", stdout(&output), stderr(&output));
        let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_fits(verb, &report);
        report["results"][0].clone()
    }

    /// The outcome of each fault, by its gate, after this exit code.
    #[track_caller]
    fn outcomes(&self, code: i32) -> Vec<(String, String, String)> {
        let faults = self.result("selftest", code)["faults"].clone();
        let text = |fault: &Value, key: &str| fault[key].as_str().unwrap().to_owned();
        let of = |fault: &Value| (text(fault, "gate"), text(fault, "outcome"), text(fault, "reason"));
        faults.as_array().unwrap().iter().map(of).collect()
    }
}

/// Each gate's outcome without the reason.
fn short(outcomes: &[(String, String, String)]) -> Vec<(&str, &str)> {
    outcomes.iter().map(|(gate, outcome, _)| (gate.as_str(), outcome.as_str())).collect()
}

const ALL_FOUND: [(&str, &str); 4] = [
    ("heap_live_growth", "found"),
    ("alloc_bytes_per_request", "found"),
    ("allocs_per_request", "found"),
    ("goroutines_leaked", "found"),
];

/// [`ALL_FOUND`] with other outcomes for these gates.
fn all_found_but(others: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    let of = |(gate, found)| others.iter().find(|(other, _)| *other == gate).copied().unwrap_or((gate, found));
    ALL_FOUND.into_iter().map(of).collect()
}

/// Two runs whose requests allocate the same.
fn two() -> [Evidence; 2] {
    [1, 2].map(|run| healthy(run, 2000))
}

#[test]
fn healthy_runs_are_green_and_few_checks_are_no_proof() {
    let recorded = Recorded::healthy(12);
    let result = recorded.result("calibrate", 0);
    assert_eq!((&result["processes"], &result["recorded"]), (&12.into(), &6.into()));
    let disjoint = &result["disjoint"];
    assert_eq!((&disjoint["checks"], &disjoint["not_green"]), (&3.into(), &0.into()));
    // 1 − 0.05^(1/3).
    assert!((disjoint["not_green_at_most"].as_f64().unwrap() - 0.6316).abs() < 1e-4, "{disjoint}");
    let resampled = &result["resampled"];
    assert_eq!((&resampled["checks"], &resampled["not_green"]), (&200.into(), &0.into()));
    assert_eq!(resampled["not_green_at_most"], Value::Null, "they share processes");
    let text = stdout(&recorded.run("calibrate", &[]));
    assert!(text.contains("63.2%") && text.contains("default limits and tolerances"), "{text}");
}

#[test]
fn the_power_of_a_gate_is_that_of_the_first_look() {
    let result = Recorded::healthy(12).result("calibrate", 0);
    let power = result["power"].as_array().unwrap();
    let of = |name: &str| power.iter().find(|power| power["metric"] == name).unwrap();
    let bytes = of("alloc_bytes_per_request");
    let share = bytes["share"].as_f64().unwrap();
    assert!((0.004..0.01).contains(&share), "the tolerance and noise: {bytes}");
    let growth = of("heap_live_growth");
    assert!((5e5..1e6).contains(&growth["noticed"].as_f64().unwrap()), "the limit and noise: {growth}");
    assert_eq!(growth["share"], Value::Null, "a share of no growth means nothing");
    assert!(of("request_latency_p99")["cannot_fail"].as_str().unwrap().contains("advisory"));
    assert_eq!(of("gc_pause_p90")["cannot_fail"], "a time is advisory beside a baseline of one occasion");
}

/// The machine changes after the baseline: each check of the same build is red.
#[test]
fn healthy_checks_that_fail_are_counted_and_do_not_exit_with_0() {
    let drifted = |run| healthy(run, if run <= 6 { 2000 } else { 2040 });
    let runs: Vec<Evidence> = (1..=12).map(drifted).collect();
    let recorded = Recorded::of(&runs);
    let result = recorded.result("calibrate", 1);
    assert_eq!((&result["verdict"], &result["disjoint"]["not_green"]), (&"regressed".into(), &3.into()));
    assert_eq!(result["disjoint"]["not_green_at_most"], 1.0);
    let gate = &result["disjoint"]["gates"][0];
    assert_eq!((&gate["metric"], &gate["verdict"]), (&"alloc_bytes_per_request".into(), &"regressed".into()));
    let text = stdout(&recorded.run("calibrate", &[]));
    assert!(text.contains("not green: alloc_bytes_per_request regressed in 3 of the disjoint checks"), "{text}");
}

#[test]
fn resampling_sees_what_the_order_of_the_runs_hides() {
    // The late runs of each half differ, so that the disjoint checks are green.
    let wild = |run| if run % 2 == 0 { 2000 } else { 2400 };
    let result = Recorded::with_close_gates(12, wild).result("calibrate", 3);
    let (disjoint, resampled) = (&result["disjoint"], &result["resampled"]);
    assert_ne!(resampled["not_green"], 0, "{resampled}");
    assert_eq!(result["verdict"], "inconclusive", "{disjoint}");
}

#[test]
fn a_check_that_lacks_processes_is_cut_short_and_not_green() {
    let wild = |run| [2400, 2000][run as usize % 2] + if run <= 4 { 0 } else { 80 };
    let recorded = Recorded::with_close_gates(8, wild);
    let disjoint = &recorded.result("calibrate", 3)["disjoint"];
    // It looked at 2, 3 and 4 processes, and would have looked at 6.
    let counts = ["checks", "not_green", "cut_short", "regressed"].map(|key| disjoint[key].as_u64().unwrap());
    assert_eq!((counts, &disjoint["runs"]), ([1, 1, 1, 0], &4.0.into()), "{disjoint}");
}

#[test]
fn the_users_own_gates_are_calibrated_with_the_figures_of_the_runs() {
    let recorded = Recorded::with_close_gates(12, |run| if run <= 6 { 2000 } else { 2040 });
    assert_eq!(recorded.result("calibrate", 1)["disjoint"]["not_green"], 3);
    recorded.edit("tolerance: 0.4%", "tolerance: 5%");
    let before = fs::read(recorded.baseline()).unwrap();
    let result = recorded.result("calibrate", 0);
    assert_eq!(result["gates_of"], recorded.baseline().to_str().unwrap());
    assert_eq!(fs::read(recorded.baseline()).unwrap(), before, "the file stays as it is");
}

#[test]
fn evidence_that_is_inconclusive_is_not_green() {
    let doubtful = |run| {
        let mut run = healthy(run, 2000);
        run.signals.alloc_bytes.exactness = Exactness::Inexact { reason: "a test".to_owned() };
        run
    };
    let runs: Vec<Evidence> = (1..=12).map(doubtful).collect();
    let result = Recorded::of(&runs).result("calibrate", 0);
    let names: Vec<_> = result["power"].as_array().unwrap().iter().map(|power| power["metric"].clone()).collect();
    assert!(!names.contains(&"alloc_bytes_per_request".into()), "no figure to record, so no gate: {names:?}");
    // A baseline that asks for it has no figure.
    let recorded = Recorded::with_baseline(&(1..=12).map(|run| healthy(run, 2000)).collect::<Vec<_>>());
    runs.iter().for_each(|run| recorded.add("evidence", run));
    let result = recorded.result("calibrate", 3);
    assert_eq!(result["disjoint"]["not_green"], result["disjoint"]["checks"], "{result}");
}

#[test]
fn too_few_processes_and_processes_that_count_twice_are_refused() {
    let recorded = Recorded::healthy(7);
    assert_fails(&recorded.run("calibrate", &[]), 2, &["7 processes are too few", "--processes 8"]);
    let eight = Recorded::healthy(8);
    let result = eight.result("calibrate", 0);
    assert_eq!((&result["recorded"], &result["disjoint"]["checks"]), (&4.into(), &2.into()));
    assert_eq!(result["resampled"], Value::Null, "a check may need more than the 4 that are left");
    let twice = [&*eight.directory(), &*eight.directory()];
    let says = ["two runs of uaa on linux/amd64 began at 2026-11-23T12:01:00Z", "once"];
    assert_fails(&eight.run_on("calibrate", &twice, &[]), 2, &says);
    let one = Recorded::of(&[healthy(1, 2000)]);
    assert_fails(&one.run("selftest", &[]), 2, &["one process", "at least two"]);
}

#[test]
fn evidence_of_several_commands_is_of_one_calibration() {
    let recorded = Recorded::healthy(6);
    for run in 7..=12 {
        // A second command, on another day, numbers its runs from 1 too.
        let started_at = format!("2026-11-24T12:{run:02}:00Z");
        recorded.add("second", &Evidence { run: run - 6, started_at, ..healthy(run, 2000) });
    }
    let output = recorded.run_on("calibrate", &[&recorded.directory(), &recorded.0.path().join("second")], &[]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("12 processes"), "{}", stdout(&output));
}

#[test]
fn services_are_apart_and_builds_are_not_mixed() {
    let recorded = Recorded::healthy(8);
    for run in 1..=8 {
        let other = healthy(run, 3000);
        recorded.add("evidence", &Evidence { service: "other".to_owned(), baseline: "other".to_owned(), ..other });
    }
    for (verb, results) in [("calibrate", 2), ("selftest", 2)] {
        let output = recorded.run(verb, &["--format", "json"]);
        let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
        assert_eq!(report["results"].as_array().unwrap().len(), results, "{verb}");
    }
    let recorded = Recorded::healthy(8);
    let mut other = healthy(9, 2000);
    other.environment.build.insert("-race".to_owned(), "true".to_owned());
    recorded.add("evidence", &other);
    for verb in ["calibrate", "selftest"] {
        assert_fails(&recorded.run(verb, &[]), 2, &["settings of the build", "-race=true"]);
    }
}

#[test]
fn a_comparison_of_two_builds_is_refused() {
    let recorded = Recorded::healthy(8);
    recorded.add("evidence/against", &Evidence { against: Some("main (1a2b3c4)".to_owned()), ..healthy(1, 2000) });
    for verb in ["calibrate", "selftest"] {
        let says = ["uaa on linux/amd64", "a comparison with main (1a2b3c4)", "without --against"];
        assert_fails(&recorded.run(verb, &[]), 2, &says);
        let output = memgate().args([verb, "--against", "HEAD"]).output().unwrap();
        assert_fails(&output, 2, &["--against HEAD", "one build, and not two"]);
    }
}

#[test]
fn recorded_evidence_takes_no_options_of_measuring() {
    let recorded = Recorded::healthy(2);
    let with_values =
        ["--service=uaa", "--platform=host", "--runner=native", "--runs=3", "--against=main", "--tier=T0"];
    let others = ["--config=memgate.yaml", "--out=x", "--force-probes", "--no-snapshot", "--no-wait"];
    for option in with_values.into_iter().chain(others) {
        for verb in ["calibrate", "selftest"] {
            assert_fails(&recorded.run(verb, &[option]), 2, &["cannot be used with"]);
        }
    }
    assert_fails(&recorded.run("calibrate", &["--processes", "12"]), 2, &["cannot be used with"]);
    let output = memgate().args(["selftest", "--baselines", "baselines"]).output().unwrap();
    assert_fails(&output, 2, &["--from"]);
    for wrong in ["7", "0", "-1", "201"] {
        let output = memgate().args(["calibrate", &format!("--processes={wrong}")]).output().unwrap();
        assert_fails(&output, 2, &["--processes", "8..=200"]);
    }
    let empty = tempfile::tempdir().unwrap();
    assert_fails(&recorded.run_on("selftest", &[empty.path()], &[]), 2, &["no file in this directory"]);
}

#[test]
fn every_fault_is_found_by_its_gate_and_the_evidence_stays() {
    let recorded = Recorded::with_baseline(&two());
    let file = recorded.directory().join("uaa.linux-amd64.run1.evidence.json");
    let before = fs::read(&file).unwrap();
    assert_eq!(short(&recorded.outcomes(0)), ALL_FOUND);
    assert_eq!(fs::read(&file).unwrap(), before);
    let result = recorded.result("selftest", 0);
    assert_eq!(result["unedited"], "pass");
    for fault in result["faults"].as_array().unwrap() {
        assert_eq!(fault["verdict"], "regressed", "{fault}");
        assert!(fault["after"].as_f64().unwrap() > fault["before"].as_f64().unwrap(), "{fault}");
    }
    let text = stdout(&recorded.run("selftest", &[]));
    assert!(text.contains("unedited: pass") && text.contains("4 of 4 faults found"), "{text}");
    assert!(text.contains("1 a run"), "one goroutine, because the limit is 0: {text}");
}

#[test]
fn without_a_baseline_garbage_cannot_be_found() {
    let recorded = Recorded::of(&two());
    let outcomes = recorded.outcomes(3);
    let blind = [("alloc_bytes_per_request", "cannot-tell"), ("allocs_per_request", "cannot-tell")];
    assert_eq!(short(&outcomes), all_found_but(&blind));
    for (gate, outcome, reason) in &outcomes {
        assert!(outcome == "found" || reason.contains("memgate baseline record"), "{gate}: {reason}");
    }
}

#[test]
fn a_gate_that_is_switched_off_is_told() {
    let recorded = Recorded::with_baseline(&two());
    let whole = fs::read_to_string(recorded.baseline()).unwrap();
    let waiver = "waiver: { reason: \"r\", owner: \"o\", expires: 2026-12-31 }";
    let cases = [
        ("metrics:\n", "metrics:\n  heap_live_growth: { limit: none }\n".to_owned(), "heap_live_growth", "limit: none"),
        (
            "metrics:\n",
            "metrics:\n  goroutines_leaked: { limit: 0, advisory: true }\n".into(),
            "goroutines_leaked",
            "advisory",
        ),
        (
            "tolerance: 0.4% }\n  allocs",
            format!("tolerance: 0.4%, {waiver} }}\n  allocs"),
            "alloc_bytes_per_request",
            "2026-12-31",
        ),
    ];
    for (from, to, gate, word) in cases {
        fs::write(recorded.baseline(), changed(&whole, from, &to)).unwrap();
        let outcomes = recorded.outcomes(3);
        assert_eq!(short(&outcomes), all_found_but(&[(gate, "cannot-fail")]));
        let reason = &outcomes.iter().find(|(other, ..)| other == gate).unwrap().2;
        assert!(reason.contains(word), "{reason}");
        let text = stdout(&recorded.run("selftest", &[]));
        assert!(text.contains(&format!("cannot fail: {gate}: ")) && text.contains("3 of 4"), "{text}");
    }
    // A waiver that has ended fails its gate, with or without a fault.
    let ended = format!("tolerance: 0.4%, {} }}\n  allocs", changed(waiver, "2026-12-31", "2026-01-31"));
    fs::write(recorded.baseline(), changed(&whole, "tolerance: 0.4% }\n  allocs", &ended)).unwrap();
    assert_eq!(short(&recorded.outcomes(3)), all_found_but(&[("alloc_bytes_per_request", "cannot-tell")]));
}

#[test]
fn a_baseline_that_does_not_fit_finds_nothing_by_its_figures() {
    let recorded = Recorded::with_baseline(&two());
    recorded.edit("go1.27.3", "go1.26.1");
    let outcomes = recorded.outcomes(3);
    let blind = [("alloc_bytes_per_request", "cannot-tell"), ("allocs_per_request", "cannot-tell")];
    assert_eq!(short(&outcomes), all_found_but(&blind), "limits hold");
    assert!(outcomes[1].2.contains("The baseline does not fit"), "{}", outcomes[1].2);
    recorded.edit("go1.26.1", "go1.27.3");
    recorded.edit("service: \"uaa\"", "service: \"other\"");
    assert_fails(&recorded.run("selftest", &[]), 2, &["uaa.yaml", "the baseline of other"]);
}

#[test]
fn a_service_without_requests_has_no_gate_on_garbage() {
    let idle = |run| {
        let mut run = healthy(run, 2000);
        let reason = "the load does not tell its requests".to_owned();
        run.signals.requests.exactness = Exactness::Missing { reason };
        run.signals.requests.data = memgate_evidence::Requests::default();
        run
    };
    let recorded = Recorded::with_baseline(&two());
    [1, 2].into_iter().for_each(|run| recorded.add("evidence", &idle(run)));
    let outcomes = recorded.outcomes(3);
    let blind = [("alloc_bytes_per_request", "cannot-tell"), ("allocs_per_request", "cannot-tell")];
    assert_eq!(short(&outcomes), all_found_but(&blind));
    assert!(outcomes[1].2.contains("no requests"), "{}", outcomes[1].2);
}

#[test]
fn a_gate_that_does_not_hold_without_the_fault_shows_nothing() {
    let recorded = Recorded::with_baseline(&two());
    [1, 2].into_iter().for_each(|run| recorded.add("evidence", &healthy(run, 2400)));
    let outcomes = recorded.outcomes(3);
    assert_eq!(short(&outcomes), all_found_but(&[("alloc_bytes_per_request", "cannot-tell")]));
    assert!(outcomes[1].2.contains("without the fault, the gate is regressed"), "{}", outcomes[1].2);
    let text = stdout(&recorded.run("selftest", &[]));
    assert!(text.contains("unedited: regressed: alloc_bytes_per_request"), "{text}");
    let doubtful = |run| {
        let mut run = healthy(run, 2000);
        run.signals.live_heap.lost = 1;
        run
    };
    [1, 2].into_iter().for_each(|run| recorded.add("evidence", &doubtful(run)));
    let outcomes = recorded.outcomes(3);
    assert_eq!(outcomes[0].1, "cannot-tell");
    assert!(outcomes[0].2.contains("1 record was lost"), "{}", outcomes[0].2);
}

/// Runs that differ by far more than the difference that matters: the gate holds, and cannot tell the fault from noise.
#[test]
fn a_fault_that_noise_hides_is_not_found() {
    let recorded = Recorded::with_baseline(&[healthy(1, 1700), healthy(2, 2300)]);
    let outcomes = recorded.outcomes(1);
    assert_eq!(short(&outcomes), all_found_but(&[("alloc_bytes_per_request", "not-found")]));
    assert!(outcomes[1].2.contains("noise alone may exceed it"), "{}", outcomes[1].2);
    let text = stdout(&recorded.run("selftest", &[]));
    assert!(text.contains("not found: alloc_bytes_per_request: ") && text.contains("3 of 4 faults found"), "{text}");
}

#[test]
fn a_figure_without_a_difference_that_matters_never_fails() {
    let recorded = Recorded::with_baseline(&two());
    let text = fs::read_to_string(recorded.baseline()).unwrap();
    let line = text.lines().find(|line| line.contains(" alloc_bytes_per_request:")).unwrap();
    fs::write(recorded.baseline(), changed(&text, line, "  alloc_bytes_per_request: { baseline: 2300B/request }"))
        .unwrap();
    let outcomes = recorded.outcomes(3);
    assert_eq!(short(&outcomes), all_found_but(&[("alloc_bytes_per_request", "cannot-fail")]));
    assert!(outcomes[1].2.contains("neither a tolerance, a floor nor a noise"), "{}", outcomes[1].2);
}

#[test]
fn faults_in_a_guest_are_found_by_the_same_gates() {
    let guest = |run| {
        let mut run = healthy(run, 2000);
        run.environment.runner = Runner::Qemu;
        run.signals.requests.data.per_second = 1000.0;
        run
    };
    let recorded = Recorded::with_baseline(&[guest(1), guest(2)]);
    assert_eq!(short(&recorded.outcomes(0)), ALL_FOUND);
}
