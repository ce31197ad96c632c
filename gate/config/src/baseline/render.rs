//! The text of a newly recorded baseline file.

use std::{fmt::Write as _, path::Path};

use memgate_evidence::{
    error::{InputError, Result},
    platform::Runner,
};
use memgate_verdict::{
    judge::{LimitForRuns, limit_for_runs},
    metric::{Limits, Metric, Quantity, Unit},
    summarise::Summary,
    units::{format, format_exact},
};
use statrs::statistics::Statistics as _;

use super::{load, memory};
use crate::yaml::is_printable;

const HEAD: &str = "\
# What the service is allowed on this platform. memgate compares every run with it: review changes like code.
#   limit      absolute; holds whatever was recorded; `none` switches a default limit off
#   baseline   mean of the recorded runs; noise is the standard deviation between them
#   tolerance  relative and floor absolute: how far from the baseline a run may be
#   advisory   reported, never failed; so is a time that another day of the machine may explain, without `must_notice`
";

/// Follows the head of a file that is of several occasions.
const HEAD_OF_OCCASIONS: &str = "\
#   noise      then is the deviation of runs of one occasion, and between that of occasions
";

const TAIL: &str = "\
# Where it was recorded. Runs with another Go minor version, page size, runner, build, load or phases are not compared
# with it.
# It stands last, so that memgate notices a file that was cut off.
";

/// Makes the text of a baseline file from the runs of a summary. The file is
/// `baselines/<platform>/<summary.baseline>.yaml`. `recorded` is the day, such as `2026-11-23`.
///
/// A figure is the mean of the runs' estimates, with seven significant digits. If a run lacks a metric, the file has no
/// baseline for it, only a comment with the reason. Default limits hold without a line. If the recorded runs do not hold
/// one, the file has a limit with room for them, and asks for a review.
///
/// # Errors
/// When there is no run, or when the summary or the day cannot be written in a baseline file.
pub fn render(summary: &Summary, recorded: &str, limits: Limits) -> Result<String> {
    if summary.runs.is_empty() {
        let message = format!("no run of {} on {}: there is nothing to record", summary.service, summary.platform);
        return Err(InputError::new(message, "record at least one run").into());
    }
    let limit_set = match limits {
        Limits::General => String::new(),
        Limits::Xinchuang => format!("limits: {}\n", limits.name()),
    };
    let occasions = memory::occasions(summary);
    let memory = if occasions > 1 { HEAD_OF_OCCASIONS } else { "" };
    let mut text = format!(
        "{HEAD}{memory}version: 1\nservice: {}\nplatform: {}\n{limit_set}metrics:\n",
        quoted(&summary.baseline),
        summary.platform
    );
    for metric in Metric::ALL {
        text.push_str(&metric_line(summary, metric, limits));
    }
    let environment = &summary.environment;
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{TAIL}environment: {{ go: {}, kernel: {}, page_size: {}, thp: {}, cpu: {}, cpus: {}, runner: {}, recorded: {}, runs: {}{},\n  build: {}, variables: {}{} }}",
        quoted(&environment.go),
        quoted(&environment.kernel),
        page_size(environment.page_size),
        quoted(&environment.thp),
        quoted(&environment.cpu),
        environment.cpus,
        quoted(environment.runner.name()),
        quoted(recorded),
        summary.runs.len(),
        if occasions > 1 { format!(", occasions: {occasions}") } else { String::new() },
        quoted(&environment.build_text()),
        quoted(&environment.variables_text()),
        [("load", &environment.load), ("phases", &environment.phases), ("dependencies", &environment.dependencies)]
            .map(|(key, text)| {
                // Older evidence does not name them, and many a service needs nothing.
                if text.is_empty() { String::new() } else { format!(", {key}: {}", quoted(text)) }
            })
            .concat(),
    );
    // memgate must not write a file that it cannot read again.
    load::parse(Path::new("the recorded baseline"), &text, summary.platform, &summary.baseline)?;
    Ok(text)
}

const ADVISORY: &str = "advisory: true";

/// The line of a metric: a comment if it has neither figure nor limit of its own, and empty if it is not recorded at
/// all. Emulated times are advisory.
fn metric_line(summary: &Summary, metric: Metric, limits: Limits) -> String {
    let unit = metric.unit();
    let comparison = metric.comparison();
    let has_limit = metric.default_limit(limits).is_some();
    if !has_limit && comparison.is_none() {
        return String::new();
    }
    let Figure { mean, deviation, noise } = match figure(summary, metric) {
        Ok(figure) => figure,
        Err(reason) => return format!("  # {metric}: no figure: {}\n", one_line(&reason)),
    };
    let (mut fields, mut comments) = (Vec::new(), Vec::new());
    if let Some(LimitForRuns { limit, instead }) = limit_for_runs(metric, summary, limits) {
        let (limit, measured) = (format(limit, unit), format(mean, unit));
        if let Some(instead) = instead {
            fields.push(format!("limit: {}", format_exact(instead, unit)));
            comments.push(format!("REVIEW: measured {measured}, which the default limit of {limit} does not allow"));
        } else {
            comments.push(format!("measured {measured}, default limit {limit}"));
        }
    }
    if let Some(comparison) = comparison {
        fields.push(format!("baseline: {}", format_exact(mean, unit)));
        fields.extend(noise);
        let least = least_tolerance(mean, deviation);
        let is_wider = least * mean.abs() > comparison.effect(mean);
        let tolerance = if is_wider { least } else { comparison.tolerance };
        fields.push(format!("tolerance: {}", format_exact(tolerance, Unit::Ratio)));
        if is_wider {
            let usual = format(comparison.tolerance, Unit::Ratio);
            comments.push(format!("tolerance: 3 × noise instead of {usual}, because the runs differ by much"));
        }
        fields.extend(comparison.floor.map(|floor| format!("floor: {}", format_exact(floor, unit))));
        if comparison.advisory {
            fields.push(ADVISORY.to_owned());
        }
    }
    let is_emulated_time = metric.quantity() == Quantity::Time && summary.environment.runner == Runner::Qemu;
    if is_emulated_time && !fields.is_empty() && fields.last().is_none_or(|field| field != ADVISORY) {
        fields.push(ADVISORY.to_owned());
    }
    let comment = comments.join("; ");
    match (fields.is_empty(), comment.is_empty()) {
        (true, _) => format!("  # {metric}: {comment}\n"),
        (false, true) => format!("  {metric}: {{ {} }}\n", fields.join(", ")),
        (false, false) => format!("  {metric}: {{ {} }} # {comment}\n", fields.join(", ")),
    }
}

/// The least tolerance with which runs of the same build do not differ by chance: three times the deviation of a run, as
/// a share of the figure, rounded up to two digits.
fn least_tolerance(mean: f64, deviation: f64) -> f64 {
    let share = 3.0 * deviation / mean.abs();
    if !share.is_finite() || share <= 0.0 {
        return 0.0;
    }
    let digit = 10f64.powf(share.log10().floor() - 1.0);
    (share / digit).ceil() * digit
}

/// A figure to record.
struct Figure {
    mean: f64,
    /// The deviation of a run on any occasion; 0 if it is not known.
    deviation: f64,
    /// The fields that say how it varies: within and between occasions if there are several.
    noise: Vec<String>,
}

fn figure(summary: &Summary, metric: Metric) -> Result<Figure, String> {
    let exact = |figure: f64| format_exact(figure, metric.unit());
    if memory::occasions(summary) < 2 {
        let (mean, noise) = recorded_figure(summary, metric)?;
        let fields = noise.iter().map(|noise| format!("noise: {}", exact(*noise))).collect();
        return Ok(Figure { mean, deviation: noise.unwrap_or(0.0), noise: fields });
    }
    let recorded = memory::Recorded::of(summary, metric)?;
    let of = |key: &str, spread: Option<memory::Spread>| {
        spread.map(|spread| format!("{key}: {}, {key}_freedom: {}", exact(spread.deviation), spread.freedom))
    };
    let fields = [of("noise", recorded.within), of("between", recorded.between)];
    let parts = [recorded.within, recorded.between].map(|spread| spread.map_or(0.0, |spread| spread.deviation));
    Ok(Figure {
        mean: recorded.mean,
        deviation: parts[0].hypot(parts[1]),
        noise: fields.into_iter().flatten().collect(),
    })
}

/// The figure to record, and its noise if there are at least two runs; or the reason why a run cannot be used.
pub(super) fn recorded_figure(summary: &Summary, metric: Metric) -> Result<(f64, Option<f64>), String> {
    let figures = figures(summary, metric)?;
    let mean = figures.iter().mean();
    let noise = (figures.len() > 1).then(|| {
        let deviation = figures.iter().std_dev();
        // What rounding leaves of equal figures is no noise.
        if deviation > 1e-9 * mean.abs() { deviation } else { 0.0 }
    });
    Ok((mean, noise))
}

/// The estimates of all runs, or the reason why one of them cannot be used.
pub(super) fn figures(summary: &Summary, metric: Metric) -> Result<Vec<f64>, String> {
    let figure = |run: &memgate_verdict::summarise::RunSummary| match run.metrics.get(&metric) {
        None => Err(format!("run {}: not measured", run.run)),
        Some(Err(unavailable)) => Err(format!("run {}: {}", run.run, unavailable.reason)),
        Some(Ok(estimate)) if !estimate.measured.is_finite() => Err(format!("run {}: not a number", run.run)),
        Some(Ok(estimate)) if estimate.measured < 0.0 && !metric.unit().is_growth() => {
            Err(format!("run {}: negative", run.run))
        }
        Some(Ok(estimate)) => Ok(estimate.measured),
    };
    summary.runs.iter().map(figure).collect()
}

/// A page size, in KiB if possible.
pub(super) fn page_size(bytes: u64) -> String {
    if bytes.is_multiple_of(1024) { format!("{}KiB", bytes / 1024) } else { format!("{bytes}B") }
}

/// A double-quoted YAML string (YAML 1.2, section 5.7). NUL characters are dropped, because the kernel's names of CPUs
/// and kernels do not contain any.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars().filter(|character| *character != '\0') {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            ' '..='~' => quoted.push(character),
            _ if is_printable(character) && !character.is_control() && !is_break(character) => quoted.push(character),
            _ => quoted.push_str(&format!("\\U{:08X}", u32::from(character))),
        }
    }
    quoted.push('"');
    quoted
}

/// Characters that some YAML parsers take for a line break or a byte order mark.
const fn is_break(character: char) -> bool {
    matches!(character, '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// Text that can stand in a comment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if is_printable(c) && !c.is_control() && !is_break(c) { c } else { ' ' }).collect()
}
