//! The whole pipeline: select → prepare (build, images) → measure (launch, load, collect) → judge (summarise, compare,
//! report).

use std::path::{Path, PathBuf};

use memgate_agent::cancel::Cancel;
use memgate_config::{Config, baseline};
use memgate_evidence::error::{Error, Result, Stage};
use memgate_verdict::{
    judge,
    results::{Need, Report, ServiceResult},
};

use crate::{
    failures::Outcomes,
    judging::{compared, flame_graphs, judge_runs, read_evidence, report},
    measure::side_by_side,
    narrator::Narrator,
    prepare::{Bench, prepare},
    select::{Selection, targets},
};

/// Measures and judges. If a gate cannot be decided, measures more fresh processes, up to the service's `max_runs`. A
/// service that cannot be built, measured or judged has a failure in the report; the others have their results.
///
/// # Errors
/// When the configuration is wrong or this machine lacks something, which memgate finds before anything runs, and when
/// it is interrupted.
pub async fn check(config: &Config, selection: &Selection, narrator: &Narrator, cancel: &Cancel) -> Result<Report> {
    let targets = targets(config, selection)?;
    // Baselines are read first: a broken one should not cost the time of the runs.
    for target in &targets {
        baseline::load(&config.baselines, target.platform, &target.service.baseline)?;
    }
    let check = async |bench: &Bench<'_>| {
        let mut runs = bench.target.runs;
        let mut evidence = bench.measure(1..=runs, narrator, cancel).await?;
        loop {
            let (summary, baseline) = compared(&evidence, &config.baselines)?;
            let result = judge::judge(&summary, baseline.as_ref());
            let Some(more) = judge::more_runs(&result).filter(|more| *more <= bench.target.max_runs()) else { break };
            narrator.say(&format!("{}: measuring {}", bench.target.title(), undecided(&result, more - runs)));
            evidence.extend(bench.measure(runs + 1..=more, narrator, cancel).await?);
            runs = more;
        }
        judge_runs(&evidence, &config.baselines, &selection.out)
    };
    let judged = side_by_side(prepare(&targets, selection, narrator, cancel).await?, narrator, check).await?;
    Ok(report(judged.done, judged.failures))
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
    side_by_side(prepare(&targets, selection, narrator, cancel).await?, narrator, record).await
}

/// Judges recorded evidence and writes its flame graphs into a directory below `out`.
///
/// # Errors
/// When evidence or a baseline cannot be used.
pub fn judge(files: &[PathBuf], baselines: &Path, out: &Path) -> Result<Report> {
    let evidence = read_evidence(files)?;
    let results = evidence.values().map(|runs| judge_runs(runs, baselines, out)).collect::<Result<Vec<_>>>()?;
    Ok(report(results, Vec::new()))
}

/// Judges evidence that several jobs recorded, and checks that it is complete: every run of every selected service on
/// every selected platform.
///
/// # Errors
/// When a run is missing, or when evidence or a baseline cannot be used.
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
        let help = "find out why the job of that platform wrote none, or name the other platforms with --platform";
        return Err(Error::infrastructure(Stage::Collect, message, help));
    }
    let out = &selection.out;
    let results = evidence.values().map(|runs| judge_runs(runs, &config.baselines, out)).collect::<Result<Vec<_>>>()?;
    Ok(report(results, Vec::new()))
}
