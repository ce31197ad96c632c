//! What the load starts once, such as a pool of connections or workers, and may still be starting in the measuring phase.
//!
//! A leak goes on as long as requests come. A pool comes early, and then no more. One run seldom tells them apart: a pool
//! that gets its last connection only when enough requests coincide looks like a rare leak. Several runs do tell.

use std::collections::BTreeMap;

use memgate_evidence::{Code, GoroutineSites};

use super::{
    Estimate,
    run::{Run, usable},
    stats::share_within,
    totals,
};

/// The chance of an error in either direction that a decision about a pool may have.
const ALPHA: f64 = 0.05;

/// The part of a pool that comes in the phase is at most this share of the part of a leak that does.
const SLOWER: f64 = 0.5;

/// What one run has more than before the load, of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Came {
    /// What came before the measuring phase and is left.
    pub(super) earlier: u64,
    /// What came in the measuring phase or later and is left.
    pub(super) in_phase: u64,
}

impl Came {
    const fn total(self) -> u64 {
        self.earlier.saturating_add(self.in_phase)
    }
}

/// What all runs together say of what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It comes as steadily as the requests, or never came before the measuring phase.
    Leak,
    /// It comes more slowly than a leak, and a run that had most of it at the start of the phase got no more.
    Pool,
    /// More runs must tell.
    Open,
}

impl Kind {
    /// `share` is that of the measuring phase in the time of the load.
    ///
    /// Of what comes steadily, that share comes in the phase. The bounds of what did are those of Clopper and Pearson.
    fn of(runs: &[Came], share: f64) -> Self {
        let sum = |of: fn(&Came) -> u64| runs.iter().map(of).fold(0u64, u64::saturating_add);
        let (earlier, in_phase) = (sum(|came| came.earlier), sum(|came| came.in_phase));
        if earlier == 0 || in_phase == 0 {
            return Self::Leak;
        }
        let seen = share_within(in_phase, earlier.saturating_add(in_phase), ALPHA);
        let most = runs.iter().map(|came| came.total()).max().unwrap_or_default();
        let was_full = runs.iter().any(|came| came.in_phase == 0 && came.earlier == most);
        if seen.low > share * SLOWER {
            Self::Leak
        } else if was_full && seen.high < share {
            Self::Pool
        } else {
            Self::Open
        }
    }
}

/// Where goroutines come from: the frames of the `go` statement, and those of what it starts.
type GoStatement = (Vec<(String, u32)>, Vec<(String, u32)>);

/// What came in the measuring phase, and what several runs say of it.
pub(super) struct Filling {
    goroutines: BTreeMap<GoStatement, Kind>,
    descriptors: Kind,
}

impl Filling {
    /// What all runs together say.
    pub(super) fn of(runs: &[Run<'_>]) -> Self {
        let share = share_of_phase(runs);
        let mut by_statement: BTreeMap<GoStatement, Vec<Came>> = BTreeMap::new();
        for run in runs {
            for (statement, came) in goroutines(*run) {
                by_statement.entry(statement).or_default().push(came);
            }
        }
        let descriptors: Vec<Came> =
            runs.iter().filter_map(|run| totals::descriptors_that_came(*run).ok().flatten()).collect();
        Self {
            goroutines: by_statement.into_iter().map(|(at, came)| (at, Kind::of(&came, share))).collect(),
            descriptors: Kind::of(&descriptors, share),
        }
    }

    /// The goroutines of a run that are leaked, without those of pools.
    pub(super) fn leaked_goroutines(&self, run: Run<'_>, figure: Estimate) -> Estimate {
        let kind = |at: &GoStatement| self.goroutines.get(at).copied().unwrap_or(Kind::Leak);
        without_pools(goroutines(run).iter().map(|(at, came)| (kind(at), came.in_phase)), figure)
    }

    /// The descriptors of a run that are leaked, without those of pools.
    pub(super) fn leaked_descriptors(&self, run: Run<'_>, figure: Estimate) -> Estimate {
        let came = totals::descriptors_that_came(run).ok().flatten();
        without_pools(came.into_iter().map(|came| (self.descriptors, came.in_phase)), figure)
    }
}

/// The figure without what came in pools. It says whether more runs must tell what the rest is.
fn without_pools(came: impl Iterator<Item = (Kind, u64)>, figure: Estimate) -> Estimate {
    let (mut in_pools, mut open) = (0u64, 0u64);
    for (kind, count) in came {
        match kind {
            Kind::Leak => {}
            Kind::Pool => in_pools = in_pools.saturating_add(count),
            Kind::Open => open = open.saturating_add(count),
        }
    }
    let measured = (figure.measured - in_pools as f64).max(0.0);
    let remark = match in_pools {
        0 => figure.remark,
        _ => format!("without {in_pools} in pools that were full in another run"),
    };
    Estimate { measured, low: measured, high: measured, may_be_pool: open > 0, remark, ..figure }
}

/// The share of the measuring phase, and of what of the load follows it, in the time of the load.
fn share_of_phase(runs: &[Run<'_>]) -> f64 {
    let spans = runs.iter().filter_map(|run| {
        let (start, phase, end) = (run.load_start_ns().ok()?, run.measure().ok()?, run.drain().ok()?);
        Some((end.start_ns.saturating_sub(phase.start_ns) as f64, end.start_ns.saturating_sub(start) as f64))
    });
    let (phase, load) = spans.fold((0.0, 0.0), |sum, span| (sum.0 + span.0, sum.1 + span.1));
    if load > 0.0 { phase / load } else { 1.0 }
}

/// The goroutines that came with the load and are left, by `go` statement; empty if these are not known.
fn goroutines(run: Run<'_>) -> BTreeMap<GoStatement, Came> {
    let mut came: BTreeMap<GoStatement, Came> = BTreeMap::new();
    let Ok(sites) = usable(&run.signals().goroutine_sites, "goroutines by `go` statement") else { return came };
    let GoroutineSites { created, started, before, left, young, loaded: _ } = sites;
    if [before, left, young].iter().any(|column| column.len() != created.len()) {
        return came;
    }
    let rows = created.iter().zip(started).zip(before.iter().zip(left).zip(young));
    for ((created, started), ((before, left), young)) in rows {
        let total = left.saturating_sub(*before);
        let in_phase = total.min(*young);
        let at = (frames(&run.0.code, *created), frames(&run.0.code, *started));
        let sum = came.entry(at).or_default();
        sum.in_phase = sum.in_phase.saturating_add(in_phase);
        sum.earlier = sum.earlier.saturating_add(total - in_phase);
    }
    came
}

/// The functions and lines of a stack.
fn frames(code: &Code, stack: u32) -> Vec<(String, u32)> {
    let at = |index: &u32| usize::try_from(*index).ok();
    let stack = at(&stack).and_then(|index| code.stacks.get(index)).map_or(&[][..], Vec::as_slice);
    let frame = |index: &u32| code.frames.get(at(index)?).map(|frame| (frame.function.clone(), frame.line));
    stack.iter().filter_map(frame).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(runs: &[(u64, u64)]) -> Kind {
        let runs: Vec<Came> = runs.iter().map(|&(earlier, in_phase)| Came { earlier, in_phase }).collect();
        Kind::of(&runs, 2.0 / 3.0)
    }

    #[test]
    fn what_comes_as_steadily_as_the_requests_is_a_leak() {
        assert_eq!(kind(&[(3, 6), (3, 6)]), Kind::Leak);
        assert_eq!(kind(&[(288, 576)]), Kind::Leak);
        assert_eq!(kind(&[(0, 1), (0, 1)]), Kind::Leak, "none came before the phase");
    }

    #[test]
    fn what_one_run_had_at_once_and_others_get_late_is_a_pool() {
        assert_eq!(kind(&[(3, 1), (4, 0)]), Kind::Pool);
        assert_eq!(kind(&[(3, 1), (4, 0), (2, 2)]), Kind::Pool);
    }

    #[test]
    fn what_may_be_either_is_open() {
        assert_eq!(kind(&[(2, 2), (2, 2)]), Kind::Open, "no run was full at the start");
        assert_eq!(kind(&[(2, 2), (3, 0)]), Kind::Open, "the run without any had fewer");
        assert_eq!(kind(&[(1, 1), (0, 1)]), Kind::Open, "one in as many requests as a run has");
        assert_eq!(kind(&[(1, 2), (3, 0)]), Kind::Open, "not slower than a leak, beyond chance");
    }
}
