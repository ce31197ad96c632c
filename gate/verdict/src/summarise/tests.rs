//! Tests of whole summaries. Tests of the estimators stand beside them.

pub(crate) mod broken;
mod fuzz;
mod habits;
pub(crate) mod simulation;
mod sites;

use memgate_evidence::{Ending, Evidence, Exactness, Pauses, RequestCounts, Series, StopReason, TimeSpan};

use memgate_evidence::platform::Runner;
use memgate_testing::*;

use super::*;
use crate::metric::Unit;

/// The figure of one run.
fn figure(evidence: &Evidence, metric: Metric) -> Measurement {
    summarise(std::slice::from_ref(evidence)).unwrap().runs[0].metrics[&metric].clone()
}

fn measured(evidence: &Evidence, metric: Metric) -> f64 {
    figure(evidence, metric).unwrap().measured
}

fn reason(evidence: &Evidence, metric: Metric) -> String {
    figure(evidence, metric).unwrap_err().reason
}

fn assert_near(actual: f64, expected: f64, relative: f64) {
    assert!((actual - expected).abs() <= relative * expected.abs(), "{actual} is not near {expected}");
}

#[test]
fn a_healthy_run_has_every_metric() {
    let run = healthy(1);
    for metric in Metric::ALL {
        let estimate = figure(&run, metric).unwrap_or_else(|unavailable| panic!("{metric}: {unavailable:?}"));
        assert!(estimate.low <= estimate.measured && estimate.measured <= estimate.high, "{metric}: {estimate:?}");
    }
    // 500 requests a second, each with 2,000 bytes, 10 objects and 0.1 page faults, and another 1,000 bytes a second.
    assert_near(measured(&run, Metric::HeapAllocRate), 1_001_000.0, 1e-6);
    assert_near(measured(&run, Metric::AllocBytesPerRequest), 2_002.0, 1e-6);
    assert_near(measured(&run, Metric::AllocsPerRequest), 10.0, 1e-9);
    assert_near(measured(&run, Metric::PageFaultsPerRequest), 0.1, 1e-3);
    assert_near(measured(&run, Metric::GcCycles), 300.0, 1e-9);
    assert_eq!(measured(&run, Metric::GoroutinesMax), 44.0);
    assert_eq!(measured(&run, Metric::GoroutinesLeaked), 0.0);
    assert_eq!(measured(&run, Metric::RssPeak), 50_060_000.0);
    assert_eq!(measured(&run, Metric::OomKills), 0.0);
    assert_eq!(measured(&run, Metric::RequestErrors), 0.0);
    assert_eq!(measured(&run, Metric::RequestLatencyP99), 9_900_000.0);
    // 600 pauses in 60 s with a mean of 75 µs.
    assert_near(measured(&run, Metric::GcStwFraction), 600.0 * 75e-6 / 60.0, 0.03);
    assert_eq!(measured(&run, Metric::GcPauseHiddenTailP99), 8_000.0);
    // The mark phase lasts from 5 ms before the end of the cycle to 58 µs before it.
    assert_eq!(measured(&run, Metric::GcMarkP99), 4_942_000.0);
    assert_near(measured(&run, Metric::GcCpuFraction), 0.05, 1e-9);
    assert_near(measured(&run, Metric::SpanRefillMissRate), 0.02, 1e-9);
    assert_eq!(measured(&run, Metric::MmapLatencyP99), 5_000.0);
}

#[test]
fn few_mappings_have_no_p99_and_the_remark_says_so() {
    let estimate = figure(&healthy(1), Metric::MmapLatencyP99).unwrap();
    assert_eq!((estimate.n, estimate.remark.as_str()), (30, "max of 30 mappings (a p99 needs 299)"));
}

#[test]
fn marking_lasts_until_the_last_stop_of_a_cycle() {
    let mut run = healthy(1);
    // In every cycle the world stops once more, 1 ms before its end, and runs on.
    let stops = &mut run.signals.world_stops.data;
    let cycles: Vec<u64> = stops.at_ns.iter().copied().skip(1).step_by(2).collect();
    stops.at_ns =
        cycles.iter().flat_map(|at| [at.saturating_sub(5_000_000), at.saturating_sub(1_000_000), *at]).collect();
    let reasons = [StopReason::GcSweepTermination, StopReason::GcMarkTermination, StopReason::GcMarkTermination];
    stops.reason = cycles.iter().flat_map(|_| reasons).collect();
    stops.duration_ns = vec![50_000; stops.at_ns.len()];
    stops.tail_ns = vec![8_000; stops.at_ns.len()];
    assert_eq!(measured(&run, Metric::GcMarkP99), 4_942_000.0);
    assert_eq!(figure(&run, Metric::GcMarkP99).unwrap().n, 300);
}

#[test]
fn stops_for_other_reasons_are_no_pauses_of_the_gc() {
    let mut run = healthy(1);
    run.signals.world_stops.data.reason.fill(StopReason::ReadMemStats);
    for metric in [Metric::GcPauseHiddenTailP99, Metric::GcMarkP99] {
        assert_eq!(reason(&run, metric), "no stop of the world for the GC in the measuring phase");
    }
}

#[test]
fn figures_that_contradict_themselves_are_none() {
    let mut run = healthy(1);
    run.signals.span_refills.data.misses.fill(51);
    assert_eq!(reason(&run, Metric::SpanRefillMissRate), "more span refills missed than happened, which is impossible");
    run.signals.gc_cpu.data.gc_ns.iter_mut().for_each(|ns| *ns *= 30);
    assert_eq!(reason(&run, Metric::GcCpuFraction), "the GC has more CPU time than the process, which is impossible");
    run.signals.world_stops.data.tail_ns.fill(SECOND);
    assert_eq!(reason(&run, Metric::GcMarkP99), "the stops of the world overlap, which is impossible");
}

/// A way to make signals contradict each other, and what is then said of a metric.
type Contradiction = (fn(&mut Evidence), Metric, &'static str);

#[test]
fn signals_that_contradict_each_other_have_no_figures() {
    let contradictions: [Contradiction; 9] = [
        (
            |run| run.signals.alloc_bytes.data.value.fill(7),
            Metric::HeapLiveGrowth,
            "300 GC cycles in the measuring phase",
        ),
        (|run| run.signals.alloc_objects.data.value.fill(7), Metric::AllocsPerRequest, "but no object"),
        (|run| run.signals.alloc_objects.data = run.signals.alloc_bytes.data.clone(), Metric::AllocBytesPerRequest, ""),
        (|run| run.signals.live_heap.data.value[200] = 0, Metric::HeapLiveGrowth, "a live heap of 0 bytes"),
        (|run| run.signals.rss_peak.data = 20_000_000, Metric::RssPeak, "above its own peak of 20000000 bytes"),
        (|run| run.signals.rss.data.value.fill(0), Metric::RssGrowth, "a resident set of 0 bytes"),
        (|run| run.signals.gc_cpu.data.gc_ns.fill(7), Metric::GcCpuFraction, "but no CPU time of the GC"),
        (
            |run| run.signals.gc_pauses.data.duration_ns.fill(SECOND),
            Metric::GcStwFraction,
            "GC pauses of 600000000000 ns",
        ),
        (
            |run| run.signals.requests.data.completed.value.iter_mut().for_each(|value| *value *= 3),
            Metric::RequestErrors,
            "90000 requests were completed in the measuring phase, but 30000",
        ),
    ];
    for (contradict, metric, expected) in contradictions {
        let mut run = healthy(1);
        contradict(&mut run);
        if expected.is_empty() {
            run.signals.alloc_objects.data.value.iter_mut().for_each(|objects| *objects *= 2);
            assert!(reason(&run, metric).contains(" objects of "), "{}", reason(&run, metric));
        } else {
            assert!(reason(&run, metric).contains(expected), "{metric}: {}", reason(&run, metric));
        }
        assert!(figure(&run, Metric::GoroutinesMax).is_ok(), "other signals keep their figures");
    }
}

#[test]
fn pauses_outside_the_measuring_phase_do_not_count() {
    let mut run = healthy(1);
    let pauses = &mut run.signals.gc_pauses.data;
    for index in [0, pauses.at_ns.len() - 1] {
        pauses.duration_ns[index] = SECOND;
    }
    assert!(measured(&run, Metric::GcPauseMax) < 100_000.0);
}

#[test]
fn a_linear_growth_is_measured_in_bytes_per_minute() {
    let mut run = healthy(1);
    // 3 MB a minute.
    run.signals.live_heap.data = every(SECOND / 5, |at| 20_000_000 + at / 20_000);
    run.signals.rss.data = every(SECOND / 10, |at| 50_000_000 + at / 20_000);
    run.signals.offheap.data = every(SECOND / 2, |at| 4_000_000 + at / 20_000);
    for metric in [Metric::HeapLiveGrowth, Metric::RssGrowth, Metric::OffheapGrowth] {
        assert_near(measured(&run, metric), 3e6, 1e-3);
    }
}

#[test]
fn a_working_set_that_grows_and_then_stays_is_no_leak() {
    let mut run = healthy(1);
    let mut random = Random(7);
    let mut grown = |at: u64| 40_000_000 + (at.min(30 * SECOND) / 5_000) + random.below(100_000);
    run.signals.live_heap.data = every(SECOND / 5, &mut grown);
    run.signals.rss.data = every(SECOND / 10, &mut grown);
    for metric in [Metric::HeapLiveGrowth, Metric::RssGrowth] {
        let estimate = figure(&run, metric).unwrap();
        assert!(estimate.low < 0.5e6, "{metric}: {estimate:?}");
        assert_eq!(estimate.remark, "growth slowed down: slope of the second half of the measuring phase", "{metric}");
    }
}

#[test]
fn a_growth_knows_the_mean_of_what_grows() {
    let run = healthy(1);
    let level = |metric| figure(&run, metric).unwrap().level;
    assert_eq!(level(Metric::RssAnonGrowth), Some(40e6));
    assert_eq!(level(Metric::CgroupGrowth), Some(60e6));
    assert_near(level(Metric::HeapLiveGrowth).unwrap(), 20.05e6, 1e-3);
    assert_near(level(Metric::RssGrowth).unwrap(), 50e6, 1e-3);
    assert_eq!(level(Metric::HeapLiveGrowthPerRequest), None, "it is no growth over time");
}

#[test]
fn a_heap_beyond_the_goal_of_the_gc_is_told_as_what_grew() {
    let mut run = healthy(1);
    let grown = |bytes: u64| every(SECOND / 10, move |at| bytes + at / 10_000).value;
    run.signals.go_memory.data.heap_in_use = grown(100_000_000);
    run.signals.rss_kinds.data.anonymous = grown(150_000_000);
    run.signals.rss.data.value = grown(160_000_000);
    run.signals.rss_peak.data = 200_000_000;
    let growth = figure(&run, Metric::RssAnonGrowth).unwrap();
    assert_near(growth.measured, 6e6, 1e-3);
    assert_eq!(growth.remark, "the heap beyond the GC's goal grew by 6.00MB/min");
}

/// A part of the anonymous memory, the interval of its readings, and its name.
type Part = (fn(&mut Evidence) -> &mut Vec<u64>, u64, &'static str);

#[test]
fn a_growth_of_anonymous_memory_is_told_by_what_grew() {
    let grown = |interval: u64, bytes: u64| every(interval, move |at| bytes + at / 10_000).value;
    let parts: [Part; 3] = [
        (|run| &mut run.signals.go_memory.data.stacks, SECOND / 10, "goroutine stacks"),
        (|run| &mut run.signals.offheap.data.value, SECOND / 2, "off-heap memory"),
        (|run| &mut run.signals.go_memory.data.runtime_other, SECOND / 10, "the runtime's own data"),
    ];
    for (part, interval, name) in parts {
        let mut run = healthy(1);
        *part(&mut run) = grown(interval, 5_000_000);
        run.signals.rss_kinds.data.anonymous = grown(SECOND / 10, 40_000_000);
        let growth = figure(&run, Metric::RssAnonGrowth).unwrap();
        assert_near(growth.measured, 6e6, 1e-3);
        assert_eq!(growth.remark, format!("{name} grew by 6.00MB/min"));
    }
}

#[test]
fn what_describes_the_heap_is_no_growth_of_its_own() {
    let mut run = healthy(1);
    // 0.6 MB a minute of descriptions, which is less than a 32nd of the heap.
    let grown = |bytes: u64| every(SECOND / 10, move |at| bytes + at / 100_000).value;
    run.signals.go_memory.data.runtime_other = grown(100_000);
    run.signals.rss_kinds.data.anonymous = grown(40_000_000);
    let growth = figure(&run, Metric::RssAnonGrowth).unwrap();
    assert_eq!((growth.measured, growth.remark.as_str()), (0.0, ""));
}

#[test]
fn a_value_between_readings_is_interpolated() {
    let entries = super::series::Entries::new(&[10, 20, 40], &[100, 200, 1000], "readings").unwrap();
    for (at_ns, value) in [(10, 100.0), (15, 150.0), (20, 200.0), (25, 400.0), (40, 1000.0), (5, 100.0), (50, 1000.0)] {
        assert_eq!(entries.interpolated(at_ns), value, "{at_ns}");
    }
}

#[test]
fn the_share_of_the_gc_is_that_of_the_measuring_phase() {
    let mut run = healthy(1);
    // In the warm-up the GC worked for a second more.
    let cpu = &mut run.signals.gc_cpu.data;
    for (at_ns, (gc, total)) in cpu.at_ns.iter().zip(cpu.gc_ns.iter_mut().zip(&mut cpu.total_ns)) {
        if *at_ns > WARMUP.start_ns + SECOND {
            *gc += SECOND;
            *total += SECOND;
        }
    }
    assert_near(measured(&run, Metric::GcCpuFraction), 0.05, 1e-9);
    // Its share differs from cycle to cycle, so it has an interval.
    let mut uneven = run.clone();
    for (index, gc) in uneven.signals.gc_cpu.data.gc_ns.iter_mut().enumerate() {
        *gc += if index % 3 == 0 { SECOND / 1000 } else { 0 };
    }
    let share = figure(&uneven, Metric::GcCpuFraction).unwrap();
    assert!(share.low < share.measured && share.measured < share.high, "{share:?}");
    // All work is the GC's.
    let cpu = &mut run.signals.gc_cpu.data;
    cpu.gc_idle_ns.fill(0);
    cpu.idle_ns.fill(0);
    cpu.gc_ns = cpu.total_ns.clone();
    assert_eq!(measured(&run, Metric::GcCpuFraction), 1.0);
}

#[test]
fn a_flat_series_grows_by_0_exactly() {
    let mut run = healthy(1);
    run.signals.rss.data = every(SECOND / 10, |_| 50_000_000);
    let estimate = figure(&run, Metric::RssGrowth).unwrap();
    assert_eq!((estimate.measured, estimate.low, estimate.high), (0.0, 0.0, 0.0));
}

#[test]
fn a_sampled_maximum_says_of_how_many_samples() {
    let mut run = healthy(1);
    run.signals.goroutines.exactness = Exactness::Sampled;
    assert_eq!(figure(&run, Metric::GoroutinesMax).unwrap().remark, "max of 601 samples");
    assert_eq!(figure(&run, Metric::GoroutinesLeaked).unwrap().remark, "");
}

#[test]
fn goroutines_left_after_the_drain_are_leaked_and_fewer_are_none() {
    let mut run = healthy(1);
    *run.signals.goroutines.data.value.last_mut().unwrap() = 13;
    assert_eq!(measured(&run, Metric::GoroutinesLeaked), 3.0);
    *run.signals.goroutines.data.value.last_mut().unwrap() = 5;
    assert_eq!(measured(&run, Metric::GoroutinesLeaked), 0.0);
}

/// What the load starts once, such as connections that are kept, comes in the warm-up.
#[test]
fn goroutines_that_were_there_when_measuring_began_are_not_leaked() {
    let mut run = healthy(1);
    *run.signals.goroutines.data.value.last_mut().unwrap() = 22;
    let column = |values: [u64; 2]| values.to_vec();
    run.signals.goroutine_sites = exact(memgate_evidence::GoroutineSites {
        created: vec![0, 0],
        started: vec![0, 0],
        before: column([10, 0]),
        loaded: column([20, 30]),
        left: column([18, 4]),
        young: column([0, 3]),
    });
    assert_eq!(measured(&run, Metric::GoroutinesLeaked), 3.0);
    run.signals.goroutine_sites.data.young.pop();
    assert_eq!(measured(&run, Metric::GoroutinesLeaked), 12.0, "columns of different length prove nothing");
    run.signals.goroutine_sites.exactness = Exactness::Missing { reason: "no list".to_owned() };
    assert_eq!(measured(&run, Metric::GoroutinesLeaked), 12.0);
}

#[test]
fn figures_per_time_of_a_slow_guest_are_those_at_the_rate() {
    let at = |runner: Runner, per_second: f64| {
        let mut run = healthy(1);
        run.environment.runner = runner;
        run.signals.requests.data.per_second = per_second;
        summarise(&[run]).unwrap().runs[0].metrics.clone()
    };
    // The healthy one has 500 requests a second.
    let (native, slow) = (at(Runner::Native, 1000.0), at(Runner::Qemu, 1000.0));
    for (metric, figure) in &slow {
        let is_per_time = matches!(metric.unit(), Unit::BytesPerSecond | Unit::BytesPerMinute | Unit::CountPerMinute);
        let factor = if is_per_time { 2.0 } else { 1.0 };
        let (expected, found) = (native[metric].as_ref().unwrap(), figure.as_ref().unwrap());
        for (of_native, of_slow) in
            [(expected.measured, found.measured), (expected.low, found.low), (expected.high, found.high)]
        {
            assert_near(of_slow, factor * of_native, 1e-9);
        }
    }
    // Even slower ones have none.
    for (metric, figure) in at(Runner::Qemu, 4000.0) {
        let is_per_time = matches!(metric.unit(), Unit::BytesPerSecond | Unit::BytesPerMinute | Unit::CountPerMinute);
        assert_eq!(figure.is_err(), is_per_time, "{metric}");
        if let Err(unavailable) = figure {
            let expected =
                "the guest got its requests at 12.5% of the rate: lower `load.rate`, or run nothing beside it";
            assert_eq!(unavailable.reason, expected);
        }
    }
    assert!(at(Runner::Qemu, 0.0)[&Metric::HeapLiveGrowth].is_err(), "the rate is not known");
    assert!(at(Runner::Qemu, 550.0).values().chain(at(Runner::Native, 4000.0).values()).all(Result::is_ok));
}

#[test]
fn requests_that_a_guest_did_not_get_are_no_failures() {
    let mut run = healthy(1);
    run.environment.runner = Runner::Qemu;
    let failed = [("no time".to_owned(), 20_000), ("status 500".to_owned(), 1)].into();
    run.signals.requests.data.measure = RequestCounts { intended: 30_000, succeeded: 9999, failed };
    run.signals.requests.data.completed.value.iter_mut().for_each(|completed| *completed /= 3);
    assert_near(measured(&run, Metric::RequestErrors), 1.0 / 10_000.0, 1e-12);
    assert_near(measured(&run, Metric::GcCycles), 900.0, 1e-3);
    assert!(figure(&run, Metric::AllocBytesPerRequest).is_ok());
    run.signals.requests.data.measure.failed = [("no time".to_owned(), 30_000)].into();
    run.signals.requests.data.measure.succeeded = 0;
    run.signals.requests.data.completed.value.fill(0);
    assert_eq!(reason(&run, Metric::RequestErrors), "no request was intended in the measuring phase");
}

#[test]
fn a_service_that_ended_early_has_no_figures_but_its_failures_and_kills() {
    let mut run = healthy(1);
    run.ending = Ending::Signalled { signal: "SIGSEGV".to_owned(), at_ns: 13_200_000_000 };
    run.phases.drain = None;
    let failed = [("not sent".to_owned(), 28_400)].into();
    run.signals.requests.data.measure = RequestCounts { intended: 30_000, succeeded: 1_600, failed };
    let summary = summarise(&[run]).unwrap();
    let end = "the service was ended by SIGSEGV 13.2 s after launch, in the measuring phase";
    for (metric, measurement) in &summary.runs[0].metrics {
        match metric {
            Metric::OomKills => assert_eq!(measurement.as_ref().unwrap().measured, 0.0),
            Metric::RequestErrors => {
                let errors = measurement.as_ref().unwrap();
                assert_near(errors.measured, 28_400.0 / 30_000.0, 1e-12);
                assert_eq!((errors.low, errors.high), (errors.measured, errors.measured), "a fact has no interval");
                assert_eq!(errors.remark, end);
            }
            _ => assert_eq!(measurement.as_ref().unwrap_err().reason, end, "{metric}"),
        }
    }
    assert_eq!(summary.notes, [format!("run 1: {end}")]);
}

#[test]
fn the_phase_of_an_early_end_is_named() {
    let mut run = healthy(1);
    for (at_s, phase) in [(0, "before the load"), (5, "in the warm-up"), (72, "in the drain")] {
        run.ending = Ending::Exited { code: 2, at_ns: at_s * SECOND };
        let expected = format!("the service exited with code 2 {at_s}.0 s after launch, {phase}");
        assert_eq!(reason(&run, Metric::RssPeak), expected);
    }
    run.ending = Ending::Ended { at_ns: 5 * SECOND };
    assert_eq!(reason(&run, Metric::RssPeak), "the service ended 5.0 s after launch, in the warm-up");
    run.ending = Ending::Killed { after_ms: 5_000 };
    assert!(figure(&run, Metric::RssPeak).is_ok(), "it lived through every phase");
}

#[test]
fn missing_and_empty_phases_leave_no_figure() {
    let mut run = healthy(1);
    run.phases.drain = None;
    assert_eq!(reason(&run, Metric::GoroutinesLeaked), "the drain is missing in the evidence");
    assert!(figure(&run, Metric::GoroutinesMax).is_ok());
    run.phases.measure = Some(TimeSpan { start_ns: 5, end_ns: 4 });
    assert_eq!(reason(&run, Metric::RequestErrors), "the measuring phase has no length in the evidence");
    run.phases.measure = None;
    assert_eq!(reason(&run, Metric::GcPauseP99), "the measuring phase is missing in the evidence");
}

#[test]
fn a_phase_without_collections_has_no_pause_and_no_slope() {
    let mut run = healthy(1);
    run.signals.gc_pauses.data = Pauses::default();
    run.signals.live_heap.data = Series::default();
    run.signals.gc_cpu.data = Default::default();
    let without = [
        Metric::GcPauseP99,
        Metric::GcPauseP90,
        Metric::GcPauseMax,
        Metric::GcStwFraction,
        Metric::GcCycles,
        Metric::GcCpuFraction,
    ];
    for metric in without {
        assert_eq!(measured(&run, metric), 0.0, "{metric}");
    }
    let expected = "only 0 GC cycles in the measuring phase (no forced collections: it was not measured), and a slope needs 4: measure longer";
    assert_eq!(reason(&run, Metric::HeapLiveGrowth), expected);
    // Pauses without cycles, and cycles without pauses, are not believed.
    let mut half = healthy(1);
    half.signals.live_heap.data = Series::default();
    assert!(figure(&half, Metric::GcCycles).is_err() && figure(&half, Metric::GcPauseP99).is_ok());
    let mut half = healthy(1);
    half.signals.gc_pauses.data = Pauses::default();
    half.signals.gc_cpu.data = Default::default();
    assert!(figure(&half, Metric::GcPauseP99).is_err() && figure(&half, Metric::GcCpuFraction).is_err());
}

/// Pauses reveal that cycles are cut short, and the other way round. If a collector dies, both are cut short.
#[test]
fn pauses_and_cycles_cut_short_together_are_noticed() {
    let mut run = healthy(1);
    let pauses = &mut run.signals.gc_pauses.data;
    pauses.at_ns.truncate(400);
    pauses.duration_ns.truncate(400);
    let cycles = &mut run.signals.live_heap.data;
    cycles.at_ns.truncate(200);
    cycles.value.truncate(200);
    for (metric, what) in [(Metric::GcPauseP99, "GC pauses"), (Metric::GcCycles, "live-heap readings")] {
        let expected = format!("there are no {what} for 30.2 s at one end of the measuring phase");
        assert!(reason(&run, metric).starts_with(&expected), "{}", reason(&run, metric));
    }
    assert!(figure(&run, Metric::HeapLiveGrowth).is_err() && figure(&run, Metric::GcStwFraction).is_err());
}

#[test]
fn goroutines_first_counted_under_load_tell_nothing_of_leaks() {
    let mut run = healthy(1);
    let counts = &mut run.signals.goroutines.data;
    let under_load = counts.at_ns.partition_point(|&at| at <= WARMUP.start_ns);
    counts.at_ns.drain(..under_load);
    counts.value.drain(..under_load);
    assert_eq!(reason(&run, Metric::GoroutinesLeaked), "the goroutine counts begin after the load");
}

#[test]
fn few_collections_have_no_slope_and_the_reason_helps() {
    let mut run = healthy(1);
    run.signals.live_heap.data = every(25 * SECOND, |_| 20_000_000);
    let at_ns = run.signals.live_heap.data.at_ns.clone();
    run.signals.gc_pauses.data = Pauses { duration_ns: vec![50_000; at_ns.len()], at_ns };
    let expected = "only 2 GC cycles in the measuring phase (no forced collections: it was not measured), and a slope needs 4: measure longer";
    assert_eq!(reason(&run, Metric::HeapLiveGrowth), expected);
}

#[test]
fn a_load_command_has_no_figures_per_request() {
    let mut run = healthy(1);
    run.signals.requests.data = Default::default();
    run.signals.requests.exactness = Exactness::Missing { reason: "the load is a command.".to_owned() };
    for metric in [Metric::AllocBytesPerRequest, Metric::RequestLatencyP99, Metric::RequestErrors] {
        assert_eq!(reason(&run, metric), "no requests: the load is a command", "{metric}");
    }
    assert!(figure(&run, Metric::HeapAllocRate).is_ok());
}

#[test]
fn nothing_completed_and_nothing_intended_leave_no_ratio() {
    let mut run = healthy(1);
    run.signals.requests.data.completed.value.fill(0);
    let failed = [("timeout".to_owned(), 30_000)].into();
    run.signals.requests.data.measure = RequestCounts { intended: 30_000, succeeded: 0, failed };
    let expected = "no request was completed in the measuring phase";
    assert_eq!(reason(&run, Metric::AllocsPerRequest), expected);
    run.signals.requests.data.measure = RequestCounts::default();
    assert_eq!(reason(&run, Metric::RequestErrors), "no request was intended in the measuring phase");
}

#[test]
fn degrees_of_trust_have_their_names_of_the_json() {
    for trust in Trust::ALL {
        assert_eq!(serde_json::to_value(trust).unwrap(), trust.name());
    }
}

#[test]
fn runs_are_sorted_and_pooled() {
    let mut third = healthy(3);
    third.signals.oom_kills.data = 2;
    third.signals.rss_peak.data = 70_000_000;
    third.notes = vec!["no memory controller".to_owned()];
    let mut second = healthy(2);
    second.notes = third.notes.clone();
    let summary = summarise(&[third, healthy(1), second]).unwrap();
    assert_eq!(summary.runs.iter().map(|run| run.run).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(summary.notes, ["no memory controller"], "each once");
    let pooled = |metric| summary.pooled(metric).unwrap();
    assert_eq!(pooled(Metric::OomKills).measured, 2.0);
    assert_eq!(pooled(Metric::RssPeak).measured, (70_000_000.0 + 2.0 * 50_060_000.0) / 3.0);
    assert_eq!(pooled(Metric::RssPeak).interval(), (50_060_000.0, 70_000_000.0));
    assert_eq!(pooled(Metric::GcPauseP99).n, 3 * 600);
    assert_eq!(pooled(Metric::RequestErrors).n, 90_000);
    let of_first = summary.runs[0].metrics[&Metric::RssGrowth].clone().unwrap();
    let together = pooled(Metric::RssGrowth);
    let (low, high) = together.interval();
    assert!(high - low < of_first.high - of_first.low, "three runs know more than one");
}

#[test]
fn what_one_run_lacks_the_runs_together_lack() {
    let mut second = healthy(2);
    second.signals.rss.lost = 3;
    let summary = summarise(&[healthy(1), second]).unwrap();
    let reason = summary.pooled(Metric::RssGrowth).unwrap_err().reason;
    assert_eq!(reason, "run 2: 3 records were lost of the resident-set samples");
    assert!(summary.runs[0].metrics[&Metric::RssGrowth].is_ok());
}

#[test]
fn evidence_that_does_not_belong_together_is_refused() {
    let message = |other: Evidence| summarise(&[healthy(1), other]).unwrap_err().message;
    assert!(summarise(&[]).is_err());
    assert_eq!(message(healthy(1)), "two runs of `uaa` on linux/amd64 have the number 1");
    let mut other = healthy(2);
    other.environment.page_size = 16_384;
    assert!(message(other).starts_with("run 1 has the page size `4096` and run 2 has `16384`"));
    let mut other = healthy(2);
    other.service = "api".to_owned();
    assert!(message(other).starts_with("run 1 has the service `uaa` and run 2 has `api`"));
}

#[test]
fn pauses_from_buckets_may_be_a_quarter_lower_and_are_never_higher() {
    let mut run = healthy(1);
    let exact = summarise(std::slice::from_ref(&run)).unwrap();
    run.signals.gc_pauses.exactness = Exactness::Bucketed;
    let bucketed = summarise(std::slice::from_ref(&run)).unwrap();
    for metric in [Metric::GcPauseP99, Metric::GcPauseMax, Metric::GcStwFraction] {
        let [exact, bucketed] = [&exact, &bucketed].map(|summary| summary.runs[0].metrics[&metric].clone().unwrap());
        assert_eq!((exact.measured, exact.high), (bucketed.measured, bucketed.high), "{metric}");
        assert!((bucketed.low * 1.25 - exact.low).abs() < 1e-6 * exact.low, "{metric}");
        assert!(bucketed.remark.contains("from buckets"), "{metric}: {}", bucketed.remark);
    }
}
