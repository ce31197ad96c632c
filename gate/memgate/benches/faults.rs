//! Measures how soon memgate notices each fault of a guest, and whether the guest ends as it must. `cargo xtask bench
//! faults` runs this.
//!
//! The faults are those of the tests. The benchmark prints a table in Markdown. If a fault ends otherwise than it must,
//! stderr says so and the exit code is 1.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::process::ExitCode;

use clap::Parser;
use common::faults::{FAULTS, Fault, SOON};
use statrs::statistics::{Data, Max, Median};

#[derive(Parser)]
struct Options {
    /// How many times to cause each fault.
    #[arg(long, default_value_t = 20)]
    times: u32,
    /// Only the faults whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// Cargo passes this to every benchmark.
    #[arg(long)]
    bench: bool,
}

/// The results of one fault.
struct Row {
    codes: Vec<String>,
    late: Vec<f64>,
    right: u32,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let faults: Vec<_> = FAULTS.iter().filter(|fault| fault.name.contains(&options.only)).collect();
    let mut all_right = !faults.is_empty() && options.times > 0;
    println!("| fault | what memgate says | exit code | found after, s: median | most | as it must be |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for fault in faults {
        let row = Row::of(fault, options.times);
        all_right &= row.right == options.times;
        println!("{}", row.line(fault, options.times));
    }
    if all_right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Row {
    fn of(fault: &Fault, times: u32) -> Self {
        let mut row = Self { codes: Vec::new(), late: Vec::new(), right: 0 };
        for time in 1..=times {
            let outcome = fault.bring(SOON);
            row.codes.push(outcome.code.map_or_else(|| "signal".to_owned(), |code| code.to_string()));
            row.late.extend(outcome.late);
            row.right += u32::from(outcome.wrong.is_empty());
            for wrong in outcome.wrong {
                eprintln!("{}, time {time}: {wrong}", fault.name);
            }
        }
        row.codes.sort_unstable();
        row.codes.dedup();
        row
    }

    fn line(&self, fault: &Fault, times: u32) -> String {
        let late = Data::new(self.late.clone());
        // Faults that end with evidence have no time of their own.
        let seconds = |figure: f64| if self.late.is_empty() { "-".to_owned() } else { format!("{figure:.2}") };
        let [median, most] = [late.median(), Max::max(&late)].map(seconds);
        format!(
            "| {} | {} | {} | {median} | {most} | {} of {times} |",
            fault.name,
            fault.summary,
            self.codes.join(", "),
            self.right
        )
    }
}
