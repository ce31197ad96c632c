//! The file that is written. memgate may be root while its directory belongs to another user, who may rename it and put
//! links into it: memgate writes into the directory that it opened at first, and follows no link there.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use memgate_agent::child;
use memgate_evidence::{
    error::{Error, InputError, Result},
    plan::Account,
};
use memgate_files::OutputError;
use nix::{
    fcntl::{AtFlags, OFlag, openat, renameat},
    sys::stat::{Mode, fstatat},
    unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat},
};

use super::tree::Tree;

/// The name of the file.
pub(super) const NAME: &str = "memgate.yaml";

/// The file that is to be written.
pub(super) struct Target<'a> {
    tree: &'a Tree,
    /// Its path for people.
    path: PathBuf,
    replaces: bool,
    account: Option<&'a Account>,
}

impl<'a> Target<'a> {
    /// The file in this directory, which people call `directory`. It shall belong to the user of `account`.
    ///
    /// # Errors
    /// When there is one and `replaces` is not set, or when that user may not write there.
    pub(super) fn new(tree: &'a Tree, directory: &Path, replaces: bool, account: Option<&'a Account>) -> Result<Self> {
        let path = match directory {
            here if here == Path::new(".") => PathBuf::from(NAME),
            directory => directory.join(NAME),
        };
        let target = Self { tree, path, replaces, account };
        if !replaces && fstatat(tree.directory().as_fd(), NAME, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok() {
            return Err(target.exists());
        }
        if let Some(account) = account.filter(|account| !child::may_write(account, &tree.path)) {
            let message = format!(
                "{}: the user {}, who runs the service, may not write there",
                target.path.display(),
                account.name
            );
            let help = "let that user write there, name another one with `--user`, or print the file with `--print`";
            return Err(InputError::new(message, help).into());
        }
        Ok(target)
    }

    /// Its path for people.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn exists(&self) -> Error {
        let help = "replace it with `--force`, or see with `--print` what memgate would write";
        InputError::new(format!("{}: there is such a file already", self.path.display()), help).into()
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// When another one has been made meanwhile, and is not to be replaced, and when the directory cannot be written.
    pub(super) fn write(&self, text: &str) -> Result<()> {
        let written = if self.replaces { self.replace(text) } else { self.make(NAME, text) };
        written.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists if !self.replaces => self.exists(),
            _ => OutputError::Path { path: self.path.clone(), option: "DIR", source }.into(),
        })
    }

    /// Makes a file of this name, which must not exist.
    fn make(&self, name: &str, text: &str) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o666);
        let opened: OwnedFd = openat(self.directory(), name, flags, mode)?;
        let mut file = File::from(opened);
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| self.give(&file));
        if written.is_err() {
            // A part of it is no file of its own.
            let _ = unlinkat(self.directory(), name, UnlinkatFlags::NoRemoveDir);
        }
        written
    }

    /// Gives the file to the user, who is to edit it.
    fn give(&self, file: &File) -> io::Result<()> {
        let Some(account) = self.account else { return Ok(()) };
        Ok(fchown(file, Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)))?)
    }

    fn replace(&self, text: &str) -> io::Result<()> {
        let name = format!(".{NAME}.{}", std::process::id());
        // A memgate of the same number may have left one when it was killed.
        let _ = unlinkat(self.directory(), name.as_str(), UnlinkatFlags::NoRemoveDir);
        self.make(&name, text)?;
        let renamed = renameat(self.directory(), name.as_str(), self.directory(), NAME);
        if renamed.is_err() {
            let _ = unlinkat(self.directory(), name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        Ok(renamed?)
    }

    fn directory(&self) -> std::os::fd::BorrowedFd<'_> {
        self.tree.directory().as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn write(directory: &Path, replaces: bool) -> Result<()> {
        let tree = Tree::open(directory).unwrap();
        Target::new(&tree, directory, replaces, None)?.write("version: 1\n")
    }

    fn names(directory: &Path) -> Vec<String> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_replaced_only_on_demand() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(NAME);
        write(directory.path(), false).unwrap();
        fs::write(&file, "mine").unwrap();
        let error = write(directory.path(), false).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().ends_with("there is such a file already"), "{error}");
        assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
        fs::write(directory.path().join(format!(".{NAME}.{}", std::process::id())), "left by a killed memgate")
            .unwrap();
        write(directory.path(), true).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "version: 1\n");
        assert_eq!(names(directory.path()), [NAME]);
    }

    #[test]
    fn no_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let [root, outside] = ["root", "outside"].map(|name| directory.path().join(name));
        fs::create_dir(&root).unwrap();
        let file = root.join(NAME);
        // It leads to nothing yet.
        symlink(&outside, &file).unwrap();
        assert_eq!(write(&root, false).unwrap_err().exit_code(), 2);
        write(&root, true).unwrap();
        assert!(!outside.exists() && fs::symlink_metadata(&file).unwrap().is_file());
    }

    #[test]
    fn a_directory_that_is_renamed_meanwhile_is_still_the_one() {
        let directory = tempfile::tempdir().unwrap();
        let [root, moved, other] = ["root", "moved", "other"].map(|name| directory.path().join(name));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&other).unwrap();
        let tree = Tree::open(&root).unwrap();
        let target = Target::new(&tree, &root, false, None).unwrap();
        fs::rename(&root, &moved).unwrap();
        symlink(&other, &root).unwrap();
        target.write("version: 1\n").unwrap();
        assert_eq!(names(&moved), [NAME]);
        assert!(names(&other).is_empty());
    }
}
