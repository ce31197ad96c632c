//! Occasions: runs that were made at about the same time share what the machine was like then.

use jiff::{SignedDuration, Timestamp};
use memgate_evidence::Evidence;

/// Runs of one command follow each other within minutes. Runs that start further apart than this are of two occasions.
const APART: SignedDuration = SignedDuration::from_hours(1);

/// The occasion of each run, from 0 in the order of their starts. If a start cannot be read, all are of one: nothing says
/// that they are of several.
pub fn occasions(runs: &[&Evidence]) -> Vec<usize> {
    let mut of_runs = vec![0; runs.len()];
    let starts: Option<Vec<Timestamp>> = runs.iter().map(|run| run.started_at.parse().ok()).collect();
    let Some(starts) = starts else { return of_runs };
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by_key(|&run| starts[run]);
    let mut occasion = 0;
    for pair in order.windows(2) {
        if starts[pair[1]].duration_since(starts[pair[0]]) > APART {
            occasion += 1;
        }
        of_runs[pair[1]] = occasion;
    }
    of_runs
}

/// The runs of several occasions, whose commands all count from 1, with numbers that differ. Those of one occasion keep
/// theirs, so that a file that is named twice is still noticed.
pub fn numbered(mut runs: Vec<Evidence>) -> Vec<Evidence> {
    let occasions = occasions(&runs.iter().collect::<Vec<_>>());
    let most = runs.iter().map(|run| run.run).max().unwrap_or(0);
    for (run, occasion) in runs.iter_mut().zip(occasions) {
        let before = u32::try_from(occasion).unwrap_or(u32::MAX).saturating_mul(most);
        run.run = run.run.saturating_add(before);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(number: u32, started_at: &str) -> Evidence {
        Evidence { started_at: started_at.to_owned(), ..memgate_testing::healthy(number) }
    }

    fn of(starts: &[&str]) -> Vec<usize> {
        let runs: Vec<_> = starts.iter().map(|start| run(1, start)).collect();
        occasions(&runs.iter().collect::<Vec<_>>())
    }

    #[test]
    fn runs_within_an_hour_of_each_other_are_of_one_occasion() {
        assert_eq!(of(&["2026-11-23T12:00:00Z", "2026-11-23T12:50:00Z", "2026-11-23T13:40:00Z"]), [0, 0, 0]);
        assert_eq!(of(&["2026-11-23T12:00:00Z", "2026-11-23T13:00:00Z", "2026-11-23T14:00:01Z"]), [0, 0, 1]);
        // In the order of their starts, whatever the order of the files and the zones.
        assert_eq!(of(&["2026-11-25T00:00:00Z", "2026-11-23T12:00:00Z", "2026-11-24T02:00:00+02:00"]), [2, 0, 1]);
        assert_eq!(of(&["2026-11-23T12:00:00Z", "yesterday", "2026-11-25T12:00:00Z"]), [0, 0, 0]);
        assert_eq!(of(&[]), [0; 0]);
    }

    #[test]
    fn runs_of_several_occasions_get_numbers_that_differ() {
        let days = ["2026-11-24T12:00:00Z", "2026-11-23T12:00:00Z"];
        let runs = days.iter().flat_map(|day| [run(1, day), run(2, day)]).collect();
        let numbers: Vec<_> = numbered(runs).iter().map(|run| run.run).collect();
        assert_eq!(numbers, [3, 4, 1, 2]);
        // The same run twice is a mistake.
        let twice = numbered(vec![run(1, days[0]), run(1, days[0])]);
        assert_eq!(twice.iter().map(|run| run.run).collect::<Vec<_>>(), [1, 1]);
    }
}
