//! mdbook, which builds the book from docs/.

use std::path::PathBuf;

use miette::Result;

use super::{Tools, cargo_install};

const PINNED: &str = "0.5.4";

/// Returns the path of the pinned mdbook, building it if it is missing.
///
/// # Errors
/// When cargo fails.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<PathBuf> {
    // Only the book's own search is built in. The features for serving the book and rebuilding it on changes need a web
    // server.
    cargo_install::ensure(tools, "mdbook", PINNED, &["--no-default-features", "--features", "search"])
}
