//! The Rust that builds the BPF object.

use std::path::PathBuf;

use miette::{Result, miette};
use xshell::cmd;

use super::Tools;
use crate::step;

/// The release of rustc. It determines the standard library's sources and LLVM, so another release makes another
/// object.
pub(crate) const PINNED: &str = "1.95.0";

/// Checks that rustc is the pinned one.
///
/// # Errors
/// When it is another one. The error says how to choose the pinned one.
pub(crate) fn is_pinned(tools: &Tools<'_>) -> Result<()> {
    let printed = step::capture(cmd!(tools.sh, "rustc -vV"))?;
    match release(&printed) {
        Some(PINNED) => Ok(()),
        other => Err(miette!(
            help = "run `rustup toolchain install {PINNED}`, then this command as `cargo +{PINNED} xtask …`",
            "rustc {PINNED} is needed, but this is {}",
            other.unwrap_or("unknown")
        )),
    }
}

/// The root of the toolchain in use.
///
/// # Errors
/// When rustc fails.
pub(crate) fn sysroot(tools: &Tools<'_>) -> Result<PathBuf> {
    Ok(PathBuf::from(step::capture(cmd!(tools.sh, "rustc --print sysroot"))?.trim_end()))
}

fn release(verbose: &str) -> Option<&str> {
    verbose.lines().find_map(|line| line.strip_prefix("release: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn release_is_read_from_the_verbose_version() {
        let printed =
            "rustc 1.95.0 (59807616e 2026-04-14)\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.95.0\n";
        assert_eq!(release(printed), Some("1.95.0"));
        assert_eq!(release("rustc 1.95.0\n"), None);
    }
}
