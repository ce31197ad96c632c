//! How often healthy runs are not green, and how small a worsening is noticed. `cargo xtask bench panel` runs this.
//!
//! It reads recorded runs of one healthy service and makes checks of them, as `memgate check` would: a baseline of some
//! runs, and then looks at others. It also compares runs with others, as `memgate check --against` does. Worse runs are recorded runs to which a worsening is added by the runtime's own
//! arithmetic. Nothing is measured here, so the same files give the same table.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::path::{Path, PathBuf};

use clap::Parser;
use memgate::trust::{
    checks::{Check, Gates, Looks, Run, disjoint, disjoint_beside, resampled, resampled_beside},
    plant::Fault,
};
use memgate_evidence::Evidence;
use memgate_files::{evidence_file, names};
use memgate_testing::Random;
use memgate_verdict::{
    judge::MOST_RUNS,
    metric::{Limits, Metric},
    results::{GateResult, Verdict},
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

/// A fault for a run, and the gate that must find it.
type Worsening = (&'static str, Metric, fn(&Evidence, &mut Random) -> Fault);

const WORSENINGS: [Worsening; 6] = [
    ("leak of 1 MB/min", Metric::HeapLiveGrowth, |_, _| Fault::Leak { bytes_per_minute: 1e6 }),
    ("leak of 2 MB/min", Metric::HeapLiveGrowth, |_, _| Fault::Leak { bytes_per_minute: 2e6 }),
    ("+0.5 % bytes per request", Metric::AllocBytesPerRequest, |_, _| Fault::Garbage { share: 0.005 }),
    ("+1 % bytes per request", Metric::AllocBytesPerRequest, |_, _| Fault::Garbage { share: 0.01 }),
    ("a goroutine in 20,000 requests", Metric::GoroutinesLeaked, |run, random| left(run, 20_000.0, random)),
    ("a goroutine in 2,000 requests", Metric::GoroutinesLeaked, |run, random| left(run, 2_000.0, random)),
];

fn main() {
    let options = Options::parse();
    let gates = Gates::Default(Limits::General);
    println!("| runs of | checks | not green | failed | runs a check | undecided gates |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for directory in &options.evidence {
        let runs = read(directory);
        let name = &runs[0].service;
        assert!(runs.len() >= options.recorded + MOST_RUNS, "{name}: only {} runs", runs.len());
        let healthy = Run::all(&runs).expect("runs");
        let (base, rest) = healthy.split_at(options.recorded);
        let baseline = gates.baseline(&base.iter().collect::<Vec<_>>()).expect("a baseline");
        row(&format!("{name}, healthy, disjoint runs"), &disjoint(&baseline, rest, Looks::default()), None);
        let drawn = |pool: &[Run]| {
            resampled(&healthy, pool, options.recorded, options.checks, &gates, Looks::default()).expect("a baseline")
        };
        row(&format!("{name}, healthy, resampled"), &drawn(&healthy), None);
        let looks = Looks::default();
        row(&format!("{name}, healthy beside healthy, disjoint"), &disjoint_beside(&healthy, looks), None);
        let beside = resampled_beside(&healthy, &healthy, options.checks, looks);
        row(&format!("{name}, healthy beside healthy, resampled"), &beside, None);
        let mut random = Random(42);
        for (what, metric, fault) in WORSENINGS {
            let worse = |evidence: &Evidence| {
                let mut worse = evidence.clone();
                fault(evidence, &mut random).plant(&mut worse);
                worse
            };
            let worse: Vec<Evidence> = runs.iter().map(worse).collect();
            let worse = Run::all(&worse).expect("runs");
            row(&format!("{name}, {what}"), &drawn(&worse), Some(metric));
            let beside = resampled_beside(&healthy, &worse, options.checks, Looks::default());
            row(&format!("{name}, {what}, beside healthy runs"), &beside, Some(metric));
        }
    }
}

/// Prints a row. With a metric, only its gate counts.
fn row(what: &str, checks: &[Check], metric: Option<Metric>) {
    let gates = |check: &Check| {
        let counted = |gate: &&GateResult| metric.is_none_or(|metric| gate.metric == metric);
        check.last.gates.iter().filter(counted).map(|gate| (gate.metric, gate.verdict)).collect::<Vec<_>>()
    };
    let not_green = checks.iter().filter(|one| gates(one).iter().any(|(_, verdict)| verdict.exit_code() != 0));
    let failed = checks.iter().filter(|one| gates(one).iter().any(|(_, verdict)| *verdict == Verdict::Regressed));
    let runs = checks.iter().map(|one| f64::from(one.last.runs)).sum::<f64>() / checks.len().max(1) as f64;
    let mut undecided: Vec<String> = checks
        .iter()
        .flat_map(gates)
        .filter(|(_, verdict)| metric.is_none() && verdict.exit_code() != 0)
        .map(|(metric, verdict)| format!("{metric} {}", verdict.name()))
        .collect();
    undecided.sort();
    let counted: Vec<String> =
        undecided.chunk_by(|one, other| one == other).map(|alike| format!("{} ({})", alike[0], alike.len())).collect();
    let (not_green, failed, checks) = (not_green.count(), failed.count(), checks.len());
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

/// Goroutines left behind, one in so many requests of the measuring phase, by chance.
fn left(run: &Evidence, requests: f64, random: &mut Random) -> Fault {
    let mean = run.signals.requests.data.measure.succeeded as f64 / requests;
    // Poisson: the number of exponential steps within the mean.
    let (mut left, mut at) = (0u64, exponential(random));
    while at < mean {
        left += 1;
        at += exponential(random);
    }
    Fault::Goroutines { left }
}

fn exponential(random: &mut Random) -> f64 {
    -((random.below(1 << 53) + 1) as f64 / (1u64 << 53) as f64).ln()
}
