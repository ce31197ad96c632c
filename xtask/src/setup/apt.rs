//! Debian's packages.

use std::path::{Path, PathBuf};

use memgate_qemu::debian::{Debian, DebianError, KEYRING, Pin, Sources};
use miette::{Context, IntoDiagnostic, Result, miette};
use xshell::cmd;

use super::Tools;
use crate::step;

/// Installs packages in the system.
///
/// # Errors
/// Fails without apt-get or root's rights, and where apt-get does.
pub(crate) fn install(tools: &Tools<'_>, packages: &[&str]) -> Result<()> {
    can_install(tools, packages)?;
    update(tools, &[])?;
    install_with(tools, &[], packages)
}

/// Packages that are needed no older than a certain version.
#[derive(Debug)]
pub(crate) struct AtLeast {
    /// Their names.
    pub(crate) packages: &'static [&'static str],
    /// Debian's version of the oldest that will do.
    pub(crate) oldest: &'static str,
}

/// Installs packages in the system: those of its own sources or, where they are too old, those of Debian's backports to the same
/// release. The system's own configuration of sources stays as it is.
///
/// # Errors
/// As [`install`], and where there are no backports to a system whose own packages are too old.
pub(crate) fn install_at_least(tools: &Tools<'_>, wanted: &AtLeast) -> Result<()> {
    can_install(tools, wanted.packages)?;
    update(tools, &[])?;
    if wanted.packages.iter().all(|package| has_candidate(tools, package, wanted.oldest)) {
        return install_with(tools, &[], wanted.packages);
    }
    let too_old = || {
        let packages = wanted.packages.join(" ");
        miette!(
            help = format!(
                "install {packages} of version {} or newer yourself, then run this command again",
                wanted.oldest
            ),
            "this system's own {packages} are too old, and Debian's backports are not for it"
        )
    };
    let sources = Sources::read().into_diagnostic()?;
    let release = sources.debian().ok_or_else(too_old)?;
    let suite = format!("{}-backports", release.codename);
    let scratch = tools.scratch()?;
    let mut options = vec!["-o".to_owned(), "APT::Update::Error-Mode=any".to_owned()];
    if !sources.have(&suite) {
        let list = scratch.path().join("sources.list");
        add_source(&list, Path::new(SOURCES), &release.mirror, &suite)
            .into_diagnostic()
            .wrap_err_with(|| format!("cannot write {}", list.display()))?;
        options.extend(["-o".to_owned(), format!("Dir::Etc::SourceList={}", list.display())]);
    }
    update(tools, &options)?;
    options.extend(["--target-release".to_owned(), suite]);
    install_with(tools, &options, wanted.packages)
}

fn can_install(tools: &Tools<'_>, packages: &[&str]) -> Result<()> {
    let packages = packages.join(" ");
    let by_hand = || format!("install {packages} yourself, then run this command again");
    if step::probe(cmd!(tools.sh, "apt-get --version")).is_none() {
        return Err(miette!(help = by_hand(), "{packages} is missing, and there is no apt-get"));
    }
    if !nix::unistd::Uid::effective().is_root() {
        return Err(miette!(help = by_hand(), "{packages} is missing, and only root can install it"));
    }
    Ok(())
}

fn update(tools: &Tools<'_>, options: &[String]) -> Result<()> {
    step::run(cmd!(tools.sh, "apt-get -qq {options...} update"))
}

fn install_with(tools: &Tools<'_>, options: &[String], packages: &[&str]) -> Result<()> {
    let wait = "DPkg::Lock::Timeout=300";
    let install =
        cmd!(tools.sh, "apt-get -qq {options...} -o {wait} install --yes --no-install-recommends {packages...}");
    step::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Whether the system's own sources have `package` in version `oldest` or a newer one.
fn has_candidate(tools: &Tools<'_>, package: &str, oldest: &str) -> bool {
    let shown = step::probe(cmd!(tools.sh, "apt-cache show --no-all-versions {package}"));
    let Some(version) = shown.as_deref().and_then(version) else { return false };
    step::probe(cmd!(tools.sh, "dpkg --compare-versions {version} ge {oldest}")).is_some()
}

fn version(record: &str) -> Option<&str> {
    record.lines().find_map(|line| line.strip_prefix("Version: "))
}

/// Makes `list` a list of sources: those of the system's own list, if it has one, and `suite`. The system's other sources are in a
/// directory, which apt reads as well.
fn add_source(list: &Path, own: &Path, uri: &str, suite: &str) -> std::io::Result<()> {
    let mut sources = match std::fs::read_to_string(own) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        sources => sources.unwrap_or_default(),
    };
    sources.push_str(&format!("\ndeb [signed-by={KEYRING}] {uri} {suite} main\n"));
    std::fs::write(list, sources)
}

/// The system's own list of sources, where they are not in a directory.
const SOURCES: &str = "/etc/apt/sources.list";

/// Fetches a pinned file into `dir` from the mirror of Debian that this machine uses; the system is untouched.
///
/// # Errors
/// Fails where the machine uses no mirror of Debian, where that does not have the file, and where the file is not the pinned one.
pub(crate) fn fetch(pin: &Pin, dir: &Path) -> Result<PathBuf> {
    eprintln!("Fetching {}", pin.file_name());
    let fetched = Debian::new(None).and_then(|debian| debian.fetch(pin, &pin.package, dir));
    fetched.into_diagnostic().wrap_err_with(|| format!("Debian's {} {} is not to be had", pin.package, pin.version))
}

/// Where a tool comes from that is made of a pinned file, for its stamp.
pub(crate) fn source(pin: &Pin) -> String {
    format!("Debian {}: {} {} sha256:{}", pin.suite, pin.package, pin.version, pin.sha256)
}

/// Whether this machine's package manager uses a mirror of Debian, from which [`fetch`] can fetch.
///
/// # Errors
/// Fails where apt-get does.
pub(crate) fn has_debian() -> Result<bool> {
    match Debian::new(None) {
        Ok(_) => Ok(true),
        Err(DebianError::NoTool(_) | DebianError::NoMirror) => Ok(false),
        Err(other) => Err(other).into_diagnostic(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_added_to_those_of_the_system() {
        let dir = tempfile::tempdir().unwrap();
        let (own, list) = (dir.path().join("own"), dir.path().join("list"));
        let uri = "http://mirror.example/debian/";
        let added = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian/ bookworm-backports main\n";
        add_source(&list, &own, uri, "bookworm-backports").unwrap();
        assert_eq!(std::fs::read_to_string(&list).unwrap(), format!("\n{added}"));
        std::fs::write(&own, "deb http://mirror.example/debian bookworm main").unwrap();
        add_source(&list, &own, uri, "bookworm-backports").unwrap();
        let expected = format!("deb http://mirror.example/debian bookworm main\n{added}");
        assert_eq!(std::fs::read_to_string(&list).unwrap(), expected);
        assert!(
            add_source(&list, dir.path(), uri, "bookworm-backports").is_err(),
            "a list that cannot be read is not an empty one"
        );
    }

    #[test]
    fn version_is_read_from_a_record() {
        let record = "Package: qemu-system-x86\nSource: qemu\nVersion: 1:7.2+dfsg-7+deb12u18\nDescription: x\n";
        assert_eq!(version(record), Some("1:7.2+dfsg-7+deb12u18"));
        assert_eq!(version(""), None);
    }
}
