//! Room on the disk. It is asked for before a long step, because a linker that finds none is killed by a signal.

use std::path::Path;

use miette::{Context, IntoDiagnostic, Result, ensure};
use nix::sys::statvfs::statvfs;

/// Checks that the file system of a directory has room for so many bytes more.
///
/// # Errors
/// When it has less, and when the system does not say.
pub(crate) fn ensure_room(dir: &Path, bytes: u64) -> Result<()> {
    let at = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    let system = statvfs(at).into_diagnostic().wrap_err_with(|| format!("cannot tell the room at {}", at.display()))?;
    let free = system.blocks_available().saturating_mul(system.fragment_size());
    ensure!(
        free >= bytes,
        help = "free some: `cargo clean` removes what former builds left",
        "{} has {} MB of room, and the tests write {} MB",
        at.display(),
        free / 1_000_000,
        bytes / 1_000_000
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_that_of_the_nearest_directory() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("not/yet");
        ensure_room(&missing, 1).unwrap();
        let error = ensure_room(&missing, u64::MAX).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{} has ", dir.path().display())), "{error}");
        assert!(error.ends_with("the tests write 18446744073709 MB"), "{error}");
    }
}
