//! The standard library's sources, from which `-Z build-std` builds `core` for BPF and `std` for guests.

use std::path::{Path, PathBuf};

use memgate_qemu::debian::Pin;
use miette::{Context, IntoDiagnostic, Result};
use xshell::cmd;

use super::{Stamp, Tools, apt, rustc};
use crate::step;

/// The same sources as packaged by Debian, in case rustup cannot fetch them. Debian changes only tests and the
/// dependencies of other systems, and none of the code that is built here.
fn debian() -> Pin {
    Pin {
        suite: "trixie-backports".into(),
        // Its package is for all architectures.
        architecture: "amd64".into(),
        package: "rust-src".into(),
        version: "1.95.0+dfsg1-2~bpo13+1".into(),
        sha256: "7b76db5b880a77f9e52975d2baa6209d2f76d2c9c2789515c3088cb960e2c83b".into(),
        size: 45_097_356,
        file: "pool/main/r/rustc/rust-src_1.95.0+dfsg1-2~bpo13+1_all.deb".into(),
    }
}

/// Returns the directory `library` of the sources of the Rust in use: its own, or else `.tools`' copy for the pinned
/// Rust.
///
/// # Errors
/// When neither rustup nor Debian's archive has them.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<PathBuf> {
    let own = rustc::sysroot(tools)?.join("lib/rustlib/src/rust/library");
    if is_whole(&own) {
        return Ok(own);
    }
    let package = debian();
    let stamp = Stamp::new("rust-src", rustc::PINNED, apt::source(&package));
    let pinned = rustc::is_pinned(tools);
    if let (Ok(()), Some(place)) = (&pinned, tools.installed(&stamp)) {
        return Ok(place.join("library"));
    }
    // Not every toolchain is rustup's, and not every machine can reach its server.
    if step::succeeds(cmd!(tools.sh, "rustup component add rust-src"))? && is_whole(&own) {
        return Ok(own);
    }
    pinned.wrap_err("rustup has no sources of the standard library for this Rust")?;
    let place = tools.directory(&stamp, |scratch| {
        unpack(&package, scratch).wrap_err("the standard library's sources come neither from rustup nor from Debian")
    })?;
    Ok(place.join("library"))
}

/// Makes a directory with `library` alone. The package also contains the compiler's sources, 430 MB in all.
fn unpack(package: &Pin, scratch: &Path) -> Result<PathBuf> {
    let package = apt::fetch(package, scratch)?;
    let (unpacked, new) = (scratch.join("unpacked"), scratch.join("new"));
    apt::unpack(&package, &unpacked)?;
    let library = unpacked.join("usr/src").join(format!("rustc-{}", rustc::PINNED)).join("library");
    let moved = std::fs::create_dir(&new).and_then(|()| std::fs::rename(&library, new.join("library")));
    moved.into_diagnostic().wrap_err_with(|| format!("cannot move {}", library.display()))?;
    Ok(new)
}

fn is_whole(library: &Path) -> bool {
    library.join("core/src/lib.rs").is_file() && library.join("Cargo.lock").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_package_is_of_the_pinned_rust() {
        assert!(debian().version.starts_with(&format!("{}+", rustc::PINNED)));
    }

    #[test]
    fn sources_need_core_and_the_lock_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("core/src")).unwrap();
        std::fs::write(dir.path().join("core/src/lib.rs"), "").unwrap();
        assert!(!is_whole(dir.path()));
        std::fs::write(dir.path().join("Cargo.lock"), "").unwrap();
        assert!(is_whole(dir.path()));
    }
}
