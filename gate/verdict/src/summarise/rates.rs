//! Rates and ratios from running totals.

use memgate_evidence::{Series, Signal, TimeSpan};

use super::{
    Estimate, Measurement, Unavailable,
    requests::enough,
    run::{Run, usable},
    series::{Entries, check_steady, minutes_into, seconds},
    stats::{Events, Interval, MIN_WINDOWS, rate_of_events, ratio},
};

/// Windows of the measuring phase: the growth of the denominator and of the numerator.
pub(super) type Windows = Vec<(f64, f64)>;

/// Bytes allocated over seconds.
pub(super) fn alloc_per_second(run: Run<'_>) -> Result<Windows, Unavailable> {
    let span = run.measure()?;
    let bytes = since_launch(&run.signals().alloc_bytes, span, "allocated bytes")?;
    let edges = edges(bytes, span);
    let windows =
        edges.windows(2).map(|edge| (seconds(bytes.at_ns[edge[0]], bytes.at_ns[edge[1]]), growth(bytes, edge)));
    Ok(windows.collect())
}

/// The growth of a running total over completed requests. `what` names the total in the plural.
pub(super) fn per_request(run: Run<'_>, total: &Signal<Series>, what: &str) -> Result<Windows, Unavailable> {
    let span = run.measure()?;
    let completed = completed_requests(run, span)?;
    let total = since_launch(total, span, what)?;
    // Uses the time between the first and the last reading of the requests, so that nothing is extrapolated.
    let total = total.within_closed(known(completed));
    let windows: Windows = edges(total, span)
        .windows(2)
        .map(|edge| {
            let requests = |index: usize| completed.interpolated(total.at_ns[index]);
            (requests(edge[1]) - requests(edge[0]), growth(total, edge))
        })
        .collect();
    enough(windows.iter().map(|&(requests, _)| requests).sum(), "completed")?;
    Ok(windows)
}

/// The readings of a total that grows from the start of every process on.
fn since_launch<'a>(total: &'a Signal<Series>, span: TimeSpan, what: &str) -> Result<Entries<'a>, Unavailable> {
    Entries::of_total(total, what)?.covering(span, what)?.without_zeros(what)
}

/// The total of allocated bytes, if it is known all through the span.
pub(super) fn allocated(run: Run<'_>, span: TimeSpan) -> Option<Entries<'_>> {
    since_launch(&run.signals().alloc_bytes, span, "allocated bytes").ok()
}

/// Requests that were completed in a minute of the measuring phase; more than 0.
pub(super) fn requests_per_minute(run: Run<'_>) -> Result<f64, Unavailable> {
    let span = run.measure()?;
    let completed = completed_requests(run, span)?;
    let known = known(completed);
    let grown = completed.interpolated(known.end_ns) - completed.interpolated(known.start_ns);
    // The readings cover the phase, so there is a time between them.
    let minutes = seconds(known.start_ns, known.end_ns) / 60.0;
    enough(grown, "completed")?;
    Ok(grown / minutes)
}

/// CPU time of the GC and of the process, from the last GC cycle before the measuring phase to the last one in it; empty
/// if there was none. Idle time counts for neither: a GC on a processor that nobody wants takes nothing from the service,
/// and a service that idles for the rest of the time would hide a GC that takes most of its work.
pub(super) fn gc_cpu(run: Run<'_>) -> Result<Windows, Unavailable> {
    let what = "readings of the CPU time";
    let span = run.measure()?;
    let cpu = usable(&run.signals().gc_cpu, what)?;
    let total = |column| Entries::new(&cpu.at_ns, column, what)?.into_total(what);
    let gc = total(&cpu.gc_ns)?;
    let (gc_idle, idle, all) = (total(&cpu.gc_idle_ns)?, total(&cpu.idle_ns)?, total(&cpu.total_ns)?);
    let inside = gc.within(span);
    if inside.len() == 0 {
        return if cycles_within(run, span)?.len() == 0 { Ok(Vec::new()) } else { Err(Unavailable::because(NO_CYCLE)) };
    }
    check_steady(inside.at_ns, span, allocated(run, span), what)?;
    let before = gc.at_ns.partition_point(|&at| at < span.start_ns);
    // The runtime's totals are 0 at the launch.
    let value =
        |entries: Entries<'_>, index: usize| index.checked_sub(1).map_or(0, |index| entries.value[index]) as f64;
    let grown = |entries: Entries<'_>, edge: &[usize]| value(entries, edge[1]) - value(entries, edge[0]);
    let edges: Vec<usize> = (before..=before + inside.len()).collect();
    let window = |edge: &[usize]| {
        let unwanted = grown(gc_idle, edge);
        (grown(all, edge) - grown(idle, edge) - unwanted, grown(gc, edge) - unwanted)
    };
    let windows: Windows = edges.windows(2).map(window).collect();
    let sum = |of: fn(&(f64, f64)) -> f64| windows.iter().map(of).sum::<f64>();
    if sum(|window| window.1) > sum(|window| window.0) || sum(|window| window.1) < 0.0 {
        return Err(Unavailable::because("the GC has more CPU time than the process, which is impossible"));
    }
    Ok(windows)
}

/// As [`ratio_of_totals`], for a share of 1. A few windows give the share without an interval, and none give 0.
pub(super) fn share_of_totals(windows: &Windows) -> Measurement {
    let n = u64::try_from(windows.len()).unwrap_or(u64::MAX);
    match windows.iter().fold((0.0, 0.0), |(whole, part), window| (whole + window.0, part + window.1)) {
        _ if windows.is_empty() => Estimate::of(Interval::exact(0.0), 0, NO_CYCLE.to_owned()),
        (whole, part) if windows.len() < MIN_WINDOWS && whole > 0.0 => {
            Estimate::of(Interval::exact(part / whole), n, String::new())
        }
        _ => ratio_up_to(windows, 1.0),
    }
}

/// Σ growth / Σ denominator over all windows.
pub(super) fn ratio_of_totals(windows: &Windows) -> Measurement {
    ratio_up_to(windows, f64::MAX)
}

fn ratio_up_to(windows: &[(f64, f64)], most: f64) -> Measurement {
    let n = u64::try_from(windows.len()).unwrap_or(u64::MAX);
    let interval: Interval = ratio(windows).ok_or_else(|| {
        Unavailable::because(format!("only {n} windows in the measuring phase: read more often or measure longer"))
    })?;
    Estimate::of(interval.within(0.0, most), n, String::new())
}

/// The GC cycles of the measuring phase.
pub(super) fn cycles(run: Run<'_>) -> Result<Events, Unavailable> {
    let span = run.measure()?;
    let cycles = live_heap(run, span)?;
    let gaps = cycles.at_ns.windows(2).map(|pair| seconds(pair[0], pair[1]) / 60.0).collect();
    let count = u64::try_from(cycles.len()).unwrap_or(u64::MAX);
    Ok(Events { count, minutes: minutes_into(span, span.end_ns), gaps })
}

/// GC cycles per minute.
pub(super) fn cycles_per_minute(events: &Events) -> Measurement {
    Estimate::of(rate_of_events(events), events.count, String::new())
}

/// A phase in which the GC never ran.
pub(super) const NO_CYCLE: &str = "no GC cycle in the measuring phase";

/// The cycles of a span, unchecked.
pub(super) fn cycles_within(run: Run<'_>, span: TimeSpan) -> Result<Entries<'_>, Unavailable> {
    Ok(Entries::of(&run.signals().live_heap, "live-heap readings")?.within(span))
}

/// The live heap after the mark phase of each cycle in the measuring phase.
pub(super) fn live_heap(run: Run<'_>, span: TimeSpan) -> Result<Entries<'_>, Unavailable> {
    let cycles = cycles_within(run, span)?;
    check_steady(cycles.at_ns, span, allocated(run, span), "live-heap readings")?;
    check_against_pauses(cycles, run)?;
    Ok(cycles)
}

/// A cycle pauses two or three times, so five pauses after the last cycle mean that cycles are missing.
fn check_against_pauses(cycles: Entries<'_>, run: Run<'_>) -> Result<(), Unavailable> {
    let Ok(pauses) = usable(&run.signals().gc_pauses, "GC pauses") else { return Ok(()) };
    let span = run.measure()?;
    let last = cycles.at_ns.last().copied().unwrap_or(0);
    let after = pauses.at_ns.iter().filter(|&&at| at > last && span.contains(at)).count();
    if after >= 5 {
        return Err(Unavailable::because(format!(
            "{after} GC pauses follow the last recorded cycle: cycles are missing"
        )));
    }
    Ok(())
}

/// The number of completed requests at each reading.
fn completed_requests(run: Run<'_>, span: TimeSpan) -> Result<Entries<'_>, Unavailable> {
    let what = "completed requests";
    let series = &usable(&run.signals().requests, "requests")?.completed;
    Entries::new(&series.at_ns, &series.value, what)?.into_total(what)?.covering(span, what)
}

fn known(entries: Entries<'_>) -> TimeSpan {
    let first = entries.at_ns.first().copied().unwrap_or(0);
    TimeSpan { start_ns: first, end_ns: entries.at_ns.last().copied().unwrap_or(first) }
}

fn growth(total: Entries<'_>, edge: &[usize]) -> f64 {
    (total.value[edge[1]] - total.value[edge[0]]) as f64
}

/// The entries that begin and end windows. A window is a second long, or an eighth of the phase if that is shorter than
/// 8 s. It is longer if the next reading comes later, and the last one includes the remainder of the phase.
fn edges(entries: Entries<'_>, span: TimeSpan) -> Vec<usize> {
    let window_s = (seconds(span.start_ns, span.end_ns) / 8.0).min(1.0);
    let mut edges = vec![0];
    let mut from = entries.at_ns.first().copied().unwrap_or(0);
    for (index, &at) in entries.at_ns.iter().enumerate() {
        // Readings are as often a little early as late. A tolerance of a tenth of a window keeps windows from doubling.
        if seconds(from, at) >= 0.9 * window_s && at > from {
            edges.push(index);
            from = at;
        }
    }
    let last = entries.len().saturating_sub(1);
    if let Some(edge) = edges.last_mut()
        && *edge > 0
    {
        *edge = last;
    }
    edges
}
