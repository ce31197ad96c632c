//! The JSON Schemas of `memgate schema` fit what memgate reads and writes, and refuse everything else.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::{evidence::healthy, memgate, repository, schema::Schema, stderr, stdout};
use memgate_evidence::Evidence;
use memgate_files::evidence_file;
use serde_json::{Value, json};
use tempfile::TempDir;

const ALL: [&str; 9] =
    ["config", "baseline", "evidence", "report", "history", "trends", "bisection", "calibration", "selftest"];

#[test]
fn each_schema_refuses_another_key_and_nothing() {
    for of in ALL {
        let schema = Schema::new(of);
        for value in [json!({}), json!([]), json!(null), json!({ "schema": 1, "no such key": 1 })] {
            assert!(schema.refusal(&value).is_some(), "{of}: {value}");
        }
    }
}

#[test]
fn the_committed_configurations_fit_and_no_misspelt_key_does() {
    let schema = Schema::new("config");
    for file in ["memgate.yaml", "fixtures-go/memgate.yaml", "fixtures-go/field/memgate.yaml"] {
        let text = fs::read_to_string(repository().join(file)).unwrap();
        let value: Value = serde_yaml::from_str(&text).unwrap();
        assert_eq!(schema.refusal(&value), None, "{file}");
        let misspelt: Value = serde_yaml::from_str(&text.replace(" load:", " laod:")).unwrap();
        assert!(schema.refusal(&misspelt).is_some(), "{file}");
    }
}

#[test]
fn the_committed_baselines_fit_and_no_misspelt_key_does() {
    let schema = Schema::new("baseline");
    for platform in ["linux-amd64", "linux-arm64", "linux-loong64"] {
        let text = fs::read_to_string(repository().join("baselines").join(platform).join("uaa.yaml")).unwrap();
        schema.assert_fits(&serde_yaml::from_str(&text).unwrap());
        let misspelt: Value = serde_yaml::from_str(&text.replace("rss_peak:", "rss_top:")).unwrap();
        assert!(schema.refusal(&misspelt).is_some(), "{platform}");
    }
}

/// Two runs of one build, and two of the one that it is compared with.
struct Judged(TempDir);

impl Judged {
    fn new(bytes: u64, against: u64) -> Self {
        let judged = Self(tempfile::tempdir().unwrap());
        for run in [1, 2] {
            judged.write("", &healthy(run, bytes));
            judged.write("against", &Evidence { against: Some("main".to_owned()), ..healthy(run, against) });
        }
        judged
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, directory: &str, run: &Evidence) {
        let directory = self.path("evidence").join(directory);
        fs::create_dir_all(&directory).unwrap();
        evidence_file::write(&directory.join(format!("uaa.linux-amd64.run{}.evidence.json", run.run)), run).unwrap();
    }

    /// Runs `memgate ARGS`, and returns what it prints.
    #[track_caller]
    fn run(&self, code: i32, args: &[&str]) -> String {
        let mut command = memgate();
        let output = command.args(args).arg(self.path("evidence")).arg("--baselines").arg(self.path("baselines"));
        let output = output.output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}{}", stdout(&output), stderr(&output));
        stdout(&output)
    }

    #[track_caller]
    fn report(&self, code: i32) -> Value {
        let out = self.path("out");
        serde_json::from_str(&self.run(code, &["judge", "--format", "json", "--out", out.to_str().unwrap()])).unwrap()
    }
}

fn json_file(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn evidence_baselines_and_reports_fit() {
    let (evidence, baseline, report) = (Schema::new("evidence"), Schema::new("baseline"), Schema::new("report"));
    let judged = Judged::new(2000, 2000);
    for run in [1, 2] {
        let file = json_file(&judged.path(&format!("evidence/uaa.linux-amd64.run{run}.evidence.json")));
        evidence.assert_fits(&file);
        let mut changed = file.clone();
        changed["evidence"]["environment"]["runner"] = json!("docker");
        assert!(evidence.refusal(&changed).is_some());
    }
    let without_baseline = judged.report(3);
    report.assert_fits(&without_baseline);
    judged.run(0, &["baseline", "record"]);
    let recorded = fs::read_to_string(judged.path("baselines/linux-amd64/uaa.yaml")).unwrap();
    baseline.assert_fits(&serde_yaml::from_str(&recorded).unwrap());
    let passed = judged.report(0);
    report.assert_fits(&passed);
    assert_eq!(passed["results"][0]["gates"][0]["verdict"], "pass");
    let mut changed = passed;
    changed["results"][0]["gates"][0]["verdict"] = json!("fine");
    assert!(report.refusal(&changed).is_some());
    let worse = Judged::new(2400, 2000);
    fs::create_dir_all(worse.path("baselines/linux-amd64")).unwrap();
    fs::write(worse.path("baselines/linux-amd64/uaa.yaml"), recorded).unwrap();
    report.assert_fits(&worse.report(1));
}
