//! The command `memgate`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    memgate::dispatch::run(memgate::cli::Cli::parse())
}
