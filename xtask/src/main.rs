//! memgate's own chores: set-up, lint, test, the BPF object, the agents of guests and the gate itself, as `cargo xtask
//! …`.
//!
//! Every command installs missing tools that it needs, prints each step on stderr, and stops at the first failure.

mod artifact;
mod build_std;
mod citations;
mod commands;
mod disk;
mod error;
mod go_sources;
mod interrupt;
mod links;
mod rustc_wrapper;
mod setup;
mod step;
mod workspace;

use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Parser, Subcommand};
use memgate_qemu::architecture::Architecture;

use crate::commands::{bench, check, dist, docs, ebpf, fuzz, go, lint, setup as setup_all, test};
use crate::error::Error;
use crate::workspace::Workspace;

/// memgate's own chores.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// One chore.
#[derive(Debug, Subcommand)]
enum Command {
    /// Install every tool that other commands need.
    Setup,
    /// Build memgate and gate the services of memgate.yaml; exits with the code of `memgate check`.
    Check {
        /// Arguments for `memgate check`.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Run the tests of the Go services and of memgate.
    Test {
        /// Run only the tests that need no root, no guest and no network.
        #[arg(long)]
        quick: bool,
        /// Arguments for `cargo nextest run`.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Build the static agent that runs in guests, for each platform, into target/dist.
    Dist {
        /// Only this platform; can be given several times.
        #[arg(long = "architecture", value_parser = architecture())]
        architectures: Vec<Architecture>,
    },
    /// Check the links of the documentation and build the book of docs/ into target/book.
    Docs,
    /// Check formatting, lints, licences, documentation and the committed BPF object.
    Lint {
        /// Also check the dependencies against the RustSec advisory database, which is fetched from its git host.
        #[arg(long)]
        advisories: bool,
    },
    /// Damage input at random and read it, for a number of minutes (docs/how-to/fuzzing.md).
    Fuzz {
        /// What to read.
        #[arg(value_enum)]
        target: fuzz::FuzzTarget,
        /// How many minutes to run.
        #[arg(long, default_value_t = 20)]
        minutes: u32,
    },
    /// Add a version of Go to those that memgate measures.
    #[command(subcommand)]
    Go(go::Go),
    /// Measure, and print figures for docs/.
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Build the BPF programs and put the object beside their source.
    Ebpf {
        /// Change nothing; fail if the committed object differs from what its source builds.
        #[arg(long)]
        check: bool,
    },
}

impl Command {
    fn run(&self, workspace: &Workspace) -> miette::Result<()> {
        match self {
            Self::Setup => setup_all::run(workspace),
            Self::Check { args } => check::run(workspace, args),
            Self::Test { quick: true, args } => test::quick(workspace, args),
            Self::Test { quick: false, args } => test::run(workspace, args),
            Self::Dist { architectures } => dist::run(workspace, architectures),
            Self::Docs => docs::run(workspace),
            Self::Lint { advisories } => lint::run(workspace, *advisories),
            Self::Fuzz { target, minutes } => fuzz::run(workspace, *target, *minutes),
            Self::Go(go) => go::run(workspace, go),
            Self::Bench(bench) => bench::run(workspace, bench),
            Self::Ebpf { check } => ebpf::run(workspace, *check),
        }
    }

    /// The exit code for failures of xtask itself. `memgate check` exits with 1 for a failed gate and 4 for failed
    /// infrastructure, and a failed set-up must not look like a failed gate.
    fn failure_code(&self) -> u8 {
        match self {
            Self::Check { .. } => 4,
            _ => 1,
        }
    }
}

fn architecture() -> impl TypedValueParser<Value = Architecture> {
    PossibleValuesParser::new(Architecture::ALL.map(Architecture::name)).try_map(|name| name.parse::<Architecture>())
}

fn main() -> ExitCode {
    if rustc_wrapper::is_requested() {
        return rustc_wrapper::run();
    }
    let cli = Cli::parse();
    let result = interrupt::install().and_then(|()| Workspace::find()).and_then(|ws| cli.command.run(&ws));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) if matches!(report.downcast_ref(), Some(Error::Interrupted)) => {
            eprintln!("interrupted");
            ExitCode::from(130)
        }
        Err(report) => {
            eprintln!("{report:?}");
            ExitCode::from(cli.command.failure_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn arguments_after_the_dashes_are_passed_on() {
        let cli = Cli::parse_from(["cargo xtask", "check", "--", "--runs", "1", "--format", "json"]);
        assert!(matches!(&cli.command, Command::Check { args } if args == &["--runs", "1", "--format", "json"]));
        assert_eq!(cli.command.failure_code(), 4);
    }

    #[test]
    fn versions_of_go_are_releases() {
        let add = |version| Cli::try_parse_from(["cargo xtask", "go", "add", version]);
        assert!(matches!(add("1.28.1").unwrap().command, Command::Go(go::Go::Add { version }) if version.minor == 28));
        assert!(add("1.28").unwrap_err().to_string().contains("expected 1.MINOR.PATCH"));
    }

    #[test]
    fn agents_are_chosen_by_architecture() {
        let cli = Cli::parse_from(["cargo xtask", "dist", "--architecture", "loong64"]);
        assert!(matches!(&cli.command, Command::Dist { architectures } if architectures == &[Architecture::Loong64]));
        assert!(Cli::try_parse_from(["cargo xtask", "dist", "--architecture", "x86_64"]).is_err());
    }
}
