//! Reading and validating a baseline file.

use std::path::{Path, PathBuf};

use memgate_evidence::{
    error::{Error, InputError, Result},
    platform::Platform,
};
use memgate_verdict::baseline::{Baseline, BaselineEnvironment, Expectation, Limit, Waiver};
use memgate_verdict::{
    metric::{Limits, Metric, Unit},
    quoted, units,
};

use super::file;
use crate::{
    Name,
    yaml::{KeyPath, Problem, Scalar, Source, Whole},
};

/// The baseline file of a service on a platform: `DIRECTORY/linux-amd64/SERVICE.yaml`.
pub fn path(directory: &Path, platform: Platform, service: &str) -> PathBuf {
    directory.join(platform.folder()).join(format!("{service}.yaml"))
}

/// Reads the baseline of a service on a platform, `DIRECTORY/linux-amd64/SERVICE.yaml`; `None` if the file does not
/// exist.
///
/// # Errors
/// When `service` cannot name a baseline, or when the file cannot be read or is wrong. The error names the place.
pub fn load(directory: &Path, platform: Platform, service: &str) -> Result<Option<Baseline>> {
    if !Name::is_valid(service) {
        // The name may come from recorded evidence, and must not lead out of the directory.
        let message = format!("`{}` cannot be the name of a baseline", quoted::shorten(service));
        return Err(InputError::new(message, "names have a-z, 0-9 and - only, such as `uaa` or `order-service`").into());
    }
    let path = path(directory, platform, service);
    match Source::read(&path)? {
        Some(source) => Ok(Some(from_source(&source, platform, service)?)),
        None => Ok(None),
    }
}

/// Validates the text of the baseline file of a service on a platform. `path` only names it in errors.
///
/// # Errors
/// When the text is wrong. The error names the place.
pub fn parse(path: &Path, text: &str, platform: Platform, service: &str) -> Result<Baseline> {
    from_source(&Source::new(path.display().to_string(), text), platform, service)
}

/// The JSON Schema of baseline files, for editors. It contains the keys but not the unit of each figure.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(file::File).to_value()
}

pub(super) fn from_source(source: &Source, platform: Platform, service: &str) -> Result<Baseline> {
    let file: file::File = source.parse()?;
    belongs(source, "service", &file.service.0, service)?;
    belongs(source, "platform", file.platform.name(), platform.name())?;
    let place = KeyPath::root().key("metrics");
    if file.metrics.is_empty() {
        let help = "add a metric: `gc_pause_p99: { limit: 50ms }`";
        return Err(source.error(&place.at_key(), Problem::new("there are no metrics", "at least one metric", help)));
    }
    let has_occasions = file.environment.occasions.is_some();
    let metrics = file.metrics.into_iter().map(|(metric, expectation)| {
        let reader = Reader { source, metric, place: place.key(metric.name()) };
        reader.memory(&expectation, has_occasions)?;
        Ok((metric, reader.expectation(&expectation)?))
    });
    Ok(Baseline {
        service: file.service.0,
        platform: file.platform,
        limits: file.limits.map_or_else(Limits::default, |limits| limits.0),
        metrics: metrics.collect::<Result<_, Error>>()?,
        environment: BaselineEnvironment {
            go: file.environment.go.0,
            kernel: file.environment.kernel.0,
            page_size: file.environment.page_size.0,
            thp: file.environment.thp.0,
            cpu: file.environment.cpu.0,
            cpus: file.environment.cpus.as_u32(),
            runner: file.environment.runner,
            recorded: file.environment.recorded.0,
            runs: file.environment.runs.as_u32(),
            occasions: file.environment.occasions.map(Whole::as_u32),
            build: file.environment.build.map(|build| build.0),
            variables: file.environment.variables.map(|variables| variables.0),
            load: file.environment.load.map(|load| load.0),
            phases: file.environment.phases.map(|phases| phases.0),
            dependencies: file.environment.dependencies.map(|dependencies| dependencies.0),
        },
    })
}

/// If someone copies a file and does not record it again, memgate must not judge one service by another's figures.
fn belongs(source: &Source, key: &str, found: &str, expected: &str) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let what = format!("this is the baseline of {found}, but the file's place is that of {expected}");
    let help = "move the file to its place, or record a baseline for this one: `memgate baseline record`";
    Err(source.error(&KeyPath::root().key(key), Problem::new(what, format!("expected {expected}"), help)))
}

/// Reads the expectation of one metric.
struct Reader<'a> {
    source: &'a Source,
    metric: Metric,
    place: KeyPath,
}

impl Reader<'_> {
    fn expectation(&self, file: &file::Expectation) -> Result<Expectation> {
        if file.limit.is_none() && file.baseline.is_none() {
            let help = "write an absolute `limit`, or a recorded `baseline` with its `tolerance`";
            let problem = Problem::new("has neither `limit` nor `baseline`", "needs one of the two", help);
            return Err(self.source.error(&self.place.clone().at_key(), problem));
        }
        let comparison = [
            ("anchor", &file.anchor),
            ("noise", &file.noise),
            ("between", &file.between),
            ("tolerance", &file.tolerance),
            ("floor", &file.floor),
        ];
        if file.baseline.is_none()
            && let Some((key, _)) = comparison.iter().find(|(_, value)| value.is_some())
        {
            let what = format!("`{key}` has no meaning without `baseline`");
            let help = format!("add the recorded `baseline`, or remove `{key}`");
            let place = self.place.key(*key).at_key();
            return Err(self.source.error(&place, Problem::new(what, "there is no `baseline`", help)));
        }
        let unit = self.metric.unit();
        Ok(Expectation {
            limit: self.limit(file.limit.as_ref(), unit)?,
            baseline: self.quantity("baseline", file.baseline.as_ref(), unit)?,
            anchor: self.quantity("anchor", file.anchor.as_ref(), unit)?,
            noise: self.size("noise", file.noise.as_ref(), unit)?,
            noise_freedom: file.noise_freedom.map(Whole::as_u32),
            between: self.size("between", file.between.as_ref(), unit)?,
            between_freedom: file.between_freedom.map(Whole::as_u32),
            tolerance: self.size("tolerance", file.tolerance.as_ref(), Unit::Ratio)?,
            floor: self.size("floor", file.floor.as_ref(), unit)?,
            must_notice: self.size("must_notice", file.must_notice.as_ref(), unit)?,
            advisory: file.advisory,
            waiver: file.waiver.as_ref().map(|waiver| Waiver {
                reason: waiver.reason.0.clone(),
                owner: waiver.owner.0.clone(),
                expires: waiver.expires.0.clone(),
            }),
        })
    }

    /// Checks that what the noise's memory consists of is there together.
    fn memory(&self, file: &file::Expectation, has_occasions: bool) -> Result<()> {
        let wrong = |key: &str, without: &str, help: &str| {
            let what = format!("`{key}` has no meaning without `{without}`");
            let place = self.place.key(key).at_key();
            Err(self.source.error(&place, Problem::new(what, format!("there is no `{without}`"), help)))
        };
        match file {
            _ if file.noise_freedom.is_some() && file.noise.is_none() => {
                wrong("noise_freedom", "noise", "add the `noise` that it is of, or remove it")
            }
            _ if file.between.is_some() && file.between_freedom.is_none() => wrong(
                "between",
                "between_freedom",
                "add its degrees of freedom, one less than the occasions that it is of",
            ),
            _ if file.between_freedom.is_some() && file.between.is_none() => {
                wrong("between_freedom", "between", "add the `between` that it is of, or remove it")
            }
            _ if file.between.is_some() && !has_occasions => wrong(
                "between",
                "environment.occasions",
                "add `occasions: N` to `environment`: of how many the figures are",
            ),
            _ => Ok(()),
        }
    }

    /// An absolute limit, or `none`.
    fn limit(&self, text: Option<&Scalar<file::Quantity>>, unit: Unit) -> Result<Limit> {
        match text {
            None => Ok(Limit::Default),
            Some(Scalar(text)) if text == "none" => Ok(Limit::None),
            Some(_) => Ok(self.size("limit", text, unit)?.map_or(Limit::Default, Limit::At)),
        }
    }

    /// A quantity with a sign if its unit allows one: the growth that was recorded.
    fn quantity(&self, key: &str, text: Option<&Scalar<file::Quantity>>, unit: Unit) -> Result<Option<f64>> {
        let Some(Scalar(text)) = text else { return Ok(None) };
        units::parse(text, unit).map(Some).map_err(|what| self.wrong(key, what, unit))
    }

    /// A quantity without a sign: the growth that is allowed.
    fn size(&self, key: &str, text: Option<&Scalar<file::Quantity>>, unit: Unit) -> Result<Option<f64>> {
        match self.quantity(key, text, unit)? {
            Some(value) if value < 0.0 => {
                let what = format!("a negative `{key}`, which nothing could meet; expected {}", units::expected(unit));
                Err(self.wrong(key, what, unit))
            }
            value => Ok(value),
        }
    }

    fn wrong(&self, key: &str, what: String, unit: Unit) -> Error {
        let expected = units::expected(unit);
        let noun = expected.split(" such as").next().unwrap_or(expected);
        let problem = Problem::new(what, format!("expected {noun}"), format!("write {expected}"));
        self.source.error(&self.place.key(key), problem)
    }
}
