//! Faults for the evidence of a healthy run, as the runtime's own arithmetic would have recorded them.
//!
//! A fault changes what its gate reads and what follows from it without a guess. [`Fault`] says what is left out.

use memgate_evidence::{Evidence, Exactness, Frame, Language, Series, TimeSpan, platform::Runner};
use memgate_verdict::{
    metric::{Metric, Unit},
    units,
};

/// A fault of a service.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// The service keeps memory, evenly over the time of the load.
    ///
    /// The live heap grows, and so do the heap that is in use, the GC's goal, the resident set and the memory of the
    /// cgroup. Not planted: the garbage that a larger goal leaves room for, the longer mark phases, and call sites.
    Leak {
        /// The growth, bytes per minute, at least 0. In a guest, at the rate of the load.
        bytes_per_minute: f64,
    },
    /// Each request allocates more, in objects of the same mean size.
    ///
    /// The bytes and the objects grow. Not planted: the GC cycles that would come sooner, with their pauses and CPU
    /// time, and call sites.
    Garbage {
        /// How much more, a share: 0.01 for 1 %.
        share: f64,
    },
    /// Requests of the measuring phase leave goroutines behind.
    ///
    /// Their number grows, with a `go` statement of its own, and so do the stacks, the resident set and the memory of
    /// the cgroup. Not planted: what the goroutines refer to, and the time that the GC takes for their stacks.
    Goroutines {
        /// How many in the whole phase.
        left: u64,
    },
}

/// The stack of a new goroutine, bytes (`fixedStack`, runtime/stack.go, Go 1.21 to 1.27, on Linux).
const STACK: u64 = 2048;

/// The name of the function in whose place the planted goroutines were started.
const PLANTED: &str = "planted by memgate";

impl Fault {
    /// Puts the fault into the evidence of a run. Evidence without phases stays as it is, and so does a signal that is
    /// missing.
    pub fn plant(self, run: &mut Evidence) {
        match self {
            Self::Leak { bytes_per_minute } => leak(run, bytes_per_minute),
            Self::Garbage { share } => garbage(run, share),
            Self::Goroutines { left } => goroutines(run, left),
        }
    }

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leak { .. } => "leak",
            Self::Garbage { .. } => "garbage",
            Self::Goroutines { .. } => "goroutines",
        }
    }

    /// Its size in reports, such as `1.05MB/min`.
    pub fn size(self) -> String {
        match self {
            Self::Leak { bytes_per_minute } => units::format(bytes_per_minute, Metric::HeapLiveGrowth.unit()),
            Self::Garbage { share } => format!("{} more", units::format(share, Unit::Ratio)),
            Self::Goroutines { left } => format!("{left} a run"),
        }
    }
}

fn leak(run: &mut Evidence, bytes_per_minute: f64) {
    let Some(load) = under_load(run) else { return };
    let pace = bytes_per_minute * share_of_rate(run);
    let kept = move |at_ns: u64| bytes(into(load, at_ns) * pace * minutes(load));
    let goal = 1.0 + gc_percent(run) / 100.0;
    let signals = &mut run.signals;
    grow(&mut signals.live_heap.data, kept);
    let memory = &mut signals.go_memory.data;
    grow_column(&memory.at_ns, &mut memory.heap_in_use, kept);
    grow_column(&memory.at_ns, &mut memory.heap_live, kept);
    grow_column(&memory.at_ns, &mut memory.heap_goal, move |at_ns| bytes(kept(at_ns) as f64 * goal));
    grow_resident(run, kept);
}

fn garbage(run: &mut Evidence, share: f64) {
    for total in [&mut run.signals.alloc_bytes.data, &mut run.signals.alloc_objects.data] {
        for value in &mut total.value {
            *value = value.saturating_add(bytes(*value as f64 * share));
        }
    }
}

fn goroutines(run: &mut Evidence, left: u64) {
    let Some(measure) = run.phases.measure else { return };
    // The last of them is there at the end of the phase.
    let there = move |at_ns: u64| bytes(into(measure, at_ns) * left as f64);
    grow(&mut run.signals.goroutines.data, there);
    let sites = &mut run.signals.goroutine_sites;
    if !matches!(sites.exactness, Exactness::Missing { .. }) {
        let function = PLANTED.to_owned();
        let frame = Frame { function, file: String::new(), line: 0, inlined: false, language: Language::Go };
        let index = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        run.code.stacks.push(vec![index(run.code.frames.len())]);
        run.code.frames.push(frame);
        let stack = index(run.code.stacks.len() - 1);
        let sites = &mut sites.data;
        sites.created.push(stack);
        sites.started.push(stack);
        sites.before.push(0);
        sites.loaded.push(left);
        sites.left.push(left);
        sites.young.push(left);
    }
    let stacks = move |at_ns: u64| there(at_ns).saturating_mul(STACK);
    let memory = &mut run.signals.go_memory.data;
    grow_column(&memory.at_ns, &mut memory.stacks, stacks);
    grow_resident(run, stacks);
}

/// Adds to the resident memory of the service, which lies in no file.
fn grow_resident(run: &mut Evidence, grown: impl Fn(u64) -> u64 + Copy) {
    let end_ns = run.phases.measure.map_or(0, |measure| measure.end_ns);
    let signals = &mut run.signals;
    grow(&mut signals.rss.data, grown);
    let kinds = &mut signals.rss_kinds.data;
    grow_column(&kinds.at_ns, &mut kinds.anonymous, grown);
    let cgroup = &mut signals.cgroup_memory.data;
    grow_column(&cgroup.at_ns, &mut cgroup.anon, grown);
    grow_column(&cgroup.at_ns, &mut cgroup.current, grown);
    for peak in [&mut signals.rss_peak, &mut signals.cgroup_peak] {
        if !matches!(peak.exactness, Exactness::Missing { .. }) {
            peak.data = peak.data.saturating_add(grown(end_ns));
        }
    }
}

fn grow(series: &mut Series, grown: impl Fn(u64) -> u64) {
    grow_column(&series.at_ns, &mut series.value, grown);
}

fn grow_column(at_ns: &[u64], column: &mut [u64], grown: impl Fn(u64) -> u64) {
    for (value, at_ns) in column.iter_mut().zip(at_ns) {
        *value = value.saturating_add(grown(*at_ns));
    }
}

/// The time of the load: from the start of the warm-up to the end of the tail.
fn under_load(run: &Evidence) -> Option<TimeSpan> {
    let measure = run.phases.measure?;
    let start_ns = run.phases.warmup.map_or(measure.start_ns, |warmup| warmup.start_ns);
    let end_ns = run.phases.tail.map_or(measure.end_ns, |tail| tail.end_ns);
    Some(TimeSpan { start_ns, end_ns })
}

/// How much of a span lies before a time: 0 before the span, 1 after it.
fn into(span: TimeSpan, at_ns: u64) -> f64 {
    let length = span.end_ns.saturating_sub(span.start_ns).max(1);
    (at_ns.saturating_sub(span.start_ns) as f64 / length as f64).min(1.0)
}

fn minutes(span: TimeSpan) -> f64 {
    span.end_ns.saturating_sub(span.start_ns) as f64 / 60e9
}

/// The share of the rate at which a guest got its requests; 1 natively. memgate divides a growth in a guest by it.
fn share_of_rate(run: &Evidence) -> f64 {
    let (Runner::Qemu, Some(measure)) = (run.environment.runner, run.phases.measure) else { return 1.0 };
    let requests = &run.signals.requests.data;
    let made = requests.measure.intended.saturating_sub(requests.measure.unmade());
    let share = made as f64 / (60.0 * minutes(measure)) / requests.per_second;
    if share.is_finite() && share > 0.0 { share.min(1.0) } else { 1.0 }
}

/// GOGC as the service was started with: 100 by default, and 0 for `off`, which has no goal to raise.
fn gc_percent(run: &Evidence) -> f64 {
    run.environment.variables.get("GOGC").map_or(100.0, |percent| percent.parse().unwrap_or(0.0))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates, and no size is negative")]
const fn bytes(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use memgate_evidence::GoroutineSites;
    use memgate_testing::{exact, healthy};
    use memgate_verdict::summarise::{Summary, summarise};

    use super::*;

    fn runs() -> Vec<Evidence> {
        [1, 2].map(healthy).into()
    }

    fn with(fault: Fault, mut runs: Vec<Evidence>) -> Summary {
        runs.iter_mut().for_each(|run| fault.plant(run));
        summarise(&runs).unwrap()
    }

    fn figure(summary: &Summary, metric: Metric) -> f64 {
        summary.pooled(metric).unwrap_or_else(|none| panic!("{metric}: {}", none.reason)).measured
    }

    fn grown(fault: Fault, runs: Vec<Evidence>, metric: Metric) -> f64 {
        let before = summarise(&runs).unwrap();
        figure(&with(fault, runs), metric) - figure(&before, metric)
    }

    /// A slope is a median of slopes, so two of them do not add up exactly.
    #[track_caller]
    fn assert_close(figure: f64, expected: f64) {
        assert!((figure - expected).abs() <= 0.02 * expected.abs(), "{figure} and not {expected}");
    }

    const LEAK: Fault = Fault::Leak { bytes_per_minute: 1e6 };
    const GARBAGE: Fault = Fault::Garbage { share: 0.01 };
    const GOROUTINES: Fault = Fault::Goroutines { left: 3 };

    #[test]
    fn each_fault_moves_the_figure_of_its_gate_by_its_size() {
        assert_close(grown(LEAK, runs(), Metric::HeapLiveGrowth), 1e6);
        let before = summarise(&runs()).unwrap();
        for metric in [Metric::AllocBytesPerRequest, Metric::AllocsPerRequest] {
            assert_close(grown(GARBAGE, runs(), metric), 0.01 * figure(&before, metric));
        }
        assert_close(grown(GOROUTINES, runs(), Metric::GoroutinesLeaked), 3.0);
    }

    #[test]
    fn what_follows_from_a_fault_grows_too() {
        // From the start of the warm-up to the end of the phase.
        let leaked = 1e6 * 69.0 / 60.0;
        for peak in [Metric::RssPeak, Metric::RssAnonPeak, Metric::CgroupPeak] {
            assert_close(grown(LEAK, runs(), peak), leaked);
        }
        assert_close(grown(LEAK, runs(), Metric::RssGrowth), 1e6);
        let kept = grown(LEAK, runs(), Metric::RssAnonGrowth);
        assert!(kept.abs() < 5e4, "what the live heap keeps lies within the goal of the GC: {kept}");
        let many = Fault::Goroutines { left: 1000 };
        assert_close(grown(many, runs(), Metric::RssAnonPeak), 1000.0 * 2048.0);
        assert_close(grown(many, runs(), Metric::RssAnonGrowth), 1000.0 * 2048.0);
    }

    #[test]
    fn no_fault_takes_a_figure_away() {
        let before = summarise(&runs()).unwrap();
        for fault in [LEAK, GARBAGE, GOROUTINES] {
            let after = with(fault, runs());
            for metric in Metric::ALL {
                let (before, after) = (before.pooled(metric), after.pooled(metric));
                assert_eq!(before.is_ok(), after.is_ok(), "{fault:?}: {metric}: {after:?}");
            }
        }
    }

    #[test]
    fn goroutines_have_a_go_statement_of_their_own() {
        let with_sites = |sites: GoroutineSites| {
            let mut runs = runs();
            for run in &mut runs {
                run.signals.goroutine_sites = exact(sites.clone());
            }
            runs
        };
        assert_close(grown(GOROUTINES, with_sites(GoroutineSites::default()), Metric::GoroutinesLeaked), 3.0);
        let unknown = GoroutineSites {
            created: vec![u32::MAX],
            started: vec![u32::MAX],
            before: vec![10],
            loaded: vec![12],
            left: vec![10],
            young: vec![1],
        };
        let summary = with(GOROUTINES, with_sites(unknown));
        assert_close(figure(&summary, Metric::GoroutinesLeaked), 3.0);
        let site = &summary.sites[&Metric::GoroutinesLeaked][0];
        assert!(format!("{site:?}").contains(PLANTED), "{site:?}");
    }

    #[test]
    fn a_slow_guest_has_the_leak_at_the_rate_of_the_load() {
        let slow = || {
            let mut runs = runs();
            for run in &mut runs {
                run.environment.runner = Runner::Qemu;
                run.signals.requests.data.per_second = 1000.0;
            }
            runs
        };
        assert_close(grown(LEAK, slow(), Metric::HeapLiveGrowth), 1e6);
    }

    #[test]
    fn a_fault_of_no_size_changes_no_figure() {
        let before = summarise(&runs()).unwrap();
        for fault in
            [Fault::Leak { bytes_per_minute: 0.0 }, Fault::Garbage { share: 0.0 }, Fault::Goroutines { left: 0 }]
        {
            let after = with(fault, runs());
            let measured = |summary: &Summary, metric| summary.pooled(metric).map(|pooled| pooled.measured);
            for metric in Metric::ALL {
                assert_eq!(measured(&before, metric), measured(&after, metric), "{fault:?}: {metric}");
            }
        }
    }

    #[test]
    fn evidence_that_lacks_what_a_fault_changes_stays_as_it_is() {
        let mut empty = healthy(1);
        empty.phases.measure = None;
        let mut planted = empty.clone();
        LEAK.plant(&mut planted);
        GOROUTINES.plant(&mut planted);
        assert_eq!(planted, empty);
        let mut missing = healthy(1);
        missing.signals = memgate_evidence::Signals::default();
        let mut planted = missing.clone();
        for fault in [LEAK, GARBAGE, GOROUTINES] {
            fault.plant(&mut planted);
        }
        assert_eq!(planted.signals, missing.signals);
    }

    #[test]
    fn the_goal_of_the_gc_follows_gogc() {
        let goal = |gogc: Option<&str>| {
            let mut run = healthy(1);
            run.environment.variables.extend(gogc.map(|value| ("GOGC".to_owned(), value.to_owned())));
            let before = run.signals.go_memory.data.heap_goal.last().copied().unwrap();
            LEAK.plant(&mut run);
            let data = &run.signals.go_memory.data;
            (data.heap_goal.last().unwrap() - before) as f64 / (1e6 * 69.0 / 60.0)
        };
        assert_close(goal(None), 2.0);
        assert_close(goal(Some("50")), 1.5);
        assert_close(goal(Some("off")), 1.0);
    }
}
