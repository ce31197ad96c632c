//! What `vegeta encode --to json` writes: a line for each request, with the time at which it was sent and its number
//! within its attack (`Result`, lib/results.go, vegeta 12.12). A number that is missing is a request without a result.

use std::{borrow::Cow, collections::BTreeMap, io::BufRead};

use serde::Deserialize;

use super::{Count, Failure, MOST_RESULTS, Outcome, lines, time_ns};

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

/// Counts the results in such a text, and the requests that have none.
pub(super) fn read(text: impl BufRead, count: &mut Count) -> Result<(), String> {
    let mut sent: BTreeMap<String, Vec<Sent>> = BTreeMap::new();
    lines(text, |line| {
        let line: Line<'_> = serde_json::from_str(line).map_err(|_| "it is no result of vegeta".to_owned())?;
        let start_ns = time_ns(&line.timestamp)?;
        let end_ns = start_ns + i128::from(line.latency);
        count.add(&Outcome { start_ns, end_ns, failure: failure(&line) })?;
        // A time of this load is one of this century.
        let one = (line.seq, i64::try_from(start_ns).unwrap_or(i64::MAX));
        match sent.get_mut(line.attack.as_ref()) {
            Some(numbers) => numbers.push(one),
            None => drop(sent.insert(line.attack.into_owned(), vec![one])),
        }
        Ok(())
    })?;
    sent.into_values().try_for_each(|numbers| add_those_without_a_result(numbers, count))
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

/// The number of a request within its attack, and when it was sent, ns since 1970.
type Sent = (u64, i64);

/// Adds a failure for each number of an attack that is missing before the last one. It was sent after the one before it.
fn add_those_without_a_result(mut numbers: Vec<Sent>, count: &mut Count) -> Result<(), String> {
    numbers.sort_unstable();
    if numbers.first().is_some_and(|(first, _)| *first != 0) {
        return Err("its first results are missing: it begins with a later number of an attack".to_owned());
    }
    for pair in numbers.windows(2) {
        let [(before, start_ns), (after, _)] = [pair[0], pair[1]];
        let Some(missing) = (after - before).checked_sub(1) else {
            return Err(format!("it has two results with the number {after} of one attack"));
        };
        if missing > MOST_RESULTS {
            return Err(format!("{missing} results are missing in it"));
        }
        let (start_ns, failure) = (i128::from(start_ns), Some(Failure::Unanswered("no result")));
        let lost = Outcome { start_ns, end_ns: start_ns, failure };
        (0..missing).try_for_each(|_| count.add(&lost))?;
    }
    Ok(())
}
