//! Selects what to measure: the services, platforms and runs that the command line and the configuration name.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use memgate_config::{Config, Executable, PlatformOptions, Service};
use memgate_evidence::{
    error::Result,
    plan::{Account, Collecting, Plan},
    platform::{Platform, Runner},
};

use crate::{account, preflight};

/// What to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Names of services; empty means all.
    pub services: Vec<String>,
    /// Platforms, without duplicates.
    pub platforms: Vec<Platform>,
    /// The runner; overrides the configuration.
    pub runner: Option<Runner>,
    /// The number of fresh processes for each; overrides the configuration.
    pub runs: Option<u32>,
    /// The commit whose build is judged; `None` for the checkout itself.
    pub commit: Option<String>,
    /// The other build to compare with: `merge-base`, a commit, or the directory of a second checkout.
    pub against: Option<String>,
    /// How to collect.
    pub collecting: Collecting,
    /// Whether guests may be resumed from snapshots.
    pub snapshots: bool,
    /// The user that builds, services and load commands run as; overrides the configuration.
    pub user: Option<String>,
    /// Whether memgate waits for another one that measures natively on this machine.
    pub waits: bool,
    /// The directory for executables, evidence and logs.
    pub out: PathBuf,
    /// How all this was asked for on the command line, but for services, platforms and `out`; what is as it is by default is left out.
    pub options: Vec<String>,
}

/// One service on one platform.
pub(crate) struct Target<'config> {
    pub(crate) service: &'config Service,
    pub(crate) platform: Platform,
    pub(crate) options: PlatformOptions,
    pub(crate) runner: Option<Runner>,
    pub(crate) runs: u32,
    /// The directory in or above which memgate looks for a Go toolchain that is not on `PATH`: that of the checkout, for
    /// every build. `None` if nothing is built.
    pub(crate) tools: Option<PathBuf>,
    /// The user of the command line.
    pub(crate) user: Option<&'config str>,
    /// The configuration, in the checkout that has the change.
    pub(crate) configuration: &'config Path,
    /// What makes this the other build of `--against`, if it is.
    pub(crate) against: Option<Against>,
}

/// The other build.
#[derive(Clone)]
pub(crate) struct Against {
    /// Its name in reports.
    pub(crate) name: String,
    /// What a reader must know of it.
    pub(crate) note: Option<String>,
}

/// The users of what a service runs; `None` stands for memgate's own.
#[derive(Debug, Clone)]
pub(crate) struct Accounts {
    /// That of the build, the service and the load command.
    pub(crate) service: Option<Account>,
    /// Those of its sidecars.
    pub(crate) sidecars: Vec<Option<Account>>,
    /// Those of the commands before it.
    pub(crate) before: Vec<Option<Account>>,
}

impl Accounts {
    /// Whether one of them is not memgate's own.
    pub(crate) fn has_another(&self) -> bool {
        let all = [&self.service].into_iter().chain(&self.sidecars).chain(&self.before);
        all.into_iter().any(Option::is_some)
    }
}

impl<'config> Target<'config> {
    /// The same target with these sources.
    pub(crate) fn with<'other>(&self, service: &'other Service, against: Option<Against>) -> Target<'other>
    where
        'config: 'other,
    {
        Target {
            service,
            platform: self.platform,
            options: self.options.clone(),
            runner: self.runner,
            runs: self.runs,
            tools: self.tools.clone(),
            user: self.user,
            configuration: self.configuration,
            against,
        }
    }

    /// The users of what it runs.
    ///
    /// # Errors
    /// When there is no such user, or memgate cannot become that user.
    pub(crate) fn accounts(&self) -> Result<Accounts> {
        let service = self.account("run.user", self.service.run.user.as_deref())?;
        let or_the_services = |key: String, user: Option<&str>| match user {
            Some(user) => self.account(&key, Some(user)),
            None => Ok(service.clone()),
        };
        let sidecars = self.service.sidecars.iter();
        let sidecars = sidecars
            .map(|sidecar| or_the_services(format!("sidecars.{}.user", sidecar.name), sidecar.user.as_deref()))
            .collect::<Result<_>>()?;
        let before = self.service.before.iter().enumerate();
        let before = before
            .map(|(index, before)| or_the_services(format!("before[{index}].user"), before.user.as_deref()))
            .collect::<Result<_>>()?;
        Ok(Accounts { service, sidecars, before })
    }

    /// The user that this key of the service names, or the one of the command line, which wins.
    fn account(&self, key: &str, user: Option<&str>) -> Result<Option<Account>> {
        let asked = self.user.map(|user| ("--user".to_owned(), user));
        let asked = asked.or_else(|| Some((format!("services.{}.{key}", self.service.name), user?)));
        account::of_service(asked.as_ref().map(|(by, user)| (by.as_str(), *user)), self.configuration)
    }

    /// The plan of one run, numbered from 1, of this executable.
    pub(crate) fn plan(&self, run: u32, executable: PathBuf, collecting: Collecting) -> Plan {
        Plan { collecting, ..self.service.plan(self.platform, run, executable) }
    }

    /// The most runs that memgate makes to decide every gate.
    pub(crate) fn max_runs(&self) -> u32 {
        self.service.max_runs.max(self.runs)
    }

    pub(crate) fn title(&self) -> String {
        let of = self.against.as_ref().map(|against| format!(" of {}", against.name)).unwrap_or_default();
        format!("{} {}{of}", self.service.name, self.platform)
    }
}

pub(crate) fn targets<'config>(config: &'config Config, selection: &'config Selection) -> Result<Vec<Target<'config>>> {
    let services: Vec<_> = if selection.services.is_empty() {
        config.services.values().collect()
    } else {
        let names: BTreeSet<_> = selection.services.iter().collect();
        names.into_iter().map(|name| config.service(name)).collect::<Result<_>>()?
    };
    let on = |platform: Platform| {
        let options = config.platforms.get(&platform).cloned().unwrap_or_default();
        let runner = selection.runner.or(options.runner);
        let runs = move |service: &Service| selection.runs.unwrap_or(service.runs);
        services.iter().map(move |service| Target {
            service,
            platform,
            options: options.clone(),
            runner,
            runs: runs(service),
            tools: match &service.executable {
                Executable::Build(build) => Some(build.dir.clone()),
                Executable::Binary(_) => None,
            },
            user: selection.user.as_deref(),
            configuration: &config.file,
            against: None,
        })
    };
    Ok(selection.platforms.iter().copied().flat_map(on).collect())
}

/// The jobs that measure the selection, as JSON for the matrix of a GitHub workflow. There is one job for each
/// platform, with `platform`, `name` (for file and artifact names), and `runner` (`native` or `qemu`, as on this
/// machine).
///
/// # Errors
/// When a service is not in the configuration, or when a platform that is not this machine's is to run natively.
pub fn github_matrix(config: &Config, selection: &Selection) -> Result<serde_json::Value> {
    let mut jobs = BTreeMap::new();
    for target in targets(config, selection)? {
        let runner = preflight::place(target.platform, target.runner)?.name();
        let (platform, name) = (target.platform.name(), target.platform.folder());
        jobs.insert(target.platform, serde_json::json!({ "platform": platform, "name": name, "runner": runner }));
    }
    Ok(serde_json::json!({ "include": jobs.into_values().collect::<Vec<_>>() }))
}
