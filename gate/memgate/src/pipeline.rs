//! The pipeline on one screen: plan → build → launch → load → collect (all in [`agent::run`]) → summarise → judge.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use memgate_agent::{self as agent, cancel::Cancel};
use memgate_config::{Config, Executable, PlatformOptions, Service, baseline};
use memgate_evidence::{
    Evidence,
    error::{Error, InputError, Result, Stage},
    plan::{Collecting, Plan},
    platform::{Platform, Runner},
};
use memgate_files::evidence_file;
use memgate_report::{self as report, FlameGraphFiles};
use memgate_verdict::{
    baseline::Baseline,
    judge,
    results::{self, Report, ServiceResult},
    summarise::{Summary, summarise},
};

use crate::{
    gobuild,
    guests::{self, Guests},
    narrator::Narrator,
    preflight,
};

/// What is to be measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Names of services; empty for all.
    pub services: Vec<String>,
    /// Platforms; none twice.
    pub platforms: Vec<Platform>,
    /// Natively or in a guest, instead of what the configuration says.
    pub runner: Option<Runner>,
    /// How many fresh processes each, instead of what the configuration says.
    pub runs: Option<u32>,
    /// How the services are measured.
    pub collecting: Collecting,
    /// Whether guests may be resumed from snapshots.
    pub snapshots: bool,
    /// The directory that receives executables, evidence and logs.
    pub out: PathBuf,
}

/// Measures, and judges what was measured: one more fresh process confirms what looks like a regression in a single one.
///
/// # Errors
/// When a run cannot be made or something cannot be written.
pub async fn check(config: &Config, selection: &Selection, narrator: &Narrator, cancel: &Cancel) -> Result<Report> {
    let targets = targets(config, selection)?;
    // Read first: a broken baseline should not cost the time of the runs.
    for target in &targets {
        baseline::load(&config.baselines, target.platform, &target.service.baseline)?;
    }
    let check = async |bench: &Bench<'_>| {
        let runs = bench.target.runs;
        let mut evidence = bench.measure(1..=runs, narrator, cancel).await?;
        let (summary, baseline) = compared(&evidence, &config.baselines)?;
        if judge::needs_confirmation(&summary, baseline.as_ref()) {
            narrator.say(&format!("{}: a gate looks bad; a fresh process is to confirm it", bench.target.title()));
            evidence.extend(bench.measure(runs + 1..=runs + 1, narrator, cancel).await?);
        }
        judge_runs(&evidence, &config.baselines, &selection.out)
    };
    let benches = prepare(&targets, selection, narrator, cancel).await?;
    Ok(report(side_by_side(&benches, check).await?))
}

/// Builds each service and makes the images of its guests, before any is measured: what fails, fails before time is spent on runs, and
/// no build runs beside a measurement.
async fn prepare<'run>(
    targets: &'run [Target<'run>],
    selection: &'run Selection,
    narrator: &Narrator,
    cancel: &Cancel,
) -> Result<Vec<Bench<'run>>> {
    let mut benches = Vec::new();
    for target in targets {
        benches.push(Bench::prepare(target, selection, narrator, cancel).await?);
    }
    Ok(benches)
}

/// Does the work for each bench, and gives the results in some order: one after the other on this machine itself, where they would
/// measure each other, and then as many guests at once as this machine has processors for.
async fn side_by_side<'run, T>(
    benches: &[Bench<'run>],
    work: impl AsyncFn(&Bench<'run>) -> Result<T>,
) -> Result<Vec<T>> {
    let (guests, native): (Vec<_>, Vec<_>) = benches.iter().partition(|bench| bench.guests.is_some());
    let mut done = Vec::new();
    for bench in native {
        done.push(work(bench).await?);
    }
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let widest = guests.iter().map(|bench| guests::processors(&bench.target.options)).max().unwrap_or(1);
    let at_once = (processors / usize::try_from(widest).unwrap_or(usize::MAX).max(1)).max(1);
    // Where one fails the others are dropped, and their guests end.
    let guests = stream::iter(guests).map(|bench| work(bench)).buffered(at_once).try_collect::<Vec<_>>().await?;
    done.extend(guests);
    Ok(done)
}

/// Measures, draws flame graphs, and gives the files of the evidence.
///
/// # Errors
/// When a run cannot be made or something cannot be written.
pub async fn record(
    config: &Config,
    selection: &Selection,
    narrator: &Narrator,
    cancel: &Cancel,
) -> Result<Vec<PathBuf>> {
    let record = async |bench: &Bench<'_>| {
        let runs = bench.target.runs;
        let evidence = bench.measure(1..=runs, narrator, cancel).await?;
        let written = flame_graphs(&selection.out, &evidence);
        let pictures = written.files.iter().map(|file| file.display().to_string());
        for line in pictures.chain(written.notes) {
            narrator.say(&format!("{}: {line}", bench.target.title()));
        }
        Ok((1..=runs).map(|run| bench.file(run)).collect::<Vec<_>>())
    };
    let targets = targets(config, selection)?;
    let benches = prepare(&targets, selection, narrator, cancel).await?;
    Ok(side_by_side(&benches, record).await?.concat())
}

/// Judges recorded evidence, and writes its flame graphs into a directory below `out`.
///
/// # Errors
/// When evidence or a baseline is unfit to read.
pub fn judge(files: &[PathBuf], baselines: &Path, out: &Path) -> Result<Report> {
    let evidence = read_evidence(files)?;
    let results = evidence.values().map(|runs| judge_runs(runs, baselines, out)).collect::<Result<Vec<_>>>()?;
    Ok(report(results))
}

/// Judges evidence that several jobs have recorded, and sees that none is missing: every service on every platform that is selected,
/// each of its runs.
///
/// # Errors
/// When a run is missing, or evidence or a baseline is unfit to read.
pub fn merge(config: &Config, selection: &Selection, files: &[PathBuf]) -> Result<Report> {
    let evidence = read_evidence(files)?;
    let missing: Vec<_> = targets(config, selection)?
        .iter()
        .filter_map(|target| {
            let runs = evidence.get(&(target.service.name.clone(), target.platform)).map_or(0, Vec::len);
            let wanted = usize::try_from(target.runs).unwrap_or(usize::MAX);
            (runs < wanted).then(|| format!("{}: {runs} of {wanted} runs", target.title()))
        })
        .collect();
    if !missing.is_empty() {
        let message = format!("evidence is missing: {}", missing.join("; "));
        let help = "see why the job of that platform wrote none, or leave the platform out with --platform";
        return Err(Error::infrastructure(Stage::Collect, message, help));
    }
    let out = &selection.out;
    let results = evidence.values().map(|runs| judge_runs(runs, &config.baselines, out)).collect::<Result<Vec<_>>>()?;
    Ok(report(results))
}

/// The jobs that measure the selection, one a platform, as the JSON that a workflow of GitHub's takes for a matrix:
/// `platform`, `name` for names of files and artifacts, and `runner`, `native` or `qemu` as on this machine.
///
/// # Errors
/// When a service is not in the configuration, or a platform is to run natively and is not this machine's.
pub fn github_matrix(config: &Config, selection: &Selection) -> Result<serde_json::Value> {
    let mut jobs = BTreeMap::new();
    for target in targets(config, selection)? {
        let runner = match preflight::place(target.platform, target.runner)? {
            Runner::Native => "native",
            Runner::Qemu => "qemu",
        };
        let (platform, name) = (target.platform.name(), target.platform.folder());
        jobs.insert(target.platform, serde_json::json!({ "platform": platform, "name": name, "runner": runner }));
    }
    Ok(serde_json::json!({ "include": jobs.into_values().collect::<Vec<_>>() }))
}

/// Reads evidence files, and those in directories, by service and platform.
///
/// # Errors
/// When there is none or one is unfit to read.
pub fn read_evidence(files: &[PathBuf]) -> Result<BTreeMap<(String, Platform), Vec<Evidence>>> {
    let mut by_target: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for file in evidence_files(files)? {
        let evidence = evidence_file::read(&file)?;
        by_target.entry((evidence.service.clone(), evidence.platform)).or_default().push(evidence);
    }
    Ok(by_target)
}

fn evidence_files(files: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for file in files {
        if !file.is_dir() {
            found.push(file.clone());
            continue;
        }
        let before = found.len();
        let entries = fs::read_dir(file).into_iter().flatten().flatten().map(|entry| entry.path());
        found.extend(entries.filter(|path| path.to_string_lossy().ends_with(evidence_file::SUFFIX)));
        found[before..].sort();
        if found.len() == before {
            let message = format!("{}: no file in this directory ends in {}", file.display(), evidence_file::SUFFIX);
            return Err(
                InputError::new(message, "name evidence files, or a directory that `memgate record` wrote to").into()
            );
        }
    }
    Ok(found)
}

fn judge_runs(runs: &[Evidence], baselines: &Path, out: &Path) -> Result<ServiceResult> {
    let (summary, baseline) = compared(runs, baselines)?;
    let mut result = judge::judge(&summary, baseline.as_ref());
    if let Some(root) = repository().as_deref().and_then(Path::to_str) {
        report::locate(&mut result, root);
    }
    let written = flame_graphs(out, runs);
    result.files = written.files.iter().map(|file| file.display().to_string()).collect();
    result.notes.extend(written.notes);
    Ok(result)
}

/// The root of the repository that memgate was called in: the nearest directory that holds `.git`, or else the one that it
/// was called in.
fn repository() -> Option<PathBuf> {
    let called_in = std::env::current_dir().ok()?;
    Some(called_in.ancestors().find(|directory| directory.join(".git").exists()).unwrap_or(&called_in).to_path_buf())
}

/// Writes the flame graphs. Where they cannot be written a note says so: the verdict holds without them.
fn flame_graphs(out: &Path, runs: &[Evidence]) -> FlameGraphFiles {
    report::write_flame_graphs(&out.join("flamegraphs"), runs)
        .unwrap_or_else(|error| FlameGraphFiles { files: Vec::new(), notes: vec![format!("no flame graphs: {error}")] })
}

/// The runs' metrics and the baseline that they are compared with.
fn compared(runs: &[Evidence], baselines: &Path) -> Result<(Summary, Option<Baseline>)> {
    let summary = summarise(runs)?;
    let baseline = baseline::load(baselines, summary.platform, &summary.baseline)?;
    Ok((summary, baseline))
}

/// The results in one order, whatever order they were measured or read in.
fn report(mut judged: Vec<ServiceResult>) -> Report {
    judged.sort_by(|a, b| (&a.service, a.platform).cmp(&(&b.service, b.platform)));
    Report {
        schema: results::SCHEMA,
        memgate: env!("CARGO_PKG_VERSION").to_owned(),
        judged_at: jiff::Timestamp::now().to_string(),
        verdict: results::worst(judged.iter().map(|result| result.verdict)),
        results: judged,
    }
}

/// One service on one platform.
struct Target<'config> {
    service: &'config Service,
    platform: Platform,
    options: PlatformOptions,
    runner: Option<Runner>,
    runs: u32,
}

impl Target<'_> {
    fn title(&self) -> String {
        format!("{} {}", self.service.name, self.platform)
    }
}

fn targets<'config>(config: &'config Config, selection: &Selection) -> Result<Vec<Target<'config>>> {
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
        })
    };
    Ok(selection.platforms.iter().copied().flat_map(on).collect())
}

/// A built service, ready to be measured.
struct Bench<'run> {
    target: &'run Target<'run>,
    executable: PathBuf,
    out: &'run Path,
    collecting: Collecting,
    /// Where the platform is not measured on this machine itself.
    guests: Option<Guests>,
}

impl<'run> Bench<'run> {
    async fn prepare(
        target: &'run Target<'run>,
        selection: &'run Selection,
        narrator: &Narrator,
        cancel: &Cancel,
    ) -> Result<Self> {
        let place = preflight::place(target.platform, target.runner)?;
        if place == Runner::Native {
            preflight::collectors(selection.collecting.tier)?;
        }
        let out = selection.out.as_path();
        make_directory(out)?;
        remove_old_runs(out, target)?;
        let executable = match &target.service.executable {
            Executable::Build(build) => {
                narrator.say(&format!("{}: building {}", target.title(), build.package));
                let directory = out.join("build").join(target.platform.folder());
                make_directory(&directory)?;
                let executable = std::path::absolute(directory.join(&target.service.name))
                    .map_err(|error| cannot_write(out, &error))?;
                let mut build = build.clone();
                build.env.extend(target.options.build_env.clone());
                gobuild::build(&build, target.platform, &executable, cancel).await?;
                executable
            }
            Executable::Binary(binaries) => existing(binaries, target)?,
        };
        let mut say = |line: &str| narrator.say(&format!("{}: {line}", target.platform));
        let guests = match place {
            Runner::Native => None,
            Runner::Qemu => Some(Guests::prepare(target.platform, &target.options, selection.snapshots, &mut say)?),
        };
        let bench = Self { target, executable, out, collecting: selection.collecting, guests };
        bench.guests.as_ref().map_or(Ok(()), |guests| guests.check(&bench.plan(1)))?;
        Ok(bench)
    }

    async fn measure(
        &self,
        runs: std::ops::RangeInclusive<u32>,
        narrator: &Narrator,
        cancel: &Cancel,
    ) -> Result<Vec<Evidence>> {
        let mut measured = Vec::new();
        for run in runs {
            let plan = self.plan(run);
            let title = format!("{} run {run}", self.target.title());
            let progress = |progress| narrator.progress(&title, progress);
            let evidence = match &self.guests {
                None => agent::run(&plan, &self.files(run), &progress, cancel).await?,
                Some(guests) => guests.run(&plan, &self.guest_files(run), &progress, cancel).await?,
            };
            evidence_file::write(&self.file(run), &evidence)?;
            // What is judged is what was written, so that judging the file again cannot differ.
            measured.push(evidence_file::read(&self.file(run))?);
        }
        Ok(measured)
    }

    fn plan(&self, run: u32) -> Plan {
        let plan = self.target.service.plan(self.target.platform, run, self.executable.clone());
        Plan { collecting: self.collecting, ..plan }
    }

    fn file(&self, run: u32) -> PathBuf {
        self.out.join(evidence_file::file_name(&self.target.service.name, self.target.platform, run))
    }

    fn files(&self, run: u32) -> agent::Files {
        agent::Files { service_log: self.log(run, "service"), load_log: self.log(run, "load") }
    }

    fn guest_files(&self, run: u32) -> guests::Files {
        guests::Files { service_log: self.log(run, "service"), console_log: self.log(run, "console") }
    }

    /// The log of this kind of the run.
    fn log(&self, run: u32, kind: &str) -> PathBuf {
        let stem = format!("{}.{}.run{run}", self.target.service.name, self.target.platform.folder());
        self.out.join(format!("{stem}.{kind}.log"))
    }
}

fn existing(binaries: &BTreeMap<Platform, PathBuf>, target: &Target<'_>) -> Result<PathBuf> {
    binaries.get(&target.platform).cloned().ok_or_else(|| {
        let message = format!("services.{}.binary: there is none for {}", target.service.name, target.platform);
        InputError::new(message, format!("add `{}: PATH`, or leave the platform out", target.platform)).into()
    })
}

pub(crate) fn make_directory(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).map_err(|error| cannot_write(directory, &error))
}

fn cannot_write(path: &Path, error: &std::io::Error) -> Error {
    let help = "give another directory with --out, or make room";
    Error::infrastructure(Stage::Output, format!("{}: {error}", path.display()), help)
}

/// Removes what an earlier command left of the same service and platform, so that no file of it is taken for one of this.
fn remove_old_runs(out: &Path, target: &Target<'_>) -> Result<()> {
    let prefix = format!("{}.{}.run", target.service.name, target.platform.folder());
    for entry in fs::read_dir(out).map_err(|error| cannot_write(out, &error))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            fs::remove_file(entry.path()).map_err(|error| cannot_write(&entry.path(), &error))?;
        }
    }
    Ok(())
}
