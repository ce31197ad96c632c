//! Ratios of totals over windows of time.

use super::{Interval, count_f64, dist::t_975};

/// The least number of windows, for three degrees of freedom.
pub(in crate::summarise) const MIN_WINDOWS: usize = 4;

/// Σy / Σx over windows `(x, y)`, with the interval of the ratio estimator (W. G. Cochran, *Sampling Techniques*, 3rd
/// ed., 1977, section 6.3) by Student's t. The windows count as independent. `None` for fewer than four windows or if
/// Σx is 0.
pub(in crate::summarise) fn ratio(windows: &[(f64, f64)]) -> Option<Interval> {
    let sum_x: f64 = windows.iter().map(|&(x, _)| x).sum();
    let sum_y: f64 = windows.iter().map(|&(_, y)| y).sum();
    if windows.len() < MIN_WINDOWS || sum_x <= 0.0 {
        return None;
    }
    let r = sum_y / sum_x;
    let n = count_f64(windows.len());
    let squares: f64 = windows.iter().map(|&(x, y)| (y - r * x).powi(2)).sum();
    let std_error = (n / (n - 1.0) * squares).sqrt() / sum_x;
    Some(Interval::symmetric(r, t_975(n - 1.0) * std_error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_equal_windows_it_is_the_t_interval_of_a_mean() {
        // Mean 3 and sample variance 2.5: the standard error is √(2.5 / 5) and t with 4 degrees of freedom is 2.776445.
        let interval = ratio(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0), (1.0, 4.0), (1.0, 5.0)]).unwrap();
        assert!((interval.measured - 3.0).abs() < 1e-12);
        assert!((interval.high - (3.0 + 2.776_445 * 0.5f64.sqrt())).abs() < 1e-5);
        assert!((interval.low - (3.0 - 2.776_445 * 0.5f64.sqrt())).abs() < 1e-5);
    }

    #[test]
    fn windows_in_proportion_leave_no_doubt() {
        let interval = ratio(&[(1.0, 2.0), (3.0, 6.0), (2.0, 4.0), (5.0, 10.0)]).unwrap();
        assert_eq!(interval, Interval::exact(2.0));
    }

    #[test]
    fn too_little_gives_nothing() {
        assert_eq!(ratio(&[(1.0, 1.0); 3]), None);
        assert_eq!(ratio(&[(0.0, 1.0); 8]), None);
    }
}
