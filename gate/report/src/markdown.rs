//! GitHub-flavoured Markdown for a comment on a pull request. GitLab and Gitea can read it too.

use memgate_verdict::results::{GateResult, Report, ServiceResult, Verdict};

use super::{Style, text, view};

/// With this marker a job can find its earlier comment and replace it.
const MARKER: &str = "<!-- memgate -->";

pub(super) fn render(report: &Report, _style: Style) -> String {
    let mut blocks = vec![format!("{MARKER}\n## memgate: {}", view::outcome(report)), view::counts(report)];
    if let Some(finding) = view::unexplained_report(report) {
        blocks.push(format!("- **{}**: {}", finding.verdict.name(), escape(&finding.reason)));
    }
    blocks.extend(view::failed(report).iter().flat_map(failed));
    for result in &report.results {
        service(result, &mut blocks);
    }
    let (memgate, judged_at) = (text::visible(&report.memgate), text::visible(&report.judged_at));
    blocks.push(format!("memgate {}, judged at {}", escape(&memgate), escape(&judged_at)));
    blocks.join("\n\n") + "\n"
}

fn failed(failed: &view::Failed) -> [String; 3] {
    let nested: String = failed.details.iter().map(|line| format!("\n  - {}", escape(line))).collect();
    [
        format!("### {}: {}", escape(&failed.subject), view::FAILED),
        format!("- **{}** {}{nested}", view::FAILED, escape(&failed.reason)),
        format!("Repeat it locally: {}", code(&failed.repeat)),
    ]
}

fn service(result: &ServiceResult, blocks: &mut Vec<String>) {
    blocks.push(format!("### {}: {}", escape(&view::subject(result)), result.verdict.name()));
    let findings: Vec<_> = view::findings(result).iter().map(finding).collect();
    if !findings.is_empty() {
        blocks.push(findings.join("\n"));
    }
    let (beside, own): (Vec<_>, Vec<_>) = result.gates.iter().partition(|gate| gate.against.is_some());
    if !own.is_empty() {
        blocks.push(table(&own, &["limit", "baseline"]));
    }
    if let Some(against) = view::against(result) {
        blocks.push(format!("Against {}, measured in turn, {} each:", escape(&against), view::runs(result)));
        blocks.push(table(&beside, &["other build"]));
    }
    if !result.notes.is_empty() {
        let notes: Vec<_> = result.notes.iter().map(|note| format!("- {}", escape(&text::visible(note)))).collect();
        blocks.push(format!("Notes:\n\n{}", notes.join("\n")));
    }
    if !result.files.is_empty() {
        let files: Vec<_> = result.files.iter().map(|file| code(&text::visible(file))).collect();
        blocks.push(format!("Flame graphs: {}", files.join(", ")));
    }
    blocks.push(format!("Trust: {}", escape(&view::trust(result))));
    blocks.push(format!("Baseline: {}", escape(&view::baseline(result))));
    blocks.push(environment(result));
    blocks.push(format!("Repeat it locally: {}", code(&view::repeat_command(result))));
}

fn finding(finding: &view::Finding<'_>) -> String {
    let figures = finding.gate.map(|gate| format!(" ({})", escape(&view::figures(gate)))).unwrap_or_default();
    let nest =
        |(index, line): (usize, &String)| format!("\n{}- {}", if index == 0 { "  " } else { "    " }, escape(line));
    let sites: String = finding.sites.iter().enumerate().map(nest).collect();
    format!("- **{}** {}: {}{figures}{sites}", finding.verdict.name(), code(&finding.name), escape(&finding.reason))
}

/// The table of some gates. `compared` are the titles of what they are compared with.
fn table(gates: &[&GateResult], compared: &[&str]) -> String {
    let header = [&["gate"], compared, &["measured", "notices", "verdict"]].concat().join(" | ");
    let figures = "---: | ".repeat(compared.len() + 2);
    let rows: Vec<_> = gates.iter().map(|gate| row(gate)).collect();
    format!("| {header} |\n| --- | {figures}--- |\n{}", rows.join("\n"))
}

fn row(gate: &GateResult) -> String {
    let verdict = gate.verdict.name();
    // Another build has no limits.
    let limit = gate.against.is_none().then(|| view::figure(gate.limit, gate.unit));
    let figures = [view::figure(gate.baseline, gate.unit), view::measured(gate), view::figure(gate.noticed, gate.unit)];
    let figures = limit.into_iter().chain(figures).map(|figure| escape(&figure));
    let verdict = if gate.verdict == Verdict::Pass { verdict.to_owned() } else { format!("**{verdict}**") };
    let cells: Vec<_> = [code(gate.metric.name())].into_iter().chain(figures).chain([verdict]).collect();
    format!("| {} |", cells.join(" | "))
}

fn environment(result: &ServiceResult) -> String {
    let environment = &result.environment;
    let text = format!(
        "Environment: {}, kernel {}, {}, {}, {}, pages of {} bytes, transparent huge pages {}, {}, measured by memgate {}",
        environment.go,
        environment.kernel,
        environment.runner,
        environment.cpu,
        view::counted(usize::try_from(environment.cpus).unwrap_or(usize::MAX), "CPU"),
        environment.page_size,
        environment.thp,
        view::runs(result),
        environment.memgate,
    );
    let text = [text].into_iter().chain(view::build(environment)).collect::<Vec<_>>().join(", ");
    escape(&text::visible(&text))
}

/// Escapes text so that Markdown shows it unchanged, in a table too. The result is one line.
///
/// A zero-width space after `@` and `#` keeps GitHub from notifying people and linking issues. A backslash does not
/// help: GitHub looks at the finished page, which no longer contains it.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '@' | '#' => escaped.extend([character, '\u{200b}']),
            '\\' | '`' | '|' | '*' | '_' | '[' | ']' | '~' | '!' | '$' => escaped.extend(['\\', character]),
            other => escaped.push(other),
        }
    }
    escaped
}

/// A code span, with a fence longer than any run of backticks in it (CommonMark 0.31, 6.1). The result is one line. Not
/// for text with `|` in a table.
fn code(text: &str) -> String {
    let longest = text.split(|character| character != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    let space = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{space}{text}{space}{fence}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_markup() {
        assert_eq!(
            escape("a|b `c` <img> &amp; *x* _y_ \\"),
            "a\\|b \\`c\\` &lt;img&gt; &amp;amp; \\*x\\* \\_y\\_ \\\\"
        );
        assert_eq!(escape("[a](b) ![c]"), "\\[a\\](b) \\!\\[c\\]");
        assert_eq!(escape("@all #12"), "@\u{200b}all #\u{200b}12");
    }

    #[test]
    fn a_fence_is_longer_than_what_it_holds() {
        assert_eq!(code("plain"), "`plain`");
        assert_eq!(code("a``b"), "```a``b```");
        assert_eq!(code("`"), "`` ` ``");
    }
}
