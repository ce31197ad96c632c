//! The slope of a series, robust against outliers and autocorrelation.

use super::{
    Interval, count_f64,
    dist::{Z_975, binomial_quantile, t_975},
    floor_index, mean, standard_deviation,
};

/// The least number of points for a slope.
pub(in crate::summarise) const MIN_POINTS: usize = 4;

/// From this many points on, the slope is that of Theil and Sen.
const ROBUST_FROM: usize = 8;

/// Points are averaged in at most this many blocks of equal length. The number of pairs grows with the square of the
/// number of points, and averages carry as much information.
const MAX_BLOCKS: usize = 64;

/// If some gaps between the points are much wider than most, there are at most this many blocks, so that a block is no
/// shorter than the wide gaps.
const MAX_UNEVEN_BLOCKS: usize = 12;

/// A gap is wide if it is this many times the median one.
const WIDE_GAP: f64 = 4.0;

/// Half of a block has at least two points.
const LEAST_TO_HALVE: usize = 4;

/// The largest autocorrelation that the interval is corrected for. Above it there is hardly more than one independent
/// value.
const MAX_AUTOCORRELATION: f64 = 0.95;

/// A slope and the number of points behind it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::summarise) struct Slope {
    /// Units of y per unit of x.
    pub(in crate::summarise) interval: Interval,
    /// The number of points before averaging.
    pub(in crate::summarise) points: usize,
}

/// The slope of points `(x, y)` in ascending order of x, with its 95 % interval. `None` if the points fill fewer than
/// [`MIN_POINTS`] blocks.
///
/// From 8 blocks on it is the slope of Theil and Sen: the median of the slopes of all pairs. The interval is that of P.
/// K. Sen (J. Am. Stat. Assoc. 63, 1968), which assumes independent values. A service's values are not independent:
/// sessions live for seconds. So the interval is widened about the point by √((1 + ρ) / (1 − ρ)) · t / z. Here ρ is the
/// residuals' autocorrelation at lag one, corrected for its bias after the removal of a trend, (nρ̂ + 2) / (n − 4) (F.
/// H. C. Marriott and J. A. Pope, Biometrika 41, 1954), and t has n(1 − ρ)/(1 + ρ) − 2 degrees of freedom.
///
/// With fewer blocks it is that of least squares, with Student's t. The deviation of the blocks' means is that of the
/// residuals, or that within the blocks if the few residuals happen to be smaller.
///
/// Strongly autocorrelated values, such as a resident set, hold little independent information, so the interval can
/// become uselessly wide. But over these points nothing can have risen or fallen faster than from the least value to
/// the greatest, so point and interval are cut there. docs/explanation/slopes.md gives the false alarms by simulation.
pub(in crate::summarise) fn slope(points: &[(f64, f64)]) -> Option<Slope> {
    let blocks = in_halves_if_few(blocks(points, fitting(points)));
    if blocks.len() < MIN_POINTS {
        return None;
    }
    let means = means(&blocks);
    let interval = if means.len() >= ROBUST_FROM {
        let sen = sen(&means)?;
        let factor = widening(&means, sen.measured);
        Interval {
            measured: sen.measured,
            low: sen.measured - (sen.measured - sen.low) * factor,
            high: sen.measured + (sen.high - sen.measured) * factor,
        }
    } else {
        least_squares(&means, within_blocks(&blocks))?
    };
    let steepest = steepest(&means);
    Some(Slope { interval: interval.cut(-steepest, steepest), points: points.len() })
}

/// The slope of least squares, with the interval of Student's t. `within` is the variance of a mean, from the values
/// within the blocks.
fn least_squares(means: &[(f64, f64)], within: f64) -> Option<Interval> {
    let n = count_f64(means.len());
    let (x, y): (Vec<f64>, Vec<f64>) = means.iter().copied().unzip();
    let (centre_x, centre_y) = (mean(&x)?, mean(&y)?);
    let spread: f64 = x.iter().map(|x| (x - centre_x).powi(2)).sum();
    if spread <= 0.0 {
        return None;
    }
    let slope = means.iter().map(|(x, y)| (x - centre_x) * (y - centre_y)).sum::<f64>() / spread;
    let residuals: f64 = means.iter().map(|(x, y)| (y - centre_y - slope * (x - centre_x)).powi(2)).sum();
    let variance = (residuals / (n - 2.0)).max(within);
    Some(Interval::symmetric(slope, t_975(n - 2.0) * (variance / spread).sqrt()))
}

/// The variance of a block's mean, from the values within the blocks. Neighbours resemble each other, so a block counts
/// as half as many values as it has.
fn within_blocks(blocks: &[&[(f64, f64)]]) -> f64 {
    let several = blocks.iter().filter(|block| block.len() >= 2);
    let variances: Vec<f64> = several
        .filter_map(|block| {
            let values: Vec<f64> = block.iter().map(|point| point.1).collect();
            Some(standard_deviation(&values)?.powi(2) * 2.0 / count_f64(values.len()))
        })
        .collect();
    mean(&variances).unwrap_or(0.0)
}

/// As [`slope`], for values that seldom fall because nothing returns what they count, such as resident off-heap memory.
/// Their residuals are those of a staircase, with so strong an autocorrelation that the widened interval is nearly
/// useless.
///
/// So the steps from point to point also bound the lower end. Values that wander without a trend step down as often as
/// up, autocorrelated or not. The 97.5 % lower bound on the median of independent steps is an order statistic of the
/// steps (the sign test; W. J. Conover, *Practical Nonparametric Statistics*, 3rd ed., 1999, section 3.2). Values
/// without autocorrelation step back and forth, which makes the bound too low rather than too high. It never exceeds
/// the slope from the first point to the last.
pub(in crate::summarise) fn slope_of_stairs(points: &[(f64, f64)]) -> Option<Slope> {
    let mut slope = slope(points)?;
    let thinned = smoothed(points, fitting(points));
    let (first, last) = (thinned.first()?, thinned.last()?);
    let step = |one: &(f64, f64), other: &(f64, f64)| (other.1 - one.1) / (other.0 - one.0);
    let mut steps: Vec<f64> = thinned.array_windows().map(|[one, other]| step(one, other)).collect();
    steps.sort_unstable_by(f64::total_cmp);
    let rank = binomial_quantile(u64::try_from(steps.len()).ok()?, 0.5, 0.025);
    let bound = rank.checked_sub(1).and_then(|index| steps.get(usize::try_from(index).ok()?));
    if let Some(bound) = bound {
        let bound = bound.min(step(first, last)).min(slope.interval.measured);
        slope.interval.low = slope.interval.low.max(bound);
    }
    Some(slope)
}

/// The means of at most this many blocks of equal length, without empty ones.
pub(in crate::summarise) fn smoothed(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    means(&blocks(points, most))
}

/// The points in at most this many blocks of equal length, without empty ones.
fn blocks(points: &[(f64, f64)], most: usize) -> Vec<&[(f64, f64)]> {
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return Vec::new() };
    let length = (last.0 - first.0) / count_f64(most);
    if length <= 0.0 {
        return vec![points];
    }
    let block = |point: &(f64, f64)| floor_index((point.0 - first.0) / length).min(most - 1);
    points.chunk_by(|one, next| block(one) == block(next)).collect()
}

/// The blocks, or the halves of those with readings for two if there are too few. A service without collections of its
/// own has readings in two short windows only, before and after the measuring phase.
fn in_halves_if_few(blocks: Vec<&[(f64, f64)]>) -> Vec<&[(f64, f64)]> {
    if blocks.len() >= MIN_POINTS {
        return blocks;
    }
    let halves = |block: &[(f64, f64)]| if block.len() < LEAST_TO_HALVE { 1 } else { 2 };
    blocks.into_iter().flat_map(|block| block.chunks(block.len().div_ceil(halves(block)))).collect()
}

/// The number of blocks for a slope.
fn fitting(points: &[(f64, f64)]) -> usize {
    if is_even(points) { MAX_BLOCKS } else { MAX_UNEVEN_BLOCKS }
}

fn is_even(points: &[(f64, f64)]) -> bool {
    let mut gaps: Vec<f64> = points.array_windows().map(|[one, next]| next.0 - one.0).collect();
    gaps.sort_unstable_by(f64::total_cmp);
    let (Some(median), Some(widest)) = (gaps.get(gaps.len() / 2), gaps.last()) else { return true };
    *widest <= WIDE_GAP * median
}

fn means(blocks: &[&[(f64, f64)]]) -> Vec<(f64, f64)> {
    let mean_of = |block: &&[(f64, f64)]| {
        let n = count_f64(block.len());
        let (x, y) = block.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0, y + point.1));
        (x / n, y / n)
    };
    blocks.iter().map(mean_of).collect()
}

/// The slope from the least value to the greatest over the whole length. No average slope over the points is steeper.
fn steepest(points: &[(f64, f64)]) -> f64 {
    let range = |value: fn(&(f64, f64)) -> f64| {
        let (low, high) = points
            .iter()
            .map(value)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        high - low
    };
    range(|point| point.1) / range(|point| point.0)
}

/// The median of the pairwise slopes and Sen's interval, for independent values.
fn sen(points: &[(f64, f64)]) -> Option<Interval> {
    let mut slopes = pairwise_slopes(points);
    slopes.sort_unstable_by(f64::total_cmp);
    let pairs = slopes.len();
    let middle = slopes.get(pairs / 2)?;
    let measured = if pairs % 2 == 1 { *middle } else { f64::midpoint(slopes[pairs / 2 - 1], *middle) };
    let spread = Z_975 * kendall_variance(points).sqrt();
    // Sen's ranks, counted from 1 at either end and rounded outwards.
    let rank = floor_index((count_f64(pairs) - spread) / 2.0).max(1);
    Some(Interval { measured, low: slopes[rank - 1], high: slopes[pairs - rank] })
}

fn pairwise_slopes(points: &[(f64, f64)]) -> Vec<f64> {
    let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
    for (i, &(x, y)) in points.iter().enumerate() {
        slopes.extend(points[i + 1..].iter().filter(|later| later.0 > x).map(|later| (later.1 - y) / (later.0 - x)));
    }
    slopes
}

/// The variance of Kendall's S, with its correction for ties in y (M. G. Kendall, *Rank Correlation Methods*, 4th ed.,
/// 1970).
fn kendall_variance(points: &[(f64, f64)]) -> f64 {
    let term = |n: f64| n * (n - 1.0) * (2.0 * n + 5.0);
    let mut values: Vec<f64> = points.iter().map(|point| point.1).collect();
    values.sort_unstable_by(f64::total_cmp);
    let ties: f64 = values.chunk_by(|a, b| a == b).map(|tied| term(count_f64(tied.len()))).sum();
    (term(count_f64(points.len())) - ties) / 18.0
}

/// The factor by which the interval must be wider than Sen's.
fn widening(points: &[(f64, f64)], slope: f64) -> f64 {
    let n = count_f64(points.len());
    let rho = ((n * autocorrelation(points, slope) + 2.0) / (n - 4.0)).clamp(0.0, MAX_AUTOCORRELATION);
    let inflation = (1.0 + rho) / (1.0 - rho);
    inflation.sqrt() * t_975(n / inflation - 2.0) / Z_975
}

/// The autocorrelation of the residuals at lag one.
fn autocorrelation(points: &[(f64, f64)], slope: f64) -> f64 {
    let residuals: Vec<f64> = points.iter().map(|&(x, y)| y - slope * x).collect();
    let Some(centre) = mean(&residuals) else { return 0.0 };
    let squares: f64 = residuals.iter().map(|residual| (residual - centre).powi(2)).sum();
    let products: f64 = residuals.windows(2).map(|pair| (pair[0] - centre) * (pair[1] - centre)).sum();
    if squares > 0.0 { products / squares } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Example of `ci.theil` in the R package statpsych (D. G. Bonett), after Hollander and Wolfe, *Nonparametric
    /// Statistical Methods*: slope 0.5, 95 % interval 0.3243 to 0.75.
    #[test]
    fn the_interval_for_independent_values_is_the_published_one() {
        let y = [21, 4, 9, 12, 35, 18, 10, 22, 24, 1, 6, 8, 13, 16, 19].map(f64::from);
        let x = [67, 28, 30, 28, 52, 40, 25, 37, 44, 10, 14, 20, 28, 40, 51].map(f64::from);
        let mut points: Vec<_> = x.into_iter().zip(y).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let interval = sen(&points).unwrap();
        assert_eq!(interval.measured, 0.5);
        // Sen's ranks are fractions. The package rounds them to the nearest rank and memgate rounds them outwards, by
        // at most one rank.
        let mut slopes = pairwise_slopes(&points);
        slopes.sort_unstable_by(f64::total_cmp);
        let between = |from: f64, to: f64| slopes.iter().filter(|&&slope| from < slope && slope < to).count();
        assert!(interval.low < 0.324_324 && between(interval.low, 0.324_324) == 0, "{interval:?}");
        assert!(interval.high > 0.75 && between(0.75, interval.high) == 0, "{interval:?}");
    }

    #[test]
    fn a_straight_line_has_its_own_slope() {
        let points: Vec<_> = (0..200).map(|i| (f64::from(i), 3.0 * f64::from(i) + 1.0)).collect();
        let slope = slope(&points).unwrap();
        assert!((slope.interval.measured - 3.0).abs() < 1e-9 && (slope.interval.high - 3.0).abs() < 1e-9);
        assert_eq!(slope.points, 200);
    }

    /// Σ(x − x̄)² is 10, Σ(x − x̄)(y − ȳ) is 6, and the residuals' squares add up to 2.4. The 97.5 % point of t with 3
    /// degrees of freedom is 3.182.
    #[test]
    fn least_squares_are_those_of_textbooks() {
        let points = [(1.0, 2.0), (2.0, 4.0), (3.0, 5.0), (4.0, 4.0), (5.0, 5.0)];
        let half = 3.182_446 * (0.8f64 / 10.0).sqrt();
        let interval = least_squares(&points, 0.0).unwrap();
        let Interval { measured, low, high } = interval;
        assert!((measured - 0.6).abs() < 1e-12, "{interval:?}");
        assert!((measured - low - half).abs() < 1e-6 && (high - measured - half).abs() < 1e-6, "{interval:?}");
        // The values within the blocks say that the means are worse than that.
        let interval = least_squares(&points, 3.2).unwrap();
        assert!((interval.high - interval.measured - 2.0 * half).abs() < 1e-6, "{interval:?}");
        assert_eq!(least_squares(&[(1.0, 2.0); 5], 0.0), None);
    }

    #[test]
    fn one_outlier_moves_nothing() {
        let mut points: Vec<_> = (0..30).map(|i| (f64::from(i), 2.0 * f64::from(i))).collect();
        points[7].1 = 1e9;
        assert_eq!(slope(&points).unwrap().interval.measured, 2.0);
    }

    #[test]
    fn a_flat_series_has_slope_0_and_no_doubt() {
        let points: Vec<_> = (0..12).map(|i| (f64::from(i), 5e9)).collect();
        assert_eq!(slope(&points).unwrap().interval, Interval::exact(0.0));
    }

    #[test]
    fn two_groups_of_points_far_apart_have_the_slope_between_them() {
        let groups = |each: u32, gap: f64| -> Vec<(f64, f64)> {
            let point = |x: f64, i: u32| (x, 2.0 * x + f64::from(i % 2));
            let of = |from: f64| (0..each).map(move |i| point(from + f64::from(i), i));
            of(0.0).chain(of(gap)).collect()
        };
        let slope_of = |each, gap| slope(&groups(each, gap)).map(|slope| slope.interval);
        let found = slope_of(8, 1000.0).unwrap();
        assert!((found.measured - 2.0).abs() < 0.01 && found.low > 1.98 && found.high < 2.02, "{found:?}");
        assert_eq!(slope_of(3, 1000.0), None, "halves would be of one point");
        let odd = groups(7, 1000.0);
        let lengths: Vec<_> = in_halves_if_few(vec![&odd[..7], &odd[7..]]).iter().map(|half| half.len()).collect();
        assert_eq!(lengths, [4, 3, 4, 3]);
        assert_eq!(slope(&groups(8, 1000.0)[..8]).map(|slope| slope.points), Some(8), "one group is a series");
    }

    #[test]
    fn too_little_gives_nothing() {
        assert_eq!(slope(&[(0.0, 1.0); MIN_POINTS - 1]), None);
        assert_eq!(slope(&[(0.0, 1.0); 20]), None);
    }
}
