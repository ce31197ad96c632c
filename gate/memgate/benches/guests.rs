//! Measures how long guests take to boot and to resume, until their agent waits for work. `cargo xtask bench guests`
//! runs this.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

use std::time::Instant;

use clap::Parser;
use memgate::guest_runner::GuestRunner;
use memgate_agent::cancel::Cancel;
use memgate_config::PlatformOptions;
use memgate_evidence::platform::Platform;
use statrs::statistics::{Data, Max, Median, Min};

#[derive(Parser)]
struct Options {
    /// How many guests to boot, and how many to resume.
    #[arg(long, default_value_t = 30)]
    times: u32,
    /// The platforms of the guests.
    #[arg(long, default_values = Platform::ALL.map(Platform::name))]
    platform: Vec<Platform>,
    /// Cargo passes this to every benchmark.
    #[arg(long)]
    bench: bool,
}

fn main() {
    let options = Options::parse();
    println!("| platform | boot, s: median | least | most | resume, s: median | least | most |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for platform in options.platform {
        let [booted, resumed] = [false, true].map(|snapshots| {
            let mut say = |line: &str| eprintln!("{platform}: {line}");
            let guests =
                GuestRunner::prepare(platform, &PlatformOptions::default(), snapshots, &Cancel::never(), &mut say);
            guests.unwrap_or_else(|error| panic!("{error}"))
        });
        // The first guest boots and is saved.
        runtime.block_on(start(&resumed));
        let [mut boots, mut resumes] = [(); 2].map(|()| Vec::new());
        for _ in 0..options.times {
            boots.push(runtime.block_on(start(&booted)));
            resumes.push(runtime.block_on(start(&resumed)));
        }
        println!("| {platform} | {} | {} |", row(boots), row(resumes));
    }
}

/// Starts a guest and ends it. Returns how long it took until its agent began, s.
async fn start(guests: &GuestRunner) -> f64 {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let before = Instant::now();
    let started = guests.start(&directory.path().join("console.log"), &|_| ()).await;
    let seconds = before.elapsed().as_secs_f64();
    let (_guest, notes) = started.unwrap_or_else(|error| panic!("{error}"));
    assert!(notes.is_empty(), "{notes:?}");
    seconds
}

fn row(seconds: Vec<f64>) -> String {
    let seconds = Data::new(seconds);
    let figures = [seconds.median(), Min::min(&seconds), Max::max(&seconds)];
    figures.map(|figure| format!("{figure:.2}")).join(" | ")
}
