//! New figures, one after the other, with a person who decides.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::BufRead,
    path::{Path, PathBuf},
};

use memgate_config::baseline::{self, Accepted, Change};
use memgate_evidence::error::{InputError, Result};
use memgate_verdict::{
    baseline::Baseline,
    judge,
    metric::{Limits, Metric},
    summarise::Summary,
    units,
};

use super::{File, Recorded, line, read, replace, summaries, today, write_all};

/// Asks about each figure in the evidence that differs from the recorded one, and about each file that does not exist
/// yet. Writes what was accepted of a file when all its questions are answered; everything else stays. The end of
/// `input` ends the review, and the file at hand stays as it is.
///
/// # Errors
/// When evidence or a file cannot be used, which is before the first question; when a file changes meanwhile; and when
/// questions or answers are lost.
pub(crate) fn review(
    recorded: &Recorded<'_>,
    input: &mut dyn BufRead,
    say: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    let summaries = summaries(recorded)?;
    let proposals: Vec<Proposal<'_>> =
        summaries.iter().map(|summary| Proposal::of(summary, recorded.directory)).collect::<Result<_>>()?;
    let mut desk = Desk { input, say };
    for proposal in &proposals {
        let decision = match &proposal.what {
            What::Figures(figures) => figures.review(proposal.summary, &mut desk)?,
            What::New(text) => review_new(&proposal.path, text, &mut desk)?,
        };
        match decision {
            Decision::Next => {}
            Decision::Quit => {
                desk.tell("The rest stays as it is.\n")?;
                break;
            }
        }
    }
    Ok(())
}

/// Whether the review goes on.
enum Decision {
    Next,
    Quit,
}

/// What the evidence makes of one file.
struct Proposal<'a> {
    path: PathBuf,
    summary: &'a Summary,
    what: What,
}

enum What {
    Figures(Box<Figures>),
    /// The text of a file that does not exist.
    New(String),
}

/// New figures in a file that exists.
struct Figures {
    file: File,
    before: Baseline,
    /// The file with all of them.
    all: Accepted,
    after: Baseline,
    /// Why some cannot be accepted without the others.
    misfit: Option<String>,
}

impl<'a> Proposal<'a> {
    fn of(summary: &'a Summary, directory: &Path) -> Result<Self> {
        let (platform, service) = (summary.platform, summary.baseline.as_str());
        let path = baseline::path(directory, platform, service);
        let Some(file) = read(directory, platform, service)? else {
            let text = baseline::render(summary, &today(), Limits::General)?;
            return Ok(Self { path, summary, what: What::New(text) });
        };
        let all = baseline::accept(&path, &file.text, summary, &today(), &BTreeSet::new())?;
        let [before, after] = [&file.text, &all.text].map(|text| baseline::parse(&path, text, platform, service));
        let (before, after) = (before?, after?);
        let misfit = judge::misfit(summary, &before);
        let figures = Figures { file, before, all, after, misfit };
        Ok(Self { path, summary, what: What::Figures(Box::new(figures)) })
    }
}

impl Figures {
    fn review(&self, summary: &Summary, desk: &mut Desk<'_>) -> Result<Decision> {
        let (path, changes) = (self.file.path.display(), &self.all.changes);
        let figures = if changes.len() == 1 { "figure differs" } else { "figures differ" };
        desk.tell(&format!("{path}: {} {figures}\n", changes.len()))?;
        for (metric, reason) in &self.all.kept {
            desk.tell(&format!("  {metric}: stays, because it was not measured: {reason}\n"))?;
        }
        if changes.is_empty() && self.misfit.is_none() {
            return Ok(Decision::Next);
        }
        let accepted = match self.ask(summary, desk)? {
            Asked::Accepted(metrics) => metrics,
            Asked::Skipped => {
                desk.tell(&format!("{path}: it stays as it is\n"))?;
                return Ok(Decision::Next);
            }
            Asked::Quit => return Ok(Decision::Quit),
        };
        let is_all = accepted.len() == changes.len();
        if accepted.is_empty() && !changes.is_empty() {
            desk.tell(&format!("{path}: it stays as it is\n"))?;
            return Ok(Decision::Next);
        }
        let text = match is_all {
            true => self.all.text.clone(),
            false => baseline::accept(&self.file.path, &self.file.text, summary, &today(), &accepted)?.text,
        };
        replace([(&self.file, text.as_str())].into_iter())?;
        desk.tell(&format!("{path}: {} of {} accepted\n", accepted.len(), changes.len()))?;
        Ok(Decision::Next)
    }

    /// Asks about each change, or once about all if the runs do not fit the file.
    fn ask(&self, summary: &Summary, desk: &mut Desk<'_>) -> Result<Asked> {
        let mut accepted = BTreeSet::new();
        if let Some(misfit) = &self.misfit {
            for change in &self.all.changes {
                desk.tell(&self.question(change, summary))?;
            }
            desk.tell(&format!("  These figures go together: {misfit}\n"))?;
            return Ok(match desk.ask("all of them")? {
                Answer::Accept => Asked::Accepted(self.all.changes.iter().map(|change| change.metric).collect()),
                Answer::Reject | Answer::Skip => Asked::Skipped,
                Answer::Quit => Asked::Quit,
            });
        }
        for change in &self.all.changes {
            desk.tell(&self.question(change, summary))?;
            match desk.ask(change.metric.name())? {
                Answer::Accept => {
                    accepted.insert(change.metric);
                }
                Answer::Reject => {}
                Answer::Skip => return Ok(Asked::Skipped),
                Answer::Quit => return Ok(Asked::Quit),
            }
        }
        Ok(Asked::Accepted(accepted))
    }

    /// What changes, and what a gate would notice with the old figure and the new one.
    fn question(&self, change: &Change, summary: &Summary) -> String {
        let Change { metric, before, after } = *change;
        let unit = metric.unit();
        let tighter = if after < before { ", tighter" } else { "" };
        let mut text = format!("  {}{tighter} [{}]\n", line(metric, before, after), unit.name());
        let notices = |baseline: &Baseline| {
            judge::notices(metric, summary, baseline).map_or_else(|| "nothing".to_owned(), |at| units::format(at, unit))
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    a gate notices: {} -> {}", notices(&self.before), notices(&self.after));
        text
    }
}

/// What came of the questions about one file.
enum Asked {
    Accepted(BTreeSet<Metric>),
    Skipped,
    Quit,
}

/// Asks whether to write a file that does not exist.
fn review_new(path: &Path, text: &str, desk: &mut Desk<'_>) -> Result<Decision> {
    desk.tell(&format!("{}: a new file\n", path.display()))?;
    // The head explains the keys, and the reader knows them.
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        desk.tell(&format!("  {line}\n"))?;
    }
    match desk.ask("this file")? {
        Answer::Accept => {
            if path.exists() {
                let message = format!("{}: another program wrote it meanwhile, and nothing is written", path.display());
                return Err(InputError::new(message, "run the command again").into());
            }
            write_all([(path, text)].into_iter())?;
            desk.tell(&format!("{}: it is written\n", path.display()))?;
            Ok(Decision::Next)
        }
        Answer::Reject | Answer::Skip => {
            desk.tell(&format!("{}: it is not written\n", path.display()))?;
            Ok(Decision::Next)
        }
        Answer::Quit => Ok(Decision::Quit),
    }
}

/// What a person says to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Accept,
    Reject,
    Skip,
    Quit,
}

/// Where questions go and answers come from.
struct Desk<'a> {
    input: &'a mut dyn BufRead,
    say: &'a mut dyn FnMut(&str) -> Result<()>,
}

impl Desk<'_> {
    fn tell(&mut self, text: &str) -> Result<()> {
        (self.say)(text)
    }

    /// Asks until there is an answer.
    fn ask(&mut self, about: &str) -> Result<Answer> {
        loop {
            self.tell(&format!("    {about}: [a]ccept [r]eject [s]kip file [q]uit? "))?;
            let mut answer = String::new();
            let length = self.input.read_line(&mut answer).map_err(|error| {
                InputError::new(format!("stdin: the answer cannot be read: {error}"), "answer with a, r, s or q")
            })?;
            if length == 0 {
                self.tell("\n")?;
                return Ok(Answer::Quit);
            }
            match answer.trim().to_lowercase().as_str() {
                "a" | "accept" => return Ok(Answer::Accept),
                "r" | "reject" => return Ok(Answer::Reject),
                "s" | "skip" => return Ok(Answer::Skip),
                "q" | "quit" => return Ok(Answer::Quit),
                _ => self.tell("    Answer with a, r, s or q.\n")?,
            }
        }
    }
}
