//! A report made by hand, with every verdict, missing figures, Chinese and hostile text.

use super::{GateResult, Report, SCHEMA, ServiceResult};
use crate::{evidence::Environment, judge::Verdict, metric::Metric, platform::Platform};

/// What a service could put into its name, its logs or its answers to get out of a report.
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
        runner: "native".into(),
        memgate: "0.1.0".into(),
    }
}

/// A gate with figures `[measured, low, high, limit, baseline]`.
pub(super) fn gate(metric: Metric, verdict: Verdict, figures: [Option<f64>; 5], reason: &str) -> GateResult {
    let [measured, low, high, limit, baseline] = figures;
    GateResult { metric, unit: metric.unit(), measured, low, high, limit, baseline, verdict, reason: reason.into() }
}

/// A result whose verdict is that of its first gate.
pub(super) fn result(service: &str, platform: Platform, gates: Vec<GateResult>, notes: &[&str]) -> ServiceResult {
    ServiceResult {
        service: service.into(),
        platform,
        verdict: gates.first().map_or(Verdict::NoBaseline, |gate| gate.verdict),
        environment: environment(),
        runs: 3,
        gates,
        notes: notes.iter().map(ToString::to_string).collect(),
    }
}

/// A report whose verdict is that of its first result.
pub(super) fn report_of(results: Vec<ServiceResult>) -> Report {
    Report {
        schema: SCHEMA,
        memgate: "0.1.0".into(),
        judged_at: "2026-11-23T15:30:00Z".into(),
        verdict: results.first().map_or(Verdict::Inconclusive, |result| result.verdict),
        results,
    }
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
    ];
    result("uaa", Platform::LinuxAmd64, gates, &["The cgroup has no memory controller."])
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
    let hostile = result(
        HOSTILE,
        Platform::LinuxArm64,
        vec![gate(Metric::OomKills, Verdict::Regressed, [Some(1.0), Some(1.0), Some(1.0), Some(0.0), None], HOSTILE)],
        &[HOSTILE],
    );
    let empty = result("empty", Platform::LinuxAmd64, vec![], &["The baseline is of go1.26, the run of go1.27."]);
    report_of(vec![uaa(), chinese, hostile, empty])
}
