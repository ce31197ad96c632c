//! The secrets of this command: the values of variables that services pass on. memgate writes them nowhere.

use std::{
    env,
    sync::{Mutex, MutexGuard, PoisonError},
};

use memgate_config::{Executable, Service};
use memgate_evidence::{Evidence, secrets::Secrets};

/// Variables of the Go runtime. Evidence has their values, which are no secrets.
const PUBLIC: [&str; 4] = ["GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GODEBUG"];

/// What this process has learnt. A message can come from everywhere in it.
static KNOWN: Mutex<Option<Secrets>> = Mutex::new(None);

/// Remembers the secrets of a service, so that they are masked from now on.
pub(crate) fn learn(service: &Service) {
    let secrets = of_service(service, |name| env::var(name).ok());
    known().get_or_insert_default().extend(secrets);
}

fn of_service(service: &Service, value: impl Fn(&str) -> Option<String>) -> Secrets {
    let of_build = match &service.executable {
        Executable::Build(build) => build.pass_env.as_slice(),
        Executable::Binary(_) => &[],
    };
    let of_sidecars = service.sidecars.iter().flat_map(|sidecar| &sidecar.pass_env);
    let of_before = service.before.iter().flat_map(|before| &before.pass_env);
    let of_service = service.run.pass_env.iter().chain(&service.load_pass_env);
    let mut secrets = Secrets::default();
    for name in of_service.chain(of_build).chain(of_sidecars).chain(of_before) {
        if let Some(value) = value(name).filter(|_| !PUBLIC.contains(&name.as_str())) {
            secrets.add(&value);
        }
    }
    secrets
}

/// All that are known.
pub(crate) fn all() -> Secrets {
    known().clone().unwrap_or_default()
}

/// The text without them.
pub(crate) fn mask(text: &str) -> String {
    all().mask(text).into_owned()
}

/// The evidence without them: in what it says in words, and in the service's variables. Load, dependencies and build are
/// words of the configuration, in which a value can only be by chance, and which a baseline is compared with.
pub(crate) fn mask_evidence(evidence: Evidence) -> Evidence {
    mask_in(evidence, &all())
}

fn mask_in(mut evidence: Evidence, secrets: &Secrets) -> Evidence {
    let mask = |text: &mut String| *text = secrets.mask(text).into_owned();
    let variables = evidence.environment.variables.values_mut();
    evidence.notes.iter_mut().chain(&mut evidence.options).chain(variables).for_each(mask);
    evidence
}

fn known() -> MutexGuard<'static, Option<Secrets>> {
    KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use memgate_evidence::Environment;

    use super::*;

    #[test]
    fn the_values_of_all_that_is_passed_on_are_secrets() {
        let text = r#"version: 1
services:
  s:
    build: { dir: src, package: ., pass_env: [TOKEN] }
    run: { pass_env: [PASSWORD, GOMEMLIMIT, UNSET, SHORT], ready: { log: up } }
    load: { command: [k6], pass_env: [KEY] }
    sidecars: { db: { command: [db], pass_env: [DB], ready: { log: up } } }
    before: [ { command: [x], pass_env: [SEED] } ]
"#;
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("memgate.yaml");
        let config = memgate_config::parse(&file, text).unwrap();
        let value = |name: &str| match name {
            "UNSET" => None,
            "SHORT" => Some("abc".to_owned()),
            name => Some(format!("value of {name}")),
        };
        let secrets = of_service(&config.services["s"], value);
        let all = ["TOKEN", "PASSWORD", "KEY", "DB", "SEED"].map(|name| format!("value of {name}"));
        assert_eq!(secrets.mask(&all.join(" ")), "*** *** *** *** ***");
        assert_eq!(secrets.mask("value of GOMEMLIMIT, abc"), "value of GOMEMLIMIT, abc");
    }

    #[test]
    fn evidence_has_none() {
        let mut evidence = memgate_testing::healthy(1);
        let dependencies = "db `db -U hunter2`".to_owned();
        evidence.notes.push("the password hunter2 is short".to_owned());
        evidence.environment.dependencies = dependencies.clone();
        evidence.environment.load = "`k6 run --user=hunter2`".to_owned();
        evidence.environment.build.insert("-tags".to_owned(), "hunter2".to_owned());
        let environment = evidence.environment.clone();
        evidence.environment.variables.insert("GODEBUG".to_owned(), "x=hunter2".to_owned());
        let mut secrets = Secrets::default();
        secrets.add("hunter2");
        let masked = mask_in(evidence, &secrets);
        assert_eq!(masked.notes.last().unwrap(), "the password *** is short");
        let Environment { load, dependencies: of_file, build, .. } = masked.environment.clone();
        assert_eq!(
            (load, of_file, build),
            (environment.load, dependencies, environment.build),
            "everybody can read them"
        );
        assert_eq!(masked.environment.variables["GODEBUG"], "x=***");
    }
}
