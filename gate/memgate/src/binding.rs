//! Checks that evidence that is judged together is evidence of one thing, and of exactly the runs that it must have.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use memgate_evidence::{
    Evidence,
    error::{Error, InputError, Result, Stage},
    platform::Platform,
};
use memgate_verdict::judge;

use crate::{
    origin,
    select::{Selection, Target},
};

/// An evidence file that was read.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) file: PathBuf,
    pub(crate) evidence: Evidence,
}

/// Evidence files by service and platform.
pub(crate) type Runs = BTreeMap<(String, Platform), Vec<Run>>;

/// Checks that the runs of one service on one platform are of one executable, one plan and one commit, or of one such
/// build and one other, which has the same plan.
///
/// # Errors
/// When two files differ. The message names them and what differs. Also when the evidence compares with several builds.
pub(crate) fn agree(runs: &[Run]) -> Result<()> {
    let Some(first) = runs.first() else { return Ok(()) };
    let names: BTreeSet<_> = runs.iter().filter_map(|run| run.evidence.against.as_deref()).collect();
    if names.len() > 1 {
        let Evidence { service, platform, .. } = &first.evidence;
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        let message = format!("{service} on {platform}: the evidence compares with several builds: {names}");
        return Err(InputError::new(message, "name the evidence of one comparison").into());
    }
    for build in [false, true] {
        let mut of_build = runs.iter().filter(|run| run.evidence.against.is_some() == build);
        let Some(of_first) = of_build.next() else { continue };
        of_build.try_for_each(|other| same(of_first, other, |run| told(run, true)))?;
    }
    runs.iter().try_for_each(|other| same(first, other, |run| told(run, false)))
}

/// What a file says of its origin, each with its name: the plan alone, or with what each build has of its own.
fn told(run: &Run, is_of_one_build: bool) -> Vec<(&'static str, String)> {
    let Some(origin) = &run.evidence.origin else {
        return vec![("origin", "none, as an earlier memgate wrote it".to_owned())];
    };
    let commit = origin.commit.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    let own = [("executable", origin.executable.clone()), ("commit", commit)];
    let plan = ("plan", origin.plan.clone());
    [("origin", "known".to_owned()), plan].into_iter().chain(own.into_iter().filter(|_| is_of_one_build)).collect()
}

fn same(one: &Run, other: &Run, told: impl Fn(&Run) -> Vec<(&'static str, String)>) -> Result<()> {
    let (of_one, of_other) = (told(one), told(other));
    let Some(((what, one_has), (_, other_has))) = of_one.iter().zip(&of_other).find(|(one, other)| one != other) else {
        return Ok(());
    };
    let message = format!(
        "{} and {} are not evidence of one thing: the {what} of the first is {one_has}, and that of the second is \
         {other_has}; runs that are judged together must agree",
        one.file.display(),
        other.file.display()
    );
    Err(InputError::new(message, "judge them separately, or measure all runs again with one command").into())
}

/// Checks that the runs of one service on one platform are 1 to N, each once, and those of another build the same.
///
/// # Errors
/// When a run is there twice, or when one is missing.
pub(crate) fn are_whole(runs: &[Run]) -> Result<()> {
    let last = runs.iter().map(|run| run.evidence.run).max().unwrap_or(0);
    for of_other in [false, true] {
        let of_build: Vec<&Run> = runs.iter().filter(|run| run.evidence.against.is_some() == of_other).collect();
        if of_build.is_empty() {
            continue;
        }
        let present = numbers(&of_build)?;
        let Some(run) = (1..=last).find(|run| !present.contains(run)) else { continue };
        let (first, Evidence { service, platform, .. }) = (of_build[0], &of_build[0].evidence);
        let message = format!(
            "{service} on {platform}: the evidence of run {run} is missing beside {} ({last} runs)",
            first.file.display()
        );
        return Err(InputError::new(message, "name the evidence of every run, or the directory that has it").into());
    }
    Ok(())
}

/// The numbers of the runs of one build.
fn numbers(runs: &[&Run]) -> Result<BTreeSet<u32>> {
    let mut by_number: BTreeMap<u32, &Path> = BTreeMap::new();
    for Run { file, evidence } in runs {
        let Evidence { service, platform, run, .. } = evidence;
        if *run == 0 {
            let help = "name evidence as `memgate record` wrote it";
            return Err(too_much(
                file,
                format!("runs count from 1, and this is run 0 of {service} on {platform}"),
                help,
            ));
        }
        if let Some(twin) = by_number.insert(*run, file) {
            let message =
                format!("{} and {} are both run {run} of {service} on {platform}", twin.display(), file.display());
            let help = "name each evidence file once, and only files of one command";
            return Err(InputError::new(message, help).into());
        }
    }
    Ok(by_number.into_keys().collect())
}

/// Checks that the evidence is that of the targets: of each exactly the runs that it must have, by the plan and for the
/// baseline that the configuration has, and nothing else.
///
/// # Errors
/// Fails with [`Error::Input`], which names the file, if there is a run too much or of something else, and with
/// [`Error::Infrastructure`] if runs are missing.
pub(crate) fn are_planned(evidence: &Runs, targets: &[Target<'_>], selection: &Selection) -> Result<()> {
    let mut missing = Vec::new();
    for target in targets {
        let runs = evidence.get(&(target.service.name.clone(), target.platform)).map_or(&[][..], Vec::as_slice);
        for run in runs {
            is_of_target(run, target, selection)?;
        }
        let wanted = wanted(runs, target)?;
        let mut present: BTreeSet<u32> = (1..=wanted).collect();
        for of_other in [false, true].into_iter().take(if selection.against.is_some() { 2 } else { 1 }) {
            let of_build: Vec<&Run> = runs.iter().filter(|run| run.evidence.against.is_some() == of_other).collect();
            let numbers = numbers(&of_build)?;
            present.retain(|run| numbers.contains(run));
        }
        let what = if selection.against.is_some() { "runs of both builds" } else { "runs" };
        if present.len() < usize::try_from(wanted).unwrap_or(usize::MAX) {
            missing.push(format!("{}: {} of {wanted} {what}", target.title(), present.len()));
        }
    }
    let is_planned = |(service, platform): &(String, Platform)| {
        targets.iter().any(|target| (&target.service.name, target.platform) == (service, *platform))
    };
    if let Some((target, runs)) = evidence.iter().find(|(target, _)| !is_planned(target)) {
        let (service, platform) = target;
        let what = format!("{service} on {platform} is not among what is to be judged");
        let help = "name it with --service and --platform, or leave its evidence out";
        return Err(too_much(&runs[0].file, what, help));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("evidence is missing: {}", missing.join("; "));
    let help = "find out why the job of that platform wrote none, or name the other platforms with --platform";
    Err(Error::infrastructure(Stage::Collect, message, help))
}

/// How many runs there must be: as many as are configured or, if `memgate check` added some, as many as it had at its
/// next look.
fn wanted(runs: &[Run], target: &Target<'_>) -> Result<u32> {
    let most = target.max_runs();
    let last = runs.iter().map(|run| run.evidence.run).max().unwrap_or(0);
    let next = |runs: &u32| judge::next_look(*runs).filter(|look| *look <= most);
    let looks: Vec<u32> = std::iter::successors(Some(target.runs), next).collect();
    if let Some(wanted) = looks.iter().find(|look| **look >= last) {
        return Ok(*wanted);
    }
    let longest = looks.last().copied().unwrap_or(target.runs);
    let extra: Vec<&Run> = runs.iter().filter(|run| run.evidence.run > longest).collect();
    let file = extra.iter().map(|run| &run.file).min().map_or(Path::new(""), PathBuf::as_path);
    let what = format!(
        "{} has {longest} runs at most, and there are {} with higher numbers, up to run {last}",
        target.title(),
        extra.len()
    );
    Err(too_much(
        file,
        what,
        "give --runs as the command that measured had it, or leave the evidence of other runs out",
    ))
}

/// Checks that the run is of the build, the baseline and the plan of the target.
fn is_of_target(run: &Run, target: &Target<'_>, selection: &Selection) -> Result<()> {
    let Run { file, evidence } = run;
    let (service, platform) = (&target.service.name, target.platform);
    if let (Some(against), None) = (&evidence.against, &selection.against) {
        let what = format!("it is of {against}, and {service} on {platform} is not compared with another build");
        return Err(too_much(file, what, "give --against as the command that measured had it, or leave the file out"));
    }
    let expected = &target.service.baseline;
    if evidence.baseline != *expected {
        let what = format!(
            "it is to be judged by the baseline {}, and the configuration has {expected} for {service}",
            evidence.baseline
        );
        return Err(too_much(file, what, "measure it again with this configuration"));
    }
    let planned = origin::hash(&target.plan(1, PathBuf::new(), selection.collecting));
    match &evidence.origin {
        Some(origin) if origin.plan != planned => {
            let what = format!(
                "it was measured by the plan {}, and the configuration has {planned} for {service} on {platform}",
                origin.plan
            );
            let help =
                "judge with the configuration and the options (--tier, --force-probes) of the command that measured";
            Err(too_much(file, what, help))
        }
        Some(_) | None => Ok(()),
    }
}

fn too_much(file: &Path, what: String, help: &str) -> Error {
    InputError::new(format!("{}: this evidence is not wanted: {what}", file.display()), help).into()
}
