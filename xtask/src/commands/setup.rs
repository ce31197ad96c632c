//! `cargo xtask setup`: installs all tools at once, so that nothing is fetched later.

use miette::Result;

use crate::setup::{
    Tools, bpf_linker, cargo_deny, gcc, go, go_cache, mdbook, nextest, qemu, rust_components, rust_src, services, zig,
};
use crate::workspace::Workspace;

/// Installs every tool that is missing.
///
/// # Errors
/// With the first tool that cannot be installed.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let tools = Tools::open(workspace)?;
    gcc::ensure(&tools)?;
    go::ensure(&tools)?;
    go::ensure_older(&tools)?;
    services::ensure(&tools)?;
    nextest::ensure(&tools)?;
    rust_components::ensure(&tools)?;
    cargo_deny::ensure(&tools)?;
    mdbook::ensure(&tools)?;
    bpf_linker::ensure(&tools)?;
    rust_src::ensure(&tools)?;
    zig::ensure(&tools)?;
    qemu::ensure(&tools)?;
    go_cache::ensure(&tools)?;
    eprintln!("Every tool is installed.");
    Ok(())
}
