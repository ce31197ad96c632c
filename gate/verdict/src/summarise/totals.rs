//! Totals and maxima.

use memgate_evidence::{Exactness, Series, Signal};

use super::{
    Estimate, Measurement, Unavailable,
    run::{Run, usable},
    series::{Entries, seconds},
    stats::Interval,
};

/// A value that was read or counted, and the number of readings behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Value {
    value: u64,
    n: u64,
    sampled: bool,
}

/// The largest value of a series in the measuring phase. `least` is the least value that can be true: a process has at
/// least one goroutine, and a series of zeros was not read.
pub(super) fn most(run: Run<'_>, signal: &Signal<Series>, what: &str, least: u64) -> Result<Value, Unavailable> {
    let span = run.measure()?;
    let inside = Entries::of(signal, what)?.covering(span, what)?;
    if inside.value.iter().any(|&value| value < least) {
        return Err(Unavailable::because(format!("the {what} contain a 0, which is impossible")));
    }
    let value = inside.value.iter().copied().max().unwrap_or(0);
    Ok(Value { value, n: u64::try_from(inside.len()).unwrap_or(u64::MAX), sampled: is_sampled(signal) })
}

/// The largest resident set, which the kernel or the collector has already reduced to one value.
pub(super) fn rss_peak(run: Run<'_>) -> Result<Value, Unavailable> {
    run.measure()?;
    let signal = &run.signals().rss_peak;
    let value = *usable(signal, "peak of the resident set")?;
    if value == 0 {
        return Err(Unavailable::because("a resident set of 0 bytes, which is impossible"));
    }
    Ok(Value { value, n: 1, sampled: is_sampled(signal) })
}

/// The largest anonymous resident set among the readings of the measuring phase.
pub(super) fn anonymous_peak(run: Run<'_>) -> Result<Value, Unavailable> {
    let what = "samples of the anonymous resident set";
    let span = run.measure()?;
    let signal = &run.signals().rss_kinds;
    let kinds = usable(signal, what)?;
    let inside = Entries::new(&kinds.at_ns, &kinds.anonymous, what)?.covering(span, what)?;
    let value = inside.value.iter().copied().max().unwrap_or(0);
    if value == 0 {
        return Err(Unavailable::because("an anonymous resident set of 0 bytes: Linux before 4.5 does not report it"));
    }
    Ok(Value { value, n: u64::try_from(inside.len()).unwrap_or(u64::MAX), sampled: is_sampled(signal) })
}

/// The largest off-heap memory among the readings of the measuring phase.
pub(super) fn off_heap_peak(run: Run<'_>) -> Result<Value, Unavailable> {
    let what = "off-heap samples";
    off_heap(run, what)?;
    most(run, &run.signals().offheap, what, 0)
}

/// The off-heap memory in the measuring phase. The stack of the first thread is in it, so it is more than 0 as long as
/// nothing is swapped out.
pub(super) fn off_heap<'a>(run: Run<'a>, what: &str) -> Result<Entries<'a>, Unavailable> {
    let span = run.measure()?;
    let samples = Entries::of(&run.signals().offheap, what)?.covering(span, what)?;
    let swapped = usable(&run.signals().swap, "samples of swapped-out memory");
    if swapped.is_ok_and(|swapped| swapped.value.iter().any(|&bytes| bytes > 0)) {
        return Ok(samples);
    }
    samples.not_all_zeros(what)
}

/// The largest working set of the cgroup, which the collector has already reduced to one value.
pub(super) fn cgroup_peak(run: Run<'_>) -> Result<Value, Unavailable> {
    run.measure()?;
    let signal = &run.signals().cgroup_peak;
    let value = *usable(signal, "peak of the cgroup's working set")?;
    if value == 0 {
        return Err(Unavailable::because("a working set of 0 bytes, which is impossible"));
    }
    Ok(Value { value, n: 1, sampled: is_sampled(signal) })
}

/// What is there at the end of the drain beyond what was there before the load: goroutines, threads or descriptors.
/// `what` names the counts in the plural.
pub(super) fn left(run: Run<'_>, signal: &Signal<Series>, what: &str) -> Result<Value, Unavailable> {
    let (drain, load_start_ns) = (run.drain()?, run.load_start_ns()?);
    let counts = Entries::of(signal, what)?;
    let (Some((first_ns, first)), Some((last_ns, last))) = (counts.iter().next(), counts.iter().last()) else {
        return Err(Unavailable::because(format!("the {what} are empty")));
    };
    if first == 0 || last == 0 {
        return Err(Unavailable::because(format!("the {what} contain a 0, which is impossible")));
    }
    if first_ns > load_start_ns {
        return Err(Unavailable::because(format!("the {what} begin after the load")));
    }
    let early = seconds(last_ns, drain.end_ns);
    if early > (0.1 * seconds(drain.start_ns, drain.end_ns)).min(1.0) {
        return Err(Unavailable::because(format!("the {what} end {early:.1} s before the end of the drain")));
    }
    Ok(Value { value: last.saturating_sub(first), n: 2, sampled: false })
}

/// Goroutines that are left after the drain and were not there before the load, as far as they came in the measuring
/// phase or later. What the load started once, such as a pool or connections that are kept, came in the warm-up. Without
/// goroutines by `go` statement, all that are left count.
pub(super) fn goroutines_leaked(run: Run<'_>) -> Result<Value, Unavailable> {
    let left = left(run, &run.signals().goroutines, "goroutine counts")?;
    let Ok(sites) = usable(&run.signals().goroutine_sites, "goroutines by `go` statement") else { return Ok(left) };
    let lengths = [&sites.before, &sites.left, &sites.young].map(Vec::len);
    if lengths.iter().any(|length| *length != sites.created.len()) {
        return Ok(left);
    }
    let rows = sites.before.iter().zip(&sites.left).zip(&sites.young);
    let came = rows.map(|((before, after), young)| after.saturating_sub(*before).min(*young));
    let came = came.fold(0u64, u64::saturating_add);
    Ok(Value { value: left.value.min(came), ..left })
}

/// Processes that the kernel killed because memory ran out. They count however the service ended.
pub(super) fn oom_kills(run: Run<'_>) -> Result<Value, Unavailable> {
    Ok(Value { value: *usable(&run.signals().oom_kills, "count of OOM kills")?, n: 1, sampled: false })
}

/// The value as a figure. It has no interval.
pub(super) fn figure(value: &Value) -> Measurement {
    let Value { value, n, sampled } = *value;
    let remark = match n {
        _ if !sampled => String::new(),
        1 => "sampled: a shorter peak may have been missed".to_owned(),
        n => format!("max of {n} samples"),
    };
    Estimate::of(Interval::exact(value as f64), n, remark)
}

fn is_sampled<T>(signal: &Signal<T>) -> bool {
    signal.exactness == Exactness::Sampled
}
