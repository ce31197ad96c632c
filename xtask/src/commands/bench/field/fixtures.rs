//! The services of fixtures-go/field, what is right for each, and the configurations with which memgate checks them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use miette::{Context, IntoDiagnostic, Result, miette};
use serde::Deserialize;
use serde_yaml::{Mapping, Value};

use super::Phases;
use super::right::Right;

/// The configurations: services that are built, and services that Debian built.
const CONFIGURATIONS: [&str; 2] = ["memgate.yaml", "debian.yaml"];
/// What is right.
const RIGHT: &str = "right.yaml";
/// The directory of the recorded baselines.
pub(super) const BASELINES: &str = "baselines";
/// A directory that nobody makes.
const NO_BASELINES: &str = "no-baselines";

/// What a case needs to show what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Need {
    /// This machine itself, and not a guest.
    Native,
    /// The platform linux/amd64.
    Amd64,
    /// A processor without AVX-512.
    NoAvx512,
}

/// What right.yaml says of a service.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    needs: Vec<Need>,
    #[serde(default)]
    beside: Option<String>,
    #[serde(with = "serde_yaml::with::singleton_map")]
    right: Right,
}

/// A service, and what is right for it.
#[derive(Debug)]
pub(super) struct Case {
    /// Where it shows what it is about.
    pub(super) needs: Vec<Need>,
    /// Another service that is checked in the same command.
    pub(super) beside: Option<String>,
    /// What memgate must decide.
    pub(super) right: Right,
    /// The healthy service with whose baseline it is compared.
    pub(super) sibling: Option<String>,
    /// Whether it comes as an executable.
    pub(super) is_binary: bool,
    /// The index of its configuration in [`CONFIGURATIONS`].
    configuration: usize,
}

/// Everything in fixtures-go/field.
#[derive(Debug)]
pub(super) struct Fixtures {
    dir: PathBuf,
    cases: BTreeMap<String, Case>,
    configurations: [Mapping; 2],
}

impl Fixtures {
    /// Reads the directory.
    ///
    /// # Errors
    /// When a file cannot be read, when a service has no entry in right.yaml, when an entry has no service, or when an
    /// entry names a service that is not there.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let [built, debian] = CONFIGURATIONS.map(|name| mapping(&dir.join(name)));
        let configurations = [built?, debian?];
        let right = dir.join(RIGHT);
        let mut cases = BTreeMap::new();
        for (name, entry) in mapping(&right)? {
            let name = name.as_str().unwrap_or_default().to_owned();
            let entry: Entry = serde_yaml::from_value(entry)
                .into_diagnostic()
                .wrap_err_with(|| format!("{}: the entry `{name}` is wrong", right.display()))?;
            let case = case(entry, &name, &configurations).ok_or_else(|| {
                let help = "name a service of memgate.yaml or debian.yaml, or remove the entry";
                miette!(help = help, "{}: there is no service `{name}`", right.display())
            })?;
            cases.insert(name, case);
        }
        let fixtures = Self { dir: dir.to_owned(), cases, configurations };
        fixtures.check(&right)?;
        Ok(fixtures)
    }

    fn check(&self, right: &Path) -> Result<()> {
        let services = self.configurations.iter().flat_map(services).filter_map(|(name, _)| name.as_str());
        for service in services {
            if !self.cases.contains_key(service) {
                let help = "say there what memgate must decide on it";
                return Err(miette!(help = help, "{}: the service `{service}` has no entry", right.display()));
            }
        }
        for (name, case) in &self.cases {
            for other in case.beside.iter().chain(&case.sibling) {
                let there = self.cases.get(other).is_some_and(|other| other.configuration == case.configuration);
                if !there {
                    let help = "`baseline` and `beside` name a service of the same file";
                    return Err(miette!(help = help, "{}: `{name}` names `{other}`", right.display()));
                }
            }
        }
        Ok(())
    }

    /// The cases of these names, or all.
    ///
    /// # Errors
    /// When there is no case of a name.
    pub(super) fn chosen(&self, names: &[String]) -> Result<Vec<(&str, &Case)>> {
        if let Some(unknown) = names.iter().find(|name| !self.cases.contains_key(*name)) {
            let known: Vec<_> = self.cases.keys().map(String::as_str).collect();
            return Err(miette!(help = format!("choose among {}", known.join(", ")), "there is no case `{unknown}`"));
        }
        let is_chosen = |name: &String| names.is_empty() || names.contains(name);
        Ok(self.cases.iter().filter(|(name, _)| is_chosen(name)).map(|(name, case)| (name.as_str(), case)).collect())
    }

    /// Writes each configuration twice below `out`: with the baselines that the bench records, and without any.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn write(&self, out: &Path, phases: Phases) -> Result<()> {
        for (name, configuration) in CONFIGURATIONS.iter().zip(&self.configurations) {
            for baselines in [BASELINES, NO_BASELINES] {
                let derived = self.derived(configuration, &out.join(baselines), phases);
                let text = serde_yaml::to_string(&derived).into_diagnostic()?;
                let place = place(out, baselines, name);
                let write = || {
                    std::fs::create_dir_all(place.parent().unwrap_or(out))?;
                    std::fs::write(&place, text)
                };
                write().into_diagnostic().wrap_err_with(|| format!("cannot write {}", place.display()))?;
            }
        }
        Ok(())
    }

    /// The configuration that [`Fixtures::write`] wrote for a service.
    ///
    /// # Errors
    /// When there is no such service.
    pub(super) fn configuration(&self, out: &Path, service: &str, baselines: bool) -> Result<PathBuf> {
        let case = self.cases.get(service).ok_or_else(|| miette!("there is no case `{service}`"))?;
        let baselines = if baselines { BASELINES } else { NO_BASELINES };
        Ok(place(out, baselines, CONFIGURATIONS.get(case.configuration).unwrap_or(&"")))
    }

    /// A configuration for another directory: with absolute paths, these baselines and these phases.
    fn derived(&self, configuration: &Mapping, baselines: &Path, phases: Phases) -> Mapping {
        let mut derived = configuration.clone();
        derived.insert("baselines".into(), baselines.display().to_string().into());
        for (_, service) in entries(&mut derived, "services") {
            if let Some(dir) = service.get_mut("build").and_then(|build| build.get_mut("dir")) {
                self.make_absolute(dir);
            }
            for (_, file) in entries_of(service, "binary") {
                self.make_absolute(file);
            }
            if let (Phases::Short, Value::Mapping(service)) = (phases, service) {
                shorten(service);
            }
        }
        for (_, platform) in entries(&mut derived, "platforms") {
            for (_, file) in entries_of(platform, "files") {
                self.make_absolute(file);
            }
        }
        derived
    }

    fn make_absolute(&self, path: &mut Value) {
        if let Some(relative) = path.as_str() {
            *path = self.dir.join(relative).display().to_string().into();
        }
    }
}

fn place(out: &Path, baselines: &str, name: &str) -> PathBuf {
    out.join("configurations").join(baselines).join(name)
}

/// Sets the phases, except for what the service sets itself.
fn shorten(service: &mut Mapping) {
    let mut phases = Mapping::new();
    for (phase, length) in [("warmup", "4s"), ("measure", "12s"), ("drain", "3s")] {
        phases.insert(phase.into(), length.into());
    }
    if let Some(Value::Mapping(own)) = service.remove("phases") {
        phases.extend(own);
    }
    service.insert("phases".into(), phases.into());
}

fn case(entry: Entry, name: &str, configurations: &[Mapping]) -> Option<Case> {
    let mut found = configurations.iter().enumerate();
    let (configuration, service) = found.find_map(|(index, file)| {
        services(file).find(|(service, _)| service.as_str() == Some(name)).map(|(_, service)| (index, service))
    })?;
    Some(Case {
        needs: entry.needs,
        beside: entry.beside,
        right: entry.right,
        sibling: service.get("baseline").and_then(Value::as_str).map(str::to_owned),
        is_binary: service.get("binary").is_some(),
        configuration,
    })
}

fn services(configuration: &Mapping) -> impl Iterator<Item = (&Value, &Value)> {
    configuration.get("services").and_then(Value::as_mapping).into_iter().flatten()
}

/// The entries below a key.
fn entries<'a>(mapping: &'a mut Mapping, key: &str) -> impl Iterator<Item = (&'a Value, &'a mut Value)> {
    mapping.get_mut(key).and_then(Value::as_mapping_mut).into_iter().flatten()
}

fn entries_of<'a>(value: &'a mut Value, key: &str) -> impl Iterator<Item = (&'a Value, &'a mut Value)> {
    value.get_mut(key).and_then(Value::as_mapping_mut).into_iter().flatten()
}

/// A file whose text is a mapping. A key that is there twice is an error.
fn mapping(file: &Path) -> Result<Mapping> {
    let text = std::fs::read_to_string(file).into_diagnostic();
    let parsed = text.and_then(|text| serde_yaml::from_str(&text).into_diagnostic());
    parsed.wrap_err_with(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn field() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures-go/field")
    }

    /// The fixtures' own files in another directory, one of them changed.
    fn changed(file: &str, change: impl FnOnce(String) -> String) -> Result<Fixtures> {
        let dir = tempfile::tempdir().unwrap();
        for name in CONFIGURATIONS.into_iter().chain([RIGHT]) {
            std::fs::copy(field().join(name), dir.path().join(name)).unwrap();
        }
        let file = dir.path().join(file);
        let text = std::fs::read_to_string(&file).unwrap();
        let new = change(text.clone());
        assert_ne!(new, text, "the change changes nothing");
        std::fs::write(&file, new).unwrap();
        Fixtures::read(dir.path())
    }

    fn refusal(file: &str, change: impl FnOnce(String) -> String) -> String {
        format!("{:?}", changed(file, change).unwrap_err())
    }

    #[test]
    fn every_service_has_what_is_right_and_the_other_way_round() {
        Fixtures::read(&field()).unwrap();
        let without = refusal(RIGHT, |text| text.replace("linger-drained:\n  right: green\n", ""));
        assert!(without.contains("`linger-drained` has no entry"), "{without}");
        let none = refusal(RIGHT, |text| text + "none:\n  right: green\n");
        assert!(none.contains("no service `none`"), "{none}");
        let twice = refusal(RIGHT, |text| text + "caddy:\n  right: green\n");
        assert!(twice.contains("caddy"), "{twice}");
    }

    #[test]
    fn an_entry_that_says_something_unknown_is_refused() {
        let idle = "idle:\n  right: green\n";
        for wrong in [
            "idle:\n  right: blue\n",
            "idle:\n  right: green\n  need: []\n",
            "idle:\n  right: { red: { by: [], tells: [], spares: [], more: [] } }\n",
            "idle:\n  needs: [luck]\n  right: green\n",
        ] {
            let refusal = refusal(RIGHT, |text| text.replace(idle, wrong));
            assert!(refusal.contains("the entry `idle` is wrong"), "{refusal}");
        }
        let beside = refusal(RIGHT, |text| text.replace("beside: v3-build", "beside: caddy"));
        assert!(beside.contains("`v4-build` names `caddy`"), "{beside}");
    }

    #[test]
    fn every_fixture_is_built_by_a_service() {
        let fixtures = Fixtures::read(&field()).unwrap();
        let built = fixtures.configurations.iter().flat_map(services).filter_map(|(_, service)| {
            let package = service.get("build")?.get("package")?.as_str()?;
            Some(package.strip_prefix("./field/").unwrap().to_owned())
        });
        let entries = std::fs::read_dir(field()).unwrap().map(|entry| entry.unwrap().path());
        let there: BTreeSet<_> = entries
            .filter(|path| path.join("main.go").is_file())
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert!(there.len() > 10 && built.collect::<BTreeSet<_>>() == there, "{there:?}");
    }

    #[test]
    fn siblings_are_healthy() {
        let fixtures = Fixtures::read(&field()).unwrap();
        let siblings: Vec<_> = fixtures.cases.values().filter_map(|case| case.sibling.as_deref()).collect();
        assert!(siblings.len() >= 3);
        for sibling in siblings {
            assert!(matches!(fixtures.cases[sibling].right, Right::Green), "{sibling}");
        }
    }

    #[test]
    fn cases_are_chosen_by_name() {
        let fixtures = Fixtures::read(&field()).unwrap();
        let chosen = fixtures.chosen(&["idle".to_owned(), "caddy".to_owned()]).unwrap();
        assert_eq!(chosen.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["caddy", "idle"]);
        assert_eq!(fixtures.chosen(&[]).unwrap().len(), fixtures.cases.len());
        assert!(fixtures.chosen(&["none".to_owned()]).is_err());
    }

    #[test]
    fn a_configuration_works_from_another_directory() {
        let (fixtures, out) = (Fixtures::read(&field()).unwrap(), tempfile::tempdir().unwrap());
        fixtures.write(out.path(), Phases::Short).unwrap();
        let read = |service, baselines| {
            let place = fixtures.configuration(out.path(), service, baselines).unwrap();
            Value::from(mapping(&place).unwrap())
        };
        let linger = read("linger", true);
        assert_eq!(linger["baselines"], out.path().join(BASELINES).to_str().unwrap());
        assert_ne!(read("linger", false)["baselines"], linger["baselines"]);
        let (service, caddy) = (&linger["services"]["linger"], read("caddy", true));
        let absolute = [
            &service["build"]["dir"],
            &caddy["services"]["caddy"]["binary"]["linux/arm64"],
            &caddy["platforms"]["linux/loong64"]["files"]["/lib/loongarch64-linux-gnu/libc.so.6"],
        ];
        assert!(absolute.iter().all(|path| Path::new(path.as_str().unwrap()).is_absolute()), "{absolute:?}");
        let phases = |service: &Value| ["warmup", "measure", "drain"].map(|phase| service["phases"][phase].clone());
        assert_eq!(phases(service), ["4s", "12s", "3s"]);
        assert_eq!(phases(&linger["services"]["linger-drained"]), ["4s", "12s", "10s"]);
        fixtures.write(out.path(), Phases::Default).unwrap();
        let services = &read("linger", true)["services"];
        assert!(services["idle"].get("phases").is_none() && services["linger"]["phases"]["drain"] == "3s");
    }
}
