//! Annotations of GitHub Actions, and its step summary.

use super::{Report, ServiceResult, markdown, view};
use crate::judge::Verdict;

/// How many annotations of a level GitHub shows for a step; it drops the rest without a word
/// (actions/toolkit, docs/problem-matchers.md, "Limitations").
const SHOWN: usize = 10;

/// A level of annotations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Error,
    Warning,
    Notice,
}

impl Level {
    const ALL: [Self; 3] = [Self::Error, Self::Warning, Self::Notice];

    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
        }
    }

    /// Errors are what makes memgate's exit code other than 0.
    const fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Regressed | Verdict::Inconclusive | Verdict::NoBaseline => Self::Error,
            Verdict::Advisory => Self::Warning,
            Verdict::Improved | Verdict::Pass => Self::Notice,
        }
    }
}

/// One annotation a line: for what is no plain pass, worst first; for the notes of a result that does not hold; and
/// a notice where there is nothing of the kind, so that the reader sees that the gate was there.
pub(super) fn render(report: &Report) -> String {
    let mut annotations: Vec<_> = view::all_findings(report).iter().map(of_finding).collect();
    annotations.extend(report.results.iter().filter(|result| result.verdict.exit_code() != 0).filter_map(of_notes));
    if annotations.is_empty() {
        let title = format!("memgate: {}", view::word(report.verdict));
        return line(Level::Notice, &title, &view::gate_counts(report));
    }
    Level::ALL.into_iter().map(|level| lines(level, &annotations)).collect()
}

/// The text for the file that `$GITHUB_STEP_SUMMARY` names; the caller appends it. It is the Markdown format.
pub fn step_summary(report: &Report) -> String {
    markdown::render(report)
}

/// An annotation before it is escaped.
struct Annotation {
    level: Level,
    title: String,
    message: String,
}

fn of_finding(finding: &view::Finding<'_>) -> Annotation {
    let figures = finding.gate.map(view::figures);
    let message: Vec<_> =
        [Some(&finding.reason), figures.as_ref(), finding.repeat.as_ref()].into_iter().flatten().cloned().collect();
    Annotation {
        level: Level::of(finding.verdict),
        title: format!("{}: {} {}", finding.subject, finding.name, view::word(finding.verdict)),
        message: message.join("\n"),
    }
}

fn of_notes(result: &ServiceResult) -> Option<Annotation> {
    let title = format!("{}: notes", view::subject(result));
    (!result.notes.is_empty()).then(|| Annotation { level: Level::Notice, title, message: view::notes(result) })
}

/// The annotations of one level.
fn lines(level: Level, annotations: &[Annotation]) -> String {
    let annotations: Vec<_> = annotations.iter().filter(|annotation| annotation.level == level).collect();
    // The last place tells of those that have none.
    let shown = if annotations.len() > SHOWN { SHOWN - 1 } else { annotations.len() };
    let mut text: String =
        annotations[..shown].iter().map(|annotation| line(level, &annotation.title, &annotation.message)).collect();
    if annotations.len() > shown {
        let more = format!(
            "{} more than GitHub shows; the step summary and the other formats list all of them.",
            view::counted(annotations.len() - shown, "finding")
        );
        text.push_str(&line(level, "memgate", &more));
    }
    text
}

fn line(level: Level, title: &str, message: &str) -> String {
    format!("::{} title={}::{}\n", level.name(), escape_property(title), escape_data(message))
}

/// `escapeData` of actions/toolkit, packages/core/src/command.ts.
fn escape_data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// `escapeProperty` of actions/toolkit, packages/core/src/command.ts.
fn escape_property(text: &str) -> String {
    escape_data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_as_the_toolkit_does() {
        assert_eq!(escape_data("50%\r\na:b,c %0A"), "50%25%0D%0Aa:b,c %250A");
        assert_eq!(escape_property("50%\r\na:b,c"), "50%25%0D%0Aa%3Ab%2Cc");
    }
}
