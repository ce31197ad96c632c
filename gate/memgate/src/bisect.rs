//! `memgate bisect`: finds the commit that makes a metric worse, by comparing the builds of commits.
//!
//! The search follows the steepest part: it measures the commit in the middle beside the first one, and goes on in the
//! half in which the metric grows more a commit. So it also finds the steepest of many small steps. At the end it
//! measures the commit that it found beside the one before it.

use memgate_agent::cancel::Cancel;
use memgate_config::Config;
use memgate_evidence::{
    error::{Error, InputError, Result},
    platform::Platform,
};
use memgate_report::{site_lines, visible};
use memgate_verdict::{
    metric::Metric,
    results::{GateResult, ServiceResult, Verdict},
    units,
};
use serde::Serialize;

use crate::{
    narrator::Narrator,
    pipeline::compare,
    revision::{Commit, CommitRange},
    select::{Selection, Target, targets},
};

/// The schema of [`Bisection`].
const SCHEMA: u32 = 1;

/// The JSON Schema of [`Bisection`].
pub(crate) fn schema() -> serde_json::Value {
    schemars::schema_for!(Bisection).to_value()
}

/// What the search saw and found. `memgate bisect --format json` prints it.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(crate) struct Bisection {
    /// Version of this format.
    schema: u32,
    /// The version of memgate that searched.
    memgate: &'static str,
    /// The service's name in the configuration.
    service: String,
    /// The platform measured.
    platform: Platform,
    /// The metric that was searched for; `null` if none is worse.
    metric: Option<Metric>,
    /// The commits from the one after the first to the last, the oldest first.
    commits: Vec<Commit>,
    /// The commit that they are compared with at first.
    first: Commit,
    /// Each comparison, in the order in which it was made.
    steps: Vec<Step>,
    /// What the search found.
    found: Found,
}

/// A comparison of two commits.
#[derive(Debug, Serialize, schemars::JsonSchema)]
struct Step {
    /// The place of the earlier one: 0 is the first commit, and 1 is the oldest of `commits`.
    from: usize,
    /// The place of the later one.
    to: usize,
    /// What the comparison said.
    outcome: Outcome,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    /// The gate on the difference, and the number of runs of each build.
    Measured { runs: u32, gate: Box<GateResult> },
    /// Why there is no difference to go by.
    Skipped(String),
}

/// What the search found.
#[derive(Debug, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Found {
    /// The place of the commit with the largest step. The last comparison is that with the commit before it.
    Commit(usize),
    /// One of the commits after the first place and up to the second. Those between could not be measured.
    OneOf(usize, usize),
    /// No metric is worse at the end than at the first commit.
    Nothing,
}

impl Bisection {
    /// 0 if a commit is named, and 3 otherwise.
    pub(crate) const fn exit_code(&self) -> u8 {
        match self.found {
            Found::Commit(_) => Verdict::Pass.exit_code(),
            Found::OneOf(..) | Found::Nothing => Verdict::Inconclusive.exit_code(),
        }
    }

    /// The commit at a place.
    fn commit(&self, place: usize) -> &Commit {
        place.checked_sub(1).and_then(|index| self.commits.get(index)).unwrap_or(&self.first)
    }

    /// The result for a person.
    pub(crate) fn text(&self) -> String {
        let Self { service, platform, commits, .. } = self;
        let what = self.metric.map_or("no metric is worse".to_owned(), |metric| metric.to_string());
        let last = self.commit(commits.len());
        let noun = if commits.len() == 1 { "commit" } else { "commits" };
        let head = format!(
            "{service} on {platform}: {what}, {} {noun} after {} up to {}",
            commits.len(),
            self.first.short,
            last.short
        );
        let steps = self.steps.iter().map(|step| format!("  {}", self.line(step)));
        [head].into_iter().chain(steps).chain(self.conclusion()).map(|line| line + "\n").collect()
    }

    /// `1a2b3c4 to 9f8e7d6 (20 commits): 20.3kB/request -> 21.9kB/request, +8.3%`.
    fn line(&self, Step { from, to, outcome }: &Step) -> String {
        let noun = if to - from == 1 { "commit" } else { "commits" };
        let range = format!("{} to {} ({} {noun})", self.commit(*from).short, self.commit(*to).short, to - from);
        match outcome {
            Outcome::Measured { gate, .. } => format!("{range}: {}", change(gate)),
            Outcome::Skipped(reason) => {
                format!("{range}: skipped: {}", visible(reason.lines().next().unwrap_or_default()))
            }
        }
    }

    fn conclusion(&self) -> Vec<String> {
        match self.found {
            Found::Commit(place) => {
                let Commit { short, subject, author, day, .. } = self.commit(place);
                let (subject, author) = (visible(subject), visible(author));
                let mut lines = vec![format!("{short} has the largest step: {subject} ({author}, {day})")];
                if let Some(Step { outcome: Outcome::Measured { runs, gate }, .. }) = self.steps.last() {
                    lines.push(format!("{}: {}", gate.verdict.name(), visible(&gate.reason)));
                    lines.extend(site_lines(*runs, gate));
                }
                lines
            }
            Found::OneOf(from, to) => {
                let names: Vec<_> = (from + 1..=to).map(|place| self.commit(place).short.as_str()).collect();
                vec![
                    format!("one of {} has the largest step, and those between cannot be measured", names.join(", ")),
                    "help: mend what keeps them from being built and measured, or measure longer phases".to_owned(),
                ]
            }
            Found::Nothing => {
                let last = self.commit(self.commits.len()).short.as_str();
                vec![
                    format!("nothing is worse at {last} than at {}", self.first.short),
                    "help: name the metric with --metric, or an earlier commit with --against".to_owned(),
                ]
            }
        }
    }
}

/// `20.3kB/request -> 21.9kB/request, +8.3%`.
fn change(gate: &GateResult) -> String {
    let figure = |figure: Option<f64>| figure.map_or("-".to_owned(), |figure| units::format(figure, gate.unit));
    let share = growth(gate).zip(gate.baseline).map(|(growth, base)| 100.0 * growth / base.abs());
    let share = share.filter(|share| share.is_finite()).map(|share| format!(", {share:+.1}%")).unwrap_or_default();
    format!("{} -> {}{share}, {}", figure(gate.baseline), figure(gate.measured), gate.verdict.name())
}

/// How much more the later build has.
fn growth(gate: &GateResult) -> Option<f64> {
    let growth = gate.measured? - gate.baseline?;
    growth.is_finite().then_some(growth)
}

/// Finds the commit that makes the metric worse, or the metric that is worst, between the commit of `--against` and `last`.
///
/// # Errors
/// When more than one service or platform is selected, when there is no commit between, when the two ends cannot be
/// compared, and when memgate is interrupted.
pub(crate) async fn bisect(
    config: &Config,
    selection: &Selection,
    last: &str,
    metric: Option<Metric>,
    narrator: &Narrator,
    cancel: &Cancel,
) -> Result<Bisection> {
    let targets = targets(config, selection)?;
    let [target] = targets.as_slice() else {
        let titles: Vec<_> = targets.iter().map(Target::title).collect();
        let message = format!("bisect measures one service on one platform, and {} are selected", titles.len());
        let help = format!("name one with --service and --platform: {}", titles.join(", "));
        return Err(InputError::new(message, help).into());
    };
    let first = selection.against.as_deref().unwrap_or_default();
    let CommitRange { first, commits } = CommitRange::between(first, last, &config.file, cancel).await?;
    let comparing = Comparing { config, selection, narrator, cancel, first: &first, commits: &commits };
    let mut steps = Vec::new();
    let (metric, found) = comparing.search(metric, &mut steps).await?;
    let (service, platform) = (target.service.name.clone(), target.platform);
    Ok(Bisection {
        schema: SCHEMA,
        memgate: env!("CARGO_PKG_VERSION"),
        service,
        platform,
        metric,
        commits,
        first,
        steps,
        found,
    })
}

struct Comparing<'a> {
    config: &'a Config,
    selection: &'a Selection,
    narrator: &'a Narrator,
    cancel: &'a Cancel,
    first: &'a Commit,
    commits: &'a [Commit],
}

impl Comparing<'_> {
    async fn search(&self, metric: Option<Metric>, steps: &mut Vec<Step>) -> Result<(Option<Metric>, Found)> {
        // The commits at the ends must be measured, so that their errors are those of the whole.
        let result = self.measure(0, self.commits.len(), metric).await??;
        let runs = result.runs;
        let Some(worst) = worst_gate(result.gates, metric) else { return Ok((metric, Found::Nothing)) };
        let metric = worst.metric;
        let found = match growth(&worst) {
            Some(growth) if growth > 0.0 => Some(growth),
            Some(_) | None => None,
        };
        steps.push(Step {
            from: 0,
            to: self.commits.len(),
            outcome: Outcome::Measured { runs, gate: Box::new(worst) },
        });
        let Some(growth) = found else { return Ok((Some(metric), Found::Nothing)) };
        let mut part = Part { from: 0, to: self.commits.len(), growth };
        while let Some(next) = self.halve(&part, metric, steps).await? {
            part = next;
        }
        if part.to - part.from > 1 {
            return Ok((Some(metric), Found::OneOf(part.from, part.to)));
        }
        let is_measured = steps.last().is_some_and(|step| (step.from, step.to) == (part.from, part.to));
        if !is_measured {
            self.compare(part.from, part.to, metric, steps).await?;
        }
        Ok((Some(metric), Found::Commit(part.to)))
    }

    /// The steeper half of a part; `None` if it has one commit, or if no commit within it can be measured.
    async fn halve(&self, part: &Part, metric: Metric, steps: &mut Vec<Step>) -> Result<Option<Part>> {
        for middle in part.middles() {
            if let Some(growth) = self.compare(part.from, middle, metric, steps).await? {
                return Ok(Some(part.steeper(middle, growth)));
            }
        }
        Ok(None)
    }

    /// How much the metric grows between two commits; `None` if that cannot be measured.
    async fn compare(&self, from: usize, to: usize, metric: Metric, steps: &mut Vec<Step>) -> Result<Option<f64>> {
        let outcome = match self.measure(from, to, Some(metric)).await? {
            Err(error) => Outcome::Skipped(error.to_string()),
            Ok(ServiceResult { runs, gates, .. }) => match gates.into_iter().next() {
                None => Outcome::Skipped(format!("neither has {metric}")),
                Some(gate) if gate.verdict == Verdict::Inconclusive => Outcome::Skipped(gate.reason),
                Some(gate) => Outcome::Measured { runs, gate: Box::new(gate) },
            },
        };
        let growth = match &outcome {
            Outcome::Measured { gate, .. } => growth(gate),
            Outcome::Skipped(_) => None,
        };
        steps.push(Step { from, to, outcome });
        Ok(growth)
    }

    /// The result of comparing two commits. The inner error is that of a commit, such as one that cannot be
    /// built.
    async fn measure(&self, from: usize, to: usize, metric: Option<Metric>) -> Result<Result<ServiceResult>> {
        let [base, change] = [from, to].map(|place| place.checked_sub(1).map_or(self.first, |at| &self.commits[at]));
        self.narrator.say(&format!("comparing {} with {}", change.short, base.short));
        let selection =
            Selection { commit: Some(change.hash.clone()), against: Some(base.hash.clone()), ..self.selection.clone() };
        let outcomes = match compare(self.config, &selection, metric, self.narrator, self.cancel).await {
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => return Ok(Err(error)),
            Ok(outcomes) => outcomes,
        };
        Ok(match (outcomes.done.into_iter().next(), outcomes.failures.into_iter().next()) {
            (Some(result), _) => Ok(result),
            (None, Some(failure)) => Err(failure.failure.into()),
            (None, None) => Err(InputError::new("no service was measured", "please report this").into()),
        })
    }
}

/// The gate to search for: of the failed ones, the one whose figure grows most, as a share of what it was. If a single
/// metric was asked for, its gate, whatever the verdict.
fn worst_gate(gates: Vec<GateResult>, asked: Option<Metric>) -> Option<GateResult> {
    let share = |gate: &GateResult| {
        let share = growth(gate).unwrap_or(0.0) / gate.baseline.unwrap_or(0.0).abs();
        if share.is_nan() { 0.0 } else { share }
    };
    if let Some(asked) = asked {
        return gates.into_iter().find(|gate| gate.metric == asked);
    }
    let failed = gates.into_iter().filter(|gate| gate.verdict == Verdict::Regressed);
    failed.max_by(|one, other| share(one).total_cmp(&share(other)))
}

/// A part of the commits: those after the place `from`, up to `to`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Part {
    from: usize,
    to: usize,
    /// How much the metric grows over it.
    growth: f64,
}

impl Part {
    /// The places within the part, the middle first.
    fn middles(&self) -> Vec<usize> {
        let mut places: Vec<usize> = (self.from + 1..self.to).collect();
        let twice_off = |place: &usize| (2 * place).abs_diff(self.from + self.to);
        places.sort_by_key(twice_off);
        places
    }

    /// The half in which the metric grows more a commit, if it grows by `growth` up to `middle`.
    fn steeper(&self, middle: usize, growth: f64) -> Self {
        let first = Self { from: self.from, to: middle, growth };
        let second = Self { from: middle, to: self.to, growth: self.growth - growth };
        if first.steepness() >= second.steepness() { first } else { second }
    }

    fn steepness(&self) -> f64 {
        self.growth / (self.to - self.from) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The place of the commit that the search finds, and the number of comparisons, if each commit adds its growth and
    /// some cannot be measured.
    fn found(growths: &[f64], skipped: &[usize]) -> (Part, usize) {
        let between = |from: usize, to: usize| growths[from..to].iter().sum::<f64>();
        let mut part = Part { from: 0, to: growths.len(), growth: between(0, growths.len()) };
        let mut comparisons = 1;
        loop {
            let measured = part.middles().into_iter().find(|middle| !skipped.contains(middle));
            let Some(middle) = measured else { return (part, comparisons) };
            comparisons += 1;
            part = part.steeper(middle, between(part.from, middle));
        }
    }

    #[test]
    fn a_single_step_is_found_wherever_it_is() {
        for commits in 1..=64 {
            for at in 0..commits {
                let mut growths = vec![0.0; commits];
                growths[at] = 5.0;
                let (part, comparisons) = found(&growths, &[]);
                assert_eq!((part.from, part.to), (at, at + 1), "{commits} commits");
                assert!(comparisons <= 1 + commits.next_power_of_two().ilog2() as usize, "{comparisons} of {commits}");
            }
        }
    }

    #[test]
    fn the_steepest_of_many_small_steps_is_found() {
        for at in 0..20 {
            let mut growths = vec![0.4; 20];
            growths[at] = 0.9;
            assert_eq!(found(&growths, &[]).0.to, at + 1);
        }
    }

    #[test]
    fn a_step_is_found_beside_commits_that_cannot_be_measured() {
        let mut growths = vec![0.0; 16];
        growths[11] = 1.0;
        assert_eq!(found(&growths, &[8, 9, 4]).0.to, 12);
        let (part, _) = found(&growths, &[10, 11]);
        assert_eq!((part.from, part.to), (9, 12), "one of three");
        let (part, _) = found(&growths, &(1..16).collect::<Vec<_>>());
        assert_eq!((part.from, part.to), (0, 16));
    }

    #[test]
    fn what_shrinks_and_comes_back_is_not_taken_for_the_step() {
        let mut growths = vec![0.0; 10];
        (growths[2], growths[3], growths[8]) = (3.0, -3.0, 1.0);
        assert_eq!(found(&growths, &[]).0.to, 9);
    }
}
