//! Compares a figure with that of another build, whose processes were measured in turn with this one's.

use memgate_evidence::platform::Runner;

use super::{
    figures::{Figures, Z_95},
    ruling::Ruling,
    service::{Other, SITES, failing},
};
use crate::{
    baseline::Baseline,
    metric::{Beside, Comparison, Metric, Quantity, Unit},
    results::{GateResult, Need, Verdict},
    summarise::{Pooled, Site, Summary, grown, pooled_deviation, t_quantile},
    units,
};

/// The gate on a metric of two builds; `None` if the metric is not compared, or if neither build has it.
pub(super) fn gate(
    metric: Metric,
    summary: &Summary,
    baseline: Option<&Baseline>,
    other: Other<'_>,
) -> Option<GateResult> {
    let beside = metric.beside()?;
    let expectation = baseline.and_then(|baseline| baseline.metrics.get(&metric));
    let (change, base) = (Figures::of(metric, summary), Figures::of(metric, other.summary));
    let in_guest = summary.environment.runner == Runner::Qemu;
    let is_reported_only = expectation.is_some_and(|expectation| expectation.advisory);
    let advisory = beside.closely.advisory || is_reported_only || (in_guest && metric.quantity() == Quantity::Time);
    let failing = [summary, other.summary].into_iter().find_map(|summary| failing(summary, false));
    let ruling = match (&change, &base) {
        // What no build has is no difference. A default limit on it has a gate of its own.
        (Err(_), Err(_)) => return None,
        (Err(unavailable), Ok(_)) => Ruling::undecided(Need::Data, format!("no figure: {}", unavailable.reason)),
        (Ok(_), Err(unavailable)) => {
            Ruling::undecided(Need::Data, format!("no figure of {}: {}", other.name, unavailable.reason))
        }
        (Ok(_), Ok(_)) if failing.is_some() => Ruling::undecided(Need::Data, failing.unwrap_or_default()),
        (Ok(change), Ok(base)) => rule(&Pair { change, other: base, name: other.name }, beside),
    };
    let ruling = if advisory { ruling.advisory() } else { ruling };
    let ruling = match expectation.and_then(|expectation| expectation.waiver.as_ref()) {
        Some(waiver) => ruling.waived(waiver, &summary.day),
        None => ruling,
    };
    let pooled = change.as_ref().ok().map(|figures| &figures.all);
    let interval = pooled.map(Pooled::interval);
    Some(GateResult {
        metric,
        unit: metric.unit(),
        measured: pooled.map(|figure| figure.measured),
        low: interval.map(|(low, _)| low),
        high: interval.map(|(_, high)| high),
        limit: None,
        baseline: base.ok().map(|figures| figures.all.measured),
        anchor: None,
        against: Some(other.name.to_owned()),
        noticed: ruling.noticed,
        verdict: ruling.verdict,
        needs: ruling.needs,
        reason: ruling.sentence(),
        sites: if ruling.verdict.asks_for_action() { what_grew(metric, summary, other.summary) } else { Vec::new() },
    })
}

/// The call sites of what a build has more than the other, largest first, as many as a gate names.
fn what_grew(metric: Metric, summary: &Summary, other: &Summary) -> Vec<Site> {
    let of = |summary: &Summary| summary.sites.get(&metric).cloned().unwrap_or_default();
    let scale = summary.runs.len() as f64 / other.runs.len().max(1) as f64;
    // The differences of sites that allocate may be no more than what samples differ, and nobody knows where to look. What
    // stays is little beside what is allocated, and where most of it is, there is the leak.
    let mut sites = grown(&of(summary), &of(other), scale, metric.unit().is_growth());
    sites.truncate(SITES);
    sites
}

/// Both builds' figures of one metric.
pub(super) struct Pair<'a> {
    /// The figures of the build that is judged.
    pub(super) change: &'a Figures,
    /// The figures of the other one.
    pub(super) other: &'a Figures,
    /// The name of the other one.
    pub(super) name: &'a str,
}

/// Regressed if each of two sets of runs exceeds the other build's set of the same rounds by more than the difference
/// that matters, and by more than noise. The noise is the deviation of single runs of both builds together.
///
/// A time may vary more than the difference that matters. So a difference that noise explains passes, with what would
/// have been noticed, as long as it is not as large as the one that matters for recorded figures.
pub(super) fn rule(pair: &Pair<'_>, beside: Beside) -> Ruling {
    let Pair { change, other, name } = *pair;
    let unit = change.metric.unit();
    let (measured, base) = (change.text(change.all.measured), change.text(other.all.measured));
    let effect = beside.closely.effect(other.all.measured);
    let by = text_of(beside.closely, effect, unit);
    let noise = Noise::of(pair);
    let beyond = |change: &Pooled, other: &Pooled| {
        let excess = change.measured - other.measured;
        excess > effect && excess > noise.band(change, other, pair.change.alpha())
    };
    let both = change.sets.as_ref().zip(other.sets.as_ref());
    if both.is_some_and(|((first, fresh), (others, other_fresh))| beyond(first, others) && beyond(fresh, other_fresh)) {
        if let Some(open) = change.may_be_pool(&format!("{measured} exceeds the {base} of {name} by more than {by}")) {
            return open;
        }
        let clause = format!("{measured} exceeds the {base} of {name} by more than {by}, {}", change.in_both());
        return Ruling::new(Verdict::Regressed, clause);
    }
    let excess = change.all.measured - other.all.measured;
    if both.is_none() || excess > beside.undecided.effect(other.all.measured) {
        let clause = match both {
            None => format!("{measured} beside the {base} of {name} in the only run"),
            Some(_) => {
                format!("{measured} exceeds the {base} of {name} by more than {by}, but not {}", change.in_both())
            }
        };
        return match change.more_runs() {
            true => Ruling::undecided(Need::MoreRuns, format!("{clause}: more runs decide")),
            false => Ruling::undecided(Need::LongerPhase, format!("{clause}: a longer measuring phase decides")),
        };
    }
    let noticed = other.all.measured + noise.noticed(pair, both.map(|((_, fresh), (_, other))| (fresh, other)), beside);
    if -excess > effect && -excess > noise.band(&change.all, &other.all, change.alpha()) {
        return Ruling::holds(
            Verdict::Improved,
            noticed,
            format!("{measured} is less than the {base} of {name} by more than {by}"),
        );
    }
    let clause = match () {
        () if excess <= 0.0 => format!("{measured} does not exceed the {base} of {name}"),
        () if excess <= effect => format!("{measured} exceeds the {base} of {name} by no more than {by}"),
        () => format!("{measured} exceeds the {base} of {name} by no more than runs differ"),
    };
    Ruling::holds(Verdict::Pass, noticed, clause)
}

fn text_of(comparison: Comparison, effect: f64, unit: Unit) -> String {
    let is_floor = comparison.floor.is_some_and(|floor| floor >= effect);
    let source = if is_floor {
        "floor".to_owned()
    } else {
        format!("tolerance {}", units::format(comparison.tolerance, Unit::Ratio))
    };
    format!("{} ({source})", units::format(effect, unit))
}

/// The noise of one run of either build.
struct Noise {
    /// Whether each figure knows its own noise.
    of_each: bool,
    /// Its standard deviation.
    deviation: f64,
    /// The degrees of freedom behind it.
    freedom: f64,
}

impl Noise {
    /// The noise of both builds' runs together. Without a second run of one of them nothing is known of it.
    fn of(pair: &Pair<'_>) -> Self {
        let of = |figures: &Figures| figures.deviation.map(|deviation| (deviation, figures.runs() as f64 - 1.0));
        let known = pooled_deviation(of(pair.change).into_iter().chain(of(pair.other)));
        let (deviation, freedom) = known.unwrap_or((f64::INFINITY, 1.0));
        let is_exact = pair.change.all.is_exact() || pair.other.all.is_exact();
        Self { of_each: pair.change.metric.unit().is_growth() && !is_exact, deviation, freedom }
    }

    /// The standard error of the difference of two figures.
    fn std_error(&self, change: &Pooled, other: &Pooled) -> f64 {
        let of = |figure: &Pooled| match self.of_each {
            true => figure.std_error(),
            false => (self.deviation / (figure.runs as f64).sqrt()).max(figure.std_error()),
        };
        of(change).hypot(of(other))
    }

    /// The smallest difference that does not pass in 95 of 100 checks: it fails, or it is as large as one that must not
    /// pass.
    fn noticed(&self, pair: &Pair<'_>, fresh: Option<(&Pooled, &Pooled)>, beside: Beside) -> f64 {
        let (change, other) = (&pair.change.all, &pair.other.all);
        let undecided = beside.undecided.effect(other.measured) + Z_95 * self.std_error(change, other);
        let fails = fresh.map(|(change, other)| {
            let effect = beside.closely.effect(other.measured).max(self.band(change, other, pair.change.alpha()));
            effect + Z_95 * self.std_error(change, other)
        });
        fails.map_or(undecided, |fails| fails.min(undecided))
    }

    /// The difference that noise alone exceeds with a probability of at most `alpha`.
    ///
    /// A run shows how well it knows a slope. So the bounds of the two figures make that of the difference (Zou and Donner,
    /// Stat. Med. 27, 2008).
    fn band(&self, change: &Pooled, other: &Pooled, alpha: f64) -> f64 {
        if self.of_each {
            return (change.measured - change.lower(alpha)).hypot(other.upper(alpha) - other.measured);
        }
        t_quantile(1.0 - alpha, self.freedom) * self.std_error(change, other)
    }
}
