//! What a run is evidence of: the executable, the plan, the commit, and the build of memgate.

use std::path::Path;

use memgate_agent::{BUILD, cancel::Cancel};
use memgate_config::{Executable, Service};
use memgate_evidence::{
    Commit, Origin,
    error::{Error, Result, Stage},
    plan::{Before, CommandLoad, HttpLoad, Load, Plan, Sidecar, Tls, Transport},
};
use memgate_files::sha256;
use serde_json::{Value, json};

use crate::{command::output_unless_cancelled, git::Git};

/// The origin of a run that this plan is for.
///
/// # Errors
/// When the executable cannot be read.
pub(crate) fn of(plan: &Plan, commit: Option<&Commit>) -> Result<Origin> {
    let executable = sha256::of_file(&plan.executable).map_err(|error| {
        let message = format!("the executable {} cannot be read", plan.executable.display());
        Error::caused(Stage::Launch, message, error, "let nothing else write to it while memgate measures")
    })?;
    Ok(Origin { executable, plan: hash(plan), commit: commit.cloned(), memgate: BUILD.to_owned() })
}

/// The hash of what decides about the figures of a plan's run. Two machines that have the same configuration and
/// options have the same hash, wherever their checkouts and executables lie.
pub(crate) fn hash(plan: &Plan) -> String {
    // Here and below each field is named, so that a new one does not compile until it is decided here.
    let Plan {
        service,
        platform,
        run: _,
        // It decides how the figures are judged.
        baseline: _,
        // Its own hash is beside this one.
        executable: _,
        args,
        watch,
        env,
        stdin,
        secrets: _,
        directory: _,
        // Another machine has other users.
        account: _,
        ready,
        memory_max,
        sidecars,
        before,
        load,
        phases,
        seed,
        stop_timeout_ms,
        collecting,
    } = plan;
    let canonical = json!({
        "service": service,
        "platform": platform,
        "args": args,
        "watch": watch,
        "env": env,
        "stdin": stdin,
        "ready": ready,
        "memory_max": memory_max,
        "sidecars": sidecars.iter().map(of_sidecar).collect::<Vec<_>>(),
        "before": before.iter().map(of_before).collect::<Vec<_>>(),
        "load": of_load(load),
        "phases": phases,
        "seed": seed,
        "stop_timeout_ms": stop_timeout_ms,
        "collecting": collecting,
    });
    sha256::of(canonical.to_string().as_bytes())
}

fn of_sidecar(sidecar: &Sidecar) -> Value {
    let Sidecar { name, words, env, directory: _, account: _, ready, memory_max, stop_timeout_ms } = sidecar;
    json!({
        "name": name,
        "words": words,
        "env": env,
        "ready": ready,
        "memory_max": memory_max,
        "stop_timeout_ms": stop_timeout_ms,
    })
}

fn of_before(before: &Before) -> Value {
    let Before { words, env, directory: _, account: _, timeout_ms } = before;
    json!({ "words": words, "env": env, "timeout_ms": timeout_ms })
}

/// The load without the paths of files on this machine.
fn of_load(load: &Load) -> Value {
    match load {
        Load::Command(CommandLoad { words, env, results }) => {
            // The file is named from where the command runs.
            json!({ "words": words, "env": env, "results": results })
        }
        Load::Http(HttpLoad { rate_per_second, connections, timeout_ms, transport, rows, requests }) => {
            let Transport { http, keep_alive, unix, tls } = transport;
            let tls = tls.as_ref().map(|tls| match tls {
                Tls::Insecure => "insecure",
                Tls::Ca(_) => "ca",
            });
            json!({
                "rate_per_second": rate_per_second,
                "connections": connections,
                "timeout_ms": timeout_ms,
                "transport": { "http": http, "keep_alive": keep_alive, "unix": unix, "tls": tls },
                "rows": rows,
                "requests": requests,
            })
        }
    }
}

/// The commit that is checked out where the service is built or, if it is not built, where it runs. `None` if git is
/// missing, if there is no repository or no commit, and if git cannot read it.
///
/// # Errors
/// When memgate is interrupted.
pub(crate) async fn commit(service: &Service, cancel: &Cancel) -> Result<Option<Commit>> {
    let directory = match &service.executable {
        Executable::Build(build) => &build.dir,
        Executable::Binary(_) => &service.run.directory,
    };
    let Some(hash) = git(directory, &["rev-parse", "--verify", "--quiet", "HEAD"], cancel).await? else {
        return Ok(None);
    };
    // What is not tracked may be memgate's own output. If it is a source, the executable tells.
    let changes = git(directory, &["status", "--porcelain", "--untracked-files=no"], cancel).await?;
    Ok(changes.map(|changes| Commit { hash, is_changed: !changes.is_empty() }))
}

/// What git prints; `None` if it fails.
async fn git(directory: &Path, words: &[&str], cancel: &Cancel) -> Result<Option<String>> {
    let Ok(mut git) = Git::reading(directory) else { return Ok(None) };
    git.command.arg("--no-optional-locks").args(words);
    let output =
        output_unless_cancelled(git.command, git.pen, cancel).await?.ok().filter(|output| output.status.success());
    Ok(output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        fs,
    };

    use memgate_evidence::{
        plan::{Collecting, CommandResults, HttpVersion, PhaseLengths, Ready, ReadyBy, ResultsFormat},
        platform::Platform,
        tier::Tier,
    };
    use memgate_testing::plan;

    use super::*;

    fn sidecar() -> Sidecar {
        Sidecar {
            name: "redis".to_owned(),
            words: vec!["redis-server".to_owned()],
            env: BTreeMap::new(),
            directory: None,
            account: None,
            ready: Ready { by: ReadyBy::Notify, timeout_ms: 1 },
            memory_max: None,
            stop_timeout_ms: 1,
        }
    }

    #[test]
    fn what_a_service_needs_is_a_part_of_the_plan_wherever_it_lies() {
        let with = |sidecar| Plan { sidecars: vec![sidecar], ..plan() };
        let here = Sidecar { directory: Some("/a".into()), account: plan().account, ..sidecar() };
        assert_eq!(hash(&with(here)), hash(&with(sidecar())));
        let other = Sidecar { words: vec!["valkey-server".to_owned()], ..sidecar() };
        assert_ne!(hash(&with(other)), hash(&with(sidecar())));
        assert_ne!(hash(&with(sidecar())), hash(&plan()));
    }

    #[test]
    fn a_plan_is_the_same_on_every_machine_and_in_every_run() {
        let elsewhere = Plan { run: 2, executable: "/b/uaa".into(), directory: "/b".into(), account: None, ..plan() };
        assert_eq!(hash(&elsewhere), hash(&plan()));
        let [here, there] = ["/a/ca.pem", "/b/ca.pem"].map(|file| with(|load| load.tls = Some(Tls::Ca(file.into()))));
        assert_eq!(hash(&here), hash(&there));
    }

    /// The plan over another transport.
    fn with(change: impl Fn(&mut Transport)) -> Plan {
        let mut plan = plan();
        let Load::Http(load) = &mut plan.load else { panic!("{plan:?}") };
        change(&mut load.transport);
        plan
    }

    /// A service with a file for everything that can have one, and one with a load command.
    const WITH_FILES: &str = r#"version: 1
services:
  web:
    build: { dir: src, package: . }
    run: { directory: data, ready: { tcp: 127.0.0.1:8443 } }
    load:
      rate: 10/s
      tls: { ca: ca.pem }
      rows: rows.csv
      unix: web.sock
      requests: [ { get: "https://127.0.0.1:8443/${rows.id}" } ]
    sidecars: { db: { command: [db], directory: data, ready: { log: up } } }
    before: [ { command: [$MEMGATE_SERVICE, migrate], directory: data } ]
  batch:
    build: { dir: src, package: . }
    run: { ready: { log: up } }
    load: { command: [k6], results: { format: k6, file: out/results.json } }
"#;

    #[test]
    fn two_checkouts_of_a_configuration_have_the_same_plans() {
        let hashes = || {
            let checkout = tempfile::tempdir().unwrap();
            let at = |name: &str| checkout.path().join(name);
            for name in ["src", "data"] {
                fs::create_dir(at(name)).unwrap();
            }
            fs::write(at("ca.pem"), "").unwrap();
            fs::write(at("rows.csv"), "id\n7\n").unwrap();
            let config = memgate_config::parse(&at("memgate.yaml"), WITH_FILES).unwrap();
            let plan = |name: &str| config.plan(name, Platform::host(), 1, at("built")).unwrap();
            ["web", "batch"].map(|name| hash(&plan(name)))
        };
        assert_eq!(hashes(), hashes());
    }

    #[test]
    fn whatever_decides_about_figures_makes_another_plan() {
        let others = [
            Plan { service: "other".to_owned(), ..plan() },
            Plan { platform: Platform::LinuxLoong64, ..plan() },
            Plan { args: vec!["-v".to_owned()], ..plan() },
            Plan { env: BTreeMap::from([("GOGC".to_owned(), "50".to_owned())]), ..plan() },
            Plan { ready: Ready { by: ReadyBy::Notify, timeout_ms: 1 }, ..plan() },
            Plan { memory_max: Some(1), ..plan() },
            Plan {
                load: Load::Command(CommandLoad { words: vec!["wrk".to_owned()], ..CommandLoad::default() }),
                ..plan()
            },
            Plan {
                load: Load::Command(CommandLoad {
                    words: vec!["wrk".to_owned()],
                    results: Some(CommandResults { format: ResultsFormat::K6, file: "results.json".into() }),
                    ..CommandLoad::default()
                }),
                ..plan()
            },
            with(|load| load.http = HttpVersion::Http2 { streams: 1 }),
            with(|load| load.keep_alive = false),
            with(|load| load.unix = Some("x.sock".into())),
            with(|load| load.tls = Some(Tls::Insecure)),
            Plan { phases: PhaseLengths { drain_ms: 4, ..plan().phases }, ..plan() },
            Plan { seed: 2, ..plan() },
            Plan { stop_timeout_ms: 2, ..plan() },
            Plan { collecting: Collecting { tier: Some(Tier::T0), force_probes: false }, ..plan() },
        ];
        let mut seen = BTreeSet::from([hash(&plan())]);
        for other in others {
            assert!(seen.insert(hash(&other)), "{other:?}");
        }
    }

    #[test]
    fn the_origin_names_the_very_executable() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"abc").unwrap();
        let plan = Plan { executable: file.path().to_owned(), ..plan() };
        let found = of(&plan, None).unwrap();
        assert_eq!(found.executable, sha256::of(b"abc"));
        assert_eq!((found.memgate.as_str(), found.memgate.len()), (BUILD, 32));
        let error = of(&Plan { executable: "/none".into(), ..plan }, None).unwrap_err();
        assert!(error.to_string().contains("/none"), "{error}");
    }

    #[tokio::test]
    async fn a_commit_tells_whether_tracked_files_differ() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        let cancel = Cancel::never();
        let head = async || git(place, &["rev-parse", "--verify", "--quiet", "HEAD"], &cancel).await.unwrap();
        assert_eq!(head().await, None, "there is no repository");
        for words in [
            &["init", "--quiet"][..],
            &["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "-m", "a"],
        ] {
            assert!(git(place, words, &cancel).await.unwrap().is_some(), "{words:?}");
        }
        assert_eq!(head().await.unwrap().len(), 40);
        let status = async || git(place, &["status", "--porcelain", "--untracked-files=no"], &cancel).await.unwrap();
        fs::write(place.join("a.go"), "package a").unwrap();
        assert_eq!(status().await.as_deref(), Some(""));
        git(place, &["add", "a.go"], &cancel).await.unwrap();
        assert_eq!(status().await.as_deref(), Some("A  a.go"));
    }
}
