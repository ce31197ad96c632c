//! The images that guests are started from: a kernel of Debian's, and the agent as its first process.

mod agent;
mod build;
mod cache;
mod error;
mod initramfs;
mod kernels;
mod lock;
mod modules;
mod relock;
mod shell;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(crate) use self::build::{packages, put, supersede};
pub use self::{
    agent::Agent,
    build::ensure,
    cache::{Cache, clean, list},
    error::ImageError,
    kernels::{Firmware, KERNELS, Kernel, find},
    lock::{Lock, LockedEmulator, LockedKernel},
    relock::relock,
    shell::{Shelled, with_shell},
};
use crate::{
    architecture::Architecture,
    debian::{hex, sha256},
};

/// What a guest is started from. While it lives, no memgate removes the files.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// The kernel's, as [`Kernel::name`] gives it.
    pub name: String,
    /// The guest's.
    pub architecture: Architecture,
    /// As `uname -r` gives it.
    pub kernel_release: String,
    /// Bytes.
    pub page_size: u64,
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The first file system, with the agent.
    pub initramfs: PathBuf,
    /// What starts the kernel where QEMU cannot do it itself.
    pub firmware: Option<PathBuf>,
    /// SHA-256 of all files together, in hexadecimal.
    pub digest: String,
    #[serde(skip)]
    lease: Option<Arc<File>>,
}

/// The file that describes an image, beside its other files.
const DESCRIPTION: &str = "image.json";

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.digest, &self.kernel) == (&other.name, &other.digest, &other.kernel)
    }
}

impl Image {
    /// Where snapshots of its guests lie. They are removed with it.
    pub fn snapshots(&self) -> PathBuf {
        self.kernel.with_file_name("snapshots")
    }

    /// Reads the description of the image in a directory, if there is one. Its files are not looked at.
    fn read(place: &Path) -> Option<Self> {
        let file = File::open(place.join(DESCRIPTION)).ok()?;
        // One that is being removed is held exclusively.
        file.try_lock_shared().ok()?;
        let mut image: Self = serde_json::from_reader(io::BufReader::new(&file)).ok()?;
        if !place.join(DESCRIPTION).exists() {
            return None;
        }
        for path in [&mut image.kernel, &mut image.initramfs].into_iter().chain(&mut image.firmware) {
            *path = place.join(&*path);
        }
        image.lease = Some(Arc::new(file));
        Some(image)
    }

    /// Whether the files are those that the image was made with.
    fn is_intact(&self) -> bool {
        digest(&self.kernel, &self.initramfs, self.firmware.as_deref()).is_ok_and(|digest| digest == self.digest)
    }
}

fn digest(kernel: &Path, initramfs: &Path, firmware: Option<&Path>) -> io::Result<String> {
    let mut all = Sha256::new();
    for (what, path) in [("kernel", Some(kernel)), ("initramfs", Some(initramfs)), ("firmware", firmware)] {
        if let Some(path) = path {
            all.update(format!("{what} {}\n", sha256(path)?.0));
        }
    }
    Ok(hex(&all.finalize()))
}
