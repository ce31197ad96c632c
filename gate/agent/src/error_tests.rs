//! For each stage of the agent, a failure keeps its causes, and so does the copy that the host gets.

use std::{error::Error as _, io, path::Path};

use aya::programs::ProgramError;
use aya_obj::VerifierLog;
use memgate_evidence::{
    error::{Error, FailureText, Stage, in_full},
    plan::{CommandLoad, Load, Plan},
    secrets::Secrets,
};
use serde_json::Value;

use crate::{LaunchError, StartError, cgroup::Cgroup, launch, load, load::LoadError, process::CommandLine};

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
    Plan { executable: executable.to_owned(), account: None, ..memgate_testing::plan() }
}

/// Every place in a value where keys have a meaning, as a pointer. The keys of `env` and `headers` are the user's.
fn objects(value: &Value, at: &str) -> Vec<String> {
    let below: Vec<(String, &Value)> = match value {
        Value::Object(fields) => {
            let fields = fields.iter().filter(|(key, _)| !["env", "headers"].contains(&key.as_str()));
            fields.map(|(key, value)| (key.clone(), value)).collect()
        }
        Value::Array(values) => values.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    let own = value.is_object().then(|| at.to_owned());
    own.into_iter().chain(below.into_iter().flat_map(|(key, value)| objects(value, &format!("{at}/{key}")))).collect()
}

/// An agent that does not know a wish must not ignore it.
#[test]
fn a_plan_with_an_unknown_field_is_refused_wherever_it_is() {
    let http = memgate_testing::plan();
    let command = Plan { load: Load::Command(CommandLoad::default()), ..http.clone() };
    let ours = ["", "/account", "/ready", "/phases", "/phases/warmup", "/collecting"];
    for (plan, of_load) in [(http, &["/load/Http", "/load/Http/requests/0"][..]), (command, &["/load/Command"])] {
        let value = serde_json::to_value(&plan).unwrap();
        assert_eq!(serde_json::from_value::<Plan>(value.clone()).unwrap(), plan);
        let places = objects(&value, "");
        for place in ours.iter().chain(of_load) {
            assert!(places.iter().any(|found| found == place), "{place} is not in {places:?}");
        }
        for place in places {
            let mut value = value.clone();
            value.pointer_mut(&place).unwrap()["wish"] = 1.into();
            assert!(serde_json::from_value::<Plan>(value).is_err(), "{place}");
        }
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
    let log = directory.path().join("service.log");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(launch::spawn(&plan, None, Cgroup::create(None).unwrap(), &log)).unwrap_err();
    assert_eq!(text(&error).stage, Stage::Launch);
    assert!(matches!(error.kind(), Some(LaunchError::Start { source: StartError::Execute(_), .. })), "{error:?}");
    let causes: Vec<String> = text(&error).causes;
    assert_eq!(causes, ["it cannot be executed", "No such file or directory (os error 2)"]);
}

#[test]
fn a_failed_load_keeps_the_systems_reason() {
    let directory = tempfile::tempdir().unwrap();
    let words = ["/none/k6".to_owned()];
    let line = CommandLine {
        words: &words,
        directory: directory.path(),
        env: &[],
        account: None,
        secrets: &Secrets::default(),
    };
    let error = load::command(&line, &directory.path().join("load.log")).unwrap_err();
    assert_eq!(text(&error).stage, Stage::Load);
    assert!(matches!(error.kind(), Some(LoadError::CommandNotStarted { .. })), "{error:?}");
    assert!(error.source().unwrap().is::<io::Error>());
    assert_eq!(text(&error).causes, ["No such file or directory (os error 2)"]);
}
