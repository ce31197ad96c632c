//! The files of a directory that a change may have made: memgate, which may be root, reads them and follows no link.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};
use walkdir::WalkDir;

/// The largest file that is read, bytes.
const LARGEST: u64 = 1 << 20;

/// How many directories below its own memgate looks for modules.
const DEEPEST: usize = 6;

/// The most files and directories that memgate looks at for modules.
pub(super) const MOST_ENTRIES: usize = 200_000;

/// A directory, held open, so that it stays the same one.
#[derive(Debug)]
pub(super) struct Tree {
    directory: OwnedFd,
    /// Its path, without links.
    pub(super) path: PathBuf,
}

impl Tree {
    /// Opens the directory, to which links may lead.
    ///
    /// # Errors
    /// The system's reason.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.canonicalize()?;
        let opened = nix::fcntl::open(&path, OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { directory: opened, path })
    }

    /// The directory itself.
    pub(super) const fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// The text of a file, named by its path from the directory.
    ///
    /// # Errors
    /// The system's reason, and if a link is on the way, if it is no regular file, or if it is too large.
    pub(super) fn read(&self, file: &Path) -> io::Result<String> {
        let mut parts = file.components().peekable();
        let mut at: Option<OwnedFd> = None;
        while let Some(Component::Normal(part)) = parts.next() {
            let kind = if parts.peek().is_some() { OFlag::O_DIRECTORY } else { OFlag::O_NONBLOCK };
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | kind;
            at = Some(openat(at.as_ref().unwrap_or(&self.directory), part, flags, Mode::empty())?);
        }
        // What is left begins at another directory.
        let file = at.filter(|_| parts.peek().is_none()).map(File::from).ok_or(io::ErrorKind::InvalidInput)?;
        let found = file.metadata()?;
        if !found.is_file() || found.len() > LARGEST {
            return Err(io::Error::other("it is no regular file of at most 1 MiB"));
        }
        let mut bytes = Vec::new();
        file.take(LARGEST).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The directories of modules, by their paths from the directory, in order: those with a `go.mod`. What Go ignores
    /// has none: `vendor`, `testdata`, and names that begin with `.` or `_`. Nor has a toolchain of Go. Also whether there
    /// is more than memgate looks at.
    pub(super) fn modules(&self) -> (Vec<PathBuf>, bool) {
        self.modules_among(MOST_ENTRIES)
    }

    /// The same among this many files and directories. The files of a directory come before the directories in it, so that
    /// many files hide no module above them.
    fn modules_among(&self, most: usize) -> (Vec<PathBuf>, bool) {
        let is_ignored =
            |name: &str| name.starts_with(['.', '_']) || ["vendor", "testdata", "node_modules"].contains(&name);
        let order = |entry: &walkdir::DirEntry| (entry.file_type().is_dir(), entry.file_name().to_owned());
        // A file is one deeper than its directory.
        let entries = WalkDir::new(&self.path).max_depth(DEEPEST + 1).sort_by_key(order).into_iter();
        let mut wanted = entries.filter_entry(|entry| {
            entry.depth() == 0 || !(is_ignored(&entry.file_name().to_string_lossy()) || is_toolchain(entry.path()))
        });
        let files = wanted.by_ref().take(most).flatten().filter(|entry| entry.file_name() == "go.mod");
        let below = |file: walkdir::DirEntry| Some(file.path().strip_prefix(&self.path).ok()?.to_owned());
        let readable = files.filter_map(below).filter(|file| self.read(file).is_ok());
        let mut modules: Vec<_> = readable.filter_map(|file| Some(file.parent()?.to_owned())).collect();
        modules.sort();
        (modules, wanted.next().is_some())
    }
}

/// Whether the directory is a Go toolchain's. Its modules are not the project's.
fn is_toolchain(directory: &Path) -> bool {
    ["src/cmd/go", "src/runtime"].iter().all(|part| directory.join(part).is_dir())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn file(root: &Path, name: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "text").unwrap();
    }

    #[test]
    fn no_link_leads_out_and_no_special_file_holds_memgate_up() {
        let directory = tempfile::tempdir().unwrap();
        let [root, outside] = ["root", "outside"].map(|name| directory.path().join(name));
        file(&root, "a/b.go");
        file(&outside, "secret.go");
        symlink(outside.join("secret.go"), root.join("link.go")).unwrap();
        symlink(&outside, root.join("away")).unwrap();
        nix::unistd::mkfifo(&root.join("pipe.go"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        fs::write(root.join("large.go"), vec![b'x'; (1 << 20) + 1]).unwrap();
        let tree = Tree::open(&root).unwrap();
        assert_eq!(tree.read(Path::new("a/b.go")).unwrap(), "text");
        for name in [
            "link.go",
            "away/secret.go",
            "../outside/secret.go",
            "pipe.go",
            "large.go",
            "a",
            "none.go",
            "",
            "/etc/hostname",
            "a/../../outside/secret.go",
        ] {
            assert!(tree.read(Path::new(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn modules_are_found_where_go_finds_packages() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for name in ["go.mod", "b/go.mod", "a/deep/go.mod", "vendor/x/go.mod", "a/testdata/go.mod", ".git/go.mod"] {
            file(root, name);
        }
        for name in ["go/src/go.mod", "go/src/cmd/go/main.go", "go/src/runtime/proc.go"] {
            file(root, name);
        }
        symlink(root.join("go.mod"), root.join("a/go.mod")).unwrap();
        let modules = Tree::open(root).unwrap().modules();
        assert_eq!(modules, (["", "a/deep", "b"].map(PathBuf::from).to_vec(), false));
    }

    #[test]
    fn modules_are_found_six_directories_down_and_beside_many_files() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for name in ["1/2/3/4/5/6/go.mod", "1/2/3/4/5/6/7/go.mod", "assets/1", "assets/2", "assets/3", "go.mod"] {
            file(root, name);
        }
        let tree = Tree::open(root).unwrap();
        assert_eq!(tree.modules(), (["", "1/2/3/4/5/6"].map(PathBuf::from).to_vec(), false));
        assert_eq!(tree.modules_among(3), (vec![PathBuf::new()], true), "the one above comes first");
    }
}
