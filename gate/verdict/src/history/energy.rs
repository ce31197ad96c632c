//! The place that divides a series best, by the energy distance of its two parts.
//!
//! The measure is Q of D. S. Matteson and N. A. James, "A Nonparametric Approach for Multiple Change Point Analysis of
//! Multivariate Data", JASA 109, 2014, with α = 1. Their second part may end before the series does. Here it is the whole
//! rest, because the parts are searched in turn.

use std::ops::RangeInclusive;

use crate::summarise::count_f64;

/// Two places whose measures differ by less than this share divide the series alike. Rounding must not decide.
const ALIKE: f64 = 1e-9;

/// The place among `allowed` that divides the figures best: the index of the first figure of the second part. The first
/// of several that do it alike; `None` if no place divides them at all.
pub(super) fn best_split(figures: &[f64], allowed: RangeInclusive<usize>) -> Option<usize> {
    let measures = measures(figures);
    let possible = || measures.iter().copied().enumerate().filter(|(place, _)| allowed.contains(place));
    let most = possible().map(|(_, measure)| measure).fold(0.0, f64::max);
    possible().find(|(_, measure)| most > 0.0 && *measure >= most * (1.0 - ALIKE)).map(|(place, _)| place)
}

/// Q of every place; 0 at the ends. One figure alone has no distances within. It is taken to have those of the other
/// part, so that noise alone makes no place better than another.
fn measures(figures: &[f64]) -> Vec<f64> {
    let distances = |from: &[f64], figure: f64| from.iter().map(|other| (figure - other).abs()).sum::<f64>();
    let mean = |sum: f64, n: f64| (n >= 2.0).then(|| sum / (n * (n - 1.0) / 2.0));
    // The sums of the distances between all pairs of the first part, of the second part, and from one to the other.
    let (mut first, mut between) = (0.0, 0.0);
    let mut second: f64 =
        figures.iter().enumerate().map(|(index, figure)| distances(&figures[index + 1..], *figure)).sum();
    let mut measures = vec![0.0; figures.len()];
    for (index, &figure) in figures.iter().enumerate().take(figures.len().saturating_sub(1)) {
        let place = index + 1;
        let (behind, ahead) = (distances(&figures[..index], figure), distances(&figures[place..], figure));
        first += behind;
        second -= ahead;
        between += ahead - behind;
        let (n, m) = (count_f64(place), count_f64(figures.len() - place));
        let within = match (mean(first, n), mean(second, m)) {
            (Some(first), Some(second)) => first + second,
            (Some(one), None) | (None, Some(one)) => 2.0 * one,
            (None, None) => 0.0,
        };
        measures[place] = (2.0 * between / (n * m) - within) * n * m / (n + m);
    }
    measures
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, term by term.
    fn measure(figures: &[f64], place: usize) -> f64 {
        let (x, y) = figures.split_at(place);
        let mean = |pairs: Vec<f64>| pairs.iter().sum::<f64>() / count_f64(pairs.len());
        let within = |part: &[f64]| {
            let pairs = (0..part.len()).flat_map(|i| (0..i).map(move |k| (i, k)));
            mean(pairs.map(|(i, k)| (part[i] - part[k]).abs()).collect())
        };
        let between = mean(x.iter().flat_map(|a| y.iter().map(move |b| (a - b).abs())).collect());
        let (n, m) = (count_f64(x.len()), count_f64(y.len()));
        n * m / (n + m) * (2.0 * between - within(x) - within(y))
    }

    #[test]
    fn the_measure_is_the_definition() {
        let figures = [1.0, 4.0, 2.0, 8.0, 5.0, 7.0, 1.5, 3.0];
        let measures = measures(&figures);
        for (place, found) in measures.iter().enumerate().take(7).skip(2) {
            assert!((found - measure(&figures, place)).abs() < 1e-12, "{place}");
        }
        assert_eq!(measures[0], 0.0);
        // The distances of the first figure to the others, less twice the mean distance between those.
        let others = [4.0, 2.0, 8.0, 5.0, 7.0, 1.5, 3.0];
        let pairs = (0..7).flat_map(|i| (0..i).map(move |k| (i, k)));
        let within = pairs.map(|(i, k)| f64::abs(others[i] - others[k])).sum::<f64>() / 21.0;
        let between = others.iter().map(|other| other - 1.0).sum::<f64>() / 7.0;
        assert!((measures[1] - 7.0 / 8.0 * 2.0 * (between - within)).abs() < 1e-12);
    }

    #[test]
    fn a_step_is_divided_where_it_is() {
        let figures: Vec<f64> = (0..30).map(|index| if index < 12 { 5.0 } else { 6.0 }).collect();
        assert_eq!(best_split(&figures, 2..=28), Some(12));
        assert_eq!(best_split(&figures, 15..=28), Some(15), "the nearest that is allowed");
        assert_eq!(best_split(&[5.0; 30], 2..=28), None);
        let none = RangeInclusive::new(20, 19);
        assert_eq!(best_split(&figures, none), None);
        assert_eq!(best_split(&[], 0..=0), None);
        let mut spike = vec![1.0; 20];
        spike.push(9.0);
        assert_eq!(best_split(&spike, 1..=20), Some(20), "one figure alone");
    }
}
