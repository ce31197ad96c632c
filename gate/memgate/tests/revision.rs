//! What `--against` may name, and what becomes of everything else. Nothing is measured here.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{fs, os::unix::fs::PermissionsExt as _};

use common::{assert_fails, changed, repository::Repository, stderr, stdout};
use memgate_evidence::Evidence;
use memgate_files::evidence_file;
use memgate_testing::evidence::healthy;

/// A body that does not compile, so that a check ends after both builds were tried.
const BROKEN: &str = "undefined()";

#[test]
fn what_is_no_commit_is_refused_with_what_to_do() {
    let repository = Repository::new(1);
    for (words, says) in [
        ("nowhere", &["--against nowhere", "no such commit, branch or tag", "fetch-depth: 0", "../main"][..]),
        ("0123456789", &["--against 0123456789", "no such commit"]),
        ("--upload-pack=x", &["no such commit"]),
        ("merge-base", &["GITHUB_BASE_REF is not set", "no origin/HEAD", "git merge-base HEAD main"]),
        ("./nowhere", &["nowhere", "No such file", "a directory that exists"]),
        (".", &["no such commit"]),
        ("./", &["this is the checkout that has the change"]),
    ] {
        let output = repository.check(words, &[]);
        assert_fails(&output, 2, says);
    }
}

#[test]
fn a_clone_without_the_history_has_no_merge_base() {
    let origin = Repository::new(1);
    origin.git(&["checkout", "--quiet", "-b", "change"]);
    origin.write("note", "1");
    origin.commit("second");
    origin.git(&["checkout", "--quiet", "main"]);
    origin.write("other", "2");
    origin.commit("third");
    let clone = tempfile::tempdir().unwrap();
    let at = clone.path().join("clone");
    let url = format!("file://{}", origin.path().display());
    origin.git(&[
        "clone",
        "--quiet",
        "--depth",
        "1",
        "--no-single-branch",
        "--branch",
        "change",
        &url,
        at.to_str().unwrap(),
    ]);
    let mut command = common::memgate();
    command.current_dir(&at).env("GITHUB_BASE_REF", "main");
    let output = command.args(["check", "--tier", "T0", "--against", "merge-base"]).output().unwrap();
    let says = ["HEAD and origin/main", "no commit in common", "the clone is shallow", "git fetch --unshallow"];
    assert_fails(&output, 2, &says);
}

#[test]
fn without_a_repository_or_git_a_comparison_is_refused() {
    let repository = Repository::new(1);
    let output = repository.command("main").env("PATH", "/nowhere").output().unwrap();
    assert_fails(&output, 2, &["--against needs git", "install git"]);
    fs::rename(repository.path().join(".git"), repository.path().join("elsewhere")).unwrap();
    let output = repository.command("main").output().unwrap();
    assert_fails(&output, 2, &["rev-parse", "not a git repository", "a second checkout"]);
}

#[test]
fn a_service_that_the_other_build_cannot_have_is_refused() {
    let repository = Repository::new(1);
    let with = |executable: &str| repository.write("memgate.yaml", &repository.configuration(executable));
    with("binary: { linux/amd64: service/service, linux/arm64: service/service, linux/loong64: service/service }");
    repository.write("service/service", "");
    assert_fails(&repository.check("main", &[]), 2, &["services.s.binary", "no other version of", "--against DIR"]);
    with("build: { dir: newer, package: ., env: { CGO_ENABLED: \"0\" } }");
    repository.write("newer/go.mod", "module newer\n");
    assert_fails(&repository.check("main", &[]), 2, &["services.s.build.dir", "has no newer", "--service"]);
    with("build: { dir: /tmp, package: ., env: { CGO_ENABLED: \"0\" } }");
    assert_fails(&repository.check("main", &[]), 2, &["services.s.build.dir", "/tmp lies outside of"]);
}

#[test]
fn both_builds_are_made_and_a_build_that_fails_is_named() {
    let repository = Repository::new(1);
    let first = repository.git(&["rev-parse", "HEAD"]);
    repository.handle(BROKEN);
    let output = repository.check("main", &[]);
    assert_fails(&output, 4, &["undefined: undefined"]);
    assert!(stderr(&output).contains(&format!("of main ({}): building .", &first[..7])), "{}", stderr(&output));
    repository.commit("broken");
    repository.handle("");
    let short = &repository.git(&["rev-parse", "HEAD"])[..7];
    let output = repository.check("HEAD", &[]);
    assert_fails(&output, 4, &[&format!("build: HEAD ({short}): `go build .`"), "undefined: undefined"]);
}

#[test]
fn what_a_killed_check_left_is_replaced_and_no_hook_runs() {
    let repository = Repository::new(1);
    repository.git(&["worktree", "add", "--quiet", "--detach", "out/against/checkout"]);
    repository.write("out/against/checkout/left", "1");
    repository.write(".git/hooks/post-checkout", "#!/bin/sh\ntouch \"$(git rev-parse --git-common-dir)/hooked\"\n");
    let hook = repository.path().join(".git/hooks/post-checkout");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    repository.handle(BROKEN);
    assert_fails(&repository.check("HEAD", &[]), 4, &["undefined: undefined"]);
    assert!(!repository.path().join(".git/hooked").exists());
}

/// Its disk may be elsewhere for the moment.
#[test]
fn a_worktree_of_the_user_stays_even_if_its_directory_is_gone() {
    let repository = Repository::new(1);
    let elsewhere = tempfile::tempdir().unwrap();
    let theirs = elsewhere.path().join("theirs");
    repository.git(&["worktree", "add", "--quiet", "--detach", theirs.to_str().unwrap()]);
    fs::rename(&theirs, elsewhere.path().join("unmounted")).unwrap();
    repository.git(&["worktree", "add", "--quiet", "--detach", "out/against/checkout"]);
    fs::remove_dir_all(repository.out().join("against/checkout")).unwrap();
    repository.handle(BROKEN);
    let output = repository.command("HEAD").output().unwrap();
    assert_fails(&output, 4, &["undefined: undefined"]);
    let left = repository.git(&["worktree", "list", "--porcelain"]);
    assert!(left.contains(theirs.to_str().unwrap()), "{left}");
    assert_eq!(left.matches("worktree ").count(), 2, "{left}");
}

#[test]
fn submodules_of_the_other_build_are_checked_out() {
    let library = Repository::new(1);
    let repository = Repository::new(1);
    let url = format!("file://{}", library.path().display());
    repository.git(&["submodule", "--quiet", "add", &url, "library"]);
    let configuration =
        repository.configuration("build: { dir: library/service, package: ., env: { CGO_ENABLED: \"0\" } }");
    repository.write("memgate.yaml", &configuration);
    repository.commit("with a submodule");
    repository.write("library/service/main.go", "broken");
    let mut command = repository.command("HEAD");
    // git fetches submodules from paths of this machine only if it is told to.
    let allowed =
        [("GIT_CONFIG_COUNT", "1"), ("GIT_CONFIG_KEY_0", "protocol.file.allow"), ("GIT_CONFIG_VALUE_0", "always")];
    let output = command.envs(allowed).output().unwrap();
    repository.assert_no_worktree();
    assert_fails(&output, 4, &["expected 'package', found broken"]);
    assert!(!stderr(&output).contains("build: HEAD ("), "the other build is whole: {}", stderr(&output));
}

#[test]
fn the_second_checkout_stays_as_it_is() {
    let (repository, other) = (Repository::new(1), Repository::new(1));
    other.handle(BROKEN);
    let before = other.git(&["status", "--porcelain"]);
    let path = other.path().to_str().unwrap();
    let output = repository.check(path, &[]);
    assert_fails(&output, 4, &[&format!("build: {path}: `go build .`"), "undefined: undefined"]);
    assert_eq!(other.git(&["status", "--porcelain"]), before);
    other.assert_no_worktree();
}

/// The baseline of the service: healthy evidence allocates 2,000 bytes a request.
const BASELINE: &str = "\
version: 1
service: s
platform: linux/amd64
metrics:
  alloc_bytes_per_request: { baseline: 2kB, noise: 10B, tolerance: 2% }
environment: { go: go1.27.3, kernel: x, page_size: 4KiB, thp: madvise, cpu: x, cpus: 2, runner: native, recorded: 2026-11-23, runs: 5 }
";

/// A repository with a baseline, and evidence of a change that allocates a fifth more.
fn worsened() -> Repository {
    let repository = Repository::new(1);
    repository.write("baselines/linux-amd64/s.yaml", BASELINE);
    repository.commit("with a baseline");
    fs::create_dir(repository.out()).unwrap();
    for run in [1, 2] {
        let evidence = Evidence { service: "s".to_owned(), baseline: "s".to_owned(), ..healthy(run, 2400) };
        evidence_file::write(&repository.out().join(format!("s.linux-amd64.run{run}.evidence.json")), &evidence)
            .unwrap();
    }
    repository
}

fn merge(repository: &Repository, options: &[&str]) -> std::process::Output {
    let mut command = repository.memgate();
    let output =
        command.args(["merge", "out", "--platform", "linux/amd64", "--out", "out"]).args(options).output().unwrap();
    assert_eq!(repository.git(&["worktree", "list", "--porcelain"]).matches("worktree ").count(), 1);
    assert!(!repository.out().join("baselines-from/checkout").exists());
    output
}

#[test]
fn a_change_that_loosens_its_own_baseline_is_judged_by_that_of_the_base() {
    let repository = worsened();
    let edits: [(&str, Option<String>); 3] = [
        ("a larger figure", Some(changed(BASELINE, "baseline: 2kB", "baseline: 2.4kB"))),
        (
            "the failing line is gone",
            Some(
                changed(BASELINE, "alloc_bytes_per_request:", "goroutines_max:")
                    .replace("2kB, noise: 10B", "90, noise: 1"),
            ),
        ),
        ("the file is gone", None),
    ];
    for (what, edit) in edits {
        match edit {
            Some(text) => repository.write("baselines/linux-amd64/s.yaml", &text),
            None => fs::remove_dir_all(repository.path().join("baselines")).unwrap(),
        }
        let own = merge(&repository, &[]);
        assert_ne!(own.status.code(), Some(1), "{what}: {}", stdout(&own));
        let output = merge(&repository, &["--baselines-from", "HEAD"]);
        assert_eq!(output.status.code(), Some(1), "{what}: {}{}", stdout(&output), stderr(&output));
        let report = stdout(&output);
        let note = "note: the baseline is that of HEAD (";
        assert!(report.contains(note), "{what}: {report}");
        assert!(report.contains("baselines/linux-amd64/s.yaml, which is not used here"), "{what}: {report}");
    }
}

/// Baselines need none of the sources that a job may have no right to fetch.
#[test]
fn baselines_of_the_base_need_no_submodules() {
    let repository = worsened();
    let library = Repository::new(1);
    repository.git(&["submodule", "--quiet", "add", &format!("file://{}", library.path().display()), "library"]);
    repository.commit("with a submodule");
    let output = merge(&repository, &["--baselines-from", "HEAD"]);
    assert_eq!(output.status.code(), Some(1), "{}{}", stdout(&output), stderr(&output));
}

#[test]
fn a_baseline_that_a_change_leaves_alone_is_the_same_from_the_base() {
    let repository = worsened();
    let output = merge(&repository, &["--baselines-from", "main"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!stdout(&output).contains("which is not used here"), "{}", stdout(&output));
}

/// A service with another name has no baseline in the base, so nothing holds.
#[test]
fn a_change_that_renames_its_service_has_no_baseline() {
    let repository = worsened();
    repository.write(
        "memgate.yaml",
        &repository
            .configuration("build: { dir: service, package: ., env: { CGO_ENABLED: \"0\" } }")
            .replace("  s:\n", "  t:\n"),
    );
    fs::rename(
        repository.path().join("baselines/linux-amd64/s.yaml"),
        repository.path().join("baselines/linux-amd64/t.yaml"),
    )
    .unwrap();
    for run in [1, 2] {
        fs::remove_file(repository.out().join(format!("s.linux-amd64.run{run}.evidence.json"))).unwrap();
        let evidence = Evidence { service: "t".to_owned(), baseline: "t".to_owned(), ..healthy(run, 2400) };
        evidence_file::write(&repository.out().join(format!("t.linux-amd64.run{run}.evidence.json")), &evidence)
            .unwrap();
    }
    let output = merge(&repository, &["--baselines-from", "main"]);
    assert_eq!(output.status.code(), Some(3), "{}{}", stdout(&output), stderr(&output));
    assert!(stdout(&output).contains("no-baseline"), "{}", stdout(&output));
}

#[test]
fn baselines_of_nowhere_are_refused() {
    let repository = worsened();
    assert_fails(
        &merge(&repository, &["--baselines-from", "nowhere"]),
        2,
        &["--baselines-from nowhere", "no such commit"],
    );
    let outside = repository
        .configuration("build: { dir: service, package: ., env: { CGO_ENABLED: \"0\" } }")
        .replace("version: 1\n", "version: 1\nbaselines: /tmp\n");
    repository.write("memgate.yaml", &outside);
    assert_fails(
        &merge(&repository, &["--baselines-from", "main"]),
        2,
        &["/tmp lies outside of", "keep the baselines in the checkout"],
    );
}

#[test]
fn what_bisect_cannot_search_is_refused_with_what_to_do() {
    let repository = Repository::new(1);
    let first = repository.git(&["rev-parse", "HEAD"]);
    repository.write("note", "1");
    let second = repository.commit("second");
    repository.git(&["checkout", "--quiet", "-b", "aside", &first]);
    repository.write("other", "1");
    repository.commit("aside");
    repository.git(&["checkout", "--quiet", "main"]);
    let two = fs::read_to_string(repository.path().join("memgate.yaml")).unwrap();
    let two = format!("{two}{}", changed(&two, "  s:\n", "  t:\n").split_once("services:\n").unwrap().1);
    for (words, says) in [
        (&["--tier", "T0"][..], &["bisect needs --against REV", "--against v1.4.0"][..]),
        (&["--against", "nowhere"], &["--against nowhere", "no such commit"]),
        (&["--against", "./"], &["--against ./", "bisect needs a commit", "a tag"]),
        (&["--against", &first, "--to", "nowhere"], &["--to nowhere", "no such commit"]),
        (&["--against", &second], &["does not come after it", "merge-base"]),
        (&["--against", &second, "--to", &first], &["does not come after it"]),
        (&["--against", "aside"], &["aside (", "HEAD (", "does not come after it"]),
        (&["--against", &first, "--platform", "all"], &["3 are selected", "s linux/amd64", "s linux/loong64"]),
        (&["--against", &first, "--metric", "rss"], &["rss"]),
        (&["--against", &first, "--config", "two.yaml"], &["2 are selected", "t linux/"]),
        (&["--against", &first, "--service", "u"], &["u"]),
    ] {
        repository.write("two.yaml", &two);
        let mut command = repository.memgate();
        let output = command.args(["bisect", "--out", "out"]).args(words).output().unwrap();
        assert_fails(&output, 2, says);
        repository.assert_no_worktree();
    }
}

#[test]
fn bisect_fails_if_an_end_cannot_be_built() {
    let repository = Repository::new(1);
    let first = repository.git(&["rev-parse", "HEAD"]);
    repository.handle(BROKEN);
    repository.commit("second");
    let mut command = repository.memgate();
    let output = command.args(["bisect", "--tier", "T0", "--out", "out", "--against", &first]).output().unwrap();
    assert_fails(&output, 4, &["build:", "undefined"]);
    repository.assert_no_worktree();
    assert!(!repository.out().join("commit/checkout").exists());
}
