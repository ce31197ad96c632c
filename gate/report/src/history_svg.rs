//! The trends of a history as pictures: one file for each service, platform and runner, with a small chart for each
//! metric.
//!
//! The SVG is written here and not by a library, because each dot has a tooltip with its commit, and a chart is a
//! dozen kinds of elements.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use memgate_evidence::error::Result;
use memgate_files::{OutputError, names, whole};
use memgate_verdict::{
    history::{Change, Direction, MetricTrend, Point, Trend, Trends},
    units,
};

use super::{
    history::{LARGEST_SHARE, change, counts, figures, place, short, subject},
    text,
};

/// The verdicts that a picture shows: the last of them, because dots that overlap show nothing.
const SHOWN: usize = 400;

/// The number of charts in a row.
const COLUMNS: usize = 3;

/// The size of a chart with its texts, pixels.
const CHART: (f64, f64) = (430.0, 196.0);

/// The place of the dots in a chart, pixels from its corner.
const PLOT: Area = Area { left: 84.0, top: 48.0, width: 332.0, height: 112.0 };

/// The height of the text above the charts, pixels.
const HEAD: f64 = 64.0;

const WORSE: &str = "#b91c1c";
const BETTER: &str = "#15803d";
const JUMP: &str = "#c2410c";
const FAINT: &str = "#64748b";
const INK: &str = "#0f172a";

struct Area {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
}

/// Writes a picture for each trend into the directory, such as `uaa.linux-amd64.native.svg`, and returns the names. Makes
/// the directory. The same trends give the same bytes.
///
/// # Errors
/// [`OutputError::Path`] when a file cannot be written.
pub fn write_history_pictures(directory: &Path, trends: &Trends) -> Result<Vec<PathBuf>> {
    let write = |trend: &Trend| {
        let name = format!("{}.{}.svg", names::stem(&trend.service, trend.platform), trend.runner);
        let path = directory.join(name);
        whole::write(&path, picture(trend).as_bytes()).map_err(|source| OutputError::Path {
            path: path.clone(),
            option: "--svg",
            source,
        })?;
        Ok(path)
    };
    trends.trends.iter().map(write).collect()
}

/// The picture of a trend. Metrics with a mark come first.
fn picture(trend: &Trend) -> String {
    let (marked, plain): (Vec<_>, Vec<_>) = trend.metrics.iter().partition(|metric| metric.is_marked());
    let metrics: Vec<_> = marked.into_iter().chain(plain).collect();
    let columns = metrics.len().clamp(1, COLUMNS);
    let rows = metrics.len().div_ceil(columns);
    let (width, height) = (CHART.0 * columns as f64 + 20.0, HEAD + CHART.1 * rows as f64 + 10.0);
    let mut svg = Svg::default();
    svg.add(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, 'DejaVu Sans', sans-serif\" font-size=\"11\" fill=\"{INK}\">"
    ));
    svg.add(format_args!("<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"));
    svg.add(format_args!(
        "<text x=\"20\" y=\"24\" font-size=\"16\" font-weight=\"bold\">{}</text>",
        escaped(&subject(trend))
    ));
    let hidden = trend.count().saturating_sub(SHOWN);
    let shown = if hidden > 0 { format!("; the last {SHOWN} are shown") } else { String::new() };
    svg.add(format_args!("<text x=\"20\" y=\"42\">{}{shown}</text>", escaped(&counts(trend))));
    svg.add(format_args!(
        "<text x=\"20\" y=\"57\" fill=\"{FAINT}\">dots: figures; band: their intervals; thick line: the level between \
         change points; dashed: <tspan fill=\"{WORSE}\">worse</tspan> or <tspan fill=\"{BETTER}\">better</tspan>; \
         triangle: <tspan fill=\"{JUMP}\">jump</tspan></text>"
    ));
    for (index, metric) in metrics.into_iter().enumerate() {
        let (column, row) = ((index % columns) as f64, (index / columns) as f64);
        let (x, y) = (10.0 + CHART.0 * column, HEAD + CHART.1 * row);
        svg.add(format_args!("<g transform=\"translate({x} {y})\">"));
        Chart::of(metric, hidden, trend.count()).draw(&mut svg);
        svg.add(format_args!("</g>"));
    }
    svg.add(format_args!("</svg>"));
    svg.0
}

/// A picture's text.
#[derive(Default)]
struct Svg(String);

impl Svg {
    /// Adds a line.
    fn add(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{line}");
    }
}

/// The chart of a metric, of the verdicts from `from` to before `to`.
struct Chart<'a> {
    metric: &'a MetricTrend,
    /// The points that are shown.
    points: &'a [Point],
    /// The index of the first of them.
    first: usize,
    from: usize,
    to: usize,
    /// The least and the largest figure that is shown.
    range: (f64, f64),
}

impl<'a> Chart<'a> {
    fn of(metric: &'a MetricTrend, from: usize, to: usize) -> Self {
        let first = metric.points.iter().take_while(|point| point.verdict < from).count();
        let points = &metric.points[first..];
        let least = points.iter().map(|point| point.measured).fold(f64::INFINITY, f64::min);
        let most = points.iter().map(|point| point.measured).fold(f64::NEG_INFINITY, f64::max);
        Self { metric, points, first, from, to, range: (least, most) }
    }

    fn draw(&self, svg: &mut Svg) {
        self.title(svg);
        if self.points.is_empty() {
            svg.add(format_args!("<text x=\"10\" y=\"40\" fill=\"{FAINT}\">no figure in these verdicts</text>"));
            return;
        }
        self.axes(svg);
        // What lies outside of a nested picture is cut off.
        let Area { left, top, width, height } = PLOT;
        svg.add(format_args!("<svg x=\"{left}\" y=\"{top}\" width=\"{width}\" height=\"{height}\">"));
        self.band(svg);
        self.levels(svg);
        self.dots(svg);
        self.jumps(svg);
        svg.add(format_args!("</svg>"));
        self.changes(svg);
    }

    fn title(&self, svg: &mut Svg) {
        let metric = self.metric;
        svg.add(format_args!("<text x=\"10\" y=\"16\" font-size=\"12\" font-weight=\"bold\">{}</text>", metric.metric));
        let [first, last] = [metric.first(), metric.last()].map(|figure| units::format(figure, metric.unit));
        let change = match metric.share().filter(|share| share.abs() < LARGEST_SHARE) {
            Some(share) => format!("{} in all", change(Some(share))),
            None => format!("from {first}"),
        };
        let x = PLOT.left + PLOT.width;
        svg.add(format_args!(
            "<text x=\"{x}\" y=\"16\" text-anchor=\"end\">{}</text>",
            escaped(&format!("{last} ({change})"))
        ));
    }

    /// The figures at the bottom and the top, and the days at the ends.
    fn axes(&self, svg: &mut Svg) {
        let (least, most) = self.range;
        let right = PLOT.left + PLOT.width;
        for figure in if least < most { vec![least, most] } else { vec![least] } {
            let y = PLOT.top + self.y(figure);
            svg.add(format_args!("<path d=\"M{:.1} {y:.1}H{right:.1}\" stroke=\"#e2e8f0\" fill=\"none\"/>", PLOT.left));
            svg.add(format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{FAINT}\">{}</text>",
                PLOT.left - 6.0,
                y + 4.0,
                escaped(&units::format(figure, self.metric.unit))
            ));
        }
        let bottom = PLOT.top + PLOT.height;
        svg.add(format_args!(
            "<path d=\"M{:.1} {bottom:.1}H{right:.1}\" stroke=\"#94a3b8\" fill=\"none\"/>",
            PLOT.left
        ));
        let ends = [(self.points.first(), PLOT.left, "start"), (self.points.last(), right, "end")];
        for (point, x, anchor) in ends {
            let day = point.map(|point| escaped(&point.day)).unwrap_or_default();
            svg.add(format_args!(
                "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" fill=\"{FAINT}\">{day}</text>",
                bottom + 15.0
            ));
        }
    }

    /// The intervals, as far as they lie in the chart.
    fn band(&self, svg: &mut Svg) {
        let edge = |end: fn(&Point) -> f64| {
            let place = move |point: &Point| format!("{:.1},{:.1}", self.x(point.verdict), self.y(end(point)));
            self.points.iter().map(place)
        };
        let around: Vec<_> = edge(|point| point.low).chain(edge(|point| point.high).rev()).collect();
        svg.add(format_args!("<polygon points=\"{}\" fill=\"#cbd5e1\" opacity=\"0.5\"/>", around.join(" ")));
    }

    /// The mean between two change points.
    fn levels(&self, svg: &mut Svg) {
        let ends = self.metric.changes.iter().map(|change| change.at).chain([self.metric.points.len()]);
        let mut start = 0;
        for end in ends {
            let level = &self.metric.points[start..end];
            start = end;
            let (Some(first), Some(last)) = (level.first(), level.last()) else { continue };
            let mean = level.iter().map(|point| point.measured / level.len() as f64).sum::<f64>();
            let (from, to) = (self.x(first.verdict), self.x(last.verdict));
            svg.add(format_args!(
                "<path d=\"M{:.1} {y:.1}H{:.1}\" stroke=\"#94a3b8\" stroke-width=\"3\" fill=\"none\"/>",
                from - 2.0,
                to + 2.0,
                y = self.y(mean)
            ));
        }
    }

    fn dots(&self, svg: &mut Svg) {
        for point in self.points {
            let figure = units::format(point.measured, self.metric.unit);
            let commit = point.commit.as_deref().map(|commit| format!("{}, ", short(commit))).unwrap_or_default();
            svg.add(format_args!(
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"1.8\" fill=\"#1d4ed8\"><title>{}</title></circle>",
                self.x(point.verdict),
                self.y(point.measured),
                escaped(&format!("{commit}{}: {figure}", point.day))
            ));
        }
    }

    fn jumps(&self, svg: &mut Svg) {
        for jump in self.metric.jumps.iter().filter(|jump| jump.at >= self.first) {
            let point = &self.metric.points[jump.at];
            let place = place(&jump.day, jump.commit.as_deref(), jump.after_commit.as_deref());
            let what = figures(jump.before, jump.after, jump.share, self.metric.unit);
            let (x, y) = (self.x(point.verdict), self.y(point.measured) - 4.0);
            svg.add(format_args!(
                "<path d=\"M{x:.1} {y:.1}l-4 -7h8z\" fill=\"{JUMP}\"><title>{}</title></path>",
                escaped(&format!("jump: {what} {place}"))
            ));
        }
    }

    /// The lines between two levels, and on top of them how far the levels lie apart.
    fn changes(&self, svg: &mut Svg) {
        let shown: Vec<_> = self.metric.changes.iter().filter(|change| change.at >= self.first).collect();
        for change in &shown {
            self.line(change, svg);
        }
        for (index, change) in shown.iter().enumerate() {
            self.label(change, index, svg);
        }
    }

    /// The place of the line before the first figure of a new level, from the chart's corner.
    fn border(&self, mark: &Change) -> f64 {
        let step = PLOT.width / (self.to - self.from).max(1) as f64;
        PLOT.left + self.x(self.metric.points[mark.at].verdict) - step / 2.0
    }

    fn line(&self, mark: &Change, svg: &mut Svg) {
        let (x, top, bottom) = (self.border(mark), PLOT.top - 24.0, PLOT.top + PLOT.height);
        let place = place(&mark.day, mark.commit.as_deref(), mark.after_commit.as_deref());
        let what = figures(mark.before, mark.after, mark.share, self.metric.unit);
        svg.add(format_args!(
            "<path d=\"M{x:.1} {top:.1}V{bottom:.1}\" stroke=\"{}\" stroke-dasharray=\"4 3\" fill=\"none\">\
             <title>{}</title></path>",
            colour(mark.direction),
            escaped(&format!("{}: {what} {place}", mark.direction.name()))
        ));
    }

    fn label(&self, mark: &Change, index: usize, svg: &mut Svg) {
        let x = self.border(mark);
        let (anchor, beside) = if x > PLOT.left + PLOT.width / 2.0 { ("end", x - 4.0) } else { ("start", x + 4.0) };
        // Labels of neighbours stand below each other.
        let y = PLOT.top - 15.0 + 12.0 * (index % 4) as f64;
        let apart = match mark.share.filter(|share| share.abs() < LARGEST_SHARE) {
            Some(share) => change(Some(share)),
            None => figures(mark.before, mark.after, None, self.metric.unit),
        };
        let commit = mark.commit.as_deref().map(|commit| format!(" at {}", short(commit))).unwrap_or_default();
        svg.add(format_args!(
            "<text x=\"{beside:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{}\" stroke=\"#ffffff\" \
             stroke-width=\"3\" paint-order=\"stroke\">{}</text>",
            colour(mark.direction),
            escaped(&format!("{apart}{commit}"))
        ));
    }

    /// The place of a verdict in the plot.
    fn x(&self, verdict: usize) -> f64 {
        let place = verdict as f64 - self.from as f64 + 0.5;
        PLOT.width * place / (self.to - self.from).max(1) as f64
    }

    /// The place of a figure in the plot, with room above and below the range. A figure far outside stays near, because
    /// readers of SVG have small numbers.
    fn y(&self, figure: f64) -> f64 {
        let (least, most) = self.range;
        // Each by itself, because their difference may be too large.
        let share = if least < most { (figure / 2.0 - least / 2.0) / (most / 2.0 - least / 2.0) } else { 0.5 };
        PLOT.height * (0.90 - 0.78 * share.clamp(-10.0, 10.0))
    }
}

const fn colour(direction: Direction) -> &'static str {
    match direction {
        Direction::Worse => WORSE,
        Direction::Better => BETTER,
    }
}

/// Text for XML, safe to show.
fn escaped(text: &str) -> String {
    text::visible(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&apos;")
}
