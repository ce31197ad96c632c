//! A git repository with a small service, for `--against`.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use tempfile::TempDir;

use super::{memgate, repository};

/// A service whose handler is the text between its two halves.
const SERVICE: (&str, &str) = (
    r#"package main

import (
	"flag"
	"net/http"
)

// What the handler keeps.
var kept = make(chan []byte, 1<<20)

func handle(w http.ResponseWriter, r *http.Request) {
"#,
    r#"	w.WriteHeader(http.StatusOK)
}

func main() {
	address := flag.String("listen", "", "address")
	flag.Parse()
	http.HandleFunc("/", handle)
	if err := http.ListenAndServe(*address, nil); err != nil {
		panic(err)
	}
}
"#,
);

/// The line of the first line of the handler.
pub const FIRST_LINE: u32 = 12;

pub struct Repository {
    directory: TempDir,
    port: u16,
}

impl Repository {
    /// A repository with one commit, of the service with an empty handler.
    pub fn new(port: u16) -> Self {
        let repository = Self { directory: tempfile::tempdir().expect("a temporary directory"), port };
        repository.git(&["init", "--quiet", "--initial-branch", "main"]);
        repository.write("go.mod", "module service\n\ngo 1.21\n");
        repository.write(
            "memgate.yaml",
            &repository.configuration("build: { dir: service, package: ., env: { CGO_ENABLED: \"0\" } }"),
        );
        repository.write("service/go.mod", "module service\n\ngo 1.21\n");
        repository.handle("");
        repository.commit("first");
        repository
    }

    /// The configuration with this executable.
    pub fn configuration(&self, executable: &str) -> String {
        let port = self.port;
        format!(
            r#"version: 1
services:
  s:
    {executable}
    run:
      args: [-listen, "127.0.0.1:{port}"]
      ready: {{ http: "http://127.0.0.1:{port}/", timeout: 60s }}
      stop_timeout: 1s
    load: {{ rate: 200/s, connections: 4, timeout: 60s, requests: [ {{ get: "http://127.0.0.1:{port}/" }} ] }}
    phases: {{ warmup: 1s, measure: 3s, drain: 1s }}
    max_runs: 4
"#
        )
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn out(&self) -> PathBuf {
        self.path().join("out")
    }

    /// Writes a file of the checkout.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a writable directory");
        fs::write(path, text).expect("a writable directory");
    }

    /// Gives the handler this body, each line with a tab before it.
    pub fn handle(&self, body: &str) {
        let body: String = body.lines().map(|line| format!("\t{line}\n")).collect();
        self.write("service/main.go", &[SERVICE.0, &body, SERVICE.1].concat());
    }

    /// Commits everything, and returns the commit.
    pub fn commit(&self, message: &str) -> String {
        self.write(".gitignore", "out\n");
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// Runs git, which must succeed, and returns what it prints.
    pub fn git(&self, words: &[&str]) -> String {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "protocol.file.allow=always"]);
        let output = git.args(words).current_dir(self.path()).output().expect("git");
        assert!(output.status.success(), "git {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    }

    /// `memgate check` without BPF, against a revision.
    pub fn command(&self, revision: &str) -> assert_cmd::Command {
        let mut command = self.memgate();
        command.args(["check", "--tier", "T0", "--out", "out"]).arg(format!("--against={revision}"));
        command
    }

    /// `memgate` in the checkout.
    pub fn memgate(&self) -> assert_cmd::Command {
        let mut command = memgate();
        command.env("PATH", path_with_go());
        command.current_dir(self.path()).env_remove("GITHUB_BASE_REF");
        command
    }

    /// Runs it, and checks that no worktree is left.
    pub fn check(&self, revision: &str, more: &[&str]) -> Output {
        let output = self.command(revision).args(more).output().expect("memgate starts");
        self.assert_no_worktree();
        output
    }

    /// Checks that git knows only the checkout itself, and that the directory of the other is gone.
    pub fn assert_no_worktree(&self) {
        assert_eq!(self.git(&["worktree", "list", "--porcelain"]).matches("worktree ").count(), 1);
        assert!(!self.out().join("against/checkout").exists());
    }
}

/// The search path with the project's own Go first.
pub fn path_with_go() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let paths = [repository().join(".tools/go/bin")].into_iter().chain(std::env::split_paths(&path));
    std::env::join_paths(paths).expect("a path")
}
