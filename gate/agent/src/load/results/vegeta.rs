//! What `vegeta encode --to json` writes: a line for each request, with the time at which it was sent and its number
//! within its attack (`Result`, lib/results.go, vegeta 12.12). A number that is missing is a request without a result.

use std::{borrow::Cow, collections::BTreeMap, io::BufRead};

use serde::Deserialize;

use super::{Failure, MOST_RESULTS, Outcome, lines, push, time_ns};

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    attack: Cow<'a, str>,
    seq: u64,
    /// The status of the answer; 0 if there is none.
    code: u16,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    /// ns.
    latency: u64,
    #[serde(borrow)]
    error: Cow<'a, str>,
}

/// The results in such a text, and the requests that have none.
pub(super) fn read(text: impl BufRead) -> Result<Vec<Outcome>, String> {
    let mut outcomes = Vec::new();
    let mut sent: BTreeMap<String, Vec<(u64, i128)>> = BTreeMap::new();
    lines(text, |line| {
        let line: Line<'_> = serde_json::from_str(line).map_err(|_| "it is no result of vegeta".to_owned())?;
        let start_ns = time_ns(&line.timestamp)?;
        match sent.get_mut(line.attack.as_ref()) {
            Some(numbers) => numbers.push((line.seq, start_ns)),
            None => drop(sent.insert(line.attack.clone().into_owned(), vec![(line.seq, start_ns)])),
        }
        let end_ns = start_ns + i128::from(line.latency);
        push(&mut outcomes, Outcome { start_ns, end_ns, failure: failure(&line) })
    })?;
    for numbers in sent.into_values() {
        add_those_without_a_result(numbers, &mut outcomes)?;
    }
    Ok(outcomes)
}

/// As vegeta counts success (`Metrics.Add`, lib/metrics.go).
fn failure(line: &Line<'_>) -> Option<Failure> {
    match line.code {
        200..400 if line.error.is_empty() => None,
        100.. => Some(Failure::Status(line.code)),
        _ if ["Client.Timeout", "deadline exceeded", "i/o timeout"].iter().any(|words| line.error.contains(words)) => {
            Some(Failure::Unanswered("timeout"))
        }
        _ if line.error.contains("connection refused") => Some(Failure::Unanswered("connection refused")),
        _ => Some(Failure::Unanswered("no answer")),
    }
}

/// Adds a failure for each number of an attack that is missing before the last one. It was sent after the one before it.
fn add_those_without_a_result(mut numbers: Vec<(u64, i128)>, outcomes: &mut Vec<Outcome>) -> Result<(), String> {
    numbers.sort_unstable();
    if numbers.first().is_some_and(|(first, _)| *first != 0) {
        return Err("its first results are missing: it begins with a later number of an attack".to_owned());
    }
    for pair in numbers.windows(2) {
        let [(before, start_ns), (after, _)] = [pair[0], pair[1]];
        let Some(missing) = (after - before).checked_sub(1) else {
            return Err(format!("it has two results with the number {after} of one attack"));
        };
        if missing > MOST_RESULTS as u64 {
            return Err(format!("{missing} results are missing in it"));
        }
        for _ in 0..missing {
            let failure = Some(Failure::Unanswered("no result"));
            push(outcomes, Outcome { start_ns, end_ns: start_ns, failure })?;
        }
    }
    Ok(())
}
