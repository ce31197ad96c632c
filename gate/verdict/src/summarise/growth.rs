//! Growth: slopes of the live heap, the resident set and other memory, and what their shape says.

use memgate_evidence::{Series, Signal, TimeSpan};

use super::{
    Estimate, Measurement, Unavailable,
    rates::live_heap,
    run::{Run, usable},
    series::{Entries, blocks, minutes_into},
    stats::{Interval, MIN_POINTS, Slope, mean, slope, slope_of_stairs, smoothed},
};

/// A growth in bytes per minute.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Growth {
    slope: Slope,
    /// The mean of what grows, bytes.
    level: f64,
    /// What the shape of the series says; empty if it is even.
    shape: String,
}

/// The length of the blocks whose minima represent a sampled series, seconds.
const BLOCK_S: u64 = 5;

/// The series falls by at least this share of its range if it falls back.
const FALLS_BACK: f64 = 0.5;

/// The fall is at least this many times the median difference between neighbours.
const FALLS_AT_ONCE: f64 = 5.0;

/// The number of blocks in which falls are looked for.
const SMOOTH_BLOCKS: usize = 16;

/// A series that never falls by more than this share of its rise only rises.
const ONLY_RISES: f64 = 0.1;

/// Each half of a series that rises throughout has at least this share of the whole rise.
const RISES_THROUGHOUT: f64 = 0.2;

/// The growth of the live heap: of the readings at the service's own collections in the measuring phase, and at those
/// that memgate forced just before and after it.
pub(super) fn of_live_heap(run: Run<'_>) -> Result<Growth, Unavailable> {
    let span = run.measure()?;
    let own = live_heap(run, span)?;
    let forced = usable(&run.signals().forced_collections, "forced collections");
    let windows = forced.as_ref().map_or(&[][..], |forced| &forced.windows);
    let all = Entries::of(&run.signals().live_heap, "live-heap readings")?;
    let counted = |at: u64| span.contains(at) || windows.iter().any(|window| window.contains(at));
    let points: Vec<(f64, f64)> =
        all.iter().filter(|(at, _)| counted(*at)).map(|(at, bytes)| (minutes_from(span, at), bytes as f64)).collect();
    growth(&points, slope).ok_or_else(|| {
        let found = own.len();
        let cycles = if found == 1 { "cycle" } else { "cycles" };
        let why = forced.err().map(|why| format!(" ({})", why.reason)).unwrap_or_default();
        Unavailable::because(format!(
            "only {found} GC {cycles} in the measuring phase{why}, and a slope needs {MIN_POINTS}: measure longer"
        ))
    })
}

/// A time in minutes from the start of a span, negative before it.
fn minutes_from(span: TimeSpan, at_ns: u64) -> f64 {
    (at_ns as f64 - span.start_ns as f64) / 60e9
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
    let span = run.measure()?;
    let samples = Entries::of(signal, what)?.covering(span, what)?;
    let growth = minima(samples, span).and_then(|points| growth(&points, slope));
    growth.ok_or_else(|| Unavailable::because(format!("too few {what} in the measuring phase: measure longer")))
}

/// The growth as a figure.
pub(super) fn per_minute(growth: &Growth) -> Measurement {
    let points = u64::try_from(growth.slope.points).unwrap_or(u64::MAX);
    Estimate::of(growth.slope.interval, points, growth.shape.clone())
        .map(|estimate| Estimate { level: Some(growth.level), ..estimate })
}

/// The slope of the points, minutes and bytes, as their shape demands:
///
/// - A series that slows down has the slope of its second half: a working set that grows and then stays is no leak.
/// - A series that falls back to where it was, a sawtooth, may not have grown at all.
/// - A series that only rises, in both halves, has grown, whatever its autocorrelation.
fn growth(points: &[(f64, f64)], slope_of: fn(&[(f64, f64)]) -> Option<Slope>) -> Option<Growth> {
    let whole = slope_of(points)?;
    let level = mean(&points.iter().map(|point| point.1).collect::<Vec<_>>())?;
    let (first_at, last_at) = (points.first()?.0, points.last()?.0);
    let halves = points.split_at(points.partition_point(|point| point.0 < f64::midpoint(first_at, last_at)));
    let slopes = (slope_of(halves.0), slope_of(halves.1));
    if let (Some(first), Some(second)) = slopes
        && slows_down(first.interval, second.interval)
    {
        let shape = "growth slowed down: slope of the second half of the measuring phase".to_owned();
        return Some(Growth { slope: second, level, shape });
    }
    if let Some(fall) = falls_back(points) {
        let interval = whole.interval;
        let slope = Slope { interval: Interval { low: interval.low.min(0.0), ..interval }, ..whole };
        return Some(Growth { slope, level, shape: fall });
    }
    let slope = Slope { interval: rises_throughout(halves, whole.interval), ..whole };
    Some(Growth { slope, level, shape: String::new() })
}

/// Whether the second slope is at most half of the first, and significantly less. Either of two criteria suffices for
/// the latter:
///
/// - their difference exceeds its 95 % half-width, that of the two intervals in quadrature (G. Y. Zou and A. Donner,
///   Statistics in Medicine 27, 2008);
/// - the second is at most half as steep as the first, even by its upper bound. This covers a first half that is far
///   from straight, whose own interval is very wide.
///
/// docs/explanation/slopes.md gives, by simulation, the false alarms that this prevents and the power that it costs.
fn slows_down(first: Interval, second: Interval) -> bool {
    let half_width = (first.measured - first.low).hypot(second.high - second.measured);
    let is_less = first.measured - second.measured > half_width || second.high < first.measured / 2.0;
    is_less && second.measured <= first.measured / 2.0
}

/// Says so if the series falls at once to where it began, and has not risen above that again: a sawtooth with a period
/// that the phase does not show to be shorter. The fall is far larger than the other differences between neighbours.
fn falls_back(points: &[(f64, f64)]) -> Option<String> {
    let blocks = smoothed(points, SMOOTH_BLOCKS);
    let falls: Vec<f64> = blocks.array_windows().map(|[one, next]| one.1 - next.1).collect();
    let mut sizes: Vec<f64> = falls.iter().map(|fall| fall.abs()).collect();
    sizes.sort_unstable_by(f64::total_cmp);
    let usual = sizes.get(sizes.len() / 2)?;
    let (low, high) = range(&blocks.iter().map(|block| block.1).collect::<Vec<_>>());
    let (index, fall) = falls.iter().enumerate().max_by(|one, other| one.1.total_cmp(other.1))?;
    let (before, last) = (blocks.get(index)?, blocks.last()?);
    (*fall >= FALLS_BACK * (high - low) && *fall >= FALLS_AT_ONCE * usual && *fall > 0.0 && before.1 >= last.1).then(|| {
        let at_s = before.0 * 60.0;
        format!("a sawtooth: it fell {at_s:.0} s into the measuring phase, which must last several teeth")
    })
}

/// The interval of a series that only rises, in both halves. Noise falls as often as it rises, however long it
/// remembers, so such a series has grown. The interval is then that of the halves: half of the slower one to twice the
/// faster one.
fn rises_throughout(halves: (&[(f64, f64)], &[(f64, f64)]), interval: Interval) -> Interval {
    let (Some(start), Some(middle), Some(end)) = (halves.0.first(), halves.1.first(), halves.1.last()) else {
        return interval;
    };
    let rise = end.1 - start.1;
    let (mut peak, mut deepest) = (f64::NEG_INFINITY, 0.0f64);
    for &(_, value) in halves.0.iter().chain(halves.1) {
        peak = peak.max(value);
        deepest = deepest.max(peak - value);
    }
    let parts = [middle.1 - start.1, end.1 - middle.1];
    if rise <= 0.0 || deepest > ONLY_RISES * rise || parts.iter().any(|part| *part < RISES_THROUGHOUT * rise) {
        return interval;
    }
    let rates = [parts[0] / (middle.0 - start.0), parts[1] / (end.0 - middle.0)];
    let (slower, faster) = (rates[0].min(rates[1]), rates[0].max(rates[1]));
    Interval {
        measured: interval.measured,
        low: interval.low.max((slower / 2.0).min(interval.measured)),
        high: interval.high.min((faster * 2.0).max(interval.measured)),
    }
}

fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), &value| (low.min(value), high.max(value)))
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
