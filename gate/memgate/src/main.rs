//! The command `memgate`.

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    memgate::command::run(memgate::cli::Cli::parse())
}
