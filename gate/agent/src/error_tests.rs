//! For each stage of the agent, a failure keeps its causes, and so does the copy that the host gets.

use std::{collections::BTreeMap, error::Error as _, io, path::Path};

use aya::programs::ProgramError;
use aya_obj::VerifierLog;
use memgate_evidence::{
    error::{Error, FailureText, Stage, in_full},
    plan::{Collecting, HttpLoad, Length, Load, PhaseLengths, Plan, Ready},
    platform::Platform,
};

use crate::{LaunchError, StartError, cgroup::Cgroup, launch, load, load::LoadError};

const LOG: &str = "0: (79) r1 = *(u64 *)(r1 +8)\ninvalid bpf_context access off=8 size=8";

/// The kernel's error for a program that its verifier refuses.
fn refused_by_the_verifier() -> Error {
    let io_error = io::Error::from_raw_os_error(nix::libc::EACCES);
    let refused = ProgramError::LoadError { io_error, verifier_log: VerifierLog::new(LOG.to_owned()) };
    Error::caused(Stage::Collect, "the program `pauses` was not loaded", refused, "ask for `--tier T0`")
}

fn text(error: &Error) -> FailureText {
    let Error::Infrastructure(failure) = error else { panic!("{error:?}") };
    failure.text()
}

fn plan(executable: &Path) -> Plan {
    Plan {
        service: "s".to_owned(),
        platform: Platform::host(),
        run: 1,
        baseline: "s".to_owned(),
        executable: executable.to_owned(),
        args: Vec::new(),
        env: BTreeMap::new(),
        directory: "/".into(),
        account: None,
        ready: Ready { http: "http://127.0.0.1:1/".to_owned(), timeout_ms: 1 },
        memory_max: None,
        load: Load::Http(HttpLoad { rate_per_second: 1.0, connections: 1, timeout_ms: 1, requests: Vec::new() }),
        phases: PhaseLengths { warmup: Length::Ms(0), measure: Length::Ms(0), drain_ms: 0, drain_max_ms: 0 },
        seed: 0,
        stop_timeout_ms: 1,
        collecting: Collecting::default(),
    }
}

#[test]
fn the_log_of_the_verifier_reaches_the_user() {
    let error = refused_by_the_verifier();
    assert!(matches!(error.source().unwrap().downcast_ref(), Some(ProgramError::LoadError { .. })));
    let shown = format!("{error:#}");
    assert!(shown.starts_with("collect: the program `pauses` was not loaded: "), "{shown}");
    assert!(shown.contains(LOG), "{shown}");
    assert_eq!(shown.matches("Permission denied").count(), 1, "aya prints its source: {shown}");
}

#[test]
fn the_log_of_the_verifier_reaches_the_host_of_a_guest() {
    let sent = serde_json::to_string(&text(&refused_by_the_verifier())).unwrap();
    let received: FailureText = serde_json::from_str(&sent).unwrap();
    let error = Error::from(received);
    assert!(in_full(&error).contains(LOG), "{error:#}");
    assert_eq!(format!("{error:#}"), format!("{:#}", refused_by_the_verifier()));
    assert_eq!(text(&error).help.as_deref(), Some("ask for `--tier T0`"));
}

#[test]
fn a_failed_launch_keeps_the_systems_reason() {
    let directory = tempfile::tempdir().unwrap();
    let plan = plan(&directory.path().join("none"));
    let error = launch::spawn(&plan, Cgroup::create(None).unwrap(), &directory.path().join("service.log")).unwrap_err();
    assert_eq!(text(&error).stage, Stage::Launch);
    assert!(matches!(error.kind(), Some(LaunchError::Start { source: StartError::Execute(_), .. })), "{error:?}");
    let causes: Vec<String> = text(&error).causes;
    assert_eq!(causes, ["it cannot be executed", "No such file or directory (os error 2)"]);
}

#[test]
fn a_failed_load_keeps_the_systems_reason() {
    let directory = tempfile::tempdir().unwrap();
    let words = ["/none/k6".to_owned()];
    let line = load::CommandLine { words: &words, directory: directory.path(), env: &[], account: None };
    let error = load::command(&line, &directory.path().join("load.log")).unwrap_err();
    assert_eq!(text(&error).stage, Stage::Load);
    assert!(matches!(error.kind(), Some(LoadError::CommandNotStarted { .. })), "{error:?}");
    assert!(error.source().unwrap().is::<io::Error>());
    assert_eq!(text(&error).causes, ["No such file or directory (os error 2)"]);
}
