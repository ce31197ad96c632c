//! Signals that are sound by themselves, but cannot both be true, or say nothing of the service.
//!
//! Each signal is checked where it is used. These checks compare signals with each other. Which of the two is wrong is
//! not known, so no metric that uses either has a figure.

use memgate_evidence::{Series, Signal};

use super::{
    Unavailable,
    run::{Run, usable},
    series::Entries,
    stats::mean,
};
use crate::metric::Metric;

/// Two signals that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Contradiction {
    /// What contradicts what, a clause.
    reason: String,
    /// The metrics that use one of the two.
    metrics: &'static [Metric],
}

const OF_ALLOCATIONS: &[Metric] = &[
    Metric::HeapAllocRate,
    Metric::AllocBytesPerRequest,
    Metric::AllocsPerRequest,
    Metric::GcCycles,
    Metric::HeapLiveGrowth,
    Metric::HeapLiveGrowthPerRequest,
];
const OF_REQUESTS: &[Metric] = &[
    Metric::AllocBytesPerRequest,
    Metric::AllocsPerRequest,
    Metric::PageFaultsPerRequest,
    Metric::HeapLiveGrowthPerRequest,
    Metric::RequestErrors,
    Metric::RequestLatencyP99,
];
const OF_RESIDENT: &[Metric] = &[
    Metric::RssPeak,
    Metric::RssGrowth,
    Metric::RssAnonPeak,
    Metric::RssAnonGrowth,
    Metric::OffheapPeak,
    Metric::OffheapGrowth,
];
/// What an instrument in the executable moves: it keeps memory of its own.
const OF_INSTRUMENTS: &[Metric] = &[
    Metric::RssPeak,
    Metric::RssGrowth,
    Metric::RssAnonPeak,
    Metric::RssAnonGrowth,
    Metric::OffheapPeak,
    Metric::OffheapGrowth,
    Metric::CgroupPeak,
    Metric::CgroupGrowth,
    Metric::PageFaultsPerRequest,
];
const OF_CPU: &[Metric] = &[Metric::GcCpuFraction, Metric::GcCycles];
const OF_PAUSES: &[Metric] =
    &[Metric::GcPauseP99, Metric::GcPauseP90, Metric::GcPauseMax, Metric::GcStwFraction, Metric::GcCpuFraction];

/// The kernel keeps the counts of the resident set per thread and adds them up now and then (mm/memory.c, Linux before
/// 6.2) or per CPU (lib/percpu_counter.c), so two readings differ by some pages.
const RESIDENT_SLACK: u64 = 4 << 20;

/// Every contradiction in the measuring phase of a run. A run without a measuring phase has none.
pub(super) fn find(run: Run<'_>) -> Vec<Contradiction> {
    let found = [
        (allocations_without_cycles(run), OF_ALLOCATIONS),
        (objects_without_bytes(run), OF_ALLOCATIONS),
        (empty_heap(run), OF_ALLOCATIONS),
        (resident_beyond_peak(run), OF_RESIDENT),
        (empty_resident_set(run), OF_RESIDENT),
        (cycles_without_cpu(run), OF_CPU),
        (pauses_beyond_time(run), OF_PAUSES),
        (requests_that_differ(run), OF_REQUESTS),
        (resident_and_kinds(run), OF_RESIDENT),
        (instrumented(run), OF_INSTRUMENTS),
    ];
    found.into_iter().filter_map(|(reason, metrics)| Some(Contradiction { reason: reason?, metrics })).collect()
}

impl Contradiction {
    /// Why a metric has no figure; `None` if it uses neither signal.
    pub(super) fn spoils(&self, metric: Metric) -> Option<Unavailable> {
        self.metrics.contains(&metric).then(|| Unavailable::because(self.reason.clone()))
    }
}

/// The growth of a total over the measuring phase.
fn growth(run: Run<'_>, signal: &Signal<Series>) -> Option<u64> {
    let inside = Entries::of_total(signal, "total").ok()?.within_closed(run.measure().ok()?);
    inside.value.last()?.checked_sub(*inside.value.first()?)
}

/// The GC runs because the service allocates.
fn allocations_without_cycles(run: Run<'_>) -> Option<String> {
    let cycles = natural_cycles(run)?;
    let bytes = growth(run, &run.signals().alloc_bytes)?;
    (cycles >= 2 && bytes == 0).then(|| format!("{cycles} GC cycles in the measuring phase, but nothing was allocated"))
}

/// GC cycles in the measuring phase, in which memgate forces none.
fn natural_cycles(run: Run<'_>) -> Option<usize> {
    Some(Entries::of(&run.signals().live_heap, "live heap").ok()?.within(run.measure().ok()?).len())
}

/// Every object has at least one byte.
fn objects_without_bytes(run: Run<'_>) -> Option<String> {
    let bytes = growth(run, &run.signals().alloc_bytes)?;
    let objects = growth(run, &run.signals().alloc_objects)?;
    if objects > bytes {
        return Some(format!("{objects} objects of {bytes} bytes were allocated in the measuring phase"));
    }
    (objects == 0 && bytes > 0).then(|| format!("{bytes} bytes were allocated in the measuring phase, but no object"))
}

/// The runtime itself has live objects.
fn empty_heap(run: Run<'_>) -> Option<String> {
    let inside = Entries::of(&run.signals().live_heap, "live heap").ok()?.within(run.measure().ok()?);
    inside.value.contains(&0).then(|| "a live heap of 0 bytes, which is impossible".to_owned())
}

/// The detectors of races and of errors in memory keep records of their own, which the service does not free.
fn instrumented(run: Run<'_>) -> Option<String> {
    let build = &run.0.environment.build;
    let flag =
        ["-race", "-msan", "-asan"].into_iter().find(|flag| build.get(*flag).is_some_and(|set| set == "true"))?;
    Some(format!("the executable is built with {flag}, whose detector keeps memory of its own: measure another build"))
}

fn resident_beyond_peak(run: Run<'_>) -> Option<String> {
    let peak = *usable(&run.signals().rss_peak, "peak").ok()?;
    let most = *resident(run)?.iter().max()?;
    let allowed = peak.saturating_add(RESIDENT_SLACK).saturating_add(peak / 50);
    (most > allowed).then(|| format!("a resident set of {most} bytes, above its own peak of {peak} bytes"))
}

fn empty_resident_set(run: Run<'_>) -> Option<String> {
    resident(run)?.contains(&0).then(|| "a resident set of 0 bytes, which is impossible".to_owned())
}

/// The resident set is the sum of its kinds at each reading. Linux before 4.5 does not report them.
fn resident_and_kinds(run: Run<'_>) -> Option<String> {
    let span = run.measure().ok()?;
    let kinds = usable(&run.signals().rss_kinds, "kinds").ok()?;
    let average = |values: &[u64]| mean(&values.iter().map(|&bytes| bytes as f64).collect::<Vec<_>>());
    let column = |values| average(Entries::new(&kinds.at_ns, values, "kinds").ok()?.within_closed(span).value);
    let of_kinds = column(&kinds.anonymous)? + column(&kinds.file)? + column(&kinds.shared)?;
    let of_all = average(resident(run)?)?;
    let is_twice = of_all > 2.0 * of_kinds || of_kinds > 2.0 * of_all;
    (of_kinds > 0.0 && is_twice)
        .then(|| format!("a resident set that is {:.3} times the sum of its kinds", of_all / of_kinds))
}

fn resident(run: Run<'_>) -> Option<&[u64]> {
    Some(Entries::of(&run.signals().rss, "resident set").ok()?.within_closed(run.measure().ok()?).value)
}

/// A cycle takes CPU time.
fn cycles_without_cpu(run: Run<'_>) -> Option<String> {
    let cpu = usable(&run.signals().gc_cpu, "CPU time").ok()?;
    let gc = Entries::new(&cpu.at_ns, &cpu.gc_ns, "CPU time").ok()?.within(run.measure().ok()?);
    let used = gc.value.last()?.checked_sub(*gc.value.first()?)?;
    let cycles = gc.len();
    (cycles >= 2 && used == 0).then(|| format!("{cycles} GC cycles in the measuring phase, but no CPU time of the GC"))
}

/// The world cannot stand still for longer than the phase lasts.
fn pauses_beyond_time(run: Run<'_>) -> Option<String> {
    let span = run.measure().ok()?;
    let pauses = usable(&run.signals().gc_pauses, "pauses").ok()?;
    let inside = Entries::new(&pauses.at_ns, &pauses.duration_ns, "pauses").ok()?.within(span);
    let sum = inside.value.iter().fold(0u64, |sum, &duration| sum.saturating_add(duration));
    (sum > span.length_ns()).then(|| format!("GC pauses of {sum} ns in a measuring phase of {} ns", span.length_ns()))
}

/// Requests that were completed in the phase are those intended in it, but for those under way at its ends.
fn requests_that_differ(run: Run<'_>) -> Option<String> {
    let requests = usable(&run.signals().requests, "requests").ok()?;
    let series = &requests.completed;
    let inside = Entries::new(&series.at_ns, &series.value, "requests").ok()?.within_closed(run.measure().ok()?);
    let completed = inside.value.last()?.checked_sub(*inside.value.first()?)?;
    let succeeded = requests.measure.succeeded;
    let slack = succeeded / 2 + 1000;
    (completed.abs_diff(succeeded) > slack).then(|| {
        format!("{completed} requests were completed in the measuring phase, but {succeeded} of those intended in it succeeded")
    })
}
