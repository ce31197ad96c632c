//! The noise of a recorded figure with a memory: that within an occasion apart from that between occasions.

use memgate_verdict::{
    metric::Metric,
    summarise::{Summary, pooled_deviation},
};
use statrs::statistics::Statistics as _;

use super::render::figures;

/// A standard deviation and the degrees of freedom behind it, at least 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Spread {
    pub(super) deviation: f64,
    pub(super) freedom: u32,
}

/// What runs say of a metric, in its unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Recorded {
    /// The mean over the occasions of the means of their runs.
    pub(super) mean: f64,
    /// How runs of one occasion differ; `None` if no occasion has two runs.
    pub(super) within: Option<Spread>,
    /// How the means of occasions differ, which runs add to; `None` if there is only one occasion.
    pub(super) between: Option<Spread>,
    pub(super) occasions: u32,
}

/// The number of occasions that the runs are of.
pub(super) fn occasions(summary: &Summary) -> u32 {
    let last = summary.runs.iter().map(|run| run.occasion).max();
    last.map_or(0, |last| u32::try_from(last + 1).unwrap_or(u32::MAX))
}

impl Recorded {
    /// What these runs say, or the reason why one of them cannot be used.
    pub(super) fn of(summary: &Summary, metric: Metric) -> Result<Self, String> {
        let figures = figures(summary, metric)?;
        let groups: Vec<Vec<f64>> = (0..occasions(summary) as usize)
            .map(|occasion| {
                let of_occasion = summary.runs.iter().zip(&figures).filter(|(run, _)| run.occasion == occasion);
                of_occasion.map(|(_, figure)| *figure).collect()
            })
            .collect();
        let means: Vec<f64> = groups.iter().map(|group| group.iter().mean()).collect();
        let mean = means.iter().mean();
        let spread = |deviation: f64, freedom: usize| {
            // What rounding leaves of equal figures is no noise.
            let deviation = if deviation > 1e-9 * mean.abs() { deviation } else { 0.0 };
            Spread { deviation, freedom: count(freedom) }
        };
        let of_groups = groups.iter().filter(|group| group.len() > 1);
        let within = pooled_deviation(of_groups.map(|group| (group.iter().std_dev(), group.len() as f64 - 1.0)))
            .map(|(deviation, _)| spread(deviation, figures.len() - groups.len()));
        let between = (groups.len() > 1).then(|| spread(means.iter().std_dev(), groups.len() - 1));
        Ok(Self { mean, within, between, occasions: count(groups.len()) })
    }

    /// How occasions differ, by the step from a figure of so many occasions to this one: an estimate with one degree of
    /// freedom. The step between means of N and of M occasions has the variance between² · (1/N + 1/M).
    pub(super) fn by_step(&self, figure: f64, occasions: u32) -> Spread {
        let per = |occasions: u32| 1.0 / f64::from(occasions.max(1));
        let deviation = (self.mean - figure).abs() / (per(occasions) + per(self.occasions)).sqrt();
        Spread { deviation, freedom: 1 }
    }
}

/// One spread of several, weighted by their degrees of freedom; `None` if there is none.
pub(super) fn pooled(parts: impl IntoIterator<Item = Option<Spread>> + Clone) -> Option<Spread> {
    let known = parts.clone().into_iter().flatten().map(|part| (part.deviation, f64::from(part.freedom)));
    let freedom = parts.into_iter().flatten().fold(0_u32, |sum, part| sum.saturating_add(part.freedom));
    pooled_deviation(known).map(|(deviation, _)| Spread { deviation, freedom })
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_as_far_as_the_means_of_occasions_differ() {
        let now = Recorded { mean: 1003.0, within: None, between: None, occasions: 1 };
        assert_eq!(now.by_step(1000.0, 1), Spread { deviation: 3.0 / 2.0_f64.sqrt(), freedom: 1 });
        assert_eq!(now.by_step(1006.0, 4), Spread { deviation: 3.0 / 1.25_f64.sqrt(), freedom: 1 });
    }

    #[test]
    fn spreads_are_pooled_by_their_degrees_of_freedom() {
        let spread = |deviation, freedom| Some(Spread { deviation, freedom });
        assert_eq!(pooled([None, None]), None);
        assert_eq!(pooled([spread(3.0, 2), None]), spread(3.0, 2));
        assert_eq!(pooled([spread(3.0, 1), spread(1.0, 3)]), spread(3.0_f64.sqrt(), 4));
    }
}
