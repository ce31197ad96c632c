//! Totals and maxima.

use memgate_evidence::{Exactness, GoroutineSites, Series, Signal, TimeSpan};

use super::{
    Estimate, Measurement, Unavailable,
    filling::Came,
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
fn left(run: Run<'_>, signal: &Signal<Series>, what: &str) -> Result<Value, Unavailable> {
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

/// The number of threads or descriptors around the measuring phase.
struct Levels {
    start: u64,
    end: u64,
    /// At the end of the drain.
    last: u64,
}

impl Levels {
    /// `None` if there is no reading around the phase's start or end.
    ///
    /// The least reading of the twentieth of the phase's length before each: what comes and goes with requests is not in
    /// it.
    fn of(run: Run<'_>, signal: &Signal<Series>, what: &str) -> Result<Option<Self>, Unavailable> {
        let (counts, span) = (Entries::of(signal, what)?.without_zeros(what)?, run.measure()?);
        let least_before = |end_ns: u64| {
            let before = TimeSpan { start_ns: end_ns.saturating_sub(span.length_ns() / 20), end_ns };
            counts.within_closed(before).value.iter().copied().min()
        };
        let levels = least_before(span.start_ns).zip(least_before(span.end_ns)).zip(counts.iter().last());
        Ok(levels.map(|((start, end), (_, last))| Self { start, end, last }))
    }
}

/// Threads that are left and came in the measuring phase or later: what the load starts once, it starts in the warm-up.
/// The runtime keeps threads of blocking calls, so that their number does not fall after the load.
pub(super) fn threads_leaked(run: Run<'_>) -> Result<Value, Unavailable> {
    let (what, signal) = ("thread counts", &run.signals().threads);
    let left = left(run, signal, what)?;
    let came = Levels::of(run, signal, what)?.map(|levels| levels.end.max(levels.last).saturating_sub(levels.start));
    Ok(Value { value: came.map_or(left.value, |came| left.value.min(came)), ..left })
}

/// Descriptors that are left and came in the measuring phase: what the load opens once, such as a pool, it opens in the
/// warm-up. If no fewer are open after the load than in it, its own connections are left too, and all that are left count.
pub(super) fn fds_leaked(run: Run<'_>) -> Result<Value, Unavailable> {
    let left = left(run, &run.signals().fds, DESCRIPTORS)?;
    let came = descriptors_that_came(run)?;
    Ok(Value { value: came.map_or(left.value, |came| left.value.min(came.in_phase)), ..left })
}

/// The descriptors that the load opened and left, without its own connections; `None` if these are left too.
pub(super) fn descriptors_that_came(run: Run<'_>) -> Result<Option<Came>, Unavailable> {
    let signal = &run.signals().fds;
    let before = Entries::of(signal, DESCRIPTORS)?.iter().next().map_or(0, |(_, count)| count);
    let levels = Levels::of(run, signal, DESCRIPTORS)?.filter(|levels| levels.last < levels.end);
    Ok(levels.map(|Levels { start, end, last }| Came {
        earlier: start.saturating_sub(end - last).saturating_sub(before),
        in_phase: end.saturating_sub(start),
    }))
}

const DESCRIPTORS: &str = "counts of file descriptors";

/// Goroutines that are left after the drain and were not there before the load, as far as they came in the measuring
/// phase or later. What the load started once, such as a pool or connections that are kept, came in the warm-up. Without
/// goroutines by `go` statement, all that are left count.
pub(super) fn goroutines_leaked(run: Run<'_>) -> Result<Value, Unavailable> {
    let left = left(run, &run.signals().goroutines, "goroutine counts")?;
    let came = goroutines_that_came(run);
    let in_phase = |came: Vec<(u32, u32, Came)>| came.iter().fold(0u64, |sum, row| sum.saturating_add(row.2.in_phase));
    Ok(Value { value: came.map_or(left.value, |came| left.value.min(in_phase(came))), ..left })
}

/// The goroutines that came with the load and are left, with the stacks of their `go` statements and of what these start;
/// `None` if they are not known.
pub(super) fn goroutines_that_came(run: Run<'_>) -> Option<Vec<(u32, u32, Came)>> {
    let GoroutineSites { created, started, before, left, young, loaded: _ } =
        usable(&run.signals().goroutine_sites, "goroutines by `go` statement").ok()?;
    if started.len() != created.len() || [before, left, young].iter().any(|column| column.len() != created.len()) {
        return None;
    }
    let rows = created.iter().zip(started).zip(before.iter().zip(left).zip(young));
    let came = rows.map(|((&created, &started), ((before, &left), &young))| {
        let total = left.saturating_sub(*before);
        let in_phase = total.min(young);
        (created, started, Came { earlier: total - in_phase, in_phase })
    });
    Some(came.collect())
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
