//! The trends of a history, for a person at a terminal and for programs.

use comfy_table::{CellAlignment, Table, presets};
use memgate_verdict::{
    history::{Change, Direction, LEAST_AFTER, LEAST_BEFORE, MetricTrend, Sudden, Trend, Trends},
    metric::Unit,
    units,
};

use super::{Style, text, view};

/// The most columns of a sparkline. More figures than that share columns.
const SPARKLINE: usize = 40;

/// The smallest p that is told: below it, the tail of the normal distribution is no model of any machine.
const LEAST_P: f64 = 1e-12;

/// The trends as JSON, with a newline at its end.
pub fn history_json(trends: &Trends) -> String {
    let mut text = serde_json::to_string_pretty(trends).expect("trends have neither maps nor fallible fields");
    text.push('\n');
    text
}

/// The trends as text: a table of metrics for each service, platform and runner, and below it the marks in the order of
/// time. A jump to a new level is shown as that alone. Every line starts with one of memgate's own words or with a space,
/// but for the line of the service.
pub fn history_text(trends: &Trends, style: Style) -> String {
    let of = |trend: &Trend| {
        let mut lines = vec![format!("trend of {}: {}", subject(trend), counts(trend))];
        lines.extend(table(trend).lines().map(|line| line.trim_end().to_owned()));
        let marks = marks(trend);
        if marks.is_empty() {
            let most = trend.metrics.iter().map(|metric| metric.points.len()).max().unwrap_or_default();
            let needed = LEAST_BEFORE + LEAST_AFTER;
            let why = if most < needed { format!(": one needs {needed} figures") } else { String::new() };
            lines.push(format!("no change points{why}"));
        }
        lines.extend(marks.iter().map(|mark| mark.text(style)));
        lines.join("\n") + "\n"
    };
    trends.trends.iter().map(of).collect::<Vec<_>>().join("\n")
}

/// `uaa on linux/amd64, native`, safe to show.
pub(super) fn subject(trend: &Trend) -> String {
    format!("{} on {}, {}", text::visible(&trend.service), trend.platform, trend.runner)
}

/// `40 verdicts from 2026-11-01 to 2026-11-23: 2 regressed, 38 pass`.
pub(super) fn counts(trend: &Trend) -> String {
    let by_verdict: Vec<_> =
        trend.verdicts.iter().map(|(verdict, count)| format!("{count} {}", verdict.name())).collect();
    let (first, last) = &trend.days;
    format!("{} from {first} to {last}: {}", view::counted(trend.count(), "verdict"), by_verdict.join(", "))
}

fn table(trend: &Trend) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.force_no_tty();
    table.set_header(["metric", "first", "last", "change", "trend"]);
    for metric in &trend.metrics {
        table.add_row([
            metric.metric.name().to_owned(),
            units::format(metric.first(), metric.unit),
            units::format(metric.last(), metric.unit),
            change(metric.share()),
            sparkline(&metric.points.iter().map(|point| point.measured).collect::<Vec<_>>()),
        ]);
    }
    // The sparkline comes last, because its characters may be drawn two columns wide.
    for column in table.column_iter_mut().skip(1).take(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Beside a figure near 0, every difference is a large share that says nothing. From this one on it is not told.
pub(super) const LARGEST_SHARE: f64 = 10.0;

/// A difference as a share, such as `+3.9%`; `-` if there is none, because the figure before is 0.
pub(super) fn change(share: Option<f64>) -> String {
    let Some(share) = share else { return "-".to_owned() };
    match 100.0 * share {
        0.0 => "0%".to_owned(),
        _ if share >= LARGEST_SHARE => "> +1000%".to_owned(),
        _ if share <= -LARGEST_SHARE => "< -1000%".to_owned(),
        percent if percent.abs() >= 100.0 => format!("{percent:+.0}%"),
        percent if percent.abs() >= 1.0 => format!("{percent:+.1}%"),
        percent if percent.abs() >= 0.01 => format!("{percent:+.2}%"),
        percent => format!("{percent:+.4}%"),
    }
}

/// The figures between the least and the largest. Figures that share a column have their mean there.
fn sparkline(figures: &[f64]) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let columns = figures.len().min(SPARKLINE);
    let bound = |column: usize| column * figures.len() / columns;
    let means: Vec<f64> = (0..columns)
        .map(|column| {
            let shared = &figures[bound(column)..bound(column + 1)];
            // Halves, because the sum of two figures may be too large for one.
            shared.iter().map(|figure| figure / 2.0).sum::<f64>() / shared.len() as f64
        })
        .collect();
    let least = means.iter().copied().fold(f64::INFINITY, f64::min);
    let most = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let level = |figure: f64| {
        let share = (figure - least) / (most - least);
        LEVELS
            .iter()
            .enumerate()
            .rev()
            .find(|(index, _)| share >= *index as f64 / 8.0)
            .map_or(LEVELS[0], |found| *found.1)
    };
    means.into_iter().map(level).collect()
}

/// A change point or a jump of a metric.
#[derive(Debug, Clone, Copy)]
enum Mark<'a> {
    Level(&'a MetricTrend, &'a Change),
    Jump(&'a MetricTrend, &'a Sudden),
}

/// The marks of all metrics, in the order of time.
fn marks(trend: &Trend) -> Vec<Mark<'_>> {
    let mut marks = Vec::new();
    for metric in &trend.metrics {
        let at = |index: usize| metric.points.get(index).map(|point| point.verdict);
        marks.extend(metric.changes.iter().map(|change| (at(change.at), Mark::Level(metric, change))));
        let alone = metric.jumps.iter().filter(|jump| metric.changes.iter().all(|change| change.at != jump.at));
        marks.extend(alone.map(|jump| (at(jump.at), Mark::Jump(metric, jump))));
    }
    marks.sort_by_key(|(verdict, _)| *verdict);
    marks.into_iter().map(|(_, mark)| mark).collect()
}

impl Mark<'_> {
    fn text(&self, style: Style) -> String {
        match self {
            Self::Level(metric, change) => {
                let (name, code) = match change.direction {
                    Direction::Worse => (change.direction.name(), 31),
                    Direction::Better => (change.direction.name(), 32),
                };
                let place = place(&change.day, change.commit.as_deref(), change.after_commit.as_deref());
                let figures = figures(change.before, change.after, change.share, metric.unit);
                let versions: String =
                    change.versions.iter().map(|what| format!("; {} there", text::visible(what))).collect();
                let p = if change.p < LEAST_P { format!("p < {LEAST_P:e}") } else { format!("p = {:.0e}", change.p) };
                format!("{}  {}: {figures} {place}, {p}{versions}", padded(name, code, style), metric.metric)
            }
            Self::Jump(metric, jump) => {
                let place = place(&jump.day, jump.commit.as_deref(), jump.after_commit.as_deref());
                let figures = figures(jump.before, jump.after, jump.share, metric.unit);
                let usual = units::format(jump.usual, metric.unit);
                let name = padded("jump", 33, style);
                format!("{name}  {}: {figures} {place}; up to +{usual} was usual", metric.metric)
            }
        }
    }
}

/// A name as wide as the longest, `better`, in the colour with this code of ANSI X3.64 (SGR).
fn padded(name: &str, code: u8, style: Style) -> String {
    let padded = format!("{name:<6}");
    if style.colour { format!("\x1b[1;{code}m{padded}\x1b[0m") } else { padded }
}

/// `20.3kB/request -> 21.1kB/request (+3.9%)`.
pub(super) fn figures(before: f64, after: f64, share: Option<f64>, unit: Unit) -> String {
    let share = share.filter(|share| share.abs() < LARGEST_SHARE);
    let share = share.map(|share| format!(" ({})", change(Some(share)))).unwrap_or_default();
    format!("{} -> {}{share}", units::format(before, unit), units::format(after, unit))
}

/// `at 1a2b3c4 on 2026-11-23, after 9f8e7d6`, safe to show. Somewhere between the two commits lies the cause.
pub(super) fn place(day: &str, commit: Option<&str>, after: Option<&str>) -> String {
    let at = commit.map(|commit| format!("at {} ", short(commit))).unwrap_or_default();
    let after = after.map(|commit| format!(", after {}", short(commit))).unwrap_or_default();
    format!("{at}on {}{after}", text::visible(day))
}

/// The first characters of a commit, safe to show.
pub(super) fn short(commit: &str) -> String {
    text::visible(&commit.chars().take(7).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_two_to_four_digits() {
        let texts = [
            None,
            Some(0.0),
            Some(0.5),
            Some(-0.012),
            Some(0.004),
            Some(0.000_031),
            Some(1.2),
            Some(12.0),
            Some(-12.0),
        ]
        .map(change);
        assert_eq!(texts, ["-", "0%", "+50.0%", "-1.2%", "+0.40%", "+0.0031%", "+120%", "> +1000%", "< -1000%"]);
    }

    #[test]
    fn a_sparkline_goes_from_the_least_to_the_largest() {
        assert_eq!(sparkline(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]), "▁▂▃▄▅▆▇█");
        assert_eq!(sparkline(&[5.0, 5.0, 5.0]), "▁▁▁");
        assert_eq!(sparkline(&[]), "");
        let many: Vec<f64> = (0..1000).map(|index| f64::from(u8::from(index >= 500))).collect();
        assert_eq!(sparkline(&many), "▁".repeat(20) + &"█".repeat(20));
        assert_eq!(sparkline(&[f64::MAX, f64::MAX].repeat(40)), "▁".repeat(40));
        // 41 figures: the last column has two.
        let odd: Vec<f64> = (0..41).map(|index| f64::from(u8::from(index == 40))).collect();
        assert_eq!(sparkline(&odd).chars().count(), 40);
    }

    #[test]
    fn a_place_names_both_commits_if_they_are_known() {
        let long = "1a2b3c4d5e6f";
        assert_eq!(place("2026-11-23", Some(long), Some("9f8e7d6c")), "at 1a2b3c4 on 2026-11-23, after 9f8e7d6");
        assert_eq!(place("2026-11-23", None, None), "on 2026-11-23");
        assert_eq!(place("2026-11-23", Some("\x1b[31m"), None), "at ␛[31m on 2026-11-23");
    }
}
