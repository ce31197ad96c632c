//! `cargo xtask test`: the Go services' tests, then memgate's.

use miette::Result;
use xshell::cmd;

use crate::commands::dist;
use crate::setup::{Tools, gcc, go, go_cache, nextest as nextest_tool, qemu, services};
use crate::workspace::{Workspace, is_ci};
use crate::{disk, step};

/// What a test run writes from nothing, after the lints: 4 GB into `target`, 3 GB into `.tools`, and 2 GB into Go's and
/// cargo's caches.
const FROM_NOTHING: u64 = 9_000_000_000;
/// What the next one writes: changed crates, and what tests leave for those who look at a failure.
const NEXT: u64 = 3_000_000_000;

/// Builds everything, tests the Go services, and becomes nextest, so nextest's summary is the last line.
///
/// # Errors
/// When the set-up, a build or a Go test fails.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    let sh = &workspace.sh;
    let fixtures = workspace.fixtures()?;
    let target = workspace.target();
    disk::ensure_room(&target, if target.join("dist").is_dir() { NEXT } else { FROM_NOTHING })?;
    let tools = Tools::open(workspace)?;
    gcc::ensure(&tools)?;
    go::ensure(&tools)?;
    go::ensure_older(&tools)?;
    go_cache::ensure(&tools)?;
    services::ensure(&tools)?;
    nextest_tool::ensure(&tools)?;
    qemu::ensure(&tools)?;
    drop(tools);
    dist::run(workspace, &[])?;

    let profile = if is_ci() { "ci" } else { "default" };
    step::run(cmd!(sh, "cargo nextest run --workspace --profile {profile} --no-run"))?;
    {
        let _in_fixtures = sh.push_dir(fixtures);
        step::run(cmd!(sh, "go vet ./..."))?;
        step::run(cmd!(sh, "go test ./..."))?;
    }
    nextest(workspace, profile, args)
}

/// Builds and becomes nextest for the tests that need no root, no guest, no network and no other version of Go.
///
/// # Errors
/// When the set-up or a build fails.
pub(crate) fn quick(workspace: &Workspace, args: &[String]) -> Result<()> {
    let tools = Tools::open(workspace)?;
    gcc::ensure(&tools)?;
    go::ensure(&tools)?;
    nextest_tool::ensure(&tools)?;
    drop(tools);
    nextest(workspace, "quick", args)
}

fn nextest(workspace: &Workspace, profile: &str, args: &[String]) -> Result<()> {
    let sh = &workspace.sh;
    match step::become_command(cmd!(sh, "cargo nextest run --workspace --profile {profile} {args...}"))? {}
}
