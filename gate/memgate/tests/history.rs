//! `--history` and `memgate history`: what is kept of a verdict, what is shown of many, and every bad file.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use common::{assert_fails, memgate, repository::Repository, schema::assert_fits, stderr, stdout};
use memgate_evidence::{
    Evidence,
    platform::{Platform, Runner},
};
use memgate_files::evidence_file;
use memgate_testing::{Random, evidence::healthy};
use memgate_verdict::{
    history::{Line, SCHEMA},
    results::{Figure, Verdict},
};
use serde_json::Value;
use tempfile::TempDir;

/// A directory with evidence of two runs of `uaa`, without a baseline.
struct Judged {
    directory: TempDir,
}

impl Judged {
    fn new() -> Self {
        let judged = Self { directory: tempfile::tempdir().unwrap() };
        write_evidence(&judged.path("evidence"), "uaa");
        judged
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self) -> assert_cmd::Command {
        let mut command = memgate();
        command.arg("judge").arg(self.path("evidence")).arg("--baselines").arg(self.path("baselines"));
        command.arg("--out").arg(self.path("out")).arg("--history").arg(self.path("h.jsonl"));
        command
    }

    fn judge(&self) -> Output {
        self.command().output().unwrap()
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path("h.jsonl")).unwrap()
    }
}

fn write_evidence(directory: &Path, service: &str) {
    fs::create_dir_all(directory).unwrap();
    for run in [1, 2] {
        let evidence = Evidence { service: service.to_owned(), baseline: service.to_owned(), ..healthy(run, 2000) };
        evidence_file::write(&directory.join(format!("{service}.linux-amd64.run{run}.evidence.json")), &evidence)
            .unwrap();
    }
}

fn values(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_verdict_is_kept_with_every_figure() {
    let judged = Judged::new();
    let output = judged.command().args(["--format", "json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "there is no baseline: {}", stderr(&output));
    let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
    let text = judged.text();
    assert!(text.ends_with('\n'));
    let [line] = &values(&text)[..] else { panic!("{text}") };
    assert_fits("history", line);
    let result = &report["results"][0];
    for (key, expected) in [
        ("schema", &1.into()),
        ("judged_at", &report["judged_at"]),
        ("memgate", &report["memgate"]),
        ("service", &result["service"]),
        ("platform", &result["platform"]),
        ("runner", &"native".into()),
        ("go", &"go1.27.3".into()),
        ("verdict", &"no-baseline".into()),
        ("runs", &2.into()),
    ] {
        assert_eq!(&line[key], expected, "{key}");
    }
    let gates = result["gates"].as_array().unwrap();
    assert!(gates.len() > 5);
    for gate in gates.iter().filter(|gate| !gate["measured"].is_null()) {
        let kept = &line["metrics"][gate["metric"].as_str().unwrap()];
        for key in ["measured", "low", "high"] {
            assert_eq!(kept[key], gate[key], "{gate}");
        }
    }
    let ungated = result["ungated"].as_array().unwrap();
    assert!(!ungated.is_empty());
    for metric in ungated {
        assert!(line["metrics"][metric.as_str().unwrap()]["measured"].is_f64(), "{metric}");
    }
    judged.judge();
    assert!(judged.text().starts_with(&text), "what is there stays");
    assert_eq!(values(&judged.text()).len(), 2);
}

#[test]
fn a_line_has_the_commit_of_the_checkout() {
    let repository = Repository::new(1);
    let commit = repository.git(&["rev-parse", "HEAD"]);
    let out = tempfile::tempdir().unwrap();
    write_evidence(out.path(), "s");
    let history = out.path().join("h.jsonl");
    let judge = repository.memgate().arg("judge").arg(out.path()).arg("--history").arg(&history).output().unwrap();
    assert_eq!(judge.status.code(), Some(3), "{}", stderr(&judge));
    // `merge` takes the checkout of the configuration, wherever it is called.
    let mut merge = memgate();
    merge.current_dir(out.path()).arg("merge").arg(out.path()).args(["--platform", "linux/amd64", "--out", "out"]);
    merge.arg("--config").arg(repository.path().join("memgate.yaml")).arg("--history").arg("h.jsonl");
    let merge = merge.output().unwrap();
    assert_eq!(merge.status.code(), Some(3), "{}", stderr(&merge));
    // A directory outside of any repository has none.
    let mut elsewhere = memgate();
    let elsewhere = elsewhere.current_dir(out.path()).arg("judge").arg(out.path()).arg("--history").arg("h.jsonl");
    assert_eq!(elsewhere.output().unwrap().status.code(), Some(3));
    let commits: Vec<Value> =
        values(&fs::read_to_string(history).unwrap()).iter().map(|line| line["commit"].clone()).collect();
    assert_eq!(commits, [commit.as_str().into(), commit.as_str().into(), Value::Null]);
}

#[test]
fn a_checkout_whose_commit_git_does_not_tell_is_told() {
    let judged = Judged::new();
    fs::create_dir(judged.path(".git")).unwrap();
    let output = judged.command().current_dir(judged.directory.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("the history gets no commit: fatal: not a git repository"), "{}", stderr(&output));
    assert_eq!(values(&judged.text())[0]["commit"], Value::Null);
}

#[test]
fn nothing_is_appended_to_a_line_that_was_cut_off() {
    let judged = Judged::new();
    judged.judge();
    let whole = judged.text();
    let cut = format!("{whole}{}", &whole[..whole.len() / 2]);
    fs::write(judged.path("h.jsonl"), &cut).unwrap();
    let output = judged.judge();
    assert_fails(&output, 2, &["h.jsonl:2: the last line is cut off", "sed -i '$d'"]);
    assert_eq!(stdout(&output), "", "it is told before anything is judged");
    assert_eq!(judged.text(), cut);
    // A line that lacks only its newline is not lost.
    fs::write(judged.path("h.jsonl"), whole.trim_end()).unwrap();
    judged.judge();
    assert_eq!(values(&judged.text()).len(), 2);
    assert!(judged.text().starts_with(&whole));
}

#[test]
fn nothing_is_appended_to_lines_of_a_newer_memgate() {
    let judged = Judged::new();
    judged.judge();
    for end in ["\n", ""] {
        let newer = format!("{}{end}", judged.text().trim_end().replace("\"schema\":1", "\"schema\":2"));
        let judged = Judged::new();
        fs::write(judged.path("h.jsonl"), &newer).unwrap();
        assert_fails(&judged.judge(), 2, &["h.jsonl:1: this line was written by a newer memgate", "update memgate"]);
        assert_eq!(judged.text(), newer);
    }
}

#[test]
fn a_report_does_not_take_the_place_of_the_history() {
    let judged = Judged::new();
    judged.judge();
    let kept = judged.text();
    let format = format!("json={}", judged.path("./h.jsonl").display());
    let output = judged.command().args(["--format", &format]).output().unwrap();
    assert_fails(&output, 2, &["the format `json` would go to the same file"]);
    assert_eq!(judged.text(), kept);
}

#[test]
fn a_history_that_cannot_be_written_is_told_before_anything_is_judged() {
    let judged = Judged::new();
    let to = |file: &str| {
        let mut command = memgate();
        command.arg("judge").arg(judged.path("evidence")).arg("--history").arg(judged.path(file)).output().unwrap()
    };
    assert_fails(&to("nowhere/h.jsonl"), 2, &["there is no directory", "nowhere"]);
    assert!(!judged.path("nowhere").exists());
    assert_fails(&to("evidence"), 2, &["this is a directory"]);
    // `check` and `merge` neither build nor read evidence before.
    let repository = Repository::new(1);
    for verb in [&["check"][..], &["merge", "evidence"]] {
        let output = repository.memgate().args(verb).args(["--history", "nowhere/h.jsonl"]).output().unwrap();
        assert_fails(&output, 2, &["--history nowhere/h.jsonl: there is no directory nowhere"]);
        assert!(!repository.path().join("target").exists(), "nothing was built");
    }
}

#[test]
fn a_full_disk_is_an_error_and_the_report_is_still_there() {
    let judged = Judged::new();
    let mut command = memgate();
    command.arg("judge").arg(judged.path("evidence")).arg("--out").arg(judged.path("out"));
    command.arg("--baselines").arg(judged.path("baselines"));
    let output = command.args(["--history", "/dev/full"]).output().unwrap();
    assert_fails(&output, 4, &["/dev/full cannot be written", "No space left", "--history"]);
    assert!(stdout(&output).contains("no-baseline"), "{}", stdout(&output));
}

#[test]
fn jobs_that_append_at_once_do_not_mix_their_lines() {
    let judged = Judged::new();
    let outputs: Vec<Output> = std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..8).map(|_| scope.spawn(|| judged.judge())).collect();
        jobs.into_iter().map(|job| job.join().unwrap()).collect()
    });
    for output in outputs {
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    }
    assert_eq!(values(&judged.text()).len(), 8);
}

/// Forty verdicts on a service: bytes per request rise by 10 % at the 31st, and the goroutines vary.
fn lines(service: &str) -> Vec<String> {
    let mut random = Random(1);
    let mut line = |index: u32| {
        let bytes = if index < 30 { 2000.0 } else { 2200.0 } + random.normal();
        let goroutines = (40.0 + 3.0 * random.normal()).round();
        let figure = |measured: f64| Figure { measured, low: measured, high: measured };
        let line = Line {
            schema: SCHEMA,
            judged_at: format!("2026-{}-{:02}T12:00:00Z", 10 + index / 20, index % 20 + 1),
            commit: Some(format!("{index:07x}{}", "0".repeat(33))),
            service: service.to_owned(),
            platform: Platform::LinuxAmd64,
            runner: Runner::Native,
            memgate: "0.1.0".to_owned(),
            go: "go1.27.3".to_owned(),
            verdict: if index == 30 { Verdict::Regressed } else { Verdict::Pass },
            runs: 2,
            metrics: BTreeMap::from([
                ("alloc_bytes_per_request".to_owned(), figure(bytes)),
                ("goroutines_max".to_owned(), figure(goroutines)),
            ]),
        };
        serde_json::to_string(&line).unwrap() + "\n"
    };
    (0..40).map(&mut line).collect()
}

/// A history file with this text.
struct Kept {
    directory: TempDir,
}

impl Kept {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("h.jsonl"), text).unwrap();
        Self { directory }
    }

    fn show(&self, words: &[&str]) -> Output {
        memgate().current_dir(self.directory.path()).args(["history", "h.jsonl"]).args(words).output().unwrap()
    }
}

#[test]
fn a_change_is_shown_with_its_commits_and_does_not_gate() {
    let kept = Kept::new(&lines("uaa").concat());
    let output = kept.show(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let text = stdout(&output);
    let expected =
        "trend of uaa on linux/amd64, native: 40 verdicts from 2026-10-01 to 2026-11-20: 1 regressed, 39 pass";
    assert!(text.starts_with(expected), "{text}");
    let marks: Vec<_> = text.lines().filter(|line| line.starts_with("worse") || line.starts_with("jump")).collect();
    let [mark] = &marks[..] else { panic!("{text}") };
    assert!(mark.starts_with("worse   alloc_bytes_per_request: 2.00kB/request -> 2.20kB/request (+10.0%)"), "{mark}");
    assert!(mark.ends_with("at 000001e on 2026-11-11, after 000001d, p < 1e-12"), "{mark}");
    let only = stdout(&kept.show(&["--metric", "goroutines_max"]));
    assert!(only.contains("goroutines_max") && !only.contains("alloc_bytes"), "{only}");
    assert!(only.ends_with("no change points\n"), "{only}");
    let few = stdout(&Kept::new(&lines("uaa")[..22].concat()).show(&[]));
    assert!(few.ends_with("no change points: one needs 23 figures\n"), "{few}");
}

#[test]
fn trends_are_json_for_programs_and_pictures_for_people() {
    let kept = Kept::new(&[lines("uaa"), lines("a<b>&\"")].concat().concat());
    let output = kept.show(&["--format", "json", "--svg", "pictures"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let trends: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_fits("trends", &trends);
    assert_eq!((&trends["schema"], &trends["trends"][1]["service"]), (&1.into(), &"uaa".into()));
    let bytes = &trends["trends"][1]["metrics"][0];
    assert_eq!(bytes["metric"], "alloc_bytes_per_request");
    assert_eq!((&bytes["changes"][0]["at"], &bytes["changes"][0]["direction"]), (&30.into(), &"worse".into()));
    assert_eq!(bytes["points"].as_array().unwrap().len(), 40);
    let directory = kept.directory.path().join("pictures");
    let mut names: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["a%3Cb%3E%26%22.linux-amd64.native.svg", "uaa.linux-amd64.native.svg"]);
    assert!(stderr(&output).contains("file: pictures/uaa.linux-amd64.native.svg"), "{}", stderr(&output));
    for name in names {
        let picture = fs::read_to_string(directory.join(name)).unwrap();
        assert!(picture.starts_with("<svg ") && picture.contains("+10.0% at 000001e"), "{picture}");
        assert!(!picture.contains("<b>"), "{picture}");
    }
    let terminal = kept.show(&["--svg", "pictures"]);
    assert!(stdout(&terminal).ends_with("file: pictures/uaa.linux-amd64.native.svg\n"), "{}", stdout(&terminal));
    assert_fails(&kept.show(&["--svg", "h.jsonl"]), 4, &["h.jsonl", "cannot be written", "--svg"]);
}

#[test]
fn the_order_of_lines_and_files_does_not_matter_and_a_line_counts_once() {
    let mut merged = lines("uaa");
    let sorted = stdout(&Kept::new(&merged.concat()).show(&["--format", "json"]));
    merged.rotate_left(13);
    let again = merged[5].clone();
    merged.insert(20, again);
    let kept = Kept::new(&merged.concat());
    assert_eq!(stdout(&kept.show(&["--format", "json"])), sorted);
    fs::write(kept.directory.path().join("other.jsonl"), lines("uaa").concat()).unwrap();
    assert_eq!(stdout(&kept.show(&["other.jsonl", "--format", "json"])), sorted);
}

#[test]
fn a_last_line_that_is_cut_off_is_told_and_the_others_count() {
    let text = lines("uaa").concat();
    let kept = Kept::new(&text[..text.len() - 30]);
    let output = kept.show(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "h.jsonl:40: the last line is cut off and does not count\n");
    assert!(stdout(&output).contains(": 39 verdicts "), "{}", stdout(&output));
}

#[test]
fn a_history_of_half_a_line_is_told_too() {
    let line = &lines("uaa")[0];
    assert_fails(&Kept::new(&line[..100]).show(&[]), 2, &["h.jsonl:1: the last line is cut off"]);
    assert_fails(&Kept::new("").show(&[]), 2, &["there is no verdict in it yet"]);
}

#[test]
fn a_file_that_cannot_be_used_is_refused_with_its_line() {
    let good = lines("uaa");
    let broken = |index: usize, line: &str| {
        let mut lines = good.clone();
        lines[index] = format!("{line}\n");
        Kept::new(&lines.concat()).show(&[])
    };
    assert_fails(&broken(6, &good[6][..50]), 2, &["h.jsonl:7: this is no line of a history", "schema history"]);
    let newer = good[3].trim_end().replacen("\"schema\":1", "\"schema\":2", 1);
    assert_fails(&broken(3, &newer), 2, &["h.jsonl:4: this line was written by a newer memgate", "update memgate"]);
    let infinite = good[3].trim_end().replacen("\"low\":", "\"low\":1e999,\"x\":", 1);
    assert_fails(&broken(3, &infinite), 2, &["h.jsonl:4", "`metrics.alloc_bytes_per_request.low`"]);
    for empty in ["", "\n\n"] {
        let says = ["h.jsonl: there is no verdict in it yet", "memgate check --history h.jsonl"];
        assert_fails(&Kept::new(empty).show(&[]), 2, &says);
    }
    let missing = memgate().args(["history", "nowhere.jsonl"]).output().unwrap();
    assert_fails(&missing, 2, &["nowhere.jsonl: does not exist"]);
    assert_fails(&memgate().args(["history", "docs"]).output().unwrap(), 2, &["docs: is a directory"]);
    assert_fails(&memgate().arg("history").output().unwrap(), 2, &["<FILE>"]);
}

#[test]
fn a_file_larger_than_memgate_reads_is_refused() {
    let kept = Kept::new("");
    let file = fs::OpenOptions::new().write(true).open(kept.directory.path().join("h.jsonl")).unwrap();
    // A hole takes no room.
    file.set_len((64 << 20) + 1).unwrap();
    assert_fails(&kept.show(&[]), 2, &["h.jsonl: is larger than 67108864 bytes", "tail -n"]);
}

#[test]
fn what_is_not_in_a_history_is_told_with_what_is() {
    let kept = Kept::new(&[lines("uaa"), lines("pay")].concat().concat());
    assert_fails(&kept.show(&["--service", "ua"]), 2, &["no verdict on the service `ua`", "it has: pay, uaa"]);
    assert_fails(&kept.show(&["--platform", "linux/arm64"]), 2, &["no verdict on linux/arm64", "it has: linux/amd64"]);
    let some = kept.show(&["--platform", "linux/arm64", "--platform", "linux/amd64"]);
    assert_fails(&some, 2, &["no verdict on linux/arm64"]);
    let says = ["no figure of rss_peak", "it has: alloc_bytes_per_request, goroutines_max"];
    assert_fails(&kept.show(&["--metric", "rss_peak"]), 2, &says);
    assert_fails(&kept.show(&["--metric", "rss"]), 2, &["'rss'", "alloc_bytes_per_request"]);
    let both = stdout(&kept.show(&["--platform", "all", "--service", "uaa"]));
    assert!(both.contains("trend of uaa") && !both.contains("trend of pay"), "{both}");
}
