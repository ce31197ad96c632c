//! Occasions: runs that were made at about the same time share what the machine was like then.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use memgate_evidence::{Evidence, Phases, error::InputError};

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

/// The runs in the order of their starts. Those of several commands, which all count from 1, get numbers that differ.
///
/// # Errors
/// When two runs began at the same time: they are one.
#[expect(clippy::result_large_err, reason = "such an error ends the command, so its size is of no account")]
pub fn numbered(mut runs: Vec<Evidence>) -> Result<Vec<Evidence>, InputError> {
    runs.sort_by(|one, other| one.started_at.cmp(&other.started_at));
    if let Some(twins) = runs.windows(2).find(|pair| pair[0].started_at == pair[1].started_at) {
        let Evidence { service, platform, started_at, .. } = &twins[0];
        let message = format!("two runs of {service} on {platform} began at {started_at}: one process counts twice");
        return Err(InputError::new(message, "name the evidence of each process once"));
    }
    let numbers: BTreeSet<u32> = runs.iter().map(|run| run.run).collect();
    if numbers.len() < runs.len() {
        for (run, number) in runs.iter_mut().zip(1..) {
            run.run = number;
        }
    }
    Ok(runs)
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
    fn runs_of_several_commands_get_numbers_that_differ() {
        let starts = ["2026-11-23T12:10:00Z", "2026-11-23T12:11:00Z", "2026-11-23T12:00:00Z", "2026-11-23T12:01:00Z"];
        let numbers_of = |numbers: [u32; 4]| {
            let runs = numbers.into_iter().zip(starts).map(|(number, start)| run(number, start)).collect();
            let numbered = numbered(runs).unwrap();
            assert!(numbered.is_sorted_by_key(|run| run.started_at.clone()));
            numbered.iter().map(|run| run.run).collect::<Vec<_>>()
        };
        assert_eq!(numbers_of([1, 2, 1, 2]), [1, 2, 3, 4], "two commands within an hour");
        assert_eq!(numbers_of([5, 6, 1, 3]), [1, 3, 5, 6], "one command keeps its numbers");
        let twice = numbered(vec![run(1, starts[0]), run(2, starts[0])]).unwrap_err();
        assert_eq!(
            twice.to_string(),
            "two runs of uaa on linux/amd64 began at 2026-11-23T12:10:00Z: one process counts twice"
        );
    }
}
