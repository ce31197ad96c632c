//! Lines of a history → a trend for each service, platform and metric.

use std::collections::BTreeMap;

use jiff::Timestamp;
use memgate_evidence::platform::{Platform, Runner};
use serde::Serialize;

use super::{Line, change_points, jumps};
use crate::{
    metric::{Metric, Unit},
    results::Verdict,
};

/// The schema of [`Trends`] in JSON.
pub const TRENDS_SCHEMA: u32 = 1;

/// The JSON Schema of [`Trends`].
pub fn trends_schema() -> serde_json::Value {
    schemars::schema_for!(Trends).to_value()
}

/// The trends of a history, which `memgate history --format json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Trends {
    /// Version of this format: [`TRENDS_SCHEMA`].
    pub schema: u32,
    /// One entry for each service, platform and runner, in that order.
    pub trends: Vec<Trend>,
}

/// The trend of one service on one platform. A guest's figures are not those of the machine itself, so each runner has a
/// trend of its own.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Trend {
    /// The service's name.
    pub service: String,
    /// The platform.
    pub platform: Platform,
    /// Where the service ran.
    pub runner: Runner,
    /// The number of times that each verdict came about, the worst first. Verdicts that never did are not there.
    pub verdicts: Vec<(Verdict, usize)>,
    /// The days of the first and the last verdict, in UTC, such as `2026-11-23`.
    pub days: (String, String),
    /// One entry for each metric that has a figure, in the order of [`Metric::ALL`].
    pub metrics: Vec<MetricTrend>,
}

impl Trend {
    /// The number of verdicts.
    pub fn count(&self) -> usize {
        self.verdicts.iter().map(|(_, count)| count).sum()
    }
}

/// The trend of a metric, in `unit`.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct MetricTrend {
    /// The metric.
    pub metric: Metric,
    /// The unit of every figure.
    pub unit: Unit,
    /// The figures in the order of time, at least one.
    pub points: Vec<Point>,
    /// The places from which on there is another level.
    pub changes: Vec<Change>,
    /// Single figures that are far larger than the one before.
    pub jumps: Vec<Sudden>,
}

impl MetricTrend {
    /// The first figure.
    pub fn first(&self) -> f64 {
        self.points.first().map_or(f64::NAN, |point| point.measured)
    }

    /// The last figure.
    pub fn last(&self) -> f64 {
        self.points.last().map_or(f64::NAN, |point| point.measured)
    }

    /// What changed from the first figure to the last, as a share of the first; `None` if that is 0 and the last is not.
    pub fn share(&self) -> Option<f64> {
        share(self.first(), self.last())
    }

    /// Whether it has a change point or a jump.
    pub fn is_marked(&self) -> bool {
        !self.changes.is_empty() || !self.jumps.is_empty()
    }
}

/// A figure of a trend.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Point {
    /// The index of its verdict in the trend, from 0. Verdicts without a figure of the metric leave gaps.
    pub verdict: usize,
    /// The day of judging, in UTC, such as `2026-11-23`.
    pub day: String,
    /// The commit, if it is known.
    pub commit: Option<String>,
    /// The point estimate.
    pub measured: f64,
    /// Lower end of its interval.
    pub low: f64,
    /// Upper end of its interval.
    pub high: f64,
}

/// Whether a change is one for the worse. More is worse for every metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The new level is higher.
    Worse,
    /// The new level is lower.
    Better,
}

impl Direction {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worse => "worse",
            Self::Better => "better",
        }
    }
}

/// A change point of a trend.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Change {
    /// The index in `points` of the first figure of the new level.
    pub at: usize,
    /// The day of that figure.
    pub day: String,
    /// The commit of that figure, if it is known.
    pub commit: Option<String>,
    /// The commit of the figure before it, if it is known. The change lies behind it.
    pub after_commit: Option<String>,
    /// Whether the level rose.
    pub direction: Direction,
    /// The mean of the old level.
    pub before: f64,
    /// The mean of the new level.
    pub after: f64,
    /// The difference as a share of the old level; `None` if that is 0.
    pub share: Option<f64>,
    /// The chance of as large a difference between two levels, if there were one, for a place that is given.
    pub p: f64,
    /// The versions that changed there too: `Go go1.26.4 to go1.27.3`, `memgate 0.1.0 to 0.2.0`.
    pub versions: Vec<String>,
}

/// A jump of a trend.
#[derive(Debug, Clone, PartialEq, Serialize, schemars::JsonSchema)]
pub struct Sudden {
    /// The index in `points`.
    pub at: usize,
    /// The day.
    pub day: String,
    /// The commit, if it is known.
    pub commit: Option<String>,
    /// The commit of the figure before it, if it is known.
    pub after_commit: Option<String>,
    /// The figure before it.
    pub before: f64,
    /// The figure.
    pub after: f64,
    /// The difference as a share of the figure before; `None` if that is 0.
    pub share: Option<f64>,
    /// The largest increase that would have been usual.
    pub usual: f64,
}

/// The trends of these lines. A line that is there twice counts once. The order of the lines does not matter, unless two
/// of a service have the same time.
///
/// # Errors
/// When a line has no time ([`Line::time`]).
pub fn trends<'a>(lines: impl IntoIterator<Item = &'a Line>) -> Result<Trends, String> {
    let mut groups: BTreeMap<_, Vec<(Timestamp, &Line)>> = BTreeMap::new();
    for line in lines {
        let group = groups.entry((&line.service, line.platform, line.runner)).or_default();
        group.push((line.time()?, line));
    }
    let trends = groups.into_values().map(|mut lines| {
        lines.sort_by_key(|(time, _)| *time);
        let mut once: Vec<(Timestamp, &Line)> = Vec::new();
        for (time, line) in lines {
            let of_that_time = once.iter().rev().take_while(|(other, _)| *other == time);
            if !of_that_time.into_iter().any(|(_, other)| *other == line) {
                once.push((time, line));
            }
        }
        trend(&once)
    });
    Ok(Trends { schema: TRENDS_SCHEMA, trends: trends.flatten().collect() })
}

/// The trend of the lines of one service, platform and runner, in the order of time.
fn trend(lines: &[(Timestamp, &Line)]) -> Option<Trend> {
    let ((start, first), (end, _)) = (lines.first()?, lines.last()?);
    let counted = |verdict: Verdict| (verdict, lines.iter().filter(|(_, line)| line.verdict == verdict).count());
    Some(Trend {
        service: first.service.clone(),
        platform: first.platform,
        runner: first.runner,
        verdicts: Verdict::ALL.into_iter().rev().map(counted).filter(|(_, count)| *count > 0).collect(),
        days: (day(*start), day(*end)),
        metrics: Metric::ALL.into_iter().filter_map(|metric| of_metric(metric, lines)).collect(),
    })
}

fn of_metric(metric: Metric, lines: &[(Timestamp, &Line)]) -> Option<MetricTrend> {
    let with_figure: Vec<_> = (lines.iter().enumerate())
        .filter_map(|(verdict, (time, line))| Some((verdict, line.figure(metric)?, *time, *line)))
        .collect();
    let points: Vec<Point> = with_figure
        .iter()
        .map(|(verdict, figure, time, line)| Point {
            verdict: *verdict,
            day: day(*time),
            commit: line.commit.clone(),
            measured: figure.measured,
            low: figure.low,
            high: figure.high,
        })
        .collect();
    if points.is_empty() {
        return None;
    }
    let figures: Vec<f64> = points.iter().map(|point| point.measured).collect();
    let change = |found: &change_points::ChangePoint| Change {
        at: found.at,
        day: points[found.at].day.clone(),
        commit: points[found.at].commit.clone(),
        after_commit: points[found.at - 1].commit.clone(),
        direction: if found.after > found.before { Direction::Worse } else { Direction::Better },
        before: found.before,
        after: found.after,
        share: share(found.before, found.after),
        p: found.p,
        versions: versions(with_figure[found.at - 1].3, with_figure[found.at].3),
    };
    let sudden = |found: &jumps::Jump| Sudden {
        at: found.at,
        day: points[found.at].day.clone(),
        commit: points[found.at].commit.clone(),
        after_commit: points[found.at - 1].commit.clone(),
        before: figures[found.at - 1],
        after: figures[found.at],
        share: share(figures[found.at - 1], figures[found.at]),
        usual: found.usual,
    };
    let changes = change_points::change_points(&figures).iter().map(change).collect();
    let jumps = jumps::jumps(&figures).iter().map(sudden).collect();
    Some(MetricTrend { metric, unit: metric.unit(), points, changes, jumps })
}

/// The versions that differ between two lines.
fn versions(before: &Line, after: &Line) -> Vec<String> {
    let pairs = [("Go", &before.go, &after.go), ("memgate", &before.memgate, &after.memgate)];
    pairs.into_iter().filter(|(_, old, new)| old != new).map(|(of, old, new)| format!("{of} {old} to {new}")).collect()
}

/// A difference as a share of the figure before.
fn share(before: f64, after: f64) -> Option<f64> {
    let share = if before == after { 0.0 } else { (after - before) / before.abs() };
    share.is_finite().then_some(share)
}

/// The day of a time in UTC.
fn day(time: Timestamp) -> String {
    time.to_string().chars().take_while(|character| *character != 'T').collect()
}
