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
    Expectation { limit: Some(limit), ..Expectation::default() }
}

#[track_caller]
fn assert_ruling((verdict, reason): (Verdict, String), expected: Verdict, text: &str) {
    assert_eq!((verdict, reason.as_str()), (expected, text));
}

#[test]
fn a_limit_is_judged_on_the_far_side_of_the_interval() {
    assert_ruling(
        bytes(1, &around(1000.0, 100.0), limit(1100.0)),
        Verdict::Pass,
        "1kB/request (at most 1.10kB/request) is within the limit of 1.10kB/request.",
    );
    assert_ruling(
        bytes(2, &around(1000.0, 100.0), limit(1050.0)),
        Verdict::Inconclusive,
        "1kB/request lies between 900B/request and 1.10kB/request, on both sides of the limit of 1.05kB/request: measuring longer decides.",
    );
    assert_ruling(
        bytes(2, &around(1000.0, 100.0), limit(850.0)),
        Verdict::Regressed,
        "1kB/request (at least 900B/request) exceeds the limit of 850B/request in each of 2 runs.",
    );
    assert_ruling(
        bytes(1, &around(1000.0, 100.0), limit(850.0)),
        Verdict::Inconclusive,
        "1kB/request (at least 900B/request) exceeds the limit of 850B/request in the only run: `runs: 2` decides.",
    );
}

#[test]
fn runs_that_disagree_on_a_limit_decide_nothing() {
    let summary = summary_of(BYTES, &[exactly(900.0), exactly(1200.0)], exactly(1200.0));
    assert_ruling(
        ruling(&summary, &baseline(limit(1000.0)), BYTES),
        Verdict::Inconclusive,
        "The limit of 1kB/request is exceeded in 1 of 2 runs: more runs decide.",
    );
}

#[test]
fn a_figure_at_its_limit_holds() {
    assert_eq!(bytes(1, &exactly(1000.0), limit(1000.0)).0, Verdict::Pass);
}

#[test]
fn a_difference_regresses_when_it_is_beyond_the_band_significant_and_confirmed() {
    assert_ruling(
        bytes(2, &around(1100.0, 50.0), recorded()),
        Verdict::Regressed,
        "1.10kB/request exceeds the baseline of 1kB/request by more than 50B/request (tolerance 5%), significantly and in each of 2 runs.",
    );
    assert_ruling(
        bytes(1, &around(1100.0, 50.0), recorded()),
        Verdict::Inconclusive,
        "1.10kB/request exceeds the baseline of 1kB/request by more than 50B/request (tolerance 5%) in the only run: `runs: 2` decides.",
    );
    assert_ruling(
        bytes(2, &around(1100.0, 150.0), recorded()),
        Verdict::Inconclusive,
        "1.10kB/request exceeds the baseline of 1kB/request by more than 50B/request (tolerance 5%), but its interval reaches down to the baseline: measuring longer decides.",
    );
    let summary = summary_of(BYTES, &[around(1040.0, 5.0), around(1200.0, 5.0)], around(1120.0, 80.0));
    assert_ruling(
        ruling(&summary, &baseline(recorded()), BYTES),
        Verdict::Inconclusive,
        "1.12kB/request exceeds the baseline of 1kB/request by more than 50B/request (tolerance 5%), but alone only 1 of 2 runs do: more runs decide.",
    );
    let summary = summary_of(BYTES, &[around(1060.0, 5.0), around(1060.0, 5.0)], around(1040.0, 5.0));
    assert_ruling(
        ruling(&summary, &baseline(recorded()), BYTES),
        Verdict::Inconclusive,
        "Each of 2 runs exceeds the baseline of 1kB/request by more than 50B/request (tolerance 5%), but together, with 1.04kB/request, they do not: more runs decide.",
    );
}

#[test]
fn the_widest_of_tolerance_floor_and_noise_is_the_band() {
    let with = |floor, noise| Expectation { floor: Some(floor), noise: Some(noise), ..recorded() };
    assert_eq!(bytes(2, &around(1070.0, 1.0), with(60.0, 10.0)).0, Verdict::Regressed);
    assert_ruling(
        bytes(2, &around(1070.0, 1.0), with(80.0, 10.0)),
        Verdict::Pass,
        "1.07kB/request exceeds the baseline of 1kB/request by no more than 80B/request (floor).",
    );
    assert_ruling(
        bytes(2, &around(1070.0, 1.0), with(60.0, 25.0)),
        Verdict::Pass,
        "1.07kB/request exceeds the baseline of 1kB/request by no more than 75B/request (3 × noise of 25B/request).",
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
fn a_gain_beyond_the_band_is_an_improvement() {
    assert_ruling(
        bytes(1, &around(900.0, 20.0), recorded()),
        Verdict::Improved,
        "900B/request is less than the baseline of 1kB/request by more than 50B/request (tolerance 5%): accept a new baseline to keep the gain.",
    );
    assert_ruling(
        bytes(1, &around(900.0, 120.0), recorded()),
        Verdict::Pass,
        "900B/request does not exceed the baseline of 1kB/request.",
    );
}

#[test]
fn the_worse_of_limit_and_baseline_counts() {
    let both = |limit| Expectation { limit: Some(limit), ..recorded() };
    assert_ruling(
        bytes(2, &around(1010.0, 10.0), both(2000.0)),
        Verdict::Pass,
        "1.01kB/request exceeds the baseline of 1kB/request by no more than 50B/request (tolerance 5%); 1.01kB/request (at most 1.02kB/request) is within the limit of 2kB/request.",
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
    let summary = alike(BYTES, 1, &around(1100.0, 10.0));
    assert!(!needs_confirmation(&summary, Some(&baseline(advisory))));
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
    let result = judge(&alike(Metric::GcPauseP99, 1, &figure), None);
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
    let expected: Vec<Metric> =
        Metric::ALL.into_iter().filter(|metric| *metric == BYTES || metric.default_limit().is_some()).collect();
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
                  the baseline and go1.27 here; record a new one with `memgate baseline record`.";
    let bytes = gate(&result, BYTES);
    assert_eq!((bytes.verdict, bytes.reason.as_str()), (Verdict::Inconclusive, misfit));
    assert_eq!(gate(&result, Metric::GoroutinesMax).verdict, Verdict::Regressed);
    assert_eq!(result.notes, [misfit]);
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

#[test]
fn a_kill_and_a_crash_are_facts_that_need_no_second_run() {
    let killed = summary_of(Metric::OomKills, &[exactly(0.0), exactly(1.0)], exactly(1.0));
    assert_ruling(
        ruling(&killed, &baseline(recorded()), Metric::OomKills),
        Verdict::Regressed,
        "1 exceeds the limit of 0, in run 2: a fact, which needs no second run.",
    );
    let crashed = alike(Metric::RequestErrors, 1, &exactly(0.4));
    let (verdict, _) = ruling(&crashed, &baseline(recorded()), Metric::RequestErrors);
    assert_eq!(verdict, Verdict::Regressed);
    let failing = alike(Metric::RequestErrors, 1, &around(0.005, 0.001));
    let (verdict, _) = ruling(&failing, &baseline(recorded()), Metric::RequestErrors);
    assert_eq!(verdict, Verdict::Inconclusive, "failures of a service that lived are a sample");
    let many = alike(Metric::GoroutinesMax, 1, &exactly(5000.0));
    let (verdict, _) = ruling(&many, &baseline(recorded()), Metric::GoroutinesMax);
    assert_eq!(verdict, Verdict::Inconclusive, "an exact maximum of one process says nothing of the next");
}

#[test]
fn figures_of_a_service_that_fails_its_requests_mean_nothing() {
    let mut summary = alike(Metric::RequestErrors, 2, &around(0.02, 0.001));
    summary.pooled.insert(Metric::GoroutinesLeaked, exactly(3.0));
    for run in &mut summary.runs {
        run.metrics.insert(Metric::GoroutinesLeaked, exactly(3.0));
    }
    let result = judge(&summary, Some(&baseline(recorded())));
    assert_eq!(gate(&result, Metric::RequestErrors).verdict, Verdict::Regressed);
    assert_eq!(gate(&result, Metric::GoroutinesLeaked).verdict, Verdict::Regressed, "regressions stay");
    let spoiled = gate(&result, BYTES);
    assert_eq!(spoiled.verdict, Verdict::Inconclusive);
    assert_eq!(spoiled.reason, "2% of the requests failed: figures of a service that fails its requests mean nothing.");
    // One run: the gate itself is not confirmed, but more than 1 % of the requests failed.
    let once = judge(&alike(Metric::RequestErrors, 1, &around(0.02, 0.001)), Some(&baseline(recorded())));
    assert_eq!(gate(&once, BYTES).verdict, Verdict::Inconclusive);
    // A few failures do no harm.
    let few = judge(&alike(Metric::RequestErrors, 1, &around(0.005, 0.001)), Some(&baseline(recorded())));
    assert_eq!(gate(&few, BYTES).verdict, Verdict::Pass);
}

#[test]
fn a_second_run_is_needed_when_the_only_one_would_fail() {
    let needs =
        |runs, figure: Measurement| needs_confirmation(&alike(BYTES, runs, &figure), Some(&baseline(recorded())));
    assert!(needs(1, around(1100.0, 10.0)));
    assert!(!needs(1, around(1000.0, 10.0)), "nothing to confirm");
    assert!(!needs(1, around(1100.0, 200.0)), "a second run of the same length would not decide");
    assert!(!needs(2, around(1100.0, 10.0)), "confirmed already");
    assert!(needs_confirmation(&alike(Metric::GoroutinesLeaked, 1, &exactly(1.0)), None), "limits count too");
    assert!(!needs_confirmation(&alike(Metric::OomKills, 1, &exactly(1.0)), None), "a fact needs none");
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
    for metric in Metric::ALL.into_iter().filter(|metric| *metric != BYTES && metric.default_limit().is_none()) {
        let result = judge(&alike(metric, 2, &unavailable("no uprobes")), Some(&baseline(recorded())));
        assert_eq!(result.verdict, Verdict::Pass, "{metric}");
        let asked = baseline_of([(metric, Expectation { limit: Some(1.0), ..Expectation::default() })]);
        let result = judge(&alike(metric, 2, &unavailable("no uprobes")), Some(&asked));
        assert_eq!(gate(&result, metric).verdict, Verdict::Inconclusive, "{metric}");
    }
}

/// Checks the claim of docs/explanation/judging.md: two fresh processes at 2.5 % each keep the family-wise error of all
/// gates.
#[test]
fn confirmation_satisfies_holms_strictest_step() {
    let rules_per_gate = 2.0;
    let gates = rules_per_gate * f64::from(u32::try_from(Metric::ALL.len()).unwrap());
    assert!(0.025f64.powi(2) <= 0.05 / gates);
}
