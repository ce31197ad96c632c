//! Tests of whole verdicts.

mod anchor;
mod bad_input;
mod beside;
mod evidence;
mod memory;
mod power;
mod properties;
mod rules;
mod step;

use std::collections::BTreeMap;

use memgate_evidence::{
    platform::{Platform, Runner},
    tier::Tier,
};
use memgate_testing::environment;

use super::*;
use crate::{
    baseline::{Baseline, BaselineEnvironment, Expectation, Limit, Waiver},
    metric::{Limits, Metric, Unit},
    results::{GateResult, Need, ServiceResult, Verdict, worst},
    summarise::{Estimate, Measurement, RunSummary, Summary, Unavailable},
};

/// An estimate whose interval extends by `half` to either side.
fn around(measured: f64, half: f64) -> Measurement {
    Ok(Estimate {
        measured,
        low: measured - half,
        high: measured + half,
        n: 100,
        level: None,
        needs_longer: false,
        may_be_pool: false,
        remark: String::new(),
    })
}

/// An exact figure.
fn exactly(measured: f64) -> Measurement {
    around(measured, 0.0)
}

fn unavailable(reason: &str) -> Measurement {
    Err(Unavailable { reason: reason.to_owned() })
}

/// Figures that stay within every default limit.
fn good_figures() -> BTreeMap<Metric, Measurement> {
    Metric::ALL
        .into_iter()
        .map(|metric| match metric {
            _ if metric.unit() == Unit::BytesPerMinute => (metric, around(0.0, 1e5)),
            Metric::FdsLeaked | Metric::ThreadsLeaked => (metric, exactly(0.0)),
            Metric::GoroutinesLeaked | Metric::OomKills => (metric, exactly(0.0)),
            Metric::RequestErrors => (metric, around(0.0001, 0.0001).map(|errors| Estimate { n: 30_000, ..errors })),
            Metric::GcCpuFraction => (metric, around(0.05, 0.01)),
            _ => (metric, around(1000.0, 10.0)),
        })
        .collect()
}

/// A summary in which one metric has the given figures in each run.
fn summary_of(metric: Metric, runs: &[Measurement]) -> Summary {
    let with = |measurement: &Measurement| {
        let mut metrics = good_figures();
        metrics.insert(metric, measurement.clone());
        metrics
    };
    Summary {
        service: "uaa".to_owned(),
        platform: Platform::LinuxAmd64,
        baseline: "uaa".to_owned(),
        day: "2026-11-23".to_owned(),
        environment: environment(),
        runs: (1..)
            .zip(runs)
            .map(|(run, measurement)| RunSummary {
                run,
                occasion: 0,
                metrics: with(measurement),
                sites: BTreeMap::new(),
            })
            .collect(),
        sites: BTreeMap::new(),
        tier: Tier::T2,
        options: vec![],
        signals: vec![],
        notes: vec![],
    }
}

/// The same figure in each of `runs` runs.
fn alike(metric: Metric, runs: usize, figure: &Measurement) -> Summary {
    summary_of(metric, &vec![figure.clone(); runs])
}

fn baseline_of(metrics: impl IntoIterator<Item = (Metric, Expectation)>) -> Baseline {
    let environment = environment();
    Baseline {
        service: "uaa".to_owned(),
        platform: Platform::LinuxAmd64,
        limits: Limits::Xinchuang,
        environment: BaselineEnvironment {
            go: "go1.27.1".to_owned(),
            kernel: environment.kernel,
            page_size: environment.page_size,
            thp: environment.thp,
            cpu: environment.cpu,
            cpus: environment.cpus,
            runner: environment.runner,
            recorded: "2026-11-01".to_owned(),
            runs: 5,
            occasions: None,
            build: None,
            variables: None,
            load: None,
            phases: None,
            dependencies: None,
        },
        metrics: metrics.into_iter().collect(),
    }
}

/// A recorded figure of 1,000 with 5 % tolerance and a noise of 10.
fn recorded() -> Expectation {
    Expectation { baseline: Some(1000.0), noise: Some(10.0), tolerance: Some(0.05), ..Expectation::default() }
}

fn gate(result: &ServiceResult, metric: Metric) -> &GateResult {
    result.gates.iter().find(|gate| gate.metric == metric).unwrap()
}

/// The verdict and the reason for one metric.
fn ruling(summary: &Summary, baseline: &Baseline, metric: Metric) -> (Verdict, String) {
    let result = judge(summary, Some(baseline));
    let gate = gate(&result, metric);
    (gate.verdict, gate.reason.clone())
}
