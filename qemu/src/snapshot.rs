//! Snapshots: a guest that has booted and waits, stored in a file.
//!
//! A snapshot is valid for one QEMU, one machine, one image and one build of memgate only. Its key is a hash of all of
//! them.

use std::{
    fs::{self, File},
    io::{self, Seek as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{
    errno::Errno,
    libc,
    unistd::{Whence, lseek},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    debian::hex,
    image::{Image, entries, is_recent, touch},
    machine::Machine,
};

/// Increase this when memgate can no longer communicate with guests that an older memgate saved.
const FORMAT: u32 = 2;

/// The file in a snapshot with the guest's memory and devices.
const MEMORY: &str = "memory";

/// The file in a snapshot that describes it.
const DESCRIPTION: &str = "snapshot.json";

/// How the name of a snapshot begins that is being made.
pub(crate) const DRAFT: &str = ".partial-";

/// A snapshot that is being made. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Draft {
    directory: tempfile::TempDir,
    /// Where the guest is saved, open for writing only.
    pub(crate) memory: File,
}

/// The place of a snapshot, which may not exist yet.
#[derive(Debug, Clone)]
pub struct Snapshot {
    directory: PathBuf,
    /// The directory of all snapshots of the image, locked: see [`sweep`].
    _lease: Option<Arc<File>>,
}

/// What is in [`DESCRIPTION`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    streams: Streams,
    /// The hash of the memory, as from [`digest`].
    sha256: String,
}

/// The numbers of the next frames, with which the guest and memgate continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Streams {
    pub(crate) to_agent: u32,
    pub(crate) from_agent: u32,
    pub(crate) from_init: u32,
}

impl Snapshot {
    /// The place for a machine that starts from this image and whose agent is of this build of memgate. It is beside the
    /// image, so the snapshot is removed with it. While this exists, no memgate sweeps the image's snapshots.
    ///
    /// A resumed agent does not say again of which build it is. So a memgate resumes only what one of its own build saved,
    /// after it had heard the agent.
    pub fn of(image: &Image, machine: &Machine, memgate: &str) -> Self {
        let place = image.snapshots();
        // Where the directory cannot be made, there is nothing to sweep, and saving fails.
        let leased = || {
            fs::create_dir_all(&place)?;
            let directory = File::open(&place)?;
            directory.lock_shared()?;
            Ok::<_, io::Error>(Arc::new(directory))
        };
        Self { _lease: leased().ok(), ..Self::within(&place, machine, &image.digest, memgate) }
    }

    fn within(directory: &Path, machine: &Machine, image: &str, memgate: &str) -> Self {
        let (version, build) = (machine.emulator.version.as_bytes(), machine.emulator.build.as_bytes());
        let mut hash = Sha256::new();
        let hardware = machine.hardware();
        let parts = hardware.iter().map(|argument| argument.as_encoded_bytes());
        let format = FORMAT.to_le_bytes();
        for part in parts.chain([image.as_bytes(), version, build, memgate.as_bytes(), &format]) {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let key: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Self { directory: directory.join(key), _lease: None }
    }

    /// Whether a complete snapshot exists. Does not look at its contents.
    pub fn exists(&self) -> bool {
        self.description().is_ok()
    }

    /// Removes the snapshot.
    ///
    /// # Errors
    /// When it exists and cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The numbers of the next frames, and the guest's memory and devices, open for reading from the start. Reads all of
    /// it to compare its hash.
    ///
    /// # Errors
    /// When the snapshot is not complete, or when its contents are not those that were saved.
    pub(crate) fn open(&self) -> io::Result<(Streams, File)> {
        let (file, Description { streams, sha256 }) = self.description()?;
        let memory = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(self.directory.join(MEMORY))?;
        if digest(&memory)? != sha256 {
            let why = format!("{} has changed since it was saved", self.directory.join(MEMORY).display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        touch(&file);
        Ok((streams, memory))
    }

    /// The description, which is written last: a directory with it is complete.
    fn description(&self) -> io::Result<(File, Description)> {
        let path = self.directory.join(DESCRIPTION);
        let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
        let description = serde_json::from_reader(io::BufReader::new(&file))?;
        Ok((file, description))
    }

    /// A directory for saving, beside the place to which it then moves.
    pub(crate) fn draft(&self) -> io::Result<Draft> {
        let parent = self.directory.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent)?;
        let directory = tempfile::Builder::new().prefix(DRAFT).tempdir_in(parent)?;
        // QEMU takes a file for writing only if it is open for nothing else.
        let memory = File::options().write(true).create_new(true).mode(0o600).open(directory.path().join(MEMORY))?;
        Ok(Draft { directory, memory })
    }

    /// Moves a draft with its `memory` into place.
    pub(crate) fn keep(&self, draft: Draft, streams: Streams) -> io::Result<()> {
        let draft = draft.directory;
        let sha256 = digest(&File::open(draft.path().join(MEMORY))?)?;
        fs::write(draft.path().join(DESCRIPTION), serde_json::to_vec(&Description { streams, sha256 })?)?;
        self.remove()?;
        // If another memgate was faster, its snapshot serves as well, and the draft is removed.
        match fs::rename(draft.path(), &self.directory) {
            Ok(()) => {
                let _gone = draft.keep();
                Ok(())
            }
            Err(_) if self.exists() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Removes from the snapshots of an image what nobody will use: half-made ones, those of a memgate that described them
/// otherwise, and those that were not used for two weeks. Leaves all of them if a memgate uses or makes one.
///
/// # Errors
/// When the directory cannot be read or something cannot be removed.
pub(crate) fn sweep(snapshots: &Path) -> io::Result<()> {
    let Ok(directory) = File::open(snapshots) else { return Ok(()) };
    if directory.try_lock().is_err() {
        return Ok(());
    }
    for place in entries(snapshots)? {
        let snapshot = Snapshot { directory: place.clone(), _lease: None };
        if !snapshot.description().is_ok_and(|(file, _)| is_recent(&file)) {
            if place.is_dir() { fs::remove_dir_all(place)? } else { fs::remove_file(place)? }
        }
    }
    Ok(())
}

/// Pieces of this many bytes are hashed, unless they are all zeros.
const PIECE: u64 = 1 << 16;

/// The SHA-256, in hexadecimal, of a file's length and of each piece that is not all zeros, with its place. Most of a
/// guest's memory is zeros, which the file system does not store: a copy may store them, and has the same hash.
fn digest(mut file: &File) -> io::Result<String> {
    let length = file.metadata()?.len();
    let (mut hash, mut bytes, mut at) = (Sha256::new(), vec![0; 1 << 16], 0);
    let zeros = bytes.clone();
    hash.update(length.to_le_bytes());
    while at < length {
        let data = match lseek(file, at.cast_signed(), Whence::SeekData) {
            Ok(data) => data.cast_unsigned(),
            // No data from here on.
            Err(Errno::ENXIO) => break,
            // The file system does not know.
            Err(_) => at,
        };
        at = data.max(at) / PIECE * PIECE;
        let wanted = usize::try_from(length - at).unwrap_or(zeros.len()).min(zeros.len());
        let piece = &mut bytes[..wanted];
        file.read_exact_at(piece, at)?;
        if *piece != zeros[..piece.len()] {
            hash.update(at.to_le_bytes());
            hash.update(&piece);
        }
        at += PIECE;
    }
    // QEMU reads on from here.
    file.rewind()?;
    Ok(hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        time::SystemTime,
    };

    use super::*;
    use crate::{architecture::Architecture, emulator::tests::emulator, image::UNUSED};

    fn machine(cpus: u32, version: &str, build: &str) -> Machine {
        let ([kernel, initramfs], emulator) = (["/k", "/i"].map(PathBuf::from), emulator(version, build));
        Machine {
            architecture: Architecture::Arm64,
            emulator,
            memory: 1 << 30,
            cpus,
            kernel,
            initramfs,
            firmware: None,
        }
    }

    #[test]
    fn whatever_a_snapshot_depends_on_is_in_its_key() {
        let of = |cpus, image, version, build, memgate| {
            Snapshot::within(Path::new("/cache"), &machine(cpus, version, build), image, memgate).directory
        };
        let one = of(2, "image", "10.0.13", "a", "m");
        assert_eq!(one, of(2, "image", "10.0.13", "a", "m"));
        let others = [
            (1, "image", "10.0.13", "a", "m"),
            (2, "image2", "10.0.13", "a", "m"),
            (2, "image", "10.0.14", "a", "m"),
            (2, "image", "10.0.13", "b", "m"),
            (2, "image", "10.0.13", "a", "n"),
        ];
        for (cpus, image, version, build, memgate) in others {
            assert_ne!(one, of(cpus, image, version, build, memgate), "{cpus} {image} {version} {build} {memgate}");
        }
    }

    #[test]
    fn half_a_snapshot_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let snapshot = Snapshot::within(directory.path(), &machine(2, "10.0.13", ""), "image", "m");
        let mut draft = snapshot.draft().unwrap();
        draft.memory.write_all(b"pages").unwrap();
        assert!(!snapshot.exists());
        snapshot.keep(draft, Streams { to_agent: 0, from_agent: 1, from_init: 3 }).unwrap();
        assert!(snapshot.exists());
        let (streams, mut memory) = snapshot.open().unwrap();
        let mut pages = String::new();
        memory.read_to_string(&mut pages).unwrap();
        assert_eq!((streams.from_init, &*pages), (3, "pages"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        snapshot.remove().unwrap();
        assert!(!snapshot.exists());
    }

    /// A directory of snapshots, and one in it.
    fn kept() -> (tempfile::TempDir, Snapshot) {
        let directory = tempfile::tempdir().unwrap();
        let snapshot = Snapshot::within(directory.path(), &machine(2, "10.0.13", ""), "image", "m");
        let mut draft = snapshot.draft().unwrap();
        draft.memory.write_all(b"pages").unwrap();
        draft.memory.set_len(3 * PIECE).unwrap();
        snapshot.keep(draft, Streams { to_agent: 0, from_agent: 1, from_init: 3 }).unwrap();
        (directory, snapshot)
    }

    #[test]
    fn a_snapshot_that_has_changed_is_not_used() {
        let (_directory, snapshot) = kept();
        snapshot.open().unwrap();
        let path = snapshot.directory.join(MEMORY);
        let memory = File::options().write(true).open(&path).unwrap();
        let refused = || snapshot.open().unwrap_err().to_string().ends_with("memory has changed since it was saved");
        // A copy that stores the zeros is the same.
        memory.write_all_at(&[0; 100], 2 * PIECE).unwrap();
        snapshot.open().unwrap();
        for (byte, at) in [(b'P', 0), (1, 2 * PIECE + 5)] {
            let mut before = [0];
            File::open(&path).unwrap().read_exact_at(&mut before, at).unwrap();
            memory.write_all_at(&[byte], at).unwrap();
            assert!(refused(), "{at}");
            memory.write_all_at(&before, at).unwrap();
            snapshot.open().unwrap();
        }
        memory.set_len(3 * PIECE + 1).unwrap();
        assert!(refused(), "it is longer");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(snapshot.open().is_err(), "it is a link");
    }

    #[test]
    fn what_nobody_will_use_is_swept() {
        let (directory, snapshot) = kept();
        let half = directory.path().join(".partial-x");
        fs::create_dir(&half).unwrap();
        let older = directory.path().join("0123");
        fs::create_dir(&older).unwrap();
        fs::write(older.join("streams.json"), "{}").unwrap();
        fs::write(directory.path().join("stray"), "").unwrap();
        let used = File::open(directory.path()).unwrap();
        used.lock_shared().unwrap();
        sweep(directory.path()).unwrap();
        assert!(half.exists() && older.exists(), "a memgate uses one of them");
        drop(used);
        sweep(directory.path()).unwrap();
        assert!(snapshot.exists());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        let described = File::open(snapshot.directory.join(DESCRIPTION)).unwrap();
        described.set_modified(SystemTime::now() - UNUSED).unwrap();
        snapshot.open().unwrap();
        sweep(directory.path()).unwrap();
        assert!(snapshot.exists(), "it was used a moment ago");
        described.set_modified(SystemTime::now() - UNUSED).unwrap();
        sweep(directory.path()).unwrap();
        assert!(!snapshot.exists());
    }
}
