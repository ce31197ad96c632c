//! Growth: slopes of the live heap, the resident set and other memory, and what their shape says.

use memgate_evidence::{Exactness, TimeSpan};

use super::{
    Estimate, Measurement, Unavailable,
    rates::live_heap,
    run::{Run, usable},
    series::{Entries, blocks, minutes_into},
    stats::{Interval, MIN_POINTS, Slope, mean, median, slope, slope_of_stairs, smoothed},
    totals,
};
use crate::{metric::Unit, units};

/// A growth in bytes per minute.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Growth {
    slope: Slope,
    /// The mean of what grows, bytes.
    level: f64,
    /// Whether it is so little in the whole phase that it may be none.
    is_too_little: bool,
    /// What the shape of the series says; empty if it is even.
    shape: String,
}

/// Minutes and bytes, in the order of time.
type Points<'a> = &'a [(f64, f64)];

/// The length of the blocks whose minima represent a sampled series, seconds.
const BLOCK_S: u64 = 5;

/// The series falls by at least this share of its range if it falls back.
const FALLS_BACK: f64 = 0.5;

/// The fall is at least this many times the median difference between neighbours.
const FALLS_AT_ONCE: f64 = 5.0;

/// The goal counts objects. Spans hold objects and gaps, and the runtime keeps a tenth more than it needs
/// (`retainExtraPercent`, mgcscavenge.go, Go 1.21 to 1.27). Measured: a heap of 4.9 MB with a goal of 4.2 MB.
const HEADROOM: f64 = 1.25;

/// The runtime's descriptions of spans and objects take at most this share of the heap: 160 bytes for a span of 8 KiB and
/// some bits for each object (mheap.go and mbitmap.go, Go 1.21 to 1.27). Measured with `GOGC=off`: 2 %.
const DESCRIPTIONS: f64 = 1.0 / 32.0;

/// A part of a growth is told if it is at least this share of it.
const PART_TO_TELL: f64 = 0.1;

/// The number of blocks in which falls are looked for.
const SMOOTH_BLOCKS: usize = 16;

/// A process that gets to work takes so much more at once, bytes: stacks in spans of 32 KiB, the heap in chunks, pages of
/// libraries. A rise by less in a whole phase shows no growth per minute. Measured: services that had run for 1 s took
/// 0.04 to 0.18 MB more in the next 3 s.
const LEAST_RISE: f64 = 256.0 * 1024.0;

/// A minimum is of at least this many readings.
const LEAST_OF: usize = 3;

/// The least number of blocks of which the minima have a slope worth the name.
const LEAST_BLOCKS: usize = 6;

/// Minima stand for the readings if their interval is at most this share of the readings' own.
const NARROWER: f64 = 0.5;

/// One in this many points must follow a late rise.
const STAYS_FOR: usize = 20;

/// A series that never falls by more than this share of its rise only rises.
const ONLY_RISES: f64 = 0.1;

/// Each half of a series that rises throughout has at least this share of the whole rise.
const RISES_THROUGHOUT: f64 = 0.2;

/// The growth of the live heap: of the readings at the service's own collections in the measuring phase, and at those
/// that memgate forced just before and after it.
pub(super) fn of_live_heap(run: Run<'_>) -> Result<Growth, Unavailable> {
    let span = run.measure()?;
    let own = live_heap(run, span)?;
    // A cycle that ended late is a doubt of the phase after the window. The readings in the window are none the worse.
    let forced = &run.signals().forced_collections;
    let windows = match forced.exactness {
        Exactness::Missing { .. } => &[][..],
        Exactness::Exact | Exactness::Sampled | Exactness::Bucketed | Exactness::Inexact { .. } => &forced.data.windows,
    };
    let all = Entries::of(&run.signals().live_heap, "live-heap readings")?;
    let counted = |at: u64| span.contains(at) || windows.iter().any(|window| window.contains(at));
    let points: Vec<(f64, f64)> =
        all.iter().filter(|(at, _)| counted(*at)).map(|(at, bytes)| (minutes_from(span, at), bytes as f64)).collect();
    growth_of_what_stays(&points).ok_or_else(|| {
        let found = own.len();
        let cycles = if found == 1 { "cycle" } else { "cycles" };
        let why =
            usable(forced, "forced collections").err().map(|why| format!(" ({})", why.reason)).unwrap_or_default();
        Unavailable::because(format!(
            "only {found} GC {cycles} in the measuring phase{why}, and a slope needs {MIN_POINTS}: measure longer"
        ))
    })
}

/// The growth of the readings, or of their minima if these say at least twice as much.
///
/// A reading holds what stays and what requests, pools and jobs have in hand at the end of the mark phase. The latter
/// comes on top, so that the least reading of a block is closest to what stays.
fn growth_of_what_stays(points: Points<'_>) -> Option<Growth> {
    let of_all = growth(points, slope)?;
    let width = |growth: &Growth| growth.slope.interval.high - growth.slope.interval.low;
    let minima = minima(points).and_then(|minima| growth(&minima, slope));
    Some(match minima {
        Some(least) if width(&least) <= NARROWER * width(&of_all) => {
            let shape = [least.shape.as_str(), "from the least live heap of each 5 s or more"];
            let shape = shape.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
            Growth { slope: Slope { points: of_all.slope.points, ..least.slope }, level: of_all.level, shape, ..least }
        }
        Some(_) | None => of_all,
    })
}

/// The least readings of blocks of 5 s, or of as many times 5 s as it takes for enough readings; `None` if there are too
/// few blocks.
fn minima(points: Points<'_>) -> Option<Vec<(f64, f64)>> {
    let first_at = points.first()?.0;
    let block_of = |point: &(f64, f64)| ((point.0 - first_at) * 60.0 / BLOCK_S as f64).floor();
    let (mut minima, mut from, mut to) = (Vec::new(), 0, 0);
    for block in points.chunk_by(|one, next| block_of(one) == block_of(next)) {
        to += block.len();
        let so_far = points.get(from..to)?;
        // Those that are left at the end may be too few.
        if so_far.len() >= LEAST_OF {
            minima.extend(so_far.iter().copied().min_by(|one, other| one.1.total_cmp(&other.1)));
            from = to;
        }
    }
    (minima.len() >= LEAST_BLOCKS).then_some(minima)
}

/// A time in minutes from the start of a span, negative before it.
fn minutes_from(span: TimeSpan, at_ns: u64) -> f64 {
    (at_ns as f64 - span.start_ns as f64) / 60e9
}

/// The growth of the live heap as a figure of what a request leaves behind.
pub(super) fn per_request(growth: &Growth, requests_per_minute: f64) -> Measurement {
    let of_minute = per_minute(growth)?;
    let of = |figure: f64| figure / requests_per_minute;
    let Estimate { measured, low, high, .. } = of_minute;
    Ok(Estimate { measured: of(measured), low: of(low), high: of(high), level: None, ..of_minute })
}

/// The growth of the resident set. Memory that the kernel swaps out meanwhile still counts. A heap that fills up again
/// to what it was before the phase is no growth: memgate's own collections before the phase make the runtime return
/// pages, and a slow service takes seconds to touch them again.
pub(super) fn of_resident_set(run: Run<'_>) -> Result<Growth, Unavailable> {
    let what = "resident-set samples";
    let span = run.measure()?;
    let samples = Entries::of(&run.signals().rss, what)?.covering(span, what)?;
    let swapped = swapped(run, span)?;
    // Without these figures all of it counts.
    let go = GoMemory::of(run, span).ok().flatten();
    let before = go.as_ref().map_or(0.0, |go| go.before(span));
    let returned = |at| go.as_ref().map_or(0.0, |go| (before - go.heap(at)).max(0.0));
    let points: Vec<(u64, f64)> =
        samples.iter().map(|(at, bytes)| (at, bytes as f64 + swapped.at_or_before(at) + returned(at))).collect();
    of_blocks(span, &points, least, slope).ok_or_else(|| too_few(what))
}

/// The growth of the resident off-heap memory, without pages of files, which the kernel takes back. C's allocators and
/// drivers seldom return any memory. Whether swapped-out memory is off-heap memory is not known, so the growth may be with
/// it or without it.
pub(super) fn of_off_heap(run: Run<'_>) -> Result<Growth, Unavailable> {
    let span = run.measure()?;
    let anonymous = off_heap_without_files(run, span)?;
    let of = |points: &[(u64, f64)]| of_blocks(span, points, least, slope_of_stairs).ok_or_else(|| too_few(OFF_HEAP));
    let swapped = swapped(run, span)?;
    let inside = swapped.within_closed(span);
    let growth = of(&anonymous)?;
    if inside.value.iter().max() == inside.value.iter().min() {
        return Ok(growth);
    }
    let all: Vec<(u64, f64)> = anonymous.iter().map(|&(at, bytes)| (at, bytes + swapped.at_or_before(at))).collect();
    Ok(growth.or(of(&all)?, "swapped-out memory may be a part of it"))
}

/// The swapped-out memory of the service's processes, which no figure of resident memory has.
fn swapped(run: Run<'_>, span: TimeSpan) -> Result<Entries<'_>, Unavailable> {
    let what = "samples of swapped-out memory";
    let swapped = Entries::of(&run.signals().swap, what)?;
    swapped.covering(span, what)?;
    Ok(swapped)
}

const OFF_HEAP: &str = "off-heap samples";

/// The resident off-heap memory less what pages of files grew since the start of the span, bytes.
fn off_heap_without_files(run: Run<'_>, span: TimeSpan) -> Result<Vec<(u64, f64)>, Unavailable> {
    let samples = totals::off_heap(run, OFF_HEAP)?;
    let kinds = usable(&run.signals().rss_kinds, "resident set by kind")?;
    let files = Entries::new(&kinds.at_ns, &kinds.file, "resident set by kind")?;
    files.covering(span, "resident set by kind")?;
    let before = files.at_or_before(span.start_ns);
    let anonymous = samples.iter().map(|(at, bytes)| (at, bytes as f64 - (files.at_or_before(at) - before).max(0.0)));
    Ok(anonymous.collect())
}

/// The growth of the anonymous memory, resident or swapped out. The Go heap counts only beyond the goal of the GC: below it, garbage waits
/// for the next collection, and the live heap has a metric of its own.
pub(super) fn of_anonymous(run: Run<'_>) -> Result<Growth, Unavailable> {
    let what = "samples of the anonymous resident set";
    let span = run.measure()?;
    let kinds = usable(&run.signals().rss_kinds, what)?;
    let samples = Entries::new(&kinds.at_ns, &kinds.anonymous, what)?.covering(span, what)?.not_all_zeros(what)?;
    let go = GoMemory::of(run, span)?;
    let of_heap = |at, anonymous: f64| go.as_ref().map_or(anonymous, |go| go.beyond_heap(at, anonymous));
    let swapped = swapped(run, span)?;
    let touched = |(at, bytes): (u64, u64)| (at, of_heap(at, bytes as f64 + swapped.at_or_before(at)));
    let beyond: Vec<(u64, f64)> = samples.iter().map(touched).collect();
    let growth = of_blocks(span, &beyond, median_of, slope).ok_or_else(|| too_few(what))?;
    let off_heap = Entries::of(&run.signals().offheap, "off-heap samples").ok();
    let parts = [
        ("goroutine stacks", go.as_ref().and_then(|go| go.of_stacks(span))),
        ("off-heap memory", off_heap.and_then(|samples| pace(samples, span))),
        ("swapped-out memory", pace(swapped, span)),
        ("the runtime's own data", go.as_ref().and_then(|go| go.of_runtime(span))),
        ("the heap beyond the GC's goal", go.as_ref().and_then(|go| go.beyond_goal(span))),
    ];
    Ok(Growth { level: level(samples), ..growth.made_of(&parts) })
}

/// The growth of what the service's cgroup is charged for, and of what is swapped out of it, without pages of files, which the kernel takes back, and
/// without the Go heap up to the goal of the GC.
pub(super) fn of_cgroup(run: Run<'_>) -> Result<Growth, Unavailable> {
    let what = "samples of the cgroup's memory";
    let span = run.measure()?;
    let memory = usable(&run.signals().cgroup_memory, what)?;
    let column = |values: &'static str, column| Entries::new(&memory.at_ns, column, values);
    let current = column(what, &memory.current)?.covering(span, what)?.without_zeros(what)?;
    let (file, shared) = (column(what, &memory.file)?, column(what, &memory.shmem)?);
    let anonymous = column(what, &memory.anon)?;
    let swapped = match &memory.swap {
        Some(swap) => column(what, swap)?,
        // This kernel does not account for it by cgroup.
        None => swapped(run, span)?,
    };
    let go = GoMemory::of(run, span)?;
    let kept = |(at, bytes): (u64, u64)| {
        let reclaimable = (file.at_or_before(at) - shared.at_or_before(at)).max(0.0);
        let anonymous = anonymous.at_or_before(at);
        let touched = anonymous + swapped.at_or_before(at);
        let beyond = go.as_ref().map_or(touched, |go| go.beyond_heap(at, touched));
        (at, bytes as f64 - reclaimable - anonymous + beyond)
    };
    let growth = of_blocks(span, &current.iter().map(kept).collect::<Vec<_>>(), median_of, slope);
    let growth = growth.ok_or_else(|| too_few(what))?;
    let kernel = memory.kernel.as_ref().and_then(|kernel| column(what, kernel).ok());
    let parts = [
        ("shared memory (tmpfs)", pace(shared, span)),
        ("anonymous memory", pace(anonymous, span)),
        ("swapped-out memory", pace(swapped, span)),
        ("the kernel", kernel.and_then(|kernel| pace(kernel, span))),
    ];
    Ok(Growth { level: level(current), ..growth.made_of(&parts) })
}

/// What the Go runtime has mapped, over time.
struct GoMemory<'a> {
    in_use: Entries<'a>,
    free: Entries<'a>,
    goal: Entries<'a>,
    stacks: Entries<'a>,
    other: Entries<'a>,
    /// Resident off-heap memory of the launched process; empty if it is not known.
    off_heap: Vec<(u64, f64)>,
}

impl<'a> GoMemory<'a> {
    /// The memory, or `None` if this runtime's is not known. Then all anonymous memory counts as growth.
    fn of(run: Run<'a>, span: TimeSpan) -> Result<Option<Self>, Unavailable> {
        let what = "Go's memory";
        let signal = &run.signals().go_memory;
        if matches!(signal.exactness, Exactness::Missing { .. }) {
            return Ok(None);
        }
        let memory = usable(signal, what)?;
        let column = |values| Entries::new(&memory.at_ns, values, what);
        column(&memory.heap_in_use)?.covering(span, what)?.without_zeros(what)?;
        Ok(Some(Self {
            in_use: column(&memory.heap_in_use)?,
            free: column(&memory.heap_free)?,
            goal: column(&memory.heap_goal)?,
            stacks: column(&memory.stacks)?,
            other: column(&memory.runtime_other)?,
            off_heap: off_heap_without_files(run, span).unwrap_or_default(),
        }))
    }

    /// The Go heap at a time, up to the goal of the GC, and the runtime's descriptions of it, bytes.
    fn within_goal(&self, at_ns: u64) -> f64 {
        let heap = self.heap(at_ns).min(HEADROOM * self.goal.at_or_before(at_ns));
        heap + self.other.at_or_before(at_ns).min(DESCRIPTIONS * heap)
    }

    /// Anonymous memory without the Go heap up to the goal, bytes.
    ///
    /// The heap may have pages that were never touched, as in large buffers. They get resident one by one, below the
    /// goal. So no less counts than what is known to be beyond the heap, and what only fills the heap is no growth.
    fn beyond_heap(&self, at_ns: u64, anonymous: f64) -> f64 {
        anonymous.max(self.known(at_ns)) - self.within_goal(at_ns)
    }

    /// All that is known of the process's anonymous memory, touched or not, bytes; 0 if its off-heap memory is not
    /// known.
    fn known(&self, at_ns: u64) -> f64 {
        let after = self.off_heap.partition_point(|(at, _)| *at <= at_ns);
        let Some((_, off_heap)) = self.off_heap.get(after.saturating_sub(1)) else { return 0.0 };
        self.heap(at_ns) + self.stacks.at_or_before(at_ns) + self.other.at_or_before(at_ns) + off_heap
    }

    fn beyond(&self, at_ns: u64) -> f64 {
        (self.heap(at_ns) - HEADROOM * self.goal.at_or_before(at_ns)).max(0.0)
    }

    /// The most that the heap was before the span, up to the goal of the GC at its start, bytes. A start may need far
    /// more than the work after it.
    fn before(&self, span: TimeSpan) -> f64 {
        let until = self.in_use.at_ns.partition_point(|&at| at <= span.start_ns);
        let most = self.in_use.at_ns.iter().take(until).map(|&at| self.heap(at)).fold(0.0, f64::max);
        most.min(HEADROOM * self.goal.at_or_before(span.start_ns))
    }

    fn heap(&self, at_ns: u64) -> f64 {
        self.in_use.at_or_before(at_ns) + self.free.at_or_before(at_ns)
    }

    fn of_stacks(&self, span: TimeSpan) -> Option<f64> {
        pace(self.stacks, span)
    }

    fn of_runtime(&self, span: TimeSpan) -> Option<f64> {
        pace(self.other, span)
    }

    fn beyond_goal(&self, span: TimeSpan) -> Option<f64> {
        let beyond: Vec<(u64, f64)> =
            self.in_use.within_closed(span).at_ns.iter().map(|&at| (at, self.beyond(at))).collect();
        Some(of_blocks(span, &beyond, median_of, slope)?.slope.interval.measured)
    }
}

impl Growth {
    const fn of(slope: Slope, level: f64, shape: String) -> Self {
        Self { slope, level, shape, is_too_little: false }
    }

    /// The same growth, or the other one, or one between them. `why` tells what is not known.
    fn or(self, other: Self, why: &str) -> Self {
        let (one, two) = (self.slope.interval, other.slope.interval);
        let interval = Interval { low: one.low.min(two.low), high: one.high.max(two.high), ..one };
        let shape =
            [self.shape.as_str(), why].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
        let is_too_little = self.is_too_little && other.is_too_little;
        Self { slope: Slope { interval, ..self.slope }, shape, is_too_little, ..self }
    }

    /// The same growth, or up to that of a series that rises once in each such time as its points do. A robust slope makes
    /// little of a rise near the end, and it may be the first of many.
    fn or_that_of_a_rise(self, points: Points<'_>) -> Self {
        let (Some((at, size)), [first, .., last]) = (late_rise(points), points) else { return self };
        let interval = self.slope.interval;
        let pace = size / (last.0 - first.0);
        if pace <= interval.high {
            return self;
        }
        let told = format!(
            "it rose by {} {:.0} s into the measuring phase and stayed, which may come again",
            units::format(size, Unit::Bytes),
            at * 60.0
        );
        let shape = [self.shape, told].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
        Self { slope: Slope { interval: Interval { high: pace, ..interval }, ..self.slope }, shape, ..self }
    }

    /// The same growth, which may be none if it is a small rise in the span.
    fn or_too_little(self, span: TimeSpan) -> Self {
        let interval = self.slope.interval;
        let rise = interval.measured * span.length_ns() as f64 / 60e9;
        if rise >= LEAST_RISE || interval.low <= 0.0 {
            return self;
        }
        let told = format!("it is only {} in the whole phase", units::format(rise, Unit::Bytes));
        let shape = [self.shape, told].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", ");
        let slope = Slope { interval: Interval { low: 0.0, ..interval }, ..self.slope };
        Self { slope, shape, is_too_little: true, ..self }
    }

    /// The same growth, with the parts that make it up, in bytes per minute, if there is a growth.
    fn made_of(self, parts: &[(&str, Option<f64>)]) -> Self {
        if self.slope.interval.low <= 0.0 {
            return self;
        }
        let least = PART_TO_TELL * self.slope.interval.measured;
        let mut parts: Vec<(&str, f64)> = parts
            .iter()
            .filter_map(|(name, pace)| Some((*name, (*pace)?)))
            .filter(|(_, pace)| *pace >= least)
            .collect();
        parts.sort_by(|one, other| other.1.total_cmp(&one.1));
        let told: Vec<String> = parts
            .into_iter()
            .map(|(name, pace)| format!("{name} grew by {}", units::format(pace, Unit::BytesPerMinute)))
            .collect();
        let shape = Some(self.shape).filter(|shape| !shape.is_empty()).into_iter().chain(told);
        Self { shape: shape.collect::<Vec<_>>().join(", "), ..self }
    }
}

/// How fast a series grows, bytes per minute; `None` if it does not cover the span.
fn pace(samples: Entries<'_>, span: TimeSpan) -> Option<f64> {
    let inside: Vec<(u64, f64)> = samples.within_closed(span).iter().map(|(at, bytes)| (at, bytes as f64)).collect();
    Some(of_blocks(span, &inside, median_of, slope)?.slope.interval.measured)
}

fn level(samples: Entries<'_>) -> f64 {
    mean(&samples.iter().map(|(_, bytes)| bytes as f64).collect::<Vec<_>>()).unwrap_or(0.0)
}

fn too_few(what: &str) -> Unavailable {
    Unavailable::because(format!("too few {what} in the measuring phase: measure longer"))
}

/// The growth of a sampled series, in blocks of the span, each with one value.
fn of_blocks(
    span: TimeSpan,
    samples: &[(u64, f64)],
    value: fn(&[f64]) -> Option<f64>,
    slope: fn(&[(f64, f64)]) -> Option<Slope>,
) -> Option<Growth> {
    let mut points = Vec::new();
    for block in blocks(span, BLOCK_S) {
        let from = samples.partition_point(|(at, _)| *at < block.start_ns);
        let to = samples.partition_point(|(at, _)| *at < block.end_ns);
        let values: Vec<f64> = samples.get(from..to)?.iter().map(|sample| sample.1).collect();
        points.push((minutes_into(span, block.start_ns.midpoint(block.end_ns)), value(&values)?));
    }
    Some(growth(&points, slope)?.or_too_little(span))
}

/// The memory that a service keeps shows between its peaks.
fn least(values: &[f64]) -> Option<f64> {
    values.iter().copied().reduce(f64::min)
}

fn median_of(values: &[f64]) -> Option<f64> {
    median(values.to_vec())
}

/// The growth as a figure.
pub(super) fn per_minute(growth: &Growth) -> Measurement {
    let points = u64::try_from(growth.slope.points).unwrap_or(u64::MAX);
    Estimate::of(growth.slope.interval, points, growth.shape.clone()).map(|estimate| Estimate {
        level: Some(growth.level),
        needs_longer: growth.is_too_little,
        ..estimate
    })
}

/// The slope of the points, minutes and bytes, as their shape demands:
///
/// - A series that slows down has the slope of its second half: a working set that grows and then stays is no leak.
/// - A series that falls back to where it was, a sawtooth, may not have grown at all.
/// - A series that only rises, in both halves, has grown, whatever its autocorrelation.
/// - A series that rises late and stays may do so again and again.
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
        return Some(Growth::of(second, level, shape).or_that_of_a_rise(halves.1));
    }
    if let Some(fall) = falls_back(points) {
        let interval = whole.interval;
        let slope = Slope { interval: Interval { low: interval.low.min(0.0), ..interval }, ..whole };
        return Some(Growth::of(slope, level, fall));
    }
    let slope = Slope { interval: rises_throughout(halves, whole.interval), ..whole };
    Some(Growth::of(slope, level, String::new()).or_that_of_a_rise(points))
}

/// The largest rise after which the series stays above all that was before, in the second half of the points: when, and by
/// how many bytes.
fn late_rise(points: Points<'_>) -> Option<(f64, f64)> {
    let most_before = points.iter().scan(f64::NEG_INFINITY, |most, point| {
        let before = *most;
        *most = most.max(point.1);
        Some(before)
    });
    let most_before: Vec<f64> = most_before.collect();
    // Fewer points may be high by chance.
    let late = points.len() / 2..=points.len().checked_sub(points.len().div_ceil(STAYS_FOR))?;
    let mut least = f64::INFINITY;
    let rises = points.iter().zip(most_before).enumerate().rev().filter_map(|(index, (point, before))| {
        least = least.min(point.1);
        (late.contains(&index) && least > before).then_some((point.0, least - before))
    });
    rises.max_by(|one, other| one.1.total_cmp(&other.1))
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
    (*fall >= FALLS_BACK * (high - low) && *fall >= FALLS_AT_ONCE * usual && *fall > 0.0 && before.1 >= last.1).then(
        || {
            let at_s = before.0 * 60.0;
            format!("a sawtooth: it fell {at_s:.0} s into the measuring phase, which must last several teeth")
        },
    )
}

/// The interval of a series that only rises, in both halves. Noise falls as often as it rises, however long it
/// remembers, so such a series has grown. The interval is then that of the halves: half of the slower one to twice the
/// faster one.
fn rises_throughout(halves: (Points<'_>, Points<'_>), interval: Interval) -> Interval {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A point a minute.
    fn minutes(values: &[f64]) -> Vec<(f64, f64)> {
        (0u32..).map(f64::from).zip(values.iter().copied()).collect()
    }

    #[test]
    fn a_fall_of_half_the_range_is_a_sawtooths() {
        let sawtooth = minutes(&[0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 0.0, 10.0]);
        assert_eq!(falls_back(&sawtooth[..7]), None);
        let told = falls_back(&sawtooth).unwrap_or_default();
        assert_eq!(told, "a sawtooth: it fell 360 s into the measuring phase, which must last several teeth");
        let above: Vec<_> = sawtooth.iter().map(|&(at, value)| (at, value + 1000.0)).collect();
        assert!(falls_back(&above).is_some(), "wherever it begins");
        // Half of the range is not much if neighbours differ by as much.
        assert_eq!(falls_back(&minutes(&[0.0, 50.0, 0.0, 50.0, 100.0, 50.0, 0.0])), None);
        // Of a range of 100, it falls by 49 and by 51.
        assert_eq!(falls_back(&minutes(&[0.0, 99.0, 100.0, 100.0, 51.0, 51.0, 51.0])), None);
        assert!(falls_back(&minutes(&[0.0, 99.0, 100.0, 100.0, 49.0, 49.0, 49.0])).is_some());
        // It has risen above that again.
        assert_eq!(falls_back(&minutes(&[0.0, 1.0, 100.0, 100.0, 40.0, 41.0, 101.0])), None);
    }

    fn sure(_: Points<'_>) -> Option<Slope> {
        Some(Slope { interval: Interval { measured: 12.0, low: 7.0, high: 1000.0 }, points: 9 })
    }

    fn unsure(_: Points<'_>) -> Option<Slope> {
        Some(Slope { interval: Interval { measured: 12.0, low: -100.0, high: 1000.0 }, points: 9 })
    }

    #[test]
    fn the_shape_of_a_series_decides_on_its_interval() {
        let of = |values: &[f64], slope_of: fn(Points<'_>) -> Option<Slope>| {
            let Growth { slope, level, shape, is_too_little: _ } = growth(&minutes(values), slope_of).unwrap();
            (slope.interval.low, slope.interval.high, level, shape.is_empty())
        };
        let sawtooth = [0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 0.0, 6.0];
        assert_eq!(of(&sawtooth, sure), (0.0, 1000.0, 24.0, false), "it may not have grown at all");
        assert_eq!(of(&[0.0, 10.0, 20.0, 40.0], unsure), (5.0, 40.0, 17.5, true), "it only rises");
        assert_eq!(of(&[0.0, 40.0, 0.0, 40.0], unsure), (-100.0, 1000.0, 20.0, true));
    }

    #[test]
    fn a_growth_slows_down_if_its_second_half_is_at_most_half_as_steep_and_that_is_no_noise() {
        let within = |measured: f64, half: f64| Interval { measured, low: measured - half, high: measured + half };
        assert!(slows_down(within(10.0, 2.0), within(4.0, 2.0)), "6 is more than the noise of 2.8");
        assert!(!slows_down(within(10.0, 5.0), within(4.0, 5.0)), "6 is less than the noise of 7.1");
        assert!(!slows_down(within(10.0, 1.0), within(6.0, 1.0)), "it is more than half as steep");
        assert!(slows_down(within(10.0, 50.0), within(1.0, 2.0)), "even the upper bound is less than half as steep");
        assert!(!slows_down(within(0.0, 1.0), within(0.0, 1.0)));
    }

    #[test]
    fn what_only_rises_has_at_least_half_of_its_slower_half() {
        let wide = Interval { measured: 12.0, low: -100.0, high: 1000.0 };
        let of = |first: Points<'_>, second: Points<'_>| {
            let Interval { measured, low, high } = rises_throughout((first, second), wide);
            (measured, low, high)
        };
        // 10 a minute in the first half, 20 in the second.
        assert_eq!(of(&[(0.0, 0.0), (1.0, 10.0)], &[(2.0, 20.0), (3.0, 40.0)]), (12.0, 5.0, 40.0));
        // Time begins anywhere.
        assert_eq!(of(&[(7.0, 5.0), (8.0, 15.0)], &[(9.0, 25.0), (10.0, 45.0)]), (12.0, 5.0, 40.0));
        let unchanged = (12.0, -100.0, 1000.0);
        assert_eq!(of(&[(0.0, 0.0), (1.0, 10.0)], &[(2.0, 0.0), (3.0, 40.0)]), unchanged, "it falls");
        assert_eq!(of(&[(0.0, 0.0), (1.0, 38.0)], &[(2.0, 39.0), (3.0, 40.0)]), unchanged, "one half does not rise");
        let dip = [(0.0, 1000.0), (1.0, 1020.0), (1.5, 1005.0)];
        assert_eq!(of(&dip, &[(2.0, 1020.0), (3.0, 1040.0)]), unchanged, "it falls by more than a tenth of its rise");
        assert_eq!(of(&[(0.0, 40.0), (1.0, 40.0)], &[(2.0, 40.0), (3.0, 40.0)]), unchanged, "it is flat");
        assert_eq!(of(&[], &[(0.0, 1.0)]), unchanged);
    }
}
