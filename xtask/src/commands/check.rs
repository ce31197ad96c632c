//! `cargo xtask check`: gates the services of memgate.yaml with memgate from this checkout.

use std::thread;

use miette::Result;
use xshell::cmd;

use crate::commands::dist;
use crate::setup::{Tools, gcc, go, qemu};
use crate::workspace::Workspace;
use crate::{artifact, step};

/// Builds memgate as the tests do, so that they share what is compiled, and becomes `memgate check`, so xtask's exit code is that of memgate.
///
/// # Errors
/// When the set-up or the build fails.
pub(crate) fn run(workspace: &Workspace, args: &[String]) -> Result<()> {
    let sh = &workspace.sh;
    // A check of this machine's own platform needs no guests.
    let guests = args.iter().any(|arg| arg.starts_with("--platform") || arg.starts_with("--runner"));
    // The fetches wait for the network while the compiler works.
    let memgate = thread::scope(|scope| {
        let tools = scope.spawn(|| fetch(guests));
        let memgate = artifact::build(cmd!(sh, "cargo build --package memgate --bin memgate"), "memgate");
        tools.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        memgate
    })?;
    if guests {
        dist::run(workspace, &[])?;
    }
    match step::become_command(cmd!(sh, "{memgate} check -c memgate.yaml {args...}"))? {}
}

/// Installs what a check needs. It has a shell of its own, because a shell belongs to one thread.
fn fetch(guests: bool) -> Result<()> {
    let workspace = Workspace::find()?;
    let tools = Tools::open(&workspace)?;
    gcc::ensure(&tools)?;
    go::ensure(&tools)?;
    if guests {
        qemu::ensure(&tools)?;
    }
    Ok(())
}
