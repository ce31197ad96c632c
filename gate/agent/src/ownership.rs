//! Which cgroups and directories of runs belong to a running memgate, and which a killed one has left.
//!
//! The owner holds a lock (`flock`) on the folder itself. The kernel has one inode for it, whatever namespaces, mounts
//! and users see it, and releases the lock when the owner ends, however it ends. So a folder of memgate's without a
//! lock has no owner. A process id proves nothing: other PID namespaces have others.

use std::{
    fs::{self, File, TryLockError},
    hash::{BuildHasher as _, RandomState},
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

/// All of memgate's cgroups and directories of runs have this prefix, followed by memgate's process id, which helps only
/// people, `-` and a random number of 16 hexadecimal digits.
const PREFIX: &str = "memgate-";

/// A new name.
pub(crate) fn name() -> String {
    format!("{PREFIX}{}-{:016x}", std::process::id(), RandomState::new().hash_one(()))
}

/// Whether the last part of a path is such a name.
pub(crate) fn is_memgates(folder: &Path) -> bool {
    let name = folder.file_name().and_then(|name| name.to_str());
    let parts = name.and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'));
    parts.is_some_and(|(process, random)| {
        process.parse::<u32>().is_ok() && random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
}

/// The lock of a folder; `None` if it has an owner or is gone.
pub(crate) fn try_lock(folder: &Path) -> io::Result<Option<File>> {
    let lock = match File::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        lock => lock?,
    };
    match lock.try_lock() {
        Ok(()) => Ok(is_there(folder, &lock).then_some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether an open folder is still there. Somebody may have removed it while it was not locked.
pub(crate) fn is_there(path: &Path, open: &File) -> bool {
    let [there, open] = [fs::metadata(path), open.metadata()].map(|metadata| metadata.ok().map(|it| it.ino()));
    there.is_some() && there == open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_only_whole_ones_are_memgates() {
        let (first, second) = (name(), name());
        assert_ne!(first, second);
        assert!(is_memgates(Path::new(&first)) && is_memgates(&Path::new("/sys/fs/cgroup").join(second)));
        for other in ["memgate-12", "memgate-12-3", "memgate-leaf", "memgate-x-0123456789abcdef", "memgate.service"] {
            assert!(!is_memgates(Path::new(other)), "{other}");
        }
    }

    #[test]
    fn a_folder_that_another_memgate_takes_for_a_leftover_before_it_is_locked_is_not_used() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join(name());
        fs::create_dir(&path).unwrap();
        let removing = try_lock(&path).unwrap().unwrap();
        assert!(try_lock(&path).unwrap().is_none(), "the other one holds the lock");
        let late = File::open(&path).unwrap();
        fs::remove_dir(&path).unwrap();
        drop(removing);
        late.try_lock().unwrap();
        assert!(!is_there(&path, &late), "it is gone, although it can be locked");
        fs::create_dir(&path).unwrap();
        assert!(!is_there(&path, &late), "another one has its name");
    }
}
