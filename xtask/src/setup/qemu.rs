//! QEMU, which runs the guests of the platforms that this machine is not.

use miette::{Result, miette};
use xshell::cmd;

use super::apt::{self, AtLeast};
use super::{Tools, Version};
use crate::step;

/// One for each platform, whichever this machine is: a guest also serves to measure another kernel.
const PROGRAMS: [&str; 3] = ["qemu-system-x86_64", "qemu-system-aarch64", "qemu-system-loongarch64"];

/// Snapshots of guests are files with mapped memory, which came with 9.0; what guests were tested with is 10.0.
const OLDEST: Version = Version(10, 0, 0);

/// The same programs as Debian and Ubuntu package them. `qemu-system-misc` has the one for loongarch64.
const PACKAGES: AtLeast =
    AtLeast { packages: &["qemu-system-x86", "qemu-system-arm", "qemu-system-misc"], oldest: "1:10.0" };

/// Installs QEMU by the system's package manager, where a program is missing or too old.
///
/// # Errors
/// Fails where the package manager does, or has no version that will do.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<()> {
    if lacking(tools).is_none() {
        return Ok(());
    }
    apt::install_at_least(tools, &PACKAGES)?;
    match lacking(tools) {
        None => Ok(()),
        Some((program, found)) => Err(miette!(
            help = "put QEMU 10.0 or newer first on PATH, then run this command again",
            "{program} is {found}, although its package was installed"
        )),
    }
}

/// The first program that is missing or too old, and which of the two.
fn lacking(tools: &Tools<'_>) -> Option<(&'static str, String)> {
    PROGRAMS.into_iter().find_map(|program| {
        let printed = step::probe(cmd!(tools.sh, "{program} --version"));
        too_old(printed.as_deref()).map(|found| (program, found))
    })
}

/// Says what is there instead of a version that will do, by what a program printed; `None` where it will do.
fn too_old(printed: Option<&str>) -> Option<String> {
    let Some(printed) = printed else { return Some("not there".into()) };
    match Version::printed(printed) {
        Some(version) if version >= OLDEST => None,
        Some(_) => Some("too old".into()),
        None => Some(format!("of no known version: {}", printed.lines().next().unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_version_that_is_known_to_be_new_enough_will_do() {
        let printed = |version| format!("QEMU emulator version {version}\nCopyright (c) 2003-2025 Fabrice Bellard\n");
        assert_eq!(too_old(Some(&printed("10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)"))), None);
        assert_eq!(too_old(Some(&printed("11.1.0"))), None);
        assert_eq!(too_old(Some(&printed("7.2.18 (Debian 1:7.2+dfsg-7+deb12u16)"))).unwrap(), "too old");
        assert_eq!(too_old(None).unwrap(), "not there");
        assert!(too_old(Some("QEMU emulator\n")).unwrap().starts_with("of no known version: QEMU"));
    }
}
