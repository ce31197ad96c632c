//! The estimators. Each states its source and the assumptions of its interval. Quantiles of distributions come from
//! `statrs`.

mod counts;
mod dist;
mod quantile;
mod ratio;
mod slope;

pub use counts::share_at_most;
pub(super) use counts::{Events, rate_of_events, share, share_within};
pub(super) use dist::Z_975;
pub use dist::t_quantile;
pub(super) use quantile::{Tally, percentile};
pub(super) use ratio::{MIN_WINDOWS, ratio};
pub(super) use slope::{MIN_POINTS, Slope, slope, slope_of_stairs, smoothed};

/// A figure with the ends of its two-sided 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Interval {
    /// The point estimate.
    pub(super) measured: f64,
    /// Lower end.
    pub(super) low: f64,
    /// Upper end.
    pub(super) high: f64,
}

impl Interval {
    /// An exact total, which has no uncertainty.
    pub(super) const fn exact(value: f64) -> Self {
        Self { measured: value, low: value, high: value }
    }

    /// An interval that extends by `half` to either side.
    pub(super) const fn symmetric(measured: f64, half: f64) -> Self {
        Self { measured, low: measured - half, high: measured + half }
    }

    /// The interval and its point, cut to what is possible.
    pub(super) fn cut(self, least: f64, most: f64) -> Self {
        Self {
            measured: self.measured.clamp(least, most),
            low: self.low.clamp(least, most),
            high: self.high.clamp(least, most),
        }
    }

    /// The same interval, cut to the range of possible values. The point stays as it is.
    pub(super) fn within(self, least: f64, most: f64) -> Self {
        let low = self.low.max(least).min(self.measured);
        Self { measured: self.measured, low, high: self.high.min(most).max(self.measured) }
    }
}

/// The arithmetic mean; `None` for no values.
pub(super) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / count_f64(values.len()))
}

/// The median; `None` for no values.
pub(super) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[values.len().div_ceil(2) - 1];
    Some(f64::midpoint(lower, upper))
}

/// The sample standard deviation; `None` for fewer than two values.
pub(super) fn standard_deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() >= 2).then(|| (squares / (count_f64(values.len()) - 1.0)).sqrt())
}

/// A count as a float; exact below 2⁵³.
pub(crate) const fn count_f64(n: usize) -> f64 {
    n as f64
}

/// Rounds down to an index; negative and undefined values become 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates and makes 0 of NaN, and callers bound the index by a length"
)]
const fn floor_index(value: f64) -> usize {
    value.floor() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_never_exclude_the_figure_itself() {
        let clamped = Interval { measured: 1.5, low: -1.0, high: 3.0 }.within(0.0, 1.0);
        assert_eq!(clamped, Interval { measured: 1.5, low: 0.0, high: 1.5 });
    }
}
