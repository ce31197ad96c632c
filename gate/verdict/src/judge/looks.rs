//! After how many runs a gate is decided, and how sure it must then be.
//!
//! Runs are fresh processes. memgate looks after two, three, four and six of them, and stops as soon as every gate is
//! decided. Healthy code ends at the first look.
//!
//! A failure needs two sets of runs that each say so by themselves: the first half of the runs, and the rest, which are
//! fresh. So one disturbed process fails nothing.

/// memgate looks at the gates after these numbers of runs.
const LOOKS: [usize; 4] = [2, 3, 4, 6];

/// The most runs that memgate adds up to on its own.
pub const MOST_RUNS: usize = LOOKS[LOOKS.len() - 1];

/// The number of runs after which memgate looks again; `None` after the last look.
pub(super) fn next(runs: usize) -> Option<usize> {
    LOOKS.into_iter().find(|&look| look > runs)
}

/// The chance that noise alone takes one of the two sets of runs for a failure, for each gate.
///
/// Both must, so the chance for a gate is the square: summed over the four looks it is at most 1.5 · 10⁻⁵, and 0.04 %
/// for thirty gates. docs/explanation/statistics.md counts the failures of recorded healthy runs.
pub(super) const fn alpha(runs: usize) -> f64 {
    match runs {
        0..=2 => 0.0005,
        3 => 0.001,
        4 | 5 => 0.002,
        _ => 0.003,
    }
}

/// The runs in two sets: the first half, and the rest. `None` for fewer than two runs.
pub(super) fn sets<T>(runs: &[T]) -> Option<(&[T], &[T])> {
    (runs.len() >= 2).then(|| runs.split_at(runs.len().div_ceil(2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_end_and_healthy_code_needs_two_runs() {
        let looks: Vec<_> = std::iter::successors(Some(0), |&runs| next(runs)).collect();
        assert_eq!(looks, [0, 2, 3, 4, 6]);
        assert_eq!((next(5), next(6), next(60), MOST_RUNS), (Some(6), None, None, 6));
    }

    #[test]
    fn each_run_is_in_one_set() {
        assert_eq!(sets(&[1]), None);
        for runs in 2..=8 {
            let all: Vec<_> = (0..runs).collect();
            let (first, rest) = sets(&all).unwrap();
            assert_eq!([first, rest].concat(), all);
            assert!(first.len() - rest.len() <= 1 && !rest.is_empty());
        }
    }

    /// The family of all gates, each with a limit and a recorded figure, over all looks.
    #[test]
    fn noise_alone_seldom_fails_a_check() {
        let gates = 2.0 * crate::metric::Metric::ALL.len() as f64;
        let per_gate: f64 = LOOKS.into_iter().map(|look| alpha(look).powi(2)).sum();
        assert!(gates * per_gate <= 0.001, "{per_gate}");
    }
}
