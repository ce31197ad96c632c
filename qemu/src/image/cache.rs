//! The directory in which memgate keeps packages and images, and its locks.

use std::{
    ffi::OsString,
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use walkdir::WalkDir;

use super::{Image, error::ImageError, lock::Lock};
use crate::{debian::is_unfinished, emulator};

/// A directory whose contents can be restored. `packages/` contains packages from Debian. `images/`, with snapshots of
/// guests, and `emulators/` are made from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// The directory. It is made when something is put into it.
    pub dir: PathBuf,
    /// The sources of images and emulators.
    pub lock: Lock,
}

/// Marks the directory as memgate's, and as one that backups may omit (Cache Directory Tagging Specification).
const TAG: (&str, &str) = (
    "CACHEDIR.TAG",
    "Signature: 8a477f597d28d172789f06886806bc55\n# This directory is memgate's cache: all of it can be made again.\n",
);

impl Cache {
    /// The cache in `dir`, with the lock that is built into memgate.
    ///
    /// # Errors
    /// When that lock cannot be understood, or when a relative path has no current directory.
    pub fn new(dir: &Path) -> Result<Self, ImageError> {
        let dir = std::path::absolute(dir).map_err(|error| ImageError::io(format!("find {}", dir.display()), error))?;
        Ok(Self { dir, lock: Lock::embedded()? })
    }

    /// `$MEMGATE_CACHE`, or else `$XDG_CACHE_HOME/memgate`, or else `$HOME/.cache/memgate`.
    ///
    /// # Errors
    /// When none of the three is set.
    pub fn default_dir() -> Result<PathBuf, ImageError> {
        default_dir(|name| std::env::var_os(name)).ok_or(ImageError::NoCache)
    }

    /// The packages, under their own names.
    pub fn packages(&self) -> PathBuf {
        self.dir.join("packages")
    }

    /// The images, each at `KERNEL/KEY`.
    pub fn images(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// QEMU for guests of each architecture, at `ARCHITECTURE/KEY`.
    pub fn emulators(&self) -> PathBuf {
        self.dir.join("emulators")
    }

    /// Keeps every other memgate from changing the cache until the returned lock is dropped. Waits for the lock, and
    /// removes what an interrupted memgate left.
    ///
    /// # Errors
    /// When the directory cannot be made, locked or cleaned up.
    pub(crate) fn exclusive(&self, say: &mut dyn FnMut(&str)) -> Result<File, ImageError> {
        let open = || {
            std::fs::create_dir_all(&self.dir)?;
            std::fs::write(self.dir.join(TAG.0), TAG.1)?;
            File::create(self.dir.join("lock"))
        };
        let failed = |error| ImageError::io(format!("use the cache {}", self.dir.display()), error);
        let file = open().map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                say("waiting for another memgate, which is changing the cache");
                file.lock().map_err(failed)?;
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        self.sweep().map_err(failed)?;
        Ok(file)
    }

    fn sweep(&self) -> io::Result<()> {
        let mut directories = entries(&self.images())?;
        directories.extend(entries(&self.emulators())?);
        directories.extend([self.dir.clone(), self.packages()]);
        for directory in directories {
            for path in entries(&directory)?.iter().filter(|path| is_unfinished(path)) {
                std::fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }
}

fn default_dir(get: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let get = |name| get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    get("MEMGATE_CACHE")
        // The XDG Base Directory Specification requires that relative paths are ignored.
        .or_else(|| Some(get("XDG_CACHE_HOME").filter(|path| path.is_absolute())?.join("memgate")))
        .or_else(|| Some(get("HOME")?.join(".cache/memgate")))
}

/// Every complete image in the cache, sorted by name.
///
/// # Errors
/// When the cache cannot be read.
pub fn list(cache: &Cache) -> Result<Vec<Image>, ImageError> {
    let places = image_places(cache).map_err(|error| ImageError::io(format!("read {}", cache.dir.display()), error))?;
    Ok(places.iter().filter_map(|place| Image::read(place)).collect())
}

/// Removes everything from the cache except images and emulators that a running memgate uses. Returns the number of
/// bytes that this freed.
///
/// # Errors
/// When the directory is not memgate's cache, or when something cannot be removed.
pub fn clean(cache: &Cache) -> Result<u64, ImageError> {
    if !cache.dir.exists() {
        return Ok(0);
    }
    let is_tagged = std::fs::read(cache.dir.join(TAG.0)).is_ok_and(|tag| tag == TAG.1.as_bytes());
    if !is_tagged {
        return Err(ImageError::NotACache { directory: cache.dir.display().to_string() });
    }
    let failed = |error| ImageError::io(format!("remove the cache {}", cache.dir.display()), error);
    let before = size(&cache.dir).map_err(failed)?;
    let _exclusive = cache.exclusive(&mut |_| {})?;
    empty(cache).map_err(failed)?;
    Ok(before.saturating_sub(size(&cache.dir).map_err(failed)?))
}

fn empty(cache: &Cache) -> io::Result<()> {
    let (images, emulators) = (entries(&cache.images())?, entries(&cache.emulators())?);
    for directory in images.into_iter().chain(emulators) {
        for place in entries(&directory)? {
            remove_unused(&place)?;
        }
        if entries(&directory)?.is_empty() {
            std::fs::remove_dir(directory)?;
        }
    }
    if cache.packages().exists() {
        std::fs::remove_dir_all(cache.packages())?;
    }
    Ok(())
}

/// Removes the directory of an image or an emulator, unless a running memgate uses it. Only with [`Cache::exclusive`].
pub(super) fn remove_unused(place: &Path) -> io::Result<()> {
    let description = [super::DESCRIPTION, emulator::DESCRIPTION].map(|name| place.join(name));
    let used = match description.iter().find_map(|path| File::open(path).ok()) {
        Some(file) => match file.try_lock() {
            // The lock is held until the removal, so that nobody starts to use the directory in between.
            Ok(()) => Some(file),
            Err(_) => return Ok(()),
        },
        None => None,
    };
    std::fs::remove_dir_all(place)?;
    drop(used);
    Ok(())
}

/// The directories of all images, sorted.
fn image_places(cache: &Cache) -> io::Result<Vec<PathBuf>> {
    let mut places = Vec::new();
    for directory in entries(&cache.images())? {
        places.extend(entries(&directory)?);
    }
    places.retain(|place| !is_unfinished(place));
    Ok(places)
}

/// The contents of a directory, sorted; empty if the directory does not exist.
pub(super) fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries?,
    };
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// The size of all files below a directory, bytes.
fn size(directory: &Path) -> io::Result<u64> {
    let mut size = 0;
    for entry in WalkDir::new(directory) {
        let metadata = entry?.metadata()?;
        size += if metadata.is_file() { metadata.len() } else { 0 };
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path()).unwrap();
        (dir, cache)
    }

    fn put(path: &Path, contents: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }

    #[test]
    fn directory_is_the_first_that_is_set() {
        let of = |set: &[(&str, &str)]| {
            default_dir(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)))
        };
        let all = [("MEMGATE_CACHE", "/m"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        assert_eq!(of(&all), Some("/m".into()));
        assert_eq!(of(&all[1..]), Some("/x/memgate".into()));
        assert_eq!(of(&all[2..]), Some("/h/.cache/memgate".into()));
        assert_eq!(
            of(&[("MEMGATE_CACHE", ""), ("XDG_CACHE_HOME", "x"), ("HOME", "/h")]),
            Some("/h/.cache/memgate".into())
        );
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn cleaning_removes_what_memgate_made_and_says_how_much() {
        let (dir, cache) = cache();
        drop(cache.exclusive(&mut |_| {}).unwrap());
        put(&cache.packages().join("a.deb"), "12345");
        put(&cache.images().join("arm64-6.12/0123/kernel"), "123");
        put(&cache.images().join("arm64-6.12/.unfinished-x/kernel"), "1");
        put(&cache.images().join("arm64-6.12/0123/snapshots/s"), "1");
        put(&cache.emulators().join("arm64/0123/bin/qemu"), "1");
        put(&cache.emulators().join("arm64/.unfinished-x/root/bin/qemu"), "1");
        put(&dir.path().join("other"), "1234");
        assert_eq!(clean(&cache).unwrap(), 12);
        let left: Vec<_> =
            entries(dir.path()).unwrap().iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(left, ["CACHEDIR.TAG", "emulators", "images", "lock", "other"]);
        assert_eq!(clean(&cache).unwrap(), 0);
    }

    #[test]
    fn a_directory_that_is_not_memgates_is_not_cleaned() {
        let (dir, cache) = cache();
        put(&cache.images().join("holiday/beach"), "1");
        assert!(matches!(clean(&cache), Err(ImageError::NotACache { .. })));
        assert!(dir.path().join("images/holiday/beach").exists());
        assert_eq!(clean(&Cache::new(&dir.path().join("nothing")).unwrap()).unwrap(), 0);
    }

    #[test]
    fn second_memgate_waits_for_the_first() {
        let (_dir, cache) = cache();
        let first = cache.exclusive(&mut |_| {}).unwrap();
        let (said, heard) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| cache.exclusive(&mut |text| said.send(text.to_owned()).unwrap()).unwrap());
            assert!(heard.recv().unwrap().contains("waiting for another memgate"));
            assert!(!second.is_finished());
            drop(first);
            second.join().unwrap();
        });
    }
}
