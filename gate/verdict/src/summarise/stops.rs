//! Stops of the world by their reason: the part that the runtime does not count, and the phases of a GC cycle between
//! stops.

use memgate_evidence::{StopReason, TimeSpan};

use super::{
    Estimate, Measurement, Unavailable,
    rates::{allocated, cycles_within},
    run::{Run, usable},
    series::{Entries, blocks, check_steady, seconds},
    stats::{Tally, percentile},
};

const WHAT: &str = "stops of the world";

/// One stop of the world for the GC, ns since launch.
#[derive(Debug, Clone, Copy)]
struct Stop {
    reason: StopReason,
    /// When the world stopped.
    start_ns: u64,
    /// When the world ran again.
    end_ns: u64,
    /// The part that the runtime does not count, ns.
    tail_ns: u64,
}

/// The time that the runtime does not count of each stop for the GC that ended in the measuring phase.
pub(super) fn hidden_tails(run: Run<'_>) -> Result<Tally, Unavailable> {
    let span = run.measure()?;
    let stops = gc_stops(run)?;
    let tails = stops.iter().filter(|stop| span.contains(stop.end_ns)).map(|stop| (stop.tail_ns, 1));
    Tally::new(tails).ok_or_else(too_many)
}

/// Blocks of a second of the measuring phase: the length of each, and for how long the world was stopped in it for any
/// reason, seconds. A stop counts in the block in which it ended.
pub(super) fn stopped_blocks(run: Run<'_>) -> Result<Vec<(f64, f64)>, Unavailable> {
    let span = run.measure()?;
    let stops = usable(&run.signals().world_stops, WHAT)?;
    let durations = Entries::new(&stops.at_ns, &stops.duration_ns, WHAT)?;
    let tails = Entries::new(&stops.at_ns, &stops.tail_ns, WHAT)?;
    if stops.reason.len() != durations.len() {
        return Err(Unavailable::because(format!("the {WHAT} have columns of different length")));
    }
    check_steady(durations.within(span).at_ns, span, allocated(run, span), WHAT)?;
    durations.within(span).not_all_zeros(WHAT)?;
    if durations.within(span).len() == 0 && cycles_within(run, span)?.len() > 0 {
        return Err(Unavailable::because("GC cycles without a stop of the world, which is impossible"));
    }
    let sum = |entries: Entries<'_>| entries.value.iter().map(|&ns| ns as f64).sum::<f64>();
    let of = |block: TimeSpan| {
        let stopped = (sum(durations.within(block)) + sum(tails.within(block))) / 1e9;
        (seconds(block.start_ns, block.end_ns), stopped)
    };
    Ok(blocks(span, 1).into_iter().map(of).collect())
}

/// The concurrent mark phases that ended in the measuring phase.
///
/// A phase begins when the world runs again after sweep termination and ends when it stops for mark termination. Mark
/// termination may find more to mark and let the world run on (`gcMarkDone`, runtime/mgc.go, Go 1.27), so the last such
/// stop before the next cycle counts.
pub(super) fn mark_phases(run: Run<'_>) -> Result<Tally, Unavailable> {
    let span = run.measure()?;
    let stops = gc_stops(run)?;
    let is_start = |stop: &Stop| stop.reason == StopReason::GcSweepTermination;
    let mut phases = Vec::new();
    for cycle in stops.chunk_by(|_, next| !is_start(next)) {
        let (Some(first), Some(last)) = (cycle.first(), cycle.last()) else { continue };
        if !is_start(first) || is_start(last) || !span.contains(last.end_ns) {
            continue;
        }
        let length = last.start_ns.checked_sub(first.end_ns);
        phases
            .push((length.ok_or_else(|| Unavailable::because(format!("the {WHAT} overlap, which is impossible")))?, 1));
    }
    if phases.is_empty() {
        return Err(Unavailable::because("no GC cycle in the measuring phase that has both its stops"));
    }
    Tally::new(phases).ok_or_else(too_many)
}

/// The 99th percentile of the durations.
pub(super) fn p99(tally: &Tally, noun: &str) -> Measurement {
    let (interval, remark) = percentile(tally, 99, noun);
    Estimate::of(interval, tally.total(), remark)
}

const fn is_for_gc(reason: StopReason) -> bool {
    match reason {
        StopReason::GcSweepTermination | StopReason::GcMarkTermination => true,
        StopReason::WriteHeapDump
        | StopReason::GoroutineProfile
        | StopReason::GoroutineProfileCleanup
        | StopReason::AllGoroutinesStack
        | StopReason::ReadMemStats
        | StopReason::AllThreadsSyscall
        | StopReason::Gomaxprocs
        | StopReason::Trace
        | StopReason::Test
        | StopReason::Unknown => false,
    }
}

/// Every stop for the GC, if those of the measuring phase were recorded all through it. At least one lies in the phase.
fn gc_stops(run: Run<'_>) -> Result<Vec<Stop>, Unavailable> {
    let span = run.measure()?;
    let stops = usable(&run.signals().world_stops, WHAT)?;
    let durations = Entries::new(&stops.at_ns, &stops.duration_ns, WHAT)?;
    if stops.reason.len() != durations.len() || stops.tail_ns.len() != durations.len() {
        return Err(Unavailable::because(format!("the {WHAT} have columns of different length")));
    }
    durations.within(span).not_all_zeros(WHAT)?;
    let rest = stops.reason.iter().zip(&stops.tail_ns);
    let stops: Vec<Stop> = durations
        .iter()
        .zip(rest)
        .filter(|(_, (reason, _))| is_for_gc(**reason))
        .map(|((end_ns, duration), (&reason, &tail_ns))| Stop {
            reason,
            start_ns: end_ns.saturating_sub(duration).saturating_sub(tail_ns),
            end_ns,
            tail_ns,
        })
        .collect();
    let inside: Vec<u64> = stops.iter().map(|stop| stop.end_ns).filter(|&at| span.contains(at)).collect();
    if inside.is_empty() {
        return Err(Unavailable::because("no stop of the world for the GC in the measuring phase"));
    }
    check_steady(&inside, span, allocated(run, span), WHAT)?;
    Ok(stops)
}

fn too_many() -> Unavailable {
    Unavailable::because("more events than can be counted")
}
