//! Compares a figure with an absolute limit.

use super::{figures::Figures, ruling::Ruling};
use crate::{metric::Metric, results::Verdict, summarise::Estimate};

/// Passes if the upper end over all runs is within the limit. Fails if the lower end of every run exceeds it and a
/// second, fresh process has confirmed it. Is inconclusive in between.
///
/// A *fact* needs no second process. It is an exact count of something that must not happen, such as a kill by the
/// kernel or the requests that a crash left unanswered. One occurrence in two runs is still an occurrence.
pub(super) fn rule(limit: f64, figures: &Figures<'_>) -> Ruling {
    let pooled = figures.pooled;
    let (measured, limit_text) = (figures.text(pooled.measured), figures.text(limit));
    if let Some(where_found) = fact_beyond(limit, figures) {
        return Ruling::new(
            Verdict::Regressed,
            format!("{measured} exceeds the limit of {limit_text}, {where_found}: a fact, which needs no second run"),
        );
    }
    let runs = figures.runs.len();
    let over = figures.runs.iter().filter(|(_, estimate)| estimate.low > limit).count();
    if over == runs {
        let least = at_least(figures);
        return if figures.confirmed {
            let clause = format!("{measured}{least} exceeds the limit of {limit_text} in each of {runs} runs");
            Ruling::new(Verdict::Regressed, clause)
        } else {
            let clause =
                format!("{measured}{least} exceeds the limit of {limit_text} in the only run: `runs: 2` decides");
            Ruling::new(Verdict::Inconclusive, clause)
        };
    }
    if over > 0 {
        let clause = format!("the limit of {limit_text} is exceeded in {over} of {runs} runs: more runs decide");
        return Ruling::new(Verdict::Inconclusive, clause);
    }
    if pooled.high <= limit {
        return Ruling::new(
            Verdict::Pass,
            format!("{measured}{} is within the limit of {limit_text}", at_most(figures)),
        );
    }
    Ruling::new(
        Verdict::Inconclusive,
        format!(
            "{measured} lies between {} and {}, on both sides of the limit of {limit_text}: measuring longer decides",
            figures.text(pooled.low),
            figures.text(pooled.high)
        ),
    )
}

fn at_least(figures: &Figures<'_>) -> String {
    let least = figures.runs.iter().map(|(_, estimate)| estimate.low).fold(f64::INFINITY, f64::min);
    if least < figures.pooled.measured { format!(" (at least {})", figures.text(least)) } else { String::new() }
}

fn at_most(figures: &Figures<'_>) -> String {
    let Estimate { measured, high, .. } = *figures.pooled;
    if high > measured { format!(" (at most {})", figures.text(high)) } else { String::new() }
}

/// Where a fact exceeds the limit. `request_errors` are exact only if the service ended by itself.
fn fact_beyond(limit: f64, figures: &Figures<'_>) -> Option<String> {
    if !matches!(figures.metric, Metric::OomKills | Metric::RequestErrors) {
        return None;
    }
    let is_beyond = |estimate: &Estimate| estimate.low == estimate.high && estimate.measured > limit;
    let in_run = figures.runs.iter().find(|(_, estimate)| is_beyond(estimate));
    let in_run = in_run.map(|(run, _)| format!("in run {run}"));
    in_run.or_else(|| is_beyond(figures.pooled).then(|| "over all runs".to_owned()))
}
