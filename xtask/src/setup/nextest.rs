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
    // Without the part that updates nextest itself, and with it an HTTP client and its cryptography.
    let options = ["--no-default-features", "--features", "default-no-update"];
    cargo_install::ensure(tools, "cargo-nextest", PINNED, &options).map(drop)
}
