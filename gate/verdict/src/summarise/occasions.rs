//! Occasions: runs that were made at about the same time share what the machine was like then.

use jiff::{SignedDuration, Timestamp};
use memgate_evidence::{Evidence, Phases};

/// Runs of one command follow each other within minutes. A run that starts later than this after the end of all runs
/// before it is of another occasion.
const APART: SignedDuration = SignedDuration::from_hours(1);

/// The occasion of each run, from 0 in the order of their starts. If a start cannot be read, all are of one: nothing
/// says that they are of several.
pub fn occasions(runs: &[&Evidence]) -> Vec<usize> {
    let mut of_runs = vec![0; runs.len()];
    let starts: Option<Vec<Timestamp>> = runs.iter().map(|run| run.started_at.parse().ok()).collect();
    let Some(starts) = starts else { return of_runs };
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by_key(|&run| starts[run]);
    let (mut occasion, mut end) = (0, None);
    for run in order {
        let start = starts[run];
        if end.is_some_and(|end: Timestamp| start.duration_since(end) > APART) {
            occasion += 1;
        }
        of_runs[run] = occasion;
        let ended = start.saturating_add(length(runs[run])).unwrap_or(start);
        end = Some(end.map_or(ended, |end| end.max(ended)));
    }
    of_runs
}

/// The time from a run's launch to the end of its last phase.
fn length(run: &Evidence) -> SignedDuration {
    let Phases { warmup, measure, tail, drain } = &run.phases;
    let ends = [warmup, measure, tail, drain].into_iter().flatten().map(|phase| phase.end_ns);
    SignedDuration::from_nanos(i64::try_from(ends.max().unwrap_or(0)).unwrap_or(i64::MAX))
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
        // A run lasts for 75 s.
        assert_eq!(of(&["2026-11-23T12:00:00Z", "2026-11-23T13:01:15Z", "2026-11-23T14:02:31Z"]), [0, 0, 1]);
        // In the order of their starts, whatever the order of the files and the zones.
        assert_eq!(of(&["2026-11-25T00:00:00Z", "2026-11-23T12:00:00Z", "2026-11-24T02:00:00+02:00"]), [2, 0, 1]);
        assert_eq!(of(&["2026-11-23T12:00:00Z", "yesterday", "2026-11-25T12:00:00Z"]), [0, 0, 0]);
        assert_eq!(of(&[]), [0; 0]);
    }

    /// Runs of two hours follow each other without a pause.
    #[test]
    fn the_length_of_a_run_keeps_it_apart_from_no_other() {
        let mut runs = ["2026-11-23T12:00:00Z", "2026-11-23T14:01:00Z", "2026-11-23T18:00:00Z"].map(|at| run(1, at));
        for run in &mut runs {
            run.phases.drain.as_mut().unwrap().end_ns = 7_200_000_000_000;
        }
        assert_eq!(occasions(&runs.each_ref()), [0, 0, 1]);
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
