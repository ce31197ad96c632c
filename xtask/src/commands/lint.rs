//! `cargo xtask lint`: all checks that do not run memgate, quick ones first.

use miette::{Result, miette};
use xshell::cmd;

use crate::commands::{docs, ebpf};
use crate::setup::{Tools, cargo_deny, go, rust_components};
use crate::step;
use crate::workspace::Workspace;

/// Checks formatting, links of the documentation, licences and sources of dependencies, lints, and the committed BPF
/// object.
///
/// # Errors
/// With the first check that fails.
pub(crate) fn run(workspace: &Workspace, advisories: bool) -> Result<()> {
    let sh = &workspace.sh;
    let tools = Tools::open(workspace)?;
    rust_components::ensure(&tools)?;
    go::ensure(&tools)?;
    cargo_deny::ensure(&tools)?;
    drop(tools);

    step::run(cmd!(sh, "cargo fmt --all --check"))?;
    go_is_formatted(workspace)?;
    docs::check_links(workspace)?;
    let advisories = advisories.then_some("advisories");
    step::run(cmd!(sh, "cargo deny --workspace --locked check bans licenses sources {advisories...}"))?;
    step::run(cmd!(sh, "cargo clippy --workspace --all-targets -- -D warnings"))?;
    // The agent and xtask are built separately, with fewer features of memgate-qemu than the whole workspace.
    step::run(cmd!(sh, "cargo clippy --package memgate-agent -- -D warnings"))?;
    step::run(cmd!(sh, "cargo clippy --package xtask -- -D warnings"))?;
    step::run(cmd!(sh, "cargo doc --workspace --no-deps").env("RUSTDOCFLAGS", "-D warnings"))?;
    ebpf::run(workspace, true)
}

fn go_is_formatted(workspace: &Workspace) -> Result<()> {
    let fixtures = workspace.fixtures()?;
    let files = step::capture(cmd!(workspace.sh, "gofmt -l {fixtures}"))?;
    if files.is_empty() {
        return Ok(());
    }
    Err(miette!(help = "run `.tools/go/bin/gofmt -w fixtures-go`", "gofmt would change\n{}", files.trim_end()))
}
