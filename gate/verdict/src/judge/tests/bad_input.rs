//! Evidence that is no data of a service. Whatever is wrong with it, no check passes, and the reason says what is wrong.
//!
//! [`crate::summarise::tests::broken`] breaks each signal by itself. The cases here are those of whole runs, of several
//! runs, and of numbers that cannot be.

use std::collections::BTreeMap;

use memgate_evidence::{Ending, Evidence, Exactness, RequestCounts, TimeSpan, platform::Runner};
use memgate_testing::{DRAIN, MEASURE, Random, SECOND, WARMUP, every, healthy};

use super::{evidence::recorded_baseline, *};
use crate::summarise::summarise;

/// The result of two runs that are both spoilt.
fn judged(spoil: impl Fn(&mut Evidence)) -> ServiceResult {
    let runs = [1, 2].map(|run| {
        let mut run = healthy(run);
        spoil(&mut run);
        run
    });
    judge(&summarise(&runs).unwrap(), Some(&recorded_baseline()))
}

/// What is wrong, how it gets wrong, a metric whose gate is inconclusive for it, and a part of the reason.
type Bad = (&'static str, fn(&mut Evidence), Metric, &'static str);

const BAD_RUNS: &[Bad] = &[
    (
        "a measuring phase that ends before it begins",
        |run| run.phases.measure = Some(TimeSpan { start_ns: MEASURE.end_ns, end_ns: MEASURE.start_ns }),
        Metric::RssPeak,
        "the measuring phase has no length",
    ),
    (
        "a measuring phase without length",
        |run| run.phases.measure = Some(TimeSpan { end_ns: MEASURE.start_ns, ..MEASURE }),
        Metric::RequestErrors,
        "the measuring phase has no length",
    ),
    ("no measuring phase", |run| run.phases.measure = None, Metric::GcPauseP99, "the measuring phase is missing"),
    ("no drain", |run| run.phases.drain = None, Metric::FdsLeaked, "the drain is missing"),
    (
        "a drain before the measuring phase",
        |run| run.phases.drain = Some(TimeSpan { start_ns: 1, end_ns: SECOND }),
        Metric::GoroutinesLeaked,
        "the phases in the evidence are not one after the other: their clock went back",
    ),
    (
        "a tail within the measuring phase",
        |run| run.phases.tail = Some(MEASURE),
        Metric::HeapLiveGrowth,
        "the phases in the evidence are not one after the other",
    ),
    (
        "a warm-up that ends before it begins",
        |run| run.phases.warmup = Some(TimeSpan { start_ns: WARMUP.end_ns, end_ns: WARMUP.start_ns }),
        Metric::RssGrowth,
        "the phases in the evidence are not one after the other",
    ),
    (
        "a clock that is beyond all phases",
        |run| {
            let far =
                |span: TimeSpan| TimeSpan { start_ns: span.start_ns + (1 << 62), end_ns: span.end_ns + (1 << 62) };
            run.phases = memgate_evidence::Phases {
                warmup: Some(far(WARMUP)),
                measure: Some(far(MEASURE)),
                tail: None,
                drain: Some(far(DRAIN)),
            };
        },
        Metric::RssGrowth,
        "the resident-set samples have no entry in the phase",
    ),
    (
        "pauses of more time than there is",
        |run| run.signals.gc_pauses.data.duration_ns.fill(u64::MAX),
        Metric::GcStwFraction,
        "GC pauses of 18446744073709551615 ns",
    ),
    (
        "stops of more time than there is",
        |run| run.signals.world_stops.data.duration_ns.fill(u64::MAX),
        Metric::StwFraction,
        "the world stood still for longer than the measuring phase lasts",
    ),
    (
        "more failures than can be counted",
        |run| {
            let failed = BTreeMap::from([("timeout".to_owned(), u64::MAX), ("status 500".to_owned(), u64::MAX)]);
            run.signals.requests.data.measure = RequestCounts { intended: 1, succeeded: 30_000, failed };
        },
        Metric::RequestErrors,
        "the requests that succeeded and failed are not those intended",
    ),
    (
        "more latencies than can be counted",
        |run| run.signals.requests.data.latency.count.fill(u64::MAX),
        Metric::RequestLatencyP99,
        "more latencies than can be counted",
    ),
    (
        "more refills than can be counted",
        |run| run.signals.span_refills.data.refills.fill(u64::MAX),
        Metric::SpanRefillMissRate,
        "more span refills than can be counted",
    ),
    (
        "a resident set in KiB",
        |run| run.signals.rss.data.value.iter_mut().for_each(|bytes| *bytes /= 1024),
        Metric::RssGrowth,
        "a resident set that is 0.001 times the sum of its kinds",
    ),
    (
        "allocated bytes in KiB",
        |run| run.signals.alloc_bytes.data.value.iter_mut().for_each(|bytes| *bytes /= 1024),
        Metric::HeapAllocRate,
        "objects of 58652 bytes were allocated",
    ),
    (
        "a race build, whose detector keeps memory of its own",
        |run| run.environment.build = BTreeMap::from([("-race".to_owned(), "true".to_owned())]),
        Metric::RssGrowth,
        "the executable is built with -race",
    ),
];

#[test]
fn a_run_that_cannot_be_is_inconclusive_and_says_why() {
    for (what, spoil, metric, expected) in BAD_RUNS {
        let result = judged(spoil);
        let gate = gate(&result, *metric);
        assert_eq!(gate.verdict, Verdict::Inconclusive, "{what}: {gate:?}");
        assert!(gate.reason.contains(expected), "{what}: {}", gate.reason);
        assert_ne!(result.verdict.exit_code(), 0, "{what}");
    }
}

/// A guest's figures per time follow from the rate of the load.
#[test]
fn a_rate_that_cannot_be_gives_no_figure_per_time() {
    for (per_second, expected) in [(0.0, "0"), (-500.0, "-500"), (f64::NAN, "NaN"), (f64::INFINITY, "inf")] {
        let result = judged(|run| {
            run.environment.runner = Runner::Qemu;
            run.signals.requests.data.per_second = per_second;
        });
        let reason = &gate(&result, Metric::HeapLiveGrowth).reason;
        let expected = format!("the evidence has {expected} requests per second as the rate of the load");
        assert!(reason.contains(&expected), "{per_second}: {reason}");
        assert_ne!(result.verdict.exit_code(), 0, "{per_second}");
    }
}

/// What makes two runs no runs of one service under one plan, and a part of the message.
type Apart = (fn(&mut Evidence), &'static str);

#[test]
fn runs_of_different_length_or_build_are_refused() {
    let cases: &[Apart] = &[
        (
            |run| {
                shorten(run, 30);
                run.signals.requests.data.measure.intended = 15_000;
            },
            "run 1 measured for 60.0 s with 30000 requests and run 2 measured for 30.0 s with 15000 requests",
        ),
        (
            |run| {
                shorten(run, 30);
                run.signals.requests.data = Default::default();
            },
            "run 1 measured for 60.0 s with 30000 requests and run 2 measured for 30.0 s;",
        ),
        (
            |run| run.environment.build = BTreeMap::from([("-tags".to_owned(), "netgo".to_owned())]),
            "run 1 has the settings of the build `none` and run 2 has `-tags=netgo`",
        ),
        (
            |run| run.environment.variables = BTreeMap::from([("GOGC".to_owned(), "50".to_owned())]),
            "run 1 has the variables `none` and run 2 has `GOGC=50`",
        ),
        (
            |run| run.environment.go = "go1.26.1".to_owned(),
            "run 1 has the Go version `go1.27.3` and run 2 has `go1.26.1`",
        ),
        (|run| run.environment.runner = Runner::Qemu, "run 1 has the runner `native` and run 2 has `qemu`"),
    ];
    for (set_apart, expected) in cases {
        let mut other = healthy(2);
        set_apart(&mut other);
        let error = summarise(&[healthy(1), other]).unwrap_err();
        assert!(error.message.contains(expected), "{expected}: {}", error.message);
        assert_eq!(error.help.as_deref(), Some("judge them separately"));
    }
}

/// Ends the measuring phase after `seconds`.
fn shorten(run: &mut Evidence, seconds: u64) {
    run.phases.measure = Some(TimeSpan { end_ns: MEASURE.start_ns + seconds * SECOND, ..MEASURE });
}

/// Why two runs may differ, and how each of them is changed.
type Alike = (&'static str, fn(&mut Evidence), fn(&mut Evidence));

#[test]
fn runs_of_one_plan_agree_in_their_time_or_in_their_requests() {
    let without_requests = |run: &mut Evidence| run.signals.requests.data = Default::default();
    let cases: &[Alike] = &[
        ("a guest takes the time that its requests need", |_| {}, |run| shorten(run, 10)),
        ("a load command does not tell its requests", without_requests, without_requests),
        ("a busy machine begins a phase late", without_requests, |run| {
            shorten(run, 42);
            run.signals.requests.data = Default::default();
        }),
        (
            "and a short phase too",
            |run| shorten(run, 1),
            |run| {
                shorten(run, 3);
                run.signals.requests.data = Default::default();
            },
        ),
        (
            "a crash ends a phase",
            |_| {},
            |run| {
                shorten(run, 10);
                run.signals.requests.data.measure.intended = 5000;
                run.ending = Ending::Exited { code: 2, at_ns: MEASURE.start_ns + 10 * SECOND };
            },
        ),
    ];
    for (why, first, second) in cases {
        let mut runs = [healthy(1), healthy(2)];
        first(&mut runs[0]);
        second(&mut runs[1]);
        assert!(summarise(&runs).is_ok(), "{why}");
        runs.swap(0, 1);
        assert!(summarise(&runs).is_ok(), "{why}");
    }
}

/// The first thread's stack may be swapped out, and then a service without C code has no off-heap memory at all.
#[test]
fn no_off_heap_memory_is_one_of_a_service_that_is_swapped_out() {
    let result = judged(|run| run.signals.offheap.data.value.fill(0));
    for metric in [Metric::OffheapPeak, Metric::OffheapGrowth] {
        let reason = &gate(&result, metric).reason;
        assert!(reason.contains("the off-heap samples are all 0, which is impossible"), "{reason}");
    }
    let result = judged(|run| {
        run.signals.offheap.data.value.fill(0);
        run.signals.swap.data.value.fill(1 << 20);
    });
    for metric in [Metric::OffheapPeak, Metric::OffheapGrowth] {
        assert_eq!(gate(&result, metric).measured, Some(0.0), "{metric}");
    }
}

/// Whoever leaks what nobody reads again, in a service at its limit, has a flat resident set.
#[test]
fn a_leak_that_is_swapped_out_is_a_leak() {
    let leaked = |at: u64| at.saturating_sub(MEASURE.start_ns) / 1000;
    let judge_with = |swapped: fn(u64) -> u64| {
        judged(|run| {
            let swap = &mut run.signals.swap.data;
            swap.value = swap.at_ns.iter().map(|&at| swapped(at)).collect();
            let memory = &mut run.signals.cgroup_memory.data;
            memory.swap = Some(memory.at_ns.iter().map(|&at| swapped(at)).collect());
        })
    };
    let flat = judge_with(|_| 100 << 20);
    let leak = judge_with(|at| at.saturating_sub(MEASURE.start_ns) / 1000);
    assert!(leaked(MEASURE.end_ns) > 10 << 20);
    for metric in [Metric::RssGrowth, Metric::RssAnonGrowth, Metric::CgroupGrowth] {
        assert_eq!(gate(&leak, metric).verdict, Verdict::Regressed, "{metric}: {}", gate(&leak, metric).reason);
        assert_eq!(gate(&flat, metric).measured, gate(&judged(|_| {}), metric).measured, "{metric}");
    }
    let reason = &gate(&leak, Metric::RssAnonGrowth).reason;
    assert!(reason.contains("swapped-out memory grew by"), "{reason}");
    // Whose memory was swapped out is not known.
    let gate_of = gate(&leak, Metric::OffheapGrowth);
    assert_eq!(gate_of.verdict, Verdict::Inconclusive, "{}", gate_of.reason);
    assert!(gate_of.reason.contains("swapped-out memory may be a part of it"), "{}", gate_of.reason);
    assert_eq!(gate(&flat, Metric::OffheapGrowth).verdict, gate(&judged(|_| {}), Metric::OffheapGrowth).verdict);
    // A kernel that does not account for it by cgroup.
    let unaccounted = judged(|run| {
        let swap = &mut run.signals.swap.data;
        swap.value = swap.at_ns.iter().map(|&at| leaked(at)).collect();
        run.signals.cgroup_memory.data.swap = None;
    });
    assert_eq!(gate(&unaccounted, Metric::CgroupGrowth).verdict, Verdict::Regressed);
}

/// Linux counts pages per processor, and a small service's may not have been added up yet at a reading.
#[test]
fn a_single_zero_of_anonymous_memory_is_no_broken_signal() {
    let result = judged(|run| run.signals.rss_kinds.data.anonymous[100] = 0);
    assert!(gate(&result, Metric::RssAnonGrowth).measured.is_some());
}

/// A run with `requests` in its measuring phase.
fn with_requests(run: &mut Evidence, requests: u64) {
    let data = &mut run.signals.requests.data;
    data.completed = every(SECOND / 10, |at| if at > MEASURE.start_ns { 4500 + requests } else { 4500 });
    data.measure = RequestCounts { intended: requests, succeeded: requests, failed: BTreeMap::new() };
    (data.latency.value_ns, data.latency.count) = (vec![100_000], vec![requests]);
}

#[test]
fn a_phase_of_one_request_says_nothing_of_requests() {
    let result = judged(|run| with_requests(run, 1));
    for (metric, done) in [
        (Metric::AllocBytesPerRequest, "completed"),
        (Metric::PageFaultsPerRequest, "completed"),
        (Metric::HeapLiveGrowthPerRequest, "completed"),
        (Metric::RequestLatencyP99, "answered"),
    ] {
        let gate = gate(&result, metric);
        let expected = format!(
            "No figure: only 1 request was {done} in the measuring phase, and a figure needs 10: measure longer, \
             or raise `load.rate`."
        );
        assert_eq!((gate.verdict, gate.reason.as_str()), (Verdict::Inconclusive, expected.as_str()), "{metric}");
    }
    let errors = gate(&result, Metric::RequestErrors);
    assert_eq!(errors.verdict, Verdict::Inconclusive, "{errors:?}");
    let result = judged(|run| with_requests(run, 0));
    assert_eq!(gate(&result, Metric::RequestErrors).verdict, Verdict::Inconclusive);
    let result = judged(|run| with_requests(run, 10));
    assert!(gate(&result, Metric::AllocBytesPerRequest).measured.is_some());
    assert_eq!(gate(&result, Metric::RequestErrors).verdict, Verdict::Pass);
}

/// A service that allocates nothing has no collections of its own, and no growth.
#[test]
fn a_service_that_allocates_nothing_has_figures_of_0() {
    let idle = |run: &mut Evidence| {
        let signals = &mut run.signals;
        signals.alloc_bytes.data.value.fill(1_000_000);
        signals.alloc_objects.data.value.fill(10_000);
        signals.live_heap.data = Default::default();
        signals.gc_pauses.data = Default::default();
        signals.gc_cpu.data = Default::default();
        signals.world_stops.data = Default::default();
    };
    let result = judged(idle);
    for metric in [Metric::HeapAllocRate, Metric::AllocBytesPerRequest, Metric::GcCycles, Metric::GcPauseP99] {
        assert_eq!(gate(&result, metric).measured, Some(0.0), "{metric}");
        assert!(gate(&result, metric).verdict.is_good(), "{metric}");
    }
    let growth = gate(&result, Metric::HeapLiveGrowth);
    assert_eq!(growth.verdict, Verdict::Inconclusive);
    assert!(growth.reason.contains("only 0 GC cycles in the measuring phase"), "{}", growth.reason);
}

/// How a memory moves that never settles, and the verdicts that are right for it.
type Restless = (&'static str, fn(u64) -> u64, &'static [Verdict]);

/// Seconds into the measuring phase.
fn into_phase(at_ns: u64) -> u64 {
    at_ns.saturating_sub(MEASURE.start_ns) / SECOND
}

#[test]
fn a_service_that_never_settles_does_not_pass() {
    const MB: u64 = 1_000_000;
    let cases: &[Restless] = &[
        ("it grows all the time", |at| 20 * MB + at / 1000, &[Verdict::Regressed]),
        ("it grows faster and faster", |at| 20 * MB + into_phase(at).pow(2) * MB / 10, &[Verdict::Regressed]),
        ("it falls once in the phase", |at| 20 * MB + (into_phase(at) + 20) % 50 * MB, &[Verdict::Inconclusive]),
        ("it wanders", |at| 50 * MB + wandering(at) * MB, &[Verdict::Inconclusive, Verdict::Regressed]),
    ];
    for (what, memory, right) in cases {
        let result = judged(|run| {
            run.signals.live_heap.data = every(SECOND / 5, memory);
            run.signals.rss.data = every(SECOND / 10, memory);
            run.signals.rss_kinds.data.at_ns.clear();
            run.signals.rss_kinds.exactness = Exactness::Missing { reason: "not read".to_owned() };
            run.signals.rss_peak.data = 1000 * MB;
        });
        for metric in [Metric::HeapLiveGrowth, Metric::RssGrowth] {
            let gate = gate(&result, metric);
            assert!(right.contains(&gate.verdict), "{what}: {gate:?}");
        }
        assert_ne!(result.verdict.exit_code(), 0, "{what}");
    }
}

/// A random walk with a step a second, always the same.
fn wandering(at_ns: u64) -> u64 {
    let mut random = Random(7);
    (0..=into_phase(at_ns))
        .fold(25, |level: u64, _| if random.below(2) == 0 { level.saturating_sub(2) } else { level + 2 })
}

/// Figures at the ends of what numbers can be. JSON has no NaN and no infinity, but a mean of large numbers may be one.
#[test]
fn figures_that_are_no_numbers_or_too_large_never_pass() {
    let baseline = baseline_of([
        (Metric::AllocBytesPerRequest, Expectation { limit: Limit::At(1e18), ..recorded() }),
        (Metric::HeapLiveGrowth, Expectation { limit: Limit::At(1e18), baseline: Some(-1e18), ..recorded() }),
    ]);
    for metric in [Metric::AllocBytesPerRequest, Metric::HeapLiveGrowth] {
        for figure in [
            around(f64::NAN, 0.0),
            around(f64::INFINITY, 0.0),
            around(f64::NEG_INFINITY, 0.0),
            around(0.0, f64::NAN),
            around(0.0, f64::INFINITY),
            exactly(f64::MAX),
            exactly(f64::MIN),
        ] {
            for runs in 2..=4 {
                let summary = alike(metric, runs, &figure);
                let (verdict, reason) = ruling(&summary, &baseline, metric);
                assert!(!verdict.is_good(), "{metric} {runs} runs of {figure:?}: {reason}");
                assert!(!reason.contains("NaN") && !reason.contains("inf "), "{reason}");
            }
        }
    }
}

/// A limit of 0 holds if nothing at all is seen, and is never met by a figure that may be above it.
#[test]
fn a_limit_of_0_is_a_limit() {
    let zero = |metric, figure: Measurement| {
        let expectation = Expectation { limit: Limit::At(0.0), ..Expectation::default() };
        ruling(&alike(metric, 2, &figure), &baseline_of([(metric, expectation)]), metric)
    };
    let (flat, noisy) = (exactly(0.0), around(-100.0, 1000.0));
    assert_eq!(zero(Metric::RssGrowth, flat).0, Verdict::Pass);
    let (verdict, reason) = zero(Metric::RssGrowth, noisy);
    assert_eq!(verdict, Verdict::Inconclusive);
    let expected = "a limit of 0 leaves no room for noise, so raise `limit` or name `must_notice`.";
    assert!(reason.ends_with(expected), "{reason}");
    assert_eq!(zero(Metric::RssGrowth, around(100.0, 10.0)).0, Verdict::Regressed);
    assert_eq!(zero(Metric::GoroutinesLeaked, exactly(1.0)).0, Verdict::Regressed);
    assert_eq!(zero(Metric::GcPauseP99, around(1e6, 1e5)).0, Verdict::Regressed);
}
