//! The call sites behind a metric: the places in the code where someone can change it.

use std::collections::BTreeMap;

use memgate_evidence::{Code, Frame};
use serde::{Deserialize, Serialize};

use super::{
    Graph,
    frames::{is_own, is_plumbing},
    run::Run,
    tables::{NoTable, Of, Part, Table, When, allocated, goroutines, heap_growth, off_heap_growth},
};
use crate::{
    metric::{Metric, Unit},
    profile::Profile,
};

/// A call site behind a metric, with its amount in all runs together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Site {
    /// What it allocated, kept, touched or started.
    pub kind: SiteKind,
    /// The innermost frame that is not the runtime's, the C library's or cgo's own.
    pub at: SourceLocation,
    /// The innermost frame of the service's own code; `null` if there is none. Often the same as `at`.
    pub own: Option<SourceLocation>,
    /// For goroutines, the function that the `go` statement starts; otherwise `null`.
    pub starts: Option<String>,
    /// The amount in `unit`, above 0.
    pub amount: f64,
    /// `bytes` or `count`.
    pub unit: Unit,
    /// Its share of all sites of this metric, above 0, at most 1.
    pub share: f64,
    /// The number of sampled objects behind it; `null` if nothing was sampled.
    pub samples: Option<u64>,
    /// How far `amount` may be off by chance, as a share of it: two standard errors, 2/√n for n samples of small
    /// objects. `null` if nothing was sampled.
    pub error: Option<f64>,
}

/// What a site allocated, kept, touched or started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SiteKind {
    /// Memory on the Go heap.
    Heap,
    /// Resident off-heap memory.
    OffHeap,
    /// Goroutines.
    Goroutines,
}

/// A place in the code.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SourceLocation {
    /// The function, such as `main.(*store).put` or `malloc`; `unknown` if the stack is not known.
    pub function: String,
    /// The source file: relative to the repository's root if `in_repository`, or else as the compiler recorded it;
    /// empty if it is not known.
    pub file: String,
    /// The line, from 1; 0 if it is not known.
    pub line: u32,
    /// Whether the file lies in the repository in which the report was made.
    pub in_repository: bool,
}

/// What the call sites of a profile are.
const fn kind(profile: Profile) -> SiteKind {
    match profile {
        Profile::AllocatedBytes | Profile::AllocatedObjects | Profile::LiveHeapGrowth => SiteKind::Heap,
        Profile::OffheapGrowth => SiteKind::OffHeap,
        Profile::GoroutinesUnderLoad | Profile::GoroutinesLeft => SiteKind::Goroutines,
    }
}

/// The unit of a profile's values.
const fn unit(profile: Profile) -> Unit {
    match profile {
        Profile::AllocatedBytes | Profile::LiveHeapGrowth | Profile::OffheapGrowth => Unit::Bytes,
        Profile::AllocatedObjects | Profile::GoroutinesUnderLoad | Profile::GoroutinesLeft => Unit::Count,
    }
}

/// The profiles of one run, as far as they are available.
pub(super) struct Profiles<'a> {
    code: &'a Code,
    bytes: Result<Table, NoTable>,
    objects: Result<Table, NoTable>,
    heap_growth: Result<Table, NoTable>,
    off_heap_growth: Result<Table, NoTable>,
    loaded: Result<Table, NoTable>,
    left: Result<Table, NoTable>,
}

impl<'a> Profiles<'a> {
    /// The profiles of a run.
    pub(super) fn of(run: Run<'a>) -> Self {
        Self {
            code: &run.0.code,
            bytes: allocated(run, Of::Bytes),
            objects: allocated(run, Of::Objects),
            heap_growth: heap_growth(run),
            off_heap_growth: off_heap_growth(run),
            loaded: goroutines(run, When::Loaded),
            left: goroutines(run, When::Left),
        }
    }

    const fn table(&self, profile: Profile) -> &Result<Table, NoTable> {
        match profile {
            Profile::AllocatedBytes => &self.bytes,
            Profile::AllocatedObjects => &self.objects,
            Profile::LiveHeapGrowth => &self.heap_growth,
            Profile::OffheapGrowth => &self.off_heap_growth,
            Profile::GoroutinesUnderLoad => &self.loaded,
            Profile::GoroutinesLeft => &self.left,
        }
    }

    /// The table for a flame graph.
    pub(super) const fn of_graph(&self, graph: Graph) -> Result<&Table, &NoTable> {
        match graph {
            Graph::Alloc => self.bytes.as_ref(),
            Graph::LiveGrowth => self.heap_growth.as_ref(),
            Graph::OffheapGrowth => self.off_heap_growth.as_ref(),
        }
    }

    /// The code that the stacks of the tables refer to.
    pub(super) const fn code(&self) -> &'a Code {
        self.code
    }

    /// Profile rows that cannot be true, as clauses. A reader must not take the omitted rows for nothing.
    pub(super) fn doubts(&self) -> Vec<String> {
        let tables = [
            ("allocations by code", &self.bytes),
            ("live heap by code", &self.heap_growth),
            ("off-heap memory by code", &self.off_heap_growth),
            ("goroutines by `go` statement", &self.loaded),
        ];
        let doubt = |(what, table): (&str, &Result<Table, NoTable>)| match table {
            Ok(Table { left_out: 0, .. }) | Err(NoTable::Missing(_)) => None,
            Ok(Table { left_out, .. }) => {
                Some(format!("{what}: {left_out} rows contradict themselves and are left out"))
            }
            Err(NoTable::Broken(reason)) => Some(format!("{what}: {reason}")),
        };
        tables.into_iter().filter_map(doubt).collect()
    }
}

/// The sites behind every metric that has any.
pub(super) fn by_metric(runs: &[Profiles<'_>]) -> BTreeMap<Metric, Vec<Site>> {
    let all = Metric::ALL.into_iter().map(|metric| (metric, sites(metric, runs)));
    all.filter(|(_, sites)| !sites.is_empty()).collect()
}

/// The sites behind a metric in all of these runs, largest first, equal ones by name. Empty if there is no profile or
/// nothing grew.
fn sites(metric: Metric, runs: &[Profiles<'_>]) -> Vec<Site> {
    // All profiles behind one metric have the same unit; a test checks it.
    let unit = metric.profiles().first().map_or(Unit::Bytes, |profile| unit(*profile));
    let mut sums: BTreeMap<Key, Sum> = BTreeMap::new();
    for profiles in runs {
        for profile in metric.profiles() {
            let (kind, table) = (kind(*profile), profiles.table(*profile));
            for ((stack, started), sum) in by_stack(table.as_ref().map_or(&[][..], |table| &table.parts)) {
                sums.entry(Key::of(kind, profiles.code, stack, started)).or_default().add(&sum);
            }
        }
    }
    // A remainder of less than one comes from rounding, where terms cancel out.
    sums.retain(|_, sum| sum.amount.is_finite() && sum.amount >= 0.5);
    let total: f64 = sums.values().map(|sum| sum.amount).sum();
    let mut sites: Vec<Site> = sums.into_iter().map(|(key, sum)| key.site(sum, unit, total)).collect();
    // The sort is stable, so equal ones stay sorted by name.
    sites.sort_by(|one, other| other.amount.total_cmp(&one.amount));
    sites
}

/// The parts summed by stack. There are far fewer stacks than parts, and names are long.
fn by_stack(parts: &[Part]) -> BTreeMap<(u32, Option<u32>), Sum> {
    let mut sums: BTreeMap<_, Sum> = BTreeMap::new();
    for &Part { stack, started, amount, samples, variance } in parts {
        sums.entry((stack, started)).or_default().add(&Sum { amount, samples, variance });
    }
    sums
}

/// The key of a site: parts with the same key belong to the same site.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    at: SourceLocation,
    own: Option<SourceLocation>,
    starts: Option<String>,
    kind: SiteKind,
}

impl Key {
    /// The key of what a stack did; for goroutines, with what the `go` statement starts.
    pub(super) fn of(kind: SiteKind, code: &Code, stack: u32, started: Option<u32>) -> Self {
        let frames = || code.stack(stack);
        let at = frames().find(|frame| !is_plumbing(frame)).or_else(|| frames().next());
        let starts = started.map(|started| {
            let first = code.stack(started).next();
            first.map_or_else(|| UNKNOWN.to_owned(), |frame| name(frame).to_owned())
        });
        Self {
            at: at.map_or_else(SourceLocation::unknown, SourceLocation::of),
            own: frames().find(|frame| is_own(frame)).map(SourceLocation::of),
            starts,
            kind,
        }
    }

    fn site(self, sum: Sum, unit: Unit, total: f64) -> Site {
        let sampled = sum.samples > 0;
        Site {
            kind: self.kind,
            at: self.at,
            own: self.own,
            starts: self.starts,
            amount: sum.amount,
            unit,
            share: sum.amount / total,
            samples: sampled.then_some(sum.samples),
            error: sampled.then(|| 2.0 * sum.variance.sqrt() / sum.amount),
        }
    }
}

/// What stands for a function without a name.
const UNKNOWN: &str = "unknown";

impl SourceLocation {
    fn of(frame: &Frame) -> Self {
        let Frame { file, line, .. } = frame;
        Self { function: name(frame).to_owned(), file: file.clone(), line: *line, in_repository: false }
    }

    fn unknown() -> Self {
        Self { function: UNKNOWN.to_owned(), file: String::new(), line: 0, in_repository: false }
    }
}

/// The name of a frame's function.
pub(super) fn name(frame: &Frame) -> &str {
    if frame.function.trim().is_empty() { UNKNOWN } else { &frame.function }
}

/// Parts of one site.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    amount: f64,
    samples: u64,
    variance: f64,
}

impl Sum {
    fn add(&mut self, other: &Self) {
        self.amount += other.amount;
        self.samples = self.samples.saturating_add(other.samples);
        self.variance += other.variance;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profiles_behind_a_metric_are_in_one_unit() {
        for metric in Metric::ALL {
            let units: Vec<Unit> = metric.profiles().iter().map(|profile| unit(*profile)).collect();
            assert!(units.windows(2).all(|pair| pair[0] == pair[1]), "{metric}: {units:?}");
        }
    }
}
