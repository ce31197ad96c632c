//! Evidence counts only for what it is evidence of, and `merge` takes exactly the runs that were planned.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use common::{assert_fails, memgate, schema::Schema, stderr};
use memgate_evidence::{Commit, Evidence, Origin, platform::Platform};
use memgate_files::{evidence_file, names::RunFiles};
use memgate_testing::evidence::healthy;
use tempfile::TempDir;

/// A directory with evidence, a baseline that healthy runs agree with, and a configuration that plans two runs.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for run in [1, 2] {
            place.write("old", &healthy(run, 2000));
        }
        let output = place.run(&["baseline", "record", "old"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        place.configure("runs: 2");
        place
    }

    fn configure(&self, runs: &str) {
        let yaml = format!(
            r#"version: 1
services:
  uaa:
    binary: {{ linux/amd64: uaa }}
    run: {{ ready: {{ http: "http://127.0.0.1:1/" }} }}
    load: {{ rate: 1/s, requests: [ {{ get: "http://127.0.0.1:1/" }} ] }}
    {runs}
"#
        );
        fs::write(self.path("memgate.yaml"), yaml).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes evidence into a directory, and returns its file.
    fn write(&self, directory: &str, evidence: &Evidence) -> PathBuf {
        let Evidence { service, platform, run, .. } = evidence;
        let file = RunFiles::of(&self.path(directory), service, *platform, *run).evidence();
        evidence_file::write(&file, evidence).unwrap();
        file
    }

    /// memgate in this directory.
    fn run(&self, args: &[&str]) -> Output {
        memgate().current_dir(self.0.path()).args(args).output().unwrap()
    }

    /// `memgate merge` of a directory on linux/amd64.
    fn merge(&self, directory: &str) -> Output {
        self.run(&["merge", directory, "--platform", "linux/amd64"])
    }
}

fn name(file: &Path) -> &str {
    file.file_name().unwrap().to_str().unwrap()
}

fn origin() -> Origin {
    Origin {
        executable: "e".repeat(64),
        plan: "a".repeat(64),
        commit: Some(Commit { hash: "c".repeat(40), is_changed: false }),
        memgate: "b".repeat(32),
    }
}

/// A healthy run of this origin.
fn of(run: u32, origin: &Origin) -> Evidence {
    Evidence { origin: Some(origin.clone()), ..healthy(run, 2000) }
}

#[test]
fn evidence_of_different_things_is_refused_by_every_command_that_takes_evidence() {
    let place = Place::new();
    let changed = Commit { is_changed: true, ..origin().commit.unwrap() };
    let others = [
        ("executable", "f".repeat(64), Origin { executable: "f".repeat(64), ..origin() }),
        ("plan", "f".repeat(64), Origin { plan: "f".repeat(64), ..origin() }),
        ("commit", "with changed files".to_owned(), Origin { commit: Some(changed), ..origin() }),
        ("commit", "none".to_owned(), Origin { commit: None, ..origin() }),
    ];
    for (what, value, other) in others {
        let files = [place.write("new", &of(1, &origin())), place.write("new", &of(2, &other))];
        for verb in
            [&["judge"][..], &["report"], &["baseline", "record"], &["baseline", "diff"], &["calibrate", "--from"]]
        {
            let output = place.run(&[verb, &["new"]].concat());
            let says = [name(&files[0]), name(&files[1]), "not evidence of one thing", what, &value];
            assert_fails(&output, 2, &says);
        }
    }
    // Runs that an updated memgate measured are still of one thing.
    place.write("new", &of(2, &Origin { memgate: "d".repeat(32), ..origin() }));
    assert_eq!(place.run(&["judge", "new"]).status.code(), Some(0));
}

#[test]
fn evidence_of_an_earlier_memgate_is_judged_as_before_and_beside_no_other() {
    let place = Place::new();
    assert_eq!(place.run(&["judge", "old"]).status.code(), Some(0));
    assert_eq!(place.merge("old").status.code(), Some(0));
    place.write("old", &of(2, &origin()));
    assert_fails(&place.run(&["judge", "old"]), 2, &["run1", "run2", "an earlier memgate"]);
}

#[test]
fn merge_takes_only_what_was_measured_by_its_own_plan() {
    let place = Place::new();
    let write = |origin: &Origin| [1, 2].map(|run| place.write("new", &of(run, origin)));
    let files = write(&origin());
    let output = place.merge("new");
    assert_fails(&output, 2, &[name(&files[0]), "measured by the plan", "--tier"]);
    // The message tells what the configuration has.
    let message = stderr(&output).split_whitespace().collect::<Vec<_>>().join(" ").replace("│ ", "");
    let planned = message.split("the configuration has ").nth(1).unwrap().split(' ').next().unwrap();
    let files = write(&Origin { plan: planned.to_owned(), ..origin() });
    Schema::new("evidence").assert_fits(&serde_json::from_slice(&fs::read(&files[0]).unwrap()).unwrap());
    let output = place.merge("new");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let of_another_tier = place.run(&["merge", "new", "--platform", "linux/amd64", "--tier", "T0"]);
    assert_fails(&of_another_tier, 2, &["measured by the plan"]);
    // One of the two by another plan, which no file alone tells.
    let other = place.write("new", &of(2, &origin()));
    assert_fails(&place.merge("new"), 2, &[name(&other), "not evidence of one thing", "plan"]);
}

#[test]
fn bad_runs_are_not_diluted_by_more_good_ones() {
    let place = Place::new();
    let worse = |run| if run <= 3 { 2400 } else { 2000 };
    for run in 1..=14 {
        place.write("new", &healthy(run, worse(run)));
    }
    place.configure("runs: 3");
    let output = place.merge("new");
    assert_fails(&output, 2, &["uaa.linux-amd64.run10.evidence.json", "6 runs at most", "8 with higher numbers"]);
    // `memgate check` has 2, 3, 4 or 6 runs, and never more than `max_runs`.
    for run in 7..=14 {
        fs::remove_file(place.path(&format!("new/uaa.linux-amd64.run{run}.evidence.json"))).unwrap();
    }
    assert!([Some(1), Some(3)].contains(&place.merge("new").status.code()));
    place.configure("runs: 3\n    max_runs: 4");
    assert_fails(&place.merge("new"), 2, &["run5.evidence.json", "4 runs at most", "2 with higher numbers"]);
    place.configure("runs: 3");
    fs::remove_file(place.path("new/uaa.linux-amd64.run6.evidence.json")).unwrap();
    assert_fails(&place.merge("new"), 4, &["uaa linux/amd64: 5 of 6 runs"]);
}

#[test]
fn each_run_is_there_once() {
    let place = Place::new();
    let [first, second] = [1, 2].map(|run| place.write("a/new", &healthy(run, 2000)));
    let again = place.path("a/other/copy.evidence.json");
    fs::create_dir_all(again.parent().unwrap()).unwrap();
    fs::copy(&second, &again).unwrap();
    for output in [place.run(&["judge", "a"]), place.merge("a")] {
        assert_fails(&output, 2, &[name(&second), name(&again), "are both run 2 of uaa on linux/amd64"]);
    }
    place.write("a/new", &healthy(3, 2000));
    fs::remove_file(&again).unwrap();
    fs::remove_file(&second).unwrap();
    assert_fails(&place.run(&["judge", "a"]), 2, &[name(&first), "run 2 is missing", "3 runs"]);
    place.configure("runs: 3");
    assert_fails(&place.merge("a"), 4, &["uaa linux/amd64: 2 of 3 runs"]);
    let zero = place.write("a/new", &healthy(0, 2000));
    assert_fails(&place.run(&["judge", "a"]), 2, &[name(&zero), "runs count from 1"]);
}

#[test]
fn both_builds_of_a_comparison_have_the_same_runs() {
    let place = Place::new();
    let against = |run| Evidence { against: Some("main".to_owned()), ..healthy(run, 2000) };
    for run in [1, 2] {
        place.write("new", &healthy(run, 2000));
        place.write("new/against", &against(run));
    }
    let compared = ["merge", "new", "--platform", "linux/amd64", "--against", "main"];
    assert_eq!(place.run(&compared).status.code(), Some(0));
    assert_eq!(place.run(&["judge", "new"]).status.code(), Some(0));
    // What nobody asked for is no part of the plan.
    assert_fails(&place.merge("new"), 2, &["against/uaa", "is not compared with another build"]);
    let third = place.write("new/against", &against(3));
    assert_fails(&place.run(&["judge", "new"]), 2, &["run 3 is missing beside"]);
    fs::remove_file(third).unwrap();
    fs::remove_file(place.path("new/against/uaa.linux-amd64.run2.evidence.json")).unwrap();
    assert_fails(&place.run(&compared), 4, &["1 of 2 runs of both builds"]);
    assert_fails(&place.run(&["judge", "new"]), 2, &["run 2 is missing beside"]);
    // Both are measured by one plan.
    for run in [1, 2] {
        place.write("new", &of(run, &origin()));
        let origin = Some(Origin { plan: "d".repeat(64), executable: "d".repeat(64), ..origin() });
        place.write("new/against", &Evidence { origin, ..against(run) });
    }
    assert_fails(&place.run(&["judge", "new"]), 2, &["the plan of the first is"]);
}

#[test]
fn merge_refuses_what_the_configuration_does_not_plan() {
    let other = Evidence { service: "other".to_owned(), baseline: "other".to_owned(), ..healthy(1, 2000) };
    let elsewhere = Evidence { platform: Platform::LinuxArm64, ..healthy(1, 2000) };
    for (unplanned, title) in [(other, "other on linux/amd64"), (elsewhere, "uaa on linux/arm64")] {
        let place = Place::new();
        let file = place.write("old", &unplanned);
        assert_fails(&place.merge("old"), 2, &[name(&file), title, "is not among what is to be judged"]);
    }
}

#[test]
fn the_baseline_to_merge_by_is_that_of_the_configuration() {
    let place = Place::new();
    for run in [1, 2] {
        place.write("old", &Evidence { baseline: "lenient".to_owned(), ..healthy(run, 2000) });
    }
    let says = ["uaa.linux-amd64.run1", "the baseline lenient", "the configuration has uaa"];
    assert_fails(&place.merge("old"), 2, &says);
}

/// The directory of `--out` after an earlier command: evidence of both builds, logs and reports.
fn left_behind(place: &Place) -> Vec<PathBuf> {
    let against = Evidence { against: Some("main".to_owned()), ..healthy(1, 2000) };
    let left = ["out/uaa.linux-amd64.run1.service.log", "out/report.json", "memgate.xml"].map(|name| place.path(name));
    let mut files = vec![place.write("out", &healthy(7, 2000)), place.write("out/against", &against)];
    for file in &left {
        fs::write(file, "old").unwrap();
    }
    files.extend(left);
    files
}

#[test]
fn what_an_earlier_command_left_is_gone_however_early_this_one_fails() {
    let report = "junit=memgate.xml";
    let native = ["--platform", "linux/amd64", "--out", "out"];
    let fails: [(&[&str], u8); 3] = [
        // The commit of the baselines is not there.
        (&["--baselines-from", "nowhere", "--format", report], 2),
        // The build to compare with is not there.
        (&["--against", "nowhere", "--format", report], 2),
        // The executable is not there.
        (&["--format", report, "--tier", "T0"], 4),
    ];
    for (args, code) in fails {
        let place = Place::new();
        let left = left_behind(&place);
        let others = place.write("out", &Evidence { service: "other".to_owned(), ..healthy(1, 2000) });
        let output = place.run(&[&["check"], &native[..], args].concat());
        assert_eq!(output.status.code(), Some(code.into()), "{}", stderr(&output));
        for file in &left {
            let is_new = file.ends_with("report.json") || file.ends_with("memgate.xml");
            assert!(!file.exists() || (is_new && fs::read_to_string(file).unwrap() != "old"), "{file:?} {args:?}");
        }
        assert!(others.exists(), "what is not selected stays");
    }
}

#[test]
fn record_and_merge_leave_no_earlier_result_when_they_fail() {
    let place = Place::new();
    let left = left_behind(&place);
    let record = ["record", "--platform", "linux/amd64", "--out", "out", "--against", "nowhere"];
    assert_eq!(place.run(&record).status.code(), Some(2));
    assert!(left.iter().all(|file| !file.exists() || file.ends_with("memgate.xml")), "record writes no report");
    let left = left_behind(&place);
    let merge = ["merge", "nothing", "--out", "out", "--format", "junit=memgate.xml"];
    assert_eq!(place.run(&merge).status.code(), Some(2));
    let is_report = |file: &Path| file.ends_with("report.json") || file.ends_with("memgate.xml");
    assert!(left.iter().all(|file| file.exists() != is_report(file)), "merge keeps the evidence");
}
