//! Compares a figure with an absolute limit.

use super::{
    figures::{Figures, Z_95},
    ruling::Ruling,
};
use crate::{
    metric::{Metric, Pooling},
    results::{Need, Verdict},
    summarise::Pooled,
};

/// A figure that holds its limit must exclude this multiple of the limit, unless the baseline asks for more.
///
/// A growth is a small difference of large figures, and a share of failures is of few events. To show that a leak of
/// exactly the limit is not there takes many runs, and that one of twice the limit is not there takes few.
const PROMISE_FOR_SMALL: f64 = 2.0;
/// The same for other figures.
const PROMISE: f64 = 1.1;

/// The chance that a figure's upper bound is too low.
const ALPHA_OF_PROMISE: f64 = 0.025;

/// That none of fewer events failed says nothing.
const FEWEST: u64 = 10;

/// Passes if the figure is within the limit, and its upper bound excludes what the gate promises to notice
/// (`must_notice`, or else a multiple of the limit). Fails if both sets of runs, each by itself, are significantly
/// beyond: a growth is significant if it is no noise, another figure if the limit lies below its lower bound.
///
/// A *fact* needs no second run. It is an exact count of something that must not happen, such as a kill by the kernel
/// or the requests that a crash left unanswered.
pub(super) fn rule(limit: f64, must_notice: Option<f64>, figures: &Figures) -> Ruling {
    let (measured, limit_text) = (figures.text(figures.all.measured), figures.text(limit));
    if is_fact_beyond(limit, figures) {
        return Ruling::new(
            Verdict::Regressed,
            format!("{measured} exceeds the limit of {limit_text}: a fact, which needs no second run"),
        );
    }
    let alpha = figures.alpha();
    let beyond = |figure: &Pooled| figure.measured > limit && is_significant(figure, limit, alpha, figures.metric);
    if figures.both(beyond) {
        if let Some(open) = figures.may_be_pool(&format!("{measured} exceeds the limit of {limit_text}")) {
            return open;
        }
        let clause = format!("{measured}{} exceeds the limit of {limit_text} {}", at_least(figures), figures.in_both());
        return Ruling::new(Verdict::Regressed, clause);
    }
    if figures.all.measured > limit {
        return too_much(limit, figures);
    }
    let promise = must_notice.unwrap_or_else(|| promise(limit, figures.metric));
    let high = figures.all.upper(ALPHA_OF_PROMISE);
    if high <= promise.max(limit) || is_without_any(&figures.all, figures.metric) {
        let noticed = limit + Z_95 * figures.all.std_error();
        let at_most =
            if high > figures.all.measured { format!(" (at most {})", figures.text(high)) } else { String::new() };
        return Ruling::holds(
            Verdict::Pass,
            noticed,
            format!("{measured}{at_most} is within the limit of {limit_text}"),
        );
    }
    let clause = format!(
        "{measured} is within the limit of {limit_text}, but may be up to {}, and the gate must notice {}",
        figures.text(high),
        figures.text(promise)
    );
    if promise.max(limit) <= 0.0 {
        let clause = format!("{clause}: a limit of 0 leaves no room for noise, so raise `limit` or name `must_notice`");
        return Ruling::undecided(Need::Baseline, clause);
    }
    undecided(clause, figures)
}

/// A figure above its limit that is not shown to be a failure.
fn too_much(limit: f64, figures: &Figures) -> Ruling {
    let (measured, limit_text) = (figures.text(figures.all.measured), figures.text(limit));
    let clause = match &figures.sets {
        None => format!("{measured} exceeds the limit of {limit_text} in the only run"),
        Some((first, fresh)) if (first.measured > limit) != (fresh.measured > limit) => {
            format!("{measured} exceeds the limit of {limit_text}, but not {}", figures.in_both())
        }
        Some(_) => {
            let (low, high) = figures.all.interval();
            let (low, high) = (figures.text(low), figures.text(high));
            format!("{measured} exceeds the limit of {limit_text}, but lies between {low} and {high}")
        }
    };
    undecided(clause, figures)
}

fn undecided(clause: String, figures: &Figures) -> Ruling {
    if figures.more_runs() && !figures.all.needs_longer {
        Ruling::undecided(Need::MoreRuns, format!("{clause}: more runs decide"))
    } else {
        Ruling::undecided(Need::LongerPhase, format!("{clause}: a longer measuring phase decides"))
    }
}

fn is_significant(figure: &Pooled, limit: f64, alpha: f64, metric: Metric) -> bool {
    let low = figure.lower(alpha);
    if metric.unit().is_growth() { low > 0.0 && !figure.needs_longer } else { low > limit || figure.is_exact() }
}

/// Whether nothing of a share happened at all: no request failed. A few requests cannot bound their share.
fn is_without_any(figure: &Pooled, metric: Metric) -> bool {
    metric.pooling() == Pooling::Share && figure.measured == 0.0 && figure.n >= FEWEST
}

fn promise(limit: f64, metric: Metric) -> f64 {
    let is_rare = metric.unit().is_growth() || metric.pooling() == Pooling::Share;
    limit * if is_rare { PROMISE_FOR_SMALL } else { PROMISE }
}

fn at_least(figures: &Figures) -> String {
    let least = figures.all.interval().0;
    if least < figures.all.measured { format!(" (at least {})", figures.text(least)) } else { String::new() }
}

/// Whether a fact exceeds the limit in one of the runs. The share of failed requests is a fact only if the service ended
/// by itself.
fn is_fact_beyond(limit: f64, figures: &Figures) -> bool {
    let may_be = figures.metric == Metric::OomKills || figures.metric.pooling() == Pooling::Share;
    may_be && figures.all.largest_count.is_some_and(|count| count > limit)
}
