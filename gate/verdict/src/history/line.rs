//! One line of a history: what a verdict was, of which commit, and every figure behind it.

use std::collections::BTreeMap;

use memgate_evidence::platform::{Platform, Runner};
use serde::{Deserialize, Serialize};

use crate::{
    metric::Metric,
    results::{Figure, ServiceResult, Verdict},
};

/// The schema of a [`Line`].
pub const SCHEMA: u64 = 1;

/// The JSON Schema of a [`Line`].
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(Line).to_value()
}

/// A line of a history file: the verdict on one service on one platform, with every figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Version of this format.
    #[schemars(range(min = 1, max = 1))]
    pub schema: u64,
    /// The time of judging, RFC 3339.
    pub judged_at: String,
    /// The commit of the checkout; `null` if there was none.
    pub commit: Option<String>,
    /// The service's name in the configuration.
    pub service: String,
    /// The platform measured.
    pub platform: Platform,
    /// Where the service ran.
    pub runner: Runner,
    /// The version of memgate that judged.
    pub memgate: String,
    /// The version of Go that built the service.
    pub go: String,
    /// The worst verdict of all gates.
    pub verdict: Verdict,
    /// The number of fresh processes that were measured.
    pub runs: u32,
    /// The figures by the name of their metric, each in that metric's unit. A metric without a figure is not there.
    pub metrics: BTreeMap<String, Figure>,
}

impl Line {
    /// The line of a judged service.
    pub fn of(result: &ServiceResult, memgate: &str, judged_at: &str, commit: Option<&str>) -> Self {
        let figures = result.figures.iter().map(|(metric, figure)| (metric.name().to_owned(), *figure));
        Self {
            schema: SCHEMA,
            judged_at: judged_at.to_owned(),
            commit: commit.map(str::to_owned),
            service: result.service.clone(),
            platform: result.platform,
            runner: result.environment.runner,
            memgate: memgate.to_owned(),
            go: result.environment.go.clone(),
            verdict: result.verdict,
            runs: result.runs,
            metrics: figures.collect(),
        }
    }

    /// When it was judged.
    ///
    /// # Errors
    /// When the line has no such time. The error is a clause without a full stop.
    pub fn time(&self) -> Result<jiff::Timestamp, String> {
        self.judged_at.parse().map_err(|_| {
            let text = crate::quoted::shorten(&self.judged_at);
            format!("`judged_at`: `{text}` is not a time such as 2026-11-23T12:00:00Z")
        })
    }

    /// The figure of a metric.
    pub fn figure(&self, metric: Metric) -> Option<Figure> {
        self.metrics.get(metric.name()).copied()
    }
}
