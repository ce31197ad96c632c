//! The images from which guests start: a kernel of Debian, and the agent as its first process.

mod agent;
mod build;
mod cache;
mod error;
mod initramfs;
mod kernels;
mod lock;
mod modules;
mod owner;
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

#[cfg(test)]
pub(crate) use self::cache::UNUSED;
#[cfg(feature = "guests")]
pub(crate) use self::cache::{entries, is_recent};
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
pub(crate) use self::{
    build::{packages, put, supersede},
    cache::touch,
    owner::is_readable,
};
use crate::{
    architecture::Architecture,
    debian::{hex, sha256},
};

/// The files from which a guest starts. While it exists, no memgate removes the files.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// The kernel's name, as from [`Kernel::name`].
    pub name: String,
    /// The guest's architecture.
    pub architecture: Architecture,
    /// The kernel's release, as from `uname -r`.
    pub kernel_release: String,
    /// The page size, bytes.
    pub page_size: u64,
    /// The kernel's image.
    pub kernel: PathBuf,
    /// The first file system, with the agent.
    pub initramfs: PathBuf,
    /// The firmware that starts the kernel, if QEMU cannot do so itself.
    pub firmware: Option<PathBuf>,
    /// SHA-256 of all files together, in hexadecimal.
    pub digest: String,
    #[serde(skip)]
    lease: Option<Arc<File>>,
}

/// The file that describes an image, beside its other files.
const DESCRIPTION: &str = "image.json";

/// The directory of snapshots, beside them.
const SNAPSHOTS: &str = "snapshots";

impl PartialEq for Image {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.digest, &self.kernel) == (&other.name, &other.digest, &other.kernel)
    }
}

impl Image {
    /// The directory of snapshots of its guests. They are removed with the image.
    pub fn snapshots(&self) -> PathBuf {
        self.kernel.with_file_name(SNAPSHOTS)
    }

    /// Reads the description of the image in a directory, if there is one. Does not check its files.
    fn read(place: &Path) -> Option<Self> {
        let file = File::open(place.join(DESCRIPTION)).ok()?;
        // An image that is being removed is locked exclusively.
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

    /// Whether the files are unchanged since the image was made, and QEMU can read them.
    fn is_intact(&self) -> bool {
        let mut files = [&self.kernel, &self.initramfs].into_iter().chain(&self.firmware);
        files.all(|file| is_readable(file))
            && digest(&self.kernel, &self.initramfs, self.firmware.as_deref()).is_ok_and(|digest| digest == self.digest)
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
