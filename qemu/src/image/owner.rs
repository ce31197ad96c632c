//! Who can change the cache. What lies there becomes QEMU, kernels and memory of guests, so whoever can write into it
//! decides what memgate starts.

use std::{fs::Metadata, io, os::unix::fs::MetadataExt as _, path::Path};

use nix::unistd::{getegid, geteuid};
use walkdir::WalkDir;

use super::{cache::is_half_made, error::ImageError};

/// Checks that nobody but this user and root can change anything in the cache. A link must be theirs too. What nobody
/// uses yet, because it is half-made, does not count.
///
/// # Errors
/// When another user can change something, or when the directory cannot be read.
pub(super) fn check(cache: &Path) -> Result<(), ImageError> {
    let failed = |error| ImageError::io(format!("read {}", cache.display()), error);
    for entry in
        WalkDir::new(cache).follow_root_links(true).into_iter().filter_entry(|entry| !is_half_made(entry.path()))
    {
        let metadata = entry.and_then(|entry| Ok((entry.metadata()?, entry)));
        let (metadata, entry) = match metadata {
            Ok(found) => found,
            // Another memgate removes what nobody uses.
            Err(error) if error.io_error().is_some_and(|error| error.kind() == io::ErrorKind::NotFound) => continue,
            Err(error) => return Err(failed(error.into())),
        };
        if let Some(why) = others_can_change(&metadata, geteuid().as_raw(), getegid().as_raw()) {
            return Err(ImageError::NotOurs { path: entry.path().display().to_string(), why });
        }
    }
    Ok(())
}

/// How a user other than this one and root can change a file, if one can.
fn others_can_change(metadata: &Metadata, user: u32, group: u32) -> Option<String> {
    let (uid, gid, mode) = (metadata.uid(), metadata.gid(), metadata.mode());
    if ![user, 0].contains(&uid) {
        return Some(format!("it belongs to the user {uid}"));
    }
    if metadata.is_symlink() {
        return None;
    }
    if mode & 0o002 != 0 {
        return Some("every user can write it".to_owned());
    }
    (mode & 0o020 != 0 && ![group, 0].contains(&gid)).then(|| format!("the group {gid} can write it"))
}

/// Whether every user can read a file, or enter and read a directory. QEMU may be another user.
pub(crate) fn is_readable(path: &Path) -> bool {
    path.metadata().is_ok_and(|found| {
        let wanted = if found.is_dir() { 0o555 } else { 0o444 };
        found.mode() & wanted == wanted
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt as _,
    };

    use super::*;

    #[test]
    fn what_another_user_can_change_is_refused() {
        let cache = tempfile::tempdir().unwrap();
        let (directory, file) = (cache.path().join("images/arm64-7.2"), cache.path().join("images/arm64-7.2/kernel"));
        fs::create_dir_all(&directory).unwrap();
        fs::write(&file, "a kernel").unwrap();
        std::os::unix::fs::symlink("kernel", directory.join("link")).unwrap();
        check(cache.path()).unwrap();
        for (path, good) in [(&file, 0o644), (&directory, 0o755)] {
            fs::set_permissions(path, Permissions::from_mode(good | 0o002)).unwrap();
            let error = check(cache.path()).unwrap_err();
            assert_eq!(error.message(), format!("{} is not safe to use: every user can write it", path.display()));
            fs::set_permissions(path, Permissions::from_mode(good | 0o020)).unwrap();
            check(cache.path()).unwrap();
            fs::set_permissions(path, Permissions::from_mode(good)).unwrap();
        }
        let metadata = fs::metadata(&file).unwrap();
        let (uid, gid) = (metadata.uid(), metadata.gid());
        assert_eq!(others_can_change(&metadata, uid, gid), None);
        if uid == 0 {
            assert_eq!(others_can_change(&metadata, 1000, 1000), None, "root can change everything anyway");
            std::os::unix::fs::chown(&file, Some(60001), None).unwrap();
            assert!(check(cache.path()).unwrap_err().message().ends_with("it belongs to the user 60001"));
            std::os::unix::fs::chown(&file, Some(0), Some(60001)).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
            assert!(check(cache.path()).unwrap_err().message().ends_with("the group 60001 can write it"));
        }
    }

    #[test]
    fn half_made_directories_do_not_count() {
        let cache = tempfile::tempdir().unwrap();
        for name in [".unfinished-x", ".partial-x"] {
            let half = cache.path().join(name);
            fs::create_dir(&half).unwrap();
            fs::set_permissions(&half, Permissions::from_mode(0o777)).unwrap();
        }
        check(cache.path()).unwrap();
    }
}
