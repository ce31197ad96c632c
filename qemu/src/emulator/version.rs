//! QEMU's versions. Pure.

use std::fmt;

/// A version of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

/// The oldest QEMU that memgate runs guests with. Older ones compute wrongly (loong64) or abort (amd64).
pub const OLDEST: Version = Version(10, 0, 13);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(major, minor, micro) = self;
        write!(f, "{major}.{minor}.{micro}")
    }
}

/// The part of the output of `--version` that distinguishes one QEMU from another, such as `10.0.13 (Debian
/// 1:10.0.13+ds-0+deb13u1)`.
///
/// # Errors
/// When the output is not QEMU's, or when the version is too old for guests. The error follows the program's name.
pub(super) fn fit(printed: &str) -> Result<&str, String> {
    let line = printed.lines().find_map(|line| line.strip_prefix("QEMU emulator version ")).map(str::trim);
    let line = line.ok_or_else(|| "does not report its version".to_owned())?;
    match parse(line) {
        Some(version) if version >= OLDEST => Ok(line),
        Some(_) => Err(format!("is of version {line}, and guests need {OLDEST} or later")),
        None => Err(format!("is of version {line}, which memgate does not understand")),
    }
}

/// Three numbers. The text after them names a build.
fn parse(line: &str) -> Option<Version> {
    let numbers = line.split([' ', '-', '+', '(']).next()?;
    let mut numbers = numbers.split('.').map(|number| number.parse().ok());
    let version = Version(numbers.next()??, numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(version: &str) -> String {
        format!(
            "QEMU emulator version {version}\nCopyright (c) 2003-2025 Fabrice Bellard and the QEMU Project developers\n"
        )
    }

    #[test]
    fn versions_from_the_oldest_on_are_fit() {
        for version in [
            "10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)",
            "10.0.13",
            "10.0.100",
            "10.1.0 (qemu-10.1.0-3.fc43)",
            "11.1.3",
            "11.0.50 (v11.0.0-1234-gabcdef0123-dirty)",
            "10.2.0-rc1",
        ] {
            assert_eq!(fit(&printed(version)).unwrap(), version);
        }
    }

    #[test]
    fn older_ones_are_named() {
        for version in
            ["10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)", "9.2.100", "7.2.18 (Debian 1:7.2+dfsg-7+deb12u16)"]
        {
            let why = fit(&printed(version)).unwrap_err();
            assert_eq!(why, format!("is of version {version}, and guests need 10.0.13 or later"));
        }
    }

    #[test]
    fn what_is_no_version_is_not_guessed() {
        for version in ["", "10", "10.1", "10.1.0.1", "v10.1.0", "10.1.x", "99999999999.0.0"] {
            let why = fit(&printed(version)).unwrap_err();
            assert!(why.contains("does not understand") || why.contains("does not report"), "{version}: {why}");
        }
        for other in ["", "qemu-aarch64 version 10.1.0\n", "QEMU emulator\n", "10.1.0\n"] {
            assert_eq!(fit(other).unwrap_err(), "does not report its version", "{other}");
        }
    }

    #[test]
    fn warnings_before_the_version_are_passed_over() {
        let warned = format!("warning: no entropy\r\n{}", printed("11.1.0\r"));
        assert_eq!(fit(&warned).unwrap(), "11.1.0");
    }
}
