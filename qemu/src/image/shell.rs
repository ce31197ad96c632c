//! A shell for users in a guest, in an archive of its own. The image of measured guests does not contain it.

use std::{
    fs::Permissions,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
};

use tempfile::NamedTempFile;

use super::{Image, build::packages, cache::Cache, error::ImageError, initramfs};
use crate::{debian::unfinished, package::unpack};

/// The suite of Debian that has the shell for every architecture, by its codename. It is the suite of their usual
/// kernels.
pub(super) const SUITE: &str = "forky";
/// The package: one static program that is a shell and about a hundred other commands.
pub(super) const PACKAGE: &str = "busybox-static";
/// The program in the package.
const PROGRAM: &str = "usr/bin/busybox";

/// An image's first file system followed by a shell, in a file that is removed when this is dropped.
#[derive(Debug)]
pub struct Shelled(NamedTempFile);

impl Shelled {
    /// The file, for a guest's `initramfs`.
    pub fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

/// Appends a shell to a copy of an image's first file system. The kernel unpacks one archive after the other. The
/// shell's package is fetched like those of the image.
///
/// # Errors
/// When the package is not available, or when there is no space for the file.
pub fn with_shell(
    cache: &Cache,
    image: &Image,
    mirror: Option<&str>,
    say: &mut dyn FnMut(&str),
) -> Result<Shelled, ImageError> {
    let pin = cache.lock.shell(image.architecture)?;
    let program = {
        let _exclusive = cache.exclusive(say)?;
        let packages = packages(cache, std::slice::from_ref(pin), &|pin| &pin.package, mirror, say)?;
        let work = unfinished(&cache.dir)?;
        let root = work.path();
        for package in packages {
            unpack(&package, root, &cache.stop)?;
        }
        let missing = |_| ImageError::NoFile { kernel: pin.package.clone(), what: PROGRAM.to_owned() };
        std::fs::read(root.join(PROGRAM)).map_err(missing)?
    };
    let write = || -> io::Result<Shelled> {
        let mut file = tempfile::Builder::new().prefix("memgate-shell-").tempfile()?;
        let first = std::fs::read(&image.initramfs)?;
        file.write_all(&first)?;
        // An archive begins at a multiple of 4 (Documentation/driver-api/early-userspace/buffer-format.rst).
        file.write_all(&[0; 3][..first.len().next_multiple_of(4) - first.len()])?;
        file.write_all(&initramfs::shell(&program)?)?;
        file.flush()?;
        // QEMU, which is another user, reads it.
        file.as_file().set_permissions(Permissions::from_mode(0o644))?;
        Ok(Shelled(file))
    };
    write().map_err(|error| ImageError::io("append a shell to the guest's first file system", error))
}
