//! Measures how much the counts vary between runs of a healthy service. `cargo xtask bench variation` runs this.
//!
//! The service is `uaa` of the repository's memgate.yaml, with shorter phases. Each run is a fresh process, in a fresh
//! guest if the platform is not the host's.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{collections::BTreeMap, fs, path::Path};

use clap::Parser;
use common::{Bench, repository, stderr, stdout};
use memgate_evidence::platform::Platform;
use memgate_files::evidence_file;
use memgate_verdict::{
    metric::{Metric, Quantity, Unit},
    summarise::summarise,
    units,
};
use statrs::statistics::{Data, Distribution, Max, Median, Min};

#[derive(Parser)]
struct Options {
    /// The number of runs on each platform.
    #[arg(long, default_value_t = 30)]
    times: u32,
    /// The platforms.
    #[arg(long, default_values = Platform::ALL.map(Platform::name))]
    platform: Vec<Platform>,
    /// Cargo passes this to every benchmark.
    #[arg(long)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    println!("| metric | platform | runs | median | least | most | standard deviation / mean, % |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let by_platform: Vec<_> =
        options.platform.iter().map(|platform| (platform, figures(*platform, options.times))).collect();
    for metric in Metric::ALL.into_iter().filter(|metric| metric.quantity() == Quantity::Count) {
        for (platform, figures) in &by_platform {
            println!("| `{metric}` | {platform} | {} |", row(&figures[&metric], metric.unit()));
        }
    }
}

/// The most runs that one `memgate record` makes.
const MOST_RUNS: u32 = 20;

/// The figures of each run. A run in which a metric has no figure adds none.
fn figures(platform: Platform, times: u32) -> BTreeMap<Metric, Vec<f64>> {
    let yaml = fs::read_to_string(repository().join("memgate.yaml")).expect("the example");
    let with = |yaml: String, from: &str, to: &str| {
        assert!(yaml.contains(from), "the example has no `{from}`");
        yaml.replace(from, to)
    };
    let yaml = with(yaml, "{ warmup: 20s, measure: 30s, drain: 5s }", "{ warmup: 2s, measure: 8s, drain: 1s }");
    let yaml = with(yaml, "dir: fixtures-go", &format!("dir: \"{}\"", repository().join("fixtures-go").display()));
    let bench = Bench::new(&yaml);
    let mut figures: BTreeMap<_, Vec<_>> = Metric::ALL.map(|metric| (metric, Vec::new())).into();
    let mut left = times;
    while left > 0 {
        let runs = left.min(MOST_RUNS);
        left -= runs;
        let output = bench.run("record", &["--platform", platform.name(), "--runs", &runs.to_string()]);
        assert!(output.status.success(), "{}", stderr(&output));
        for file in stdout(&output).lines() {
            let evidence = evidence_file::read(Path::new(file)).expect("evidence");
            let run = summarise(&[evidence]).expect("one run").runs.remove(0);
            for (metric, measured) in run.metrics.into_iter().filter(|(metric, _)| metric.quantity() == Quantity::Count)
            {
                match measured {
                    Ok(estimate) => figures.entry(metric).or_default().push(estimate.measured),
                    Err(unavailable) => eprintln!("{platform}, {file}: {metric}: {}", unavailable.reason),
                }
            }
        }
    }
    figures
}

fn row(figures: &[f64], unit: Unit) -> String {
    let runs = figures.len();
    let data = Data::new(figures.to_vec());
    let told = [data.median(), Min::min(&data), Max::max(&data)].map(|figure| units::format(figure, unit));
    let [median, least, most] = if runs == 0 { Default::default() } else { told };
    let spread = data.std_dev().zip(data.mean()).filter(|(_, mean)| *mean > 0.0);
    // A slope near zero has no scale of its own.
    let spread = spread
        .filter(|_| unit != Unit::BytesPerMinute)
        .map_or_else(|| "-".to_owned(), |(deviation, mean)| format!("{:.2}", 100.0 * deviation / mean));
    format!("{runs} | {median} | {least} | {most} | {spread}")
}
