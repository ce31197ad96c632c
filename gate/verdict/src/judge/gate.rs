//! One gate: the expectation of a metric, and the ruling on it.

use memgate_evidence::platform::Runner;

use super::{
    against_anchor::{self, Anchored},
    against_baseline::{self, Recorded},
    against_limit,
    figures::Figures,
    ruling::Ruling,
};
use crate::{
    baseline::{Baseline, Expectation, Limit},
    metric::{Limits, Metric, Quantity},
    results::{GateResult, Need, Verdict},
    summarise::{Pooled, Summary, Trust},
};

/// The expectation of a metric.
pub(super) struct Gate {
    pub(super) metric: Metric,
    /// The limit: the baseline's own, or else the default.
    limit: Option<f64>,
    /// The baseline's expectation, if any.
    pub(super) expectation: Expectation,
    /// What is behind the recorded figure.
    recorded: Recorded,
    /// Why the recorded figure cannot be compared.
    misfit: Option<String>,
    /// Whether there is no baseline at all, so that this gate stands for all its gates.
    stands_for_baseline: bool,
    /// The day of the last run.
    day: String,
    /// The command that pins the recorded figure as the anchor.
    pins: String,
    /// The figures, or why there are none.
    figures: Result<Figures, String>,
    /// The figures of the runs that have one, if others have none.
    of_some: Option<Figures>,
}

/// A default limit beside the runs that a baseline is made of, in the metric's unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LimitForRuns {
    /// The default limit.
    pub limit: f64,
    /// A limit that the runs do not hold gets this one instead: twice what they show at most.
    pub instead: Option<f64>,
}

/// The default limit of a metric for these runs; `None` if it has none, or if a run lacks the metric.
pub fn limit_for_runs(metric: Metric, summary: &Summary, limits: Limits) -> Option<LimitForRuns> {
    let limit = metric.default_limit(limits)?;
    let figures = Figures::of(metric, summary).ok()?;
    let limit = limit.at(figures.all.level);
    let holds = against_limit::rule(limit, None, &figures).verdict.is_good();
    let most = figures.all.interval().1.max(figures.all.upper(0.025));
    Some(LimitForRuns { limit, instead: (!holds).then(|| 2.0 * most.max(limit)) })
}

fn is_missing(summary: &Summary, signal: &str) -> bool {
    summary.signals.iter().any(|note| note.name == signal && note.exactness == Trust::Missing)
}

impl Gate {
    /// The gate on a metric; `None` if nothing is expected of it. In a guest, a time that the baseline does not name is
    /// advisory.
    pub(super) fn of(
        metric: Metric,
        summary: &Summary,
        baseline: Option<&Baseline>,
        misfit: Option<&str>,
    ) -> Option<Self> {
        let entry = baseline.and_then(|baseline| baseline.metrics.get(&metric));
        let in_guest = summary.environment.runner == Runner::Qemu;
        let unnamed =
            Expectation { advisory: in_guest && metric.quantity() == Quantity::Time, ..Expectation::default() };
        let expectation = entry.cloned().unwrap_or(unnamed);
        let limits = baseline.map_or_else(Limits::default, |baseline| baseline.limits);
        // An empty baseline counts as none: emptying the file must not turn a gate green.
        let without = baseline.is_none_or(|baseline| baseline.metrics.is_empty());
        let stands_for_baseline = without && metric == Metric::AllocBytesPerRequest;
        let default = metric.default_limit(limits);
        let has_limit = match expectation.limit {
            Limit::At(_) => true,
            Limit::None => false,
            Limit::Default => default.is_some(),
        };
        // `limit: none` alone says that nothing is expected.
        let is_optional = entry.is_none() && metric.optional_signal().is_some_and(|signal| is_missing(summary, signal));
        let asked = (has_limit && !is_optional) || expectation.baseline.is_some() || stands_for_baseline;
        let is_empty_entry = entry.is_some() && expectation.limit == Limit::Default;
        if !asked && !is_empty_entry {
            return None;
        }
        let figures = Figures::of(metric, summary).map_err(|unavailable| unavailable.reason);
        let of_some = if figures.is_err() { Figures::of_some(metric, summary) } else { None };
        let level = figures.as_ref().ok().or(of_some.as_ref()).and_then(|figures| figures.all.level);
        let limit = match expectation.limit {
            Limit::At(limit) => Some(limit),
            Limit::None => None,
            Limit::Default => default.map(|limit| limit.at(level)),
        };
        Some(Self {
            metric,
            limit,
            expectation,
            recorded: baseline.map_or(Recorded::default(), |baseline| Recorded::of(&baseline.environment)),
            misfit: misfit.map(str::to_owned),
            stands_for_baseline,
            day: summary.day.clone(),
            pins: format!(
                "memgate baseline anchor --service {} --platform {} --metric {metric}",
                summary.baseline, summary.platform
            ),
            figures,
            of_some,
        })
    }

    /// The outcome of the gate.
    pub(super) fn judge(&self) -> GateResult {
        let ruling = match &self.figures {
            Ok(figures) => self.rule(figures),
            Err(reason) => self.rule_some(reason),
        };
        let ruling = if self.expectation.advisory { ruling.advisory() } else { ruling };
        let ruling = match &self.expectation.waiver {
            Some(waiver) => ruling.waived(waiver, &self.day),
            None => ruling,
        };
        let of_some = self.of_some.as_ref().filter(|_| ruling.verdict == Verdict::Regressed);
        let pooled = self.figures.as_ref().ok().or(of_some).map(|figures| &figures.all);
        let interval = pooled.map(Pooled::interval);
        GateResult {
            metric: self.metric,
            unit: self.metric.unit(),
            measured: pooled.map(|figure| figure.measured),
            low: interval.map(|(low, _)| low),
            high: interval.map(|(_, high)| high),
            limit: self.limit,
            baseline: self.expectation.baseline,
            anchor: self.expectation.anchor,
            against: None,
            noticed: ruling.noticed,
            verdict: ruling.verdict,
            needs: ruling.needs,
            reason: ruling.sentence(),
            sites: Vec::new(),
        }
    }

    /// The ruling if some run has no figure. The others may show a failure, but nothing shows that the gate holds.
    fn rule_some(&self, reason: &str) -> Ruling {
        let fails = |ruling: &Ruling| ruling.verdict == Verdict::Regressed;
        match self.of_some.as_ref().map(|figures| self.rule(figures)).filter(fails) {
            Some(ruling) => Ruling { clause: format!("{}; {reason}", ruling.clause), ..ruling },
            None => Ruling::undecided(Need::Data, format!("no figure: {reason}")),
        }
    }

    fn rule(&self, figures: &Figures) -> Ruling {
        if let Some(reason) = self.unfit() {
            return Ruling::undecided(Need::Baseline, reason);
        }
        let relative = self.expectation.baseline.map(|baseline| match &self.misfit {
            Some(misfit) => Ruling::undecided(Need::Baseline, misfit.clone()),
            None => self.beside_recorded(baseline, figures),
        });
        let absolute = self.limit.map(|limit| against_limit::rule(limit, self.expectation.must_notice, figures));
        let ruling = match (relative, absolute) {
            (Some(relative), Some(absolute)) => relative.and(absolute),
            (Some(ruling), None) | (None, Some(ruling)) => ruling,
            (None, None) => Ruling::new(Verdict::NoBaseline, self.nothing_to_compare()),
        };
        let clause = [figures.all.remark.clone(), self.power(&ruling, figures)]
            .into_iter()
            .filter(|more| !more.is_empty())
            .fold(ruling.clause, |clause, more| format!("{clause}; {more}"));
        Ruling { clause, ..ruling }
    }

    /// The ruling beside the recorded figure, and the one at the last release if the baseline has it.
    fn beside_recorded(&self, baseline: f64, figures: &Figures) -> Ruling {
        let (expectation, recorded) = (&self.expectation, self.recorded);
        let step = against_baseline::rule(baseline, expectation, recorded, figures);
        let Some(anchor) = expectation.anchor else { return step };
        let anchored = Anchored { anchor, baseline, expectation, recorded, pins: &self.pins };
        against_anchor::rule(step, &anchored, figures)
    }

    /// What a gate that holds would have noticed, if that is not the limit itself.
    fn power(&self, ruling: &Ruling, figures: &Figures) -> String {
        match ruling.noticed {
            Some(noticed) if self.limit.is_none_or(|limit| figures.text(limit) != figures.text(noticed)) => {
                format!("{} would have been noticed", figures.text(noticed))
            }
            _ => String::new(),
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
        // Every field is named, so a new one does not compile until it is handled here.
        let Expectation {
            limit: _,
            baseline,
            anchor,
            noise,
            noise_freedom: _,
            between,
            between_freedom: _,
            tolerance,
            floor,
            must_notice,
            advisory: _,
            waiver: _,
        } = self.expectation;
        let sizes = [
            ("noise", noise),
            ("between", between),
            ("tolerance", tolerance),
            ("floor", floor),
            ("must_notice", must_notice),
        ];
        let wrong_size =
            sizes.into_iter().find(|(_, size)| size.is_some_and(|size| !(size.is_finite() && size >= 0.0)));
        if let Some((name, _)) = wrong_size {
            return Some(format!("the baseline's {name} is not a number of at least 0"));
        }
        let figures = [("limit", self.limit), ("figure", baseline), ("anchor", anchor)];
        let wrong = figures.into_iter().find(|(_, figure)| figure.is_some_and(|figure| !figure.is_finite()));
        wrong.map(|(name, _)| format!("the baseline's {name} is not a finite number"))
    }
}
