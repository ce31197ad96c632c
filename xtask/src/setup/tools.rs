//! `.tools`: only one process changes it at a time, and each tool is whole or missing.

use std::fs::File;
use std::path::{Path, PathBuf};

use miette::{Context, IntoDiagnostic, Result};
use tempfile::TempDir;
use xshell::Shell;

use super::Stamp;
use crate::workspace::Workspace;

/// The name of a stamp inside the tool's own directory.
const STAMP: &str = ".memgate-stamp.json";
/// Directories with this prefix contain unfinished installations.
const PARTIAL: &str = ".partial-";

/// The directory of tools. No other process changes it while this exists.
#[derive(Debug)]
pub(crate) struct Tools<'a> {
    /// The shell for steps.
    pub(crate) sh: &'a Shell,
    root: &'a Path,
    dir: PathBuf,
    _lock: File,
}

impl<'a> Tools<'a> {
    /// Opens the directory of tools. Waits until no other set-up runs, and removes what an interrupted one left.
    ///
    /// # Errors
    /// When the directory cannot be made, locked or read.
    pub(crate) fn open(workspace: &'a Workspace) -> Result<Self> {
        let dir = workspace.tools();
        std::fs::create_dir_all(&dir).into_diagnostic().wrap_err_with(|| format!("cannot make {}", dir.display()))?;
        let lock =
            lock(&dir.join(".lock")).into_diagnostic().wrap_err_with(|| format!("cannot lock {}", dir.display()))?;
        sweep(&dir).into_diagnostic().wrap_err_with(|| format!("cannot sweep {}", dir.display()))?;
        Ok(Self { sh: &workspace.sh, root: workspace.root(), dir, _lock: lock })
    }

    /// The root of the checkout.
    pub(crate) fn root(&self) -> &Path {
        self.root
    }

    /// The directory itself.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A directory for unfinished work, on the same file system as the tools. It is removed when dropped.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn scratch(&self) -> Result<TempDir> {
        let made = tempfile::Builder::new().prefix(PARTIAL).tempdir_in(&self.dir);
        made.into_diagnostic().wrap_err_with(|| format!("cannot make a directory in {}", self.dir.display()))
    }

    /// The directory of the tool that `stamp` describes, if it is installed.
    pub(crate) fn installed(&self, stamp: &Stamp) -> Option<PathBuf> {
        let place = self.place(stamp);
        stamp.is_at(&place.join(STAMP)).then_some(place)
    }

    /// The directory `tool-version`. If it is missing or has another stamp, `make` makes it: `make` gets a scratch
    /// directory, and returns the path inside it that becomes the tool's directory.
    ///
    /// # Errors
    /// When `make` fails, or when the result cannot be put into place. The previous tool then stays.
    pub(crate) fn directory(&self, stamp: &Stamp, make: impl FnOnce(&Path) -> Result<PathBuf>) -> Result<PathBuf> {
        if let Some(place) = self.installed(stamp) {
            return Ok(place);
        }
        let place = self.place(stamp);
        eprintln!("Installing {} {} in .tools", stamp.tool, stamp.version);
        let scratch = self.scratch()?;
        let made = make(scratch.path())?;
        stamp.write(&made.join(STAMP))?;
        let put = || {
            if place.exists() {
                std::fs::rename(&place, scratch.path().join("replaced"))?;
            }
            std::fs::rename(&made, &place)
        };
        put().into_diagnostic().wrap_err_with(|| format!("cannot put {} in its place", place.display()))?;
        Ok(place)
    }

    fn place(&self, stamp: &Stamp) -> PathBuf {
        self.dir.join(format!("{}-{}", stamp.tool, stamp.version))
    }
}

fn lock(path: &Path) -> std::io::Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            eprintln!("Waiting for another `cargo xtask` to finish its set-up");
            file.lock().map(|()| file)
        }
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

fn sweep(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            std::fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use miette::miette;

    use super::*;

    fn tools<'a>(sh: &'a Shell, dir: &'a Path) -> Tools<'a> {
        Tools { sh, root: dir, dir: dir.to_owned(), _lock: lock(&dir.join(".lock")).unwrap() }
    }

    fn made(scratch: &Path, content: &str) -> Result<PathBuf> {
        let new = scratch.join("new");
        std::fs::create_dir(&new).unwrap();
        std::fs::write(new.join("tool"), content).unwrap();
        Ok(new)
    }

    #[test]
    fn tool_is_made_once_and_again_for_another_pin() {
        let (dir, sh) = (tempfile::tempdir().unwrap(), Shell::new().unwrap());
        let tools = tools(&sh, dir.path());
        let times = Cell::new(0);
        let install = |source: &str| {
            tools.directory(&Stamp::new("go", "1.0", source), |scratch| {
                times.set(times.get() + 1);
                made(scratch, source)
            })
        };
        assert_eq!(install("first").unwrap(), dir.path().join("go-1.0"));
        install("first").unwrap();
        assert_eq!(times.get(), 1);
        let place = install("second").unwrap();
        assert_eq!((times.get(), std::fs::read_to_string(place.join("tool")).unwrap().as_str()), (2, "second"));
        assert!(!place.join("replaced").exists());
    }

    #[test]
    fn failed_installation_leaves_nothing_and_the_next_succeeds() {
        let (dir, sh) = (tempfile::tempdir().unwrap(), Shell::new().unwrap());
        let tools = tools(&sh, dir.path());
        let stamp = Stamp::new("go", "1.0", "pin");
        let failed = tools.directory(&stamp, |scratch| {
            made(scratch, "half")?;
            Err(miette!("no network"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no network");
        assert!(!dir.path().join("go-1.0").exists());
        let names = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), [".lock"]);
        tools.directory(&stamp, |scratch| made(scratch, "whole")).unwrap();
    }

    #[test]
    fn directory_without_a_stamp_is_replaced() {
        let (dir, sh) = (tempfile::tempdir().unwrap(), Shell::new().unwrap());
        std::fs::create_dir_all(dir.path().join("go-1.0/bin")).unwrap();
        let place = tools(&sh, dir.path()).directory(&Stamp::new("go", "1.0", "pin"), |scratch| made(scratch, "whole"));
        let place = place.unwrap();
        assert!(place.join("tool").is_file() && !place.join("bin").exists());
    }

    #[test]
    fn leftovers_are_swept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join(".partial-x1/new")).unwrap();
        std::fs::create_dir_all(dir.path().join("go-1.0")).unwrap();
        sweep(dir.path()).unwrap();
        assert!(!dir.path().join(".partial-x1").exists() && dir.path().join("go-1.0").exists());
    }
}
