//! Totals and maxima.

use memgate_evidence::{Exactness, Series, Signal, TimeSpan};

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
    /// The number that came in the first half of the measuring phase, if none came in the second half.
    settled: Option<u64>,
}

/// Goroutines that come and stay may be those of a pool which is full later, from this number on. Fewer may have come in
/// one half of the phase by chance: each of this many with a chance of a half is 0.1 % in all.
const SETTLES_FROM: u64 = 10;

/// The share of what came that the first half of the phase must explain.
const MOST: f64 = 0.8;

/// The largest value of a series in the measuring phase. `least` is the least value that can be true: a process has at
/// least one goroutine, and a series of zeros was not read.
pub(super) fn most(run: Run<'_>, signal: &Signal<Series>, what: &str, least: u64) -> Result<Value, Unavailable> {
    let span = run.measure()?;
    let inside = Entries::of(signal, what)?.covering(span, what)?;
    if inside.value.iter().any(|&value| value < least) {
        return Err(Unavailable::because(format!("the {what} contain a 0, which is impossible")));
    }
    let value = inside.value.iter().copied().max().unwrap_or(0);
    Ok(Value { value, n: u64::try_from(inside.len()).unwrap_or(u64::MAX), sampled: is_sampled(signal), settled: None })
}

/// The largest resident set, which the kernel or the collector has already reduced to one value.
pub(super) fn rss_peak(run: Run<'_>) -> Result<Value, Unavailable> {
    run.measure()?;
    let signal = &run.signals().rss_peak;
    let value = *usable(signal, "peak of the resident set")?;
    if value == 0 {
        return Err(Unavailable::because("a resident set of 0 bytes, which is impossible"));
    }
    Ok(Value { value, n: 1, sampled: is_sampled(signal), settled: None })
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
    Ok(Value { value, n: u64::try_from(inside.len()).unwrap_or(u64::MAX), sampled: is_sampled(signal), settled: None })
}

/// The largest working set of the cgroup, which the collector has already reduced to one value.
pub(super) fn cgroup_peak(run: Run<'_>) -> Result<Value, Unavailable> {
    run.measure()?;
    let signal = &run.signals().cgroup_peak;
    let value = *usable(signal, "peak of the cgroup's working set")?;
    if value == 0 {
        return Err(Unavailable::because("a working set of 0 bytes, which is impossible"));
    }
    Ok(Value { value, n: 1, sampled: is_sampled(signal), settled: None })
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
    Ok(Value { value: last.saturating_sub(first), n: 2, sampled: false, settled: None })
}

/// The least counts around the ends and the middle of a span. What comes and goes with requests is in none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Levels {
    start: u64,
    middle: u64,
    end: u64,
}

impl Levels {
    /// `None` if there is no reading around one of them.
    fn of(counts: Entries<'_>, span: TimeSpan) -> Option<Self> {
        let tenth = span.length_ns() / 10;
        let least = |start_ns: u64| {
            let around = TimeSpan { start_ns, end_ns: start_ns.saturating_add(tenth) };
            counts.within_closed(around).value.iter().copied().min()
        };
        Some(Self {
            start: least(span.start_ns.saturating_sub(tenth))?,
            middle: least(span.start_ns + span.length_ns() / 2 - tenth / 2)?,
            end: least(span.end_ns.saturating_sub(tenth))?,
        })
    }

    /// What came in the first half, if nothing came in the second.
    const fn settled(self) -> Option<u64> {
        if self.end <= self.middle { Some(self.middle.saturating_sub(self.start)) } else { None }
    }
}

/// Threads or descriptors that are left after the drain, as far as their number grew in the measuring phase and still
/// grew in its second half. What the load opens once, such as connections that are kept, it opens in the warm-up.
fn left_and_still_coming(run: Run<'_>, signal: &Signal<Series>, what: &str) -> Result<(Value, Option<Levels>), Unavailable> {
    let left = left(run, signal, what)?;
    let Some(levels) = Levels::of(Entries::of(signal, what)?, run.measure()?) else { return Ok((left, None)) };
    let came = levels.settled().map_or(levels.end.saturating_sub(levels.start), |_| 0);
    let settled = levels.settled().filter(|settled| *settled > 0);
    Ok((Value { value: left.value.min(came), settled, ..left }, Some(levels)))
}

/// Threads that are left. The runtime keeps those of blocking calls, so their number does not fall after the load.
pub(super) fn threads_leaked(run: Run<'_>) -> Result<Value, Unavailable> {
    Ok(left_and_still_coming(run, &run.signals().threads, "thread counts")?.0)
}

/// Descriptors that are left. If none is closed after the load, those of the load's own connections are left too.
pub(super) fn fds_leaked(run: Run<'_>) -> Result<Value, Unavailable> {
    let (what, signal) = ("counts of file descriptors", &run.signals().fds);
    let (coming, levels) = left_and_still_coming(run, signal, what)?;
    let last = Entries::of(signal, what)?.iter().last().map_or(0, |(_, last)| last);
    match levels {
        Some(levels) if last >= levels.end => left(run, signal, what),
        Some(_) | None => Ok(coming),
    }
}

/// Goroutines that are left after the drain and were not there before the load, as far as they came in the measuring
/// phase or later. What the load started once, such as a pool or connections that are kept, came in the warm-up, or in the
/// first half of the phase and none later. Without goroutines by `go` statement, all that are left count.
pub(super) fn goroutines_leaked(run: Run<'_>) -> Result<Value, Unavailable> {
    let left = left(run, &run.signals().goroutines, "goroutine counts")?;
    let Ok(sites) = usable(&run.signals().goroutine_sites, "goroutines by `go` statement") else { return Ok(left) };
    let lengths = [&sites.before, &sites.left, &sites.young].map(Vec::len);
    if lengths.iter().any(|length| *length != sites.created.len()) {
        return Ok(left);
    }
    let rows = sites.before.iter().zip(&sites.left).zip(&sites.young);
    let came = rows.map(|((before, after), young)| after.saturating_sub(*before).min(*young));
    let came = left.value.min(came.fold(0u64, u64::saturating_add));
    let counts = Entries::of(&run.signals().goroutines, "goroutine counts")?;
    let settled = Levels::of(counts, run.measure()?).and_then(Levels::settled);
    let explains = |settled: &u64| came >= SETTLES_FROM && *settled as f64 >= MOST * came as f64;
    let settled = settled.filter(explains);
    Ok(Value { value: settled.map_or(came, |_| 0), settled, ..left })
}

/// Processes that the kernel killed because memory ran out. They count however the service ended.
pub(super) fn oom_kills(run: Run<'_>) -> Result<Value, Unavailable> {
    Ok(Value { value: *usable(&run.signals().oom_kills, "count of OOM kills")?, n: 1, sampled: false, settled: None })
}

/// The value as a figure. It has no interval.
pub(super) fn figure(value: &Value) -> Measurement {
    let Value { value, n, sampled, settled } = *value;
    let remark = match n {
        _ if let Some(settled) = settled => {
            format!("{settled} came and stayed in the first half of the measuring phase, and none in the second")
        }
        _ if !sampled => String::new(),
        1 => "sampled: a shorter peak may have been missed".to_owned(),
        n => format!("max of {n} samples"),
    };
    Estimate::of(Interval::exact(value as f64), n, remark)
}

fn is_sampled<T>(signal: &Signal<T>) -> bool {
    signal.exactness == Exactness::Sampled
}
