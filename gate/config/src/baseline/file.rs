//! The format of a baseline file. Editors show these doc comments.

use std::collections::BTreeMap;

use memgate_evidence::platform::{Platform, Runner};
use memgate_verdict::{
    metric::{Limits, Metric},
    quoted, units,
};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

use crate::{
    Name, Size,
    yaml::{Kind, Problem, Scalar, Version, Whole},
};

/// What a service is allowed on one platform.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "memgate baseline")]
pub(super) struct File {
    /// Version of this format: 1.
    #[expect(dead_code, reason = "that it deserializes is the check")]
    pub(super) version: Scalar<Version>,
    /// The name of the baseline, which is this file's name.
    pub(super) service: Scalar<Name>,
    /// The platform, which is the name of this file's folder.
    pub(super) platform: Platform,
    /// The default limits of the metrics that name none: `general`, or `xinchuang` for those of the 信创 case as well.
    /// `general` by default.
    pub(super) limits: Option<Scalar<LimitSet>>,
    /// Where the baseline was recorded.
    pub(super) environment: Environment,
    /// The expectation of each metric.
    #[schemars(schema_with = "by_metric")]
    pub(super) metrics: BTreeMap<Metric, Expectation>,
}

/// Where a baseline was recorded. A run is not compared if its environment differs in `go`, `page_size`, `runner`,
/// `build`, `load` or `phases`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Environment {
    /// Go version, such as `go1.27.3`.
    pub(super) go: Scalar<Word>,
    /// Kernel release.
    pub(super) kernel: Scalar<Word>,
    /// Page size.
    pub(super) page_size: Scalar<Size<1>>,
    /// Transparent huge pages: `always`, `madvise`, `never` or `unknown`.
    pub(super) thp: Scalar<Word>,
    /// CPU model.
    pub(super) cpu: Scalar<Word>,
    /// CPUs that the service could use.
    pub(super) cpus: Whole<1, 100_000>,
    /// `native` or `qemu`.
    pub(super) runner: Runner,
    /// The day of the recording, such as `2026-11-23`.
    pub(super) recorded: Scalar<Day>,
    /// The number of fresh processes that were measured.
    pub(super) runs: Whole<1, 10_000>,
    /// The number of occasions on which these runs were made. With this key, `memgate baseline accept` keeps the noise
    /// between occasions apart from that within one.
    pub(super) occasions: Option<Whole<1, 10_000>>,
    /// Settings of the build, such as `GOAMD64=v1`, or `none`.
    pub(super) build: Option<Scalar<Word>>,
    /// Variables of the Go runtime given to the service, such as `GOGC=50`, or `none`.
    pub(super) variables: Option<Scalar<Word>>,
    /// The load, such as `500/s over 32 connections: 3 POST /login, 6 GET /verify`.
    pub(super) load: Option<Scalar<Word>>,
    /// The lengths of the phases under load, such as `10 s, 30 s`.
    pub(super) phases: Option<Scalar<Word>>,
    /// What runs beside the service and before it, such as ``redis `redis-server --port 6379` ``, or `none`.
    pub(super) dependencies: Option<Scalar<Word>>,
}

/// The expectation of one metric: a `limit`, a `baseline`, or both.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Expectation {
    /// Absolute limit; `none` switches the default limit off.
    pub(super) limit: Option<Scalar<Quantity>>,
    /// The recorded figure: the mean of the recorded runs.
    pub(super) baseline: Option<Scalar<Quantity>>,
    /// The recorded figure at the last release, which `memgate baseline anchor` pins. The gate also fails if the figure
    /// drifts from it by more than twice the tolerance or floor.
    pub(super) anchor: Option<Scalar<Quantity>>,
    /// The noise of the recorded figure: the standard deviation between the recorded runs.
    pub(super) noise: Option<Scalar<Quantity>>,
    /// The degrees of freedom behind `noise`, if it is pooled over several recordings. One less than `runs` by default.
    pub(super) noise_freedom: Option<Whole<1, 1_000_000>>,
    /// How the figure differs between occasions: the standard deviation of the means of their runs.
    pub(super) between: Option<Scalar<Quantity>>,
    /// The degrees of freedom behind `between`.
    pub(super) between_freedom: Option<Whole<1, 1_000_000>>,
    /// Relative tolerance, such as 5% of the baseline.
    pub(super) tolerance: Option<Scalar<Quantity>>,
    /// Absolute floor: differences up to this do not matter.
    pub(super) floor: Option<Scalar<Quantity>>,
    /// The worsening that the gate must be able to notice when it holds. If the runs are too noisy for that, the gate is
    /// inconclusive.
    pub(super) must_notice: Option<Scalar<Quantity>>,
    /// If true, the metric is reported and never fails. False by default.
    #[serde(default)]
    pub(super) advisory: bool,
    /// The gate may fail until a day. Afterwards it fails whatever the figure is.
    pub(super) waiver: Option<Waiver>,
}

/// Why a gate may fail, who says so, and until when.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Waiver {
    /// Why the gate may fail.
    pub(super) reason: Scalar<Word>,
    /// Who answers for it.
    pub(super) owner: Scalar<Word>,
    /// The last day on which it holds, such as `2026-12-31`.
    pub(super) expires: Scalar<Day>,
}

/// A set of default limits.
#[derive(Debug)]
pub(super) struct LimitSet;

impl Kind for LimitSet {
    type Value = Limits;
    const EXPECTED: &'static str = "`general` or `xinchuang`";

    fn read(text: &str) -> Result<Limits, Problem> {
        Limits::ALL.into_iter().find(|limits| limits.name() == text).ok_or_else(|| {
            let what = format!("`{}` is no set of limits", quoted::shorten(text));
            Problem::new(what, "expected `general` or `xinchuang`", "write `limits: xinchuang`, or leave it out")
        })
    }

    fn schema() -> Schema {
        json_schema!({ "type": "string", "enum": Limits::ALL.map(Limits::name) })
    }
}

/// Text that is not empty.
#[derive(Debug)]
pub(super) struct Word;

impl Kind for Word {
    type Value = String;
    const EXPECTED: &'static str = "a text that is not empty";

    fn read(text: &str) -> Result<String, Problem> {
        if !text.trim().is_empty() {
            return Ok(text.to_owned());
        }
        Err(Problem::new("is empty", "expected a text", "write `unknown` if it is not known"))
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number"] })
    }
}

/// A day.
#[derive(Debug)]
pub(super) struct Day;

impl Kind for Day {
    type Value = String;
    const EXPECTED: &'static str = "a day such as 2026-11-23";
    const PATTERN: Option<&'static str> = Some("^[0-9]{4}-[0-9]{2}-[0-9]{2}$");

    fn read(text: &str) -> Result<String, Problem> {
        if text.len() == "2026-11-23".len() && text.parse::<jiff::civil::Date>().is_ok() {
            return Ok(text.to_owned());
        }
        let what = format!("`{}` is not {}", quoted::shorten(text), Self::EXPECTED);
        Err(Problem::new(what, "expected a day", format!("write {}", Self::EXPECTED)))
    }
}

/// Whether the text is a day such as `2026-11-23`.
pub fn is_day(text: &str) -> bool {
    Day::read(text).is_ok()
}

/// A quantity. Its unit depends on the metric, so it is parsed later.
#[derive(Debug)]
pub(super) struct Quantity;

impl Kind for Quantity {
    type Value = String;
    const EXPECTED: &'static str = "a quantity with its unit";

    fn read(text: &str) -> Result<String, Problem> {
        Ok(text.to_owned())
    }

    fn schema() -> Schema {
        json_schema!({ "type": ["string", "number"] })
    }
}

/// A map with an optional key for each metric.
fn by_metric(generator: &mut SchemaGenerator) -> Schema {
    let mut properties = serde_json::Map::new();
    for metric in Metric::ALL {
        let mut expectation = generator.subschema_for::<Expectation>();
        let description = format!("Each figure is {}.", units::expected(metric.unit()));
        expectation.insert("description".to_owned(), description.into());
        properties.insert(metric.name().to_owned(), expectation.into());
    }
    json_schema!({ "type": "object", "properties": properties, "additionalProperties": false, "minProperties": 1 })
}
