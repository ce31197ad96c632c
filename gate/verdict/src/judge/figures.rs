//! The figures of a metric, as the rules use them.

use super::{looks, ruling::Ruling};
use crate::{
    metric::Metric,
    results::Need,
    summarise::{Pooled, Summary, Unavailable, deviation},
    units,
};

/// The normal quantile of 95 %, for what would have been noticed.
pub(super) const Z_95: f64 = 1.645;

/// The figures of a metric.
pub(super) struct Figures {
    pub(super) metric: Metric,
    /// The figure of all runs together.
    pub(super) all: Pooled,
    /// The figures of two sets of runs, of which the second is fresh; `None` if there is only one run.
    pub(super) sets: Option<(Pooled, Pooled)>,
    /// The standard deviation between the runs; `None` if there is only one.
    pub(super) deviation: Option<f64>,
}

impl Figures {
    /// The figures, if every run has one.
    ///
    /// # Errors
    /// When a run has no finite figure.
    pub(super) fn of(metric: Metric, summary: &Summary) -> Result<Self, Unavailable> {
        let runs = summary.of_each_run(metric);
        // First, because its reason names the run.
        let all = Pooled::of(metric, &runs)?;
        let sets = match looks::sets(&runs) {
            Some((first, fresh)) => Some((Pooled::of(metric, first)?, Pooled::of(metric, fresh)?)),
            None => None,
        };
        Ok(Self { metric, all, sets, deviation: deviation(&runs) })
    }

    /// The figures of the runs that have one, if at least two do. They may show a failure, and never that a gate holds: what
    /// the other runs did is not known.
    pub(super) fn of_some(metric: Metric, summary: &Summary) -> Option<Self> {
        let runs = summary.of_each_run(metric);
        let known: Vec<_> =
            runs.into_iter().filter(|run| Pooled::of(metric, std::slice::from_ref(run)).is_ok()).collect();
        let (first, fresh) = looks::sets(&known)?;
        let pooled = |runs| Pooled::of(metric, runs).ok();
        let sets = Some((pooled(first)?, pooled(fresh)?));
        Some(Self { metric, all: pooled(&known)?, sets, deviation: deviation(&known) })
    }

    /// The number of runs.
    pub(super) const fn runs(&self) -> usize {
        self.all.runs
    }

    /// The chance of a false failure that each set of runs may have.
    pub(super) const fn alpha(&self) -> f64 {
        looks::alpha(self.all.runs)
    }

    /// Whether more runs may still decide.
    pub(super) fn more_runs(&self) -> bool {
        looks::next(self.all.runs).is_some()
    }

    /// The ruling on a figure that is too high if it may be that of a pool which still fills, as long as more runs tell.
    pub(super) fn may_be_pool(&self, told: &str) -> Option<Ruling> {
        let reason = || format!("{told}, and may be a pool that still fills: more runs decide");
        (self.all.may_be_pool && self.more_runs()).then(|| Ruling::undecided(Need::MoreRuns, reason()))
    }

    /// Whether each of the two sets of runs says so by itself.
    pub(super) fn both(&self, says: impl Fn(&Pooled) -> bool) -> bool {
        self.sets.as_ref().is_some_and(|(first, fresh)| says(first) && says(fresh))
    }

    /// `in both halves of 4 runs`.
    pub(super) fn in_both(&self) -> String {
        match self.runs() {
            2 => "in each of 2 runs".to_owned(),
            runs => format!("in both halves of {runs} runs"),
        }
    }

    /// A figure of this metric as text, with its unit.
    pub(super) fn text(&self, value: f64) -> String {
        units::format(value, self.metric.unit())
    }
}
