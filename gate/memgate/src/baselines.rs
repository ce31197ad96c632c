//! The baselines that evidence is judged by: those of the checkout, or those of another commit, so that no change judges
//! itself.

use std::{
    fs,
    path::{Path, PathBuf},
};

use memgate_agent::cancel::Cancel;
use memgate_config::{Config, baseline};
use memgate_evidence::{error::Result, platform::Platform};

use crate::revision::Revision;

/// A directory of baselines.
#[derive(Debug)]
pub struct Baselines {
    directory: PathBuf,
    /// The commit that they are of, if they are not those of the checkout.
    from: Option<Origin>,
}

#[derive(Debug)]
struct Origin {
    /// Its worktree is removed when this is dropped.
    revision: Revision,
    /// The directory of the checkout's own baselines, which are not used.
    own: PathBuf,
}

impl Baselines {
    /// Those in a directory.
    pub fn of(directory: PathBuf) -> Self {
        Self { directory, from: None }
    }

    /// Those that the configuration names, as they are in `revision` if one is given. Its worktree lies below `out`.
    ///
    /// # Errors
    /// When there is no such revision, when the directory lies outside of the checkout, and when memgate is interrupted.
    pub async fn find(config: &Config, revision: Option<&str>, out: &Path, cancel: &Cancel) -> Result<Self> {
        let Some(words) = revision else { return Ok(Self::of(config.baselines.clone())) };
        let revision = Revision::find("--baselines-from", words, &config.file, out, cancel).await?.sealed()?;
        let directory = revision.beside(&config.file, &config.baselines)?;
        Ok(Self { directory, from: Some(Origin { revision, own: config.baselines.clone() }) })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the reader must know of where the baseline comes from: the commit, and whether the change edits it.
    pub(crate) fn note(&self, platform: Platform, name: &str) -> Option<String> {
        let Origin { revision, own } = self.from.as_ref()?;
        let [theirs, ours] = [&self.directory, own].map(|directory| baseline::path(directory, platform, name));
        let edited = match fs::read(&theirs).ok() == fs::read(&ours).ok() {
            true => String::new(),
            false => format!(". This change edits, adds or removes {}, which is not used here", ours.display()),
        };
        Some(format!("the baseline is that of {}{edited}", revision.name))
    }
}
