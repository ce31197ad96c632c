//! A folder of a hierarchy that belongs to one running memgate, and what a killed memgate has left.
//!
//! A folder has its owner's lock, as `ownership.rs` says.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    files::{processes, put},
    place::{Hierarchies, subfolders},
};
use crate::ownership::{is_memgates, name, try_lock};

/// How long memgate waits for the end of killed processes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder of memgate's in a hierarchy. Dropping it kills the processes in it and removes it.
#[derive(Debug)]
pub(super) struct Owned {
    path: PathBuf,
    /// The lock is held while this is open. No process that memgate executes inherits it.
    _lock: File,
}

impl Owned {
    /// Makes a folder in `parent`.
    ///
    /// # Errors
    /// Fails if memgate must not make or lock folders there.
    pub(super) fn make(parent: &Path) -> io::Result<Self> {
        loop {
            let path = parent.join(name());
            match fs::create_dir(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => {
                    made?;
                    // Until it is locked, another memgate may take the empty folder for a leftover and remove it.
                    let lock = try_lock(&path);
                    if let Ok(Some(lock)) = lock {
                        return Ok(Self { path, _lock: lock });
                    }
                    // It is empty, and may be gone.
                    let _ = fs::remove_dir(&path);
                    lock?;
                }
            }
        }
    }

    /// The folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Kills every process in it and below it.
    pub(super) fn kill(&self) {
        kill_all(&self.path);
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // If this fails, it is a leftover for the next memgate.
        let _ = remove(&self.path);
    }
}

/// Kills every process in memgate's cgroups whose memgate has ended, and removes them. Returns a line for each one that
/// had processes, or that cannot be removed although it may be.
pub(crate) fn remove_leftovers() -> Vec<String> {
    let hierarchies = Hierarchies::find();
    let mut lines = BTreeSet::new();
    for root in hierarchies.roots() {
        lines.extend(
            tree(root).iter().filter(|folder| is_memgates(folder)).filter_map(|folder| remove_leftover(folder)),
        );
    }
    lines.into_iter().collect()
}

/// Kills and removes this folder unless it has an owner. Returns what to say of it.
fn remove_leftover(folder: &Path) -> Option<String> {
    // An owner that is about to lock it makes another one.
    let _lock = try_lock(folder).ok()??;
    let left: Vec<_> = tree(folder).iter().flat_map(|folder| processes(folder).unwrap_or_default()).collect();
    if left.contains(&Pid::this()) {
        // What a killed memgate started has started this one.
        return None;
    }
    let noun = if left.len() == 1 { "process" } else { "processes" };
    match remove(folder) {
        Ok(()) => (!left.is_empty()).then(|| {
            let (path, count) = (folder.display(), left.len());
            format!("an earlier memgate was killed and left {count} {noun} in {path}: memgate has ended them")
        }),
        // It is another user's, or it is gone.
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) => None,
        Err(error) => Some(format!("an earlier memgate left {}, which cannot be removed: {error}", folder.display())),
    }
}

/// Removes a folder with those below it, whose processes it kills.
fn remove(folder: &Path) -> io::Result<()> {
    // A killed process stays in its cgroup until its parent reaps it, or init if the parent is gone. On a busy machine
    // it must first get a processor.
    let deadline = Instant::now() + PATIENCE;
    loop {
        kill_all(folder);
        let removed = tree(folder).iter().try_for_each(fs::remove_dir);
        match removed {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            Err(error) if !folder.exists() || Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn kill_all(folder: &Path) {
    // `cgroup.kill` (Linux 5.14) also kills a process that forks meanwhile, and those below.
    if put(&folder.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for folder in tree(folder) {
        // The id 0 is that of a process in another PID namespace, and would mean memgate's own process group.
        for process in processes(&folder).unwrap_or_default().into_iter().filter(|process| process.as_raw() > 0) {
            let _ = kill(process, Signal::SIGKILL);
        }
    }
}

/// The folders below this one, deepest first, and then itself.
fn tree(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = subfolders(folder).iter().flat_map(|below| tree(below)).collect();
    all.push(folder.to_owned());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_an_owner_is_no_leftover_and_what_has_none_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let owned = Owned::make(parent.path()).unwrap();
        assert_eq!(remove_leftover(owned.path()), None);
        assert!(owned.path().exists());
        let left = parent.path().join(name());
        fs::create_dir(&left).unwrap();
        fs::create_dir(left.join("of the service")).unwrap();
        assert_eq!(remove_leftover(&left), None, "it had no process");
        assert!(!left.exists());
    }

    #[test]
    fn many_memgates_that_start_and_clear_up_at_once_keep_their_own() {
        let parent = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let owned = Owned::make(parent.path()).unwrap();
                        for folder in subfolders(parent.path()) {
                            remove_leftover(&folder);
                        }
                        assert!(owned.path().exists());
                    }
                });
            }
        });
        assert_eq!(subfolders(parent.path()), Vec::<PathBuf>::new());
    }
}
