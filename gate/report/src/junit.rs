//! `JUnit` XML: a test suite for each service on each platform, and a test case for each gate, or one for the failure of
//! a service that could not be judged.
//!
//! Nothing but a pass may look like one: a regression is a failure, and missing data is an error. It is not a skipped
//! test, because CI systems count those as good.

use std::{collections::BTreeMap, time::Duration};

use memgate_evidence::platform::Platform;
use memgate_verdict::results::{GateResult, Report, ServiceFailure, ServiceResult, Verdict};
use quick_junit::{NonSuccessKind, Property, TestCase, TestCaseStatus, TestSuite};

use super::{Style, text, view};

pub(super) fn render(report: &Report, _style: Style) -> String {
    let timestamp = report.judged_at.parse::<jiff::Timestamp>().ok().map(|timestamp| timestamp.to_string());
    let mut junit = quick_junit::Report::new("memgate");
    junit.set_time(Duration::ZERO);
    if let Some(finding) = view::unexplained_report(report) {
        let mut suite = TestSuite::new("memgate");
        suite.set_time(Duration::ZERO);
        suite.add_test_case(finding_case("memgate".to_owned(), &finding, ""));
        junit.add_test_suite(suite);
    }
    junit.add_test_suites(report.results.iter().map(suite));
    junit.add_test_suites(
        report.failures.iter().zip(view::failed(report)).map(|(of, failed)| failed_suite(of, &failed)),
    );
    for suite in &mut junit.test_suites {
        suite.extra.extend(timestamp.iter().map(|timestamp| ("timestamp".into(), timestamp.into())));
    }
    junit.to_string().expect("a string takes whatever is written to it")
}

fn suite(result: &ServiceResult) -> TestSuite {
    let mut suite = TestSuite::new(view::subject(result));
    suite.set_time(Duration::ZERO);
    suite.add_properties(properties(result));
    let class = class(&result.service, result.platform);
    if let Some(finding) = view::unexplained(result) {
        let details = format!("{}\n{}\n{}", view::notes(result), view::trust(result), view::repeat_command(result));
        suite.add_test_case(finding_case(class.clone(), &finding, details.trim_start()));
    }
    suite.add_test_cases(result.gates.iter().map(|gate| gate_case(class.clone(), gate, result)));
    if !result.notes.is_empty() {
        suite.set_system_out(view::notes(result));
    }
    suite
}

/// A suite with one test case that has an error, because a service that could not be judged has neither passed nor
/// regressed.
fn failed_suite(of: &ServiceFailure, failed: &view::Failed) -> TestSuite {
    let mut suite = TestSuite::new(failed.subject.clone());
    suite.set_time(Duration::ZERO);
    let mut status = TestCaseStatus::non_success(NonSuccessKind::Error);
    let lines = [&failed.reason].into_iter().chain(&failed.details).chain([&failed.repeat]);
    let details = lines.cloned().collect::<Vec<_>>().join("\n");
    status.set_message(&failed.reason).set_type(view::FAILED).set_description(details);
    let mut case = TestCase::new(failed.stage.clone(), status);
    case.set_classname(class(&of.service, of.platform)).set_time(Duration::ZERO);
    suite.add_test_case(case);
    suite
}

fn class(service: &str, platform: Platform) -> String {
    format!("{}.{}", text::visible(service), platform.folder())
}

fn properties(result: &ServiceResult) -> Vec<Property> {
    let environment = &result.environment;
    let settings = |name: &'static str, settings: &BTreeMap<String, String>| {
        let pairs: Vec<_> = settings.iter().map(|(name, value)| format!("{name}={value}")).collect();
        Property::new(name, text::visible(&pairs.join(" ")))
    };
    vec![
        Property::new("verdict", result.verdict.name()),
        Property::new("platform", result.platform.name()),
        Property::new("runs", result.runs.to_string()),
        Property::new("tier", result.tier.to_string()),
        Property::new("go", text::visible(&environment.go)),
        Property::new("kernel", text::visible(&environment.kernel)),
        Property::new("page_size", environment.page_size.to_string()),
        Property::new("thp", text::visible(&environment.thp)),
        Property::new("cpu", text::visible(&environment.cpu)),
        Property::new("cpus", environment.cpus.to_string()),
        Property::new("runner", text::visible(environment.runner.name())),
        Property::new("memgate", text::visible(&environment.memgate)),
        settings("build", &environment.build),
        settings("variables", &environment.variables),
    ]
}

fn gate_case(class: String, gate: &GateResult, result: &ServiceResult) -> TestCase {
    let reason = text::visible(&gate.reason);
    let lines = [view::figures(gate)].into_iter().chain(view::site_lines(result.runs, gate));
    let lines = lines.chain([view::trust(result), view::repeat_command(result)]);
    let details = lines.collect::<Vec<_>>().join("\n");
    let mut case = case(class, &view::name(gate), gate.verdict, &reason, &details);
    case.set_system_out(match gate.verdict {
        Verdict::Pass => view::figures(gate),
        verdict @ (Verdict::Improved
        | Verdict::Advisory
        | Verdict::NoBaseline
        | Verdict::Inconclusive
        | Verdict::Regressed) => format!("{}: {reason}\n{}", verdict.name(), view::figures(gate)),
    });
    case
}

fn finding_case(class: String, finding: &view::Finding<'_>, details: &str) -> TestCase {
    case(class, &finding.name, finding.verdict, &finding.reason, details)
}

fn case(class: String, name: &str, verdict: Verdict, reason: &str, details: &str) -> TestCase {
    let mut status = match verdict {
        Verdict::Pass | Verdict::Improved | Verdict::Advisory => TestCaseStatus::success(),
        Verdict::NoBaseline | Verdict::Inconclusive => TestCaseStatus::non_success(NonSuccessKind::Error),
        Verdict::Regressed => TestCaseStatus::non_success(NonSuccessKind::Failure),
    };
    if verdict.exit_code() != 0 {
        status.set_message(reason).set_type(verdict.name()).set_description(details);
    }
    let mut case = TestCase::new(name, status);
    // A gate is judged and not executed, but some readers require a time.
    case.set_classname(class).set_time(Duration::ZERO);
    case
}
