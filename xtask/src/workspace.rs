//! The places in the checkout, and the environment of steps.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use miette::{Context, IntoDiagnostic, Result, miette};
use xshell::Shell;

/// The checkout, and a shell in its root with the project's tools first on its PATH.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The shell from which all steps start.
    pub(crate) sh: Shell,
    root: PathBuf,
}

/// The variable with the directory for what memgate fetches and makes for guests.
pub(crate) const CACHE: &str = "MEMGATE_CACHE";

/// Whether cargo keeps what it needs to compile a changed crate in part (the Cargo book, "Environment
/// Variables").
pub(crate) const INCREMENTAL: &str = "CARGO_INCREMENTAL";

impl Workspace {
    /// Finds the checkout of this xtask.
    ///
    /// # Errors
    /// When cargo did not start xtask.
    pub(crate) fn find() -> Result<Self> {
        let package = std::env::var_os("CARGO_MANIFEST_DIR")
            .ok_or_else(|| miette!(help = "run it as `cargo xtask …`", "cargo did not say where xtask's package is"))?;
        let root = Path::new(&package).parent().ok_or_else(|| miette!("xtask's package has no directory above it"))?;
        Self::at(root)
    }

    /// The workspace whose root is `root`.
    fn at(root: &Path) -> Result<Self> {
        let sh = Shell::new().into_diagnostic()?;
        sh.change_dir(root);
        sh.set_var("PATH", path_with_tools(root, std::env::var_os("PATH"))?);
        // The pinned Go is always used, whatever a go.mod asks for. Another one could not be fetched anyway.
        sh.set_var("GOTOOLCHAIN", "local");
        // The directory for images and snapshots of guests, unless the user sets another.
        if std::env::var_os(CACHE).is_none() {
            sh.set_var(CACHE, root.join(".tools/guests"));
        }
        // What makes the next build of a changed checkout quicker: an automatic run has no next build.
        if is_ci() && std::env::var_os(INCREMENTAL).is_none() {
            sh.set_var(INCREMENTAL, "0");
        }
        Ok(Self { sh, root: root.to_owned() })
    }

    /// The root of the checkout.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of the project's own tools. Git ignores it.
    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join(".tools")
    }

    /// Cargo's output directory.
    pub(crate) fn target(&self) -> PathBuf {
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| self.root.join("target"), |dir| self.root.join(dir))
    }

    /// The directory of the Go services that memgate is tested with.
    ///
    /// # Errors
    /// When it is missing: tests without anything to test must not pass.
    pub(crate) fn fixtures(&self) -> Result<PathBuf> {
        let dir = self.root.join("fixtures-go");
        if dir.join("go.mod").is_file() {
            return Ok(dir);
        }
        Err(miette!(help = "the checkout is not complete: restore it from git", "{} has no go.mod", dir.display()))
    }
}

/// Whether this is an automatic run: `CI` is set, and is neither empty nor `0` nor `false`.
pub(crate) fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "0" && value != "false")
}

fn path_with_tools(root: &Path, path: Option<OsString>) -> Result<OsString> {
    let own = [root.join(".tools/go/bin"), root.join(".tools/cargo/bin")];
    let users = path.unwrap_or_default();
    std::env::join_paths(own.into_iter().chain(std::env::split_paths(&users)))
        .into_diagnostic()
        .wrap_err("the checkout's path must not contain a colon, or it cannot be on PATH")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_tools_come_before_the_users() {
        let path = path_with_tools(Path::new("/src"), Some("/usr/bin:/bin".into())).unwrap();
        assert_eq!(path, "/src/.tools/go/bin:/src/.tools/cargo/bin:/usr/bin:/bin");
    }

    #[test]
    fn a_checkout_that_cannot_be_on_path_is_refused() {
        let error = path_with_tools(Path::new("/a:b"), None).unwrap_err();
        assert!(error.to_string().contains("must not contain a colon"), "{error}");
    }

    #[test]
    fn missing_fixtures_are_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let workspace = Workspace::at(dir.path()).unwrap();
        assert!(workspace.fixtures().unwrap_err().to_string().contains("has no go.mod"));
    }
}
