//! New figures without a person: what got tighter goes into the file, and what got looser is told.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use memgate_config::baseline::{self, Accepted};
use memgate_evidence::{error::Result, platform::Platform};
use memgate_report::shell_word;
use memgate_verdict::{
    baseline::{Baseline, Waiver},
    judge::{self, Explained, Step},
    metric::Metric,
    summarise::Summary,
};

use super::{File, Recorded, check_waiver, line, no_baseline, read, replace, summaries, today};

/// What an update did.
#[derive(Debug)]
pub(crate) struct Updated {
    /// What has changed and what has not, for the reader.
    pub(crate) text: String,
    /// Whether a figure got looser and nobody has answered for it.
    pub(crate) is_looser: bool,
}

/// Puts the figures of the evidence that are lower by more than noise into the baseline files. A figure that is higher
/// by more than the difference that matters never goes in. With a waiver, its metric gets that one, unless it is
/// advisory or has one that still holds. Either all files are written or, if one is wrong, none.
///
/// # Errors
/// When the waiver says nothing or ends in the past, when there is no baseline or the runs do not fit it, when the
/// service fails its requests, when a file cannot be changed, or when it changes meanwhile.
pub(crate) fn update(recorded: &Recorded<'_>, waiver: Option<&Waiver>) -> Result<Updated> {
    waiver.map_or(Ok(()), check_waiver)?;
    let of_file = |summary: &Summary| OfFile::of(summary, recorded.directory, waiver);
    let files: Vec<OfFile> = summaries(recorded)?.iter().map(of_file).collect::<Result<_>>()?;
    let changed = files.iter().filter(|one| one.text != one.file.text);
    replace(changed.map(|one| (&one.file, one.text.as_str())))?;
    let mut text: String = files.iter().map(|one| one.told.as_str()).collect();
    let looser: Vec<&OfFile> = files.iter().filter(|one| !one.looser.is_empty()).collect();
    if !looser.is_empty() {
        text.push_str(&commands(&looser, files.len() == 1, recorded));
    }
    Ok(Updated { text, is_looser: !looser.is_empty() })
}

/// The update of one file.
struct OfFile {
    /// The service of the evidence, and its platform.
    of: (String, Platform),
    file: File,
    /// Its new text.
    text: String,
    told: String,
    /// The metrics that got looser and that nobody has answered for.
    looser: Vec<Metric>,
}

impl OfFile {
    fn of(summary: &Summary, directory: &Path, waiver: Option<&Waiver>) -> Result<Self> {
        let Some(file) = read(directory, summary.platform, &summary.baseline)? else {
            return Err(no_baseline(directory, summary.platform, &summary.baseline));
        };
        let before = baseline::parse(&file.path, &file.text, summary.platform, &summary.baseline)?;
        let steps = Steps::of(summary, &before);
        let tighter = baseline::tighten(&file.path, &file.text, summary, &steps.tighter)?;
        let of = (summary.service.clone(), summary.platform);
        let mut one = Self { of, told: told(&file.path, &tighter), text: tighter.text, file, looser: Vec::new() };
        for (metric, reason) in &steps.kept {
            // Writing to a string cannot fail.
            let _ = writeln!(one.told, "  {metric}: stays, because it was not measured: {reason}");
        }
        for &(metric, explained) in &steps.looser {
            one.looser(metric, explained, summary, &before, waiver)?;
        }
        Ok(one)
    }

    /// Tells of a metric that got looser, and gives it the waiver if there is one for it.
    fn looser(
        &mut self,
        metric: Metric,
        explained: Explained,
        summary: &Summary,
        before: &Baseline,
        waiver: Option<&Waiver>,
    ) -> Result<()> {
        let expectation = &before.metrics[&metric];
        let figures = expectation.baseline.zip(summary.pooled(metric).ok());
        let step = figures.map_or(String::new(), |(recorded, now)| line(metric, recorded, now.measured));
        let noise = match explained {
            Explained::ByNothing => "",
            Explained::ByNoise => ", though noise may explain it",
            Explained::ByTheDay => ", though the day may explain it",
        };
        let running = expectation.waiver.as_ref().filter(|waiver| waiver.expires >= today());
        let then = match (running, waiver) {
            _ if expectation.advisory || explained == Explained::ByTheDay => {
                "it stays, and its gate is only advisory".to_owned()
            }
            (Some(running), _) => format!("it stays, waived until {} by {}", running.expires, running.owner),
            (None, Some(waiver)) => {
                let place = (summary.platform, summary.baseline.as_str());
                self.text = baseline::waive(&self.file.path, &self.text, place, metric, waiver)?;
                format!("it stays, and is waived until {} from now on", waiver.expires)
            }
            (None, None) => {
                self.looser.push(metric);
                "it stays".to_owned()
            }
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.told, "  {step}{noise}: {then}");
        Ok(())
    }
}

/// How each recorded figure of a baseline stands beside the runs.
#[derive(Default)]
struct Steps {
    tighter: BTreeSet<Metric>,
    /// With what may explain them.
    looser: Vec<(Metric, Explained)>,
    /// Not measured, with the reason.
    kept: Vec<(Metric, String)>,
}

impl Steps {
    fn of(summary: &Summary, before: &Baseline) -> Self {
        let mut steps = Self::default();
        for metric in Metric::ALL {
            match judge::step(metric, summary, before) {
                None | Some(Ok(Step::Within)) => {}
                Some(Ok(Step::Tighter)) => {
                    steps.tighter.insert(metric);
                }
                Some(Ok(Step::Looser(explained))) => steps.looser.push((metric, explained)),
                Some(Err(unavailable)) => steps.kept.push((metric, unavailable.reason)),
            }
        }
        steps
    }
}

/// The figures that got tighter.
fn told(path: &Path, tighter: &Accepted) -> String {
    let changes = &tighter.changes;
    let figures = if changes.len() == 1 { "figure is" } else { "figures are" };
    let mut text = format!("{}: {} {figures} tighter\n", path.display(), changes.len());
    for change in changes {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {}", line(change.metric, change.before, change.after));
    }
    text
}

/// The commands that take what got looser, or let it fail for a while: one for each of several files, because others may
/// not have its metrics.
fn commands(looser: &[&OfFile], is_only_file: bool, recorded: &Recorded<'_>) -> String {
    let word = |path: &Path| shell_word(&path.display().to_string());
    let evidence: Vec<String> = recorded.evidence.iter().map(|path| word(path)).collect();
    let on = format!("{} --baselines {}", evidence.join(" "), word(recorded.directory));
    let lines = |verb: &str, rest: &dyn Fn(&OfFile) -> String| {
        let line = |one: &&OfFile| {
            let (service, platform) = &one.of;
            let which = match is_only_file {
                true => String::new(),
                false => format!(" --service {} --platform {platform}", shell_word(service)),
            };
            format!("  memgate baseline {verb} {on}{which}{}\n", rest(one))
        };
        looser.iter().map(line).collect::<String>()
    };
    let metrics = |one: &OfFile| one.looser.iter().map(|metric| format!(" --metric {metric}")).collect();
    let waiver = |_: &OfFile| " --reason TEXT --owner WHO --expires DAY".to_owned();
    format!(
        "What got looser stays as it is. To take it after a review:\n{}To let its gates fail for a while:\n{}",
        lines("accept", &metrics),
        lines("update", &waiver)
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Another process writes between the reading and the writing.
    #[test]
    fn files_that_changed_meanwhile_are_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            File { path, text: text.to_owned() }
        };
        let files = [file("a.yaml", "one"), file("b.yaml", "one")];
        fs::write(&files[1].path, "two").unwrap();
        let error = replace(files.iter().map(|file| (file, "three"))).unwrap_err();
        assert!(error.to_string().ends_with("b.yaml: it changed while memgate read it, and nothing is written"));
        let texts = files.each_ref().map(|file| fs::read_to_string(&file.path).unwrap());
        assert_eq!(texts, ["one", "two"]);
        fs::write(&files[1].path, "one").unwrap();
        replace(files.iter().map(|file| (file, "three"))).unwrap();
        assert_eq!(fs::read_to_string(&files[1].path).unwrap(), "three");
    }
}
