//! The places from which on a series has another level.
//!
//! E-divisive proposes places and Student's t-test confirms them, as at MongoDB (D. Daly et al., "The Use of Change Point
//! Detection to Identify Software Performance Regressions in a Continuous Integration System", ICPE 2020, whose
//! permutation test is by chance) and in Hunter (M. Fleming et al., "Hunter: Using Change Point Detection to Hunt for
//! Performance Regressions", ICPE 2023, which replaces it by the t-test): the same history has the same marks. From
//! Hunter are also the windows, and that a place is proposed on weaker grounds than it is confirmed on, because a window
//! with two steps in opposite directions divides badly at either.

use std::{cmp::Ordering, ops::Range};

use statrs::distribution::{ContinuousCDF, StudentsT};

use super::{LEAST_AFTER, LEAST_BEFORE, ROUNDING, SIGNIFICANT, WINDOW, energy::best_split, largest};
use crate::summarise::count_f64;

/// A place is proposed if its p is below this, and confirmed if it is below [`SIGNIFICANT`] beside its neighbours.
const PROPOSED: f64 = 0.01;

/// A place from which on a series has another level.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChangePoint {
    /// The index of the first figure of the new level.
    pub at: usize,
    /// The mean of the old level: of at most [`WINDOW`] figures back to the mark before.
    pub before: f64,
    /// The mean of the new level: of at most [`WINDOW`] figures up to the next mark.
    pub after: f64,
    /// The chance of as large a difference if both were one level of normal noise: Student's t-test, two-sided. It does
    /// not account for the choice of the place.
    pub p: f64,
}

/// The change points of a series, in its order. All figures must be finite.
///
/// None is among the first [`LEAST_BEFORE`] figures. A level that ends there counts for nothing, or a later mark would
/// compare with two levels.
pub fn change_points(figures: &[f64]) -> Vec<ChangePoint> {
    let mut marks: Vec<usize> = Vec::new();
    for window in windows(figures.len()) {
        propose(figures, &window, window.clone(), &mut marks);
    }
    marks.sort_unstable();
    marks.dedup();
    drop_crowded(figures, &mut marks);
    confirm(figures, &mut marks);
    let level = |(index, &at): (usize, &usize)| {
        let (before, after) = sides(figures, &marks, index);
        ChangePoint { at, before: mean(before), after: mean(after), p: Test::of(before, after).p }
    };
    marks.iter().enumerate().map(level).filter(|mark| mark.at >= LEAST_BEFORE).collect()
}

/// Windows that overlap by half, and one that ends with the last figure. A place that a window has too few figures
/// before or after lies well inside of another.
fn windows(figures: usize) -> Vec<Range<usize>> {
    let last = figures.saturating_sub(WINDOW);
    let starts = (0..last).step_by(WINDOW / 2).chain([last]);
    starts.map(|start| start..figures.min(start + WINDOW)).collect()
}

/// Divides a part of a window, and its parts.
///
/// The best place is searched for up to the ends of the window, also where it is no mark: a level that is too short there
/// must not shift a mark to the nearest place that is allowed.
fn propose(figures: &[f64], window: &Range<usize>, part: Range<usize>, marks: &mut Vec<usize>) {
    let distance = |is_end: bool| if is_end { 1 } else { LEAST_AFTER };
    let least = distance(part.start == window.start);
    let Some(most) = part.len().checked_sub(distance(part.end == window.end)) else { return };
    let Some(place) = best_split(&figures[part.clone()], least..=most) else { return };
    let at = part.start + place;
    if Test::of(&figures[part.start..at], &figures[at..part.end]).p >= PROPOSED {
        return;
    }
    // The first window also proposes where the first levels end, which are no marks.
    let least_before = if window.start == 0 { LEAST_AFTER } else { LEAST_BEFORE };
    if at >= window.start + least_before && at + LEAST_AFTER <= window.end {
        marks.push(at);
    }
    propose(figures, window, part.start..at, marks);
    propose(figures, window, at..part.end, marks);
}

/// Of two places that are too close, which two windows proposed, only the better one stays.
fn drop_crowded(figures: &[f64], marks: &mut Vec<usize>) {
    while let Some(first) = marks.windows(2).position(|pair| pair[1] - pair[0] < LEAST_AFTER) {
        let alone = |index: usize| {
            let mut others = marks.clone();
            others.remove(if index == first { first + 1 } else { first });
            let (before, after) = sides(figures, &others, first);
            Test::of(before, after)
        };
        let worse = if alone(first).is_weaker_than(&alone(first + 1)) { first } else { first + 1 };
        marks.remove(worse);
    }
}

/// Drops the weakest mark until each is significant beside its neighbours.
fn confirm(figures: &[f64], marks: &mut Vec<usize>) {
    loop {
        let tests: Vec<Test> = (0..marks.len())
            .map(|index| {
                let (before, after) = sides(figures, marks, index);
                Test::of(before, after)
            })
            .collect();
        let weakest = (0..marks.len())
            .reduce(|weakest, index| if tests[index].is_weaker_than(&tests[weakest]) { index } else { weakest });
        match weakest {
            Some(weakest) if tests[weakest].p >= SIGNIFICANT => marks.remove(weakest),
            Some(_) | None => return,
        };
    }
}

/// The figures of the levels before and after a mark.
fn sides<'a>(figures: &'a [f64], marks: &[usize], index: usize) -> (&'a [f64], &'a [f64]) {
    let at = marks[index];
    let previous = index.checked_sub(1).map_or(0, |index| marks[index]);
    let next = marks.get(index + 1).copied().unwrap_or(figures.len());
    (&figures[previous.max(at.saturating_sub(WINDOW))..at], &figures[at..next.min(at + WINDOW)])
}

fn mean(figures: &[f64]) -> f64 {
    // Beside the first figure, so that the mean of equal figures is that figure.
    let first = figures.first().copied().unwrap_or_default();
    first + figures.iter().map(|figure| figure - first).sum::<f64>() / count_f64(figures.len().max(1))
}

/// Student's t-test of two means, with one variance. Welch's variances of their own would need more figures than the
/// three of a new level: its noise would have two degrees of freedom, and no step less than 31 standard errors a mark.
struct Test {
    /// The difference in standard errors.
    t: f64,
    p: f64,
}

impl Test {
    fn of(before: &[f64], after: &[f64]) -> Self {
        let means = [mean(before), mean(after)];
        let difference = (means[1] - means[0]).abs();
        let freedom = count_f64(before.len() + after.len()) - 2.0;
        if freedom < 1.0 || difference <= ROUNDING * largest(before).max(largest(after)) {
            return Self { t: 0.0, p: 1.0 };
        }
        let squares = |figures: &[f64], mean: f64| figures.iter().map(|figure| (figure - mean).powi(2)).sum::<f64>();
        let variance = (squares(before, means[0]) + squares(after, means[1])) / freedom;
        let error = (variance * (1.0 / count_f64(before.len()) + 1.0 / count_f64(after.len()))).sqrt();
        // Without any noise, the difference is infinitely many errors.
        let t = difference / error;
        // The lower tail, because 1 less the upper one would be rounded to 0.
        let p = StudentsT::new(0.0, 1.0, freedom).map_or(1.0, |student| 2.0 * student.cdf(-t));
        Self { t, p: if t.is_finite() { p } else { 0.0 } }
    }

    /// Whether this one shows less. Large differences have a p that is rounded to 0.
    fn is_weaker_than(&self, other: &Self) -> bool {
        self.p.total_cmp(&other.p).then(other.t.total_cmp(&self.t)) == Ordering::Greater
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_gives_the_values_of_printed_tables() {
        // t of 8.610 with 4 degrees of freedom has p = 0.001: means 0 and d, and the variance 1.
        let difference = 8.610 * (2.0_f64 / 3.0).sqrt();
        let test = Test::of(&[-1.0, 0.0, 1.0], &[difference - 1.0, difference, difference + 1.0]);
        assert!((test.t - 8.610).abs() < 1e-9 && (test.p - 0.001).abs() < 1e-6, "{} {}", test.t, test.p);
        let far = Test::of(&[0.0, 1.0].repeat(20), &[1e6, 1e6 + 1.0].repeat(20));
        assert!(far.p < 1e-100 && far.t > 1e5, "{} {}", far.t, far.p);
        assert_eq!(Test::of(&[1.0; 5], &[2.0; 5]).p, 0.0);
        assert_eq!(Test::of(&[1.0; 5], &[1.0 + 1e-12; 5]).p, 1.0, "rounding");
        assert_eq!(Test::of(&[1.0], &[2.0]).p, 1.0, "no degree of freedom");
    }

    #[test]
    fn windows_cover_every_place_that_has_enough_before_it() {
        for few in [0, 49, 50] {
            assert_eq!((windows(few).len(), windows(few)[0].clone()), (1, 0..few));
        }
        assert_eq!(windows(60), [0..50, 10..60]);
        assert_eq!(windows(110), [0..50, 25..75, 50..100, 60..110]);
        for figures in 23..300 {
            let windows = windows(figures);
            for at in LEAST_BEFORE..=figures - LEAST_AFTER {
                let covers =
                    |window: &Range<usize>| at >= window.start + LEAST_BEFORE && at + LEAST_AFTER <= window.end;
                assert!(windows.iter().any(covers), "{at} of {figures}");
            }
        }
    }
}
