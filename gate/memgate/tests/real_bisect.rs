//! `memgate bisect` on a repository with a service: it names the commit, past one that does not compile.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::fs;

use common::{
    busy::{self, HeldUp},
    can_attach, changed,
    repository::{FIRST_LINE, Repository},
    schema::assert_fits,
    stderr,
};
use serde_json::Value;

#[test]
fn the_commit_that_allocates_more_is_named_with_its_line() {
    if can_attach() {
        let repository = shorter(Repository::new(18184));
        let first = repository.git(&["rev-parse", "HEAD"]);
        repository.handle("undefined()");
        let broken = repository.commit("does not compile");
        repository.handle("");
        repository.commit("mended");
        repository.handle("kept <- make([]byte, 20_000)");
        let culprit = repository.commit("keep the body");
        // What is not committed is in no commit.
        repository.handle("kept <- make([]byte, 40_000)");
        busy::again(|| {
            let mut command = repository.memgate();
            command.args(["bisect", "--out", "out", "--format", "json", "--against", &first]);
            let output = command.args(["--metric", "alloc_bytes_per_request"]).output().unwrap();
            repository.assert_no_worktree();
            assert!(!repository.out().join("commit/checkout").exists());
            let found: Value =
                serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", stderr(&output)));
            assert_fits("bisection", &found);
            let steps = found["steps"].as_array().unwrap();
            let skipped = |step: &&Value| step["outcome"]["skipped"].is_string();
            let not_compiled = |step: &&Value| step["outcome"]["skipped"].to_string().contains("undefined");
            // A busy machine may leave a comparison undecided.
            if steps.iter().filter(skipped).count() > steps.iter().filter(not_compiled).count() {
                return Err(HeldUp::Undecided { metrics: vec!["alloc_bytes_per_request".to_owned()] });
            }
            assert_eq!(output.status.code(), Some(0), "{found:#}{}", stderr(&output));
            assert_eq!(found["commits"].as_array().unwrap().len(), 3);
            assert_eq!(found["commits"][0]["hash"], Value::from(broken.clone()));
            assert_eq!(found["found"]["commit"], 3, "{found:#}");
            assert_eq!(found["commits"][2]["hash"], Value::from(culprit.clone()));
            let pairs: Vec<_> =
                steps.iter().map(|step| (step["from"].as_u64().unwrap(), step["to"].as_u64().unwrap())).collect();
            assert_eq!(pairs, [(0, 3), (0, 1), (0, 2), (2, 3)]);
            let gate = &steps.last().unwrap()["outcome"]["measured"]["gate"];
            assert_eq!(gate["verdict"], "regressed", "{gate:#}");
            let at = &gate["sites"][0]["at"];
            assert_eq!((at["function"].as_str(), at["line"].as_u64()), (Some("main.handle"), Some(FIRST_LINE.into())));
            // Relative to the repository, although the build was in a worktree.
            assert_eq!(at["file"], "service/main.go");
            Ok(())
        });
    }
}

/// With phases in which allocations can be counted, and no more.
fn shorter(repository: Repository) -> Repository {
    let text = fs::read_to_string(repository.path().join("memgate.yaml")).unwrap();
    let phases = "phases: { warmup: 500ms, measure: 1s, drain: 500ms }";
    repository.write("memgate.yaml", &changed(&text, "phases: { warmup: 1s, measure: 3s, drain: 1s }", phases));
    repository.commit("shorter");
    repository
}
