//! How the allocator gets its memory: refills of span caches, and mappings.

use memgate_evidence::TimeSpan;

use super::{
    Estimate, Measurement, Unavailable,
    run::{Run, usable},
    series::{Entries, check_steady},
    stats::{Tally, share},
};

/// Refills of span caches, and the number of those that found no span to use again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refills {
    refills: u64,
    misses: u64,
}

/// The refills in the windows within the measuring phase.
pub(super) fn refills(run: Run<'_>) -> Result<Refills, Unavailable> {
    let what = "span refills";
    let span = run.measure()?;
    let counted = usable(&run.signals().span_refills, what)?;
    let windows = &counted.windows;
    if counted.refills.len() != windows.len() || counted.misses.len() != windows.len() {
        return Err(Unavailable::because(format!("the {what} have columns of different length")));
    }
    let in_order = windows.iter().all(|window| window.start_ns < window.end_ns)
        && windows.is_sorted_by(|one, next| one.end_ns <= next.start_ns);
    if !in_order {
        return Err(Unavailable::because(format!("the windows of the {what} are not one after the other")));
    }
    let inside = |window: &TimeSpan| span.start_ns <= window.start_ns && window.end_ns <= span.end_ns;
    let counts =
        || windows.iter().zip(counted.refills.iter().zip(&counted.misses)).filter(|(window, _)| inside(window));
    let ends: Vec<u64> = counts().map(|(window, _)| window.end_ns).collect();
    check_steady(&ends, span, None, what)?;
    let sum = counts().try_fold((0u64, 0u64), |(refills, misses), (_, (more_refills, more_misses))| {
        Some((refills.checked_add(*more_refills)?, misses.checked_add(*more_misses)?))
    });
    match sum {
        None => Err(Unavailable::because("more span refills than can be counted")),
        Some((0, _)) => Err(Unavailable::because("no span refill was counted in the measuring phase")),
        Some((refills, misses)) if misses > refills => {
            Err(Unavailable::because("more span refills missed than happened, which is impossible"))
        }
        Some((refills, misses)) => Ok(Refills { refills, misses }),
    }
}

/// The share of the refills for which no span could be used again.
pub(super) fn miss_rate(counted: &Refills) -> Measurement {
    Estimate::of(share(counted.misses, counted.refills), counted.refills, String::new())
}

/// The durations of the mappings that ended in the measuring phase.
pub(super) fn mappings(run: Run<'_>) -> Result<Tally, Unavailable> {
    let what = "latencies of mappings";
    let span = run.measure()?;
    let durations = usable(&run.signals().mmap_latency, what)?;
    let inside = Entries::new(&durations.at_ns, &durations.duration_ns, what)?.within(span).not_all_zeros(what)?;
    if inside.len() == 0 {
        return Err(Unavailable::because("the Go runtime mapped nothing in the measuring phase"));
    }
    let tally = Tally::new(inside.value.iter().map(|&duration| (duration, 1)));
    tally.ok_or_else(|| Unavailable::because("more mappings than can be counted"))
}
