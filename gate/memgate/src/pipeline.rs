//! The whole pipeline: select → prepare (build, images) → measure (launch, load, collect) → judge (summarise, compare,
//! report).

use std::path::{Path, PathBuf};

use memgate_agent::cancel::Cancel;
use memgate_config::{Config, Service, baseline};
use memgate_evidence::error::Result;
use memgate_files::names;
use memgate_report::locate;
use memgate_verdict::{
    judge,
    metric::Metric,
    results::{Need, Report, ServiceResult, worst},
};

use crate::{
    baselines::Baselines,
    binding,
    failures::Outcomes,
    judging::{flame_graphs, judge_runs, judged, judged_without_baseline, read_runs, report, together},
    leftovers,
    measure::{Recorded, alone, side_by_side},
    narrator::Narrator,
    prepare::{Pair, make_directory, pairs, prepare},
    revision::{CHECKOUT, Revision},
    select::{Against, Selection, targets},
};

/// Measures and judges. If a gate cannot be decided, measures more fresh processes, up to the service's `max_runs`. A
/// service that cannot be built, measured or judged has a failure in the report; the others have their results.
///
/// # Errors
/// When the configuration is wrong or this machine lacks something, which memgate finds before anything runs, and when
/// it is interrupted.
pub async fn check(
    config: &Config,
    selection: &Selection,
    baselines: &Baselines,
    narrator: &Narrator,
    cancel: &Cancel,
) -> Result<Report> {
    // Baselines are read first: a broken one should not cost the time of the runs.
    for target in &targets(config, selection)? {
        baseline::load(baselines.directory(), target.platform, &target.service.baseline)?;
    }
    let check = async |pair: &Pair<'_>| {
        let recorded = until_decided(pair, narrator, cancel, |recorded| judged(recorded, baselines)).await?;
        judge_runs(&recorded, baselines, &selection.out)
    };
    let judged = measured(config, selection, narrator, cancel, check).await?;
    Ok(report(judged.done, judged.failures))
}

/// Measures fresh processes until every gate of the result is decided, or up to the service's `max_runs`.
async fn until_decided(
    pair: &Pair<'_>,
    narrator: &Narrator,
    cancel: &Cancel,
    judged: impl Fn(&Recorded) -> Result<ServiceResult>,
) -> Result<Recorded> {
    let target = pair.change.target;
    let mut runs = target.runs;
    let mut recorded = pair.measure(1..=runs, narrator, cancel).await?;
    loop {
        let result = judged(&recorded)?;
        let Some(more) = judge::more_runs(&result).filter(|more| *more <= target.max_runs()) else { break };
        narrator.say(&format!("{}: measuring {}", target.title(), undecided(&result, more - runs)));
        recorded.extend(pair.measure(runs + 1..=more, narrator, cancel).await?);
        runs = more;
    }
    Ok(recorded)
}

/// Measures two commits in turn, and judges the differences between them by no baseline: of this metric, or of all.
///
/// # Errors
/// When the configuration is wrong, when a commit cannot be checked out or has no such service, and when memgate is
/// interrupted.
pub(crate) async fn compare(
    config: &Config,
    selection: &Selection,
    metric: Option<Metric>,
    narrator: &Narrator,
    cancel: &Cancel,
) -> Result<Outcomes<ServiceResult>> {
    let differences = |recorded: &Recorded| {
        let mut result = judged_without_baseline(recorded)?;
        result.gates.retain(|gate| gate.against.is_some() && metric.is_none_or(|metric| metric == gate.metric));
        result.verdict = worst(result.gates.iter().map(|gate| gate.verdict));
        Ok(result)
    };
    let compare = async |pair: &Pair<'_>| {
        let recorded = until_decided(pair, narrator, cancel, differences).await?;
        let mut result = differences(&recorded)?;
        // The commit's sources lie in its worktree.
        let sources = std::path::absolute(selection.out.join(COMMIT).join(CHECKOUT)).ok();
        if let Some(root) = sources.as_deref().and_then(Path::to_str) {
            locate(&mut result, root);
        }
        Ok(result)
    };
    measured(config, selection, narrator, cancel, compare).await
}

/// The option that names the other build.
const AGAINST: &str = "--against";

/// The directory below `out` for the commit whose build is judged.
const COMMIT: &str = "commit";

/// Prepares what is selected, with the other build if the selection names one, and runs the work for each service.
pub(crate) async fn measured<T>(
    config: &Config,
    selection: &Selection,
    narrator: &Narrator,
    cancel: &Cancel,
    work: impl AsyncFn(&Pair<'_>) -> Result<T>,
) -> Result<Outcomes<T>> {
    leftovers::remove_runs(config, selection)?;
    let targets = targets(config, selection)?;
    // A build beside another memgate's measurement would disturb that one too.
    let _alone = alone(&targets, selection, narrator, cancel).await?;
    let check_out = async |option, words: &str, out: &Path| {
        make_directory(out)?;
        Revision::find(option, words, &config.file, out, cancel).await?.with_submodules(option, cancel).await?.sealed()
    };
    let services = |revision: &Revision| -> Result<Vec<Service>> {
        targets.iter().map(|target| revision.service(target.service)).collect()
    };
    let commit = match &selection.commit {
        None => None,
        Some(words) => Some(check_out("the commit", words, &selection.out.join(COMMIT)).await?),
    };
    let changed = commit.as_ref().map(services).transpose()?;
    let changes: Vec<_> = match &changed {
        None => targets.iter().map(|target| target.with(target.service, None)).collect(),
        Some(services) => targets.iter().zip(services).map(|(target, service)| target.with(service, None)).collect(),
    };
    let Some(words) = &selection.against else {
        let prepared = prepare(&changes, selection, narrator, cancel).await?;
        return side_by_side(pairs(prepared, None), narrator, work).await;
    };
    let of_other = Selection { out: selection.out.join(names::AGAINST), ..selection.clone() };
    let revision = check_out(AGAINST, words, &of_other.out).await?;
    let against = Against { name: revision.name.clone(), note: revision.note.clone() };
    let services = services(&revision)?;
    let others: Vec<_> =
        targets.iter().zip(&services).map(|(target, other)| target.with(other, Some(against.clone()))).collect();
    let changes = prepare(&changes, selection, narrator, cancel).await?;
    let others = prepare(&others, &of_other, narrator, cancel).await?;
    side_by_side(pairs(changes, Some(others)), narrator, work).await
}

/// `2 more fresh processes, which may decide heap_live_growth and rss_peak`.
fn undecided(result: &ServiceResult, more: u32) -> String {
    let open = result.gates.iter().filter(|gate| gate.needs == Some(Need::MoreRuns));
    let names: Vec<_> = open.map(|gate| gate.metric.name()).collect();
    let noun = if more == 1 { "process" } else { "processes" };
    format!("{more} more fresh {noun}, which may decide {}", names.join(", "))
}

/// Measures, draws flame graphs, and returns the evidence files of each service. Fails like [`check`].
///
/// # Errors
/// The same.
pub async fn record(
    config: &Config,
    selection: &Selection,
    narrator: &Narrator,
    cancel: &Cancel,
) -> Result<Outcomes<Vec<PathBuf>>> {
    let record = async |pair: &Pair<'_>| {
        let runs = 1..=pair.change.target.runs;
        let recorded = pair.measure(runs.clone(), narrator, cancel).await?;
        let written = flame_graphs(&selection.out, &recorded);
        let pictures = written.files.iter().map(|file| file.display().to_string());
        for line in pictures.chain(written.notes) {
            narrator.say(&format!("{}: {line}", pair.change.target.title()));
        }
        Ok(pair.files(runs))
    };
    measured(config, selection, narrator, cancel, record).await
}

/// Judges recorded evidence, which has every run of each command, and writes its flame graphs into a directory below
/// `out`.
///
/// # Errors
/// When a run is missing or is there twice, or when evidence or a baseline cannot be used.
pub fn judge(files: &[PathBuf], baselines: &Baselines, out: &Path) -> Result<Report> {
    let runs = read_runs(files)?;
    runs.values().try_for_each(|runs| binding::are_whole(runs))?;
    let evidence = together(runs)?;
    let results = evidence.values().map(|runs| judge_runs(runs, baselines, out)).collect::<Result<Vec<_>>>()?;
    Ok(report(results, Vec::new()))
}

/// Judges evidence that several jobs recorded, and checks that it is exactly what was planned: every run of every
/// selected service on every selected platform, and nothing else.
///
/// # Errors
/// When a run is missing or too much, when one is of another plan or for another baseline, or when evidence or a
/// baseline cannot be used.
pub fn merge(config: &Config, selection: &Selection, baselines: &Baselines, files: &[PathBuf]) -> Result<Report> {
    let runs = read_runs(files)?;
    binding::are_planned(&runs, &targets(config, selection)?, selection)?;
    let evidence = together(runs)?;
    let out = &selection.out;
    let results = evidence.values().map(|runs| judge_runs(runs, baselines, out)).collect::<Result<Vec<_>>>()?;
    Ok(report(results, Vec::new()))
}
