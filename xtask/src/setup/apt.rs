//! Debian's packages.

use std::path::{Path, PathBuf};

use memgate_qemu::{
    debian::{Debian, Pin},
    stop::Stop,
};
use miette::{Context, IntoDiagnostic, Result, miette};
use xshell::cmd;

use super::Tools;
use crate::step;

/// Installs packages in the system.
///
/// # Errors
/// Without apt-get or root's rights, or when apt-get fails.
pub(crate) fn install(tools: &Tools<'_>, packages: &[&str]) -> Result<()> {
    can_install(tools, packages)?;
    step::run(cmd!(tools.sh, "apt-get -qq update"))?;
    let wait = "DPkg::Lock::Timeout=300";
    let install = cmd!(tools.sh, "apt-get -qq -o {wait} install --yes --no-install-recommends {packages...}");
    step::run(install.env("DEBIAN_FRONTEND", "noninteractive"))
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

/// Fetches a pinned file into `dir` from this machine's mirror of Debian. The system is not changed.
///
/// # Errors
/// When there is no mirror, when it does not have the file, or when the file is not the pinned one.
pub(crate) fn fetch(pin: &Pin, dir: &Path) -> Result<PathBuf> {
    eprintln!("Fetching {}", pin.file_name());
    let fetched = Debian::new(None).and_then(|debian| debian.fetch(pin, &pin.package, dir));
    fetched.into_diagnostic().wrap_err_with(|| format!("Debian's {} {} is not available", pin.package, pin.version))
}

/// The source of a tool from a pinned file, for its stamp.
pub(crate) fn source(pin: &Pin) -> String {
    format!("Debian {}: {} {} sha256:{}", pin.suite, pin.package, pin.version, pin.sha256)
}

/// Unpacks the files of a package into a directory.
///
/// # Errors
/// When the package is damaged, or the directory cannot be written.
pub(crate) fn unpack(package: &Path, directory: &Path) -> Result<()> {
    memgate_qemu::package::unpack(package, directory, &Stop::default()).into_diagnostic()
}
