//! Habits of healthy services that resemble a leak, each beside the leak that it resembles.

use super::*;

/// Seconds into the measuring phase, not negative.
const fn into_phase(at: u64) -> u64 {
    at.saturating_sub(MEASURE.start_ns)
}

fn growth(run: &Evidence, metric: Metric) -> Estimate {
    figure(run, metric).unwrap()
}

/// A run whose live heap is this, read once a second.
fn with_heap(heap: impl FnMut(u64) -> u64) -> Evidence {
    let mut run = healthy(1);
    run.signals.gc_pauses.data = Pauses::default();
    run.signals.live_heap.data = every(SECOND, heap);
    run
}

/// A run after which this many goroutines of one `go` statement are left of the warm-up, and this many of the phase.
fn with_pool(run: u32, earlier: u64, in_phase: u64) -> Evidence {
    let mut run = healthy(run);
    *run.signals.goroutines.data.value.last_mut().unwrap() = 10 + earlier + in_phase;
    run.signals.goroutine_sites = exact(memgate_evidence::GoroutineSites {
        created: vec![0],
        started: vec![0],
        before: vec![0],
        loaded: vec![earlier + in_phase],
        left: vec![earlier + in_phase],
        young: vec![in_phase],
    });
    run
}

/// What the runs count as leaked, and whether more runs must tell.
fn leaked(runs: &[(u64, u64)]) -> Vec<(f64, bool)> {
    let runs: Vec<Evidence> =
        (1..).zip(runs).map(|(number, &(earlier, in_phase))| with_pool(number, earlier, in_phase)).collect();
    let figures = summarise(&runs).unwrap().runs;
    let figure = |run: &RunSummary| run.metrics[&Metric::GoroutinesLeaked].clone().unwrap();
    figures.iter().map(figure).map(|figure| (figure.measured, figure.may_be_pool)).collect()
}

/// A client that keeps up to four connections, and needs the last ones only when enough requests coincide.
#[test]
fn a_pool_that_is_full_in_one_run_may_still_fill_in_another() {
    assert_eq!(leaked(&[(3, 1), (4, 0), (2, 2)]), [(0.0, false); 3]);
    assert_eq!(leaked(&[(2, 2), (2, 2)]), [(2.0, true); 2], "more runs must tell");
    assert_eq!(leaked(&[(3, 6), (3, 6)]), [(6.0, false); 2], "it comes as steadily as the requests");
}

/// Descriptors of a pool in two runs: those of the warm-up, and those of the phase. The load has 32 connections.
#[test]
fn a_pool_of_descriptors_may_still_fill_too() {
    let run = |number: u32, earlier: u64, in_phase: u64| {
        let mut run = healthy(number);
        run.signals.fds.data = every(SECOND / 10, |at| {
            let of_load = if (WARMUP.start_ns..=MEASURE.end_ns).contains(&at) { 32 } else { 0 };
            let came = if at > WARMUP.start_ns + SECOND { earlier } else { 0 };
            8 + of_load + came + if at > 40 * SECOND { in_phase } else { 0 }
        });
        run
    };
    let leaked = |runs: [(u64, u64); 2]| -> f64 {
        let runs: Vec<_> =
            (1..).zip(runs).map(|(number, (earlier, in_phase))| run(number, earlier, in_phase)).collect();
        summarise(&runs).unwrap().runs.iter().map(|run| run.metrics[&Metric::FdsLeaked].clone().unwrap().measured).sum()
    };
    assert_eq!(leaked([(20, 4), (24, 0)]), 0.0);
    assert_eq!(leaked([(10, 60), (10, 60)]), 120.0);
}

/// A job three times a minute holds 20 MB for half a second, in which the GC has three cycles. Besides, it has one in 3 s.
#[test]
fn what_a_job_holds_hides_nothing_either_where_cycles_are_few() {
    let jobs = |at: u64| matches!(at / (SECOND / 2), 39..=41 | 79..=81 | 119..=121);
    let own: Vec<u64> =
        (20..140).map(|half| half * SECOND / 2).filter(|at| jobs(*at) || (*at / SECOND).is_multiple_of(3)).collect();
    let of = |leak: u64| {
        let mut random = Random(1);
        growth(
            &with_few_cycles(&own, |at| {
                let job = if jobs(at) { 2_000_000 + random.below(18_000_000) } else { 0 };
                330_000 + random.below(20_000) + job + into_phase(at) / 60_000 * leak
            }),
            Metric::HeapLiveGrowth,
        )
    };
    let healthy = of(0);
    assert!(healthy.measured.abs() < 5e4 && healthy.high < 1e5, "{healthy:?}");
    assert!(healthy.remark.ends_with("from the least live heap of each 5 s or more"), "{healthy:?}");
    let leak = of(1);
    assert_near(leak.measured, 1e6, 0.05);
    assert!(leak.low > 0.8e6, "{leak:?}");
}

/// A heap of 200 MB, below its goal, of which 100 MB have been touched when the phase begins. 500 kB a second more are.
#[test]
fn a_heap_whose_pages_get_resident_one_by_one_does_not_grow() {
    let mut run = healthy(1);
    run.signals.go_memory.data.heap_in_use.fill(200_000_000);
    run.signals.go_memory.data.heap_goal.fill(220_000_000);
    let touched = |at: u64| 100_000_000 + into_phase(at) / 2_000;
    let kinds = &mut run.signals.rss_kinds.data;
    kinds.anonymous = every(SECOND / 10, touched).value;
    let (file, shared) = (kinds.file[0], kinds.shared[0]);
    run.signals.rss.data = every(SECOND / 10, |at| touched(at) + file + shared);
    run.signals.rss_peak.data = 200_000_000;
    let cgroup = &mut run.signals.cgroup_memory.data;
    cgroup.anon = every(SECOND / 10, touched).value;
    cgroup.current = every(SECOND / 10, |at| 20_000_000 + touched(at)).value;
    for metric in [Metric::RssAnonGrowth, Metric::CgroupGrowth] {
        let estimate = growth(&run, metric);
        assert!(estimate.measured.abs() < 1e4 && estimate.high < 1e5, "{metric}: {estimate:?}");
    }
    // Off-heap memory and stacks are no heap, whatever was touched of the heap.
    run.signals.offheap.data = every(SECOND / 2, |at| 4_000_000 + at / 20_000);
    for metric in [Metric::RssAnonGrowth, Metric::CgroupGrowth] {
        assert_near(growth(&run, metric).measured, 3e6, 0.02);
    }
    run.signals.go_memory.data.stacks = every(SECOND / 10, |at| 1_000_000 + at / 20_000).value;
    assert_near(growth(&run, Metric::RssAnonGrowth).measured, 6e6, 0.02);
    // What the kernel has and no process is charged too.
    run.signals.cgroup_memory.data.current = every(SECOND / 10, |at| 20_000_000 + touched(at) + at / 20_000).value;
    assert_near(growth(&run, Metric::CgroupGrowth).measured, 9e6, 0.02);
}

/// memgate's collections before the phase make the runtime return 8 MB. The service touches them again in so many
/// seconds: a starved one takes the whole phase.
#[test]
fn a_heap_that_fills_up_again_to_what_it_was_does_not_grow() {
    let of = |fills_in: u64, leak_per_minute: u64, goal: u64| {
        let mut run = healthy(1);
        let heap = |at: u64| {
            let touched_again = (into_phase(at) / fills_in * 8 / 1000).min(8_000_000);
            let returned = if at < MEASURE.start_ns - SECOND { 0 } else { 8_000_000 - touched_again };
            30_000_000 - returned + into_phase(at) / 60 * leak_per_minute / SECOND
        };
        run.signals.go_memory.data.heap_in_use = every(SECOND / 10, heap).value;
        run.signals.go_memory.data.heap_free.fill(0);
        run.signals.go_memory.data.heap_goal.fill(goal);
        run.signals.rss.data = every(SECOND / 10, |at| heap(at) + 10_000_000);
        growth(&run, Metric::RssGrowth)
    };
    let starved = of(60, 0, 32_000_000);
    assert!(starved.measured.abs() < 1e4 && starved.high < 1e5, "{starved:?}");
    let leak = of(5, 12_000_000, 32_000_000);
    assert!(leak.low > 4e6 && leak.measured > 11e6, "{leak:?}");
    // The start needed more than the goal of the work after it, and the heap may not have that again for nothing.
    let beyond = of(60, 0, 17_000_000);
    assert!(beyond.low > 3e6 && beyond.measured > 7e6, "{beyond:?}");
}

/// Without off-heap figures memgate does not know what other processes have, so that all of it counts.
#[test]
fn anonymous_memory_of_other_processes_counts() {
    let mut run = healthy(1);
    run.signals.offheap.exactness = Exactness::Inexact { reason: "other processes".to_owned() };
    run.signals.rss_kinds.data.anonymous = every(SECOND / 10, |at| 40_000_000 + at / 20_000).value;
    assert_near(growth(&run, Metric::RssAnonGrowth).measured, 3e6, 0.02);
}

/// A process that gets to work takes some stacks and pages more, which would be a growth of 5 MB a minute in 3 s.
#[test]
fn a_rise_by_little_in_the_whole_phase_may_be_none() {
    let of = |per_minute: u64| {
        let mut run = healthy(1);
        let risen = |at: u64| 40_000_000 + into_phase(at) * per_minute / (60 * SECOND);
        run.signals.go_memory.exactness = Exactness::Missing { reason: "another runtime".to_owned() };
        run.signals.rss_kinds.data.anonymous = every(SECOND / 10, risen).value;
        run.signals.rss.data = every(SECOND / 10, risen);
        [Metric::RssAnonGrowth, Metric::RssGrowth].map(|metric| growth(&run, metric))
    };
    for estimate in of(240_000) {
        assert_near(estimate.measured, 240e3, 0.02);
        assert!(estimate.low <= 0.0 && estimate.high > 239e3 && estimate.needs_longer, "{estimate:?}");
        assert_eq!(estimate.remark, "it is only 234KiB in the whole phase");
    }
    for estimate in of(300_000) {
        assert!(estimate.low > 250e3 && !estimate.needs_longer && estimate.remark.is_empty(), "{estimate:?}");
    }
}

/// A job of 3 s in ten, in which everything is allocated. Collections come with it, and none for half of the phase is none
/// too few.
#[test]
fn collections_that_come_in_bursts_are_not_missing() {
    let mut run = healthy(1);
    let in_job = |at: u64| (24..27).contains(&(into_phase(at) / SECOND));
    let mut total = 1_000_000;
    let allocating = |at: u64| {
        total += if in_job(at) { 50_000_000 } else { 1_000 };
        total
    };
    run.signals.alloc_bytes.data = every(SECOND / 5, allocating);
    let cycles: Vec<(u64, u64)> =
        run.signals.live_heap.data.at_ns.iter().copied().zip(run.signals.live_heap.data.value.clone()).collect();
    let kept: Vec<(u64, u64)> = cycles.into_iter().filter(|(at, _)| in_job(*at) && *at >= MEASURE.start_ns).collect();
    assert!(kept.len() >= 10, "{}", kept.len());
    run.signals.live_heap.data.at_ns = kept.iter().map(|(at, _)| *at).collect();
    run.signals.live_heap.data.value = kept.iter().map(|(_, value)| *value).collect();
    run.signals.gc_pauses.data = Pauses::default();
    assert!(figure(&run, Metric::HeapLiveGrowth).is_ok(), "{}", reason(&run, Metric::HeapLiveGrowth));
    // The same collections, while the service allocates all along.
    run.signals.alloc_bytes.data = every(SECOND / 5, |at| 1_000_000 + at / 100);
    let reason = reason(&run, Metric::HeapLiveGrowth);
    assert!(reason.starts_with("there are no live-heap readings for "), "{reason}");
}

fn with_steps(bytes: u64, steps: impl Fn(u64) -> u64) -> Estimate {
    let mut random = Random(1);
    growth(&with_heap(|at| 500_000 + random.below(20_000) + steps(at) * bytes), Metric::HeapLiveGrowth)
}

/// Another one may follow the phase.
#[test]
fn a_single_rise_in_the_second_half_is_a_doubt() {
    for second in 31..=55 {
        let estimate = with_steps(10_000_000, |at| u64::from(into_phase(at) >= second * SECOND));
        assert!(estimate.low <= 0.0 && estimate.high > 9e6, "at {second} s: {estimate:?}");
    }
    let late = with_steps(10_000_000, |at| u64::from(into_phase(at) >= 52 * SECOND));
    assert_eq!(late.remark, "it rose by 9.52MiB 52 s into the measuring phase and stayed, which may come again");
}

/// Such as a cache that fills in the first half.
#[test]
fn a_late_rise_is_a_doubt_after_growth_that_slowed_down() {
    let estimate =
        with_steps(1_000_000, |at| (into_phase(at) / SECOND).min(20) + u64::from(into_phase(at) >= 55 * SECOND) * 10);
    assert!(estimate.low <= 0.0 && estimate.high > 9e6, "{estimate:?}");
}

/// A leak of 5 MB at once, at least once in each half of the phase.
#[test]
fn steps_that_come_again_are_a_leak() {
    for every_s in [10, 20, 25, 29] {
        for offset in 0..every_s {
            let estimate = with_steps(5_000_000, |at| (at / SECOND + offset) / every_s);
            assert!(estimate.low > 1e6, "every {every_s} s, {offset} s earlier: {estimate:?}");
        }
    }
}

/// A job that holds up to 50 MB for three seconds in ten.
#[test]
fn what_a_job_holds_for_a_while_is_no_growth_and_hides_none() {
    let of = |leak: u64| {
        let mut random = Random(1);
        let mut run = with_heap(|_| 0);
        run.signals.live_heap.data = every(SECOND / 2, |at| {
            let job = if (6..9).contains(&(at / SECOND % 10)) { 20_000_000 + random.below(30_000_000) } else { 0 };
            500_000 + random.below(20_000) + job + into_phase(at) / 60_000 * leak
        });
        growth(&run, Metric::HeapLiveGrowth)
    };
    let healthy = of(0);
    assert!(healthy.measured.abs() < 1e5 && healthy.high < 1e6, "{healthy:?}");
    assert!(healthy.remark.ends_with("from the least live heap of each 5 s or more"), "{healthy:?}");
    let leak = of(1);
    assert_near(leak.measured, 1e6, 0.05);
    assert!(leak.low > 0.5e6, "{leak:?}");
}

/// A run with readings of the live heap in the two windows in which memgate asks for cycles, and at these own cycles.
fn with_few_cycles(own: &[u64], live: impl FnMut(u64) -> u64) -> Evidence {
    let mut run = healthy(1);
    let in_windows = |at: u64| (6 * SECOND..10 * SECOND).contains(&at) || (70 * SECOND..74 * SECOND).contains(&at);
    let data = every(SECOND / 2, live);
    let kept = data.at_ns.iter().zip(&data.value).filter(|(at, _)| in_windows(**at) || own.contains(*at));
    let (at_ns, value) = kept.map(|(at, value)| (*at, *value)).unzip();
    run.signals.live_heap.data = Series { at_ns, value };
    let at_ns = run.signals.live_heap.data.at_ns.clone();
    run.signals.gc_pauses.data = Pauses { duration_ns: vec![50_000; at_ns.len()], at_ns };
    run.signals.gc_cpu.data = Default::default();
    let windows = [(6, 10), (70, 74)].map(|(from, to)| TimeSpan { start_ns: from * SECOND, end_ns: to * SECOND });
    run.signals.forced_collections = exact(memgate_evidence::ForcedCollections {
        period_ns: SECOND / 2,
        windows: windows.to_vec(),
        asked: vec![8, 8],
    });
    run
}

/// The last cycle of a window ended after it. Its readings of the live heap are as good as any.
#[test]
fn readings_in_a_window_count_if_its_last_cycle_ended_late() {
    let mut run = with_few_cycles(&[30 * SECOND, 50 * SECOND], |at| 20_000_000 + at / 20_000);
    run.signals.forced_collections.exactness = Exactness::Inexact { reason: "a cycle had not ended".to_owned() };
    assert_near(measured(&run, Metric::HeapLiveGrowth), 3e6, 0.01);
    run.signals.forced_collections.exactness = Exactness::Missing { reason: "GOGC is off".to_owned() };
    assert!(reason(&run, Metric::HeapLiveGrowth).contains("GOGC is off"));
}

/// A service with little to do has no cycle of its own in a minute.
#[test]
fn readings_before_and_after_the_phase_suffice_for_a_slope() {
    let of = |bytes_per_minute: u64| {
        let mut random = Random(1);
        growth(
            &with_few_cycles(&[], |at| 280_000 + random.below(14_000) + at / 60_000 * bytes_per_minute / 1_000_000),
            Metric::HeapLiveGrowth,
        )
    };
    let healthy = of(0);
    assert!(healthy.measured.abs() < 1e4 && healthy.high < 1e5 && healthy.n == 16, "{healthy:?}");
    let leak = of(1_000_000);
    assert_near(leak.measured, 1e6, 0.03);
    assert!(leak.low > 0.9e6, "{leak:?}");
}

/// A run with these counts of descriptors and threads, from what came by a time.
fn with_counts(came: fn(u64) -> u64, closes: bool) -> Evidence {
    let mut run = healthy(1);
    let loaded = |at: u64| (WARMUP.start_ns..=MEASURE.end_ns).contains(&at) || (!closes && at > WARMUP.start_ns);
    let count = |at: u64| 8 + if loaded(at) { 32 } else { 0 } + came(at);
    run.signals.fds.data = every(SECOND / 10, count);
    run.signals.threads.data = every(SECOND / 10, count);
    run
}

#[test]
fn descriptors_that_the_load_opens_once_are_not_leaked() {
    let of = |came: fn(u64) -> u64| measured(&with_counts(came, true), Metric::FdsLeaked);
    assert_eq!(of(|at| (at / SECOND * 6).min(36)), 0.0, "a pool that is full before the phase");
    assert_eq!(of(|at| at / SECOND), 60.0, "one a second");
    assert_eq!(of(|at| at / SECOND / 8), 8.0, "one in eight seconds");
    for second in [1, 20, 40, 56] {
        let mut run = with_counts(|_| 0, true);
        let all_at_once = |at: u64| u64::from(into_phase(at) >= second * SECOND) * 40;
        for (at, count) in run.signals.fds.data.at_ns.iter().zip(&mut run.signals.fds.data.value) {
            *count += all_at_once(*at);
        }
        assert_eq!(measured(&run, Metric::FdsLeaked), 40.0, "all at once after {second} s");
    }
    let left_open = with_counts(|_| 0, false);
    assert_eq!(measured(&left_open, Metric::FdsLeaked), 32.0, "none is closed after the load");
}

#[test]
fn threads_that_the_load_starts_once_are_not_leaked() {
    let of = |came: fn(u64) -> u64| measured(&with_counts(came, false), Metric::ThreadsLeaked);
    assert_eq!(of(|_| 0), 0.0, "the runtime keeps those of blocking calls");
    assert_eq!(of(|at| at / SECOND), 68.0, "one a second");
    assert_eq!(of(|at| into_phase(at) / SECOND / 30 * 20), 40.0, "twenty at once, twice");
    assert_eq!(of(|at| u64::from(into_phase(at) >= 59 * SECOND) * 20), 20.0, "late");
}
