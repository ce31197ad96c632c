//! Anchors: the recorded figures at a release.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use memgate_config::baseline;
use memgate_evidence::{
    error::{InputError, Result},
    platform::Platform,
};
use memgate_verdict::{baseline::Baseline, metric::Metric, units};

use super::{File, baselines, read, replace};

/// Which figures to pin.
#[derive(Debug, Default)]
pub(crate) struct Which {
    /// The services, as their files are named; all if there are none.
    pub(crate) services: Vec<String>,
    /// The platforms; all if there are none.
    pub(crate) platforms: Vec<Platform>,
    /// The metrics; all if there are none.
    pub(crate) metrics: BTreeSet<Metric>,
}

/// Pins the recorded figures in the baseline files as anchors, and returns what has changed as text. Either all files
/// are written or, if one is wrong, none.
///
/// # Errors
/// When there is no such file, when a metric that is named has no recorded figure in one, when a file cannot be
/// changed, or when it changes meanwhile.
pub(crate) fn anchor(which: &Which, directory: &Path) -> Result<String> {
    let Which { services, platforms, metrics } = which;
    let is_wanted = |service: &str| services.is_empty() || services.iter().any(|wanted| wanted == service);
    let on_platform = |baseline: &Baseline| platforms.is_empty() || platforms.contains(&baseline.platform);
    let of_services = baselines(directory, is_wanted)?.into_iter().map(|(_, baseline)| baseline);
    let mut wanted: Vec<Baseline> = of_services.filter(on_platform).collect();
    check_found(which, &wanted, directory)?;
    // A file that is named must have the metrics. Of all files, those that have one of them are meant.
    if services.is_empty() && !metrics.is_empty() {
        if let Some(metric) = metrics.iter().find(|metric| wanted.iter().all(|baseline| !has(baseline, metric))) {
            let message = format!("{}: no baseline has a recorded figure of {metric}", directory.display());
            return Err(InputError::new(message, "record it first, or name another metric").into());
        }
        wanted.retain(|baseline| metrics.iter().any(|metric| has(baseline, metric)));
    }
    let mut files: Vec<(File, String)> = Vec::new();
    let mut told = String::new();
    for baseline in &wanted {
        let Some(file) = read(directory, baseline.platform, &baseline.service)? else { continue };
        let place = (baseline.platform, baseline.service.as_str());
        let asked = metrics.iter().filter(|metric| !services.is_empty() || has(baseline, metric)).copied().collect();
        let pinned = baseline::anchor(&file.path, &file.text, place, &asked)?;
        let anchors = if pinned.changes.len() == 1 { "anchor" } else { "anchors" };
        // Writing to a string cannot fail.
        let _ = writeln!(told, "{}: {} {anchors} changed", file.path.display(), pinned.changes.len());
        for pin in &pinned.changes {
            let [before, after] = [pin.before, Some(pin.after)]
                .map(|figure| figure.map(|figure| units::format(figure, pin.metric.unit())));
            let _ = writeln!(
                told,
                "  {}: {} -> {}",
                pin.metric,
                before.unwrap_or_else(|| "none".to_owned()),
                after.unwrap_or_default()
            );
        }
        files.push((file, pinned.text));
    }
    replace(files.iter().filter(|(file, text)| *text != file.text).map(|(file, text)| (file, text.as_str())))?;
    Ok(told)
}

fn has(baseline: &Baseline, metric: &Metric) -> bool {
    baseline.metrics.get(metric).is_some_and(|expectation| expectation.baseline.is_some())
}

/// Checks that each service and each platform that is named has a file.
fn check_found(which: &Which, wanted: &[Baseline], directory: &Path) -> Result<()> {
    let directory = directory.display();
    let no_service = which.services.iter().find(|service| wanted.iter().all(|baseline| baseline.service != **service));
    let no_platform =
        which.platforms.iter().find(|platform| wanted.iter().all(|baseline| baseline.platform != **platform));
    let message = match (no_service, no_platform) {
        (Some(service), _) => format!("{service} has no such baseline in {directory}"),
        (None, Some(platform)) => format!("{platform} has no such baseline in {directory}"),
        (None, None) if wanted.is_empty() => format!("{directory}: there are no baseline files"),
        (None, None) => return Ok(()),
    };
    let help = "name the directory with --baselines, and the service as its file is named";
    Err(InputError::new(message, help).into())
}
