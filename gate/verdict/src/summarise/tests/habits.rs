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

/// A heap of 200 MB, below its goal, of which 100 MB have been touched when the phase begins. 500 kB a second more are.
#[test]
fn a_heap_whose_pages_get_resident_one_by_one_does_not_grow() {
    let mut run = healthy(1);
    run.signals.go_memory.data.heap_in_use.fill(200_000_000);
    run.signals.go_memory.data.heap_goal.fill(220_000_000);
    let touched = |at: u64| 100_000_000 + into_phase(at) / 2_000;
    run.signals.rss_kinds.data.anonymous = every(SECOND / 10, touched).value;
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

/// Without off-heap figures memgate does not know what other processes have, so that all of it counts.
#[test]
fn anonymous_memory_of_other_processes_counts() {
    let mut run = healthy(1);
    run.signals.offheap.exactness = Exactness::Inexact { reason: "other processes".to_owned() };
    run.signals.rss_kinds.data.anonymous = every(SECOND / 10, |at| 40_000_000 + at / 20_000).value;
    assert_near(growth(&run, Metric::RssAnonGrowth).measured, 3e6, 0.02);
}

#[test]
fn a_table_that_is_loaded_once_is_no_leak_if_nothing_follows() {
    let mut random = Random(1);
    let run = with_heap(|at| 500_000 + random.below(20_000) + if into_phase(at) >= 31 * SECOND { 10_000_000 } else { 0 });
    let estimate = growth(&run, Metric::HeapLiveGrowth);
    assert!(estimate.low < 0.1e6 && estimate.high < 0.5e6, "{estimate:?}");
    assert_eq!(estimate.remark, "one step of 10MB, 31 s into the measuring phase, and slope of what follows");
}

#[test]
fn a_step_late_in_the_phase_may_come_again() {
    let mut random = Random(1);
    let run = with_heap(|at| 500_000 + random.below(20_000) + if into_phase(at) >= 45 * SECOND { 10_000_000 } else { 0 });
    let estimate = growth(&run, Metric::HeapLiveGrowth);
    assert!(estimate.low <= 0.0 && estimate.measured < 0.5e6 && estimate.high > 9e6, "{estimate:?}");
    assert_eq!(estimate.remark, "one step of 10MB, 45 s into the measuring phase, which may come again");
}

#[test]
fn a_step_on_a_slope_hides_no_leak() {
    let mut random = Random(1);
    let step = |at: u64| if into_phase(at) >= 31 * SECOND { 30_000_000 } else { 0 };
    let run = with_heap(|at| 500_000 + random.below(20_000) + into_phase(at) / 20_000 + step(at));
    assert!(growth(&run, Metric::HeapLiveGrowth).low > 2.5e6);
}

/// A leak of 5 MB at once, every 10, 20 or 25 s.
#[test]
fn steps_that_come_again_are_a_leak() {
    for every_s in [10, 20, 25] {
        let mut random = Random(1);
        let run = with_heap(|at| 500_000 + random.below(20_000) + at / SECOND / every_s * 5_000_000);
        let estimate = growth(&run, Metric::HeapLiveGrowth);
        assert!(estimate.low > 1e6, "every {every_s} s: {estimate:?}");
    }
}

/// A job that holds 50 MB for one second in ten.
#[test]
fn what_a_job_holds_for_a_while_is_no_growth_and_hides_none() {
    let of = |leak: u64| {
        let mut random = Random(1);
        let mut run = with_heap(|_| 0);
        run.signals.live_heap.data = every(SECOND / 2, |at| {
            let job = if at / SECOND % 10 == 7 { 20_000_000 + random.below(30_000_000) } else { 0 };
            500_000 + random.below(20_000) + job + into_phase(at) / 60_000 * leak
        });
        growth(&run, Metric::HeapLiveGrowth)
    };
    let healthy = of(0);
    assert!(healthy.measured.abs() < 1e5 && healthy.high < 1e6, "{healthy:?}");
    assert_eq!(healthy.remark, "of the least live heap of each 5 s");
    let leak = of(1);
    assert_near(leak.measured, 1e6, 0.05);
    assert!(leak.low > 0.5e6, "{leak:?}");
}

/// The last cycle of a window ended after it. Its readings of the live heap are as good as any.
#[test]
fn readings_in_a_window_count_if_its_last_cycle_ended_late() {
    let mut run = with_heap(|_| 20_000_000);
    let in_windows = |at: u64| (6 * SECOND..10 * SECOND).contains(&at) || (70 * SECOND..74 * SECOND).contains(&at);
    let data = every(SECOND / 2, |at| 20_000_000 + at / 20_000);
    let kept = data.at_ns.iter().zip(&data.value).filter(|(at, _)| in_windows(**at));
    let (at_ns, value) = kept.map(|(at, value)| (*at, *value)).unzip();
    run.signals.live_heap.data = Series { at_ns, value };
    run.signals.gc_cpu.data = Default::default();
    let windows = [(6, 10), (70, 74)].map(|(from, to)| TimeSpan { start_ns: from * SECOND, end_ns: to * SECOND });
    run.signals.forced_collections = exact(memgate_evidence::ForcedCollections {
        period_ns: SECOND / 2,
        windows: windows.to_vec(),
        asked: vec![8, 8],
    });
    run.signals.forced_collections.exactness = Exactness::Inexact { reason: "a cycle had not ended".to_owned() };
    assert_near(measured(&run, Metric::HeapLiveGrowth), 3e6, 0.01);
    run.signals.forced_collections.exactness = Exactness::Missing { reason: "GOGC is off".to_owned() };
    assert!(reason(&run, Metric::HeapLiveGrowth).contains("GOGC is off"));
}

/// A run with these counts of descriptors and threads, from what came by a time.
fn with_counts(came: fn(u64) -> u64, closes: bool) -> Evidence {
    let mut run = healthy(1);
    let loaded = |at: u64| (WARMUP.start_ns..MEASURE.end_ns).contains(&at) || (!closes && at > WARMUP.start_ns);
    let count = |at: u64| 8 + if loaded(at) { 32 } else { 0 } + came(at);
    run.signals.fds.data = every(SECOND / 10, count);
    run.signals.threads.data = every(SECOND / 10, count);
    run
}

#[test]
fn descriptors_that_the_load_opens_once_are_not_leaked() {
    let of = |came: fn(u64) -> u64| measured(&with_counts(came, true), Metric::FdsLeaked);
    assert_eq!(of(|at| (at / SECOND * 4).min(36)), 0.0, "a pool that is full before the phase");
    assert_eq!(of(|at| (at / SECOND).min(40)), 0.0, "or in its first half");
    assert_eq!(of(|at| at / SECOND), 54.0, "one a second");
    assert_eq!(of(|at| at / SECOND / 8), 7.0, "one in eight seconds");
    assert_eq!(of(|at| into_phase(at) / SECOND / 5 * u64::from(at > 55 * SECOND)), 9.0, "late");
    let left_open = with_counts(|_| 0, false);
    assert_eq!(measured(&left_open, Metric::FdsLeaked), 32.0, "none is closed after the load");
}

#[test]
fn threads_that_the_load_starts_once_are_not_leaked() {
    let of = |came: fn(u64) -> u64| figure(&with_counts(came, false), Metric::ThreadsLeaked).unwrap();
    assert_eq!(of(|_| 0).measured, 0.0, "the runtime keeps those of blocking calls");
    let pool = of(|at| (at / SECOND).min(40));
    assert_eq!(pool.measured, 0.0);
    assert_eq!(pool.remark, "35 came and stayed in the first half of the measuring phase, and none in the second");
    assert_eq!(of(|at| at / SECOND).measured, 60.0);
}

/// 60 goroutines come and stay, by this time.
fn with_goroutines(came: fn(u64) -> u64) -> Estimate {
    let mut run = healthy(1);
    let mut random = Random(3);
    let loaded = |at: u64| (WARMUP.start_ns..MEASURE.end_ns).contains(&at);
    run.signals.goroutines.data =
        every(SECOND / 10, |at| 10 + if loaded(at) { 30 + random.below(5) } else { 0 } + came(into_phase(at)));
    run.signals.goroutine_sites = exact(memgate_evidence::GoroutineSites {
        created: vec![0],
        started: vec![0],
        before: vec![0],
        loaded: vec![60],
        left: vec![came(u64::MAX)],
        young: vec![came(u64::MAX)],
    });
    figure(&run, Metric::GoroutinesLeaked).unwrap()
}

#[test]
fn a_pool_that_is_full_in_the_first_half_of_the_phase_is_not_leaked() {
    let pool = with_goroutines(|at| (at / SECOND * 5).min(60));
    assert_eq!(pool.measured, 0.0);
    assert_eq!(pool.remark, "60 came and stayed in the first half of the measuring phase, and none in the second");
    assert_eq!(with_goroutines(|at| (at / SECOND).min(60)).measured, 60.0, "one a second is a leak");
    assert_eq!(with_goroutines(|at| (at / SECOND * 2).min(60) + (at / SECOND / 20).min(3)).measured, 63.0);
    assert_eq!(with_goroutines(|at| (at / SECOND).min(6)).measured, 6.0, "few may come early by chance");
}
