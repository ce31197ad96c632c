//! Each rule of docs/explanation/judging.md with its reason.

use super::*;
use crate::{
    metric::Unit,
    summarise::{Site, SiteKind, SourceLocation},
};

const BYTES: Metric = Metric::AllocBytesPerRequest;

fn baseline(expectation: Expectation) -> Baseline {
    baseline_of([(BYTES, expectation)])
}

fn bytes(runs: usize, figure: &Measurement, expectation: Expectation) -> (Verdict, String) {
    ruling(&alike(BYTES, runs, figure), &baseline(expectation), BYTES)
}

fn limit(limit: f64) -> Expectation {
    Expectation { limit: Limit::At(limit), ..Expectation::default() }
}

#[track_caller]
fn assert_ruling((verdict, reason): (Verdict, String), expected: Verdict, text: &str) {
    assert_eq!((verdict, reason.as_str()), (expected, text));
}

/// What would decide the gate on a metric.
fn needs(summary: &Summary, baseline: &Baseline, metric: Metric) -> Option<Need> {
    gate(&judge(summary, Some(baseline)), metric).needs
}

#[test]
fn a_figure_within_its_limit_holds_if_it_excludes_what_must_be_noticed() {
    assert_ruling(
        bytes(2, &around(1000.0, 50.0), limit(1050.0)),
        Verdict::Pass,
        "1kB/request (at most 1.04kB/request) is within the limit of 1.05kB/request; 1.08kB/request would have been noticed.",
    );
    assert_ruling(
        bytes(2, &around(1000.0, 300.0), limit(1050.0)),
        Verdict::Inconclusive,
        "1kB/request is within the limit of 1.05kB/request, but may be up to 1.24kB/request, and the gate must notice 1.16kB/request: more runs decide.",
    );
    let strict = Expectation { must_notice: Some(1060.0), ..limit(1050.0) };
    assert_ruling(
        bytes(2, &around(1000.0, 100.0), strict),
        Verdict::Inconclusive,
        "1kB/request is within the limit of 1.05kB/request, but may be up to 1.08kB/request, and the gate must notice 1.06kB/request: more runs decide.",
    );
    assert_eq!(bytes(1, &exactly(1000.0), limit(1000.0)).0, Verdict::Pass, "a figure at its limit holds");
}

#[test]
fn a_limit_fails_if_both_sets_of_runs_are_beyond_it() {
    assert_ruling(
        bytes(2, &around(1000.0, 100.0), limit(700.0)),
        Verdict::Regressed,
        "1kB/request (at least 918B/request) exceeds the limit of 700B/request in each of 2 runs.",
    );
    assert_ruling(
        bytes(4, &around(1000.0, 100.0), limit(700.0)),
        Verdict::Regressed,
        "1kB/request (at least 944B/request) exceeds the limit of 700B/request in both halves of 4 runs.",
    );
    assert_ruling(
        bytes(1, &around(1000.0, 100.0), limit(700.0)),
        Verdict::Inconclusive,
        "1kB/request exceeds the limit of 700B/request in the only run: more runs decide.",
    );
    assert_ruling(
        bytes(2, &around(1000.0, 100.0), limit(950.0)),
        Verdict::Inconclusive,
        "1kB/request exceeds the limit of 950B/request, but lies between 918B/request and 1.08kB/request: more runs decide.",
    );
    let disagree = summary_of(BYTES, &[exactly(900.0), exactly(1200.0)]);
    assert_ruling(
        ruling(&disagree, &baseline(limit(1000.0)), BYTES),
        Verdict::Inconclusive,
        "1.05kB/request exceeds the limit of 1kB/request, but not in each of 2 runs: more runs decide.",
    );
    assert_eq!(needs(&disagree, &baseline(limit(1000.0)), BYTES), Some(Need::MoreRuns));
    for runs in [[1000.0, 1200.0], [1200.0, 1000.0]] {
        let (verdict, reason) = ruling(&summary_of(BYTES, &runs.map(exactly)), &baseline(limit(1000.0)), BYTES);
        assert_eq!(verdict, Verdict::Inconclusive);
        assert!(reason.contains("but not in each of 2 runs"), "one is at the limit: {reason}");
    }
    let six = summary_of(BYTES, &[900.0, 900.0, 900.0, 1200.0, 1200.0, 1200.0].map(exactly));
    assert_ruling(
        ruling(&six, &baseline(limit(1000.0)), BYTES),
        Verdict::Inconclusive,
        "1.05kB/request exceeds the limit of 1kB/request, but not in both halves of 6 runs: a longer measuring phase decides.",
    );
    assert_eq!(needs(&six, &baseline(limit(1000.0)), BYTES), Some(Need::LongerPhase));
}

#[test]
fn a_growth_fails_if_it_is_real_and_beyond_the_limit() {
    let growth = |runs, measured, half| {
        ruling(
            &alike(Metric::HeapLiveGrowth, runs, &around(measured, half)),
            &baseline(recorded()),
            Metric::HeapLiveGrowth,
        )
    };
    assert_ruling(
        growth(2, 1e6, 0.3e6),
        Verdict::Regressed,
        "1MB/min (at least 0.76MB/min) exceeds the limit of 0.50MB/min in each of 2 runs.",
    );
    assert_ruling(
        growth(2, 1e6, 0.9e6),
        Verdict::Inconclusive,
        "1MB/min exceeds the limit of 0.50MB/min, but lies between 0.27MB/min and 1.73MB/min: more runs decide.",
    );
    assert_ruling(
        growth(2, 0.1e6, 0.4e6),
        Verdict::Pass,
        "0.10MB/min (at most 0.43MB/min) is within the limit of 0.50MB/min; 0.74MB/min would have been noticed.",
    );
    assert_ruling(
        growth(2, 0.1e6, 2e6),
        Verdict::Inconclusive,
        "0.10MB/min is within the limit of 0.50MB/min, but may be up to 1.73MB/min, and the gate must notice 1MB/min: more runs decide.",
    );
}

/// What a process takes once, as it gets to work, each run takes. Six of them would be as sure of it as of a leak.
#[test]
fn a_growth_that_may_be_none_is_decided_by_a_longer_phase_and_not_by_more_runs() {
    let figure = around(3e6, 0.1e6).map(|growth| Estimate { low: 0.0, needs_longer: true, ..growth });
    for (runs, low, high) in [(2, "0.55MB/min", "3.08MB/min"), (6, "1.65MB/min", "3.04MB/min")] {
        assert_ruling(
            ruling(&alike(Metric::RssAnonGrowth, runs, &figure), &baseline(recorded()), Metric::RssAnonGrowth),
            Verdict::Inconclusive,
            &format!(
                "3MB/min exceeds the limit of 2MB/min, but lies between {low} and {high}: a longer measuring phase decides."
            ),
        );
    }
}

#[test]
fn the_limit_of_a_growth_follows_what_grows() {
    let of = |level: f64| {
        let figure = around(1e6, 0.1e6).map(|growth| Estimate { level: Some(level), ..growth });
        let result = judge(&alike(Metric::HeapLiveGrowth, 2, &figure), Some(&baseline(recorded())));
        let gate = gate(&result, Metric::HeapLiveGrowth);
        (gate.limit, gate.verdict)
    };
    assert_eq!(of(10e6), (Some(0.5e6), Verdict::Regressed));
    assert_eq!(of(4e9), (Some(20e6), Verdict::Pass));
}

#[test]
fn a_time_that_no_baseline_names_is_advisory_in_a_guest() {
    let mut summary = alike(Metric::GcCpuFraction, 2, &exactly(0.9));
    assert_eq!(gate(&judge(&summary, Some(&baseline(recorded()))), Metric::GcCpuFraction).verdict, Verdict::Regressed);
    summary.environment.runner = Runner::Qemu;
    let in_guest = |named: Option<Expectation>| {
        let mut baseline = baseline(recorded());
        baseline.environment.runner = Runner::Qemu;
        baseline.metrics.extend(named.map(|named| (Metric::GcCpuFraction, named)));
        gate(&judge(&summary, Some(&baseline)), Metric::GcCpuFraction).verdict
    };
    assert_eq!(in_guest(None), Verdict::Advisory);
    assert_eq!(in_guest(Some(limit(0.5))), Verdict::Regressed);
}

#[test]
fn runs_that_do_not_hold_a_default_limit_get_twice_what_they_may_have() {
    let of = |growth: &Measurement| {
        let metric = Metric::HeapLiveGrowth;
        let LimitForRuns { limit, instead } =
            limit_for_runs(metric, &alike(metric, 2, growth), Limits::General).unwrap();
        (limit, instead)
    };
    assert_eq!(of(&exactly(0.1e6)), (0.5e6, None));
    assert_eq!(of(&exactly(3e6)), (0.5e6, Some(6e6)));
    // It is within the limit, and nobody knows.
    let (limit, instead) = of(&around(0.0, 2e6));
    assert!(limit == 0.5e6 && (2e6..8e6).contains(&instead.unwrap()), "{instead:?}");
    let bytes = alike(BYTES, 2, &exactly(1.0));
    assert!(limit_for_runs(BYTES, &bytes, Limits::General).is_none(), "it has no default limit");
}

#[test]
fn more_runs_show_no_difference_that_the_tolerance_allows() {
    let needs_to_notice = |more: f64| {
        let expectation = Expectation { limit: Limit::None, must_notice: Some(more), ..recorded() };
        needs(&alike(BYTES, 2, &around(1000.0, 10.0)), &baseline(expectation), BYTES)
    };
    // The tolerance of 5 % is 50 bytes.
    assert_eq!(needs_to_notice(50.0), Some(Need::Baseline));
    assert_eq!(needs_to_notice(51.0), Some(Need::MoreRuns));
    assert_eq!(needs_to_notice(500.0), None);
}

#[test]
fn what_may_be_a_pool_fails_only_when_no_more_runs_can_tell() {
    let of = |runs: usize| {
        let counted = exactly(2.0).map(|figure| Estimate { may_be_pool: true, ..figure });
        ruling(&alike(Metric::GoroutinesLeaked, runs, &counted), &baseline(recorded()), Metric::GoroutinesLeaked)
    };
    let open = "2 exceeds the limit of 0, and may be a pool that still fills: more runs decide.";
    assert_ruling(of(2), Verdict::Inconclusive, open);
    assert_ruling(of(4), Verdict::Inconclusive, open);
    assert_ruling(of(6), Verdict::Regressed, "2 exceeds the limit of 0 in both halves of 6 runs.");
}

#[test]
fn no_failed_request_of_few_passes() {
    let of = |failed: f64, intended: u64| {
        let share = failed / intended as f64;
        let figure = Ok(Estimate {
            measured: share,
            low: 0.0,
            high: 1.0,
            n: intended,
            level: None,
            needs_longer: false,
            may_be_pool: false,
            remark: String::new(),
        });
        ruling(&alike(Metric::RequestErrors, 2, &figure), &baseline(recorded()), Metric::RequestErrors)
    };
    assert_ruling(
        of(0.0, 100),
        Verdict::Pass,
        "0% (at most 1.83%) is within the limit of 0.10%; 1.63% would have been noticed.",
    );
    assert_ruling(
        of(1.0, 200),
        Verdict::Inconclusive,
        "0.50% exceeds the limit of 0.10%, but lies between 0.06% and 1.79%: more runs decide.",
    );
    assert_ruling(
        of(20.0, 1000),
        Verdict::Regressed,
        "2% (at least 1.43%) exceeds the limit of 0.10% in each of 2 runs.",
    );
    assert_ruling(
        of(1.0, 30_000),
        Verdict::Pass,
        "0.0033% (at most 0.01%) is within the limit of 0.10%; 0.11% would have been noticed.",
    );
}

#[test]
fn a_limit_of_none_switches_the_default_off() {
    let none = Expectation { limit: Limit::None, ..Expectation::default() };
    let result = judge(
        &alike(Metric::GoroutinesMax, 2, &exactly(5000.0)),
        Some(&baseline_of([(BYTES, recorded()), (Metric::GoroutinesMax, none)])),
    );
    assert!(result.gates.iter().all(|gate| gate.metric != Metric::GoroutinesMax));
}

#[test]
fn a_difference_fails_if_it_matters_and_is_no_noise_in_both_sets_of_runs() {
    assert_ruling(
        bytes(2, &exactly(1150.0), recorded()),
        Verdict::Regressed,
        "1.15kB/request exceeds the baseline of 1kB/request by more than 50B/request (tolerance 5%), in each of 2 runs.",
    );
    assert_ruling(
        bytes(1, &exactly(1150.0), recorded()),
        Verdict::Inconclusive,
        "1.15kB/request exceeds the baseline of 1kB/request by more than 50B/request (tolerance 5%) in the only run: more runs decide.",
    );
    assert_ruling(
        bytes(2, &exactly(1060.0), Expectation { noise: Some(40.0), ..recorded() }),
        Verdict::Inconclusive,
        "1.06kB/request exceeds the baseline of 1kB/request by more than 50B/request (tolerance 5%), but noise alone may exceed it by 206B/request: more runs decide.",
    );
    assert_ruling(
        bytes(2, &around(1060.0, 150.0), recorded()),
        Verdict::Inconclusive,
        "1.06kB/request exceeds the baseline of 1kB/request by more than 50B/request (tolerance 5%), but noise alone may exceed it by 373B/request: more runs decide.",
    );
    let summary = summary_of(BYTES, &[exactly(1040.0), exactly(1200.0)]);
    assert_ruling(
        ruling(&summary, &baseline(recorded()), BYTES),
        Verdict::Inconclusive,
        "1.12kB/request exceeds the baseline of 1kB/request by more than 50B/request (tolerance 5%), but noise alone may exceed it by 295B/request: more runs decide.",
    );
    assert_ruling(
        bytes(2, &exactly(1040.0), recorded()),
        Verdict::Pass,
        "1.04kB/request exceeds the baseline of 1kB/request by no more than 50B/request (tolerance 5%); 1.06kB/request would have been noticed.",
    );
}

/// Three recorded runs say little about noise, and ten say more.
#[test]
fn the_degrees_of_freedom_of_the_noise_count() {
    let of = |recorded_runs: u32| {
        let mut baseline = baseline(Expectation { noise: Some(5.0), tolerance: Some(0.01), ..recorded() });
        baseline.environment.runs = recorded_runs;
        ruling(&summary_of(BYTES, &[exactly(1025.0), exactly(1032.0)]), &baseline, BYTES).0
    };
    assert_eq!((of(3), of(30)), (Verdict::Inconclusive, Verdict::Regressed));
    // Without any noise, recorded or present, nothing says that a difference of one run is real.
    let once = |noise| Expectation { noise, tolerance: Some(0.01), ..recorded() };
    let mut single = baseline(once(None));
    single.environment.runs = 1;
    assert_eq!(ruling(&alike(BYTES, 1, &exactly(1100.0)), &single, BYTES).0, Verdict::Inconclusive);
}

/// The cycles of a GC that has too little memory: far more, and never the same number.
#[test]
fn noise_at_another_level_is_a_share_of_it() {
    const CYCLES: Metric = Metric::GcCycles;
    let of = |runs: &[f64], noise| {
        let expectation = Expectation { noise: Some(noise), ..recorded() };
        let figures: Vec<_> = runs.iter().copied().map(exactly).collect();
        ruling(&summary_of(CYCLES, &figures), &baseline_of([(CYCLES, expectation)]), CYCLES).0
    };
    assert_eq!(of(&[4e3, 36e3], 10.0), Verdict::Inconclusive);
    assert_eq!(of(&[20e3, 36e3, 14e3, 38e3], 10.0), Verdict::Regressed);
    // Runs that are alike at their level, beside a recorded figure that is noisy for its size.
    assert_eq!(of(&[28e3, 28.1e3], 900.0), Verdict::Regressed);
    // Less than twice as much is the same level.
    assert_eq!(of(&[1.2e3, 1.9e3, 1.1e3, 1.95e3], 10.0), Verdict::Inconclusive);
}

#[test]
fn the_wider_of_tolerance_and_floor_is_what_matters() {
    let with = |floor, noise| Expectation { floor: Some(floor), noise: Some(noise), ..recorded() };
    assert_eq!(bytes(2, &exactly(1070.0), with(60.0, 1.0)).0, Verdict::Regressed);
    assert_ruling(
        bytes(2, &exactly(1070.0), with(80.0, 1.0)),
        Verdict::Pass,
        "1.07kB/request exceeds the baseline of 1kB/request by no more than 80B/request (floor); 1.08kB/request would have been noticed.",
    );
    let only_noise = Expectation { tolerance: None, noise: Some(25.0), ..recorded() };
    assert_ruling(
        bytes(2, &exactly(1070.0), only_noise),
        Verdict::Pass,
        "1.07kB/request exceeds the baseline of 1kB/request by no more than 75B/request (3 × noise of 25B/request); 1.11kB/request would have been noticed.",
    );
}

#[test]
fn a_gate_that_cannot_notice_what_it_must_is_inconclusive() {
    let must = |must_notice| Expectation { must_notice: Some(must_notice), ..recorded() };
    assert_eq!(bytes(2, &exactly(1000.0), must(80.0)).0, Verdict::Pass);
    assert_ruling(
        bytes(2, &exactly(1000.0), must(51.0)),
        Verdict::Inconclusive,
        "1kB/request does not exceed the baseline of 1kB/request by 50B/request (tolerance 5%), but the gate must notice 51B/request more, and would have noticed 62.3B/request more: more runs decide.",
    );
}

#[test]
fn without_any_band_a_difference_is_no_regression_and_no_pass() {
    let bare = Expectation { baseline: Some(1000.0), ..Expectation::default() };
    assert_ruling(
        bytes(3, &around(1001.0, 0.1), bare.clone()),
        Verdict::Inconclusive,
        "1.00kB/request exceeds the baseline of 1kB/request, which names no tolerance, floor or noise to compare the difference with: record it again with `memgate baseline record`.",
    );
    assert_eq!(bytes(3, &around(999.0, 0.1), bare).0, Verdict::Pass);
}

#[test]
fn a_gain_that_matters_and_is_no_noise_is_an_improvement() {
    assert_ruling(
        bytes(2, &exactly(880.0), recorded()),
        Verdict::Improved,
        "880B/request is less than the baseline of 1kB/request by more than 50B/request (tolerance 5%): accept a new baseline to keep the gain; 1.06kB/request would have been noticed.",
    );
    assert_eq!(bytes(2, &around(880.0, 300.0), recorded()).0, Verdict::Pass);
}

#[test]
fn the_worse_of_limit_and_baseline_counts() {
    let both = |limit| Expectation { limit: Limit::At(limit), ..recorded() };
    assert_ruling(
        bytes(2, &around(1010.0, 10.0), both(2000.0)),
        Verdict::Pass,
        "1.01kB/request exceeds the baseline of 1kB/request by no more than 50B/request (tolerance 5%); 1.01kB/request (at most 1.02kB/request) is within the limit of 2kB/request; 1.06kB/request would have been noticed.",
    );
    let (verdict, reason) = bytes(2, &around(1100.0, 10.0), both(2000.0));
    assert_eq!(verdict, Verdict::Regressed);
    assert!(!reason.contains("limit"), "{reason}");
    let (verdict, reason) = bytes(2, &around(1100.0, 10.0), both(1050.0));
    assert_eq!(verdict, Verdict::Regressed);
    assert!(reason.contains("the baseline of") && reason.contains("the limit of"), "{reason}");
}

#[test]
fn an_advisory_gate_never_fails() {
    let advisory = Expectation { advisory: true, ..recorded() };
    let (verdict, reason) = bytes(2, &around(1100.0, 10.0), advisory.clone());
    assert_eq!(verdict, Verdict::Advisory);
    assert!(reason.starts_with("Advisory only: 1.10kB/request exceeds"), "{reason}");
    assert_ruling(
        bytes(2, &unavailable("3 records were lost"), advisory.clone()),
        Verdict::Advisory,
        "Advisory only: no figure: 3 records were lost.",
    );
    let result = judge(&alike(BYTES, 1, &around(1100.0, 10.0)), Some(&baseline(advisory)));
    assert_eq!(more_runs(&result), None);
}

#[test]
fn a_figure_that_is_missing_is_inconclusive_and_says_why() {
    assert_ruling(
        bytes(2, &unavailable("no GC cycle in the measuring phase"), recorded()),
        Verdict::Inconclusive,
        "No figure: no GC cycle in the measuring phase.",
    );
    let mut summary = alike(BYTES, 2, &around(1000.0, 10.0));
    summary.runs[1].metrics.remove(&BYTES);
    assert_eq!(ruling(&summary, &baseline(recorded()), BYTES).0, Verdict::Inconclusive);
    assert_eq!(bytes(2, &around(f64::NAN, 0.0), recorded()).0, Verdict::Inconclusive);
    assert_eq!(bytes(2, &around(0.0, f64::INFINITY), recorded()).0, Verdict::Inconclusive);
}

#[test]
fn expectations_that_are_no_numbers_never_pass() {
    let nan = Some(f64::NAN);
    for expectation in [
        limit(f64::NAN),
        limit(f64::INFINITY),
        Expectation { baseline: nan, ..recorded() },
        Expectation { tolerance: nan, ..recorded() },
        Expectation { noise: Some(-1.0), ..recorded() },
        Expectation { floor: Some(f64::INFINITY), ..recorded() },
    ] {
        assert_eq!(bytes(2, &exactly(0.0), expectation.clone()).0, Verdict::Inconclusive, "{expectation:?}");
    }
}

#[test]
fn a_remark_follows_the_reason() {
    let figure = around(1000.0, 0.0).map(|estimate| Estimate { remark: "max of 57 pauses".to_owned(), ..estimate });
    let result = judge(&alike(Metric::GcPauseP99, 1, &figure), Some(&baseline(recorded())));
    let reason = &gate(&result, Metric::GcPauseP99).reason;
    assert_eq!(reason, "1µs is within the limit of 50ms; max of 57 pauses.");
}

#[test]
fn default_limits_hold_where_the_baseline_names_none() {
    let only_recorded = [(Metric::GoroutinesMax, Expectation { baseline: Some(5000.0), ..recorded() })];
    let summary = alike(Metric::GoroutinesMax, 2, &exactly(5000.0));
    let (verdict, reason) = ruling(&summary, &baseline_of(only_recorded), Metric::GoroutinesMax);
    assert_eq!(verdict, Verdict::Regressed);
    assert_eq!(reason, "5000 exceeds the limit of 2000 in each of 2 runs.");
    let own_limit = [(Metric::GoroutinesMax, limit(6000.0))];
    assert_eq!(ruling(&summary, &baseline_of(own_limit), Metric::GoroutinesMax).0, Verdict::Pass);
    let result = judge(&summary, Some(&baseline(recorded())));
    assert_eq!(gate(&result, Metric::GoroutinesMax).verdict, Verdict::Regressed, "not named by the baseline at all");
}

#[test]
fn gates_are_listed_in_the_order_of_the_metrics() {
    let result = judge(&alike(BYTES, 2, &exactly(1000.0)), Some(&baseline(recorded())));
    let gated: Vec<Metric> = result.gates.iter().map(|gate| gate.metric).collect();
    let expected: Vec<Metric> = Metric::ALL
        .into_iter()
        .filter(|metric| *metric == BYTES || metric.default_limit(Limits::Xinchuang).is_some())
        .collect();
    assert_eq!(gated, expected);
    assert_eq!((result.verdict, result.runs), (Verdict::Pass, 2));
}

#[test]
fn without_a_baseline_nothing_is_green() {
    let summary = alike(BYTES, 3, &exactly(1000.0));
    for baseline in [None, Some(&baseline_of([]))] {
        let result = judge(&summary, baseline);
        assert_eq!(result.verdict, Verdict::NoBaseline);
        let gate = gate(&result, BYTES);
        assert_eq!(gate.verdict, Verdict::NoBaseline);
        assert_eq!(gate.reason, "No baseline: record one with `memgate baseline record`.");
        assert_eq!(gate.measured, Some(1000.0));
    }
    let leaking = alike(Metric::GoroutinesLeaked, 2, &exactly(7.0));
    assert_eq!(judge(&leaking, None).verdict, Verdict::Regressed, "limits are judged all the same");
}

#[test]
fn a_baseline_that_does_not_fit_is_not_compared_and_limits_still_hold() {
    let mut other = baseline_of([(BYTES, recorded()), (Metric::GoroutinesMax, limit(900.0))]);
    other.environment.page_size = 16_384;
    other.environment.go = "go1.26.9".to_owned();
    let result = judge(&alike(BYTES, 2, &exactly(5000.0)), Some(&other));
    let misfit = "The baseline does not fit: page size 16384 bytes in the baseline and 4096 bytes here, Go version go1.26 in \
                  the baseline and go1.27 here; to record it anew, run `memgate record --service uaa --platform \
                  linux/amd64 --runs 5` and `memgate baseline accept` on what it writes.";
    let bytes = gate(&result, BYTES);
    assert_eq!((bytes.verdict, bytes.reason.as_str()), (Verdict::Inconclusive, misfit));
    assert_eq!(gate(&result, Metric::GoroutinesMax).verdict, Verdict::Regressed);
    assert_eq!(result.notes, [misfit]);
}

#[test]
fn load_phases_and_build_must_fit_if_both_name_them() {
    let mut summary = alike(BYTES, 2, &exactly(1000.0));
    summary.environment.build = [("GOAMD64".to_owned(), "v1".to_owned())].into();
    summary.environment.variables = [("GOGC".to_owned(), "100".to_owned())].into();
    let ours = summary.environment.clone();
    let named = || {
        let mut baseline = baseline(recorded());
        let environment = &mut baseline.environment;
        environment.build = Some(ours.build_text());
        environment.variables = Some(ours.variables_text());
        environment.load = Some(ours.load.clone());
        environment.phases = Some(ours.phases.clone());
        baseline
    };
    assert_eq!(judge(&summary, Some(&named())).verdict, Verdict::Pass);
    type Change = fn(&mut BaselineEnvironment);
    let cases: [(Change, &str); 3] = [
        (
            |theirs| theirs.build = Some("-race=true GOAMD64=v1".to_owned()),
            "build -race=true GOAMD64=v1 in the baseline and GOAMD64=v1 here",
        ),
        (
            |theirs| theirs.load = Some("50/s over 32 connections: 1 GET /".to_owned()),
            "load 50/s over 32 connections: 1 GET / in",
        ),
        (|theirs| theirs.phases = Some("1 s, 3 s".to_owned()), "phases 1 s, 3 s in the baseline and 10 s, 60 s here"),
    ];
    for (change, says) in cases {
        let mut other = named();
        change(&mut other.environment);
        let result = judge(&summary, Some(&other));
        let bytes = gate(&result, BYTES);
        assert_eq!(bytes.verdict, Verdict::Inconclusive, "{says}");
        assert!(bytes.reason.contains(says), "{says}: {}", bytes.reason);
    }
    // Evidence that does not know its load is compared.
    summary.environment.load.clear();
    summary.environment.phases.clear();
    assert_eq!(judge(&summary, Some(&named())).verdict, Verdict::Pass);
}

#[test]
fn what_a_service_needs_must_fit() {
    let mut summary = alike(BYTES, 2, &exactly(1000.0));
    let mut other = baseline(recorded());
    let verdict = |summary: &_, other: &_| gate(&judge(summary, Some(other)), BYTES).clone();
    other.environment.dependencies = Some("none".to_owned());
    assert_eq!(verdict(&summary, &other).verdict, Verdict::Pass);
    summary.environment.dependencies = "redis `redis-server`".to_owned();
    let says = "dependencies none in the baseline and redis `redis-server` here";
    for theirs in [Some("none".to_owned()), None] {
        other.environment.dependencies = theirs;
        let gate = verdict(&summary, &other);
        assert_eq!(gate.verdict, Verdict::Inconclusive);
        assert!(gate.reason.contains(says), "{}", gate.reason);
    }
    other.environment.dependencies = Some("redis `redis-server`".to_owned());
    assert_eq!(verdict(&summary, &other).verdict, Verdict::Pass);
}

#[test]
fn another_machine_and_other_variables_are_borne_and_told() {
    let mut other = baseline(recorded());
    other.environment.variables = Some("GOGC=50".to_owned());
    (other.environment.cpus, other.environment.thp) = (4, "always".to_owned());
    let result = judge(&alike(BYTES, 2, &exactly(1000.0)), Some(&other));
    assert_eq!(result.verdict, Verdict::Pass);
    assert_eq!(
        result.notes,
        ["the baseline was recorded with other settings: CPUs 4 in the baseline and 2 here, transparent huge pages \
          always in the baseline and madvise here, variables GOGC=50 in the baseline and none here; figures of time, GC, \
          threads and resident memory may differ for that alone"]
    );
}

#[test]
fn runner_platform_and_name_must_fit_and_a_patch_release_may_differ() {
    let summary = alike(BYTES, 2, &exactly(1000.0));
    assert_eq!(judge(&summary, Some(&baseline(recorded()))).verdict, Verdict::Pass, "go1.27.1 and go1.27.3");
    let changes: [fn(&mut Baseline); 3] = [
        |baseline| baseline.environment.runner = Runner::Qemu,
        |baseline| baseline.platform = Platform::LinuxArm64,
        |baseline| baseline.service = "api".to_owned(),
    ];
    for change in changes {
        let mut other = baseline(recorded());
        change(&mut other);
        assert_eq!(judge(&summary, Some(&other)).verdict, Verdict::Inconclusive, "{other:?}");
    }
}

/// A share of 30,000 requests that failed.
fn failing(share: f64) -> Measurement {
    around(share, 0.001).map(|errors| Estimate { n: 30_000, ..errors })
}

#[test]
fn a_kill_and_a_crash_are_facts_that_need_no_second_run() {
    let killed = summary_of(Metric::OomKills, &[exactly(0.0), exactly(1.0)]);
    assert_ruling(
        ruling(&killed, &baseline(recorded()), Metric::OomKills),
        Verdict::Regressed,
        "1 exceeds the limit of 0: a fact, which needs no second run.",
    );
    let once = summary_of(Metric::RequestErrors, &[failing(0.0005), exactly(0.4)]);
    assert_eq!(ruling(&once, &baseline(recorded()), Metric::RequestErrors).0, Verdict::Regressed, "in one of two runs");
    let crashed = alike(Metric::RequestErrors, 1, &exactly(0.4));
    let (verdict, _) = ruling(&crashed, &baseline(recorded()), Metric::RequestErrors);
    assert_eq!(verdict, Verdict::Regressed);
    let failing = alike(Metric::RequestErrors, 1, &failing(0.005));
    let (verdict, _) = ruling(&failing, &baseline(recorded()), Metric::RequestErrors);
    assert_eq!(verdict, Verdict::Inconclusive, "failures of a service that lived are a sample");
    let many = alike(Metric::GoroutinesMax, 1, &exactly(5000.0));
    let (verdict, _) = ruling(&many, &baseline(recorded()), Metric::GoroutinesMax);
    assert_eq!(verdict, Verdict::Inconclusive, "an exact maximum of one process says nothing of the next");
}

#[test]
fn figures_of_a_service_that_fails_its_requests_mean_nothing() {
    let mut summary = alike(Metric::RequestErrors, 2, &failing(0.02));
    for run in &mut summary.runs {
        run.metrics.insert(Metric::GoroutinesLeaked, exactly(3.0));
    }
    let result = judge(&summary, Some(&baseline(recorded())));
    assert_eq!(gate(&result, Metric::RequestErrors).verdict, Verdict::Regressed);
    assert_eq!(gate(&result, Metric::GoroutinesLeaked).verdict, Verdict::Regressed, "regressions stay");
    let spoiled = gate(&result, BYTES);
    assert_eq!(spoiled.verdict, Verdict::Inconclusive);
    assert_eq!(spoiled.reason, "2% of the requests failed: figures of a service that fails its requests mean nothing.");
    assert_eq!(result.figures.keys().collect::<Vec<_>>(), [&Metric::RequestErrors], "nor does a history keep them");
    // One run: the gate itself is not confirmed, but more than 1 % of the requests failed.
    let once = judge(&alike(Metric::RequestErrors, 1, &failing(0.02)), Some(&baseline(recorded())));
    assert_eq!(gate(&once, BYTES).verdict, Verdict::Inconclusive);
    // A few failures do no harm.
    let few = judge(&alike(Metric::RequestErrors, 1, &failing(0.005)), Some(&baseline(recorded())));
    assert_eq!(gate(&few, BYTES).verdict, Verdict::Pass);
}

#[test]
fn a_result_has_the_figures_of_all_metrics_gated_or_not() {
    let mut summary = alike(BYTES, 2, &around(1000.0, 50.0));
    for run in &mut summary.runs {
        run.metrics.insert(Metric::GcMarkP99, unavailable("there is no cycle"));
    }
    let result = judge(&summary, None);
    assert!(result.gates.len() < Metric::ALL.len());
    let known: Vec<_> = Metric::ALL.into_iter().filter(|metric| *metric != Metric::GcMarkP99).collect();
    assert_eq!(result.figures.keys().copied().collect::<Vec<_>>(), known);
    let (figure, gate) = (result.figures[&Metric::HeapLiveGrowth], gate(&result, Metric::HeapLiveGrowth));
    assert_eq!((Some(figure.measured), Some(figure.low), Some(figure.high)), (gate.measured, gate.low, gate.high));
}

#[test]
fn more_runs_are_made_until_every_gate_is_decided() {
    let more = |runs, figure: Measurement| more_runs(&judge(&alike(BYTES, runs, &figure), Some(&baseline(recorded()))));
    assert_eq!(more(1, exactly(1150.0)), Some(2));
    assert_eq!(more(1, exactly(1000.0)), None, "nothing to decide");
    assert_eq!(more(2, exactly(1150.0)), None, "decided already");
    assert_eq!(more(2, around(1060.0, 150.0)), Some(3));
    assert_eq!(more(3, around(1060.0, 150.0)), Some(4));
    assert_eq!(more(4, around(1060.0, 150.0)), Some(6));
    assert_eq!(more(6, around(1060.0, 150.0)), None, "more runs are not made for ever");
    assert_eq!(more(2, unavailable("3 records were lost")), None, "more runs decide nothing");
    let leaked = judge(&alike(Metric::GoroutinesLeaked, 1, &exactly(1.0)), None);
    assert_eq!(more_runs(&leaked), Some(2), "limits count too");
    let killed = judge(&alike(Metric::OomKills, 1, &exactly(1.0)), None);
    assert_eq!(more_runs(&killed), None, "a fact needs none");
}

#[test]
fn the_worst_verdict_counts_and_of_none_nothing_is_known() {
    use Verdict::*;
    let order = [Pass, Improved, Advisory, NoBaseline, Inconclusive, Regressed];
    for (index, &verdict) in order.iter().enumerate() {
        assert_eq!(worst(order[..=index].iter().copied()), verdict);
        assert_eq!(worst(order[..=index].iter().rev().copied()), verdict);
    }
    assert_eq!(worst([]), Inconclusive);
}

#[test]
fn a_gate_that_asks_for_action_names_the_first_call_sites() {
    let place =
        |line| SourceLocation { function: "main.put".to_owned(), file: String::new(), line, in_repository: false };
    let site = |line| Site {
        kind: SiteKind::Heap,
        at: place(line),
        own: None,
        starts: None,
        amount: 1.0,
        unit: Unit::Bytes,
        share: 1.0,
        samples: Some(1),
        error: Some(2.0),
    };
    let lines = |figure: Measurement, expectation: Expectation| {
        let mut summary = alike(BYTES, 2, &figure);
        summary.sites.insert(BYTES, (1..9).map(site).collect());
        let result = judge(&summary, Some(&baseline(expectation)));
        let gate = gate(&result, BYTES);
        (gate.verdict, gate.sites.iter().map(|site| site.at.line).collect::<Vec<_>>())
    };
    let advisory = Expectation { advisory: true, ..recorded() };
    let first = vec![1, 2, 3, 4, 5];
    assert_eq!(lines(around(1100.0, 10.0), recorded()), (Verdict::Regressed, first.clone()));
    assert_eq!(lines(around(1100.0, 200.0), recorded()), (Verdict::Inconclusive, first.clone()));
    assert_eq!(lines(around(1100.0, 10.0), advisory), (Verdict::Advisory, first));
    assert_eq!(lines(unavailable("lost"), recorded()), (Verdict::Inconclusive, vec![]));
    assert_eq!(lines(around(1000.0, 10.0), recorded()), (Verdict::Pass, vec![]));
}

/// A metric without a gate does not make a verdict inconclusive, even if the kernel cannot provide it.
#[test]
fn a_missing_metric_that_is_not_asked_for_leaves_the_verdict() {
    for metric in
        Metric::ALL.into_iter().filter(|metric| *metric != BYTES && metric.default_limit(Limits::Xinchuang).is_none())
    {
        let result = judge(&alike(metric, 2, &unavailable("no uprobes")), Some(&baseline(recorded())));
        assert_eq!(result.verdict, Verdict::Pass, "{metric}");
        let asked = baseline_of([(metric, limit(1.0))]);
        let result = judge(&alike(metric, 2, &unavailable("no uprobes")), Some(&asked));
        assert_eq!(gate(&result, metric).verdict, Verdict::Inconclusive, "{metric}");
    }
}

#[test]
fn runs_without_a_figure_do_not_hide_a_failure_of_the_others() {
    let (leak, gap) = (around(9e6, 1e6), unavailable("the samples have a gap of 6.4 s in the phase"));
    let of = |runs: &[Measurement]| {
        let result = judge(&summary_of(Metric::OffheapGrowth, runs), None);
        let gate = gate(&result, Metric::OffheapGrowth);
        (gate.verdict, gate.reason.clone(), gate.measured)
    };
    let (verdict, reason, measured) = of(&[leak.clone(), gap.clone(), leak.clone()]);
    assert_eq!((verdict, measured), (Verdict::Regressed, Some(9e6)));
    assert_eq!(
        reason,
        "9MB/min (at least 8.18MB/min) exceeds the limit of 2MB/min in each of 2 runs; run 2: the samples have a gap of 6.4 s in the phase."
    );
    assert_eq!(of(&[leak.clone(), gap.clone()]).0, Verdict::Inconclusive, "one run fails nothing");
    assert_eq!(of(&[leak, gap.clone(), around(0.0, 1e5)]).0, Verdict::Inconclusive);
    let (verdict, reason, measured) = of(&[around(0.0, 1e5), gap, around(0.0, 1e5)]);
    assert_eq!((verdict, measured), (Verdict::Inconclusive, None), "what one run did is not known");
    assert_eq!(reason, "No figure: run 2: the samples have a gap of 6.4 s in the phase.");
}

/// Long pauses vary by more than short ones. Two runs suffice for pauses that are 200 times as long.
#[test]
fn the_noise_of_a_time_is_a_factor() {
    const PAUSE: Metric = Metric::GcPauseP90;
    let expectation = || Expectation {
        baseline: Some(259e3),
        noise: Some(51e3),
        tolerance: Some(1.0),
        floor: Some(10e6),
        must_notice: Some(40e6),
        ..Expectation::default()
    };
    let of = |figures: &[f64]| {
        let figures: Vec<_> = figures.iter().map(|figure| around(*figure, 0.2 * figure)).collect();
        ruling(&summary_of(PAUSE, &figures), &baseline_of([(PAUSE, expectation())]), PAUSE)
    };
    let (verdict, reason) = of(&[84e6, 54e6]);
    assert_eq!(verdict, Verdict::Regressed, "{reason}");
    assert_eq!(reason, "69ms exceeds the baseline of 259µs by more than 10ms (floor), in each of 2 runs.");
    assert_eq!(of(&[280e3, 84e6]).0, Verdict::Inconclusive, "one disturbed run fails nothing");
    assert_eq!(of(&[11e6, 300e3]).0, Verdict::Pass);
    assert_eq!(of(&[280e3, 240e3]).0, Verdict::Pass);
}

/// An expectation with a waiver until this day. The runs are of 2026-11-23.
fn waived(expectation: Expectation, expires: &str) -> Baseline {
    let waiver =
        Waiver { reason: "until the rewrite".to_owned(), owner: "ada".to_owned(), expires: expires.to_owned() };
    baseline(Expectation { waiver: Some(waiver), ..expectation })
}

#[test]
fn a_waived_gate_is_advisory_up_to_its_last_day() {
    let worse = alike(BYTES, 2, &exactly(1300.0));
    for expires in ["2026-11-23", "2027-01-01"] {
        let result = judge(&worse, Some(&waived(recorded(), expires)));
        let bytes = gate(&result, BYTES);
        assert_eq!(bytes.verdict, Verdict::Advisory, "{}", bytes.reason);
        let reason = format!("Waived until {expires} by ada (until the rewrite): 1300B/request exceeds");
        assert!(bytes.reason.replace("1.30kB", "1300B").starts_with(&reason), "{}", bytes.reason);
        assert_eq!(
            result.notes,
            [format!("alloc_bytes_per_request is waived until {expires} by ada: until the rewrite")]
        );
    }
    let lacking = summary_of(BYTES, &[exactly(1.0), unavailable("records were lost")]);
    assert_eq!(gate(&judge(&lacking, Some(&waived(recorded(), "2026-12-01"))), BYTES).verdict, Verdict::Advisory);
    let fine = judge(&alike(BYTES, 2, &exactly(1000.0)), Some(&waived(recorded(), "2026-12-01")));
    assert_eq!(gate(&fine, BYTES).verdict, Verdict::Pass);
    assert_eq!(fine.notes.len(), 1, "a waiver that is not needed is told too");
}

#[test]
fn a_waiver_that_has_ended_fails_whatever_the_figure_is() {
    for figure in [1000.0, 1300.0] {
        let result = judge(&alike(BYTES, 2, &exactly(figure)), Some(&waived(recorded(), "2026-11-22")));
        let bytes = gate(&result, BYTES);
        assert_eq!(bytes.verdict, Verdict::Regressed);
        let reason =
            "The waiver of ada ended on 2026-11-22 (until the rewrite), and the runs are of 2026-11-23: remove it";
        assert!(bytes.reason.starts_with(reason), "{}", bytes.reason);
    }
    // A day that nobody knows is within no waiver.
    let mut summary = alike(BYTES, 2, &exactly(1000.0));
    summary.day = String::new();
    assert_eq!(judge(&summary, Some(&waived(recorded(), "2027-01-01"))).verdict, Verdict::Regressed);
}
