//! Losses are counted and never pass: full buffers, lower tiers, a service that replaces itself.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::{
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use common::{
    Bench,
    busy::{self, HeldUp},
    can_attach, stderr,
    uaa::{Watched, assert_equal, post, uaa},
};
use memgate_agent::{
    Clock,
    collect::{Boundary, Options, Recorder},
};
use memgate_config::baseline;
use memgate_evidence::{Exactness, Signals, plan::Collecting, tier::Tier};
use memgate_goexe::GoExe;
use memgate_testing::evidence::healthy;
use memgate_verdict::{
    judge::judge,
    metric::{Limits, Metric},
    results::Verdict,
    summarise::summarise,
};

fn watch(port: u16, options: Options) -> Watched {
    let mut command = Command::new(uaa());
    // The first round of expiry allocates the root of each shard's map. That must not happen during a test.
    command.args(["-debug-memgate", "-expiry-interval=1h", "-listen", &format!("127.0.0.1:{port}")]).env_clear();
    Watched::launch_with(command, port, options)
}

fn tier(tier: Tier) -> Options {
    Options { collecting: Collecting { tier: Some(tier), force_probes: false }, ..Options::default() }
}

#[test]
fn every_tier_with_bpf_is_exact() {
    if can_attach() {
        for (port, tier_) in [(18161, Tier::T1), (18162, Tier::T2), (18163, Tier::T3), (18160, Tier::T4)] {
            let mut watched = watch(port, tier(tier_));
            assert_eq!(watched.recorder.tier(), tier_);
            watched.post("/debug/gc?n=20");
            watched.post("/debug/alloc?n=1000&size=100");
            let truth = watched.truth();
            let (signals, _) = watched.finish();
            assert_eq!(signals.world_stops.exactness, Exactness::Exact, "{tier_}");
            assert_equal(&signals, &truth);
            assert_eq!(
                signals.world_stops.data.at_ns.len(),
                signals.gc_pauses.data.at_ns.len() + signals.other_pauses.data.at_ns.len(),
                "{tier_}"
            );
        }
    }
}

#[test]
fn without_bpf_pauses_are_bucketed_and_cycles_are_counted() {
    if can_attach() {
        let mut watched = watch(18164, tier(Tier::T0));
        assert_eq!(watched.recorder.tier(), Tier::T0);
        watched.post("/debug/gc?n=20");
        let truth = watched.truth();
        let (signals, _) = watched.finish();
        assert_eq!(signals.gc_pauses.exactness, Exactness::Bucketed);
        let pauses = &signals.gc_pauses.data.duration_ns;
        assert_eq!(pauses.len() as u64, truth.gc_pauses.total);
        let (sum, true_sum) = (pauses.iter().sum::<u64>() as f64, truth.pause_total_ns as f64);
        assert!(true_sum <= sum && sum <= true_sum * 1.25 + 256.0 * pauses.len() as f64, "{sum} of {true_sum}");
        assert_eq!(signals.live_heap.data.value.len() as u64, truth.num_gc);
        assert!(matches!(signals.alloc_samples.exactness, Exactness::Missing { .. }));
        assert!(matches!(signals.offheap.exactness, Exactness::Missing { .. }));
    }
}

#[test]
fn every_record_that_does_not_fit_is_counted() {
    if can_attach() {
        for (port, tier_) in [(18165, Tier::T1), (18166, Tier::T2), (18159, Tier::T4)] {
            // A page holds about eighty records. A hundred cycles make five hundred.
            let mut watched = watch(port, Options { buffer_bytes: 4096, ..tier(tier_) });
            post(port, "/debug/gc?n=100");
            watched.recorder.sample();
            let truth = watched.truth();
            let (signals, _) = watched.finish();
            let pauses = &signals.gc_pauses;
            assert!(pauses.lost > 0, "{tier_}");
            // The lost pauses may be the GC's or of another stop.
            let seen = (pauses.data.at_ns.len() + signals.other_pauses.data.at_ns.len()) as u64;
            assert_eq!(
                seen + pauses.lost,
                truth.gc_pauses.total + truth.other_pauses.as_ref().unwrap().total,
                "{tier_}"
            );
            assert_eq!(signals.live_heap.data.at_ns.len() as u64 + signals.live_heap.lost, truth.num_gc, "{tier_}");
            assert!(matches!(pauses.exactness, Exactness::Inexact { .. }), "{tier_}: {:?}", pauses.exactness);
            does_not_pass(&signals);
        }
    }
}

/// Checks that the gate on pauses is inconclusive with these pauses in an otherwise healthy service, and also if a
/// single record is lost and the pauses look exact.
fn does_not_pass(signals: &Signals) {
    let whole = summarise(&[healthy(1, 2000)]).unwrap();
    let text = baseline::render(&whole, "2026-11-23", Limits::Xinchuang).unwrap();
    let baseline = baseline::parse(Path::new("uaa.yaml"), &text, whole.platform, &whole.baseline).unwrap();
    let mut one_lost = healthy(1, 2000);
    one_lost.signals.gc_pauses.lost = 1;
    let mut as_measured = healthy(1, 2000);
    as_measured.signals.gc_pauses = signals.gc_pauses.clone();
    for evidence in [one_lost, as_measured] {
        let summary = summarise(std::slice::from_ref(&evidence)).unwrap();
        let result = judge(&summary, Some(&baseline));
        let gate = result.gates.iter().find(|gate| gate.metric == Metric::GcPauseP99).unwrap();
        assert_eq!(gate.verdict, Verdict::Inconclusive, "{}", gate.reason);
    }
}

#[test]
fn no_record_of_ten_thousand_cycles_a_second_is_lost() {
    if can_attach() {
        // A buffer tolerates a late reader, but not one that a busy machine holds up for long. Such an attempt proves
        // nothing.
        busy::again(|| stop_often(18167));
    }
}

/// The buffer of 2 MiB holds 43,690 records, which are 0.8 s at 50,000 a second. A reader that is held up for longer is
/// not memgate's fault.
const LATE: Duration = Duration::from_millis(500);

/// Makes the records of 10,000 GC cycles a second for four seconds. Checks that none is lost, unless the reader was
/// held up.
fn stop_often(port: u16) -> Result<(), HeldUp> {
    /// The number of stops in one request, with two records each, and the number of requests.
    const STOPS: u64 = 2_500;
    const TIMES: u64 = 40;
    const PACE: Duration = Duration::from_millis(100);
    let mut watched = watch(port, Options::default());
    watched.post("/debug/gc?n=5");
    let over = AtomicBool::new(false);
    let (length, gap) = std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let started = Instant::now();
            for _ in 0..TIMES {
                let begun = Instant::now();
                post(port, &format!("/debug/stops?n={STOPS}"));
                std::thread::sleep(PACE.saturating_sub(begun.elapsed()));
            }
            over.store(true, Ordering::Relaxed);
            started.elapsed()
        });
        let (mut gap, mut last) = (Duration::ZERO, Instant::now());
        // This loop reads like the sampler.
        while !over.load(Ordering::Relaxed) {
            watched.recorder.sample();
            gap = gap.max(last.elapsed());
            last = Instant::now();
            std::thread::sleep(Duration::from_millis(100));
        }
        (asked.join().unwrap(), gap.max(last.elapsed()))
    });
    let truth = watched.truth();
    let (signals, _) = watched.finish();
    // A stop has two records, and a GC cycle five.
    let rate = (2 * STOPS * TIMES) as f64 / length.as_secs_f64();
    eprintln!("{rate:.0} records a second; the longest time between two readings was {gap:?}");
    if let Some(held_up) = HeldUp::reader(gap, LATE) {
        return Err(held_up);
    }
    assert_equal(&signals, &truth);
    assert_eq!((signals.other_pauses.lost, signals.world_stops.lost), (0, 0));
    assert_eq!(signals.other_pauses.data.at_ns.len() as u64, truth.other_pauses.as_ref().unwrap().total);
    assert_eq!(signals.world_stops.exactness, Exactness::Exact);
    Ok(())
}

#[test]
fn a_service_that_replaces_itself_is_not_measured() {
    if can_attach() {
        let bench = Bench::service("misbehave", 18168, ", -mode, exec, -requests, \"400\"")
            .with("runs: 1", "runs: 1\n    max_runs: 1");
        let output = bench.run("check", &["--format", "json"]);
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        let evidence = std::fs::read_to_string(bench.out().join("s.linux-amd64.run1.evidence.json")).unwrap();
        let evidence: serde_json::Value = serde_json::from_str(&evidence).unwrap();
        for signal in ["gc_pauses", "alloc_bytes", "goroutines", "rss", "offheap"] {
            let exactness = &evidence["evidence"]["signals"][signal]["exactness"];
            let reason = exactness["reason"].as_str().unwrap_or_default();
            assert!(reason.contains("replaced itself"), "{signal}: {exactness}");
        }
    }
}

/// The file that memgate reads is not the one that runs later.
#[test]
fn an_executable_that_is_replaced_before_it_starts_is_refused() {
    if can_attach() {
        let directory = tempfile::tempdir().unwrap();
        let [path, newer] = ["service", "newer"].map(|name| directory.path().join(name));
        std::fs::copy(uaa(), &path).unwrap();
        std::fs::copy(uaa(), &newer).unwrap();
        let read = GoExe::open(&path).unwrap();
        std::fs::rename(&newer, &path).unwrap();
        let mut child = Command::new(&path).args(["-listen", "127.0.0.1:18171"]).spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        let attached = Recorder::attach(&read, pid, Clock::start().unwrap(), Options::default());
        child.kill().unwrap();
        child.wait().unwrap();
        let error = attached.err().unwrap().to_string();
        assert!(error.contains("was replaced after memgate read it and before it started"), "{error}");
    }
}

/// Reads figures while the service is killed.
#[test]
fn a_service_that_dies_during_readings_causes_no_panic() {
    if can_attach() {
        for after_ms in [0, 3, 7, 20, 45] {
            let mut watched = watch(18170, Options::default());
            let pid = watched.pid();
            let killer = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(after_ms));
                nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
            });
            watched.recorder.reach(Boundary::MeasureStart);
            for _ in 0..200 {
                watched.recorder.sample();
                watched.recorder.sample_off_heap();
            }
            killer.join().unwrap();
            watched.recorder.reach(Boundary::MeasureEnd);
            let (signals, _) = watched.finish_dead();
            assert!(
                matches!(signals.alloc_bytes.exactness, Exactness::Inexact { .. }),
                "{:?}",
                signals.alloc_bytes.exactness
            );
            assert!(matches!(signals.rss.exactness, Exactness::Inexact { .. }), "{:?}", signals.rss.exactness);
        }
    }
}
