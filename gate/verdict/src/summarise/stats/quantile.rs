//! Percentiles by order statistics.

use super::{Interval, dist::binomial_quantile};

/// Values with the number of occurrences of each, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::summarise) struct Tally {
    counts: Vec<(u64, u64)>,
    total: u64,
}

impl Tally {
    /// Counts values; `None` if the count does not fit a `u64`.
    pub(in crate::summarise) fn new(counts: impl IntoIterator<Item = (u64, u64)>) -> Option<Self> {
        let mut counts: Vec<_> = counts.into_iter().filter(|&(_, count)| count > 0).collect();
        counts.sort_unstable();
        let total = counts.iter().try_fold(0u64, |sum, &(_, count)| sum.checked_add(count))?;
        Some(Self { counts, total })
    }

    /// The number of values.
    pub(in crate::summarise) const fn total(&self) -> u64 {
        self.total
    }

    /// The largest value; 0 if there are none.
    pub(in crate::summarise) fn max(&self) -> u64 {
        self.counts.last().map_or(0, |&(value, _)| value)
    }

    /// The `rank`-th smallest value, counted from 1; the largest for any higher rank.
    fn at_rank(&self, rank: u64) -> u64 {
        let mut seen = 0;
        for &(value, count) in &self.counts {
            seen += count;
            if seen >= rank {
                return value;
            }
        }
        self.max()
    }
}

/// The number of values that a one-sided 95 % upper bound on a percentile needs: the least `n` with `pⁿ ≤ 0.05`, which
/// is 299 for a p99 and 29 for a p90.
fn needed(percent: u32) -> f64 {
    (0.05f64.ln() / (f64::from(percent) / 100.0).ln()).ceil()
}

/// A percentile with its distribution-free interval, and a remark if necessary.
///
/// With enough values the point is the ⌈pn⌉-th smallest one. The interval extends from the largest rank that lies below
/// the percentile with 97.5 % confidence to the smallest rank that lies above it with 97.5 %. The ranks follow from the
/// binomial distribution (W. J. Conover, *Practical Nonparametric Statistics*, 3rd ed., 1999, section 3.2). If no rank
/// lies above it, the upper end is the maximum, which bounds the percentile with 95 % confidence if there are at least
/// `needed` values.
///
/// With fewer values nothing bounds the percentile from above. The result is then the maximum, and the remark says so.
pub(in crate::summarise) fn percentile(tally: &Tally, percent: u32, noun: &str) -> (Interval, String) {
    let n = tally.total();
    let p = f64::from(percent) / 100.0;
    let low_rank = binomial_quantile(n, p, 0.025);
    // Durations are not negative, so 0 bounds the percentile if no rank does.
    let low = if low_rank == 0 { 0.0 } else { tally.at_rank(low_rank) as f64 };
    let max = tally.max() as f64;
    if (n as f64) < needed(percent) {
        let remark = format!("max of {n} {noun} (a p{percent} needs {})", needed(percent));
        return (Interval { measured: max, low, high: max }, remark);
    }
    let high_rank = binomial_quantile(n, p, 0.975).saturating_add(1);
    let high = if high_rank > n { max } else { tally.at_rank(high_rank) as f64 };
    let measured = tally.at_rank(point_rank(n, percent)) as f64;
    (Interval { measured, low, high }, String::new())
}

/// ⌈pn⌉.
fn point_rank(n: u64, percent: u32) -> u64 {
    u64::try_from((u128::from(n) * u128::from(percent)).div_ceil(100)).unwrap_or(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up_to(n: u64) -> Tally {
        Tally::new((1..=n).map(|value| (value, 1))).unwrap()
    }

    #[test]
    fn a_bound_on_a_p99_needs_299_values_and_one_on_a_p90_needs_29() {
        assert_eq!(needed(99), 299.0);
        assert_eq!(needed(90), 29.0);
    }

    #[test]
    fn with_too_few_values_the_maximum_is_judged() {
        let (interval, remark) = percentile(&up_to(57), 99, "pauses");
        assert_eq!((interval.measured, interval.high), (57.0, 57.0));
        // P(Bin(57, 0.99) ≤ 54) = 0.0195 < 0.025 ≤ 0.1089 = P(Bin(57, 0.99) ≤ 55), so the 55th bounds the p99 from
        // below.
        assert_eq!(interval.low, 55.0);
        assert_eq!(remark, "max of 57 pauses (a p99 needs 299)");
        assert_eq!(percentile(&up_to(28), 90, "pauses").1, "max of 28 pauses (a p90 needs 29)");
    }

    #[test]
    fn with_just_enough_values_the_maximum_is_the_upper_bound() {
        let (interval, remark) = percentile(&up_to(299), 99, "pauses");
        assert_eq!((interval.measured, interval.high), (297.0, 299.0));
        assert_eq!(remark, "");
    }

    #[test]
    fn ranks_are_those_of_the_binomial_distribution() {
        // For a p90 of 100 values, Bin(100, 0.9) has P(X ≤ 83) = 0.0206 and P(X ≤ 84) = 0.0399 below, and P(X ≤ 94) =
        // 0.9424 and P(X ≤ 95) = 0.9763 above: ranks 84 and 96.
        let (interval, _) = percentile(&up_to(100), 90, "pauses");
        assert_eq!(interval, Interval { measured: 90.0, low: 84.0, high: 96.0 });
    }

    #[test]
    fn equal_values_count_as_often_as_they_occur() {
        let tally = Tally::new([(10, 990), (20, 0), (50, 10)]).unwrap();
        let (interval, _) = percentile(&tally, 99, "requests");
        assert_eq!(interval, Interval { measured: 10.0, low: 10.0, high: 50.0 });
        assert_eq!(tally.total(), 1000);
    }

    #[test]
    fn a_sum_that_does_not_fit_is_refused() {
        assert_eq!(Tally::new([(1, u64::MAX), (2, 1)]), None);
    }
}
