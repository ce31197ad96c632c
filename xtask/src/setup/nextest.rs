//! cargo-nextest, which runs the tests.

use miette::Result;
use xshell::cmd;

use super::{Tools, Version, cargo_install};
use crate::step;

/// The version to build if there is none.
const PINNED: &str = "0.9.143";
/// The oldest suitable version, if the user has one.
const OLDEST: Version = Version(0, 9, 100);

/// Builds nextest if the user has no suitable one.
///
/// # Errors
/// When cargo fails.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<()> {
    let printed = step::probe(cmd!(tools.sh, "cargo nextest --version"));
    if printed.and_then(|printed| Version::printed(&printed)).is_some_and(|version| version >= OLDEST) {
        return Ok(());
    }
    // Leaves out nextest's updater, which needs an HTTP client and its cryptography.
    let options = ["--no-default-features", "--features", "default-no-update"];
    cargo_install::ensure(tools, "cargo-nextest", PINNED, &options).map(drop)
}
