//! Makes an image, once.

use std::{
    fs::{File, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use bytesize::ByteSize;
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use super::{
    DESCRIPTION, Image,
    agent::Agent,
    cache::{self, Cache, touch},
    digest,
    error::ImageError,
    initramfs::initramfs,
    kernels::Kernel,
    lock::LockedKernel,
    modules::{self, Module},
};
use crate::{
    debian::{Debian, DebianError, Pin, hex, is_unfinished, unfinished},
    package,
    stop::Stop,
};

/// The version of the result for the same packages and the same agent. It must change with every change of
/// [`initramfs`] or of the description.
const FORMAT: u32 = 1;

/// The names of an image's files.
const KERNEL: &str = "kernel";
const INITRAMFS: &str = "initramfs";
const FIRMWARE: &str = "firmware";

/// The image of a kernel with an agent. If the cache does not have it, this makes it and removes the kernel's other
/// unused images. The agent is an executable for the kernel's architecture. Packages are fetched from `mirror`, or else
/// from the mirror of Debian that this machine's package manager uses. `say` receives messages about slow steps.
///
/// # Errors
/// When the agent cannot run in such a guest, when a package is not available, or when the cache cannot be written.
pub fn ensure(
    cache: &Cache,
    kernel: &Kernel,
    agent: &Path,
    mirror: Option<&str>,
    say: &mut dyn FnMut(&str),
) -> Result<Image, ImageError> {
    let agent = Agent::read(agent, kernel.architecture)?;
    let locked = cache.lock.kernel(kernel)?;
    let place = cache.images().join(kernel.name()).join(key(locked, &agent));
    cache.check()?;
    if let Some(image) = Image::read(&place).filter(Image::is_intact) {
        image.lease.as_deref().map(touch);
        cache.tidy(say);
        return Ok(image);
    }
    let _exclusive = cache.exclusive(say)?;
    // Another memgate may have made it meanwhile.
    if let Some(image) = Image::read(&place).filter(Image::is_intact) {
        return Ok(image);
    }
    if place.exists() {
        say(&format!("the image of {} in the cache is damaged", kernel.name()));
    }
    build(cache, kernel, locked, &agent, &place, mirror, say)?;
    let unreadable = || ImageError::io(format!("read back {}", place.display()), io::ErrorKind::InvalidData.into());
    Image::read(&place).ok_or_else(unreadable)
}

/// The name of an image's directory. Equal contents have equal names.
fn key(locked: &LockedKernel, agent: &Agent) -> String {
    let mut all = Sha256::new();
    all.update(format!("{FORMAT} {} {}\n", locked.name, locked.release));
    for part in locked.packages.iter().map(|pin| &pin.sha256).chain(&locked.modules).chain([&agent.sha256]) {
        all.update(format!("{part}\n"));
    }
    hex(&all.finalize())[..16].to_owned()
}

/// Makes the image and moves it into place. Only with [`Cache::exclusive`].
fn build(
    cache: &Cache,
    kernel: &Kernel,
    locked: &LockedKernel,
    agent: &Agent,
    place: &Path,
    mirror: Option<&str>,
    say: &mut dyn FnMut(&str),
) -> Result<(), ImageError> {
    let siblings = cache.images().join(kernel.name());
    let packages = packages(cache, &locked.packages, &|pin| successor(kernel, pin), mirror, say)?;
    say(&format!("making the image of {}", kernel.name()));
    let work = unfinished(&siblings)?;
    let parts = unpack(kernel, &locked.release, &packages, &work.path().join("root"), &cache.stop)?;
    let modules = if locked.modules.is_empty() { Vec::new() } else { parts.modules()? };
    if !modules.iter().map(|module| &module.name).eq(&locked.modules) {
        return Err(ImageError::BadLock {
            why: format!("its modules of {} are not those of its packages", kernel.name()),
        });
    }
    let whole = work.path().join("image");
    let write = || -> io::Result<()> {
        std::fs::create_dir(&whole)?;
        std::fs::rename(&parts.kernel, whole.join(KERNEL))?;
        if let Some(firmware) = &parts.firmware {
            std::fs::rename(firmware, whole.join(FIRMWARE))?;
        }
        std::fs::write(whole.join(INITRAMFS), initramfs(&agent.contents, &modules)?)?;
        describe(kernel, locked, &whole)?;
        put(&whole, place)?;
        supersede(&siblings, place)
    };
    write().map_err(|error| ImageError::io(format!("make the image {}", place.display()), error))
}

/// Writes the description of an image beside its files. Paths in it are relative, so that the cache can be moved.
fn describe(kernel: &Kernel, locked: &LockedKernel, whole: &Path) -> io::Result<()> {
    let firmware = kernel.firmware.map(|_| whole.join(FIRMWARE));
    let image = Image {
        name: kernel.name(),
        architecture: kernel.architecture,
        kernel_release: locked.release.clone(),
        page_size: kernel.page_size,
        kernel: KERNEL.into(),
        initramfs: INITRAMFS.into(),
        firmware: firmware.as_ref().map(|_| FIRMWARE.into()),
        digest: digest(&whole.join(KERNEL), &whole.join(INITRAMFS), firmware.as_deref())?,
        lease: None,
    };
    std::fs::write(whole.join(DESCRIPTION), serde_json::to_vec_pretty(&image)?)
}

/// Moves a complete directory into place. It replaces damaged contents. The directory is synced to the disk first, so a
/// crash of the machine leaves no half of it. QEMU, which may be another user, can read all of it, whatever the umask.
pub(crate) fn put(whole: &Path, place: &Path) -> io::Result<()> {
    for entry in WalkDir::new(whole) {
        let entry = entry?;
        if !entry.path_is_symlink() {
            let mode = if entry.file_type().is_dir() { 0o755 } else { entry.metadata()?.mode() & 0o755 | 0o444 };
            std::fs::set_permissions(entry.path(), Permissions::from_mode(mode))?;
        }
        File::open(entry.path())?.sync_all()?;
    }
    if place.exists() {
        std::fs::remove_dir_all(place)?;
    }
    std::fs::rename(whole, place)
}

/// Removes the unused directories beside a place, such as the other images of the same kernel.
pub(crate) fn supersede(siblings: &Path, place: &Path) -> io::Result<()> {
    for sibling in cache::entries(siblings)? {
        if sibling != place && !is_unfinished(&sibling) {
            cache::remove_unused(&sibling)?;
        }
    }
    Ok(())
}

/// The files of packages, from the cache if they are undamaged there. `successor` names the package whose version shows
/// what the mirror has instead of a pinned one. Only with [`Cache::exclusive`].
pub(crate) fn packages<'a>(
    cache: &Cache,
    pins: &'a [Pin],
    successor: &dyn Fn(&'a Pin) -> &'a str,
    mirror: Option<&str>,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<PathBuf>, ImageError> {
    let directory = cache.packages();
    let mut missing = Vec::new();
    for pin in pins {
        let file = directory.join(pin.file_name());
        if file.exists() {
            match pin.check(&file) {
                Ok(()) => continue,
                Err(DebianError::Differs { .. }) => say(&format!("{} in the cache is damaged", pin.file_name())),
                Err(other) => return Err(other.into()),
            }
        }
        missing.push(pin);
    }
    let told = |what: &str, size: u64| format!("fetching {what} ({})", ByteSize::b(size).display().si());
    let is_many = missing.len() > MANY;
    if is_many {
        say(&told(&format!("{} packages", missing.len()), missing.iter().map(|pin| pin.size).sum()));
    }
    let debian = if missing.is_empty() { None } else { Some(Debian::new(mirror)?.stopped_by(&cache.stop)) };
    for (pin, debian) in missing.into_iter().zip(debian.iter().cycle()) {
        if !is_many {
            say(&told(pin.file_name(), pin.size));
        }
        debian.fetch(pin, successor(pin), &directory)?;
    }
    Ok(pins.iter().map(|pin| directory.join(pin.file_name())).collect())
}

/// From this number of packages on, messages do not name each one.
const MANY: usize = 8;

/// The package whose version shows what the mirror has instead of the pinned one.
pub(super) fn successor<'a>(kernel: &'a Kernel, pin: &'a Pin) -> &'a str {
    match kernel.firmware {
        Some(firmware) if firmware.package == pin.package => firmware.package,
        _ => kernel.package,
    }
}

/// The parts of a kernel's packages for an image.
pub(super) struct Parts {
    kernel: PathBuf,
    firmware: Option<PathBuf>,
    /// The kernel's directory below `lib/modules`.
    modules: PathBuf,
}

/// Unpacks packages into `root` and finds the parts.
pub(super) fn unpack(
    kernel: &Kernel,
    release: &str,
    packages: &[PathBuf],
    root: &Path,
    stop: &Stop,
) -> Result<Parts, ImageError> {
    for package in packages {
        package::unpack(package, root, stop)?;
    }
    let first = |what: &str, places: &[String]| {
        let found = places.iter().map(|place| root.join(place)).find(|path| path.exists());
        found.ok_or_else(|| ImageError::NoFile { kernel: kernel.name(), what: what.to_owned() })
    };
    // Since Linux 7, Debian puts the image beside the modules. In old suites `/lib` is a separate directory.
    let directories = [format!("usr/lib/modules/{release}"), format!("lib/modules/{release}")];
    let images = [format!("{}/vmlinuz", directories[0]), format!("boot/vmlinuz-{release}")];
    Ok(Parts {
        kernel: first("image", &images)?,
        firmware: kernel.firmware.map(|firmware| first("firmware", &[firmware.file.to_owned()])).transpose()?,
        modules: first("modules", &directories)?,
    })
}

impl Parts {
    /// The modules that a guest needs.
    pub(super) fn modules(&self) -> Result<Vec<Module>, ImageError> {
        modules::needed(&self.modules)
    }
}
