//! Compares a figure with the recorded one.

use super::{figures::Figures, ruling::Ruling};
use crate::{baseline::Expectation, metric::Unit, results::Verdict, summarise::Estimate};

/// How far a figure may differ from the recorded one before the difference matters.
struct Band {
    width: f64,
    /// What determines this width.
    source: String,
}

/// How many standard deviations between the recorded runs count as the gate's own noise.
const NOISE_FACTOR: f64 = 3.0;

/// Regressed if there are at least two runs and in every run the figure is beyond the band and its lower end is above
/// the baseline.
///
/// Each run is a test at 2.5 %. Two fresh processes both raise a false alarm with a probability of at most 0.025² =
/// 0.000625. This is below the strictest step of S. Holm's procedure (Scand. J. Stat. 6, 1979), 0.05 / m, for any m up
/// to 80 gates, so the family of all gates keeps its 5 %. docs/explanation/judging.md has the argument.
pub(super) fn rule(baseline: f64, expectation: &Expectation, figures: &Figures<'_>) -> Ruling {
    let band = band(baseline, expectation, figures.metric.unit());
    let width = band.as_ref().map_or(0.0, |band| band.width);
    let is_beyond = |estimate: &Estimate| estimate.measured > baseline + width;
    let all_beyond = figures.runs.iter().all(|(_, estimate)| is_beyond(estimate));
    let all_significant = figures.runs.iter().all(|(_, estimate)| estimate.low > baseline);
    let (measured, base) = (figures.text(figures.pooled.measured), figures.text(baseline));
    if !is_beyond(figures.pooled) && !all_beyond {
        return not_beyond(baseline, band.as_ref(), figures);
    }
    let Some(band) = band else {
        let clause = format!(
            "{measured} exceeds the baseline of {base}, which names no tolerance, floor or noise to compare the difference \
             with: record it again with `memgate baseline record`"
        );
        return Ruling::new(Verdict::Inconclusive, clause);
    };
    let runs = figures.runs.len();
    if !is_beyond(figures.pooled) {
        let clause = format!(
            "each of {runs} runs exceeds the baseline of {base} by more than {}, but together, with {measured}, they do \
             not: more runs decide",
            band.text(figures)
        );
        return Ruling::new(Verdict::Inconclusive, clause);
    }
    let (verdict, why) = match () {
        () if !all_beyond => {
            let beyond = figures.runs.iter().filter(|(_, estimate)| is_beyond(estimate)).count();
            (Verdict::Inconclusive, format!(", but alone only {beyond} of {runs} runs do: more runs decide"))
        }
        () if !all_significant => (
            Verdict::Inconclusive,
            ", but its interval reaches down to the baseline: measuring longer decides".to_owned(),
        ),
        () if !figures.confirmed => (Verdict::Inconclusive, " in the only run: `runs: 2` decides".to_owned()),
        () => (Verdict::Regressed, format!(", significantly and in each of {runs} runs")),
    };
    let clause = format!("{measured} exceeds the baseline of {base} by more than {}{why}", band.text(figures));
    Ruling::new(verdict, clause)
}

/// A figure within the band, near the baseline, or better than it by more than the band.
fn not_beyond(baseline: f64, band: Option<&Band>, figures: &Figures<'_>) -> Ruling {
    let pooled = figures.pooled;
    let (measured, base) = (figures.text(pooled.measured), figures.text(baseline));
    match band {
        Some(band)
            if pooled.measured < baseline - band.width
                && figures.runs.iter().all(|(_, estimate)| estimate.high < baseline) =>
        {
            let clause = format!(
                "{measured} is less than the baseline of {base} by more than {}: accept a new baseline to keep the gain",
                band.text(figures)
            );
            Ruling::new(Verdict::Improved, clause)
        }
        Some(band) if pooled.measured > baseline => {
            let clause = format!("{measured} exceeds the baseline of {base} by no more than {}", band.text(figures));
            Ruling::new(Verdict::Pass, clause)
        }
        _ => Ruling::new(Verdict::Pass, format!("{measured} does not exceed the baseline of {base}")),
    }
}

/// The widest band that the expectation names; `None` if it names none.
fn band(baseline: f64, expectation: &Expectation, unit: Unit) -> Option<Band> {
    let of_tolerance = expectation.tolerance.map(|tolerance| Band {
        width: tolerance * baseline.abs(),
        source: format!("tolerance {}", crate::units::format(tolerance, Unit::Ratio)),
    });
    let of_floor = expectation.floor.map(|floor| Band { width: floor, source: "floor".to_owned() });
    let of_noise = expectation.noise.map(|noise| Band {
        width: NOISE_FACTOR * noise,
        source: format!("3 × noise of {}", crate::units::format(noise, unit)),
    });
    [of_tolerance, of_floor, of_noise].into_iter().flatten().max_by(|a, b| a.width.total_cmp(&b.width))
}

impl Band {
    fn text(&self, figures: &Figures<'_>) -> String {
        format!("{} ({})", figures.text(self.width), self.source)
    }
}
