//! The figures of a metric, as the rules use them.

use crate::{metric::Metric, summarise::Estimate, units};

/// The figures of a metric.
pub(super) struct Figures<'a> {
    pub(super) metric: Metric,
    /// The runs' numbers and estimates, at least one.
    pub(super) runs: Vec<(u32, &'a Estimate)>,
    /// The estimate of all runs together.
    pub(super) pooled: &'a Estimate,
    /// Whether a second, fresh process was measured.
    pub(super) confirmed: bool,
}

impl Figures<'_> {
    /// A figure of this metric as text, with its unit.
    pub(super) fn text(&self, value: f64) -> String {
        units::format(value, self.metric.unit())
    }
}
