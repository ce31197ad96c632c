//! cargo-nextest, which runs the tests.

use miette::Result;
use xshell::cmd;

use super::{Tools, Version, cargo_install};
use crate::step;

/// The version that is built where there is none.
const PINNED: &str = "0.9.143";
/// The oldest version that will do, where the user has one.
const OLDEST: Version = Version(0, 9, 100);

/// Builds nextest where the user has none that will do.
///
/// # Errors
/// Fails where cargo does.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<()> {
    let printed = step::probe(cmd!(tools.sh, "cargo nextest --version"));
    if printed.and_then(|printed| Version::printed(&printed)).is_some_and(|version| version >= OLDEST) {
        return Ok(());
    }
    cargo_install::ensure(tools, "cargo-nextest", PINNED).map(drop)
}
