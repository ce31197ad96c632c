//! What the load starts once, such as a pool of connections or workers, and may still be starting in the measuring phase.
//!
//! A leak goes on as long as requests come. A pool comes early, and then no more. One run seldom tells them apart: a pool
//! that gets its last connection only when enough requests coincide looks like a rare leak. Several runs do tell.

use std::collections::BTreeMap;

use super::{Estimate, SiteKind, run::Run, sites::Key, stats::share_within, totals};

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
    /// It comes as steadily as the requests, or never came before the measuring phase. So is what never came.
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

/// What came in the measuring phase, and what several runs say of it.
pub(super) struct Filling {
    goroutines: BTreeMap<Key, Kind>,
    descriptors: Kind,
}

impl Filling {
    /// What all runs together say.
    pub(super) fn of(runs: &[Run<'_>]) -> Self {
        let share = share_of_phase(runs);
        let mut by_statement: BTreeMap<Key, Vec<Came>> = BTreeMap::new();
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
        let kind = |at: &Key| self.goroutines.get(at).copied().unwrap_or(Kind::Leak);
        without_pools(goroutines(run).iter().map(|(at, came)| (kind(at), came.in_phase)), figure)
    }

    /// The descriptors of a run that are leaked, without those of pools.
    pub(super) fn leaked_descriptors(&self, run: Run<'_>, figure: Estimate) -> Estimate {
        let came = totals::descriptors_that_came(run).ok().flatten();
        without_pools(came.into_iter().map(|came| (self.descriptors, came.in_phase)), figure)
    }
}

/// The figure without what came in pools. If nothing of the rest is surely leaked, more runs may tell what it is.
fn without_pools(came: impl Iterator<Item = (Kind, u64)>, figure: Estimate) -> Estimate {
    let (mut leaked, mut in_pools, mut open) = (0u64, 0u64, 0u64);
    for (kind, count) in came {
        let sum = match kind {
            Kind::Leak => &mut leaked,
            Kind::Pool => &mut in_pools,
            Kind::Open => &mut open,
        };
        *sum = sum.saturating_add(count);
    }
    let measured = (figure.measured - in_pools as f64).max(0.0);
    let remark = match in_pools {
        0 => figure.remark,
        _ => format!("without {in_pools} in pools that were full in another run"),
    };
    Estimate { measured, low: measured, high: measured, may_be_pool: open > 0 && leaked == 0, remark, ..figure }
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
fn goroutines(run: Run<'_>) -> BTreeMap<Key, Came> {
    let mut by_statement: BTreeMap<Key, Came> = BTreeMap::new();
    for (created, started, came) in totals::goroutines_that_came(run).unwrap_or_default() {
        let key = Key::of(SiteKind::Goroutines, &run.0.code, created, Some(started));
        let sum = by_statement.entry(key).or_default();
        sum.earlier = sum.earlier.saturating_add(came.earlier);
        sum.in_phase = sum.in_phase.saturating_add(came.in_phase);
    }
    by_statement
}

#[cfg(test)]
mod tests {
    use super::{super::stats::Interval, *};

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
    fn a_leak_beside_what_may_be_a_pool_waits_for_no_more_runs() {
        let figure = |measured: f64| Estimate::of(Interval::exact(measured), 2, String::new()).unwrap();
        let of = |came: &[(Kind, u64)]| {
            let sum = came.iter().map(|(_, count)| *count as f64).sum();
            let rest = without_pools(came.iter().copied(), figure(sum));
            (rest.measured, rest.may_be_pool)
        };
        assert_eq!(of(&[(Kind::Open, 2)]), (2.0, true));
        assert_eq!(of(&[(Kind::Open, 2), (Kind::Leak, 6)]), (8.0, false));
        assert_eq!(of(&[(Kind::Open, 2), (Kind::Pool, 4), (Kind::Leak, 0)]), (2.0, true));
        assert_eq!(of(&[(Kind::Pool, 4)]), (0.0, false));
    }

    #[test]
    fn what_may_be_either_is_open() {
        assert_eq!(kind(&[(2, 2), (2, 2)]), Kind::Open, "no run was full at the start");
        assert_eq!(kind(&[(2, 2), (3, 0)]), Kind::Open, "the run without any had fewer");
        assert_eq!(kind(&[(1, 1), (0, 1)]), Kind::Open, "one in as many requests as a run has");
        assert_eq!(kind(&[(1, 2), (3, 0)]), Kind::Open, "not slower than a leak, beyond chance");
    }
}
