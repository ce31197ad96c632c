//! `memgate calibrate` and `memgate selftest` measure a service, and keep what the last check wrote.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{fs, process::Output};

use common::{repository::Repository, schema::assert_fits, stderr, stdout};
use serde_json::Value;

/// Runs the command without BPF and returns its output and its report.
fn run(repository: &Repository, words: &[&str]) -> (Output, Value) {
    let mut command = repository.memgate();
    let output = command.args(words).args(["--tier", "T0", "--out", "out", "--format", "json"]).output().unwrap();
    let report = serde_json::from_str(&stdout(&output));
    let report = report.unwrap_or_else(|error| panic!("{error}: {}{}", stdout(&output), stderr(&output)));
    assert_fits(words[0], &report);
    (output, report)
}

/// The number of evidence files in a directory below `out`.
fn evidence(repository: &Repository, directory: &str) -> usize {
    let files = fs::read_dir(repository.out().join(directory)).unwrap().flatten();
    files.filter(|file| file.file_name().to_string_lossy().ends_with(".evidence.json")).count()
}

#[test]
fn processes_are_measured_and_the_last_check_stays() {
    let repository = Repository::new(18_341);
    fs::create_dir_all(repository.out()).unwrap();
    let of_check = repository.out().join("s.linux-amd64.run1.evidence.json");
    fs::write(&of_check, "of a check").unwrap();
    let (output, report) = run(&repository, &["selftest"]);
    // Tier T0 does not see the live heap, and there is no baseline.
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let tested = &report["results"][0];
    assert_eq!(tested["faults"][0]["outcome"], "cannot-tell", "{tested}");
    assert_eq!(evidence(&repository, "selftest"), usize::try_from(tested["runs"].as_u64().unwrap()).unwrap());
    let (output, report) = run(&repository, &["calibrate", "--processes", "8"]);
    let calibrated = &report["results"][0];
    assert_eq!((&calibrated["processes"], &calibrated["recorded"]), (&8.into(), &4.into()), "{}", stderr(&output));
    // A busy machine may bring any verdict. The exit code is that of the verdict.
    let code = match calibrated["verdict"].as_str().unwrap() {
        "pass" | "improved" | "advisory" => 0,
        "regressed" => 1,
        "inconclusive" | "no-baseline" => 3,
        other => panic!("{other}"),
    };
    assert_eq!(output.status.code(), Some(code));
    assert_eq!(evidence(&repository, "calibrate"), 8);
    assert_eq!(fs::read_to_string(&of_check).unwrap(), "of a check");
    assert_eq!(evidence(&repository, "."), 1);
}

#[test]
fn a_service_that_cannot_be_measured_has_a_failure() {
    let repository = Repository::new(18_342);
    repository.handle("undefined()");
    for words in [&["selftest"][..], &["calibrate", "--processes", "8"]] {
        let (output, report) = run(&repository, words);
        assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
        assert_eq!(report["results"], Value::Array(Vec::new()));
        let failure = report["failures"][0]["failure"]["message"].as_str().unwrap();
        assert!(failure.contains("go build"), "{failure}");
    }
}
