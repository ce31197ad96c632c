//! Zig, as the linker of programs for other platforms. It contains musl and the start files for all of them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use miette::{Context, IntoDiagnostic, Result, miette};
use xshell::cmd;

use super::pip::Requirement;
use super::{Stamp, Tools};
use crate::step;

/// x86_64 and aarch64, in this order.
const ZIG: Requirement<'_> = Requirement {
    package: "ziglang",
    version: "0.17.1",
    sha256: [
        "ea6cc5d87b033cf0aedfbc8f9549a908cae6c50ac31f1698188fa48a74524b54",
        "b7c5f02fccd40f89b999ee16a1f5ddced56e6182370f8affe494bcf8a28cf07e",
    ],
};

/// The largest parts, which serve programs for other systems or in C++.
const NEEDLESS: [&str; 7] = [
    "lib/libcxx",
    "lib/libc/mingw",
    "lib/libc/include/any-darwin-any",
    "lib/libc/include/any-windows-any",
    "lib/libc/include/generic-freebsd",
    "lib/libc/include/generic-netbsd",
    "lib/libc/include/generic-openbsd",
];

/// Returns the path of the pinned Zig. Fetches it if it is missing.
///
/// # Errors
/// When it cannot be fetched, or when it does not run and report this version.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<PathBuf> {
    let place = tools.directory(&Stamp::new("zig", ZIG.version, ZIG.line()), |scratch| {
        let unpacked = scratch.join("unpacked");
        ZIG.unpack(tools, &unpacked)?;
        let zig = unpacked.join("ziglang");
        let executable = std::fs::set_permissions(zig.join("zig"), PermissionsExt::from_mode(0o755));
        executable.into_diagnostic().wrap_err("cannot make Zig executable")?;
        for dir in NEEDLESS.map(|dir| zig.join(dir)) {
            let removed = std::fs::remove_dir_all(&dir);
            removed.into_diagnostic().wrap_err_with(|| format!("cannot remove {}", dir.display()))?;
        }
        runs(tools, &zig.join("zig"))?;
        Ok(zig)
    })?;
    Ok(place.join("zig"))
}

fn runs(tools: &Tools<'_>, zig: &Path) -> Result<()> {
    let printed = step::capture(cmd!(tools.sh, "{zig} version"))?;
    if printed.trim_end() == ZIG.version {
        return Ok(());
    }
    Err(miette!("expected Zig {}, but the fetched one says: {}", ZIG.version, printed.trim_end()))
}
