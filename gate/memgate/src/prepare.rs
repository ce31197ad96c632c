//! Prepares services for measuring: builds them, and makes images and an emulator if they run in guests.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use memgate_agent::cancel::Cancel;
use memgate_config::{Executable, Service};
use memgate_evidence::{
    Commit,
    error::{Error, InputError, Result, Stage},
    plan::{Collecting, Load, Plan},
    platform::{Platform, Runner},
};
use memgate_files::OutputError;

use crate::{
    account,
    failures::Outcomes,
    gobuild::Builder,
    guest_runner::GuestRunner,
    measure::Again,
    narrator::Narrator,
    origin,
    outdir::{OutDirectory, refuse_others},
    preflight, secrets,
    select::{Accounts, Selection, Target},
};

/// Builds every service and makes the images of its guests before any measuring starts, so that no build disturbs a
/// measurement. A service for which this fails has a failure; the others are prepared.
///
/// # Errors
/// Fails if the configuration is wrong, this machine lacks something, or the output directory cannot be used. All of
/// them show up before time is spent on runs.
pub(crate) async fn prepare<'run>(
    targets: &'run [Target<'run>],
    selection: &'run Selection,
    narrator: &Narrator,
    cancel: &Cancel,
) -> Result<Outcomes<Bench<'run>>> {
    let places = places(targets)?;
    let accounts: Vec<_> = targets.iter().map(users).collect::<Result<_>>()?;
    make_directory(&selection.out)?;
    if accounts.iter().any(Accounts::has_another) {
        refuse_others(&selection.out)?;
    }
    if let Some(why) = targets.first().and_then(|target| account::stays_root(target.configuration)) {
        narrator.say(&why);
    }
    // Before any build, which might put something else there.
    let out = OutDirectory::of(&selection.out)?;
    let mut commits = Vec::new();
    for target in targets {
        commits.push(origin::commit(target.service, cancel).await?);
    }
    let mut prepared = Outcomes::default();
    for (((target, place), accounts), commit) in targets.iter().zip(places).zip(accounts).zip(commits) {
        out.is_still_there()?;
        let ground = Ground { place, accounts, commit, out: out.clone() };
        match Bench::prepare(target, ground, selection, narrator, cancel).await {
            // What is wrong in the configuration is wrong in each run.
            Err(error @ Error::Input(_)) => return Err(error),
            outcome => prepared.keep(target, &selection.options, Stage::Build, outcome, narrator)?,
        }
    }
    Ok(prepared)
}

/// Where each of them is measured.
///
/// # Errors
/// Fails if one must run natively and this machine is not of its platform.
pub(crate) fn places(targets: &[Target<'_>]) -> Result<Vec<Runner>> {
    targets.iter().map(|target| preflight::place(target.platform, target.runner)).collect()
}

/// The users of what a service runs.
fn users(target: &Target<'_>) -> Result<Accounts> {
    check_passed(target.service)?;
    secrets::learn(target.service);
    target.accounts()
}

/// A built service, and the other build that it is compared with, if there is one.
pub(crate) struct Pair<'run> {
    pub(crate) change: Bench<'run>,
    pub(crate) other: Option<Bench<'run>>,
    /// Of both builds together.
    pub(crate) again: Again,
}

/// Puts builds and the builds that they are compared with together. A service that lacks one of the two has a failure
/// already.
pub(crate) fn pairs<'run>(
    changes: Outcomes<Bench<'run>>,
    others: Option<Outcomes<Bench<'run>>>,
) -> Outcomes<Pair<'run>> {
    let mut failures = changes.failures;
    let Some(others) = others else {
        return Outcomes {
            done: changes
                .done
                .into_iter()
                .map(|change| Pair { change, other: None, again: Again::default() })
                .collect(),
            failures,
        };
    };
    failures.extend(others.failures);
    let key = |bench: &Bench<'_>| (bench.target.service.name.clone(), bench.target.platform);
    let mut others: BTreeMap<_, _> = others.done.into_iter().map(|other| (key(&other), other)).collect();
    let pair =
        |change| others.remove(&key(&change)).map(|other| Pair { change, other: Some(other), again: Again::default() });
    Outcomes { done: changes.done.into_iter().filter_map(pair).collect(), failures }
}

/// What is known of a target before anything of it is built.
struct Ground {
    place: Runner,
    accounts: Accounts,
    commit: Option<Commit>,
    out: OutDirectory,
}

/// A built service, ready to be measured.
pub(crate) struct Bench<'run> {
    pub(crate) target: &'run Target<'run>,
    pub(crate) executable: PathBuf,
    /// The users of what it runs.
    pub(crate) accounts: Accounts,
    pub(crate) out: &'run Path,
    pub(crate) out_directory: OutDirectory,
    pub(crate) collecting: Collecting,
    /// Of the command line; see [`Selection::options`].
    pub(crate) options: &'run [String],
    /// The commit that is checked out where the service is built, if there is one.
    pub(crate) commit: Option<Commit>,
    /// The guests, unless this machine itself runs the service.
    pub(crate) guests: Option<GuestRunner>,
}

impl<'run> Bench<'run> {
    async fn prepare(
        target: &'run Target<'run>,
        ground: Ground,
        selection: &'run Selection,
        narrator: &Narrator,
        cancel: &Cancel,
    ) -> Result<Self> {
        let Ground { place, accounts, commit, out: out_directory } = ground;
        let account = accounts.service.as_ref();
        let out = selection.out.as_path();
        let service = target.service;
        let executable = match &service.executable {
            Executable::Build(build) => {
                let by = account.map(|account| format!(" as {}", account.name)).unwrap_or_default();
                narrator.say(&format!("{}: building {}{by}", target.title(), build.package));
                let directory = std::path::absolute(out.join("build").join(target.platform.folder()))
                    .map_err(|error| cannot_write(out, error))?;
                make_directory(&directory)?;
                let mut build = build.clone();
                build.env.extend(target.options.build_env.clone());
                let tools = target.tools.as_deref().unwrap_or(&build.dir);
                let builder = Builder { tools, account, directory: &directory };
                builder.build(&build, target.platform, &service.name, cancel).await?
            }
            Executable::Binary(binaries) => existing(binaries, target)?,
        };
        let mut say = |line: &str| narrator.say(&format!("{}: {line}", target.platform));
        let guests = match place {
            Runner::Native => None,
            Runner::Qemu => {
                Some(GuestRunner::prepare(target.platform, &target.options, selection.snapshots, cancel, &mut say)?)
            }
        };
        let bench = Self {
            target,
            executable,
            accounts,
            out,
            out_directory,
            collecting: selection.collecting,
            options: &selection.options,
            commit,
            guests,
        };
        bench.guests.as_ref().map_or(Ok(()), |guests| guests.check(&bench.plan(1)))?;
        Ok(bench)
    }

    /// The plan of a run as the configuration has it, without what this machine adds.
    pub(crate) fn planned(&self, run: u32) -> Plan {
        self.target.plan(run, self.executable.clone(), self.collecting)
    }

    /// The plan of a run, with the user and the variables of this machine.
    pub(crate) fn plan(&self, run: u32) -> Plan {
        let service = self.target.service;
        let mut plan = self.planned(run);
        pass(&service.run.pass_env, &mut plan.env);
        if let Load::Command(command) = &mut plan.load {
            pass(&service.load_pass_env, &mut command.env);
        }
        let Accounts { service: account, sidecars, before } = self.accounts.clone();
        for ((planned, sidecar), account) in plan.sidecars.iter_mut().zip(&service.sidecars).zip(sidecars) {
            pass(&sidecar.pass_env, &mut planned.env);
            planned.account = account;
        }
        for ((planned, configured), account) in plan.before.iter_mut().zip(&service.before).zip(before) {
            pass(&configured.pass_env, &mut planned.env);
            planned.account = account;
        }
        Plan { account, secrets: secrets::all(), ..plan }
    }
}

/// Checks the variables that are passed on. A plan is text.
fn check_passed(service: &Service) -> Result<()> {
    for (key, name) in passed(service) {
        if std::env::var_os(name).is_some_and(|value| value.to_str().is_none()) {
            let message = format!("services.{}.{key}.pass_env: the value of {name} is not UTF-8", service.name);
            return Err(InputError::new(message, "set the variable to text, or leave it out").into());
        }
    }
    Ok(())
}

/// The names of the variables that are passed on to what a service runs, each with the key that has `pass_env`.
fn passed(service: &Service) -> impl Iterator<Item = (String, &String)> {
    let of = |key: String, names| std::iter::repeat(key).zip(names);
    let of_sidecars =
        service.sidecars.iter().flat_map(move |sidecar| of(format!("sidecars.{}", sidecar.name), &sidecar.pass_env));
    let before = service.before.iter().enumerate();
    let of_before = before.flat_map(move |(index, before)| of(format!("before[{index}]"), &before.pass_env));
    of("run".to_owned(), &service.run.pass_env)
        .chain(of("load".to_owned(), &service.load_pass_env))
        .chain(of_sidecars)
        .chain(of_before)
}

/// Adds those of memgate's own variables to an environment that are named and set. What the configuration sets stays.
fn pass(names: &[String], to: &mut BTreeMap<String, String>) {
    for name in names {
        if let Ok(value) = std::env::var(name) {
            to.entry(name.clone()).or_insert(value);
        }
    }
}

fn existing(binaries: &BTreeMap<Platform, PathBuf>, target: &Target<'_>) -> Result<PathBuf> {
    binaries.get(&target.platform).cloned().ok_or_else(|| {
        let message =
            format!("services.{}.binary: no executable is named for {}", target.service.name, target.platform);
        InputError::new(message, format!("add `{}: PATH`, or leave the platform out", target.platform)).into()
    })
}

pub(crate) fn make_directory(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).map_err(|error| cannot_write(directory, error))
}

pub(crate) fn cannot_write(path: &Path, source: std::io::Error) -> Error {
    OutputError::Path { path: path.to_owned(), option: "--out", source }.into()
}
