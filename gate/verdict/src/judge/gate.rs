//! One gate: the expectation of a metric, and the ruling on it.

use super::{against_baseline, against_limit, figures::Figures, ruling::Ruling};
use crate::{
    baseline::{Baseline, Expectation},
    metric::{Metric, Quantity},
    results::{GateResult, Verdict},
    summarise::{Estimate, Summary},
};

/// The expectation of a metric.
pub(super) struct Gate {
    pub(super) metric: Metric,
    /// The limit: the baseline's own, or else the default.
    pub(super) limit: Option<f64>,
    /// The baseline's expectation, if any.
    pub(super) expectation: Expectation,
    /// Why the recorded figure cannot be compared.
    misfit: Option<String>,
    /// Whether there is no baseline at all, so that this gate stands for all its gates.
    stands_for_baseline: bool,
}

impl Gate {
    /// The gate on a metric; `None` if nothing is expected of it. In a guest, a time that the baseline does not name is
    /// advisory.
    pub(super) fn of(
        metric: Metric,
        in_guest: bool,
        baseline: Option<&Baseline>,
        misfit: Option<&str>,
    ) -> Option<Self> {
        let entry = baseline.and_then(|baseline| baseline.metrics.get(&metric));
        let unnamed =
            Expectation { advisory: in_guest && metric.quantity() == Quantity::Time, ..Expectation::default() };
        let expectation = entry.cloned().unwrap_or(unnamed);
        let limit = expectation.limit.or_else(|| metric.default_limit());
        // An empty baseline counts as none: emptying the file must not turn a gate green.
        let without = baseline.is_none_or(|baseline| baseline.metrics.is_empty());
        let stands_for_baseline = without && metric == Metric::AllocBytesPerRequest;
        let asked = entry.is_some() || limit.is_some() || stands_for_baseline;
        asked.then(|| Self { metric, limit, expectation, misfit: misfit.map(str::to_owned), stands_for_baseline })
    }

    /// The outcome of the gate.
    pub(super) fn judge(&self, summary: &Summary, confirmed: bool) -> GateResult {
        let pooled = summary.pooled.get(&self.metric).and_then(|measurement| measurement.as_ref().ok());
        let ruling = match self.figures(summary, confirmed) {
            Ok(figures) => self.rule(&figures),
            Err(reason) => Ruling::new(Verdict::Inconclusive, format!("no figure: {reason}")),
        };
        let ruling = if self.expectation.advisory { ruling.advisory() } else { ruling };
        GateResult {
            metric: self.metric,
            unit: self.metric.unit(),
            measured: pooled.map(|estimate| estimate.measured),
            low: pooled.map(|estimate| estimate.low),
            high: pooled.map(|estimate| estimate.high),
            limit: self.limit,
            baseline: self.expectation.baseline,
            verdict: ruling.verdict,
            reason: ruling.sentence(),
            sites: Vec::new(),
        }
    }

    fn rule(&self, figures: &Figures<'_>) -> Ruling {
        if let Some(reason) = self.unfit() {
            return Ruling::new(Verdict::Inconclusive, reason);
        }
        let relative = self.expectation.baseline.map(|baseline| match &self.misfit {
            Some(misfit) => Ruling::new(Verdict::Inconclusive, misfit.clone()),
            None => against_baseline::rule(baseline, &self.expectation, figures),
        });
        let absolute = self.limit.map(|limit| against_limit::rule(limit, figures));
        let ruling = match (relative, absolute) {
            (Some(relative), Some(absolute)) => relative.and(absolute),
            (Some(ruling), None) | (None, Some(ruling)) => ruling,
            (None, None) => Ruling::new(Verdict::NoBaseline, self.nothing_to_compare()),
        };
        match figures.pooled.remark.as_str() {
            "" => ruling,
            remark => Ruling { clause: format!("{}; {remark}", ruling.clause), ..ruling },
        }
    }

    fn nothing_to_compare(&self) -> &'static str {
        if self.stands_for_baseline {
            "no baseline: record one with `memgate baseline record`"
        } else {
            "the baseline names neither a limit nor a figure for this metric: record it with `memgate baseline record`"
        }
    }

    /// Why nothing can be compared with the expectation: comparisons with NaN would pass.
    fn unfit(&self) -> Option<String> {
        let Expectation { limit: _, baseline, noise, tolerance, floor, advisory: _ } = self.expectation;
        let sizes = [("noise", noise), ("tolerance", tolerance), ("floor", floor)];
        let wrong_size =
            sizes.into_iter().find(|(_, size)| size.is_some_and(|size| !(size.is_finite() && size >= 0.0)));
        if let Some((name, _)) = wrong_size {
            return Some(format!("the baseline's {name} is not a number of at least 0"));
        }
        let figures = [("limit", self.limit), ("figure", baseline)];
        let wrong = figures.into_iter().find(|(_, figure)| figure.is_some_and(|figure| !figure.is_finite()));
        wrong.map(|(name, _)| format!("the baseline's {name} is not a finite number"))
    }

    /// The figures, if every run has one.
    fn figures<'a>(&self, summary: &'a Summary, confirmed: bool) -> Result<Figures<'a>, String> {
        let metric = self.metric;
        let pooled = usable(summary.pooled.get(&metric))?;
        let runs: Result<Vec<_>, _> =
            summary.runs.iter().map(|run| Ok::<_, String>((run.run, usable(run.metrics.get(&metric))?))).collect();
        let runs = runs?;
        if runs.is_empty() {
            return Err("no run was measured".to_owned());
        }
        Ok(Figures { metric, runs, pooled, confirmed })
    }
}

fn usable(measurement: Option<&crate::summarise::Measurement>) -> Result<&Estimate, String> {
    match measurement {
        None => Err("it was not measured".to_owned()),
        Some(Err(unavailable)) => Err(unavailable.reason.clone()),
        Some(Ok(estimate)) if [estimate.measured, estimate.low, estimate.high].into_iter().all(f64::is_finite) => {
            Ok(estimate)
        }
        Some(Ok(_)) => Err("it is not a finite number".to_owned()),
    }
}
