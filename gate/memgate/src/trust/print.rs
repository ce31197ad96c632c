//! The reports of `calibrate` and `selftest` for a person at a terminal or in a log.
//!
//! Every line starts with one of memgate's own words, so no name can pass for a workflow command of a CI system.

use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use memgate_verdict::{
    metric::{Metric, Unit},
    quoted,
    results::{ServiceFailure, Verdict},
    units,
};

use super::{
    calibrate::{self, Calibration, Rates},
    selftest::{self, Outcome, Planted, Selftest},
};

/// What stands in a cell without a figure, as in the other reports.
const NO_FIGURE: &str = "-";

impl calibrate::Report {
    /// Tables of the rates and of what the gates notice.
    pub fn text(&self) -> String {
        let mut lines: Vec<String> = self.results.iter().flat_map(calibration).collect();
        lines.extend(self.failures.iter().map(failure));
        let outcome = self.verdict.map_or("failed", Verdict::name);
        lines.push(format!("memgate {}: {outcome}", self.memgate));
        lines.join("\n") + "\n"
    }
}

impl selftest::Report {
    /// A table of the faults.
    pub fn text(&self) -> String {
        let mut lines: Vec<String> = self.results.iter().flat_map(selftest).collect();
        lines.extend(self.failures.iter().map(failure));
        let faults = || self.results.iter().flat_map(|result| &result.faults);
        let found = faults().filter(|planted| planted.outcome == Outcome::Found).count();
        lines.push(format!("memgate {}: {found} of {} faults found", self.memgate, faults().count()));
        lines.join("\n") + "\n"
    }
}

fn failure(failed: &ServiceFailure) -> String {
    let (service, platform) = (quoted::shorten(&failed.service), failed.platform);
    format!("failed: {service} on {platform}: {}", quoted::printable(&failed.failure.message, 400))
}

fn calibration(result: &Calibration) -> Vec<String> {
    let Calibration { service, platform, runner, go, processes, recorded, first, .. } = result;
    let mut lines = vec![
        format!(
            "{}: {} on {platform} ({}, {runner}, {processes} processes)",
            result.verdict.name(),
            quoted::shorten(service),
            quoted::shorten(go)
        ),
        format!(
            "baseline: {recorded} processes; gates: {}",
            match &result.gates_of {
                Some(file) => quoted::printable(&from_here(file).display().to_string(), 200),
                None => "default limits and tolerances".to_owned(),
            }
        ),
    ];
    let mut table = table(["checks", "number", "not green", "failed", "cut short", "rate at most", "processes each"]);
    table.add_row(rates("disjoint", &result.disjoint));
    if let Some(resampled) = &result.resampled {
        table.add_row(rates("resampled", resampled));
    }
    align(&mut table, 1..7);
    lines.extend(table.lines());
    let of_checks = [("disjoint", Some(&result.disjoint)), ("resampled", result.resampled.as_ref())];
    for (name, gate) in of_checks
        .iter()
        .flat_map(|(name, of)| of.iter().flat_map(move |of| of.gates.iter().map(move |gate| (name, gate))))
    {
        lines.push(format!(
            "not green: {} {} in {} of the {name} checks",
            gate.metric,
            gate.verdict.name(),
            gate.checks
        ));
    }
    lines.push(format!(
        "notices: what each gate would have noticed after {first} processes, in the worst disjoint check"
    ));
    let mut table = self::table(["gate", "measured", "notices", "above", "can fail"]);
    for power in &result.power {
        table.add_row([
            power.metric.name().to_owned(),
            figure(power.measured, power.unit),
            figure(power.noticed, power.unit),
            figure(power.share, Unit::Ratio),
            power.cannot_fail.as_ref().map_or("yes".to_owned(), |why| format!("no: {why}")),
        ]);
    }
    align(&mut table, 1..4);
    lines.extend(table.lines());
    lines.extend(result.notes.iter().map(|note| format!("note: {note}")));
    lines.push(String::new());
    lines
}

/// The file as one names it in the current directory.
fn from_here(file: &Path) -> &Path {
    std::env::current_dir().ok().and_then(|here| file.strip_prefix(here).ok()).unwrap_or(file)
}

fn rates(name: &str, rates: &Rates) -> [String; 7] {
    [
        name.to_owned(),
        rates.checks.to_string(),
        rates.not_green.to_string(),
        rates.regressed.to_string(),
        rates.cut_short.to_string(),
        figure(rates.not_green_at_most, Unit::Ratio),
        format!("{:.2}", rates.runs),
    ]
}

fn selftest(result: &Selftest) -> Vec<String> {
    let Selftest { service, platform, runner, go, runs, unedited, not_green, faults } = result;
    let mut lines = vec![format!(
        "selftest: {} on {platform} ({}, {runner}, {runs} processes)",
        quoted::shorten(service),
        quoted::shorten(go)
    )];
    let gates = not_green.iter().map(|metric: &Metric| metric.name()).collect::<Vec<_>>().join(", ");
    let of = if gates.is_empty() { String::new() } else { format!(": {gates}") };
    lines.push(format!("unedited: {}{of}", unedited.name()));
    let mut table = table(["fault", "size", "gate", "before", "after", "verdict", "outcome"]);
    for planted in faults {
        let Planted { fault, size, gate, unit, before, after, verdict, outcome, .. } = planted;
        table.add_row([
            (*fault).to_owned(),
            size.clone().unwrap_or_else(|| NO_FIGURE.to_owned()),
            gate.name().to_owned(),
            figure(*before, *unit),
            figure(*after, *unit),
            verdict.map_or(NO_FIGURE, Verdict::name).to_owned(),
            outcome.name().to_owned(),
        ]);
    }
    align(&mut table, 3..5);
    lines.extend(table.lines());
    let not_found = faults.iter().filter(|planted| planted.outcome != Outcome::Found);
    lines.extend(not_found.map(|planted| format!("{}: {}: {}", planted.outcome.name(), planted.gate, planted.reason)));
    lines.push(String::new());
    lines
}

fn table<const COLUMNS: usize>(head: [&str; COLUMNS]) -> Table {
    let mut table = Table::new();
    // Box-drawing characters have no fixed width: a terminal set to Chinese may draw them two columns wide.
    table.load_style(presets::ASCII_FULL_CONDENSED);
    table.force_no_tty();
    table.set_header(head);
    table
}

/// Sets the figures of these columns to the right.
fn align(table: &mut Table, columns: std::ops::Range<usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn figure(value: Option<f64>, unit: Unit) -> String {
    value.map_or_else(|| NO_FIGURE.to_owned(), |value| units::format(value, unit))
}
