//! How often healthy runs are not green, and how small a worsening is noticed. `cargo xtask bench panel` runs this.
//!
//! It reads recorded runs of one healthy service and makes checks of them, as `memgate check` would: a baseline of some
//! runs, and then looks at others. Worse runs are recorded runs to which a worsening is added by the runtime's own
//! arithmetic. Nothing is measured here, so the same files give the same table.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::{Path, PathBuf};

use clap::Parser;
use memgate_config::baseline;
use memgate_evidence::Evidence;
use memgate_files::{evidence_file, names};
use memgate_testing::Random;
use memgate_verdict::{
    baseline::Baseline,
    judge::{MOST_RUNS, judge, more_runs},
    metric::{Limits, Metric},
    results::{ServiceResult, Verdict},
    summarise::{Summary, summarise},
};

#[derive(Parser)]
struct Options {
    /// Directories of evidence files, each of runs of one service.
    #[arg(required = true)]
    evidence: Vec<PathBuf>,
    /// The number of runs that a baseline is made of.
    #[arg(long, default_value_t = 6)]
    recorded: usize,
    /// The number of checks of resampled runs in each row.
    #[arg(long, default_value_t = 200)]
    checks: u32,
    /// Cargo passes this to every benchmark.
    #[arg(long)]
    bench: bool,
}

/// A change of a run's evidence.
type Worsening = (&'static str, Metric, fn(&mut Evidence, &mut Random));

const WORSENINGS: [Worsening; 6] = [
    ("leak of 1 MB/min", Metric::HeapLiveGrowth, |run, _| leak(run, 1e6)),
    ("leak of 2 MB/min", Metric::HeapLiveGrowth, |run, _| leak(run, 2e6)),
    ("+0.5 % bytes per request", Metric::AllocBytesPerRequest, |run, _| allocate(run, 0.005)),
    ("+1 % bytes per request", Metric::AllocBytesPerRequest, |run, _| allocate(run, 0.01)),
    ("a goroutine in 20,000 requests", Metric::GoroutinesLeaked, |run, random| leave_goroutines(run, 20_000.0, random)),
    ("a goroutine in 2,000 requests", Metric::GoroutinesLeaked, |run, random| leave_goroutines(run, 2_000.0, random)),
];

fn main() {
    let options = Options::parse();
    println!("| runs of | checks | not green | failed | runs a check | undecided gates |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for directory in &options.evidence {
        let runs = read(directory);
        let name = &runs[0].service;
        assert!(runs.len() >= options.recorded + MOST_RUNS, "{name}: only {} runs", runs.len());
        let healthy: Vec<Run> = runs.iter().map(Run::of).collect();
        let disjoint = disjoint(&healthy, options.recorded);
        row(&format!("{name}, healthy, disjoint runs"), &disjoint, None);
        let mut random = Random(42);
        let resampled = |pool: &[Run], random: &mut Random| resampled(&healthy, pool, &options, random);
        row(&format!("{name}, healthy, resampled"), &resampled(&healthy, &mut random), None);
        for (what, metric, worsen) in WORSENINGS {
            let worse = |run: &Evidence| {
                let mut run = run.clone();
                worsen(&mut run, &mut random);
                Run::of(&run)
            };
            let worse: Vec<Run> = runs.iter().map(worse).collect();
            row(&format!("{name}, {what}"), &resampled(&worse, &mut random), Some(metric));
        }
    }
}

/// The metrics of one run.
struct Run(Summary);

impl Run {
    fn of(evidence: &Evidence) -> Self {
        Self(summarise(std::slice::from_ref(evidence)).expect("one run"))
    }

    /// Several runs as one command would have made them.
    fn together<'a>(runs: impl IntoIterator<Item = &'a Self>) -> Summary {
        let mut summaries = runs.into_iter().map(|run| run.0.clone());
        let mut all = summaries.next().expect("a run");
        all.runs.extend(summaries.flat_map(|summary| summary.runs));
        for (run, number) in all.runs.iter_mut().zip(1..) {
            run.run = number;
        }
        all
    }
}

/// The outcome of a check.
struct Outcome {
    result: ServiceResult,
}

/// Checks runs as memgate does: it adds runs until every gate is decided. `next` gives the next run.
fn check<'a>(baseline: &Baseline, mut next: impl FnMut() -> &'a Run) -> Outcome {
    let mut runs: Vec<&Run> = vec![next(), next()];
    loop {
        let result = judge(&Run::together(runs.iter().copied()), Some(baseline));
        match more_runs(&result) {
            Some(more) => {
                while runs.len() < more as usize {
                    runs.push(next());
                }
            }
            None => return Outcome { result },
        }
    }
}

/// The baseline that `memgate baseline record` makes of these runs.
fn recorded<'a>(runs: impl IntoIterator<Item = &'a Run>) -> Baseline {
    let summary = Run::together(runs);
    let text = baseline::render(&summary, "2026-01-01", Limits::General).expect("a baseline");
    baseline::parse(Path::new("baseline"), &text, summary.platform, &summary.baseline).expect("a baseline")
}

/// Checks of disjoint runs, in the order of recording: the first runs make the baseline.
fn disjoint(runs: &[Run], recorded_runs: usize) -> Vec<Outcome> {
    let (base, rest) = runs.split_at(recorded_runs);
    let baseline = recorded(base);
    let mut left = rest.iter();
    let mut outcomes = Vec::new();
    while left.len() >= MOST_RUNS {
        outcomes.push(check(&baseline, || left.next().expect("enough runs")));
    }
    outcomes
}

/// Checks of runs drawn from a pool, each with a baseline of other runs drawn from the healthy ones.
fn resampled(healthy: &[Run], pool: &[Run], options: &Options, random: &mut Random) -> Vec<Outcome> {
    (0..options.checks)
        .map(|_| {
            let mut order: Vec<usize> = (0..healthy.len()).collect();
            for index in (1..order.len()).rev() {
                order.swap(index, usize::try_from(random.below(index as u64 + 1)).unwrap_or(0));
            }
            let (base, rest) = order.split_at(options.recorded);
            let baseline = recorded(base.iter().map(|&index| &healthy[index]));
            let mut left = rest.iter();
            check(&baseline, || &pool[*left.next().expect("enough runs")])
        })
        .collect()
}

/// Prints a row. With a metric, only its gate counts.
fn row(what: &str, outcomes: &[Outcome], metric: Option<Metric>) {
    let gates = |outcome: &Outcome| {
        let counted = |gate: &&memgate_verdict::results::GateResult| metric.is_none_or(|metric| gate.metric == metric);
        outcome.result.gates.iter().filter(counted).map(|gate| (gate.metric, gate.verdict)).collect::<Vec<_>>()
    };
    let not_green = outcomes.iter().filter(|one| gates(one).iter().any(|(_, verdict)| verdict.exit_code() != 0));
    let failed = outcomes.iter().filter(|one| gates(one).iter().any(|(_, verdict)| *verdict == Verdict::Regressed));
    let runs = outcomes.iter().map(|one| f64::from(one.result.runs)).sum::<f64>() / outcomes.len().max(1) as f64;
    let mut undecided: Vec<String> = outcomes
        .iter()
        .flat_map(gates)
        .filter(|(_, verdict)| metric.is_none() && verdict.exit_code() != 0)
        .map(|(metric, verdict)| format!("{metric} {}", verdict.name()))
        .collect();
    undecided.sort();
    let counted: Vec<String> =
        undecided.chunk_by(|one, other| one == other).map(|alike| format!("{} ({})", alike[0], alike.len())).collect();
    let (not_green, failed, checks) = (not_green.count(), failed.count(), outcomes.len());
    println!("| {what} | {checks} | {not_green} | {failed} | {runs:.2} | {} |", counted.join(", "));
}

fn read(directory: &Path) -> Vec<Evidence> {
    let entries = std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.to_string_lossy().ends_with(names::EVIDENCE))
        .collect();
    files.sort();
    let mut runs: Vec<Evidence> = files.iter().map(|file| evidence_file::read(file).expect("evidence")).collect();
    runs.sort_by(|one, other| one.started_at.cmp(&other.started_at));
    assert!(!runs.is_empty(), "{}: no evidence", directory.display());
    runs
}

/// Adds a leak, bytes per minute, to every reading of the live heap and of the resident set.
fn leak(run: &mut Evidence, bytes_per_minute: f64) {
    let from = run.phases.warmup.map_or(0, |warmup| warmup.start_ns);
    let grown = |at_ns: u64| whole(at_ns.saturating_sub(from) as f64 / 60e9 * bytes_per_minute);
    let signals = &mut run.signals;
    for (value, at) in signals.live_heap.data.value.iter_mut().zip(&signals.live_heap.data.at_ns) {
        *value += grown(*at);
    }
}

/// Allocates a share more for each request.
fn allocate(run: &mut Evidence, share: f64) {
    for bytes in &mut run.signals.alloc_bytes.data.value {
        *bytes += whole(*bytes as f64 * share);
    }
}

/// Leaves goroutines behind, one in so many requests of the measuring phase, by chance.
fn leave_goroutines(run: &mut Evidence, requests: f64, random: &mut Random) {
    let mean = run.signals.requests.data.measure.succeeded as f64 / requests;
    // Poisson: the number of exponential steps within the mean.
    let (mut left, mut at) = (0u64, exponential(random));
    while at < mean {
        left += 1;
        at += exponential(random);
    }
    if let Some(last) = run.signals.goroutines.data.value.last_mut() {
        *last += left;
    }
}

fn exponential(random: &mut Random) -> f64 {
    -((random.below(1 << 53) + 1) as f64 / (1u64 << 53) as f64).ln()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the values are not negative")]
fn whole(value: f64) -> u64 {
    value as u64
}
