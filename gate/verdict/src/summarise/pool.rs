//! One figure of several fresh processes.
//!
//! A figure of one process says what that process did. A verdict is about the service, so it uses the mean over the
//! processes, and how much they differ.

use std::collections::BTreeSet;

use super::{
    Estimate, Measurement, Unavailable,
    stats::{Z_975, count_f64, mean, median, share_within, standard_deviation, t_quantile},
};
use crate::metric::{Metric, Pooling};

/// The weight of the uncertainty within the runs, in runs, beside the spread between them.
///
/// Two or three runs say little about how runs differ: their standard deviation may be ten times too small or twice too
/// large. The uncertainty within each run is known better. So the variance is the mean of the two, with this many
/// degrees of freedom for the latter (the moderated variance of G. K. Smyth, Stat. Appl. Genet. Mol. Biol. 3, 2004), and
/// never less than the latter. docs/explanation/statistics.md gives the false alarms on recorded runs.
const WITHIN_WEIGHT: f64 = 8.0;

/// A metric over several fresh processes, in the metric's unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Pooled {
    /// The point estimate: the mean of the runs' figures, their sum, or a share of their sum, as the metric says.
    pub measured: f64,
    /// The number of runs.
    pub runs: usize,
    /// The number of values behind it in all runs: pauses, cycles, requests.
    pub n: u64,
    /// The mean of what grows, bytes; `None` if the metric is not a growth.
    pub level: Option<f64>,
    /// Whether a run's growth is so little in so short a phase that it may be none. More runs do not tell: what a service
    /// takes once, as it gets to work, each of them takes.
    pub needs_longer: bool,
    /// Whether what a run counted may be a pool that still fills.
    pub may_be_pool: bool,
    /// A remark on how the figure was made. Empty if the metric's name says it all.
    pub remark: String,
    /// The largest figure of a run that is an exact count and no estimate; `None` if there is none.
    pub largest_count: Option<f64>,
    noise: Noise,
}

/// How far the figure may be from what the service does on average.
#[derive(Debug, Clone, PartialEq)]
enum Noise {
    /// Each run has an exact count. The runs' range.
    Range { low: f64, high: f64 },
    /// Standard errors of the mean below and above it, and their degrees of freedom.
    OfMean { below: f64, above: f64, freedom: f64 },
    /// A share of a count.
    Share { part: u64, whole: u64 },
}

impl Pooled {
    /// The metric over these runs; the reason if one of them has no figure, because leaving the run out would hide the
    /// gap. `runs` are the runs' numbers and figures.
    ///
    /// # Errors
    /// When there is no run, or when a run has no finite figure.
    pub fn of<'a>(metric: Metric, runs: &[(u32, Option<&'a Measurement>)]) -> Result<Self, Unavailable> {
        // A reason that all runs share needs no number.
        let of_all = |(_, figure): &(u32, Option<&'a Measurement>)| usable(*figure).err();
        let several = runs.iter().map(of_all).collect::<BTreeSet<_>>().len() > 1;
        let of_run = |(run, figure): &(u32, Option<&'a Measurement>)| match usable(*figure) {
            Ok(figure) => Ok((*run, figure)),
            Err(reason) if several => Err(Unavailable { reason: format!("run {run}: {reason}") }),
            Err(reason) => Err(Unavailable { reason }),
        };
        let numbered: Vec<(u32, &Estimate)> = runs.iter().map(of_run).collect::<Result<_, _>>()?;
        let figures: Vec<&Estimate> = numbered.iter().map(|(_, figure)| *figure).collect();
        let points: Vec<f64> = figures.iter().map(|figure| figure.measured).collect();
        let Some(centre) = mean(&points) else { return Err(Unavailable::because("no run was measured")) };
        let measured = match metric.pooling() {
            Pooling::Mean => centre,
            Pooling::Sum => points.iter().sum(),
            Pooling::Share => {
                let (part, whole) = parts_of_all(&figures);
                if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
            }
        };
        if !measured.is_finite() {
            return Err(Unavailable::because("the figures of the runs are too large for a mean"));
        }
        let levels: Vec<f64> = figures.iter().filter_map(|figure| figure.level).collect();
        Ok(Self {
            measured,
            runs: figures.len(),
            n: figures.iter().fold(0u64, |sum, figure| sum.saturating_add(figure.n)),
            level: mean(&levels),
            needs_longer: figures.iter().any(|figure| figure.needs_longer),
            may_be_pool: figures.iter().any(|figure| figure.may_be_pool),
            remark: remark(&numbered),
            largest_count: figures.iter().filter(|one| one.low == one.high).map(|one| one.measured).reduce(f64::max),
            noise: Noise::of(metric, &figures, &points),
        })
    }

    /// The bound that lies above the figure's mean with a probability of at most `alpha`.
    pub fn lower(&self, alpha: f64) -> f64 {
        match self.noise {
            Noise::Range { .. } => self.measured,
            Noise::OfMean { below, freedom, .. } => self.measured - t_quantile(1.0 - alpha, freedom) * below,
            Noise::Share { part, whole } => share_within(part, whole, alpha).low,
        }
    }

    /// The bound that lies below the figure's mean with a probability of at most `alpha`.
    pub fn upper(&self, alpha: f64) -> f64 {
        match self.noise {
            Noise::Range { .. } => self.measured,
            Noise::OfMean { above, freedom, .. } => self.measured + t_quantile(1.0 - alpha, freedom) * above,
            Noise::Share { part, whole } => share_within(part, whole, alpha).high,
        }
    }

    /// The interval to show: that of 95 %, or the range of the runs if each has an exact count.
    pub fn interval(&self) -> (f64, f64) {
        match self.noise {
            Noise::Range { low, high } => (low.min(self.measured), high.max(self.measured)),
            Noise::OfMean { .. } | Noise::Share { .. } => (self.lower(0.025), self.upper(0.025)),
        }
    }

    /// The standard error of the figure on its upper side; 0 for an exact count.
    pub fn std_error(&self) -> f64 {
        match self.noise {
            Noise::Range { .. } => 0.0,
            Noise::OfMean { above, .. } => above,
            Noise::Share { .. } => (self.upper(0.025) - self.measured) / Z_975,
        }
    }

    /// Whether the figure is an exact count, not an estimate.
    pub const fn is_exact(&self) -> bool {
        matches!(self.noise, Noise::Range { .. })
    }
}

impl Noise {
    fn of(metric: Metric, figures: &[&Estimate], points: &[f64]) -> Self {
        let is_exact = figures.iter().all(|figure| figure.low == figure.high);
        if metric.pooling() == Pooling::Share && !is_exact {
            let (part, whole) = parts_of_all(figures);
            return Self::Share { part, whole };
        }
        if is_exact {
            let (low, high) = points
                .iter()
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), point| (low.min(*point), high.max(*point)));
            return Self::Range { low, high };
        }
        // The median, because the noise of one run may happen to look like a trend, which makes its interval very wide.
        let side = |half: fn(&Estimate) -> f64| {
            let errors: Vec<f64> = figures.iter().map(|figure| half(figure) / Z_975).collect();
            median(errors).unwrap_or(0.0).powi(2)
        };
        let of_runs = count_f64(points.len());
        let between = standard_deviation(points).unwrap_or(0.0).powi(2);
        let freedom = WITHIN_WEIGHT + of_runs - 1.0;
        let error = |within: f64| {
            let moderated = (WITHIN_WEIGHT * within + (of_runs - 1.0) * between) / freedom;
            (moderated.max(within) / of_runs).sqrt()
        };
        Self::OfMean {
            below: error(side(|figure| figure.measured - figure.low)),
            above: error(side(|figure| figure.high - figure.measured)),
            freedom,
        }
    }
}

/// The standard deviation between the figures of runs; `None` for fewer than two figures.
pub fn deviation(runs: &[(u32, Option<&Measurement>)]) -> Option<f64> {
    let points: Vec<f64> = runs.iter().filter_map(|(_, figure)| usable(*figure).ok()).map(|one| one.measured).collect();
    standard_deviation(&points)
}

/// One standard deviation of several and their degrees of freedom, weighted by the latter; `None` without any degree of
/// freedom.
pub fn pooled_deviation(parts: impl IntoIterator<Item = (f64, f64)>) -> Option<(f64, f64)> {
    let (squares, freedom) = parts
        .into_iter()
        .filter(|(_, freedom)| *freedom > 0.0)
        .fold((0.0, 0.0), |(squares, sum), (deviation, freedom): (f64, f64)| {
            (squares + freedom * deviation.powi(2), sum + freedom)
        });
    (freedom > 0.0).then(|| ((squares / freedom).sqrt(), freedom))
}

fn usable(figure: Option<&Measurement>) -> Result<&Estimate, String> {
    match figure {
        None => Err("it was not measured".to_owned()),
        Some(Err(unavailable)) => Err(unavailable.reason.clone()),
        Some(Ok(estimate)) if [estimate.measured, estimate.low, estimate.high].into_iter().all(f64::is_finite) => {
            Ok(estimate)
        }
        Some(Ok(_)) => Err("it is not a finite number".to_owned()),
    }
}

/// The parts and the whole of a share over all runs, such as failed requests of those intended.
fn parts_of_all(figures: &[&Estimate]) -> (u64, u64) {
    let sum = |of: fn(&Estimate) -> f64| count(figures.iter().map(|figure| of(figure)).sum());
    let whole = sum(|figure| figure.n as f64);
    (sum(|figure| (figure.measured * figure.n as f64).round()).min(whole), whole)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates and makes 0 of NaN")]
const fn count(value: f64) -> u64 {
    value as u64
}

/// The runs' remark. If they differ, the first one and its run.
fn remark(figures: &[(u32, &Estimate)]) -> String {
    let Some((run, first)) = figures.iter().find(|(_, figure)| !figure.remark.is_empty()) else {
        return String::new();
    };
    if figures.iter().all(|(_, figure)| figure.remark == first.remark) {
        first.remark.clone()
    } else {
        format!("run {run}: {}", first.remark)
    }
}
