//! `cargo xtask docs`: checks every link of the documentation and builds the book of docs/ into target/book.

use std::path::PathBuf;

use miette::{IntoDiagnostic, Result, miette};
use xshell::cmd;

use crate::links;
use crate::setup::{Tools, mdbook};
use crate::step;
use crate::workspace::Workspace;

/// Checks the links and builds the book.
///
/// # Errors
/// When a link is broken, or when mdbook cannot be installed or fails.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    check_links(workspace)?;
    let tools = Tools::open(workspace)?;
    let mdbook = mdbook::ensure(&tools)?;
    drop(tools);
    let book = workspace.target().join("book");
    step::run(cmd!(workspace.sh, "{mdbook} build docs --dest-dir {book}"))?;
    eprintln!("The book is {}", book.join("index.html").display());
    Ok(())
}

/// Checks every relative link and anchor of the checkout's Markdown, and every page of docs/ that code names.
///
/// # Errors
/// With a line for each broken link.
pub(crate) fn check_links(workspace: &Workspace) -> Result<()> {
    let problems = links::check(workspace.root(), &files(workspace)?).into_diagnostic()?;
    if problems.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
    Err(miette!(help = "correct the link, or add what it names", "broken links:\n{}", lines.join("\n")))
}

/// The files of the checkout, relative to its root, but those that git ignores.
///
/// # Errors
/// Fails if git cannot be run, or the checkout is none.
pub(crate) fn files(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let listed = step::capture(cmd!(workspace.sh, "git ls-files -z --cached --others --exclude-standard"))?;
    Ok(listed.split_terminator('\0').map(PathBuf::from).collect())
}
