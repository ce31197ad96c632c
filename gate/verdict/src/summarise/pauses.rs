//! The GC's stop-the-world pauses.

use memgate_evidence::{Exactness, Pauses, Signal};

use super::{
    Estimate, Measurement, Unavailable,
    rates::{NO_CYCLE, allocated, cycles_within},
    run::{Run, usable},
    series::{Entries, blocks, check_steady, seconds},
    stats::{Interval, Tally, percentile, ratio},
};

const WHAT: &str = "GC pauses";

/// The durations of the pauses in the measuring phase.
pub(super) fn durations(run: Run<'_>) -> Result<Tally, Unavailable> {
    let pauses = in_measure(run)?;
    Tally::new(pauses.value.iter().map(|&duration| (duration, 1))).ok_or_else(too_many)
}

/// A percentile of the durations.
pub(super) fn pause_percentile(tally: &Tally, percent: u32) -> Measurement {
    if tally.total() == 0 {
        return none();
    }
    let (interval, remark) = percentile(tally, percent, "pauses");
    Estimate::of(interval, tally.total(), remark)
}

/// The longest pause. It is a fact and has no interval.
pub(super) fn longest(tally: &Tally) -> Measurement {
    if tally.total() == 0 {
        return none();
    }
    Estimate::of(Interval::exact(tally.max() as f64), tally.total(), String::new())
}

/// The figure of a phase without a pause.
fn none() -> Measurement {
    Estimate::of(Interval::exact(0.0), 0, NO_CYCLE.to_owned())
}

/// Blocks of a second of the measuring phase: the length of each, and for how long the world was stopped in it,
/// seconds. A pause counts in the block in which it ended.
pub(super) fn stopped_blocks(run: Run<'_>) -> Result<Vec<(f64, f64)>, Unavailable> {
    let pauses = in_measure(run)?;
    let blocks = blocks(run.measure()?, 1);
    let mut next = pauses.iter().peekable();
    let stopped = blocks.into_iter().map(|block| {
        let mut ns = 0.0;
        while let Some((_, duration)) = next.next_if(|&(at, _)| at < block.end_ns) {
            ns += duration as f64;
        }
        (seconds(block.start_ns, block.end_ns), ns / 1e9)
    });
    Ok(stopped.collect())
}

/// The share of the measuring phase in which the world was stopped.
pub(super) fn stopped_share(blocks: &[(f64, f64)]) -> Measurement {
    let interval = ratio(blocks).ok_or_else(|| Unavailable::because("the measuring phase is too short"))?;
    if interval.measured > 1.0 {
        return Err(Unavailable::because("the world stood still for longer than the measuring phase lasts"));
    }
    let n = u64::try_from(blocks.len()).unwrap_or(u64::MAX);
    Estimate::of(interval.within(0.0, 1.0), n, String::new())
}

/// Extends the interval of a figure from buckets down to the lowest value that may be true.
pub(super) fn bucketed(run: Run<'_>, measurement: Measurement) -> Measurement {
    /// A bucket's upper end is at most a quarter above its lower end (histogram.go, Go 1.21 to 1.27).
    const WIDEST: f64 = 1.25;
    if run.signals().gc_pauses.exactness != Exactness::Bucketed {
        return measurement;
    }
    measurement.map(|estimate| {
        let remark = match estimate.remark.as_str() {
            "" => "from buckets, at most 25 % too high".to_owned(),
            remark => format!("{remark}; from buckets, at most 25 % too high"),
        };
        Estimate { low: estimate.low / WIDEST, remark, ..estimate }
    })
}

fn too_many() -> Unavailable {
    Unavailable::because("more GC pauses than can be counted")
}

/// The pauses that ended in the measuring phase. There are none only if there was no cycle either.
fn in_measure(run: Run<'_>) -> Result<Entries<'_>, Unavailable> {
    let span = run.measure()?;
    let signal: &Signal<Pauses> = &run.signals().gc_pauses;
    let pauses = usable(signal, WHAT)?;
    let all = Entries::new(&pauses.at_ns, &pauses.duration_ns, WHAT)?;
    let inside = all.within(span);
    if inside.len() == 0 && cycles_within(run, span)?.len() == 0 {
        return Ok(inside);
    }
    check_steady(inside.at_ns, span, allocated(run, span), WHAT)?;
    check_against_cycles(inside, run)?;
    inside.not_all_zeros(WHAT)
}

/// Every cycle pauses twice, so two cycles after the last pause mean that pauses are missing.
fn check_against_cycles(pauses: Entries<'_>, run: Run<'_>) -> Result<(), Unavailable> {
    let Ok(cycles) = cycles_within(run, run.measure()?) else { return Ok(()) };
    let last = pauses.at_ns.last().copied().unwrap_or(0);
    let after = cycles.at_ns.iter().filter(|&&at| at > last).count();
    if after >= 2 {
        return Err(Unavailable::because(format!(
            "{after} GC cycles follow the last recorded pause: pauses are missing"
        )));
    }
    Ok(())
}
