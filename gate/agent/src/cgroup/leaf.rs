//! Room for a controller in memgate's own cgroup.
//!
//! A cgroup that holds processes cannot enable the memory controller for the cgroups below it ("no internal process
//! constraint", Documentation/admin-guide/cgroup-v2.rst, Linux 6.18). In a container the root of the hierarchy holds
//! all of its processes. So memgate moves them into a cgroup below, as the image `docker:dind` does, and back when the
//! last memgate ends. Only processes of memgate's own cgroup are moved. Their limits and their accounting stay as they
//! are, since these belong to the cgroup above.

use std::{
    collections::BTreeSet,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::libc;

use super::{
    files::{processes, put},
    place::{MEMORY, subfolders},
};
use crate::ownership::is_there;

/// The name of the cgroup for the moved processes. While it is there, memgate has enabled the controller above it.
pub(super) const LEAF: &str = "memgate-leaf";

/// How long memgate tries to move processes, which may start others meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

/// A share in the cgroup for moved processes. Dropping the last one moves them back.
#[derive(Debug)]
pub(super) struct Leaf {
    above: PathBuf,
    /// Each memgate that needs the controller holds a shared lock, and who changes something the exclusive one.
    lock: File,
}

/// Why there is no room for the controller.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeafError {
    /// The cgroup for the processes cannot be made or locked.
    #[error("{leaf}: {source}")]
    Leaf { leaf: PathBuf, source: io::Error },
    /// A process stays where it is.
    #[error("process {process} cannot be moved to {leaf}: {source}")]
    Move { process: i32, leaf: PathBuf, source: io::Error },
    /// The controller cannot be enabled.
    #[error("the memory controller cannot be enabled in {above}: {source}")]
    Enable { above: PathBuf, source: io::Error },
    /// Others make it and remove it all the time.
    #[error("other memgates do not leave {leaf} alone")]
    Contended { leaf: PathBuf },
}

impl Leaf {
    /// Keeps the controller that another memgate has made room for in `above`; `None` if none has.
    pub(super) fn share(above: &Path) -> Option<Self> {
        let path = above.join(LEAF);
        let lock = File::open(&path).ok()?;
        lock_patiently(|| lock.try_lock_shared()).ok()?;
        is_there(&path, &lock).then(|| Self { above: above.to_owned(), lock })
    }

    /// Moves every process of `above`, which must be memgate's own cgroup, into a cgroup below it, and enables the
    /// controller. Also returns how many it has moved.
    ///
    /// # Errors
    /// Fails if a process cannot be moved or the controller cannot be enabled. Then everything is as before.
    pub(super) fn make(above: &Path) -> Result<(Self, usize), LeafError> {
        /// Between the two locks, another memgate may move everything back.
        const ATTEMPTS: u32 = 5;
        let path = above.join(LEAF);
        let failed = |source| LeafError::Leaf { leaf: path.clone(), source };
        for _ in 0..ATTEMPTS {
            match fs::create_dir(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
                Ok(()) | Err(_) => {}
            }
            let Ok(lock) = File::open(&path) else { continue };
            lock_patiently(|| lock.try_lock()).map_err(failed)?;
            if !is_there(&path, &lock) {
                continue;
            }
            let moved = match make_room(above, &path) {
                Ok(moved) => moved,
                Err(error) => {
                    move_back(above, &path);
                    return Err(error);
                }
            };
            lock_patiently(|| lock.try_lock_shared()).map_err(failed)?;
            if is_there(&path, &lock) {
                return Ok((Self { above: above.to_owned(), lock }, moved));
            }
        }
        Err(LeafError::Contended { leaf: path })
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        // Whoever else shares it moves the processes back.
        if self.lock.try_lock().is_ok() {
            give_back(&self.above, &self.above.join(LEAF));
        }
    }
}

/// Moves every process of a cgroup into `leaf` below it and enables the controller. Returns how many it has moved.
fn make_room(above: &Path, leaf: &Path) -> Result<usize, LeafError> {
    let deadline = Instant::now() + PATIENCE;
    let mut moved = BTreeSet::new();
    loop {
        let stuck = move_all(above, leaf, &mut moved);
        match put(&above.join("cgroup.subtree_control"), &format!("+{MEMORY}")) {
            Ok(()) => return Ok(moved.len()),
            // A process was started meanwhile, or stays.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(source) => {
                return Err(match stuck {
                    Some((process, source)) => LeafError::Move { process, leaf: leaf.to_owned(), source },
                    None => LeafError::Enable { above: above.to_owned(), source },
                });
            }
        }
    }
}

/// Takes the controller back and moves the processes back, unless somebody else has set a limit in a cgroup beside the
/// leaf since.
fn give_back(above: &Path, leaf: &Path) {
    let has_limit =
        |folder: &PathBuf| fs::read_to_string(folder.join("memory.max")).is_ok_and(|max| max.trim() != "max");
    // No process may enter a cgroup that has a controller enabled for those below it. The kernel refuses to disable it
    // if one below has it enabled too.
    if !subfolders(above).iter().any(has_limit)
        && put(&above.join("cgroup.subtree_control"), &format!("-{MEMORY}")).is_ok()
    {
        move_back(above, leaf);
    }
}

/// Moves the processes back and removes the leaf. If this fails, the next memgate uses the leaf.
fn move_back(above: &Path, leaf: &Path) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let _ = move_all(leaf, above, &mut BTreeSet::new());
        match fs::remove_dir(leaf) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(()) | Err(_) => return,
        }
    }
}

/// Moves the processes of a cgroup into another one. Returns one that stays, and why.
fn move_all(from: &Path, to: &Path, moved: &mut BTreeSet<i32>) -> Option<(i32, io::Error)> {
    let mut stuck = None;
    for process in processes(from).unwrap_or_default() {
        let process = process.as_raw();
        let entered = if process == 0 {
            // To the kernel, 0 would be memgate itself.
            Err(io::Error::other("it is in another PID namespace"))
        } else {
            put(&to.join("cgroup.procs"), &process.to_string())
        };
        match entered {
            Ok(()) => drop(moved.insert(process)),
            // It has ended.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            Err(error) => stuck = Some((process, error)),
        }
    }
    stuck
}

fn lock_patiently(mut lock: impl FnMut() -> Result<(), TryLockError>) -> io::Result<()> {
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        match lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error.into()),
        }
    }
}
