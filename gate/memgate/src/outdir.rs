//! The directory for results. A service and a build that run as another user may own what lies above it, and memgate may
//! be root: it must not write where they lead it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use memgate_config::Config;
use memgate_evidence::error::{FailureKind, InputError, Result, Stage};
use nix::{
    sys::stat::{Mode, umask},
    unistd::geteuid,
};

use crate::{account, select::Selection};

/// Why memgate writes no results.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum OutDirectoryError {
    /// Something has put another directory in its place.
    #[error("{directory} is another directory than before")]
    #[diagnostic(help("a build or a service replaced it: choose a directory with `--out` that its user does not own"))]
    Replaced {
        /// The directory.
        directory: PathBuf,
    },
    /// It cannot be looked at.
    #[error("{directory} is not there any more")]
    #[diagnostic(help("choose a directory with `--out` that nothing removes"))]
    Gone {
        /// The directory.
        directory: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl FailureKind for OutDirectoryError {
    fn stage(&self) -> Stage {
        Stage::Output
    }
}

/// A directory as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutDirectory {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl OutDirectory {
    /// The directory that is there now.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn of(directory: &Path) -> Result<Self, OutDirectoryError> {
        let gone = |source| OutDirectoryError::Gone { directory: directory.to_owned(), source };
        let found = fs::metadata(directory).map_err(gone)?;
        Ok(Self { path: directory.to_owned(), device: found.dev(), inode: found.ino() })
    }

    /// Checks that the path still leads to the same directory.
    ///
    /// # Errors
    /// When it does not.
    pub(crate) fn is_still_there(&self) -> Result<(), OutDirectoryError> {
        if Self::of(&self.path)? == *self {
            return Ok(());
        }
        Err(OutDirectoryError::Replaced { directory: self.path.clone() })
    }
}

/// Refuses a directory for results to which a link in the checkout leads: a change may have made the link.
/// `configuration` is the file, in the checkout.
///
/// # Errors
/// When there is such a link.
fn refuse_links(out: &Path, configuration: &Path) -> Result<()> {
    let directory = configuration.parent().unwrap_or(Path::new("/"));
    let checkout = account::checkout(directory).unwrap_or(directory);
    let Ok(out) = std::path::absolute(out) else { return Ok(()) };
    let is_link = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    let below = out.ancestors().take_while(|above| above.starts_with(checkout) && *above != checkout);
    let Some(link) = below.filter(|above| is_link(above)).last() else { return Ok(()) };
    let message = format!(
        "--out {}: {} is a symbolic link in the checkout, and memgate runs as root",
        out.display(),
        link.display()
    );
    Err(InputError::new(message, "remove the link, or name a directory outside of the checkout with `--out`").into())
}

/// If memgate runs as root and the code of the checkout does not: refuses a directory for results to which a link in the
/// checkout leads, and lets others read what memgate makes from now on, whatever its umask is.
///
/// # Errors
/// When there is such a link.
pub(crate) fn ready_for_others(config: &Config, selection: &Selection) -> Result<()> {
    let is_named = selection.user.is_some() || config.services.values().any(|service| service.run.user.is_some());
    ready_for(is_named, &selection.out, &config.file)
}

/// The same for this directory and the configuration in this place. `is_named` says whether a user is named.
///
/// # Errors
/// When there is such a link.
pub(crate) fn ready_for(is_named: bool, out: &Path, configuration: &Path) -> Result<()> {
    if geteuid().is_root() && (is_named || account::of_service(None, configuration)?.is_some()) {
        // That user executes what memgate makes there. What is there already keeps its mode.
        umask(Mode::S_IWGRP | Mode::S_IWOTH);
        return refuse_links(out, configuration);
    }
    Ok(())
}

/// Refuses a directory for results that belongs to another user, who may have put links in it.
///
/// # Errors
/// When it does.
pub(crate) fn refuse_others(out: &Path) -> Result<()> {
    let own = geteuid().as_raw();
    match fs::metadata(out) {
        Ok(found) if found.uid() != own => {
            let message = format!("--out {}: it belongs to another user, and memgate runs as root", out.display());
            Err(InputError::new(message, "remove it, or name another directory with `--out`").into())
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_directory_in_the_place_of_another_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let [out, other] = ["out", "other"].map(|name| directory.path().join(name));
        fs::create_dir(&out).unwrap();
        fs::create_dir(&other).unwrap();
        let place = OutDirectory::of(&out).unwrap();
        place.is_still_there().unwrap();
        fs::remove_dir(&out).unwrap();
        assert!(matches!(place.is_still_there(), Err(OutDirectoryError::Gone { .. })));
        symlink(&other, &out).unwrap();
        let error = place.is_still_there().unwrap_err();
        assert!(error.to_string().ends_with("/out is another directory than before"), "{error}");
    }

    #[test]
    fn a_link_in_the_checkout_is_refused_and_one_above_it_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().join("real");
        fs::create_dir_all(real.join(".git")).unwrap();
        fs::create_dir_all(real.join("deploy")).unwrap();
        let checkout = directory.path().join("checkout");
        symlink(&real, &checkout).unwrap();
        let configuration = checkout.join("deploy/memgate.yaml");
        let out = checkout.join("target/memgate");
        refuse_links(&out, &configuration).unwrap();
        symlink("/tmp", checkout.join("target")).unwrap();
        let error = refuse_links(&out, &configuration).unwrap_err().to_string();
        assert!(error.contains("checkout/target is a symbolic link in the checkout"), "{error}");
        refuse_links(&directory.path().join("elsewhere"), &configuration).unwrap();
    }
}
