//! The commands that change baseline files, on files.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{fs, path::PathBuf, process::Output};

use common::{assert_fails, changed, memgate, stderr, stdout};
use memgate_evidence::{Evidence, platform::Platform};
use memgate_files::evidence_file;
use memgate_testing::evidence::healthy;
use tempfile::TempDir;

const BYTES: &str = "alloc_bytes_per_request";

/// Evidence and baselines below one directory, in which the commands run.
struct Place {
    directory: TempDir,
}

impl Place {
    /// Evidence of two runs, in which a request allocates this many bytes, and the baseline that is recorded of it.
    fn recorded(bytes: [u64; 2]) -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        place.measure(bytes);
        assert_eq!(place.baseline(&["record", "new"]).status.code(), Some(0));
        place
    }

    /// Evidence of two runs on each of two platforms, and no baseline.
    fn on_two_platforms() -> Self {
        let place = Self { directory: tempfile::tempdir().unwrap() };
        for run in [1, 2] {
            place.write("new", &healthy(run, 2000));
            place.write("new", &Evidence { platform: Platform::LinuxLoong64, ..healthy(run, 2000) });
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn measure(&self, bytes: [u64; 2]) {
        for (run, bytes) in (1..).zip(bytes) {
            self.write("new", &healthy(run, bytes));
        }
    }

    fn write(&self, below: &str, evidence: &Evidence) {
        let Evidence { service, platform, run, .. } = evidence;
        let name = format!("{service}.{}.run{run}.evidence.json", platform.folder());
        fs::create_dir_all(self.path(below)).unwrap();
        evidence_file::write(&self.path(below).join(name), evidence).unwrap();
    }

    fn command(&self, words: &[&str]) -> assert_cmd::Command {
        let mut command = memgate();
        command.current_dir(self.directory.path()).args(words);
        command
    }

    fn baseline(&self, words: &[&str]) -> Output {
        self.command(&["baseline"]).args(words).output().unwrap()
    }

    fn judge(&self) -> Output {
        self.command(&["judge", "new"]).output().unwrap()
    }

    fn file(&self) -> PathBuf {
        self.path("baselines/linux-amd64/uaa.yaml")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap()
    }

    fn edit(&self, from: &str, to: &str) {
        fs::write(self.file(), changed(&self.text(), from, to)).unwrap();
    }
}

/// The text without the day of the recording, which changes at midnight.
fn without_day(text: &str) -> String {
    let (before, rest) = text.split_once("recorded: \"").unwrap();
    assert!(rest[10..].starts_with('"'), "{rest}");
    format!("{before}{}", &rest[10..])
}

/// The lines of the texts that differ.
fn differing<'a>(one: &'a str, other: &'a str) -> Vec<(&'a str, &'a str)> {
    assert_eq!(one.lines().count(), other.lines().count(), "{one}\n{other}");
    one.lines().zip(other.lines()).filter(|(one, other)| one != other).collect()
}

const OPTIONS: [&str; 6] = ["--reason", "the new encoder", "--owner", "ada", "--expires", "2999-12-31"];

#[test]
fn an_update_takes_what_is_tighter_beyond_noise() {
    let place = Place::recorded([2000, 2004]);
    place.measure([1500, 1501]);
    let before = place.text();
    let output = place.baseline(&["update", "new"]);
    assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
    let said = "baselines/linux-amd64/uaa.yaml: 1 figure is tighter\n  alloc_bytes_per_request: 2.00kB/request -> \
                1.50kB/request (-25.0%)\n";
    assert_eq!(stdout(&output), said);
    let after = place.text();
    let differing = differing(&before, &after);
    assert_eq!(differing.len(), 1, "{differing:?}");
    assert!(differing[0].1.contains("alloc_bytes_per_request: { baseline: 1.50"), "{differing:?}");
    // The same again changes nothing, and neither do runs that are lower within noise.
    for bytes in [[1500, 1501], [1497, 1503]] {
        place.measure(bytes);
        let output = place.baseline(&["update", "new"]);
        assert_eq!(stdout(&output), "baselines/linux-amd64/uaa.yaml: 0 figures are tighter\n");
        assert_eq!(place.text(), after);
    }
}

#[test]
fn an_update_never_takes_what_is_looser() {
    let place = Place::recorded([2000, 2004]);
    place.measure([2400, 2404]);
    assert_eq!(place.judge().status.code(), Some(1), "the evidence is of a red run");
    let before = place.text();
    let output = place.baseline(&["update", "new"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = [
        "uaa.yaml: 0 figures are tighter\n  alloc_bytes_per_request: 2.00kB/request -> 2.40kB/request (+20.0%), looser",
        "memgate baseline accept new --baselines baselines --metric alloc_bytes_per_request\n",
        "memgate baseline update new --baselines baselines --reason TEXT --owner WHO --expires DAY\n",
    ];
    for said in said {
        assert!(stdout(&output).contains(said), "`{said}` is not in: {}", stdout(&output));
    }
    assert_eq!(place.text(), before);
    // With someone who answers for it, the gate is advisory.
    let output = place.baseline(&[&["update", "new"], &OPTIONS[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("it stays, and is waived until 2999-12-31 from now on"), "{}", stdout(&output));
    let figure =
        |text: &str| text.lines().find(|line| line.contains(BYTES)).unwrap().split(',').next().map(str::to_owned);
    assert_eq!(figure(&place.text()), figure(&before), "the recorded figure stays");
    let judged = place.judge();
    assert_eq!(judged.status.code(), Some(0), "{}", stdout(&judged));
    assert!(stdout(&judged).contains("Waived until 2999-12-31 by ada (the new encoder):"), "{}", stdout(&judged));
    // Whoever answers for it already goes on doing so.
    let waived = place.text();
    let output = place.baseline(&["update", "new", "--reason", "x", "--owner", "bot", "--expires", "2998-01-01"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("it stays, waived until 2999-12-31 by ada"), "{}", stdout(&output));
    assert_eq!(place.text(), waived);
    // After the day, it is loud again.
    place.edit("2999-12-31", "2020-12-31");
    assert_eq!(place.judge().status.code(), Some(1));
    assert_eq!(place.baseline(&["update", "new"]).status.code(), Some(1));
}

#[test]
fn an_update_says_that_an_advisory_figure_is_looser_and_does_not_fail() {
    let place = Place::recorded([2000, 2004]);
    place.edit("alloc_bytes_per_request: {", "alloc_bytes_per_request: { advisory: true,");
    place.measure([2400, 2404]);
    let before = place.text();
    let output = place.baseline(&[&["update", "new"], &OPTIONS[..]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).contains("looser: it stays, and its gate is only advisory\n"), "{}", stdout(&output));
    assert_eq!(place.text(), before, "no waiver, which would fail the gate one day");
}

#[test]
fn an_update_is_refused_if_its_runs_or_its_options_will_not_do() {
    let place = Place::recorded([2000, 2004]);
    let before = place.text();
    let update = |more: &[&str]| place.baseline(&[&["update", "new"], more].concat());
    assert_fails(&update(&["--reason", "x"]), 2, &["--owner", "--expires"]);
    let ended = ["--reason", "x", "--owner", "y", "--expires", "2020-12-31"];
    assert_fails(&update(&ended), 2, &["--expires 2020-12-31: this is no day from today on"]);
    place.measure([1500, 1501]);
    place.edit("page_size: 4KiB", "page_size: 64KiB");
    assert_fails(&update(&[]), 2, &["uaa.yaml:", "the baseline does not fit: page size 65536 bytes", "accept"]);
    place.edit("page_size: 64KiB", "page_size: 4KiB");
    let mut failing = healthy(2, 1000);
    let counts = &mut failing.signals.requests.data.measure;
    let failed = counts.succeeded / 10;
    counts.succeeded -= failed;
    counts.failed.insert("status 500".to_owned(), failed);
    place.write("new", &failing);
    for command in ["update", "accept", "diff", "review"] {
        let says = ["uaa on linux/amd64: ", "of the requests failed", "`expect` names the right status codes"];
        assert_fails(&place.baseline(&[command, "new"]), 2, &says);
    }
    assert_fails(&place.baseline(&["record", "new", "--baselines", "others"]), 2, &["of the requests failed"]);
    assert!(!place.path("others").exists());
    fs::remove_file(place.path("new/uaa.linux-amd64.run2.evidence.json")).unwrap();
    assert_fails(&update(&[]), 2, &["one run of uaa has no noise"]);
    assert_eq!(place.text(), before);
    fs::remove_file(place.file()).unwrap();
    assert_fails(&update(&[]), 2, &["uaa.yaml: there is no such baseline", "memgate baseline record"]);
}

#[test]
fn two_services_with_one_baseline_are_refused() {
    let place = Place::recorded([2000, 2004]);
    for run in [1, 2] {
        place.write("new", &Evidence { service: "twin".to_owned(), ..healthy(run, 1000) });
    }
    for command in ["record", "accept", "diff", "update"] {
        let says = ["twin and uaa have the same baseline, uaa on linux/amd64", "name one of the two"];
        assert_fails(&place.baseline(&[command, "new"]), 2, &says);
    }
}

/// In a repository, as a job would do it. git must not change line ends.
#[test]
fn a_patch_makes_of_the_files_what_accept_and_record_write() {
    for line_end in ["\n", "\r\n"] {
        let place = Place::recorded([2000, 2004]);
        fs::write(place.file(), place.text().replace('\n', line_end)).unwrap();
        place.measure([2400, 2404]);
        for run in [1, 2] {
            let new = Evidence { service: "new".to_owned(), baseline: "new".to_owned(), ..healthy(run, 1000) };
            place.write("new", &new);
        }
        let before = place.text();
        let output = place.baseline(&["diff", "new", "--patch"]);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert_eq!(place.text(), before, "diff writes nothing");
        let patch = output.stdout;
        let shown = String::from_utf8(patch.clone()).unwrap();
        assert!(shown.contains("--- a/baselines/linux-amd64/uaa.yaml\n+++ b/baselines/linux-amd64/uaa.yaml\n@@ -"));
        assert!(shown.contains("--- /dev/null\n+++ b/baselines/linux-amd64/new.yaml\n@@ -0,0 +1,"), "{shown}");
        assert!(!place.path("baselines/linux-amd64/new.yaml").exists());
        fs::write(place.path("figures.patch"), patch).unwrap();
        let git = |words: &[&str]| {
            let mut git = std::process::Command::new("git");
            git.args(words).current_dir(place.directory.path()).env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap()
        };
        assert!(git(&["init", "--quiet"]).status.success());
        let applied = git(&["apply", "figures.patch"]);
        assert!(applied.status.success(), "{}", stderr(&applied));
        let new = fs::read_to_string(place.path("baselines/linux-amd64/new.yaml")).unwrap();
        let by_patch = place.text();
        fs::write(place.file(), before).unwrap();
        fs::remove_file(place.path("baselines/linux-amd64/new.yaml")).unwrap();
        let [uaa, new_service] =
            ["uaa", "new"].map(|service| [1, 2].map(|run| format!("new/{service}.linux-amd64.run{run}.evidence.json")));
        assert_eq!(place.baseline(&["accept", &uaa[0], &uaa[1]]).status.code(), Some(0));
        assert_eq!(place.baseline(&["record", &new_service[0], &new_service[1]]).status.code(), Some(0));
        let recorded = fs::read_to_string(place.path("baselines/linux-amd64/new.yaml")).unwrap();
        assert_eq!(without_day(&place.text()), without_day(&by_patch));
        assert_eq!(without_day(&recorded), without_day(&new));
        assert!(by_patch.contains(line_end) && by_patch.contains("baseline: 2.4"), "{by_patch}");
        let again = stdout(&place.baseline(&["diff", "new", "--patch"]));
        let is_change =
            |line: &&str| line.starts_with(['+', '-']) && !line.starts_with("+++ ") && !line.starts_with("--- ");
        let mut changes = again.lines().filter(is_change);
        assert!(changes.all(|line| line.contains("recorded:")), "nothing is left to change but the day: {again}");
    }
}

#[test]
fn a_patch_of_files_that_git_would_not_find_is_refused() {
    let place = Place::recorded([2000, 2004]);
    let elsewhere = tempfile::tempdir().unwrap();
    let output = place.baseline(&["diff", "new", "--patch", "--baselines", elsewhere.path().to_str().unwrap()]);
    assert_fails(&output, 2, &["a patch changes only files below the current directory", "--baselines"]);
}

#[test]
fn anchors_are_pinned_at_a_release_and_stop_what_adds_up() {
    let place = Place::recorded([2000, 2000]);
    let output = place.baseline(&["anchor", "--service", "uaa", "--platform", "linux/amd64", "--metric", BYTES]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = "baselines/linux-amd64/uaa.yaml: 1 anchor changed\n  alloc_bytes_per_request: none -> 2.00kB/request\n";
    assert_eq!(stdout(&output), said);
    assert!(place.text().contains("{ baseline: 2002B/request, anchor: 2002B/request, noise:"), "{}", place.text());
    // 0.35 % each, and a tolerance of 0.4 %.
    for (bytes, exit) in [(2007, 0), (2014, 0), (2021, 1)] {
        place.measure([bytes, bytes]);
        let judged = place.judge();
        assert_eq!(judged.status.code(), Some(exit), "{bytes}: {}", stdout(&judged));
        let says = "the sum of all steps does not: `memgate baseline anchor --service uaa --platform linux/amd64";
        assert_eq!(common::flat(&stdout(&judged)).contains(says), exit == 1, "{}", stdout(&judged));
        assert_eq!(place.baseline(&["accept", "new"]).status.code(), Some(0));
        assert!(place.text().contains("anchor: 2002B/request,"), "an accepted figure leaves it alone");
    }
    let explained = place.baseline(&["explain", BYTES]);
    assert!(
        stdout(&explained).contains("baseline 2.02kB/request, anchor 2.00kB/request, noise"),
        "{}",
        stdout(&explained)
    );
    assert_eq!(place.judge().status.code(), Some(1), "an accepted sum still fails");
    assert_eq!(place.baseline(&["anchor"]).status.code(), Some(0));
    assert!(place.text().contains("anchor: 2.023"), "{}", place.text());
    assert_eq!(place.judge().status.code(), Some(0), "{}", stdout(&place.judge()));
    assert_eq!(stdout(&place.baseline(&["anchor"])), "baselines/linux-amd64/uaa.yaml: 0 anchors changed\n");
}

#[test]
fn anchors_are_not_pinned_where_there_is_no_such_file_or_figure() {
    let place = Place::recorded([2000, 2004]);
    let before = place.text();
    assert_fails(&place.baseline(&["anchor", "--service", "pay"]), 2, &["pay has no such baseline in baselines"]);
    let platform = place.baseline(&["anchor", "--platform", "linux/arm64"]);
    assert_fails(&platform, 2, &["linux/arm64 has no such baseline in baselines"]);
    assert_fails(
        &place.baseline(&["anchor", "--metric", "oom_kills"]),
        2,
        &["baselines: no baseline has a recorded figure of oom_kills"],
    );
    assert_fails(&place.baseline(&["anchor", "--baselines", "no"]), 2, &["no: there are no baseline files"]);
    assert_eq!(place.text(), before);
}

/// Files that are not asked for may be wrong, and need not have a metric.
#[test]
fn an_anchor_of_one_service_or_metric_asks_nothing_of_other_files() {
    let place = Place::recorded([2000, 2004]);
    let other = place.path("baselines/linux-amd64/pay.yaml");
    let of_limits = place.text().replacen("\"uaa\"", "\"pay\"", 1).replace(BYTES, "gc_pause_p99: { limit: 1s } # ");
    fs::write(&other, &of_limits).unwrap();
    let output = place.baseline(&["anchor", "--metric", BYTES]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(
        stdout(&output),
        "baselines/linux-amd64/uaa.yaml: 1 anchor changed\n  alloc_bytes_per_request: none -> 2.00kB/request\n"
    );
    assert_eq!(fs::read_to_string(&other).unwrap(), of_limits);
    let of_pay = place.baseline(&["anchor", "--metric", BYTES, "--service", "pay"]);
    assert_fails(&of_pay, 2, &["alloc_bytes_per_request has no recorded figure here"]);
    fs::write(&other, "a note").unwrap();
    assert_fails(&place.baseline(&["anchor"]), 2, &["pay.yaml"]);
    assert_eq!(place.baseline(&["anchor", "--service", "uaa"]).status.code(), Some(0));
}

/// Two commands within an hour, each of which counts its runs from 1.
#[test]
fn the_runs_of_two_commands_make_one_baseline() {
    let place = Place { directory: tempfile::tempdir().unwrap() };
    for (name, minute) in [("one", 0), ("other", 10)] {
        for run in [1, 2] {
            let started_at = format!("2026-11-23T12:{:02}:00Z", minute + run);
            place.write(name, &Evidence { started_at, ..healthy(run, 2000) });
        }
    }
    let output = place.baseline(&["record", "one", "other"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(place.text().contains("runs: 4,"), "{}", place.text());
    let again = place.baseline(&["diff", "one", "one/uaa.linux-amd64.run1.evidence.json"]);
    assert_fails(&again, 2, &["two runs of uaa on linux/amd64 began at", "name the evidence of each process once"]);
}

/// One file of two lies in a place where nothing can be written: in this one a file stands for a directory.
#[test]
fn either_all_baselines_are_written_or_none() {
    let place = Place::on_two_platforms();
    fs::create_dir(place.path("baselines")).unwrap();
    fs::write(place.path("baselines/linux-loong64"), "").unwrap();
    assert_fails(&place.baseline(&["record", "new"]), 2, &["linux-loong64"]);
    assert!(!place.file().exists());
    let left = fs::read_dir(place.path("baselines/linux-amd64")).into_iter().flatten().count();
    assert_eq!(left, 0, "a temporary file is left");
}

#[test]
fn a_part_of_the_evidence_can_be_named() {
    let place = Place::on_two_platforms();
    assert_eq!(place.baseline(&["record", "new"]).status.code(), Some(0));
    for run in [1, 2] {
        place.write("new", &healthy(run, 3000));
    }
    let output = place.baseline(&["update", "new"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let command = "memgate baseline accept new --baselines baselines --service uaa --platform linux/amd64 --metric \
                   alloc_bytes_per_request\n";
    assert!(stdout(&output).contains(command), "{}", stdout(&output));
    let loong64 = fs::read_to_string(place.path("baselines/linux-loong64/uaa.yaml")).unwrap();
    let words: Vec<&str> = command.split_whitespace().skip(2).collect();
    let output = place.baseline(&words);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(place.text().contains("alloc_bytes_per_request: { baseline: 3"), "{}", place.text());
    assert_eq!(fs::read_to_string(place.path("baselines/linux-loong64/uaa.yaml")).unwrap(), loong64);
    let none = place.baseline(&["diff", "new", "--platform", "linux/arm64"]);
    assert_fails(&none, 2, &["linux/arm64: the evidence has no such run", "uaa on linux/amd64, uaa on linux/loong64"]);
    assert_fails(&place.baseline(&["diff", "new", "--service", "pay"]), 2, &["pay: the evidence has no such run"]);
}

#[test]
fn a_patch_of_a_symbolic_link_is_refused() {
    let place = Place::recorded([2000, 2004]);
    fs::rename(place.path("baselines"), place.path("kept")).unwrap();
    std::os::unix::fs::symlink("kept", place.path("baselines")).unwrap();
    place.measure([3000, 3004]);
    let refused = place.baseline(&["diff", "new", "--patch"]);
    assert_fails(&refused, 2, &["baselines: this is a symbolic link", "--baselines"]);
    assert_eq!(place.baseline(&["diff", "new", "--patch", "--baselines", "kept"]).status.code(), Some(0));
}

impl Place {
    /// The output of a review of the directory `new` that gets these answers.
    fn review(&self, answers: &str) -> Output {
        self.command(&["baseline", "review", "new"]).write_stdin(answers).output().unwrap()
    }

    /// Evidence that has twice the allocated bytes and objects of the recorded one, and more goroutines.
    fn measure_three_changes(&self) {
        for run in [1, 2] {
            let mut evidence = healthy(run, 4000);
            for total in &mut evidence.signals.alloc_objects.data.value {
                *total *= 2;
            }
            for count in &mut evidence.signals.goroutines.data.value {
                *count += 3;
            }
            self.write("new", &evidence);
        }
    }
}

/// The metrics whose lines of the file differ.
fn changed_metrics(before: &str, after: &str) -> Vec<String> {
    let metric = |line: &str| line.trim().split(':').next().unwrap().to_owned();
    differing(before, after).iter().map(|(line, _)| metric(line)).collect()
}

#[test]
fn a_review_writes_what_was_accepted_and_nothing_else() {
    let place = Place::recorded([2000, 2004]);
    let before = place.text();
    place.measure_three_changes();
    let output = place.review("a\nx\nr\na\n");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    for line in [
        "baselines/linux-amd64/uaa.yaml: 3 figures differ\n",
        "  alloc_bytes_per_request: 2.00kB/request -> 4.00kB/request (+99.8%), looser [bytes/request]\n",
        "    a gate notices: 2.02kB/request -> 4.02kB/request\n",
        "    alloc_bytes_per_request: [a]ccept [r]eject [s]kip file [q]uit? ",
        "    allocs_per_request: [a]ccept [r]eject [s]kip file [q]uit?     Answer with a, r, s or q.\n",
        "  goroutines_max: ",
        "baselines/linux-amd64/uaa.yaml: 2 of 3 accepted\n",
    ] {
        assert!(said.contains(line), "`{line}` is not in: {said}");
    }
    assert_eq!(changed_metrics(&before, &place.text()), [BYTES, "goroutines_max"]);
    // The one that was rejected is asked for again. If all are accepted, so is where they come from.
    let output = place.review("a\n");
    assert!(stdout(&output).contains("1 of 1 accepted\n"), "{}", stdout(&output));
    let differing = changed_metrics(&before, &place.text());
    assert!(differing.contains(&"allocs_per_request".to_owned()), "{differing:?}");
    assert_eq!(stdout(&place.review("")), "baselines/linux-amd64/uaa.yaml: 0 figures differ\n");
}

#[test]
fn a_review_that_ends_early_writes_nothing_of_the_file_at_hand() {
    for answers in ["a\na\nq\n", "a\na\n", "a\na", "a\ns\n", "r\nr\nr\n", ""] {
        let place = Place::recorded([2000, 2004]);
        let before = place.text();
        place.measure_three_changes();
        let output = place.review(answers);
        assert_eq!(output.status.code(), Some(0), "{answers:?}: {}", stderr(&output));
        assert_eq!(place.text(), before, "{answers:?}");
        assert!(!stdout(&output).contains("accepted\n"), "{answers:?}: {}", stdout(&output));
        assert!(stdout(&output).contains("as it is"), "{answers:?}: {}", stdout(&output));
    }
}

/// Downloaded artifacts: a directory for each platform, and in one the build that it was compared with.
#[test]
fn a_review_has_all_artifacts_of_a_job_and_makes_new_files() {
    let place = Place::recorded([2000, 2004]);
    fs::remove_dir_all(place.path("new")).unwrap();
    for run in [1, 2] {
        place.write("new/evidence-linux-amd64", &healthy(run, 1000));
        let against = Evidence { against: Some("main".to_owned()), ..healthy(run, 700) };
        place.write("new/evidence-linux-amd64/against", &against);
        place.write("new/evidence-linux-arm64", &Evidence { platform: Platform::LinuxArm64, ..healthy(run, 2000) });
        // A directory deeper is none of a job's.
        place.write("new/evidence-linux-arm64/old", &Evidence { platform: Platform::LinuxLoong64, ..healthy(run, 1) });
    }
    let before = place.text();
    let new = "baselines/linux-arm64/uaa.yaml";
    // The first file stays, and the second is made.
    let output = place.review("s\na\n");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = stdout(&output);
    for line in [
        "(-50.0%), tighter [bytes/request]\n".to_owned(),
        "baselines/linux-amd64/uaa.yaml: it stays as it is\n".to_owned(),
        format!("{new}: a new file\n"),
        "    alloc_bytes_per_request: { baseline: 2002B/request, noise: 0B/request, tolerance: 0.4% }\n".to_owned(),
        format!("{new}: it is written\n"),
    ] {
        assert!(said.contains(&line), "`{line}` is not in: {said}");
    }
    assert!(!said.contains("loong64"), "{said}");
    assert_eq!(place.text(), before);
    let reviewed = fs::read_to_string(place.path(new)).unwrap();
    fs::remove_file(place.path(new)).unwrap();
    assert_eq!(place.review("s\nr\n").status.code(), Some(0));
    assert!(!place.path(new).exists(), "a file that is rejected is not made");
    let output = place.baseline(&["record", "new/evidence-linux-arm64"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let recorded = fs::read_to_string(place.path(new)).unwrap();
    assert_eq!(without_day(&reviewed), without_day(&recorded));
    // A directory with evidence of its own stands for that alone: what lies below is something else.
    place.write("new", &healthy(1, 2000));
    place.write("new", &healthy(2, 2004));
    let said = stdout(&place.review("a\n"));
    assert_eq!(said, "baselines/linux-amd64/uaa.yaml: 0 figures differ\n");
}

/// Figures of another kind of machine cannot stand beside those of this one.
#[test]
fn figures_that_do_not_fit_are_accepted_together_or_not_at_all() {
    let place = Place::recorded([2000, 2004]);
    place.edit("go: \"go1.27", "go: \"go1.26");
    place.measure_three_changes();
    let before = place.text();
    let output = place.review("r\n");
    assert!(stdout(&output).contains("These figures go together: the baseline does not fit"), "{}", stdout(&output));
    assert_eq!(place.text(), before);
    let output = place.review("a\n");
    assert!(stdout(&output).contains("3 of 3 accepted\n"), "{}", stdout(&output));
    assert!(place.text().contains("go: \"go1.27"), "{}", place.text());
    assert_eq!(place.judge().status.code(), Some(0), "{}", stdout(&place.judge()));
}

/// Each day's command counts its runs from 1.
#[test]
fn a_baseline_of_several_days_knows_how_days_differ_and_remembers_the_next() {
    let place = Place { directory: tempfile::tempdir().unwrap() };
    let days = [("mon", 2000), ("tue", 2010), ("wed", 1996), ("thu", 2006)];
    for (day, (name, bytes)) in (23..).zip(days) {
        for run in [1, 2] {
            let started_at = format!("2026-11-{day}T12:0{run}:00Z");
            place.write(name, &Evidence { started_at, ..healthy(run, bytes + u64::from(run)) });
        }
    }
    let output = place.baseline(&["record", "mon", "tue", "wed", "thu"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let text = place.text();
    let bytes = text.lines().find(|line| line.contains(BYTES)).unwrap();
    assert!(bytes.contains("noise_freedom: 4, between: 6.") && bytes.contains("between_freedom: 3"), "{bytes}");
    assert!(text.contains("runs: 8, occasions: 4,"), "{text}");
    let explained = stdout(&place.baseline(&["explain", BYTES]));
    assert!(explained.contains("noise_freedom 4, between 6."), "{explained}");
    // Another day is within what days differ.
    for run in [1, 2] {
        let started_at = format!("2026-11-28T12:0{run}:00Z");
        place.write("new", &Evidence { started_at, ..healthy(run, 2007) });
    }
    assert_eq!(place.judge().status.code(), Some(0), "{}", stdout(&place.judge()));
    assert_eq!(place.baseline(&["accept", "new"]).status.code(), Some(0));
    let text = place.text();
    let bytes = text.lines().find(|line| line.contains(BYTES)).unwrap();
    assert!(bytes.contains("noise_freedom: 5,") && bytes.contains("between_freedom: 4"), "{bytes}");
    assert!(text.contains("runs: 2, occasions: 1,"), "{text}");
    // The same evidence again is no other occasion.
    let accepted = place.text();
    assert!(stdout(&place.baseline(&["accept", "new"])).contains("0 figures changed"));
    assert_eq!(place.text(), accepted);
    assert_eq!(stdout(&place.baseline(&["diff", "new", "--patch"])), "");
    // The same evidence twice is a mistake, and no occasion.
    let twice = place.baseline(&["accept", "new", "new/uaa.linux-amd64.run1.evidence.json"]);
    assert_fails(
        &twice,
        2,
        &["two runs of uaa on linux/amd64 began at 2026-11-28T12:01:00Z: one process counts twice"],
    );
}
