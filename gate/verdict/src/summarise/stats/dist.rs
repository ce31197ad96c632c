//! Quantiles of the distributions that the estimators use.

use statrs::distribution::{Beta, Binomial, ContinuousCDF, DiscreteCDF, Gamma, Normal, StudentsT};

/// The 97.5 % point of the standard normal distribution.
pub(in crate::summarise) const Z_975: f64 = 1.959_963_984_540_054;

/// Above this many values the normal approximation of the binomial distribution is off by far less than one rank in a
/// hundred, and the exact one is not worth its cost.
const BINOMIAL_EXACT_UP_TO: u64 = 1_000_000;

/// From here on, Student's t agrees with the normal distribution to three digits.
const NORMAL_FROM: f64 = 1000.0;

/// The 97.5 % point of Student's t distribution with `freedom` degrees of freedom, at least 1.
pub(super) fn t_975(freedom: f64) -> f64 {
    if freedom >= NORMAL_FROM { Z_975 } else { t_quantile(0.975, freedom) }
}

/// The quantile of Student's t distribution with `freedom` degrees of freedom, at least 1, for a probability from 0.5
/// to 1 − 10⁻⁷, and at most 10⁹.
pub fn t_quantile(probability: f64, freedom: f64) -> f64 {
    // With one degree of freedom, the least possible, the point of 99.99 % is 3183.1, and that of 1 − 10⁻⁷ is 3.2 ·
    // 10⁶.
    let freedom = freedom.clamp(1.0, NORMAL_FROM);
    StudentsT::new(0.0, 1.0, freedom).map_or(f64::NAN, |t| {
        let (low, high) = if t.cdf(4096.0) < probability { (4096.0, 1e9) } else { (0.0, 4096.0) };
        bisect(|x| t.cdf(x), probability, low, high)
    })
}

/// The smallest `x` with P(X ≤ x) ≥ `probability`, for X binomial with `n` trials of chance `p`.
pub(super) fn binomial_quantile(n: u64, p: f64, probability: f64) -> u64 {
    if n > BINOMIAL_EXACT_UP_TO {
        return binomial_quantile_by_normal(n, p, probability);
    }
    Binomial::new(p, n).map_or(n, |binomial| binomial.inverse_cdf(probability))
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is bounded by 0 and `n`, and `as` saturates"
)]
fn binomial_quantile_by_normal(n: u64, p: f64, probability: f64) -> u64 {
    let z = if probability < 0.5 { -Z_975 } else { Z_975 };
    let n_f64 = n as f64;
    ((n_f64 * p + z * (n_f64 * p * (1.0 - p)).sqrt()).ceil().max(0.0) as u64).min(n)
}

/// The quantile of the beta distribution.
pub(super) fn beta_quantile(a: f64, b: f64, probability: f64) -> f64 {
    Beta::new(a, b).map_or(f64::NAN, |beta| bisect(|x| beta.cdf(x), probability, 0.0, 1.0))
}

/// The point between `low` and `high` where an increasing function reaches `target`.
///
/// statrs 0.19.1 inverts the beta distribution, and with it Student's t, by Newton's method without a bound on its
/// steps (`inv_beta_reg`). For a share of 0 in 10⁷ trials it never returns. Bisection always does.
fn bisect(function: impl Fn(f64) -> f64, target: f64, mut low: f64, mut high: f64) -> f64 {
    loop {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            return middle;
        }
        if function(middle) < target {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// The quantile of the standard normal distribution.
pub(super) fn normal_quantile(probability: f64) -> f64 {
    Normal::standard().inverse_cdf(probability)
}

/// The quantile of the gamma distribution with rate 1.
pub(super) fn gamma_quantile(shape: f64, probability: f64) -> f64 {
    Gamma::new(shape, 1.0).map_or(f64::NAN, |gamma| gamma.inverse_cdf(probability))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_printed_tables() {
        assert!((normal_quantile(0.975) - Z_975).abs() < 1e-9);
        for (freedom, expected) in [(1.0, 12.706), (2.0, 4.303), (10.0, 2.228), (30.0, 2.042), (1e6, 1.960)] {
            assert!((t_975(freedom) - expected).abs() < 1e-3, "t with {freedom} degrees of freedom");
        }
        assert!((t_quantile(0.999, 5.0) - 5.893).abs() < 1e-3 && (t_quantile(0.9995, 1.0) - 636.6).abs() < 0.1);
        // With one degree of freedom, the quantile is that of Cauchy's distribution: 1 / tan(π · α).
        for alpha in [1e-5, 2.5e-7] {
            let exact = 1.0 / (std::f64::consts::PI * alpha).tan();
            assert!((t_quantile(1.0 - alpha, 1.0) / exact - 1.0).abs() < 1e-4, "{alpha}: {exact}");
        }
        // 0.025 and 0.975 points of the chi-squared distribution with 20 degrees of freedom: 9.591 and 34.170.
        assert!((2.0 * gamma_quantile(10.0, 0.025) - 9.591).abs() < 1e-3);
        assert!((2.0 * gamma_quantile(10.0, 0.975) - 34.170).abs() < 1e-3);
    }

    #[test]
    fn the_normal_approximation_joins_the_exact_quantile() {
        for probability in [0.025, 0.975] {
            let exact = binomial_quantile(BINOMIAL_EXACT_UP_TO, 0.99, probability);
            let approximate = binomial_quantile_by_normal(BINOMIAL_EXACT_UP_TO, 0.99, probability);
            assert!(exact.abs_diff(approximate) <= 1, "{exact} and {approximate}");
            let many = 1_000 * BINOMIAL_EXACT_UP_TO;
            let of_many = binomial_quantile_by_normal(many, 0.99, probability);
            assert_eq!(binomial_quantile(many, 0.99, probability), of_many);
        }
    }
}
