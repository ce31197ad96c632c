//! Versions as tools print them.

/// A version of three numbers. Text after them (a pre-release, a commit) is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl Version {
    /// The version in the first line of the output of `tool --version`: `tool 1.2.3 (…)`.
    pub(crate) fn printed(output: &str) -> Option<Self> {
        output.lines().next()?.split_whitespace().find_map(Self::parse)
    }

    fn parse(word: &str) -> Option<Self> {
        let word = word.split(['-', '+']).next()?;
        let mut numbers = word.split('.').map(|number| number.parse().ok());
        let version = Self(numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_tools_print() {
        let nextest = "cargo-nextest 0.9.143 (60fa45f63 2026-08-04)\nrelease: 0.9.143\n";
        assert_eq!(Version::printed(nextest), Some(Version(0, 9, 143)));
        assert_eq!(Version::printed("cargo-nextest-nextest 0.9.100-rc.1"), Some(Version(0, 9, 100)));
        for other in ["", "error: no such command: `nextest`", "tool 1.2", "tool 1.2.3.4", "tool v1.2.3"] {
            assert_eq!(Version::printed(other), None, "{other}");
        }
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert!(Version(0, 9, 99) < Version(0, 9, 100));
        assert!(Version(0, 10, 0) > Version(0, 9, 143));
    }
}
