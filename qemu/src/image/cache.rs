//! The directory in which memgate keeps packages and images, and its locks.

use std::{
    ffi::OsString,
    fs::{File, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nix::libc;
use walkdir::WalkDir;

use super::{Image, error::ImageError, lock::Lock, owner};
use crate::{
    debian::{DebianError, is_unfinished},
    emulator,
    stop::{PAUSE, Stop},
};

/// A directory whose contents can be restored. `packages/` contains packages from Debian. `images/`, with snapshots of
/// guests, and `emulators/` are made from them.
#[derive(Debug, Clone)]
pub struct Cache {
    /// The directory. It is made when something is put into it.
    pub dir: PathBuf,
    /// The sources of images and emulators.
    pub lock: Lock,
    /// Ends the work on the cache early.
    pub stop: Stop,
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
        Ok(Self { dir, lock: Lock::embedded()?, stop: Stop::default() })
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
    /// When the directory cannot be made, locked or cleaned up, or when memgate must end.
    pub(crate) fn exclusive(&self, say: &mut dyn FnMut(&str)) -> Result<File, ImageError> {
        let failed = |error| ImageError::io(format!("use the cache {}", self.dir.display()), error);
        std::fs::create_dir_all(&self.dir).map_err(failed)?;
        self.check()?;
        let open = || {
            own_file(&self.dir.join(TAG.0))?.write_all(TAG.1.as_bytes())?;
            own_file(&self.dir.join("lock"))
        };
        let mut file = open().map_err(failed)?;
        let mut is_told = false;
        loop {
            if self.stop.is_asked() {
                return Err(DebianError::Interrupted.into());
            }
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    if !is_told {
                        say(&format!("waiting for another memgate{}, which is changing the cache", holder(&file)));
                        is_told = true;
                    }
                    std::thread::sleep(PAUSE);
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
        let mut tell = || {
            file.set_len(0)?;
            file.write_all(format!("{}\n", std::process::id()).as_bytes())
        };
        tell().map_err(failed)?;
        self.sweep().map_err(failed)?;
        Ok(file)
    }

    /// Checks that no other user can change what is in the cache.
    ///
    /// # Errors
    /// When one can, or when the cache cannot be read.
    pub(crate) fn check(&self) -> Result<(), ImageError> {
        if self.dir.exists() { owner::check(&self.dir) } else { Ok(()) }
    }

    /// Sweeps the cache, unless another memgate is changing it or this user cannot write it.
    pub(crate) fn tidy(&self, say: &mut dyn FnMut(&str)) {
        let Ok(file) = own_file(&self.dir.join("lock")) else { return };
        if file.try_lock().is_ok()
            && let Err(error) = self.sweep()
        {
            say(&format!("{} cannot be swept: {error}", self.dir.display()));
        }
    }

    /// Removes what is half-made, and images, emulators and snapshots that were not used for [`UNUSED`]. Nothing that a
    /// running memgate uses. Only with [`Cache::exclusive`].
    fn sweep(&self) -> io::Result<()> {
        self.sweep_half_made()?;
        for directory in entries(&self.images())?.into_iter().chain(entries(&self.emulators())?) {
            for place in entries(&directory)? {
                #[cfg(feature = "guests")]
                crate::snapshot::sweep(&place.join(super::SNAPSHOTS))?;
                let described = [super::DESCRIPTION, emulator::DESCRIPTION].map(|name| File::open(place.join(name)));
                if described.iter().flatten().any(|file| !is_recent(file)) {
                    remove_unused(&place)?;
                }
            }
        }
        Ok(())
    }

    fn sweep_half_made(&self) -> io::Result<()> {
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

/// How long images, emulators and snapshots stay without being used.
pub(crate) const UNUSED: Duration = Duration::from_secs(14 * 24 * 3600);

/// Whether the file was used or made within [`UNUSED`].
pub(crate) fn is_recent(file: &File) -> bool {
    let used = file.metadata().and_then(|metadata| metadata.modified());
    // A time in the future is that of a machine with another clock.
    used.is_ok_and(|used| used.elapsed().is_ok_and(|elapsed| elapsed < UNUSED) || used > SystemTime::now())
}

/// Notes that the file is used now. A cache of root's does not know of the use by others.
pub(crate) fn touch(file: &File) {
    let _ = file.set_modified(SystemTime::now());
}

/// Whether a path is that of a directory that a memgate has not completed.
pub(super) fn is_half_made(path: &Path) -> bool {
    let is_draft = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".partial-"));
    is_draft || is_unfinished(path)
}

/// Opens a file of the cache itself for reading and writing, and makes it if there is none. Follows no link.
fn own_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.create(true).truncate(false).read(true).write(true).mode(0o644);
    options.custom_flags(libc::O_NOFOLLOW).open(path)
}

/// The process that holds the lock, as it has written there, for a message.
fn holder(lock: &File) -> String {
    let mut text = [0; 16];
    let read = lock.read_at(&mut text, 0).unwrap_or(0);
    let process = String::from_utf8_lossy(&text[..read]).trim().parse::<u32>();
    process.map_or_else(|_| String::new(), |process| format!(" (process {process})"))
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
    cache.check()?;
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
pub(crate) fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
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
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

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
    fn links_in_place_of_the_caches_own_files_are_not_followed() {
        for name in [TAG.0, "lock"] {
            let (dir, cache) = cache();
            let other = tempfile::NamedTempFile::new().unwrap();
            std::os::unix::fs::symlink(other.path(), dir.path().join(name)).unwrap();
            let error = cache.exclusive(&mut |_| {}).unwrap_err();
            assert!(error.message().starts_with("cannot use the cache"), "{error}");
            assert_eq!(other.as_file().metadata().unwrap().len(), 0);
        }
    }

    #[test]
    fn a_cache_that_another_user_can_change_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let (dir, cache) = cache();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(cache.exclusive(&mut |_| {}), Err(ImageError::NotOurs { .. })));
        assert!(matches!(clean(&cache), Err(ImageError::NotOurs { .. })));
        assert!(entries(dir.path()).unwrap().is_empty(), "nothing is put there");
    }

    #[test]
    fn what_was_not_used_for_long_is_swept_unless_it_is_in_use() {
        let (_dir, cache) = cache();
        drop(cache.exclusive(&mut |_| {}).unwrap());
        let (image, emulator) = (cache.images().join("arm64-6.12/0123"), cache.emulators().join("arm64/0123"));
        for description in [image.join("image.json"), emulator.join("emulator.json")] {
            put(&description, "{}");
        }
        let age = |place: &Path, name: &str| {
            File::open(place.join(name)).unwrap().set_modified(SystemTime::now() - UNUSED).unwrap();
        };
        cache.tidy(&mut |text| panic!("{text}"));
        assert!(image.exists() && emulator.exists(), "they are new");
        age(&image, "image.json");
        age(&emulator, "emulator.json");
        let used = File::open(image.join("image.json")).unwrap();
        used.lock_shared().unwrap();
        let changing = cache.exclusive(&mut |_| {}).unwrap();
        assert!(image.exists() && !emulator.exists(), "an image that is in use, and an emulator that is not");
        drop(used);
        cache.tidy(&mut |text| panic!("{text}"));
        assert!(image.exists(), "another memgate is changing the cache");
        drop(changing);
        cache.tidy(&mut |text| panic!("{text}"));
        assert!(!image.exists());
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
    fn a_memgate_that_waits_ends_at_a_stop_and_leaves_the_lock() {
        let (_dir, mut cache) = cache();
        let first = cache.exclusive(&mut |_| {}).unwrap();
        let flag = Arc::new(AtomicBool::new(false));
        cache.stop = Arc::clone(&flag).into();
        let error = cache.exclusive(&mut |_| flag.store(true, Ordering::Relaxed)).unwrap_err();
        assert!(error.is_interruption(), "{error}");
        cache.stop = Stop::default();
        drop(first);
        drop(cache.exclusive(&mut |text| panic!("{text}")).unwrap());
    }

    #[test]
    fn second_memgate_waits_for_the_first() {
        let (_dir, cache) = cache();
        let first = cache.exclusive(&mut |_| {}).unwrap();
        let (said, heard) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| cache.exclusive(&mut |text| said.send(text.to_owned()).unwrap()).unwrap());
            let own = std::process::id();
            let waits = format!("waiting for another memgate (process {own}), which is changing the cache");
            assert_eq!(heard.recv().unwrap(), waits);
            assert!(!second.is_finished());
            drop(first);
            second.join().unwrap();
        });
    }
}
