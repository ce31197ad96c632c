//! The command line on files: every bad input has its exit code and a message that says where the problem is and what
//! to do.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use common::{assert_fails, changed, memgate, running::Running, schema::Schema, stderr, stdout};
use memgate_evidence::{Evidence, TimeSpan, platform::Platform};
use memgate_files::evidence_file;
use memgate_report::Format;
use memgate_testing::{
    MEASURE, SECOND,
    evidence::{healthy, profiled},
};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// Evidence of two runs and a baseline that they agree with.
struct Recorded {
    directory: TempDir,
}

impl Recorded {
    fn new() -> Self {
        let recorded = Self::of(&[healthy(1, 2000), healthy(2, 2004)]);
        let output =
            recorded.command("baseline").arg("record").args(recorded.files()).args(recorded.baselines_flag()).output();
        assert_eq!(output.unwrap().status.code(), Some(0));
        recorded
    }

    fn of(runs: &[Evidence]) -> Self {
        let recorded = Self { directory: tempfile::tempdir().unwrap() };
        for run in runs {
            evidence_file::write(&recorded.file(run.run), run).unwrap();
        }
        recorded
    }

    fn file(&self, run: u32) -> PathBuf {
        self.directory.path().join(format!("uaa.linux-amd64.run{run}.evidence.json"))
    }

    /// Adds the evidence of the build that it is compared with.
    fn against(&self, name: &str, runs: [Evidence; 2]) {
        for run in runs {
            let file = self.directory.path().join("against").join(self.file(run.run).file_name().unwrap());
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            evidence_file::write(&file, &Evidence { against: Some(name.to_owned()), ..run }).unwrap();
        }
    }

    /// Runs the command on the whole directory.
    fn on_directory(&self, verb: &[&str]) -> Output {
        let mut command = self.command(verb[0]);
        command.args(&verb[1..]).arg(self.directory.path()).args(self.baselines_flag()).output().unwrap()
    }

    fn files(&self) -> [PathBuf; 2] {
        [self.file(1), self.file(2)]
    }

    fn baseline(&self) -> PathBuf {
        self.directory.path().join("baselines/linux-amd64/uaa.yaml")
    }

    fn baselines_flag(&self) -> [PathBuf; 2] {
        ["--baselines".into(), self.directory.path().join("baselines")]
    }

    fn command(&self, verb: &str) -> assert_cmd::Command {
        let mut command = memgate();
        command.arg(verb);
        command
    }

    /// The directory for files that are written beside a report.
    fn out(&self) -> PathBuf {
        self.directory.path().join("out")
    }

    fn judge(&self, args: &[&str]) -> Output {
        let mut command = self.command("judge");
        command.args(self.files()).args(self.baselines_flag()).arg("--out").arg(self.out());
        command.args(args).output().unwrap()
    }
}

#[test]
fn healthy_evidence_passes() {
    let output = Recorded::new().judge(&[]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("alloc_bytes_per_request"));
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_directory_stands_for_the_evidence_in_it() {
    let recorded = Recorded::new();
    let output =
        recorded.command("judge").arg(recorded.directory.path()).args(recorded.baselines_flag()).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let empty = tempfile::tempdir().unwrap();
    let output = recorded.command("judge").arg(empty.path()).output().unwrap();
    assert_fails(&output, 2, &["no file in this directory ends in .evidence.json"]);
}

#[test]
fn judging_twice_differs_only_in_the_time() {
    let recorded = Recorded::new();
    let without_time = || {
        let text = stdout(&recorded.judge(&["--format", "json"]));
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        let time = report["judged_at"].as_str().unwrap().to_owned();
        text.replace(&time, "")
    };
    assert_eq!(without_time(), without_time());
}

#[test]
fn more_bytes_a_request_are_a_regression_in_every_format() {
    let recorded = Recorded::new();
    for run in [1, 2] {
        evidence_file::write(&recorded.file(run), &healthy(run, 2400)).unwrap();
    }
    for format in Format::ALL.map(Format::name) {
        let output = recorded.judge(&["--format", format]);
        assert_eq!(output.status.code(), Some(1), "{format}: {}", stderr(&output));
        assert!(stdout(&output).contains("alloc_bytes_per_request"), "{format}: {}", stdout(&output));
    }
    let output = recorded.command("report").args(recorded.files()).args(recorded.baselines_flag()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "a report is no verdict");
    assert!(stdout(&output).contains("regressed"));
}

#[test]
fn a_regression_names_the_code_behind_it_in_every_format() {
    let recorded = Recorded::new();
    let source = common::repository().join("fixtures-go/cmd/uaa/main.go");
    for run in [1, 2] {
        let evidence = profiled(run, 2400, source.to_str().unwrap());
        evidence_file::write(&recorded.file(run), &evidence).unwrap();
    }
    for format in Format::ALL.map(Format::name) {
        let output = recorded.judge(&["--format", format]);
        assert_eq!(output.status.code(), Some(1), "{format}: {}", stderr(&output));
        let text = stdout(&output);
        assert!(text.contains("main.put") && text.contains("T2"), "{format}: {text}");
        assert!(
            text.contains("fixtures-go/cmd/uaa/main.go") && !text.contains(source.to_str().unwrap()),
            "{format}: {text}"
        );
    }
    let github = stdout(&recorded.judge(&["--format", "github"]));
    let expected =
        "::error file=fixtures-go/cmd/uaa/main.go,line=42,title=uaa on linux/amd64%3A alloc_bytes_per_request";
    assert!(github.contains(expected), "{github}");
    let elsewhere = recorded
        .command("judge")
        .current_dir(recorded.directory.path())
        .args(recorded.files())
        .args(recorded.baselines_flag())
        .arg("--out")
        .arg(recorded.out())
        .args(["--format", "github"])
        .output()
        .unwrap();
    assert!(!stdout(&elsewhere).contains("file="), "it lies in no repository: {}", stdout(&elsewhere));
}

#[test]
fn judging_draws_flame_graphs_and_lists_them() {
    let recorded = Recorded::new();
    for run in [1, 2] {
        evidence_file::write(&recorded.file(run), &profiled(run, 2000, "/src/main.go")).unwrap();
    }
    let output = recorded.judge(&["--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    let files: Vec<&str> =
        report["results"][0]["files"].as_array().unwrap().iter().map(|file| file.as_str().unwrap()).collect();
    let expected = ["alloc.svg", "alloc.folded", "live-growth.svg", "live-growth.folded"]
        .map(|name| recorded.out().join("flamegraphs").join(format!("uaa.linux-amd64.{name}")));
    assert_eq!(files, expected.each_ref().map(|file| file.to_str().unwrap()));
    // 1,024 / (1 − e^(−1/512)) bytes for each of 200 samples of two runs, of which 20 stayed.
    assert_eq!(fs::read_to_string(&expected[1]).unwrap(), "main.main;main.put;runtime.mallocgc 104960033\n");
    assert_eq!(fs::read_to_string(&expected[3]).unwrap(), "main.main;main.put;runtime.mallocgc 10496003\n");
    assert!(fs::read_to_string(&expected[0]).unwrap().contains("main.put"));
    let notes = report["results"][0]["notes"].to_string();
    assert!(notes.contains("no flame graph `offheap-growth`"), "{notes}");
    assert!(notes.contains("tracefs cannot be mounted"), "{notes}");
}

#[test]
fn flame_graphs_that_cannot_be_written_leave_the_verdict() {
    let recorded = Recorded::new();
    for run in [1, 2] {
        evidence_file::write(&recorded.file(run), &profiled(run, 2000, "/src/main.go")).unwrap();
    }
    fs::write(recorded.out(), "a file where the directory should be").unwrap();
    let output = recorded.judge(&[]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("note: no flame graphs: "), "{}", stdout(&output));
}

#[test]
fn formats_go_to_files_and_one_to_stdout() {
    let recorded = Recorded::new();
    let file = recorded.directory.path().join("reports/junit.xml");
    let output = recorded.judge(&["--format", &format!("junit={}", file.display()), "--format", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(fs::read_to_string(file).unwrap().contains("<testsuite"));
    assert!(stdout(&output).starts_with('{'));
    assert_fails(&recorded.judge(&["--format", "json", "--format", "junit"]), 2, &["would both go to standard output"]);
    assert_fails(
        &recorded.judge(&["--format", "pdf"]),
        2,
        &["pdf", &format!("expected one of {}", Format::ALL.map(Format::name).join(", "))],
    );
}

#[test]
fn evidence_baselines_and_reports_fit_their_schemas() {
    let recorded = Recorded::new();
    let evidence = Schema::new("evidence");
    for file in recorded.files() {
        let mut written: serde_json::Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        evidence.assert_fits(&written);
        written["evidence"]["environment"]["runner"] = "docker".into();
        assert!(evidence.refusal(&written).is_some());
    }
    let baseline = fs::read_to_string(recorded.baseline()).unwrap();
    Schema::new("baseline").assert_fits(&serde_yaml::from_str(&baseline).unwrap());
    let schema = Schema::new("report");
    let report = |code: i32| {
        let output = recorded.on_directory(&["judge", "--format", "json"]);
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        schema.assert_fits(&report);
        report
    };
    recorded.against("main", [healthy(1, 2000), healthy(2, 2004)]);
    let mut passed = report(0);
    passed["results"][0]["gates"][0]["verdict"] = "fine".into();
    assert!(schema.refusal(&passed).is_some());
    recorded.against("main", [healthy(1, 1000), healthy(2, 1004)]);
    report(1);
    recorded.against("main", [healthy(1, 2000), healthy(2, 2004)]);
    fs::remove_file(recorded.baseline()).unwrap();
    report(3);
}

#[test]
fn without_a_baseline_nothing_is_green() {
    let recorded = Recorded::new();
    fs::remove_file(recorded.baseline()).unwrap();
    let output = recorded.judge(&[]);
    assert_eq!(output.status.code(), Some(3), "{}", stdout(&output));
    assert!(stdout(&output).contains("no-baseline") && stdout(&output).contains("memgate baseline record"));
}

#[test]
fn a_baseline_is_never_overwritten() {
    let recorded = Recorded::new();
    let before = fs::read(recorded.baseline()).unwrap();
    let output =
        recorded.command("baseline").arg("record").args(recorded.files()).args(recorded.baselines_flag()).output();
    assert_fails(&output.unwrap(), 2, &["uaa.yaml", "this baseline already exists"]);
    assert_eq!(fs::read(recorded.baseline()).unwrap(), before);
}

#[test]
fn a_baseline_cut_off_anywhere_is_refused() {
    let recorded = Recorded::new();
    let whole = fs::read_to_string(recorded.baseline()).unwrap();
    for end in [0, 1, whole.len() / 4, whole.len() / 2, whole.len() - 20] {
        fs::write(recorded.baseline(), &whole[..end]).unwrap();
        assert_fails(&recorded.judge(&[]), 2, &["uaa.yaml"]);
    }
}

#[test]
fn a_baseline_of_another_platform_or_machine_is_refused() {
    let recorded = Recorded::new();
    let whole = fs::read_to_string(recorded.baseline()).unwrap();
    fs::write(recorded.baseline(), common::changed(&whole, "linux/amd64", "linux/arm64")).unwrap();
    assert_fails(&recorded.judge(&[]), 2, &["uaa.yaml", "linux/arm64", "linux/amd64"]);
    for (from, to, word) in
        [("4KiB", "16KiB", "page size"), ("go1.27.3", "go1.26.1", "Go version"), ("native", "qemu", "runner")]
    {
        fs::write(recorded.baseline(), common::changed(&whole, from, to)).unwrap();
        let output = recorded.judge(&[]);
        assert_eq!(output.status.code(), Some(3), "{from}: {}{}", stdout(&output), stderr(&output));
        assert!(stdout(&output).contains(word), "{word}: {}", stdout(&output));
    }
}

#[test]
fn evidence_that_is_not_what_was_written_is_refused() {
    let recorded = Recorded::new();
    let whole = fs::read_to_string(recorded.file(2)).unwrap();
    let cases = [
        (whole[..whole.len() / 2].to_owned(), "cut off"),
        (whole.replacen("\"run\":2", "\"run\":3", 1), "changed"),
        (whole.replacen("\"schema\":3", "\"schema\":4", 1), "newer"),
        (String::new(), "empty"),
        ("not JSON".to_owned(), "JSON"),
    ];
    for (text, word) in cases {
        fs::write(recorded.file(2), text).unwrap();
        assert_fails(&recorded.judge(&[]), 2, &["run2.evidence.json", word]);
    }
    fs::remove_file(recorded.file(2)).unwrap();
    assert_fails(&recorded.judge(&[]), 2, &["run2.evidence.json"]);
}

/// Evidence with the right hash and a value that cannot be, and what is said of it.
#[test]
fn a_value_that_cannot_be_is_told_with_file_and_key() {
    let recorded = Recorded::new();
    let whole = fs::read_to_string(recorded.file(2)).unwrap();
    let (_, value) = whole.trim_end().split_once("\"evidence\":").unwrap();
    let value = value.strip_suffix('}').unwrap();
    for (from, to, key) in [
        ("\"page_size\":4096", "\"page_size\":-4096", "evidence.environment.page_size"),
        ("\"per_second\":500.0", "\"per_second\":NaN", "evidence.signals.requests.data.per_second"),
        ("\"per_second\":500.0", "\"per_second\":1e999", "evidence.signals.requests.data.per_second"),
        ("\"runner\":\"native\"", "\"runner\":\"docker\"", "evidence.environment.runner"),
        ("\"run\":2", "\"run\":4294967296", "evidence.run"),
    ] {
        let changed = value.replacen(from, to, 1);
        assert_ne!(changed, value, "{from}");
        let hash = sha256(&changed);
        fs::write(recorded.file(2), format!("{{\"schema\":3,\"sha256\":\"{hash}\",\"evidence\":{changed}}}\n"))
            .unwrap();
        assert_fails(&recorded.judge(&[]), 2, &["run2.evidence.json", key, "memgate record"]);
    }
}

/// The hash that `sha256sum` of coreutils gives.
fn sha256(text: &str) -> String {
    let output = assert_cmd::Command::new("sha256sum").write_stdin(text).output().unwrap();
    stdout(&output).split_once(' ').unwrap().0.to_owned()
}

/// What is wrong with both runs, the gate that tells, and a part of its reason.
type Bad = (fn(&mut Evidence), &'static str, &'static str);

#[test]
fn bad_data_are_no_pass_and_the_report_says_why() {
    let recorded = Recorded::new();
    let cases: [Bad; 6] = [
        (
            |run| run.signals.page_faults.data.value.fill(0),
            "page_faults_per_request",
            "contain a 0, which is impossible",
        ),
        (|run| run.signals.page_faults.data.at_ns.reverse(), "page_faults_per_request", "decrease"),
        (|run| run.signals.goroutines.data.value.truncate(7), "goroutines_max", "751 times but 7 values"),
        (|run| run.signals.fds.data = Default::default(), "fds_leaked", "empty"),
        (|run| run.phases.drain = Some(MEASURE), "goroutines_leaked", "their clock went back"),
        (|run| run.signals.requests.data.measure.intended += 1, "request_errors", "not those intended"),
    ];
    for (spoil, gate, expected) in cases {
        for run in [1, 2] {
            let mut evidence = healthy(run, 2000);
            spoil(&mut evidence);
            evidence_file::write(&recorded.file(run), &evidence).unwrap();
        }
        let output = recorded.judge(&["--format", "json"]);
        assert_eq!(output.status.code(), Some(3), "{gate}: {}{}", stdout(&output), stderr(&output));
        let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        let gates = report["results"][0]["gates"].as_array().unwrap();
        let told = gates.iter().find(|told| told["metric"] == gate).unwrap();
        assert_eq!(told["verdict"], "inconclusive", "{told}");
        assert!(told["reason"].as_str().unwrap().contains(expected), "{told}");
    }
}

#[test]
fn runs_of_different_length_are_refused() {
    let recorded = Recorded::new();
    let mut short = healthy(2, 2000);
    short.phases.measure = Some(TimeSpan { end_ns: MEASURE.start_ns + 20 * SECOND, ..MEASURE });
    short.signals.requests.data.measure.intended /= 3;
    evidence_file::write(&recorded.file(2), &short).unwrap();
    let expected = "run 1 measured for 60.0 s with 30000 requests and run 2 measured for 20.0 s with 10000 requests";
    assert_fails(&recorded.judge(&[]), 2, &[expected, "judge them separately"]);
}

#[test]
fn the_same_run_twice_is_refused() {
    let recorded = Recorded::new();
    fs::copy(recorded.file(1), recorded.file(2)).unwrap();
    assert_fails(&recorded.judge(&[]), 2, &["are both run 1 of uaa on linux/amd64"]);
}

#[test]
fn a_closed_stdout_is_an_error_and_not_a_verdict() {
    let recorded = Recorded::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_memgate"));
    command.arg("judge").args(recorded.files()).args(recorded.baselines_flag());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command.stdout(Stdio::from(writer)).stderr(Stdio::piped()).output().unwrap();
    assert_fails(&output, 4, &["output:", "standard output", "Broken pipe", "memgate report"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_memgate"));
    let output =
        command.args(["schema", "config"]).stdout(Stdio::from(writer)).stderr(Stdio::piped()).output().unwrap();
    assert_fails(&output, 4, &["stdout", "Broken pipe"]);
}

#[test]
fn a_configuration_that_is_wrong_is_shown_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let good = fs::read_to_string(common::repository().join("memgate.yaml")).unwrap();
    let fixtures = format!("dir: {}", common::repository().join("fixtures-go").display());
    let good = common::changed(&good, "dir: fixtures-go", &fixtures);
    let changed = |from, to| common::changed(&good, from, to);
    let cases: [(String, &[&str]); 7] = [
        (changed("    phases:", "    run_count: 3\n    phases:"), &["memgate.yaml:", "run_count", "runs"]),
        (changed("warmup: 15s", "warmup: 20"), &["warmup", "20s"]),
        (changed("memory_max: 256MiB", "memory_max: 256 furlongs"), &["memory_max", "furlongs"]),
        (changed("    phases:", "    runs: 3\n    runs: 4\n    phases:"), &["duplicate key `runs`"]),
        (changed("    phases:", "\truns: 3\n    phases:"), &["tab"]),
        (String::new(), &["memgate.yaml", "empty"]),
        ("[".repeat(10_000_000), &["memgate.yaml", "1 MiB"]),
    ];
    let file = directory.path().join("memgate.yaml");
    for (text, words) in cases {
        fs::write(&file, text).unwrap();
        assert_fails(&check(&file), 2, words);
    }
    assert_fails(&check(directory.path()), 2, &["directory"]);
    assert_fails(&check(&directory.path().join("nowhere.yaml")), 2, &["nowhere.yaml", "no such file"]);
    assert!(!directory.path().join("target").exists(), "nothing was begun");
}

fn check(config: &Path) -> Output {
    memgate().arg("check").arg("--config").arg(config).output().unwrap()
}

#[test]
fn a_service_that_the_configuration_does_not_have() {
    let output = memgate().args(["check", "--service", "nobody"]).output().unwrap();
    assert_fails(&output, 2, &["nobody", "uaa"]);
}

#[test]
fn another_platform_does_not_run_natively() {
    let other = Platform::ALL.into_iter().find(|platform| *platform != Platform::host()).unwrap();
    let output = memgate().args(["check", "--runner", "native", "--platform", other.name()]).output().unwrap();
    assert_fails(&output, 4, &["preflight:", other.name(), "cannot run natively"]);
    assert_fails(&memgate().args(["check", "--platform", "windows/amd64"]).output().unwrap(), 2, &["windows/amd64"]);
}

/// Runs `verb` for a service `uaa` that needs two runs on each platform, beside the evidence.
fn with_configuration(recorded: &Recorded, verb: &str) -> assert_cmd::Command {
    let config = recorded.directory.path().join("memgate.yaml");
    let yaml = r#"version: 1
services:
  uaa:
    binary: { linux/amd64: uaa }
    run: { ready: { http: "http://127.0.0.1:1/" } }
    load: { rate: 1/s, requests: [ { get: "http://127.0.0.1:1/" } ] }
    runs: 2
"#;
    fs::write(&config, yaml).unwrap();
    let mut command = recorded.command(verb);
    command.arg("--config").arg(config).arg("--out").arg(recorded.out());
    command
}

#[test]
fn evidence_of_two_builds_is_judged_by_their_difference() {
    let recorded = Recorded::new();
    recorded.against("main (1a2b3c4)", [healthy(1, 2004), healthy(2, 2000)]);
    let output = recorded.on_directory(&["judge"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("\nagainst: main (1a2b3c4), measured in turn, 2 runs each\n"), "{text}");
    recorded.against("main (1a2b3c4)", [healthy(1, 1004), healthy(2, 1000)]);
    for (format, words) in [
        ("junit", "alloc_bytes_per_request against main (1a2b3c4)"),
        ("terminal", "2.00kB/request exceeds the 1.00kB/request of main (1a2b3c4) by more than"),
        ("markdown", "Against main (1a2b3c4), measured in turn, 2 runs each:"),
        ("json", "\"against\": \"main (1a2b3c4)\""),
        ("github", "alloc_bytes_per_request against main (1a2b3c4) regressed"),
    ] {
        let output = recorded.on_directory(&["judge", "--format", format]);
        let text = stdout(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains(words), "`{words}` is not in:\n{text}");
    }
}

#[test]
fn evidence_of_the_other_build_alone_or_of_several_is_refused() {
    let recorded = Recorded::new();
    recorded.against("main", [healthy(1, 2000), healthy(2, 2004)]);
    let only = recorded.directory.path().join("against");
    let output = recorded.command("judge").arg(&only).output().unwrap();
    assert_fails(&output, 2, &["uaa on linux/amd64", "all evidence is of the build that another is compared with"]);
    let other = Evidence { against: Some("v1.0".to_owned()), ..healthy(3, 2000) };
    evidence_file::write(&recorded.file(3), &other).unwrap();
    assert_fails(&recorded.on_directory(&["judge"]), 2, &["compares with several builds: main, v1.0"]);
}

#[test]
fn a_baseline_is_recorded_of_the_build_that_is_judged() {
    let recorded = Recorded::of(&[healthy(1, 2000), healthy(2, 2004)]);
    recorded.against("main", [healthy(1, 1000), healthy(2, 1000)]);
    assert_eq!(recorded.on_directory(&["baseline", "record"]).status.code(), Some(0));
    let baseline = fs::read_to_string(recorded.baseline()).unwrap();
    assert!(baseline.contains("alloc_bytes_per_request: { baseline: 2.004002kB/request"), "{baseline}");
}

#[test]
fn new_figures_go_into_a_baseline_and_everything_else_stays() {
    let recorded = Recorded::new();
    let reviewed = changed(
        &fs::read_to_string(recorded.baseline()).unwrap(),
        "  alloc_bytes_per_request: {",
        "  # Agreed with the team.\n  alloc_bytes_per_request:   {",
    );
    fs::write(recorded.baseline(), &reviewed).unwrap();
    for run in [1, 2] {
        evidence_file::write(&recorded.file(run), &healthy(run, 2400)).unwrap();
    }
    assert_eq!(recorded.judge(&[]).status.code(), Some(1));
    let difference = "  alloc_bytes_per_request: 2.00kB/request -> 2.40kB/request (+19.9%), looser\n";
    let diff = recorded.on_directory(&["baseline", "diff"]);
    assert_eq!(diff.status.code(), Some(0), "{}", stderr(&diff));
    assert!(stdout(&diff).contains("uaa.yaml: ") && stdout(&diff).contains(" would change\n"), "{}", stdout(&diff));
    assert!(stdout(&diff).contains(difference), "{}", stdout(&diff));
    assert_eq!(fs::read_to_string(recorded.baseline()).unwrap(), reviewed, "diff writes nothing");
    let accept = recorded.on_directory(&["baseline", "accept", "--metric", "alloc_bytes_per_request"]);
    assert_eq!(accept.status.code(), Some(0), "{}", stderr(&accept));
    assert!(stdout(&accept).ends_with(&format!("uaa.yaml: 1 figure changed\n{difference}")), "{}", stdout(&accept));
    let after = fs::read_to_string(recorded.baseline()).unwrap();
    let differing = reviewed.lines().zip(after.lines()).filter(|(one, other)| one != other).count();
    assert_eq!((differing, after.lines().count()), (1, reviewed.lines().count()), "{after}");
    assert!(after.contains("# Agreed with the team.\n  alloc_bytes_per_request:   { baseline: 2.4"), "{after}");
    assert_eq!(recorded.judge(&[]).status.code(), Some(0), "{}", stdout(&recorded.judge(&[])));
    let all = recorded.on_directory(&["baseline", "accept"]);
    assert_eq!(all.status.code(), Some(0), "{}", stderr(&all));
    let again = recorded.on_directory(&["baseline", "diff"]);
    assert!(stdout(&again).ends_with("uaa.yaml: 0 figures would change\n"), "{}", stdout(&again));
}

#[test]
fn a_waived_gate_does_not_fail_the_check() {
    let recorded = Recorded::new();
    for run in [1, 2] {
        evidence_file::write(&recorded.file(run), &healthy(run, 2400)).unwrap();
    }
    assert_eq!(recorded.judge(&[]).status.code(), Some(1));
    let waive = |metric: &str, service: &str, reason: &str, expires: &str| {
        let mut command = recorded.command("baseline");
        command.args([
            "waive",
            metric,
            "--service",
            service,
            "--reason",
            reason,
            "--owner",
            "ada",
            "--expires",
            expires,
        ]);
        command.args(recorded.baselines_flag()).output().unwrap()
    };
    let bytes = "alloc_bytes_per_request";
    let before = fs::read_to_string(recorded.baseline()).unwrap();
    assert_fails(&waive(bytes, "uaa", " ", "2999-12-31"), 2, &["--reason is empty"]);
    assert_fails(&waive(bytes, "uaa", "x", "2020-12-31"), 2, &["--expires 2020-12-31: this is no day from today on"]);
    assert_fails(&waive(bytes, "uaa", "x", "soon"), 2, &["--expires soon"]);
    assert_fails(&waive(bytes, "pay", "x", "2999-12-31"), 2, &["pay has no baseline in"]);
    assert_fails(&waive(bytes, "../uaa", "x", "2999-12-31"), 2, &["`../uaa` cannot be the name of a baseline"]);
    assert_fails(&waive("gc_mark_p99", "uaa", "x", "2999-12-31"), 2, &["gc_mark_p99 has no entry here"]);
    assert_eq!(fs::read_to_string(recorded.baseline()).unwrap(), before, "nothing is written");
    let output = waive(bytes, "uaa", "fixed in 2.4", "2999-12-31");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).ends_with("uaa.yaml: alloc_bytes_per_request is waived until 2999-12-31\n"));
    let output = recorded.judge(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).contains("note: alloc_bytes_per_request is waived until 2999-12-31 by ada: fixed in 2.4"));
    assert!(stdout(&output).contains("Waived until 2999-12-31 by ada (fixed in 2.4):"), "{}", stdout(&output));
    let ended = changed(&fs::read_to_string(recorded.baseline()).unwrap(), "2999-12-31", "2020-12-31");
    fs::write(recorded.baseline(), ended).unwrap();
    let output = recorded.judge(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("The waiver of ada ended on 2020-12-31"), "{}", stdout(&output));
}

#[test]
fn a_metric_is_explained_with_what_the_baselines_expect() {
    let recorded = Recorded::new();
    let explain = |metric: &str| {
        let mut command = recorded.command("baseline");
        command.args(["explain", metric]).args(recorded.baselines_flag()).output().unwrap()
    };
    let output = explain("alloc_bytes_per_request");
    let text = stdout(&output);
    for line in [
        "alloc_bytes_per_request, bytes/request: Bytes allocated on the Go heap per completed request.",
        "default limit: general none; xinchuang none",
        "differences that matter, from a recorded figure: 0.40%",
        "uaa.yaml, recorded 20",
        ": baseline 2.00kB/request, noise 2.83B/request, tolerance 0.43%",
    ] {
        assert!(text.contains(line), "`{line}` is not in: {text}");
    }
    let growth = stdout(&explain("heap_live_growth"));
    assert!(growth.contains("default limit: general 0.50MB/min, or 0.50% a minute"), "{growth}");
    assert!(growth.contains("nothing beside the default limit"), "{growth}");
    assert_fails(&explain("alloc"), 2, &["'alloc'", "alloc_bytes_per_request"]);
    let nowhere =
        recorded.command("baseline").args(["explain", "oom_kills", "--baselines", "nowhere"]).output().unwrap();
    assert!(stdout(&nowhere).contains("nowhere: no baseline files"), "{}", stdout(&nowhere));
    fs::write(recorded.baseline(), "version: 1\n").unwrap();
    assert_fails(&explain("oom_kills"), 2, &["uaa.yaml"]);
}

#[test]
fn figures_are_not_accepted_where_there_is_no_baseline_or_no_such_metric() {
    let recorded = Recorded::of(&[healthy(1, 2000), healthy(2, 2004)]);
    let output = recorded.on_directory(&["baseline", "accept"]);
    assert_fails(&output, 2, &["uaa.yaml: there is no such baseline", "memgate baseline record"]);
    let recorded = Recorded::new();
    let output = recorded.on_directory(&["baseline", "accept", "--metric", "alloc"]);
    assert_fails(&output, 2, &["'alloc'", "alloc_bytes_per_request"]);
    let output = recorded.on_directory(&["baseline", "accept", "--metric", "oom_kills"]);
    assert_fails(&output, 2, &["oom_kills has no recorded figure here", "uaa.yaml:"]);
}

#[test]
fn builds_under_another_load_are_not_compared() {
    let recorded = Recorded::of(&[healthy(1, 2000), healthy(2, 2004)]);
    let other = |run| {
        let mut other = healthy(run, 2000);
        other.environment.load = "5/s over 1 connections: 1 GET /".to_owned();
        other
    };
    recorded.against("main", [other(1), other(2)]);
    let says = ["uaa on linux/amd64: the builds were not measured in turn", "load", "5/s over 1 connections"];
    assert_fails(&recorded.on_directory(&["judge"]), 2, &says);
}

#[test]
fn merged_evidence_is_judged_as_one() {
    let recorded = Recorded::new();
    let merge = || {
        let mut command = with_configuration(&recorded, "merge");
        command.args(["--platform", "linux/amd64", "--format", "json"]).args(recorded.files()).output().unwrap()
    };
    let output = merge();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&report["results"][0]["runs"], &report["verdict"]), (&2.into(), &"pass".into()));
    for run in [1, 2] {
        evidence_file::write(&recorded.file(run), &healthy(run, 2400)).unwrap();
    }
    assert_eq!(merge().status.code(), Some(1));
}

#[test]
fn a_job_whose_evidence_is_missing_fails_the_merge() {
    let recorded = Recorded::new();
    // Without a named platform, all are required.
    let output = with_configuration(&recorded, "merge").args(recorded.files()).output().unwrap();
    assert_fails(
        &output,
        4,
        &["evidence is missing", "uaa linux/arm64: 0 of 2 runs", "uaa linux/loong64: 0 of 2 runs"],
    );
    let mut one_run = with_configuration(&recorded, "merge");
    let output = one_run.args(["--platform", "linux/amd64"]).arg(recorded.file(1)).output().unwrap();
    assert_fails(&output, 4, &["uaa linux/amd64: 1 of 2 runs"]);
    let mut of_one_build = with_configuration(&recorded, "merge");
    of_one_build.args(["--platform", "linux/amd64", "--against", "main"]);
    assert_fails(
        &of_one_build.args(recorded.files()).output().unwrap(),
        4,
        &["uaa linux/amd64: 0 of 2 runs of both builds"],
    );
    assert!(!stdout(&output).contains("pass"), "{}", stdout(&output));
}

#[test]
fn a_workflow_gets_a_job_for_each_platform() {
    let recorded = Recorded::new();
    let plan = |args: &[&str]| {
        let output = with_configuration(&recorded, "plan").arg("--github-matrix").args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let matrix: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
        matrix["include"].as_array().unwrap().clone()
    };
    let jobs = plan(&[]);
    assert_eq!(jobs.len(), Platform::ALL.len());
    for (job, platform) in jobs.iter().zip(Platform::ALL) {
        let runner = if platform == Platform::host() { "native" } else { "qemu" };
        assert_eq!(
            *job,
            serde_json::json!({ "platform": platform.name(), "name": platform.folder(), "runner": runner })
        );
    }
    assert_eq!(plan(&["--platform", "linux/loong64"]).len(), 1);
}

#[test]
fn an_empty_cache_has_kernels_and_no_image() {
    let cache = tempfile::tempdir().unwrap();
    let list = || memgate().args(["image", "list"]).env("MEMGATE_CACHE", cache.path().join("c")).output().unwrap();
    let text = stdout(&list());
    assert!(
        text.contains("no image yet") && text.contains("* loong64-7.2: linux/loong64 7.2, pages of 16 KiB"),
        "{text}"
    );
    let no_such = memgate().args(["image", "build", "--platform", "linux/arm64", "--kernel", "4.4"]).output().unwrap();
    assert_fails(&no_such, 2, &["linux/arm64", "4.4", "6.12"]);
    let no_size = memgate().args(["image", "build", "--page-size", "16"]).output().unwrap();
    assert_fails(&no_size, 2, &["--page-size"]);
}

/// Starts `memgate image lock` with this cache and mirror.
fn locking(cache: &Path, mirror: &str) -> Running {
    let file = cache.join("images.lock");
    let mut command = common::plain(&memgate());
    command.args(["image", "lock", "--mirror", mirror, "--file"]).arg(file).env("MEMGATE_CACHE", cache);
    Running::start(&mut command)
}

/// Sends a signal, and checks that memgate ends and leaves nothing half-made and no lock.
#[track_caller]
fn assert_ends_at(signal: Signal, memgate: Running, cache: &Path) {
    let asked = Instant::now();
    memgate.signal(signal);
    let ended = memgate.ends();
    let took = asked.elapsed();
    assert_eq!(ended.status.code(), Some(130), "{}", ended.said);
    // On a machine without other work, it takes a few hundredths of a second. The bound is for a busy one: without the
    // signal, the wait has no end.
    assert!(took < Duration::from_secs(10), "{took:?}");
    let mut left: Vec<_> = fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["CACHEDIR.TAG", "lock"]);
}

#[test]
fn a_memgate_that_waits_for_the_cache_names_the_holder_and_ends_at_a_signal() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let cache = tempfile::tempdir().unwrap();
        let lock = fs::File::create(cache.path().join("lock")).unwrap();
        fs::write(cache.path().join("lock"), "4321\n").unwrap();
        lock.lock().unwrap();
        let mut memgate = locking(cache.path(), "http://127.0.0.1:9/");
        memgate.says("waiting for another memgate (process 4321), which is changing the cache");
        assert_ends_at(signal, memgate, cache.path());
    }
}

#[test]
fn a_download_ends_at_a_signal_and_leaves_nothing_half_made() {
    // A mirror that takes a request and never answers.
    let mirror = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/", mirror.local_addr().unwrap());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let cache = tempfile::tempdir().unwrap();
        let memgate = locking(cache.path(), &address);
        let (_request, _) = mirror.accept().unwrap();
        assert_ends_at(signal, memgate, cache.path());
        let lock = fs::File::open(cache.path().join("lock")).unwrap();
        lock.try_lock().unwrap();
        let of_apt = |process: &i32| {
            let line = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(cache.path().to_str().unwrap())
        };
        assert_eq!(common::processes().into_iter().filter(of_apt).collect::<Vec<_>>(), [0; 0], "apt still runs");
    }
}

#[test]
fn bash_completes_commands_options_and_values() {
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("memgate.bash");
    fs::write(&script, stdout(&memgate().args(["completions", "bash"]).output().unwrap())).unwrap();
    let completed = |words: &str| {
        let complete = format!(
            "source {}; COMP_WORDS=({words} ''); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _memgate memgate \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; echo \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        let output = std::process::Command::new("bash").args(["-c", &complete]).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    };
    let is_among = |word: &str, words: &str| completed(words).split_whitespace().any(|found| found == word);
    assert!(is_among("check", "memgate") && is_among("--service", "memgate check"));
    assert!(is_among("record", "memgate baseline") && is_among("qemu", "memgate check --runner"));
    assert!(is_among("heap_live_growth", "memgate baseline explain"));
    assert!(!is_among("heap_live_growth", "memgate check --runner"));
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let output = memgate().args(["completions", shell]).output().unwrap();
        assert!(output.status.success() && stdout(&output).contains("memgate"), "{shell}");
    }
}

#[test]
fn every_command_has_a_man_page() {
    let page = |words: &[&str]| memgate().arg("man").args(words).output().unwrap();
    let text = stdout(&page(&["baseline", "record"]));
    assert!(text.contains("memgate\\-baseline\\-record") && text.contains("\\-\\-limits"), "{text}");
    assert!(stdout(&page(&[])).contains("Exit codes"));
    assert_fails(&page(&["bsaeline"]), 2, &["`memgate bsaeline` is no command", "`memgate --help` lists"]);
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().to_str().unwrap();
    assert!(page(&["--out", out]).status.success());
    for name in ["memgate.1", "memgate-check.1", "memgate-baseline-record.1", "memgate-image-boot.1"] {
        assert!(directory.path().join(name).is_file(), "{name}");
    }
    assert_fails(&page(&["--out", "/nowhere/at/all"]), 4, &["/nowhere/at/all cannot be written"]);
}

#[test]
fn a_configuration_is_made_only_where_it_can_be() {
    let directory = tempfile::tempdir().unwrap();
    let module = directory.path().join("module");
    fs::create_dir_all(module.join("cmd")).unwrap();
    let init = |place: &Path, words: &[&str]| {
        let mut command = memgate();
        command.args(["init", "--no-wait"]).arg(place).args(words).current_dir(directory.path()).env("PATH", "");
        command.output().unwrap()
    };
    assert_fails(&init(&directory.path().join("none"), &[]), 2, &["none: it cannot be opened as a directory"]);
    assert_fails(&init(&module, &[]), 2, &["there is no go.mod in it or below it", "`memgate init DIR`"]);
    fs::write(module.join("go.mod"), "module m\n").unwrap();
    assert_fails(&init(&module.join("cmd"), &[]), 2, &["there is one above it: `memgate init", "/module`"]);
    assert_fails(&init(&module.join("go.mod"), &[]), 2, &["go.mod: it cannot be opened as a directory"]);
    assert_fails(&init(&module, &[]), 4, &["build: no `go` on PATH"]);
    fs::write(module.join("memgate.yaml"), "mine").unwrap();
    assert_fails(&init(&module, &[]), 2, &["module/memgate.yaml: there is such a file already", "`--force`"]);
    assert_fails(&init(&module, &["--force", "--print"]), 2, &["cannot be used with"]);
    assert_fails(&init(&module, &["--user", "no such"]), 2, &["expected a user such as"]);
    assert_eq!(fs::read_to_string(module.join("memgate.yaml")).unwrap(), "mine");
    assert_fails(
        &memgate().current_dir(directory.path()).arg("check").output().unwrap(),
        2,
        &["let `memgate init` write one"],
    );
}
