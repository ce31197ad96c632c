//! A handmade report with every verdict, missing figures, Chinese and hostile text.

use std::collections::BTreeMap;

use memgate_evidence::{
    Environment,
    error::{FailureText, Stage},
    platform::{Platform, Runner},
    tier::Tier,
};
use memgate_verdict::{
    metric::{Metric, Unit},
    results::{GateResult, Recording, Report, SCHEMA, ServiceFailure, ServiceResult, Verdict},
    summarise::{SignalNote, Site, SiteKind, SourceLocation, Trust},
};

/// Text that a service could put into its name, its logs or its answers to break out of a report.
pub(super) const HOSTILE: &str =
    "a|b `c` <script>&amp;\x1b[31m\x1b]0;title\x07\n::error::boo\r\n##[error]boo % @all #1 ]]> \u{202e}gnp.exe";

pub(super) fn environment() -> Environment {
    Environment {
        go: "go1.27.3".into(),
        kernel: "6.12.9-amd64".into(),
        page_size: 4096,
        thp: "madvise".into(),
        cpu: "Hygon C86 7285".into(),
        cpus: 2,
        runner: Runner::Native,
        memgate: "0.1.0".into(),
        build: BTreeMap::new(),
        variables: BTreeMap::new(),
        load: "500/s over 32 connections: 3 POST /login, 6 GET /verify, 1 POST /logout".into(),
        phases: "10 s, 60 s".into(),
        dependencies: String::new(),
    }
}

/// A gate with figures `[measured, low, high, limit, baseline]`.
pub(super) fn gate(metric: Metric, verdict: Verdict, figures: [Option<f64>; 5], reason: &str) -> GateResult {
    let [measured, low, high, limit, baseline] = figures;
    GateResult {
        metric,
        unit: metric.unit(),
        measured,
        low,
        high,
        limit,
        baseline,
        anchor: None,
        against: None,
        noticed: if verdict.is_good() { baseline.or(limit) } else { None },
        verdict,
        needs: None,
        reason: reason.into(),
        sites: vec![],
    }
}

/// A place in the repository if its path is relative.
pub(super) fn place(function: &str, file: &str, line: u32) -> SourceLocation {
    let in_repository = !file.is_empty() && !file.starts_with('/');
    SourceLocation { function: function.into(), file: file.into(), line, in_repository }
}

/// A site of 1.5 MiB with 37 samples.
pub(super) fn site(kind: SiteKind, at: SourceLocation, own: Option<SourceLocation>) -> Site {
    let sampled = kind == SiteKind::Heap;
    Site {
        kind,
        at,
        own,
        starts: None,
        amount: 1_572_864.0,
        unit: Unit::Bytes,
        share: 0.613,
        samples: sampled.then_some(37),
        error: sampled.then_some(0.3288),
    }
}

/// Goroutines that one `go` statement started.
fn goroutines(at: SourceLocation, starts: &str) -> Site {
    let site = site(SiteKind::Goroutines, at.clone(), Some(at));
    Site { starts: Some(starts.into()), amount: 12.0, unit: Unit::Count, share: 1.0, ..site }
}

/// A signal's note, with a reason if the signal cannot be trusted.
pub(super) fn note(name: &str, exactness: Trust, reason: Option<&str>, lost: u64) -> SignalNote {
    SignalNote { name: name.into(), source: "a test".into(), exactness, reason: reason.map(Into::into), lost }
}

fn signals() -> Vec<SignalNote> {
    vec![
        note("gc_pauses", Trust::Exact, None, 0),
        note("live_heap", Trust::Inexact, Some("3 records were lost"), 3),
        note("rss", Trust::Sampled, None, 0),
        note("goroutines", Trust::Sampled, None, 0),
        note("mmap_latency", Trust::Missing, Some("the kernel has no cookies"), 0),
        note("span_refills", Trust::Missing, Some("the kernel has no cookies"), 0),
        note("oom_kills", Trust::Missing, Some("there is no memory controller"), 0),
    ]
}

/// A result with the verdict of its first gate.
pub(super) fn result(service: &str, platform: Platform, gates: Vec<GateResult>, notes: &[&str]) -> ServiceResult {
    ServiceResult {
        recording: Some(Recording { day: "2026-11-23".into(), runs: 5 }),
        ungated: vec![Metric::GcPauseMax, Metric::GcMarkP99],
        service: service.into(),
        platform,
        verdict: gates.first().map_or(Verdict::NoBaseline, |gate| gate.verdict),
        environment: environment(),
        runs: 3,
        tier: Tier::T2,
        options: vec![],
        signals: vec![],
        gates,
        files: vec![],
        notes: notes.iter().map(ToString::to_string).collect(),
        figures: [].into(),
    }
}

/// A report with the verdict of its first result.
pub(super) fn report_of(results: Vec<ServiceResult>) -> Report {
    Report {
        schema: SCHEMA,
        memgate: "0.1.0".into(),
        judged_at: "2026-11-23T15:30:00Z".into(),
        verdict: Some(results.first().map_or(Verdict::Inconclusive, |result| result.verdict)),
        results,
        failures: vec![],
    }
}

/// A failed build with a compiler's output, and a failed launch with a cause.
fn failures() -> Vec<ServiceFailure> {
    let of = |service: &str, failure| ServiceFailure {
        service: service.into(),
        platform: Platform::LinuxArm64,
        options: vec!["--tier".into(), "T0".into()],
        failure,
    };
    vec![
        of(
            "broken",
            FailureText {
                stage: Stage::Build,
                message: "`go build ./cmd/broken` in services failed:\n./main.go:3:15: undefined: undefined".into(),
                causes: vec![],
                help: Some("fix the build; the command was \"go\" \"build\"".into()),
            },
        ),
        of(
            "launched",
            FailureText {
                stage: Stage::Launch,
                message: "/srv/launched cannot be started".into(),
                causes: vec!["it cannot be executed".into(), "Permission denied (os error 13)".into()],
                help: None,
            },
        ),
    ]
}

/// The failure of a service with this text wherever it can have any.
pub(super) fn hostile_failure(service: &str, text: &str) -> ServiceFailure {
    let failure =
        FailureText { stage: Stage::Launch, message: text.into(), causes: vec![text.into()], help: Some(text.into()) };
    ServiceFailure { service: service.into(), platform: Platform::LinuxAmd64, options: vec![text.into()], failure }
}

/// A service that passes beside two that could not be judged.
pub(super) fn failed_report() -> Report {
    let gates = vec![gate(Metric::OomKills, Verdict::Pass, [Some(0.0), None, None, Some(0.0), None], "")];
    let mut good = result("good", Platform::LinuxAmd64, gates, &[]);
    good.environment.build =
        [("-race", "true"), ("GOAMD64", "v3")].map(|(name, value)| (name.into(), value.into())).into();
    good.environment.variables = [("GOGC".into(), "50".into())].into();
    Report::new("0.1.0", "2026-11-23T15:30:00Z".into(), vec![good], failures())
}

fn uaa() -> ServiceResult {
    let gates = vec![
        gate(
            Metric::GcPauseP99,
            Verdict::Regressed,
            [Some(61.3e6), Some(58.1e6), Some(64.9e6), Some(50e6), Some(1.24e6)],
            "61.3ms is above the limit of 50ms over its whole interval.",
        ),
        gate(
            Metric::GcCycles,
            Verdict::Advisory,
            [Some(31.0), Some(30.0), Some(32.0), None, Some(12.0)],
            "31 cycles a minute is 158% more than the baseline.",
        ),
        gate(
            Metric::HeapAllocRate,
            Verdict::NoBaseline,
            [Some(9.1e6), Some(9.0e6), Some(9.2e6), None, None],
            "There is neither a limit nor a baseline.",
        ),
        gate(
            Metric::AllocBytesPerRequest,
            Verdict::Improved,
            [Some(18.4e3), Some(18.4e3), Some(18.4e3), None, Some(21.9e3)],
            "16% less than the baseline, more than its noise.",
        ),
        gate(
            Metric::HeapLiveGrowth,
            Verdict::Inconclusive,
            [None, None, None, Some(0.5e6), None],
            "3 records were lost; a run without loss would decide it.",
        ),
        gate(Metric::GoroutinesMax, Verdict::Pass, [Some(212.0), None, None, Some(2000.0), Some(208.0)], ""),
        leak(),
        growth(),
    ];
    let result = result("uaa", Platform::LinuxAmd64, gates, &["The cgroup has no memory controller."]);
    let files = ["alloc.svg", "alloc.folded"].map(|name| format!("target/memgate/flamegraphs/uaa.linux-amd64.{name}"));
    ServiceResult { signals: signals(), files: files.to_vec(), ..result }
}

fn leak() -> GateResult {
    let figures = [Some(12.0), Some(12.0), Some(12.0), Some(0.0), None];
    let start = place("main.(*pool).start", "cmd/uaa/pool.go", 12);
    let gate = gate(Metric::GoroutinesLeaked, Verdict::Regressed, figures, "12 exceeds the limit of 0.");
    GateResult { sites: vec![goroutines(start, "main.(*pool).work")], ..gate }
}

fn growth() -> GateResult {
    let figures = [Some(2e6), Some(1.5e6), Some(2.5e6), Some(0.5e6), None];
    let put = place("uaa/store.(*Store).Put", "store/store.go", 42);
    let grow = place("bytes.growSlice", "/usr/lib/go/src/bytes/buffer.go", 249);
    let sites = vec![
        site(SiteKind::Heap, grow, Some(put.clone())),
        site(SiteKind::OffHeap, place("leak", "", 0), Some(place("main.handle", "/elsewhere/main.go", 0))),
        site(SiteKind::Heap, put.clone(), Some(put)),
        site(SiteKind::OffHeap, place("unknown", "", 0), None),
    ];
    GateResult { sites, ..gate(Metric::RssGrowth, Verdict::Regressed, figures, "It grows.") }
}

/// A gate that has this text wherever it can have any.
pub(super) fn hostile_gate(text: &str) -> GateResult {
    let place = SourceLocation { function: text.into(), file: text.into(), line: 7, in_repository: true };
    let other = SourceLocation { line: 8, ..place.clone() };
    let site = Site { starts: Some(text.into()), ..site(SiteKind::Heap, other, Some(place)) };
    let figures = [Some(1.0), Some(1.0), Some(1.0), Some(0.0), None];
    GateResult { sites: vec![site], ..gate(Metric::OomKills, Verdict::Regressed, figures, text) }
}

/// The report that the snapshots show.
pub(super) fn report() -> Report {
    let chinese = result(
        "统一身份认证",
        Platform::LinuxLoong64,
        vec![
            gate(
                Metric::RssGrowth,
                Verdict::Pass,
                [Some(-12e3), Some(-40e3), Some(16e3), Some(0.5e6), None],
                "在限值之内。",
            ),
            gate(
                Metric::RequestErrors,
                Verdict::Pass,
                [Some(0.0008), Some(0.0005), Some(0.001), Some(0.001), None],
                "",
            ),
        ],
        &[],
    );
    let hostile = result(HOSTILE, Platform::LinuxArm64, vec![hostile_gate(HOSTILE)], &[HOSTILE]);
    let hostile = ServiceResult {
        signals: vec![note(HOSTILE, Trust::Missing, Some(HOSTILE), 1)],
        files: vec![HOSTILE.to_owned()],
        ..hostile
    };
    let empty = result("empty", Platform::LinuxAmd64, vec![], &["The baseline is of go1.26, the run of go1.27."]);
    report_of(vec![uaa(), chinese, hostile, empty])
}
