//! How long guests take to boot and to be resumed, until their agent waits for work: `cargo xtask bench guests` runs this.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::Instant;

use clap::Parser;
use hdrhistogram::Histogram;
use memgate::{config::PlatformOptions, guests::Guests, platform::Platform};

#[derive(Parser)]
struct Options {
    /// How many guests are booted, and how many resumed.
    #[arg(long, default_value_t = 30)]
    times: u32,
    /// Whose guests.
    #[arg(long, default_values = Platform::ALL.map(Platform::name))]
    platform: Vec<Platform>,
    /// What cargo passes to every benchmark.
    #[arg(long)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    println!("| platform | boot, s: median | least | most | resume, s: median | least | most |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for platform in options.platform {
        let [mut booted, mut resumed] = [false, true].map(|snapshots| {
            let mut say = |line: &str| eprintln!("{platform}: {line}");
            let guests = Guests::prepare(platform, &PlatformOptions::default(), snapshots, &mut say);
            guests.unwrap_or_else(|error| panic!("{error}"))
        });
        // The first one is booted, and saved.
        runtime.block_on(start(&mut resumed));
        let [mut boots, mut resumes] = [(); 2].map(|()| Histogram::<u64>::new(3).expect("three digits"));
        for _ in 0..options.times {
            boots.record(runtime.block_on(start(&mut booted))).expect("it grows");
            resumes.record(runtime.block_on(start(&mut resumed))).expect("it grows");
        }
        println!("| {platform} | {} | {} |", row(&boots), row(&resumes));
    }
}

/// Starts a guest and ends it; how long it took until its agent had begun, ms.
async fn start(guests: &mut Guests) -> u64 {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let before = Instant::now();
    let started = guests.start(&directory.path().join("console.log"), &|_| ()).await;
    let milliseconds = u64::try_from(before.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (_guest, notes) = started.unwrap_or_else(|error| panic!("{error}"));
    assert!(notes.is_empty(), "{notes:?}");
    milliseconds
}

fn row(milliseconds: &Histogram<u64>) -> String {
    let figures = [milliseconds.value_at_quantile(0.5), milliseconds.min(), milliseconds.max()];
    figures.map(|figure| format!("{:.2}", figure as f64 / 1e3)).join(" | ")
}
