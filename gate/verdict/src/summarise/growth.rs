//! Slopes of the live heap, the resident set and the resident off-heap memory.

use memgate_evidence::{Series, Signal, TimeSpan};

use super::{
    Estimate, Measurement, Unavailable,
    rates::live_heap,
    run::Run,
    series::{Entries, blocks, minutes_into},
    stats::{Interval, MIN_POINTS, Slope, combine, slope, slope_of_stairs},
};

/// A slope in bytes per minute, and whether it covers only the second half of the phase.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Growth {
    slope: Slope,
    second_half: bool,
}

/// The length of the blocks whose minima represent a sampled series, seconds.
const BLOCK_S: u64 = 5;

/// The growth of the live heap.
pub(super) fn of_live_heap(run: Run<'_>) -> Result<Growth, Unavailable> {
    let span = run.measure_at_rate()?;
    let cycles = live_heap(run, span)?;
    let points = |part: TimeSpan| -> Vec<(f64, f64)> {
        cycles.within(part).iter().map(|(at, bytes)| (minutes_into(span, at), bytes as f64)).collect()
    };
    growth(span, |part| slope(&points(part))).ok_or_else(|| {
        let found = cycles.len();
        let cycles = if found == 1 { "cycle" } else { "cycles" };
        Unavailable::because(format!(
            "only {found} GC {cycles} in the measuring phase, and a slope needs {MIN_POINTS}: measure longer"
        ))
    })
}

/// The growth of the resident set.
pub(super) fn of_resident_set(run: Run<'_>) -> Result<Growth, Unavailable> {
    of_minima(run, &run.signals().rss, "resident-set samples", slope)
}

/// The growth of the resident off-heap memory. C's allocators and drivers seldom return any of it.
pub(super) fn of_off_heap(run: Run<'_>) -> Result<Growth, Unavailable> {
    of_minima(run, &run.signals().offheap, "off-heap samples", slope_of_stairs)
}

/// The growth of a sampled series, from the minima of blocks: the memory that a service keeps shows between its peaks.
fn of_minima(
    run: Run<'_>,
    signal: &Signal<Series>,
    what: &str,
    slope: fn(&[(f64, f64)]) -> Option<Slope>,
) -> Result<Growth, Unavailable> {
    let span = run.measure_at_rate()?;
    let samples = Entries::of(signal, what)?.covering(span, what)?;
    growth(span, |part| slope(&minima(samples, part)?))
        .ok_or_else(|| Unavailable::because(format!("too few {what} in the measuring phase: measure longer")))
}

/// The growth over all runs together.
pub(super) fn per_minute(runs: &[Growth]) -> Measurement {
    let slopes: Vec<Slope> = runs.iter().map(|growth| growth.slope).collect();
    let slope = combine(&slopes).ok_or_else(|| Unavailable::because("no run"))?;
    let halves = runs.iter().filter(|growth| growth.second_half).count();
    let remark = match (halves, runs.len()) {
        (0, _) => String::new(),
        (1, 1) => "growth slowed down: slope of the second half of the measuring phase".to_owned(),
        (halves, runs) => {
            format!("growth slowed down in {halves} of {runs} runs: slope of the second half of their measuring phase")
        }
    };
    Estimate::of(slope.interval, u64::try_from(slope.points).unwrap_or(u64::MAX), remark)
}

/// The slope of the whole span, or of its second half if the growth slows down: a working set that grows and then stays
/// constant is not a leak.
fn growth(span: TimeSpan, slope_of: impl Fn(TimeSpan) -> Option<Slope>) -> Option<Growth> {
    let whole = Growth { slope: slope_of(span)?, second_half: false };
    let middle_ns = span.start_ns.midpoint(span.end_ns);
    let first = slope_of(TimeSpan { start_ns: span.start_ns, end_ns: middle_ns });
    let second = slope_of(TimeSpan { start_ns: middle_ns, end_ns: span.end_ns });
    Some(match (first, second) {
        (Some(first), Some(second)) if slows_down(first.interval, second.interval) => {
            Growth { slope: second, second_half: true }
        }
        _ => whole,
    })
}

/// Whether the second slope is significantly less than the first. Either of two criteria suffices:
///
/// - their difference exceeds its 95 % half-width, that of the two intervals in quadrature (G. Y. Zou and A. Donner,
///   Statistics in Medicine 27, 2008);
/// - the second is at most half as steep as the first, even by its upper bound. This covers a first half that is far
///   from straight, whose own interval is very wide.
///
/// docs/explanation/slopes.md gives, by simulation, the false alarms that this prevents and the power that it costs.
fn slows_down(first: Interval, second: Interval) -> bool {
    let half_width = (first.measured - first.low).hypot(second.high - second.measured);
    first.measured - second.measured > half_width || second.high < first.measured / 2.0
}

/// The least value of each block, at the block's centre; `None` if a block has no sample.
fn minima(samples: Entries<'_>, span: TimeSpan) -> Option<Vec<(f64, f64)>> {
    blocks(span, BLOCK_S)
        .into_iter()
        .map(|block| {
            let least = samples.within(block).value.iter().min()?;
            let centre_ns = block.start_ns.midpoint(block.end_ns);
            Some((minutes_into(span, centre_ns), *least as f64))
        })
        .collect()
}
