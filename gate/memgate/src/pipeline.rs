//! The whole pipeline: select → prepare (build, images) → measure (launch, load, collect) → judge (summarise, compare,
//! report).

use std::path::{Path, PathBuf};

use memgate_agent::cancel::Cancel;
use memgate_config::{Config, baseline};
use memgate_evidence::error::{Error, Result, Stage};
use memgate_files::names;
use memgate_verdict::{
    judge,
    results::{Need, Report, ServiceResult},
};

use crate::{
    baselines::Baselines,
    failures::Outcomes,
    judging::{flame_graphs, judge_runs, judged, read_evidence, report},
    measure::side_by_side,
    narrator::Narrator,
    prepare::{Pair, make_directory, pairs, prepare},
    revision::Revision,
    select::{Selection, targets},
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
        let target = pair.change.target;
        let mut runs = target.runs;
        let mut recorded = pair.measure(1..=runs, narrator, cancel).await?;
        loop {
            let result = judged(&recorded, baselines)?;
            let Some(more) = judge::more_runs(&result).filter(|more| *more <= target.max_runs()) else { break };
            narrator.say(&format!("{}: measuring {}", target.title(), undecided(&result, more - runs)));
            recorded.extend(pair.measure(runs + 1..=more, narrator, cancel).await?);
            runs = more;
        }
        judge_runs(&recorded, baselines, &selection.out)
    };
    let judged = measured(config, selection, narrator, cancel, check).await?;
    Ok(report(judged.done, judged.failures))
}

/// The option that names the other build.
const AGAINST: &str = "--against";

/// Prepares what is selected, with the other build if the selection names one, and runs the work for each service.
pub(crate) async fn measured<T>(
    config: &Config,
    selection: &Selection,
    narrator: &Narrator,
    cancel: &Cancel,
    work: impl AsyncFn(&Pair<'_>) -> Result<T>,
) -> Result<Outcomes<T>> {
    let targets = targets(config, selection)?;
    let Some(words) = &selection.against else {
        let prepared = prepare(&targets, selection, narrator, cancel).await?;
        return side_by_side(pairs(prepared, None), narrator, work).await;
    };
    let of_other = Selection { out: selection.out.join(names::AGAINST), ..selection.clone() };
    make_directory(&of_other.out)?;
    let revision = Revision::find(AGAINST, words, &config.file, &of_other.out, cancel).await?;
    let revision = revision.with_submodules(AGAINST, cancel).await?;
    let services: Vec<_> = targets.iter().map(|target| revision.service(target.service)).collect::<Result<_>>()?;
    let others: Vec<_> = targets.iter().zip(&services).map(|(target, other)| target.of(other, &revision)).collect();
    let changes = prepare(&targets, selection, narrator, cancel).await?;
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

/// Judges recorded evidence and writes its flame graphs into a directory below `out`.
///
/// # Errors
/// When evidence or a baseline cannot be used.
pub fn judge(files: &[PathBuf], baselines: &Baselines, out: &Path) -> Result<Report> {
    let evidence = read_evidence(files)?;
    let results = evidence.values().map(|runs| judge_runs(runs, baselines, out)).collect::<Result<Vec<_>>>()?;
    Ok(report(results, Vec::new()))
}

/// Judges evidence that several jobs recorded, and checks that it is complete: every run of every selected service on
/// every selected platform.
///
/// # Errors
/// When a run is missing, or when evidence or a baseline cannot be used.
pub fn merge(config: &Config, selection: &Selection, baselines: &Baselines, files: &[PathBuf]) -> Result<Report> {
    let evidence = read_evidence(files)?;
    let missing: Vec<_> = targets(config, selection)?
        .iter()
        .filter_map(|target| {
            let recorded = evidence.get(&(target.service.name.clone(), target.platform));
            let runs = recorded.map_or(0, |recorded| match selection.against {
                None => recorded.runs.len(),
                Some(_) => recorded.runs.len().min(recorded.others.len()),
            });
            let wanted = usize::try_from(target.runs).unwrap_or(usize::MAX);
            let what = if selection.against.is_some() { "runs of both builds" } else { "runs" };
            (runs < wanted).then(|| format!("{}: {runs} of {wanted} {what}", target.title()))
        })
        .collect();
    if !missing.is_empty() {
        let message = format!("evidence is missing: {}", missing.join("; "));
        let help = "find out why the job of that platform wrote none, or name the other platforms with --platform";
        return Err(Error::infrastructure(Stage::Collect, message, help));
    }
    let out = &selection.out;
    let results = evidence.values().map(|runs| judge_runs(runs, baselines, out)).collect::<Result<Vec<_>>>()?;
    Ok(report(results, Vec::new()))
}
