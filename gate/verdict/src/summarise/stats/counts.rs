//! Counts of events, and shares of a count.

use super::{
    Interval, count_f64,
    dist::{beta_quantile, gamma_quantile, normal_quantile, t_975},
    mean, standard_deviation,
};

/// Events in a stretch of time.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::summarise) struct Events {
    /// How many there were.
    pub(in crate::summarise) count: u64,
    /// The length of the stretch, minutes.
    pub(in crate::summarise) minutes: f64,
    /// The times between one event and the next, minutes.
    pub(in crate::summarise) gaps: Vec<f64>,
}

/// Counts up to this one have the exact interval.
const CLOPPER_PEARSON_UP_TO: u64 = 1_000_000;

/// From this many gaps on, their spread is known well enough.
const MIN_GAPS: usize = 8;

/// Events per minute.
///
/// Collections are far more regular than a Poisson process, so the interval follows from the times between them, as for
/// a renewal process: Var N = N·cv² + 1/6 (D. R. Cox, *Renewal Theory*, 1962, section 4.5, without the terms of third
/// order). With few gaps it is the exact interval of a Poisson mean (F. Garwood, Biometrika 28, 1936).
pub(in crate::summarise) fn rate_of_events(events: &Events) -> Interval {
    let Events { count, minutes, gaps } = events;
    let count = *count as f64;
    let spread = standard_deviation(gaps).zip(mean(gaps)).filter(|&(_, mean)| mean > 0.0);
    let interval = match spread {
        Some((sd, mean)) if gaps.len() >= MIN_GAPS => {
            let variance = count * (sd / mean).powi(2) + 1.0 / 6.0;
            Interval::symmetric(count, t_975(count_f64(gaps.len()) - 1.0) * variance.sqrt())
        }
        _ => garwood(count),
    };
    Interval { measured: count / minutes, low: interval.low / minutes, high: interval.high / minutes }
        .within(0.0, f64::MAX)
}

fn garwood(count: f64) -> Interval {
    let low = if count > 0.0 { gamma_quantile(count, 0.025) } else { 0.0 };
    Interval { measured: count, low, high: gamma_quantile(count + 1.0, 0.975) }
}

/// The share `part / whole` with its 95 % interval ([`share_within`]). `whole` is at least 1 and at least `part`.
pub(in crate::summarise) fn share(part: u64, whole: u64) -> Interval {
    share_within(part, whole, 0.025)
}

/// The share `part / whole` with the interval of C. J. Clopper and E. S. Pearson (Biometrika 26, 1934). The true share
/// lies below it with a probability of at most `alpha`, and above it likewise. Without a whole it is 0 to 1.
///
/// Beyond a million, the continued fraction behind the beta distribution loses its digits. There the interval is the
/// score interval of E. B. Wilson (J. Am. Stat. Assoc. 22, 1927), which lies within two events of the exact one.
pub(in crate::summarise) fn share_within(part: u64, whole: u64, alpha: f64) -> Interval {
    let (k, n) = (part as f64, whole as f64);
    if whole == 0 {
        return Interval { measured: 0.0, low: 0.0, high: 1.0 };
    }
    if whole > CLOPPER_PEARSON_UP_TO {
        return wilson(k, n, normal_quantile(1.0 - alpha));
    }
    let low = if part == 0 { 0.0 } else { beta_quantile(k, n - k + 1.0, alpha) };
    let high = if part == whole { 1.0 } else { beta_quantile(k + 1.0, n - k, 1.0 - alpha) };
    Interval { measured: k / n, low, high }.within(0.0, 1.0)
}

/// The upper bound of the share `part / whole`, which is too low with a probability of at most `alpha`: the upper end of
/// the interval of Clopper and Pearson. `whole` is at least `part`. Without a whole it is 1.
pub fn share_at_most(part: u64, whole: u64, alpha: f64) -> f64 {
    share_within(part, whole, alpha).high
}

fn wilson(k: f64, n: f64, z: f64) -> Interval {
    let (p, z2) = (k / n, z * z);
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    Interval { measured: p, low: centre - half, high: centre + half }.within(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::{super::dist::Z_975, *};

    #[test]
    fn few_events_have_garwoods_interval() {
        // Garwood's table, 95 %: 4 events have 1.090 to 10.242, none have 0 to 3.689.
        let four = rate_of_events(&Events { count: 4, minutes: 2.0, gaps: vec![0.5; 3] });
        assert!((four.measured - 2.0).abs() < 1e-12);
        assert!((four.low - 1.090 / 2.0).abs() < 1e-3 && (four.high - 10.242 / 2.0).abs() < 1e-3);
        assert!((garwood(0.0).high - 3.689).abs() < 1e-3);
    }

    #[test]
    fn regular_events_are_known_up_to_a_fraction_of_one() {
        let clockwork = rate_of_events(&Events { count: 60, minutes: 1.0, gaps: vec![1.0 / 60.0; 59] });
        assert!((clockwork.measured - 60.0).abs() < 1e-12);
        assert!((clockwork.high - 60.0 - 2.0 * (1.0f64 / 6.0).sqrt()).abs() < 0.01, "{clockwork:?}");
    }

    #[test]
    fn shares_have_the_published_interval() {
        // Clopper and Pearson for 10 of 100: 0.0490 to 0.1762; for 0 of 100: 1 − 0.025^(1/100) = 0.0362.
        let tenth = share(10, 100);
        assert!((tenth.low - 0.0490).abs() < 1e-4 && (tenth.high - 0.1762).abs() < 1e-4, "{tenth:?}");
        let none = share(0, 100);
        assert!(none.low == 0.0 && (none.high - 0.0362).abs() < 1e-4, "{none:?}");
        assert!((share(0, 3_688).high - 0.001).abs() < 1e-6);
        assert_eq!(share(5, 5).high, 1.0);
    }

    #[test]
    fn no_event_among_few_is_no_share_of_zero() {
        // The share at which a series without any event has a chance of 5 %: 1 − 0.05^(1/n).
        for whole in [1, 3, 40, 200] {
            let exact = 1.0 - 0.05f64.powf(1.0 / whole as f64);
            assert!((share_at_most(0, whole, 0.05) - exact).abs() < 1e-9, "{whole}");
        }
        assert_eq!((share_at_most(3, 3, 0.05), share_at_most(0, 0, 0.05)), (1.0, 1.0));
    }

    #[test]
    fn the_exact_interval_joins_wilsons() {
        for part in [0, 1, 10, 1_000_000, CLOPPER_PEARSON_UP_TO / 2, CLOPPER_PEARSON_UP_TO] {
            let exact = share(part, CLOPPER_PEARSON_UP_TO);
            let approximate = wilson(part as f64, CLOPPER_PEARSON_UP_TO as f64, Z_975);
            assert!(exact.low <= exact.measured && exact.measured <= exact.high);
            let apart = (exact.high - approximate.high).abs().max((exact.low - approximate.low).abs());
            assert!(apart * CLOPPER_PEARSON_UP_TO as f64 <= 2.0, "{part}: {exact:?} and {approximate:?}");
        }
    }

    #[test]
    fn beyond_what_the_beta_distribution_can_the_interval_is_wilsons() {
        let whole = 3 * CLOPPER_PEARSON_UP_TO;
        let (alpha, z) = (0.025, normal_quantile(0.975));
        assert_eq!(share_within(7, whole, alpha), wilson(7.0, whole as f64, z));
        assert_ne!(share_within(7, CLOPPER_PEARSON_UP_TO, alpha), wilson(7.0, CLOPPER_PEARSON_UP_TO as f64, z));
    }

    #[test]
    fn shares_of_huge_counts_stay_finite() {
        for (part, whole) in [(0, u64::MAX), (1, u64::MAX), (u64::MAX / 2, u64::MAX), (u64::MAX, u64::MAX)] {
            let share = share(part, whole);
            assert!(share.low.is_finite() && share.high.is_finite(), "{part} of {whole}: {share:?}");
        }
    }
}
