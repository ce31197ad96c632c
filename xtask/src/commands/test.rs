//! `cargo xtask test`: the Go services' tests, then memgate's.

use miette::Result;
use xshell::cmd;

use crate::commands::dist;
use crate::setup::{Tools, gcc, go, nextest, qemu, services};
use crate::step;
use crate::workspace::{Workspace, is_ci};

/// Builds everything, tests the Go services, and becomes nextest, whose summary is then the last line.
///
/// # Errors
/// Fails where the set-up, a build or a Go test does.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    let sh = &workspace.sh;
    let fixtures = workspace.fixtures()?;
    let tools = Tools::open(workspace)?;
    gcc::ensure(&tools)?;
    go::ensure(&tools)?;
    go::ensure_older(&tools)?;
    services::ensure(&tools)?;
    nextest::ensure(&tools)?;
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
    match step::become_command(cmd!(sh, "cargo nextest run --workspace --profile {profile} {args...}"))? {}
}
