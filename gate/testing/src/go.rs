//! The Go distributions that tests build with: those that `xtask/go.lock` pins, where `cargo xtask` installs them.

use std::path::{Path, PathBuf};

/// The pins, the oldest version first; `cargo xtask go add` writes them.
const LOCK: &str = include_str!("../../../xtask/go.lock");

/// A Go distribution in `.tools`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// 27 of Go 1.27.3.
    pub minor: u32,
    /// `go1.27.3`.
    pub version: String,
    /// Its directory: `GOROOT`.
    pub root: PathBuf,
}

impl Toolchain {
    /// The pinned release of this version, such as `1.27.3`.
    fn of(version: &str) -> Self {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("gate/testing lies in it");
        let minor = version.split('.').nth(1).and_then(|minor| minor.parse().ok());
        Self {
            minor: minor.unwrap_or_else(|| panic!("xtask/go.lock pins {version}, which is no version of Go")),
            version: format!("go{version}"),
            root: repository.join(format!(".tools/go-{version}")),
        }
    }

    /// The command `go`.
    pub fn go(&self) -> PathBuf {
        self.root.join("bin/go")
    }

    #[track_caller]
    fn installed(self) -> Self {
        assert!(self.go().is_file(), "{} is not in .tools: run `cargo xtask setup`", self.version);
        self
    }
}

/// One distribution of each version that memgate measures, the oldest first.
///
/// # Panics
/// When one is not installed.
#[track_caller]
pub fn toolchains() -> Vec<Toolchain> {
    pinned().map(Toolchain::installed).collect()
}

/// The distribution of Go 1.`minor`.
///
/// # Panics
/// When it is not installed, or the version is not pinned.
#[track_caller]
pub fn toolchain(minor: u32) -> Toolchain {
    let found = pinned().find(|toolchain| toolchain.minor == minor);
    found.unwrap_or_else(|| panic!("xtask/go.lock pins no Go 1.{minor}")).installed()
}

/// The distribution of the newest version, which alone is there as a whole.
///
/// # Panics
/// When it is not installed.
#[track_caller]
pub fn newest() -> Toolchain {
    pinned().last().expect("xtask/go.lock pins a version").installed()
}

/// The minor versions that memgate measures, in order: 21 for Go 1.21.
pub fn minors() -> impl Iterator<Item = u32> {
    pinned().map(|toolchain| toolchain.minor)
}

fn pinned() -> impl Iterator<Item = Toolchain> {
    LOCK.lines().filter_map(|line| line.strip_prefix("- version: ")).map(Toolchain::of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pins_are_read() {
        let minors: Vec<_> = minors().collect();
        assert!(minors.is_sorted() && minors.first() == Some(&21) && minors.len() >= 7, "{minors:?}");
        let toolchain = Toolchain::of("1.21.13");
        assert_eq!((toolchain.minor, toolchain.version.as_str()), (21, "go1.21.13"));
        assert!(toolchain.root.ends_with(".tools/go-1.21.13"));
    }
}
