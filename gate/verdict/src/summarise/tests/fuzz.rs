//! Whatever the evidence is, its summary has figures or reasons, and no figure is NaN or infinite.

use memgate_evidence::{
    Durations, GcCpu, Histogram, Phases, RssKinds, Signal, Signals, SpanRefills, StopReason, WorldStops,
};
use proptest::{prelude::*, strategy::ValueTree};

use super::*;

/// Numbers of every size, mostly small ones.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0..100u64, 2 => 0..100 * SECOND, 1 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn column() -> BoxedStrategy<Vec<u64>> {
    prop_oneof![
        prop::collection::vec(number(), 0..40),
        prop::collection::vec(number(), 0..40).prop_map(|mut column| {
            column.sort_unstable();
            column
        }),
    ]
    .boxed()
}

/// Columns that are often valid: a clock through all phases, and values of every size, as running totals or not.
fn readings() -> impl Strategy<Value = (Vec<u64>, Vec<u64>)> {
    let most = prop_oneof![Just(1), 2..1_000_000_000u64, Just(u64::MAX)];
    (1..8u64, any::<u64>(), most, any::<bool>()).prop_map(|(tenths, seed, most, total)| {
        let mut random = Random(seed);
        let at_ns: Vec<u64> = (0..=750 / tenths).map(|index| index * tenths * SECOND / 10).collect();
        let mut value: Vec<u64> = at_ns.iter().map(|_| random.below(most)).collect();
        if total {
            value.sort_unstable();
        }
        (at_ns, value)
    })
}

fn columns() -> BoxedStrategy<(Vec<u64>, Vec<u64>)> {
    prop_oneof![
        1 => (column(), column()),
        8 => readings(),
        4 => (column(), column(), any::<bool>()).prop_map(|(mut at, mut value, total)| {
            at.sort_unstable();
            if total {
                value.sort_unstable();
            }
            let length = at.len().min(value.len());
            at.truncate(length);
            value.truncate(length);
            (at, value)
        }),
    ]
    .boxed()
}

fn series() -> impl Strategy<Value = Series> {
    columns().prop_map(|(at_ns, value)| Series { at_ns, value })
}

/// Boxed, because the trees of so many strategies overflow the stack.
fn signal<T: std::fmt::Debug + 'static>(data: impl Strategy<Value = T> + 'static) -> BoxedStrategy<Signal<T>> {
    let exactness = prop_oneof![
        8 => Just(Exactness::Exact),
        4 => Just(Exactness::Sampled),
        1 => Just(Exactness::Missing { reason: String::new() }),
    ];
    (data, exactness, prop_oneof![9 => Just(0), 1 => any::<u64>()])
        .prop_map(|(data, exactness, lost)| Signal { source: String::new(), exactness, lost, data })
        .boxed()
}

fn span(usual: TimeSpan) -> impl Strategy<Value = Option<TimeSpan>> {
    prop_oneof![
        30 => Just(Some(usual)),
        3 => (number(), number()).prop_map(|(start_ns, end_ns)| Some(TimeSpan { start_ns, end_ns })),
        1 => Just(None),
    ]
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        8 => Just(Ending::Stopped),
        1 => number().prop_map(|at_ns| Ending::Exited { code: 1, at_ns }),
        1 => number().prop_map(|at_ns| Ending::Signalled { signal: String::new(), at_ns }),
        1 => number().prop_map(|at_ns| Ending::Ended { at_ns }),
    ]
}

fn counts() -> impl Strategy<Value = RequestCounts> {
    (number(), number(), number(), any::<bool>()).prop_map(|(intended, succeeded, failed, sound)| {
        let intended = if sound { succeeded.saturating_add(failed) } else { intended };
        RequestCounts { intended, succeeded, failed: [("timeout".to_owned(), failed)].into() }
    })
}

/// Stops of the world: some for the GC in turn, as in reality, and some for any reason.
fn world_stops() -> impl Strategy<Value = WorldStops> {
    use StopReason::{GcMarkTermination, GcSweepTermination, Unknown};
    let reasons = prop_oneof![
        3 => Just(vec![GcSweepTermination, GcMarkTermination]),
        1 => prop::collection::vec(prop::sample::select(vec![GcSweepTermination, GcMarkTermination, Unknown]), 1..9),
    ];
    (columns(), reasons, prop_oneof![3 => Just(None), 1 => column().prop_map(Some)]).prop_map(
        |((at_ns, duration_ns), reasons, tail_ns)| WorldStops {
            reason: reasons.into_iter().cycle().take(at_ns.len()).collect(),
            tail_ns: tail_ns.unwrap_or_else(|| duration_ns.clone()),
            at_ns,
            duration_ns,
        },
    )
}

/// CPU times, of which the GC's is usually a part.
fn gc_cpu() -> impl Strategy<Value = GcCpu> {
    (columns(), 0..5u64, prop_oneof![3 => Just(None), 1 => column().prop_map(Some)]).prop_map(
        |((at_ns, total_ns), part, gc_ns)| GcCpu {
            gc_ns: gc_ns.unwrap_or_else(|| total_ns.iter().map(|ns| ns / 5 * part).collect()),
            gc_idle_ns: vec![0; total_ns.len()],
            idle_ns: total_ns.iter().map(|ns| ns / 10).collect(),
            at_ns,
            total_ns,
        },
    )
}

fn span_refills() -> impl Strategy<Value = SpanRefills> {
    (columns(), 1..2 * SECOND, prop_oneof![3 => Just(None), 1 => column().prop_map(Some)]).prop_map(
        |((at_ns, refills), length, misses)| SpanRefills {
            windows: at_ns
                .iter()
                .map(|&start_ns| TimeSpan { start_ns, end_ns: start_ns.saturating_add(length) })
                .collect(),
            misses: misses.unwrap_or_else(|| refills.iter().map(|refills| refills / 3).collect()),
            refills,
        },
    )
}

prop_compose! {
    fn evidence(run: u32)(
        spans in (span(WARMUP), span(MEASURE), span(DRAIN)),
        ending in ending(),
        pauses in signal(columns().prop_map(|(at_ns, duration_ns)| Pauses { at_ns, duration_ns })),
        totals in prop::array::uniform4(signal(series())),
        readings in prop::array::uniform3(signal(series())),
        numbers in (signal(number()), signal(number())),
        runtime in (signal(world_stops()), signal(gc_cpu()), signal(span_refills())),
        mappings in signal(columns().prop_map(|(at_ns, duration_ns)| Durations { at_ns, duration_ns })),
        requests in (signal(series()), counts(), columns()),
        agreeing in prop::bool::weighted(0.75),
    ) -> Evidence {
        let mut run = healthy(run);
        let (warmup, measure, drain) = spans;
        run.phases = Phases { warmup, measure, tail: None, drain };
        run.ending = ending;
        run.signals.gc_pauses = pauses;
        (run.signals.world_stops, run.signals.gc_cpu, run.signals.span_refills) = runtime;
        run.signals.mmap_latency = mappings;
        [run.signals.alloc_bytes, run.signals.alloc_objects, run.signals.page_faults, run.signals.live_heap] = totals;
        [run.signals.rss, run.signals.offheap, run.signals.goroutines] = readings;
        (run.signals.rss_peak, run.signals.oom_kills) = numbers;
        let (completed, measure, (value_ns, count)) = requests;
        run.signals.requests.data.completed = completed.data;
        run.signals.requests.data.measure = measure;
        run.signals.requests.data.latency = Histogram { value_ns, count };
        if agreeing {
            agree(&mut run.signals);
        }
        run
    }
}

/// Makes the signals agree with each other.
fn agree(signals: &mut Signals) {
    let of_bytes = &signals.alloc_bytes.data;
    let objects = of_bytes.value.iter().map(|bytes| bytes / 8).collect();
    signals.alloc_objects.data = Series { at_ns: of_bytes.at_ns.clone(), value: objects };
    let resident = &signals.rss.data;
    let zeros = vec![0; resident.value.len()];
    signals.rss_kinds.data = RssKinds {
        at_ns: resident.at_ns.clone(),
        anonymous: resident.value.clone(),
        file: zeros.clone(),
        shared: zeros,
    };
    signals.rss_peak.data = signals.rss.data.value.iter().copied().max().unwrap_or(0);
    let requests = &mut signals.requests.data;
    let inside = requests.completed.at_ns.iter().zip(&requests.completed.value);
    let inside: Vec<u64> =
        inside.filter(|(at, _)| MEASURE.start_ns <= **at && **at <= MEASURE.end_ns).map(|(_, value)| *value).collect();
    let succeeded = inside.last().zip(inside.first()).map_or(0, |(last, first)| last.saturating_sub(*first));
    requests.measure = RequestCounts { intended: succeeded, succeeded, failed: BTreeMap::new() };
}

fn check(summary: &Summary) -> Result<(), TestCaseError> {
    for metrics in summary.runs.iter().map(|run| &run.metrics) {
        prop_assert_eq!(metrics.len(), Metric::ALL.len());
        for (metric, measurement) in metrics {
            match measurement {
                Ok(Estimate { measured, low, high, .. }) => {
                    prop_assert!(measured.is_finite() && low.is_finite() && high.is_finite(), "{}", metric);
                    prop_assert!(low <= measured && measured <= high, "{}: {:?}", metric, measurement);
                }
                Err(Unavailable { reason }) => prop_assert!(!reason.is_empty() && !reason.ends_with('.')),
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_evidence_gives_figures_or_reasons(first in evidence(1), second in evidence(2)) {
        check(&summarise(std::slice::from_ref(&first)).unwrap())?;
        match summarise(&[first, second]) {
            Ok(both) => check(&both)?,
            Err(error) => prop_assert!(error.message.starts_with("run 1 measured for "), "{}", error.message),
        }
    }
}

/// The evidence made here is valid often enough for the property above to mean something.
#[test]
fn some_of_that_evidence_has_each_metric_and_some_has_not() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut figures: BTreeMap<Metric, (u32, u32)> = BTreeMap::new();
    for _ in 0..300 {
        let run = evidence(1).new_tree(&mut runner).unwrap().current();
        for (metric, figure) in summarise(&[run]).unwrap().runs.remove(0).metrics {
            let (with, without) = figures.entry(metric).or_default();
            *(if figure.is_ok() { with } else { without }) += 1;
        }
    }
    for (metric, (with, without)) in figures {
        assert!(with >= 1 && without >= 1, "{metric}: {with} with a figure and {without} without");
    }
}
