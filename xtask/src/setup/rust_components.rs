//! rustfmt and clippy, which a minimal installation of Rust lacks.

use miette::Result;
use xshell::cmd;

use super::Tools;
use crate::step;

/// Adds rustfmt and clippy to the toolchain in use if they are missing.
///
/// # Errors
/// When rustup is missing or cannot fetch them.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<()> {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if step::probe(cmd!(tools.sh, "cargo {subcommand} --version")).is_none() {
            step::run(cmd!(tools.sh, "rustup component add {component}"))?;
        }
    }
    Ok(())
}
