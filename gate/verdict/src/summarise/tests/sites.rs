//! Call sites and flame graphs from made-up profiles.

use memgate_evidence::{
    AllocSamples, Code, Frame, GoroutineSites, HeapProfile, Language, OffHeapSites, Signal, Signals,
};
use proptest::prelude::*;

use super::*;

const RATE: u64 = 512 * 1024;

fn frame(function: &str, file: &str, line: u32, language: Language) -> Frame {
    Frame { function: function.to_owned(), file: file.to_owned(), line, inlined: false, language }
}

/// 0: a map's growth in `put`; 1: the same function by another way; 2: the standard library below a handler; 3: C.
fn code() -> Code {
    use Language::{Go, Native};
    Code {
        frames: vec![
            frame("runtime.mallocgc", "/go/src/runtime/malloc.go", 1100, Go),
            frame("uaa/store.(*Store).put", "/src/uaa/store/store.go", 42, Go),
            frame("main.login", "/src/uaa/main.go", 17, Go),
            frame("main.logout", "/src/uaa/main.go", 27, Go),
            frame("bytes.growSlice", "/go/src/bytes/buffer.go", 249, Go),
            frame("__libc_malloc", "", 0, Native),
            frame("leak", "", 0, Native),
            frame("_cgo_7e0d_Cfunc_leak", "", 0, Native),
            frame("runtime.cgocall", "/go/src/runtime/cgocall.go", 160, Go),
            frame("main._Cfunc_leak", "_cgo_gotypes.go", 50, Go),
            frame("main.work", "/src/uaa/pool.go", 20, Go),
        ],
        stacks: vec![vec![0, 1, 2], vec![0, 1, 3], vec![0, 4, 2], vec![5, 6, 7, 8, 9, 2], vec![2], vec![10]],
    }
}

/// A run whose live heap grew by `new` sampled objects of 1 KiB at stack 0, and shrank at stack 2.
fn profiled(run: u32, new: u64) -> Evidence {
    let mut evidence = healthy(run);
    evidence.code = code();
    evidence.signals.heap_profile = exact(HeapProfile {
        rate: RATE,
        size: vec![1024, 1024, 64],
        stack: vec![0, 1, 2],
        allocs_start: vec![10, 5, 100],
        frees_start: vec![0, 5, 50],
        allocs_end: vec![10 + new, 6, 200],
        frees_end: vec![0, 5, 160],
    });
    evidence.signals.goroutine_sites = exact(GoroutineSites {
        created: vec![4, 0],
        started: vec![5, 5],
        before: vec![1, 7],
        loaded: vec![41, 7],
        left: vec![4, 6],
        young: vec![4, 0],
    });
    evidence.signals.offheap_sites =
        exact(OffHeapSites { stack: vec![3, 99], start_bytes: vec![4096, 0], end_bytes: vec![8192, 1024] });
    evidence
}

fn sites(runs: &[Evidence], metric: Metric) -> Vec<Site> {
    summarise(runs).unwrap().sites.remove(&metric).unwrap_or_default()
}

/// What a sampled object of 1 KiB represents.
fn kib() -> f64 {
    1024.0 / (1.0 - (-1024.0 / RATE as f64).exp())
}

#[test]
fn growth_of_the_live_heap_is_named_by_the_code_that_keeps_it() {
    let sites = sites(&[profiled(1, 36)], Metric::HeapLiveGrowth);
    // The same place with two callers is one site; a stack that shrank is none.
    let [site] = &sites[..] else { panic!("{sites:#?}") };
    assert_eq!((site.at.function.as_str(), site.at.line), ("uaa/store.(*Store).put", 42));
    assert_eq!(site.own.as_ref(), Some(&site.at));
    assert_near(site.amount, 37.0 * kib(), 1e-12);
    assert_eq!((site.kind, site.unit, site.share, site.samples), (SiteKind::Heap, Unit::Bytes, 1.0, Some(37)));
    // For objects much smaller than the rate, n samples have an error of 2/√n.
    assert_near(site.error.unwrap(), 2.0 / 37f64.sqrt(), 1e-3);
}

#[test]
fn what_lives_all_along_does_not_blur_the_growth() {
    let mut run = profiled(1, 36);
    let profile = &mut run.signals.heap_profile.data;
    for column in [&mut profile.allocs_start, &mut profile.allocs_end] {
        column[0] += 1_000_000;
    }
    assert_eq!(sites(&[run], Metric::HeapLiveGrowth), sites(&[profiled(1, 36)], Metric::HeapLiveGrowth));
}

#[test]
fn what_comes_and_goes_blurs_the_growth() {
    let mut run = healthy(1);
    run.code = code();
    run.signals.heap_profile = exact(HeapProfile {
        rate: RATE,
        size: vec![1024],
        stack: vec![0],
        allocs_start: vec![100],
        frees_start: vec![0],
        allocs_end: vec![1_000],
        frees_end: vec![890],
    });
    let site = &sites(&[run], Metric::HeapLiveGrowth)[0];
    // 110 live objects that may all be new, and 100 that may all have gone: 10 ± 2·√210.
    assert_eq!(site.samples, Some(210));
    assert_near(site.error.unwrap(), 2.0 * 210f64.sqrt() / 10.0, 2e-3);
}

#[test]
fn several_runs_are_summed_and_know_more() {
    let runs = [profiled(1, 36), profiled(2, 71)];
    let [site] = &sites(&runs, Metric::HeapLiveGrowth)[..] else { panic!() };
    assert_near(site.amount, 109.0 * kib(), 1e-12);
    assert_near(site.error.unwrap(), 2.0 / 109f64.sqrt(), 1e-3);
    let summary = summarise(&runs).unwrap();
    let of_second = &summary.runs[1].sites[&Metric::HeapLiveGrowth];
    assert_near(of_second[0].amount, 72.0 * kib(), 1e-12);
}

#[test]
fn allocations_count_by_bytes_and_by_objects() {
    let bytes = sites(&[profiled(1, 36)], Metric::AllocBytesPerRequest);
    assert_eq!(bytes, sites(&[profiled(1, 36)], Metric::HeapAllocRate));
    let functions: Vec<&str> = bytes.iter().map(|site| site.at.function.as_str()).collect();
    // 100 samples of 64 bytes represent as much as 100 of 1 KiB, because the runtime samples by bytes.
    assert_eq!(functions, ["bytes.growSlice", "uaa/store.(*Store).put"]);
    assert_eq!(bytes[0].own.as_ref().unwrap().function, "main.login", "the service's own code is what can be changed");
    assert_near(bytes.iter().map(|site| site.share).sum(), 1.0, 1e-12);
    let objects = sites(&[profiled(1, 36)], Metric::AllocsPerRequest);
    assert_eq!(objects[0].unit, Unit::Count);
    assert_near(objects[0].amount, 100.0 / (1.0 - (-64.0 / RATE as f64).exp()), 1e-9);
    assert_near(objects[1].amount, 37.0 * kib() / 1024.0, 1e-12);
}

#[test]
fn without_a_heap_profile_single_samples_tell_what_allocates() {
    let mut run = profiled(1, 36);
    run.signals.heap_profile = Signal::default();
    assert_eq!(sites(&[run.clone()], Metric::HeapAllocRate), []);
    run.signals.alloc_samples = exact(AllocSamples {
        rate: RATE,
        goroutine: vec![1, 2],
        span_class: vec![10, 10],
        size: vec![1024, 1024],
        stack: vec![0, 1],
        count: vec![4, 5],
    });
    let [site] = &sites(&[run.clone()], Metric::HeapAllocRate)[..] else { panic!() };
    assert_near(site.amount, 9.0 * kib(), 1e-12);
    assert_eq!(sites(&[run], Metric::HeapLiveGrowth), [], "samples do not tell what was freed");
}

#[test]
fn without_samples_the_heap_profile_tells_what_allocates() {
    let run = profiled(1, 36);
    let by_profile = sites(std::slice::from_ref(&run), Metric::HeapAllocRate);
    assert_ne!(by_profile, []);
    let mut without = run;
    without.signals.alloc_samples = exact(AllocSamples::default());
    assert_eq!(sites(&[without], Metric::HeapAllocRate), by_profile, "a rate of 0 samples nothing");
}

#[test]
fn goroutines_are_named_by_the_statement_that_starts_them() {
    let at = |metric| {
        let sites = sites(&[profiled(1, 36)], metric);
        let [site] = &sites[..] else { panic!("{sites:#?}") };
        assert_eq!((site.at.function.as_str(), site.at.line, site.samples), ("main.login", 17, None));
        assert_eq!(site.starts.as_deref(), Some("main.work"));
        site.amount
    };
    assert_eq!((at(Metric::GoroutinesMax), at(Metric::GoroutinesLeaked)), (40.0, 3.0));
}

#[test]
fn off_heap_memory_is_named_by_the_c_function_and_the_go_code_that_calls_it() {
    let sites = sites(&[profiled(1, 36)], Metric::OffheapGrowth);
    let [leak, unknown] = &sites[..] else { panic!("{sites:#?}") };
    assert_eq!((leak.at.function.as_str(), leak.amount), ("leak", 4096.0));
    assert_eq!(leak.own.as_ref().unwrap().function, "main.login");
    assert_eq!((unknown.at.function.as_str(), unknown.own.as_ref()), ("unknown", None), "it is not left out");
    assert_eq!((leak.share, unknown.share), (0.8, 0.2));
}

#[test]
fn the_resident_set_is_made_of_both() {
    let kinds: Vec<_> =
        sites(&[profiled(1, 36)], Metric::RssGrowth).iter().map(|site| (site.kind, site.at.function.clone())).collect();
    let expected =
        [(SiteKind::Heap, "uaa/store.(*Store).put"), (SiteKind::OffHeap, "leak"), (SiteKind::OffHeap, "unknown")];
    assert_eq!(kinds, expected.map(|(kind, function)| (kind, function.to_owned())));
}

#[test]
fn what_contradicts_itself_is_left_out_and_told() {
    let mut run = profiled(1, 36);
    run.signals.heap_profile.data.frees_end[0] = 1_000;
    run.signals.goroutine_sites.data.left.pop();
    let summary = summarise(&[run]).unwrap();
    assert_eq!(
        summary.notes,
        [
            "run 1: live heap by code: 1 rows contradict themselves and are left out",
            "run 1: goroutines by `go` statement: the columns of the goroutines by `go` statement differ in length"
        ]
    );
    assert!(!summary.sites.contains_key(&Metric::GoroutinesMax));
}

#[test]
fn the_worst_run_says_how_far_a_signal_can_be_trusted() {
    let (first, mut second) = (profiled(1, 36), profiled(2, 36));
    second.tier = Tier::T1;
    second.signals.gc_pauses.lost = 2;
    second.signals.rss.exactness = Exactness::Missing { reason: "proc is hidden.".to_owned() };
    second.signals.rss.source = "statm".to_owned();
    let summary = summarise(&[first, second]).unwrap();
    assert_eq!(summary.tier, Tier::T1);
    let note = |name: &str| summary.signals.iter().find(|note| note.name == name).unwrap();
    let expected = ("statm", Trust::Missing, Some("proc is hidden"));
    assert_eq!((note("rss").source.as_str(), note("rss").exactness, note("rss").reason.as_deref()), expected);
    let pauses = note("gc_pauses");
    assert_eq!(
        (pauses.exactness, pauses.lost, pauses.reason.as_deref()),
        (Trust::Inexact, 2, Some("2 records were lost"))
    );
    assert_eq!(note("heap_profile").exactness, Trust::Exact);
    assert_eq!(summary.signals.len(), serde_json::to_value(Signals::default()).unwrap().as_object().unwrap().len());
}

#[test]
fn flame_graphs_have_the_root_first_and_whole_bytes() {
    let mut run = profiled(1, 36);
    run.code.frames[1].inlined = true;
    run.code.frames[2].function = "main.a;b c\n\u{202e}".to_owned();
    let made = flame_graphs(&[run]);
    assert_eq!(made.notes, [""; 0]);
    let lines = |graph: Graph| made.graphs.iter().find(|made| made.graph == graph).unwrap().folded.clone();
    let growth = format!(
        "main.a:b_c_\u{fffd};uaa/store.(*Store).put_[i];runtime.mallocgc {:.0}\nmain.logout;uaa/store.(*Store).put_[i];runtime.mallocgc {:.0}\n",
        36.0 * kib(),
        kib()
    );
    assert_eq!(lines(Graph::LiveGrowth), growth);
    let c = "main.a:b_c_\u{fffd};main._Cfunc_leak;runtime.cgocall;_cgo_7e0d_Cfunc_leak;leak;__libc_malloc";
    assert_eq!(lines(Graph::OffheapGrowth), format!("{c} 4096\nunknown 1024\n"));
    assert_eq!(lines(Graph::Alloc).lines().count(), 3);
}

#[test]
fn a_difference_shows_what_grew_and_what_vanished() {
    let mut change = profiled(1, 36);
    for frame in change.code.frames.iter_mut().filter(|frame| frame.function == "main.logout") {
        frame.function = "main.signOut".to_owned();
    }
    let made = difference_graphs(&[change], &[profiled(1, 6), profiled(2, 6)]);
    assert_eq!(made.notes, [""; 0]);
    let growth = made.graphs.iter().find(|made| made.graph == Graph::LiveGrowth).unwrap();
    let stack = "uaa/store.(*Store).put;runtime.mallocgc";
    let expected = format!(
        "less;main.logout;{stack} {one:.0}\nmore;main.login;{stack} {more:.0}\nmore;main.signOut;{stack} {one:.0}\n",
        one = kib(),
        more = 30.0 * kib()
    );
    assert_eq!(growth.folded, expected);
    // What both have alike is no difference, whatever the numbers of runs are.
    assert!(made.graphs.iter().all(|made| made.graph != Graph::OffheapGrowth));
    assert_eq!(difference_graphs(&[profiled(1, 3)], &[profiled(1, 3), profiled(2, 3)]), FlameGraphs::default());
    assert_eq!(difference_graphs(&[profiled(1, 3)], &[]), FlameGraphs::default());
}

#[test]
fn a_graph_of_nothing_is_none_and_only_what_was_to_be_measured_is_missed() {
    assert_eq!(flame_graphs(&[healthy(1)]), FlameGraphs::default());
    let mut run = profiled(1, 0);
    run.signals.offheap_sites = Signal {
        source: "tracepoints".to_owned(),
        exactness: Exactness::Missing { reason: "no tracefs".to_owned() },
        lost: 0,
        data: OffHeapSites::default(),
    };
    let made = flame_graphs(std::slice::from_ref(&run));
    let graphs: Vec<Graph> = made.graphs.iter().map(|made| made.graph).collect();
    assert_eq!(graphs, [Graph::Alloc, Graph::LiveGrowth]);
    assert_eq!(made.notes, ["no flame graph `offheap-growth`: no off-heap memory by code: no tracefs"]);
    let made = flame_graphs(&[run, profiled(2, 0)]);
    assert_eq!(made.graphs.len(), 3);
    let expected = "run 1 is not in the flame graph `offheap-growth`: no off-heap memory by code: no tracefs";
    assert_eq!(made.notes, [expected]);
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..50u64, 2 => any::<u64>(), 1 => Just(u64::MAX)]
}

fn rows() -> impl Strategy<Value = Vec<u64>> {
    prop_oneof![8 => prop::collection::vec(number(), 6), 1 => prop::collection::vec(number(), 0..9)]
}

fn indices() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(prop_oneof![8 => 0..6u32, 1 => any::<u32>()], 6)
}

prop_compose! {
    fn hostile(run: u32)(
        rate in number(),
        (heap, totals) in (prop::array::uniform3(rows()), any::<bool>()),
        (allocs_start, frees_start) in (rows(), rows()),
        (stack, created, started) in (indices(), indices(), indices()),
        (before, loaded, left) in (rows(), rows(), rows()),
        (stacks, functions) in (prop::collection::vec(prop::collection::vec(0..9u32, 0..5), 0..6), prop::collection::vec(any::<String>(), 0..7)),
    ) -> Evidence {
        let mut evidence = healthy(run);
        let language = |index: usize| if index.is_multiple_of(3) { Language::Native } else { Language::Go };
        let frames = functions.iter().enumerate().map(|(index, function)| frame(function, function, 1, language(index)));
        evidence.code = Code { frames: frames.collect(), stacks };
        let [size, more_allocs, more_frees] = heap;
        // Half of the profiles are valid: frees follow allocations, and totals grow.
        let sum = |a: &[u64], b: &[u64]| a.iter().zip(b).map(|(a, b)| a.saturating_add(*b)).collect::<Vec<u64>>();
        let least = |a: &[u64], b: &[u64]| a.iter().zip(b).map(|(a, b)| *a.min(b)).collect::<Vec<u64>>();
        let profile = if totals {
            let frees_start = least(&frees_start, &allocs_start);
            let allocs_end = sum(&allocs_start, &more_allocs);
            let frees_end = sum(&frees_start, &least(&more_frees, &more_allocs));
            HeapProfile { rate, size, stack: stack.clone(), allocs_start, frees_start, allocs_end, frees_end }
        } else {
            HeapProfile { rate, size, stack: stack.clone(), allocs_start, frees_start, allocs_end: more_allocs, frees_end: more_frees }
        };
        evidence.signals.alloc_samples = exact(AllocSamples {
            rate,
            size: profile.size.clone(),
            stack: profile.stack.clone(),
            count: profile.allocs_end.clone(),
            ..AllocSamples::default()
        });
        if !rate.is_multiple_of(4) {
            evidence.signals.heap_profile = exact(profile);
        }
        evidence.signals.offheap_sites = exact(OffHeapSites { stack, start_bytes: before.clone(), end_bytes: left.clone() });
        evidence.signals.goroutine_sites = exact(GoroutineSites { created, started, before, loaded, young: left.clone(), left });
        evidence
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn no_profile_gives_a_figure_that_cannot_be(first in hostile(1), second in hostile(2)) {
        let runs = [first, second];
        let summary = summarise(&runs).unwrap();
        for (metric, sites) in summary.runs.iter().map(|run| &run.sites).chain([&summary.sites]).flatten() {
            prop_assert!(sites.is_sorted_by(|one, next| one.amount >= next.amount), "{}", metric);
            for site in sites {
                prop_assert!(site.amount.is_finite() && site.amount > 0.0, "{}: {:?}", metric, site);
                prop_assert!(site.share > 0.0 && site.share <= 1.0 + 1e-12, "{}: {:?}", metric, site);
                prop_assert!(site.error.is_none_or(|error| error.is_finite() && error >= 0.0), "{}: {:?}", metric, site);
                prop_assert!(!site.at.function.is_empty());
            }
        }
        for graph in flame_graphs(&runs).graphs {
            for line in graph.folded.lines() {
                let (stack, bytes) = line.rsplit_once(' ').unwrap();
                prop_assert!(!stack.chars().any(|c| c.is_control() || c.is_whitespace()) && !stack.is_empty());
                prop_assert!(bytes.parse::<u64>().unwrap() > 0);
            }
        }
    }
}
