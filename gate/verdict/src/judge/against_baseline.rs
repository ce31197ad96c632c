//! Compares a figure with the recorded one.

use super::{
    figures::{Figures, Z_95},
    ruling::Ruling,
    step::{Explained, Step},
};
use crate::{
    baseline::{BaselineEnvironment, Expectation},
    metric::{Metric, Quantity, Unit},
    results::{Need, Verdict},
    summarise::{Pooled, pooled_deviation, t_quantile},
};

/// What is behind a recorded figure.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Recorded {
    /// The number of runs.
    runs: u32,
    /// The number of occasions on which they were made.
    occasions: u32,
}

impl Recorded {
    pub(super) fn of(environment: &BaselineEnvironment) -> Self {
        Self { runs: environment.runs, occasions: environment.occasions.unwrap_or(1) }
    }
}

/// A difference that matters.
pub(super) struct Effect {
    pub(super) size: f64,
    /// What determines it.
    source: String,
}

/// The noise of one run: its standard deviation, and the degrees of freedom behind it.
pub(super) struct Noise {
    deviation: f64,
    by_factor: Option<ByFactor>,
    freedom: f64,
    /// The number of recorded runs.
    recorded: f64,
    between: Between,
}

/// The noise of the logarithm, for which the share of the deviation stands: pauses of 70 ms vary by 20 ms, and those of
/// 0.3 ms by 0.1 ms.
struct ByFactor {
    /// The recorded figure.
    baseline: f64,
    /// The standard deviation of one run, as a share of its figure.
    share: f64,
    /// Whether the figure varies by a factor at any level, as a time does. Other figures do where they are at least
    /// [`ANOTHER_LEVEL`] times as large as the recorded one. Whichever of the two noises is less then counts.
    always: bool,
}

/// The deviation of runs at one level says little about runs at this many times that level. The cycles of a GC that has
/// too little memory are 28 times as many, and differ by thousands from run to run.
const ANOTHER_LEVEL: f64 = 2.0;

/// How occasions differ.
enum Between {
    /// No more than their runs do.
    Alike,
    /// The standard deviation of their means, and its degrees of freedom.
    Known {
        deviation: f64,
        freedom: f64,
        /// The number of occasions behind the recorded figure.
        occasions: f64,
    },
    /// A time of one occasion. On a slow day of the machine, pauses of the same code were ten times as long as on another.
    Unknown,
}

impl Between {
    fn of(expectation: &Expectation, recorded: Recorded, metric: Metric) -> Self {
        match expectation.between {
            Some(deviation) => Self::Known {
                deviation,
                freedom: expectation.between_freedom.map_or(1.0, f64::from),
                occasions: f64::from(recorded.occasions.max(1)),
            },
            None if lacks_occasions(metric, expectation) => Self::Unknown,
            None => Self::Alike,
        }
    }

    /// The standard deviation of what an occasion and the recorded ones differ, as far as it is known.
    fn std_error(&self) -> f64 {
        match self {
            Self::Alike | Self::Unknown => 0.0,
            Self::Known { deviation, occasions, .. } => deviation * (1.0 + 1.0 / occasions).sqrt(),
        }
    }

    /// The difference by which occasions alone exceed the recorded figure with a probability of at most `alpha`.
    fn bound(&self, alpha: f64) -> f64 {
        match self {
            Self::Alike => 0.0,
            // Student's t may be infinite, and so would 0 times it not be a number.
            Self::Known { deviation, .. } if *deviation <= 0.0 => 0.0,
            Self::Known { freedom, .. } => t_quantile(1.0 - alpha, *freedom) * self.std_error(),
            Self::Unknown => f64::INFINITY,
        }
    }
}

/// Whether a recorded figure may differ from one occasion to another by more than runs do: a time does. Whoever names
/// what the gate must notice says that occasions differ by no more than what matters.
fn varies_by_occasion(metric: Metric, expectation: &Expectation) -> bool {
    metric.quantity() == Quantity::Time && expectation.must_notice.is_none()
}

/// Whether it does, and nobody knows by how much.
pub(super) fn lacks_occasions(metric: Metric, expectation: &Expectation) -> bool {
    varies_by_occasion(metric, expectation) && expectation.between.is_none()
}

/// Regressed if each of two sets of runs, by itself, exceeds the baseline by more than the difference that matters, and
/// by more than noise.
///
/// *Noise* is the deviation of single runs, from the recorded runs and the present ones together, with their degrees of
/// freedom: a deviation of three runs may be far off, and Student's t allows for it. The difference of two means has a
/// standard error of s · √(1/K + 1/n). If the baseline knows how occasions differ, the runs of one check share theirs,
/// and b² · (1 + 1/N) adds to its square. The *difference that matters* is a person's choice (`tolerance`, `floor`).
///
/// A time is advisory where occasions alone may explain it, unless `must_notice` says that they may not.
pub(super) fn rule(baseline: f64, expectation: &Expectation, recorded: Recorded, figures: &Figures) -> Ruling {
    let (measured, base) = (figures.text(figures.all.measured), figures.text(baseline));
    let Some(effect) = Effect::of(baseline, expectation, figures.metric.unit()) else {
        return without_effect(baseline, figures);
    };
    let noise = Noise::of(baseline, expectation, recorded, figures);
    let excess = |figure: &Pooled| figure.measured - baseline;
    let band = |figure: &Pooled| noise.as_ref().map(|noise| noise.band(figure, figures.alpha()));
    let by = effect.text(figures);
    let beyond =
        |figure: &Pooled| excess(figure) > effect.size && band(figure).is_some_and(|band| excess(figure) > band);
    if figures.both(beyond) {
        let clause = format!("{measured} exceeds the baseline of {base} by more than {by}, {}", figures.in_both());
        return Ruling::new(Verdict::Regressed, clause);
    }
    if excess(&figures.all) > effect.size {
        let clause = format!("{measured} exceeds the baseline of {base} by more than {by}");
        return undecided(clause, excess(&figures.all), noise.as_ref(), &effect, expectation, figures);
    }
    let noticed = noticed(baseline, &effect, noise.as_ref(), figures);
    if let Some(must) = expectation.must_notice
        && noticed - baseline > must
    {
        let (would, must) = (figures.text(noticed - baseline), figures.text(must));
        let clause = format!(
            "{measured} does not exceed the baseline of {base} by {by}, but the gate must notice {must} more, and would \
             have noticed {would} more"
        );
        let more_runs = figures.more_runs() && effect.size < expectation.must_notice.unwrap_or(0.0);
        let (needs, advice) = match more_runs {
            true => (Need::MoreRuns, "more runs decide"),
            false => (Need::Baseline, "a lower tolerance and floor, or a baseline of more runs, decide"),
        };
        return Ruling::undecided(needs, format!("{clause}: {advice}"));
    }
    let better = -excess(&figures.all);
    if better > effect.size && band(&figures.all).is_some_and(|band| better > band) {
        let clause = format!(
            "{measured} is less than the baseline of {base} by more than {by}: accept a new baseline to keep the gain"
        );
        return Ruling::holds(Verdict::Improved, noticed, clause);
    }
    let clause = if better < 0.0 {
        format!("{measured} exceeds the baseline of {base} by no more than {by}")
    } else {
        format!("{measured} does not exceed the baseline of {base}")
    };
    Ruling::holds(Verdict::Pass, noticed, clause)
}

/// The figure that does not pass in 95 of 100 checks.
pub(super) fn noticed(baseline: f64, effect: &Effect, noise: Option<&Noise>, figures: &Figures) -> f64 {
    baseline + effect.size + noise.map_or(0.0, |noise| Z_95 * noise.std_error(&figures.all))
}

/// The same, whatever the verdict is; `None` if nothing says which difference matters.
pub(super) fn notices(baseline: f64, expectation: &Expectation, recorded: Recorded, figures: &Figures) -> Option<f64> {
    let effect = Effect::of(baseline, expectation, figures.metric.unit())?;
    let noise = Noise::of(baseline, expectation, recorded, figures);
    Some(noticed(baseline, &effect, noise.as_ref(), figures))
}

/// The share of a figure by which the file's seven digits may differ from it.
const ROUNDING: f64 = 1e-6;

/// The step from the recorded figure to the measured one. Noise is the same as in [`rule`]. Without any, nothing says
/// that a lower figure is more than luck.
pub(super) fn step(baseline: f64, expectation: &Expectation, recorded: Recorded, figures: &Figures) -> Step {
    let excess = figures.all.measured - baseline;
    let rounding = ROUNDING * baseline.abs();
    let effect = Effect::of(baseline, expectation, figures.metric.unit()).map_or(0.0, |effect| effect.size);
    let noise = Noise::of(baseline, expectation, recorded, figures);
    let by_occasions = occasions_may_explain(excess, noise.as_ref(), expectation, figures);
    let band = noise.map(|noise| noise.band(&figures.all, figures.alpha()).max(rounding));
    match () {
        () if excess > effect.max(rounding) => Step::Looser(match band {
            Some(band) if excess > band => Explained::ByNothing,
            _ if by_occasions => Explained::ByTheDay,
            _ => Explained::ByNoise,
        }),
        () if band.is_some_and(|band| -excess > band) => Step::Tighter,
        () => Step::Within,
    }
}

/// The chance that a step between two occasions counts as a change although it is none, in each direction.
const ALPHA_OF_CHANGE: f64 = 0.005;

/// Whether the figure differs from the recorded one, in either direction, by more than the difference that matters and
/// by more than noise. Without any, all that matters is a change. A change that counts as noise would widen the noise
/// for good, so that this is less strict than [`rule`].
pub(super) fn is_change(baseline: f64, expectation: &Expectation, recorded: Recorded, figures: &Figures) -> bool {
    let difference = (figures.all.measured - baseline).abs();
    let effect = Effect::of(baseline, expectation, figures.metric.unit()).map_or(0.0, |effect| effect.size);
    let noise = Noise::of(baseline, expectation, recorded, figures);
    let explained = noise.map(|noise| noise.explained(&figures.all, ALPHA_OF_CHANGE, ALPHA_OF_CHANGE));
    difference > effect && explained.is_none_or(|explained| difference > explained)
}

/// A recorded figure with nothing to say which difference matters.
fn without_effect(baseline: f64, figures: &Figures) -> Ruling {
    let (measured, base) = (figures.text(figures.all.measured), figures.text(baseline));
    if figures.all.measured <= baseline {
        return Ruling::holds(Verdict::Pass, baseline, format!("{measured} does not exceed the baseline of {base}"));
    }
    let clause = format!(
        "{measured} exceeds the baseline of {base}, which names no tolerance, floor or noise to compare the difference \
         with: record it again with `memgate baseline record`"
    );
    Ruling::undecided(Need::Baseline, clause)
}

/// Whether a time is so much longer only because of the occasion, as far as the baseline knows.
fn occasions_may_explain(excess: f64, noise: Option<&Noise>, expectation: &Expectation, figures: &Figures) -> bool {
    let bound = noise.map_or(f64::INFINITY, |noise| noise.between.bound(figures.alpha().powi(2)));
    varies_by_occasion(figures.metric, expectation) && bound >= excess
}

/// A difference that matters, if it is one.
pub(super) fn undecided(
    clause: String,
    excess: f64,
    noise: Option<&Noise>,
    effect: &Effect,
    expectation: &Expectation,
    figures: &Figures,
) -> Ruling {
    if occasions_may_explain(excess, noise, expectation, figures) {
        let clause = format!(
            "advisory only: {clause}, which may be the day and not the code: a comparison with another build \
             (`--against`) tells, or a baseline of more occasions"
        );
        return Ruling::new(Verdict::Advisory, clause);
    }
    let band = noise.map(|noise| noise.band(&figures.all, figures.alpha()));
    let of_occasions = noise.is_some_and(|noise| noise.is_of_occasions(&figures.all, figures.alpha()));
    let (needs, why) = match band {
        _ if figures.sets.is_none() => (Need::MoreRuns, " in the only run".to_owned()),
        Some(band) if band > effect.size => {
            let needs = if figures.more_runs() && !of_occasions { Need::MoreRuns } else { Need::Baseline };
            (needs, format!(", but noise alone may exceed it by {}", figures.text(band)))
        }
        _ => (Need::MoreRuns, format!(", but not {}", figures.in_both())),
    };
    let advice = match needs {
        Need::MoreRuns if figures.more_runs() => "more runs decide",
        // All runs of a check are of one occasion.
        Need::Baseline if of_occasions => "a baseline of more occasions decides",
        Need::Baseline if expectation.noise.is_none() => "a baseline of several runs decides",
        Need::Baseline => "a baseline of more runs decides",
        Need::MoreRuns | Need::LongerPhase | Need::Data => "a longer measuring phase decides",
    };
    let needs = if needs == Need::MoreRuns && !figures.more_runs() { Need::LongerPhase } else { needs };
    Ruling::undecided(needs, format!("{clause}{why}: {advice}"))
}

impl Effect {
    /// The larger of tolerance and floor. A baseline that names neither means three times its noise.
    pub(super) fn of(baseline: f64, expectation: &Expectation, unit: Unit) -> Option<Self> {
        let of_tolerance = expectation.tolerance.map(|tolerance| Self {
            size: tolerance * baseline.abs(),
            source: format!("tolerance {}", crate::units::format(tolerance, Unit::Ratio)),
        });
        let of_floor = expectation.floor.map(|floor| Self { size: floor, source: "floor".to_owned() });
        let of_noise = || {
            let noise = match (expectation.noise, expectation.between) {
                (Some(noise), Some(between)) => noise.hypot(between),
                (noise, between) => noise.or(between)?,
            };
            Some(Self { size: 3.0 * noise, source: format!("3 × noise of {}", crate::units::format(noise, unit)) })
        };
        let chosen = [of_tolerance, of_floor].into_iter().flatten().max_by(|a, b| a.size.total_cmp(&b.size));
        chosen.or_else(of_noise)
    }

    /// Several of such differences.
    pub(super) fn times(self, number: f64) -> Self {
        Self { size: number * self.size, source: format!("{number} × {}", self.source) }
    }

    pub(super) fn text(&self, figures: &Figures) -> String {
        format!("{} ({})", figures.text(self.size), self.source)
    }
}

impl Noise {
    /// The noise of the recorded runs and the present ones; `None` if there is only one of each.
    pub(super) fn of(baseline: f64, expectation: &Expectation, recorded: Recorded, figures: &Figures) -> Option<Self> {
        let between = Between::of(expectation, recorded, figures.metric);
        let recorded = f64::from(recorded.runs.max(1));
        let freedom = expectation.noise_freedom.map_or(recorded - 1.0, f64::from);
        let of_baseline = expectation.noise.map(|noise| (noise, freedom));
        let of_runs = figures.deviation.map(|deviation| (deviation, figures.runs() as f64 - 1.0));
        let (deviation, freedom) = pooled_deviation(of_baseline.into_iter().chain(of_runs))?;
        let share = |of: Option<(f64, f64)>, figure: f64| of.map(|(deviation, freedom)| (deviation / figure, freedom));
        let measured = figures.all.measured;
        let always = figures.metric.quantity() == Quantity::Time;
        let is_positive = baseline > 0.0 && measured > 0.0;
        let varies = is_positive && (always || measured >= ANOTHER_LEVEL * baseline);
        let shares = share(of_baseline, baseline).into_iter().chain(share(of_runs, measured));
        let share = if varies { pooled_deviation(shares) } else { None };
        let by_factor = share.map(|(share, _)| ByFactor { baseline, share, always });
        Some(Self { deviation, by_factor, freedom, recorded, between })
    }

    /// The standard error of the difference of the figure and the recorded one.
    pub(super) fn std_error(&self, figure: &Pooled) -> f64 {
        self.of_runs(figure).hypot(self.between.std_error())
    }

    /// The part of the standard error by which runs differ.
    fn of_runs(&self, figure: &Pooled) -> f64 {
        let of_figure = (self.deviation / (figure.runs as f64).sqrt()).max(figure.std_error());
        of_figure.hypot(self.deviation / self.recorded.sqrt())
    }

    /// Whether most of the band is that of occasions, which more runs of one occasion do not lessen.
    fn is_of_occasions(&self, figure: &Pooled, alpha: f64) -> bool {
        self.between.bound(alpha.powi(2)) > t_quantile(1.0 - alpha, self.freedom) * self.of_runs(figure)
    }

    /// The difference that noise alone exceeds with a probability of at most `alpha` in each of two sets of runs.
    ///
    /// Both sets are of one occasion. What occasions differ is beyond a bound in both sets or in none, so that its
    /// bound must hold with `alpha`² by itself.
    pub(super) fn band(&self, figure: &Pooled, alpha: f64) -> f64 {
        self.explained(figure, alpha, alpha.powi(2))
    }

    /// The difference that noise explains, with these chances that runs and that occasions differ by more.
    ///
    /// Each part has its own degrees of freedom, and their bounds make that of the sum (Zou and Donner, Stat. Med. 27,
    /// 2008). One number of degrees of freedom for the sum (Satterthwaite) is too large far out in the tail, where few
    /// occasions count most: simulated checks failed a hundred times as often as they may.
    fn explained(&self, figure: &Pooled, of_runs: f64, of_occasions: f64) -> f64 {
        let (quantile, occasions) = (t_quantile(1.0 - of_runs, self.freedom), self.between.bound(of_occasions));
        let absolute = (quantile * self.of_runs(figure)).hypot(occasions);
        let Some(ByFactor { baseline, share, always }) = self.by_factor else { return absolute };
        let of_figure = (share / (figure.runs as f64).sqrt()).max(figure.std_error() / figure.measured);
        let runs = quantile * of_figure.hypot(share / self.recorded.sqrt());
        let factor = baseline * runs.hypot(occasions / baseline).exp_m1();
        if always { factor } else { factor.min(absolute) }
    }
}
