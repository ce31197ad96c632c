//! Single changes that are far larger than those before them.

use super::{LEAST_BEFORE, ROUNDING, WINDOW, largest};
use crate::summarise::count_f64;

/// The multiple of the range between the quartiles of past changes that lies between the upper one and a jump. J. W.
/// Tukey's "far out" (Exploratory Data Analysis, 1977): of normal changes, 1 in 850,000 is larger.
const FAR_OUT: f64 = 3.0;

/// A figure that is larger than the one before it by far more than figures usually are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jump {
    /// The index of the figure.
    pub at: usize,
    /// The largest increase that would have been usual, from the changes before it; at least 0.
    pub usual: f64,
}

/// The jumps of a series: increases beyond the upper quartile and three ranges between the quartiles of up to [`WINDOW`]
/// changes before it, of which there are at least [`LEAST_BEFORE`]. All figures must be finite.
pub fn jumps(figures: &[f64]) -> Vec<Jump> {
    let changes: Vec<f64> = figures.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let rounding = ROUNDING * largest(figures);
    let of = |index: usize| {
        let past = &changes[index.saturating_sub(WINDOW)..index];
        let usual = usual(past)?;
        (changes[index] > usual + rounding).then_some(Jump { at: index + 1, usual })
    };
    (0..changes.len()).filter_map(of).collect()
}

/// The largest usual increase; `None` of too few changes.
fn usual(past: &[f64]) -> Option<f64> {
    if past.len() < LEAST_BEFORE {
        return None;
    }
    let mut sorted = past.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let [lower, upper] = [0.25, 0.75].map(|share| quantile(&sorted, share));
    Some((upper + FAR_OUT * (upper - lower)).max(0.0))
}

/// The quantile of sorted values, between two of them by their distance.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the position lies between 0 and the last index"
)]
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * count_f64(sorted.len() - 1);
    let below = position.floor() as usize;
    let above = sorted[(below + 1).min(sorted.len() - 1)];
    sorted[below] + (above - sorted[below]) * position.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_values() {
        let sorted = [1.0, 2.0, 3.0, 5.0];
        assert_eq!([0.0, 0.25, 0.5, 0.75, 1.0].map(|share| quantile(&sorted, share)), [1.0, 1.75, 2.5, 3.5, 5.0]);
    }

    #[test]
    fn a_jump_needs_twenty_changes_before_it() {
        let series = |before: usize| {
            let mut figures: Vec<f64> = (0..=before).map(|index| [10.0, 11.0][index % 2]).collect();
            figures.push(100.0);
            figures
        };
        assert_eq!(jumps(&series(19)), []);
        // The changes are 1 and −1 by turns, so the quartiles too.
        assert_eq!(jumps(&series(20)), [Jump { at: 21, usual: 7.0 }]);
    }

    #[test]
    fn only_increases_are_jumps() {
        let mut figures = vec![10.0; 30];
        figures.extend([5.0, 5.0, 5.0]);
        assert_eq!(jumps(&figures), []);
        figures.push(6.0);
        assert_eq!(jumps(&figures), [Jump { at: 33, usual: 0.0 }], "without noise, every increase is one");
        assert_eq!(jumps(&[]), []);
        let falling: Vec<f64> = (0..40).map(|index| 100.0 - f64::from(index)).chain([61.0, 61.0]).collect();
        assert_eq!(jumps(&falling), [], "an end of the fall is no increase");
    }

    #[test]
    fn changes_of_long_ago_do_not_count() {
        let wild = (0..40).map(|index| [0.0, 100.0][index % 2]);
        let calm = (0..51).map(|index| [10.0, 11.0][index % 2]);
        let figures: Vec<f64> = wild.chain(calm).chain([30.0]).collect();
        assert_eq!(jumps(&figures), [Jump { at: 91, usual: 7.0 }]);
    }
}
