//! Snapshots: a guest that has booted and waits, stored in a file.
//!
//! A snapshot is valid for one QEMU, one machine, one image and one build of memgate only. Its key is a hash of all of
//! them.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{image::Image, machine::Machine};

/// Increase this when memgate can no longer communicate with guests that an older memgate saved.
const FORMAT: u32 = 1;

/// The file in a snapshot with the guest's memory and devices.
const MEMORY: &str = "memory";

/// A snapshot that is being made. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Draft {
    directory: tempfile::TempDir,
    /// Where the guest is saved, open for writing only.
    pub(crate) memory: File,
}

/// The place of a snapshot, which may not exist yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    directory: PathBuf,
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
    /// image, so the snapshot is removed with it.
    ///
    /// A resumed agent does not say again of which build it is. So a memgate resumes only what one of its own build saved,
    /// after it had heard the agent.
    pub fn of(image: &Image, machine: &Machine, memgate: &str) -> Self {
        Self::within(&image.snapshots(), machine, &image.digest, memgate)
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
        Self { directory: directory.join(key) }
    }

    /// Whether a complete snapshot exists.
    pub fn exists(&self) -> bool {
        self.streams().is_ok()
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

    /// The guest's memory and devices, open for reading.
    pub(crate) fn memory(&self) -> io::Result<File> {
        File::open(self.directory.join(MEMORY))
    }

    /// Written last, so a directory with this file is complete.
    pub(crate) fn streams(&self) -> io::Result<Streams> {
        let text = fs::read(self.directory.join("streams.json"))?;
        serde_json::from_slice(&text).map_err(io::Error::from)
    }

    /// A directory for saving, beside the place to which it then moves.
    pub(crate) fn draft(&self) -> io::Result<Draft> {
        let parent = self.directory.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(parent)?;
        let directory = tempfile::Builder::new().prefix(".partial-").tempdir_in(parent)?;
        // QEMU takes a file for writing only if it is open for nothing else.
        let memory = File::options().write(true).create_new(true).mode(0o600).open(directory.path().join(MEMORY))?;
        Ok(Draft { directory, memory })
    }

    /// Moves a draft with its `memory` into place.
    pub(crate) fn keep(&self, draft: Draft, streams: Streams) -> io::Result<()> {
        let draft = draft.directory;
        fs::write(draft.path().join("streams.json"), serde_json::to_vec(&streams)?)?;
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::{architecture::Architecture, emulator::tests::emulator};

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
            Snapshot::within(Path::new("/cache"), &machine(cpus, version, build), image, memgate)
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
        assert_eq!(snapshot.streams().unwrap().from_init, 3);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        snapshot.remove().unwrap();
        assert!(!snapshot.exists());
    }
}
