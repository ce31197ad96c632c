//! Writes files whole or not at all.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

/// Writes a file so that a reader sees either the old contents or the new ones, never a part. The contents go to a
/// temporary file in the same directory, which is synced and renamed. Missing parent directories are made. The mode is
/// that of the old file. That of a new one is 0666 less the umask, so that a later step of a CI job that runs as another
/// user can read the file. A failure leaves no temporary file behind.
///
/// Symbolic links are followed. Anything but a regular file, such as `/dev/stdout` or a pipe, is written in place,
/// because replacing it would break it for other programs.
pub fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    prepare(path, contents)?.put()
}

/// New contents of a file that have not taken their place yet. Dropped, they leave the old file and nothing else.
#[derive(Debug)]
pub struct Prepared(Kind);

#[derive(Debug)]
enum Kind {
    /// They lie beside the file.
    Beside { contents: NamedTempFile, path: PathBuf },
    /// They are to be written into a special file.
    Into { file: File, contents: Vec<u8> },
}

/// Does all of [`write()`] that may fail for want of space or permission. So several files can be prepared before the first
/// of them changes.
///
/// # Errors
/// When the file or its directory cannot be written.
pub fn prepare(path: &Path, contents: &[u8]) -> io::Result<Prepared> {
    Ok(Prepared(match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
        Ok(metadata) if !metadata.is_file() => {
            Kind::Into { file: OpenOptions::new().write(true).open(path)?, contents: contents.to_vec() }
        }
        Ok(_) => beside(path.canonicalize()?, contents)?,
        Err(_) => beside(path.to_owned(), contents)?,
    }))
}

fn beside(path: PathBuf, contents: &[u8]) -> io::Result<Kind> {
    let directory = parent(&path);
    fs::create_dir_all(&directory)?;
    let mut file = tempfile::Builder::new()
        .prefix(".memgate-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(&directory)?;
    // An error of the temporary file itself would name it.
    file.as_file_mut().write_all(contents)?;
    if let Ok(old) = fs::metadata(&path) {
        file.as_file().set_permissions(old.permissions())?;
    }
    // A file system that allocates space late reports a full disk only here.
    file.as_file().sync_all()?;
    Ok(Kind::Beside { contents: file, path })
}

impl Prepared {
    /// Puts the contents in their place.
    ///
    /// # Errors
    /// When the file cannot be replaced or written.
    pub fn put(self) -> io::Result<()> {
        match self.0 {
            Kind::Beside { contents, path } => Ok(contents.persist(path).map(drop)?),
            Kind::Into { mut file, contents } => file.write_all(&contents),
        }
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read, os::unix::fs::FileTypeExt};

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn makes_parents_and_replaces_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b/report.json");
        write(&path, b"first, longer").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(path.parent().unwrap()), ["report.json"]);
    }

    #[test]
    fn others_may_read_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        write(&path, b"text").unwrap();
        // Reading the umask requires changing it for every thread, so the mode of a plain file shows it instead.
        let plain = directory.path().join("plain");
        File::create(&plain).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions(), fs::metadata(&plain).unwrap().permissions());
    }

    #[test]
    fn a_file_that_few_may_read_stays_so() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        fs::write(&path, b"old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn what_is_prepared_and_not_put_leaves_the_old_file_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.json");
        write(&path, b"old").unwrap();
        drop(prepare(&path, b"new").unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(directory.path()), ["report.json"]);
    }

    #[test]
    fn a_directory_in_the_way_is_an_error_and_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report");
        fs::create_dir(&path).unwrap();
        assert_eq!(write(&path, b"text").unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(names(directory.path()), ["report"]);
    }

    #[test]
    fn a_file_in_place_of_a_parent_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), b"").unwrap();
        assert!(write(&directory.path().join("file/report.json"), b"text").is_err());
        assert_eq!(names(directory.path()), ["file"]);
    }

    // The test's own pipe stands for every special file. If the test used a device and failed as root, it would replace
    // the device.
    #[test]
    fn special_files_are_written_and_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // On Linux, opening a pipe for both reading and writing does not block.
        let mut pipe = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        write(&path, b"text").unwrap();
        assert!(fs::metadata(&path).unwrap().file_type().is_fifo());
        let mut text = [0; 4];
        pipe.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"text");
    }

    #[test]
    fn a_symbolic_link_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&file, b"old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        write(&link, b"new").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
