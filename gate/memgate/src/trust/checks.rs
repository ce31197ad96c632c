//! Checks of recorded runs: what `memgate check` would have said, if it had measured these.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use memgate_config::baseline;
use memgate_evidence::{
    Evidence,
    error::{InputError, Result},
    platform::Platform,
};
use memgate_verdict::{
    baseline::Baseline,
    judge::{MOST_RUNS, Other, judge, judge_beside, more_runs},
    metric::Limits,
    results::{ServiceResult, worst},
    summarise::{Summary, occasions, summarise},
};

/// The metrics of one run.
#[derive(Debug)]
pub struct Run(Summary);

impl Run {
    /// The metrics of each of these runs, which know on which occasion they were made.
    ///
    /// # Errors
    /// When the evidence cannot be summarised.
    pub fn all(evidence: &[Evidence]) -> Result<Vec<Self>> {
        let occasions = occasions(&evidence.iter().collect::<Vec<_>>());
        let alone = |(run, occasion): (&Evidence, usize)| {
            let mut summary = summarise(std::slice::from_ref(run))?;
            summary.runs.iter_mut().for_each(|run| run.occasion = occasion);
            Ok(Self(summary))
        };
        evidence.iter().zip(occasions).map(alone).collect()
    }

    /// Several runs as one command would have made them; `None` for no runs.
    fn together(runs: &[&Self]) -> Option<Summary> {
        let (first, rest) = runs.split_first()?;
        let mut all = first.0.clone();
        all.runs.extend(rest.iter().flat_map(|run| run.0.runs.iter().cloned()));
        all.day = runs.iter().map(|run| run.0.day.clone()).max().unwrap_or_default();
        let occasions: BTreeSet<usize> = all.runs.iter().map(|run| run.occasion).collect();
        for (run, number) in all.runs.iter_mut().zip(1..) {
            run.run = number;
            run.occasion = occasions.range(..run.occasion).count();
        }
        Some(all)
    }
}

/// After how many runs a check looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Looks {
    /// The number of runs that it begins with (`runs`).
    pub first: u32,
    /// The most runs that it may take to decide every gate (`max_runs`).
    pub most: u32,
}

impl Default for Looks {
    /// Those of a service whose configuration says nothing.
    fn default() -> Self {
        Self { first: 2, most: u32::try_from(MOST_RUNS).unwrap_or(u32::MAX) }
    }
}

/// A check of recorded runs.
#[derive(Debug)]
pub struct Check {
    /// What the first look saw.
    pub first: ServiceResult,
    /// The outcome.
    pub last: ServiceResult,
    /// Whether it needed more runs than were left. It is then undecided, which is not green.
    pub cut_short: bool,
}

impl Check {
    /// Checks runs as memgate does: adds runs until every gate is decided. Takes the runs that it needs from `runs`;
    /// `None` if fewer are left than it begins with.
    fn of<T>(
        looks: Looks,
        runs: &mut impl Iterator<Item = T>,
        judged: impl Fn(&[T]) -> Option<ServiceResult>,
    ) -> Option<Self> {
        let mut taken: Vec<T> = Vec::new();
        let mut wanted = usize::try_from(looks.first).ok()?;
        let mut before: Option<Self> = None;
        loop {
            taken.extend(runs.by_ref().take(wanted.saturating_sub(taken.len())));
            if taken.len() < wanted {
                return before.map(|check| Self { cut_short: true, ..check });
            }
            let last = judged(&taken)?;
            let first = before.map_or_else(|| last.clone(), |check| check.first);
            let more = more_runs(&last).filter(|more| *more <= looks.most);
            let check = Self { first, last, cut_short: false };
            let Some(more) = more else { return Some(check) };
            wanted = usize::try_from(more).ok()?;
            before = Some(check);
        }
    }
}

/// The result of comparing runs with others, as `memgate check --against` compares two builds; `None` for no runs. It has
/// the gates on differences alone.
fn beside(pairs: &[(&Run, &Run)]) -> Option<ServiceResult> {
    let (change, other): (Vec<&Run>, Vec<&Run>) = pairs.iter().copied().unzip();
    let (change, other) = (Run::together(&change)?, Run::together(&other)?);
    let other = Other { name: "the other build", summary: &other };
    let mut result = judge_beside(judge(&change, None), &change, None, other);
    result.gates.retain(|gate| gate.against.is_some());
    result.verdict = worst(result.gates.iter().map(|gate| gate.verdict));
    Some(result)
}

/// The gates of checks, for which recorded runs give the figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gates {
    /// What `memgate baseline record` writes with these limits.
    Default(Limits),
    /// Those of a baseline file, which gets the figures of the runs as `memgate baseline accept` gives it them.
    File {
        /// The file, for messages.
        path: PathBuf,
        /// What it says.
        text: String,
    },
}

impl Gates {
    /// The gates of this baseline, or the default ones if there is none.
    ///
    /// # Errors
    /// When the baseline cannot be read or is wrong.
    pub fn find(directory: &Path, platform: Platform, name: &str) -> Result<Self> {
        if baseline::load(directory, platform, name)?.is_none() {
            return Ok(Self::Default(Limits::General));
        }
        let path = baseline::path(directory, platform, name);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            let message = format!("{}: this baseline cannot be read: {error}", path.display());
            InputError::new(message, "check the file's permissions")
        })?;
        Ok(Self::File { path, text })
    }

    /// A baseline with these gates and the figures of these runs.
    ///
    /// # Errors
    /// When the runs cannot be recorded, or not into this file.
    pub fn baseline(&self, runs: &[&Run]) -> Result<Baseline> {
        let Some(summary) = Run::together(runs) else {
            return Err(InputError::new("a baseline of no runs", "record at least one run").into());
        };
        let (path, text) = match self {
            Self::Default(limits) => {
                (Path::new("the baseline of these runs"), baseline::render(&summary, &summary.day, *limits)?)
            }
            Self::File { path, text } => {
                (path.as_path(), baseline::accept(path, text, &summary, &summary.day, &BTreeSet::new())?.text)
            }
        };
        let mut baseline = baseline::parse(path, &text, summary.platform, &summary.baseline)?;
        // Neither the figures at a release nor the memory of other days is of these runs.
        baseline.environment.occasions = None;
        for expectation in baseline.metrics.values_mut() {
            (expectation.anchor, expectation.noise_freedom) = (None, None);
            (expectation.between, expectation.between_freedom) = (None, None);
        }
        Ok(baseline)
    }
}

/// Checks in the order of the runs. No run is in two checks.
pub fn disjoint(baseline: &Baseline, runs: &[Run], looks: Looks) -> Vec<Check> {
    let mut left = runs.iter();
    let judged = |runs: &[&Run]| Some(judge(&Run::together(runs)?, Some(baseline)));
    std::iter::from_fn(|| Check::of(looks, &mut left, judged)).collect()
}

/// Comparisons in the order of the runs, of each run with the one after it. No run is in two comparisons.
pub fn disjoint_beside(runs: &[Run], looks: Looks) -> Vec<Check> {
    let mut left = runs.chunks_exact(2).map(|pair| (&pair[0], &pair[1]));
    std::iter::from_fn(|| Check::of(looks, &mut left, beside)).collect()
}

/// Comparisons of runs drawn from a pool with other runs drawn from the healthy ones. The same runs give the same
/// comparisons. Two of them share runs, so their outcomes are not independent.
pub fn resampled_beside(healthy: &[Run], pool: &[Run], checks: u32, looks: Looks) -> Vec<Check> {
    let drawn = |check| {
        let order = shuffled(healthy.len().min(pool.len()), check);
        let mut left = order.chunks_exact(2).map(|pair| (&pool[pair[0]], &healthy[pair[1]]));
        Check::of(looks, &mut left, beside)
    };
    (0..checks).filter_map(drawn).collect()
}

/// Checks of runs drawn from a pool, each with a baseline of other runs drawn from the healthy ones. The same runs give
/// the same checks. Two checks share runs, so their outcomes are not independent.
///
/// # Errors
/// When there is no baseline to be made of the runs.
pub fn resampled(
    healthy: &[Run],
    pool: &[Run],
    recorded: usize,
    checks: u32,
    gates: &Gates,
    looks: Looks,
) -> Result<Vec<Check>> {
    let mut made = Vec::new();
    for check in 0..checks {
        let order = shuffled(healthy.len().min(pool.len()), check);
        let (base, rest) = order.split_at(recorded.min(order.len()));
        let baseline = gates.baseline(&base.iter().map(|&index| &healthy[index]).collect::<Vec<_>>())?;
        let mut left = rest.iter().map(|&index| &pool[index]);
        let judged = |runs: &[&Run]| Some(judge(&Run::together(runs)?, Some(&baseline)));
        made.extend(Check::of(looks, &mut left, judged));
    }
    Ok(made)
}

/// The numbers below `length` in an order that `seed` decides.
fn shuffled(length: usize, seed: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..length).collect();
    order.sort_by_cached_key(|&index| mixed(u64::from(seed) << 32 | index as u64));
    order
}

/// A number that looks as if chance had drawn it: the output of SplitMix64 (G. L. Steele et al., OOPSLA 2014) with this
/// number as the state's counter.
const fn mixed(counter: u64) -> u64 {
    let state = counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
