//! What a metric was measured to be, as the rules see it.

use crate::{metric::Metric, summarise::Estimate, units};

/// The figures of a metric.
pub(super) struct Figures<'a> {
    pub(super) metric: Metric,
    /// The runs' numbers and estimates; at least one.
    pub(super) runs: Vec<(u32, &'a Estimate)>,
    /// All runs together.
    pub(super) pooled: &'a Estimate,
    /// Whether a second, fresh process has been measured.
    pub(super) confirmed: bool,
}

impl Figures<'_> {
    /// A figure of this metric with its unit.
    pub(super) fn text(&self, value: f64) -> String {
        units::format(value, self.metric.unit())
    }
}
