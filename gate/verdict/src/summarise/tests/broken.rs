//! Breaks every signal in every way. Nothing that depends on it may have a figure, and everything else keeps its own.

use memgate_evidence::{GcCpu, Signal, Signals, SpanRefills, WorldStops};

use super::*;

/// A way to break evidence: its name and its effect.
type Break = (&'static str, Box<dyn Fn(&mut Signals)>);

/// A signal, the metrics that depend on it, and the ways to break it.
pub(crate) struct Case {
    pub(crate) signal: &'static str,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) breaks: Vec<Break>,
}

fn of<T: 'static>(pick: fn(&mut Signals) -> &mut Signal<T>) -> Vec<Break> {
    let missing = || Exactness::Missing { reason: "no uprobes".to_owned() };
    let inexact = || Exactness::Inexact { reason: "the buffer overflowed".to_owned() };
    vec![
        ("missing", Box::new(move |signals| pick(signals).exactness = missing())),
        ("inexact", Box::new(move |signals| pick(signals).exactness = inexact())),
        ("lost", Box::new(move |signals| pick(signals).lost = 1)),
    ]
}

/// The ways to break two columns.
fn columns(pick: fn(&mut Signals) -> (&mut Vec<u64>, &mut Vec<u64>)) -> Vec<Break> {
    let cut = |column: &mut Vec<u64>| column.truncate(column.len() / 2);
    let shorten = |column: &mut Vec<u64>| column.truncate(column.len() - 1);
    vec![
        (
            "empty",
            Box::new(move |signals| {
                let (at, value) = pick(signals);
                at.clear();
                value.clear();
            }),
        ),
        ("a value short", Box::new(move |signals| shorten(pick(signals).1))),
        ("a time short", Box::new(move |signals| shorten(pick(signals).0))),
        ("times in disorder", Box::new(move |signals| pick(signals).0.reverse())),
        (
            "cut short",
            Box::new(move |signals| {
                let (at, value) = pick(signals);
                cut(at);
                cut(value);
            }),
        ),
        (
            ONE,
            Box::new(move |signals| {
                let (at, value) = pick(signals);
                let middle = at.len() / 2;
                (*at, *value) = (vec![at[middle]], vec![value[middle]]);
            }),
        ),
        ("a clock that begins anew", Box::new(move |signals| begin_anew(pick(signals).0))),
        ("a clock that stands still", Box::new(move |signals| pick(signals).0.fill(0))),
        (MICROSECONDS, Box::new(move |signals| pick(signals).0.iter_mut().for_each(|at| *at /= 1000))),
        (ZEROS, Box::new(move |signals| pick(signals).1.fill(0))),
    ]
}

/// One entry in the middle of the measuring phase.
const ONE: &str = "with one entry";

/// Times a thousandth as large.
const MICROSECONDS: &str = "a clock in microseconds";

/// Values that nobody has read.
const ZEROS: &str = "with zeros";

/// From the middle on, the times are those from the start.
fn begin_anew(at: &mut [u64]) {
    let middle = at.len() / 2;
    at.copy_within(..at.len() - middle, middle);
}

/// The ways to break but for some.
fn except(breaks: Vec<Break>, but: &'static [&'static str]) -> impl Iterator<Item = Break> {
    breaks.into_iter().filter(move |(how, _)| !but.contains(how))
}

fn series(pick: fn(&mut Signals) -> &mut Signal<Series>, columns: Vec<Break>) -> Vec<Break> {
    of(pick).into_iter().chain(columns).collect()
}

fn decreasing(pick: fn(&mut Signals) -> &mut Vec<u64>) -> Break {
    ("decreasing", Box::new(move |signals| pick(signals).reverse()))
}

fn holed(pick: fn(&mut Signals) -> &mut Series) -> Break {
    (
        "with a hole",
        Box::new(move |signals| {
            let series = pick(signals);
            let keep = |at: u64| !(30 * SECOND..45 * SECOND).contains(&at);
            series.value =
                series.at_ns.iter().zip(&series.value).filter(|&(&at, _)| keep(at)).map(|(_, &v)| v).collect();
            series.at_ns.retain(|&at| keep(at));
        }),
    )
}

macro_rules! sampled {
    ($field:ident, $($more:expr),*) => {{
        let mut breaks =
            series(|s| &mut s.$field, columns(|s| (&mut s.$field.data.at_ns, &mut s.$field.data.value)));
        breaks.push(holed(|s| &mut s.$field.data));
        breaks.extend([$($more),*]);
        breaks
    }};
}

fn requests() -> Vec<Break> {
    let completed = columns(|s| {
        let series = &mut s.requests.data.completed;
        (&mut series.at_ns, &mut series.value)
    });
    of(|s| &mut s.requests)
        .into_iter()
        .chain(completed)
        .chain([decreasing(|s| &mut s.requests.data.completed.value), holed(|s| &mut s.requests.data.completed)])
        .collect()
}

fn world_stops() -> Vec<Break> {
    let of_signal = of(|s| &mut s.world_stops);
    // Cutting two of four columns makes them differ, so the other ways to cut are made here.
    let columns = columns(|s| (&mut s.world_stops.data.at_ns, &mut s.world_stops.data.duration_ns));
    let breaks: [Break; 3] = [
        ("without a reason", Box::new(|s| s.world_stops.data.reason.truncate(3))),
        ("without a tail", Box::new(|s| s.world_stops.data.tail_ns.truncate(3))),
        (
            "cut short in all columns",
            Box::new(|s| {
                let WorldStops { at_ns, reason, duration_ns, tail_ns } = &mut s.world_stops.data;
                let half = at_ns.len() / 2;
                at_ns.truncate(half);
                reason.truncate(half);
                duration_ns.truncate(half);
                tail_ns.truncate(half);
            }),
        ),
    ];
    of_signal.into_iter().chain(columns).chain(breaks).collect()
}

fn gc_cpu() -> Vec<Break> {
    let of_gc = columns(|s| (&mut s.gc_cpu.data.at_ns, &mut s.gc_cpu.data.gc_ns));
    let of_both = columns(|s| (&mut s.gc_cpu.data.gc_ns, &mut s.gc_cpu.data.total_ns));
    let of_idle = columns(|s| (&mut s.gc_cpu.data.at_ns, &mut s.gc_cpu.data.idle_ns));
    // A thousandth of the GC's time is no contradiction, and a busy service has no idle time.
    let (of_both, of_idle) = (except(of_both, &[MICROSECONDS]), except(of_idle, &[ZEROS]));
    let cut: Break = (
        "cut short in all columns",
        Box::new(|s| {
            let GcCpu { at_ns, gc_ns, gc_idle_ns, idle_ns, total_ns } = &mut s.gc_cpu.data;
            let half = at_ns.len() / 2;
            for column in [at_ns, gc_ns, gc_idle_ns, idle_ns, total_ns] {
                column.truncate(half);
            }
        }),
    );
    let all = of(|s| &mut s.gc_cpu).into_iter().chain(of_gc).chain(of_both).chain(of_idle);
    all.chain([cut, decreasing(|s| &mut s.gc_cpu.data.total_ns)]).collect()
}

fn span_refills() -> Vec<Break> {
    let columns = columns(|s| (&mut s.span_refills.data.refills, &mut s.span_refills.data.misses));
    // The refills stand for the clock here, and all of them are equal. No refill needs to miss.
    let columns = except(columns, &["times in disorder", "a clock that begins anew", ZEROS]);
    let breaks: [Break; 3] = [
        ("without windows", Box::new(|s| s.span_refills.data.windows.clear())),
        ("windows in disorder", Box::new(|s| s.span_refills.data.windows.reverse())),
        (
            "cut short in all columns",
            Box::new(|s| {
                let SpanRefills { windows, refills, misses } = &mut s.span_refills.data;
                let half = windows.len() / 2;
                windows.truncate(half);
                refills.truncate(half);
                misses.truncate(half);
            }),
        ),
    ];
    of(|s| &mut s.span_refills).into_iter().chain(columns).chain(breaks).collect()
}

fn mmap_latency() -> Vec<Break> {
    let columns = columns(|s| (&mut s.mmap_latency.data.at_ns, &mut s.mmap_latency.data.duration_ns));
    of(|s| &mut s.mmap_latency).into_iter().chain(except(columns, &["cut short", ONE])).collect()
}

fn case(signal: &'static str, metrics: &[Metric], breaks: Vec<Break>) -> Case {
    Case { signal, metrics: metrics.to_vec(), breaks }
}

/// What the kernel sees of the service beside its resident set, and what the runtime has mapped.
fn of_the_kernel() -> Vec<Case> {
    use Metric::*;
    vec![
        case("threads", &[ThreadsMax], sampled!(threads,)),
        case(
            "threads at the ends",
            &[ThreadsLeaked],
            series(|s| &mut s.threads, columns(|s| (&mut s.threads.data.at_ns, &mut s.threads.data.value))),
        ),
        case("fds", &[FdsMax], sampled!(fds,)),
        case(
            "fds at the ends",
            &[FdsLeaked],
            series(|s| &mut s.fds, columns(|s| (&mut s.fds.data.at_ns, &mut s.fds.data.value))),
        ),
        case("swap", &[SwapPeak, RssGrowth, RssAnonGrowth, OffheapGrowth], except(sampled!(swap,), &[ZEROS]).collect()),
        case(
            "rss_kinds",
            &[RssAnonPeak, RssAnonGrowth],
            of(|s| &mut s.rss_kinds)
                .into_iter()
                .chain(columns(|s| (&mut s.rss_kinds.data.at_ns, &mut s.rss_kinds.data.anonymous)))
                .collect(),
        ),
        case(
            "rss_kinds, files",
            &[OffheapGrowth],
            except(columns(|s| (&mut s.rss_kinds.data.at_ns, &mut s.rss_kinds.data.file)), &[ZEROS]).collect(),
        ),
        case(
            "cgroup_memory",
            &[CgroupGrowth],
            of(|s| &mut s.cgroup_memory)
                .into_iter()
                .chain(columns(|s| (&mut s.cgroup_memory.data.at_ns, &mut s.cgroup_memory.data.current)))
                .collect(),
        ),
        case("cgroup_peak", &[CgroupPeak], of(|s| &mut s.cgroup_peak)),
        // A runtime that memgate does not know has no such figures, and then all anonymous memory counts.
        case(
            "go_memory",
            &[RssAnonGrowth, CgroupGrowth],
            of(|s| &mut s.go_memory)
                .into_iter()
                .filter(|(how, _)| *how != "missing")
                .chain(columns(|s| (&mut s.go_memory.data.at_ns, &mut s.go_memory.data.heap_in_use)))
                .collect(),
        ),
    ]
}

/// Every signal that a metric depends on.
pub(crate) fn cases() -> Vec<Case> {
    of_the_runtime_and_load().into_iter().chain(of_the_kernel()).collect()
}

fn of_the_runtime_and_load() -> Vec<Case> {
    use Metric::*;
    let per_request = [AllocBytesPerRequest, AllocsPerRequest, PageFaultsPerRequest, HeapLiveGrowthPerRequest];
    vec![
        case(
            "gc_pauses",
            &[GcPauseP99, GcPauseP90, GcPauseMax, GcStwFraction],
            of(|s| &mut s.gc_pauses)
                .into_iter()
                .chain(columns(|s| (&mut s.gc_pauses.data.at_ns, &mut s.gc_pauses.data.duration_ns)))
                .collect(),
        ),
        case("world_stops", &[GcPauseHiddenTailP99, GcMarkP99, StwFraction], world_stops()),
        case("gc_cpu", &[GcCpuFraction], gc_cpu()),
        case("span_refills", &[SpanRefillMissRate], span_refills()),
        // Mappings are rare and come in bursts, so cut-off ones go unnoticed.
        case("mmap_latency", &[MmapLatencyP99], mmap_latency()),
        case(
            "live_heap",
            &[GcCycles, HeapLiveGrowth, HeapLiveGrowthPerRequest],
            series(|s| &mut s.live_heap, columns(|s| (&mut s.live_heap.data.at_ns, &mut s.live_heap.data.value))),
        ),
        case(
            "alloc_bytes",
            &[HeapAllocRate, AllocBytesPerRequest],
            sampled!(alloc_bytes, decreasing(|s| &mut s.alloc_bytes.data.value)),
        ),
        case(
            "alloc_objects",
            &[AllocsPerRequest],
            sampled!(alloc_objects, decreasing(|s| &mut s.alloc_objects.data.value)),
        ),
        case(
            "page_faults",
            &[PageFaultsPerRequest],
            sampled!(page_faults, decreasing(|s| &mut s.page_faults.data.value)),
        ),
        case("goroutines", &[GoroutinesMax], sampled!(goroutines,)),
        case(
            "goroutines at the ends",
            &[GoroutinesLeaked],
            series(|s| &mut s.goroutines, columns(|s| (&mut s.goroutines.data.at_ns, &mut s.goroutines.data.value))),
        ),
        case("rss", &[RssGrowth], sampled!(rss,)),
        case("offheap", &[OffheapPeak, OffheapGrowth], sampled!(offheap,)),
        case("rss_peak", &[RssPeak], of(|s| &mut s.rss_peak)),
        case("oom_kills", &[OomKills], of(|s| &mut s.oom_kills)),
        case("requests", &[RequestErrors, RequestLatencyP99], of(|s| &mut s.requests)),
        case("requests over time", &per_request, requests()),
        case(
            "latency",
            &[RequestLatencyP99],
            except(
                columns(|s| (&mut s.requests.data.latency.value_ns, &mut s.requests.data.latency.count)),
                &[MICROSECONDS],
            )
            .collect(),
        ),
        case(
            "counts of requests",
            &[RequestErrors],
            vec![("not adding up", Box::new(|s| s.requests.data.measure.succeeded -= 1))],
        ),
    ]
}

#[test]
fn nothing_that_depends_on_a_broken_signal_has_a_figure() {
    let mut broken = 0;
    for case in cases() {
        for (how, break_it) in &case.breaks {
            let mut run = healthy(1);
            break_it(&mut run.signals);
            let figures = summarise(&[run]).unwrap().runs.remove(0).metrics;
            for metric in &case.metrics {
                let figure = &figures[metric];
                assert!(figure.is_err(), "{} {how}: {metric} = {figure:?}", case.signal);
            }
            broken += 1;
        }
    }
    assert!(broken >= 60, "{broken} kinds of broken evidence");
}

#[test]
fn every_metric_depends_on_a_signal_that_is_broken_here() {
    let covered: Vec<Metric> = cases().into_iter().flat_map(|case| case.metrics).collect();
    for metric in Metric::ALL {
        assert!(covered.contains(&metric), "{metric}");
    }
}

#[test]
fn a_broken_signal_leaves_the_figures_of_the_others() {
    let whole = summarise(&[healthy(1)]).unwrap();
    for case in cases() {
        for (how, break_it) in &case.breaks {
            let mut run = healthy(1);
            break_it(&mut run.signals);
            for (metric, figure) in summarise(&[run]).unwrap().runs.remove(0).metrics {
                assert!(
                    figure.is_err() || figure == whole.runs[0].metrics[&metric],
                    "{} {how}: {metric} changed to {figure:?}",
                    case.signal
                );
            }
        }
    }
}
