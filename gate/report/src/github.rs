//! Annotations of GitHub Actions, and the step summary.

use memgate_verdict::{
    results::{Report, ServiceResult, Verdict},
    summarise::SourceLocation,
};

use super::{Style, markdown, text, view};

/// How many annotations of a level GitHub shows for a step. It drops the rest silently
/// (actions/toolkit/docs/problem-matchers.md, "Limitations").
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

    /// Errors make memgate's exit code other than 0.
    const fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Regressed | Verdict::Inconclusive | Verdict::NoBaseline => Self::Error,
            Verdict::Advisory => Self::Warning,
            Verdict::Improved | Verdict::Pass => Self::Notice,
        }
    }
}

/// One annotation a line. Services that could not be judged come first, then gates that are not a plain pass, worst
/// first, then the notes of results that do not hold. If there is nothing to report, a notice shows that memgate ran.
pub(super) fn render(report: &Report, _style: Style) -> String {
    let mut annotations: Vec<_> = view::failed(report).iter().map(of_failed).collect();
    annotations.extend(view::all_findings(report).iter().map(of_finding));
    annotations.extend(report.results.iter().filter(|result| result.verdict.exit_code() != 0).map(of_notes));
    if annotations.is_empty() {
        annotations.push(of_a_pass(report));
    }
    Level::ALL.into_iter().map(|level| lines(level, &annotations)).collect()
}

/// The text for the file that `$GITHUB_STEP_SUMMARY` names, in Markdown. The caller appends it.
pub fn step_summary(report: &Report) -> String {
    markdown::render(report, Style::default())
}

/// An annotation before it is escaped.
struct Annotation<'a> {
    level: Level,
    /// Its place in the repository.
    place: Option<&'a SourceLocation>,
    title: String,
    message: String,
}

fn of_failed<'a>(failed: &view::Failed) -> Annotation<'a> {
    let lines = [&failed.reason].into_iter().chain(&failed.details).chain([&failed.repeat]);
    Annotation {
        level: Level::Error,
        place: None,
        title: format!("{}: {} {}", failed.subject, failed.stage, view::FAILED),
        message: lines.cloned().collect::<Vec<_>>().join("\n"),
    }
}

fn of_finding<'a>(finding: &view::Finding<'a>) -> Annotation<'a> {
    let lines = [finding.reason.clone()].into_iter().chain(finding.gate.map(view::figures));
    let lines = lines.chain(finding.sites.iter().cloned()).chain(finding.repeat.clone());
    Annotation {
        level: Level::of(finding.verdict),
        place: finding.gate.and_then(view::annotated),
        title: format!("{}: {} {}", finding.subject, finding.name, finding.verdict.name()),
        message: lines.collect::<Vec<_>>().join("\n"),
    }
}

/// What the reader must know about a result that does not hold.
fn of_notes<'a>(result: &ServiceResult) -> Annotation<'a> {
    let title = format!("{}: notes", view::subject(result));
    let message = [view::trust(result), view::notes(result)].join("\n");
    Annotation { level: Level::Notice, place: None, title, message: message.trim_end().to_owned() }
}

/// Says that memgate ran, and what it judged.
fn of_a_pass<'a>(report: &Report) -> Annotation<'a> {
    let trust = report.results.iter().map(|result| format!("{}: {}", view::subject(result), view::trust(result)));
    let message = [view::counts(report)].into_iter().chain(trust).collect::<Vec<_>>().join("\n");
    let title = format!("memgate: {}", view::outcome(report));
    Annotation { level: Level::Notice, place: None, title, message }
}

/// The annotations of one level.
fn lines(level: Level, annotations: &[Annotation<'_>]) -> String {
    let annotations: Vec<&Annotation<'_>> = annotations.iter().filter(|annotation| annotation.level == level).collect();
    // The last place says how many are left out.
    let shown = if annotations.len() > SHOWN { SHOWN - 1 } else { annotations.len() };
    let mut text: String = annotations.iter().take(shown).map(|annotation| line(annotation)).collect();
    if annotations.len() > shown {
        let more = format!(
            "{} more than GitHub shows; the step summary and the other formats list all of them.",
            view::counted(annotations.len() - shown, "finding")
        );
        text.push_str(&line(&Annotation { level, place: None, title: "memgate".to_owned(), message: more }));
    }
    text
}

fn line(annotation: &Annotation<'_>) -> String {
    let place = annotation
        .place
        .map(|place| format!("file={},line={},", escape_property(&text::visible(&place.file)), place.line));
    format!(
        "::{} {}title={}::{}\n",
        annotation.level.name(),
        place.unwrap_or_default(),
        escape_property(&annotation.title),
        escape_data(&annotation.message)
    )
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
