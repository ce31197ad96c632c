//! Compares a figure with the one at the last release, so that small steps do not add up unseen.

use super::{
    against_baseline::{Effect, Noise, Recorded, noticed, undecided},
    figures::Figures,
    ruling::Ruling,
};
use crate::{
    baseline::Expectation,
    metric::Unit,
    results::{Need, Verdict},
    summarise::Pooled,
    units,
};

/// A figure may drift from its anchor by this multiple of the difference that matters: one step that passes, and room
/// for the next.
const STEPS: f64 = 2.0;

/// A recorded figure that has an anchor.
pub(super) struct Anchored<'a> {
    /// The figure at the last release.
    pub(super) anchor: f64,
    /// The recorded figure.
    pub(super) baseline: f64,
    pub(super) expectation: &'a Expectation,
    /// What is behind it.
    pub(super) recorded: Recorded,
    /// The command that pins a new anchor.
    pub(super) pins: &'a str,
}

/// The ruling beside the recorded figure (`step`), made stricter by the anchor: regressed if each of two sets of runs
/// exceeds the anchor by more than twice the difference that matters, and by more than noise.
pub(super) fn rule(step: Ruling, anchored: &Anchored<'_>, figures: &Figures) -> Ruling {
    let &Anchored { anchor, expectation, recorded, pins, .. } = anchored;
    let (measured, from) = (figures.text(figures.all.measured), figures.text(anchor));
    let drift = |figure: &Pooled| figure.measured - anchor;
    let Some(effect) = Effect::of(anchor, expectation, figures.metric.unit()).map(|effect| effect.times(STEPS)) else {
        if drift(&figures.all) <= 0.0 {
            return step;
        }
        let clause = format!(
            "{measured} exceeds the anchor of {from}, and the baseline names no tolerance, floor or noise to compare the \
             drift with: record it again with `memgate baseline record`"
        );
        return step.and(Ruling::undecided(Need::Baseline, clause));
    };
    let noise = Noise::of(anchor, expectation, recorded, figures);
    let band = |figure: &Pooled| noise.as_ref().map(|noise| noise.band(figure, figures.alpha()));
    let beyond = |figure: &Pooled| drift(figure) > effect.size && band(figure).is_some_and(|band| drift(figure) > band);
    if drift(&figures.all) > effect.size || figures.both(beyond) {
        let clause = format!(
            "{measured} has drifted from the anchor of {from} by {}, which is more than {}",
            text_of(drift(&figures.all), anchored, figures),
            effect.text(figures)
        );
        let drifted = match figures.both(beyond) {
            true => Ruling::new(
                Verdict::Regressed,
                format!(
                    "{clause}, {}{}: `{pins}` pins a new one at a release",
                    figures.in_both(),
                    sum(&step, anchored, figures)
                ),
            ),
            false => undecided(clause, drift(&figures.all), noise.as_ref(), &effect, expectation, figures),
        };
        return step.and(drifted);
    }
    let noticed = noticed(anchor, &effect, noise.as_ref(), figures);
    Ruling { noticed: step.noticed.map(|of_step| of_step.min(noticed)), ..step }
}

/// The figure that does not pass in 95 of 100 checks; `None` if nothing says which drift matters.
pub(super) fn notices(anchor: f64, expectation: &Expectation, recorded: Recorded, figures: &Figures) -> Option<f64> {
    let effect = Effect::of(anchor, expectation, figures.metric.unit())?.times(STEPS);
    let noise = Noise::of(anchor, expectation, recorded, figures);
    Some(noticed(anchor, &effect, noise.as_ref(), figures))
}

/// `502B/request (+2.5%)`.
fn text_of(drift: f64, anchored: &Anchored<'_>, figures: &Figures) -> String {
    let share = drift / anchored.anchor.abs();
    let drift = figures.text(drift);
    if share.is_finite() { format!("{drift} (+{})", units::format(share, Unit::Ratio)) } else { drift }
}

/// That the last step is none to fail for, if it is not.
fn sum(step: &Ruling, anchored: &Anchored<'_>, figures: &Figures) -> String {
    match step.verdict.is_good() {
        true => format!(
            "; the step from the recorded {} passes, and the sum of all steps does not",
            figures.text(anchored.baseline)
        ),
        false => String::new(),
    }
}
