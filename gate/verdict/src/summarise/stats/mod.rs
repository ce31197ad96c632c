//! The estimators. Each states its source and the assumptions of its interval. Quantiles of distributions come from
//! `statrs`.

mod counts;
mod dist;
mod quantile;
mod ratio;
mod slope;

pub(super) use counts::{Events, rate_of_events, share};
pub(super) use quantile::{Tally, percentile};
pub(super) use ratio::ratio;
pub(super) use slope::{MIN_POINTS, Slope, combine, slope, slope_of_stairs};

use dist::Z_975;

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

    /// The same interval, cut to the range of possible values.
    pub(super) fn within(self, least: f64, most: f64) -> Self {
        let low = self.low.max(least).min(self.measured);
        Self { measured: self.measured, low, high: self.high.min(most).max(self.measured) }
    }

    /// The interval, widened if the runs differ by more than it allows for.
    ///
    /// Windows of one process do not show how processes differ from each other. This is the Birge ratio with equal
    /// weights (R. T. Birge, Phys. Rev. 40, 207, 1932; the scale factor S of the Particle Data Group): the half-width
    /// is at least 1.96 standard errors of the mean of the runs' own figures.
    pub(super) fn widened_to_spread(self, of_each_run: &[f64]) -> Self {
        let Some(sd) = standard_deviation(of_each_run) else { return self };
        let half = Z_975 * sd / count_f64(of_each_run.len()).sqrt();
        Self {
            measured: self.measured,
            low: self.low.min(self.measured - half),
            high: self.high.max(self.measured + half),
        }
    }
}

/// The arithmetic mean; `None` for no values.
fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / count_f64(values.len()))
}

/// The sample standard deviation; `None` for fewer than two values.
fn standard_deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (values.len() >= 2).then(|| (squares / (count_f64(values.len()) - 1.0)).sqrt())
}

/// A count as a float; exact below 2⁵³.
pub(super) const fn count_f64(n: usize) -> f64 {
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
    fn an_interval_widens_to_the_spread_of_the_runs_and_never_narrows() {
        let narrow = Interval::symmetric(10.0, 0.1);
        let widened = narrow.widened_to_spread(&[9.0, 11.0]);
        // The standard deviation of {9, 11} is √2, and √2 / √2 = 1.
        assert!((widened.high - (10.0 + Z_975)).abs() < 1e-12);
        assert!((widened.low - (10.0 - Z_975)).abs() < 1e-12);
        assert_eq!(narrow.widened_to_spread(&[10.0, 10.0]), narrow);
        assert_eq!(narrow.widened_to_spread(&[10.0]), narrow);
    }

    #[test]
    fn bounds_never_exclude_the_figure_itself() {
        let clamped = Interval { measured: 1.5, low: -1.0, high: 3.0 }.within(0.0, 1.0);
        assert_eq!(clamped, Interval { measured: 1.5, low: 0.0, high: 1.5 });
    }
}
