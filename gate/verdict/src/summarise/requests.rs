//! What the load generator saw.

use memgate_evidence::{RequestCounts, Requests};

use super::{
    Estimate, Measurement, Unavailable,
    run::{Run, usable},
    stats::{Interval, Tally, percentile, share},
};

/// Requests of the measuring phase that failed, of those intended, without those that a guest did not get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failures {
    failed: u64,
    intended: u64,
    /// How the service ended early, if it did. Its failed requests are then a fact and not a sample.
    early_end: Option<String>,
}

/// The requests that failed. They count even if the service ended early, because the end is why they failed.
pub(super) fn failures(run: Run<'_>) -> Result<Failures, Unavailable> {
    let early_end = run.early_end();
    if early_end.is_none() {
        run.measure()?;
    }
    let counts = counts(run)?;
    // The counts add up, so this is no less than those that succeeded.
    let intended = counts.intended - counts.unmade();
    if intended == 0 {
        let reason = early_end.unwrap_or_else(|| "no request was intended in the measuring phase".to_owned());
        return Err(Unavailable::because(reason));
    }
    Ok(Failures { failed: intended - counts.succeeded, intended, early_end })
}

/// The share of the requests that failed.
pub(super) fn failed_share(failures: &Failures) -> Measurement {
    let Failures { failed, intended, early_end } = failures;
    let interval = share(*failed, *intended);
    match early_end {
        Some(early_end) => Estimate::of(Interval::exact(interval.measured), *intended, early_end.clone()),
        None => Estimate::of(interval, *intended, String::new()),
    }
}

/// The latencies of the measuring phase.
pub(super) fn latencies(run: Run<'_>) -> Result<Tally, Unavailable> {
    run.measure()?;
    let succeeded = counts(run)?.succeeded;
    let histogram = &requests(run)?.latency;
    if histogram.value_ns.len() != histogram.count.len() {
        return Err(Unavailable::because("the latency histogram has columns of different length"));
    }
    if !histogram.value_ns.is_sorted_by(|a, b| a < b) {
        return Err(Unavailable::because("the values of the latency histogram do not increase"));
    }
    let buckets = histogram.value_ns.iter().copied().zip(histogram.count.iter().copied());
    let tally = Tally::new(buckets).ok_or_else(|| Unavailable::because("more latencies than can be counted"))?;
    enough(tally.total() as f64, "answered")?;
    if tally.total() < succeeded {
        let total = tally.total();
        return Err(Unavailable::because(format!("latencies of only {total} of {succeeded} successful requests")));
    }
    Ok(tally)
}

/// The 99th percentile of the latencies.
pub(super) fn latency_p99(tally: &Tally) -> Measurement {
    let (interval, remark) = percentile(tally, 99, "requests");
    Estimate::of(interval, tally.total(), remark)
}

/// The least number of requests behind a figure of requests. Fewer say what they happened to do.
const LEAST: f64 = 10.0;

/// Checks that enough requests were `done` in the measuring phase: completed or answered.
pub(super) fn enough(requests: f64, done: &str) -> Result<(), Unavailable> {
    match requests {
        requests if requests >= LEAST => Ok(()),
        requests if requests > 0.0 => {
            let were = if requests <= 1.0 { "request was" } else { "requests were" };
            Err(Unavailable::because(format!(
                "only {requests:.0} {were} {done} in the measuring phase, and a figure needs {LEAST}: measure longer, or \
                 raise `load.rate`"
            )))
        }
        _ => Err(Unavailable::because(format!("no request was {done} in the measuring phase"))),
    }
}

fn requests(run: Run<'_>) -> Result<&Requests, Unavailable> {
    usable(&run.signals().requests, "requests")
}

/// The counts of the measuring phase, if they add up.
fn counts(run: Run<'_>) -> Result<&RequestCounts, Unavailable> {
    let counts = &requests(run)?.measure;
    let sum = counts.failed.values().try_fold(counts.succeeded, |sum, &failed| sum.checked_add(failed));
    if sum != Some(counts.intended) {
        return Err(Unavailable::because("the requests that succeeded and failed are not those intended"));
    }
    Ok(counts)
}
