//! `memgate image`: manages the images that guests start from.

use std::{fmt::Write as _, path::Path};

use memgate_agent::cancel::Cancel;
use memgate_evidence::{
    error::{InputError, Result},
    platform::{Platform, Runner},
};
use memgate_qemu::{
    emulator,
    image::{self, Image, KERNELS, Kernel},
};
use memgate_verdict::units;

use crate::{
    architecture::architecture,
    guest_runner::{agent, cache, kernel, of_image},
    narrator::Narrator,
    preflight,
};

/// The images to work on.
#[derive(Debug, Clone, Default)]
pub struct Which {
    /// The platforms. If there are none: those that need a guest on this machine.
    pub platforms: Vec<Platform>,
    /// The kernel release, such as `6.12`; the platform's usual kernel if there is none.
    pub kernel: Option<String>,
    /// The kernel's page size, bytes.
    pub page_size: Option<u64>,
    /// A mirror of Debian's archive; the machine's own if there is none.
    pub mirror: Option<String>,
}

/// Makes the images, and QEMU unless the system has a suitable one. Returns one line for each image.
///
/// # Errors
/// When there is no such kernel, agent or QEMU, when a package is not available, or when memgate is interrupted.
pub fn build(which: &Which, narrator: &Narrator, cancel: &Cancel) -> Result<String> {
    let needs_guest = |platform: &Platform| preflight::place(*platform, None).is_ok_and(|place| place == Runner::Qemu);
    let platforms: Vec<_> = match which.platforms.as_slice() {
        [] => Platform::ALL.into_iter().filter(needs_guest).collect(),
        named => named.to_vec(),
    };
    let (cache, mut lines) = (cache(cancel)?, String::new());
    for platform in platforms {
        let kernel = kernel(&format!("--platform {platform}"), platform, which.kernel.as_deref(), which.page_size)?;
        let mut say = |line: &str| narrator.say(&format!("{platform}: {line}"));
        let mirror = which.mirror.as_deref();
        emulator::find(&cache, architecture(platform), mirror, &mut say).map_err(of_image)?;
        let image = image::ensure(&cache, kernel, &agent(platform)?, mirror, &mut say);
        lines += &line(&image.map_err(of_image)?);
    }
    Ok(lines)
}

/// The images in the cache, one line each, and the available kernels.
///
/// # Errors
/// When the cache cannot be read.
pub fn list() -> Result<String> {
    let cache = cache(&Cancel::never())?;
    let images = image::list(&cache).map_err(of_image)?;
    let mut text = format!("In {}:\n", cache.dir.display());
    if images.is_empty() {
        text += "  no image yet; `memgate image build` makes one, and so does a check that needs it\n";
    }
    images.iter().for_each(|image| text += &line(image));
    text += "Kernels (`*` is the usual one of its platform):\n";
    for kernel in KERNELS {
        let usual = if kernel.is_default { "*" } else { " " };
        let _ = writeln!(
            text,
            "  {usual} {}: linux/{} {}, pages of {} KiB",
            kernel.name(),
            kernel.architecture,
            kernel.release,
            kernel.page_size >> 10
        );
    }
    Ok(text)
}

fn line(image: &Image) -> String {
    let files = [&image.kernel, &image.initramfs].into_iter().chain(&image.firmware);
    let bytes: u64 = files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum();
    #[expect(clippy::cast_precision_loss, reason = "a size for a person")]
    let size = units::format(bytes as f64, memgate_verdict::metric::Unit::Bytes);
    format!(
        "  {}: Linux {}, {size}, {}\n",
        image.name,
        image.kernel_release,
        &image.digest[..16.min(image.digest.len())]
    )
}

/// Empties the cache and returns how much space that freed.
///
/// # Errors
/// When the directory is not memgate's, when something cannot be removed, or when memgate is interrupted.
pub fn clean(cancel: &Cancel) -> Result<String> {
    let cache = cache(cancel)?;
    let freed = image::clean(&cache).map_err(of_image)?;
    Ok(format!("{}: {} MiB freed\n", cache.dir.display(), freed >> 20))
}

/// Looks up the newest packages in the archive for every kernel and QEMU, or for the named kernels, and writes `file`
/// for review.
///
/// # Errors
/// When a package is not available, when the file cannot be written, or when memgate is interrupted.
pub fn lock(which: &Which, file: &Path, narrator: &Narrator, cancel: &Cancel) -> Result<String> {
    let is_named = |kernel: &&Kernel| {
        let platforms = which.platforms.iter().map(|platform| architecture(*platform));
        (which.platforms.is_empty() || platforms.into_iter().any(|architecture| architecture == kernel.architecture))
            && which.kernel.as_ref().is_none_or(|release| release == kernel.release)
            && which.page_size.is_none_or(|size| size == kernel.page_size)
    };
    let kernels: Vec<_> = KERNELS.iter().filter(is_named).collect();
    if kernels.is_empty() {
        return Err(InputError::new("no kernel matches", "`memgate image list` shows the available kernels").into());
    }
    let hosts = if kernels.len() == KERNELS.len() { &emulator::HOSTS[..] } else { &[] };
    let mut say = |line: &str| narrator.say(line);
    let lock = image::relock(&cache(cancel)?, &kernels, hosts, which.mirror.as_deref(), &mut say).map_err(of_image)?;
    lock.write(file).map_err(of_image)?;
    Ok(format!("{}\n", file.display()))
}
