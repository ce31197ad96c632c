//! mdbook, which builds the book from docs/.

use std::path::PathBuf;

use miette::Result;

use super::{Tools, cargo_install};

const PINNED: &str = "0.5.4";

/// Returns the path of the pinned mdbook, building it if it is missing.
///
/// # Errors
/// Fails if cargo does.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<PathBuf> {
    // The book's own search is kept. The features that serve the book and rebuild it on changes bring a web server.
    cargo_install::ensure(tools, "mdbook", PINNED, &["--no-default-features", "--features", "search"])
}
