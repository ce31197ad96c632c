//! A service's figures over many verdicts: the lines that a history keeps, and the places where a level changed.
//!
//! Nothing here gates. A mark tells a person where to look.

mod change_points;
mod energy;
mod jumps;
mod line;
#[cfg(test)]
mod tests;
mod trends;

pub use change_points::{ChangePoint, change_points};
pub use jumps::{Jump, jumps};
pub use line::{Line, SCHEMA, schema};
pub use trends::{Change, Direction, MetricTrend, Point, Sudden, TRENDS_SCHEMA, Trend, Trends, trends, trends_schema};

/// The number of verdicts in which change points are searched for at once, and the most on either side that a level is
/// the mean of.
pub const WINDOW: usize = 50;

/// The number of figures that a window has before its first mark, and of past changes before the first jump.
pub const LEAST_BEFORE: usize = 20;

/// The number of figures of the new level that a mark needs, and the least between two marks.
pub const LEAST_AFTER: usize = 3;

/// The chance of as large a difference between two levels, if there were none, below which it is marked.
pub const SIGNIFICANT: f64 = 0.001;

/// Figures that differ by less than this share of the largest are the same: they differ by rounding.
const ROUNDING: f64 = 1e-9;

/// The size of the largest figure.
fn largest(figures: &[f64]) -> f64 {
    figures.iter().fold(0.0, |largest, figure| figure.abs().max(largest))
}
