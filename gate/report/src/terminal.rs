//! Tables for a person at a terminal or in a log.

use comfy_table::{Cell, CellAlignment, Color, ColumnConstraint, ContentArrangement, Table, presets};
use memgate_verdict::results::{GateResult, Report, ServiceResult, Verdict};

use super::{Style, text, view};

/// The width of the longest verdict name, `inconclusive`, columns.
const VERDICT_WIDTH: usize = 12;

/// Every line starts with one of memgate's own words, so no name can pass for a workflow command of a CI system.
pub(super) fn render(report: &Report, style: Style) -> String {
    let mut lines = Vec::new();
    for result in &report.results {
        service(result, style, &mut lines);
        lines.push(String::new());
    }
    if let Some(finding) = view::unexplained_report(report) {
        lines.push(format!("{}  {}", verdict(finding.verdict, style), finding.reason));
    }
    for failed in view::failed(report) {
        lines.push(format!("{}  {}: {}", name(view::FAILED, RED, style), failed.subject, failed.reason));
        lines.extend(failed.details.iter().map(|line| format!("  {line}")));
        lines.push(format!("repeat: {}", failed.repeat));
        lines.push(String::new());
    }
    let memgate = text::visible(&report.memgate);
    let outcome = report.verdict.map_or_else(|| name(view::FAILED, RED, style), |worst| verdict(worst, style));
    lines.push(format!("memgate {memgate}: {outcome} ({})", view::counts(report)));
    lines.join("\n") + "\n"
}

fn service(result: &ServiceResult, style: Style, lines: &mut Vec<String>) {
    let environment = &result.environment;
    lines.push(format!(
        "{}  {} ({}, {}, {})",
        verdict(result.verdict, style),
        view::subject(result),
        text::visible(&environment.go),
        text::visible(environment.runner.name()),
        view::runs(result)
    ));
    let (beside, own): (Vec<_>, Vec<_>) = result.gates.iter().partition(|gate| gate.against.is_some());
    if !own.is_empty() {
        lines.extend(table(&own, &["limit", "baseline"], style).lines());
    }
    if let Some(against) = view::against(result) {
        lines.push(format!("against: {against}, measured in turn, {} each", view::runs(result)));
        lines.extend(table(&beside, &["other build"], style).lines());
    }
    for finding in view::findings(result) {
        let padding = " ".repeat(VERDICT_WIDTH.saturating_sub(finding.verdict.name().len()));
        lines.push(format!("{}{padding}  {}: {}", verdict(finding.verdict, style), finding.name, finding.reason));
        let indent = |(index, line): (usize, &String)| format!("{}{line}", if index == 0 { "  " } else { "    " });
        lines.extend(finding.sites.iter().enumerate().map(indent));
    }
    lines.push(format!("trust: {}", view::trust(result)));
    lines.push(format!("baseline: {}", view::baseline(result)));
    lines.extend(result.notes.iter().map(|note| format!("note: {}", text::visible(note))));
    lines.extend(result.files.iter().map(|file| format!("file: {}", text::visible(file))));
    lines.push(format!("repeat: {}", view::repeat_command(result)));
}

/// The table of some gates. `compared` are the titles of what they are compared with.
fn table(gates: &[&GateResult], compared: &[&str], style: Style) -> Table {
    let mut table = Table::new();
    // Box-drawing characters have no fixed width: a terminal set to Chinese may draw them two columns wide.
    table.load_style(presets::ASCII_FULL_CONDENSED);
    table.force_no_tty();
    if style.colour {
        table.enforce_styling();
    }
    table.set_header([&["gate"], compared, &["measured", "notices", "verdict"]].concat());
    for gate in gates {
        table.add_row(row(gate));
    }
    for column in table.column_iter_mut().skip(1).take(compared.len() + 2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    if let Some(width) = style.width {
        fit(&mut table, width, compared.len() + 3);
    }
    table
}

/// Wraps figures before names if the width is too small for both. `verdict` is the last column.
fn fit(table: &mut Table, width: u16, verdict: usize) {
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width).set_truncation_indicator("...");
    for (column, least) in [(verdict, 40), (0, 80)] {
        if let Some(column) = table.column_mut(column).filter(|_| width >= least) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
}

fn row(gate: &GateResult) -> Vec<Cell> {
    // Another build has no limits.
    let limit = gate.against.is_none().then(|| view::figure(gate.limit, gate.unit));
    let figures = [view::figure(gate.baseline, gate.unit), view::measured(gate), view::figure(gate.noticed, gate.unit)];
    [gate.metric.name().to_owned()]
        .into_iter()
        .chain(limit)
        .chain(figures)
        .map(Cell::new)
        .chain([Cell::new(gate.verdict.name()).fg(colour(gate.verdict))])
        .collect()
}

const fn colour(verdict: Verdict) -> Color {
    match verdict {
        Verdict::Pass | Verdict::Improved => Color::DarkGreen,
        Verdict::Advisory | Verdict::NoBaseline | Verdict::Inconclusive => Color::DarkYellow,
        Verdict::Regressed => Color::DarkRed,
    }
}

/// The code of red in ANSI X3.64 (SGR).
const RED: u8 = 31;

/// The verdict's name in the colours of the table.
fn verdict(verdict: Verdict, style: Style) -> String {
    let code = match verdict {
        Verdict::Pass | Verdict::Improved => 32,
        Verdict::Advisory | Verdict::NoBaseline | Verdict::Inconclusive => 33,
        Verdict::Regressed => RED,
    };
    name(verdict.name(), code, style)
}

/// A name in the colour with this code of ANSI X3.64 (SGR).
fn name(name: &str, code: u8, style: Style) -> String {
    if style.colour { format!("\x1b[1;{code}m{name}\x1b[0m") } else { name.to_owned() }
}
