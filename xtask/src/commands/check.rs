//! `cargo xtask check`: gates the services of memgate.yaml with memgate from this checkout.

use miette::Result;
use xshell::cmd;

use crate::commands::dist;
use crate::setup::{Tools, gcc, go, qemu};
use crate::workspace::Workspace;
use crate::{artifact, step};

/// Builds memgate and becomes `memgate check`, so xtask's exit code is that of memgate.
///
/// # Errors
/// When the set-up or the build fails.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    let sh = &workspace.sh;
    let tools = Tools::open(workspace)?;
    gcc::ensure(&tools)?;
    go::ensure(&tools)?;
    // A check of this machine's own platform needs no guests.
    let guests = args.iter().any(|arg| arg.starts_with("--platform") || arg.starts_with("--runner"));
    if guests {
        qemu::ensure(&tools)?;
    }
    drop(tools);
    if guests {
        dist::run(workspace, &[])?;
    }
    let memgate = artifact::build(cmd!(sh, "cargo build --release --package memgate --bin memgate"), "memgate")?;
    match step::become_command(cmd!(sh, "{memgate} check -c memgate.yaml {args...}"))? {}
}
