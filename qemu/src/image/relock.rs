//! Updates the lock to the archive's current packages.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    path::Path,
};

use super::{
    build::{packages, successor, unpack},
    cache::Cache,
    error::ImageError,
    kernels::Kernel,
    lock::{Lock, LockedKernel},
    shell,
};
use crate::{
    architecture::Architecture,
    debian::{Debian, DebianError, Pin, Record, Suite, unfinished},
    emulator,
};

/// The lock of the cache, updated with the archive's current packages of these kernels, of the shells for their
/// architectures, and of QEMU for these machines. The packages of kernels and of QEMU are fetched into the cache to see
/// which modules a guest needs, and which libraries QEMU needs. Signatures are checked. `say` receives messages about
/// slow steps.
///
/// # Errors
/// When a package is not available, lacks what it should contain, or is of another kernel release than the table says.
pub fn relock(
    cache: &Cache,
    kernels: &[&Kernel],
    hosts: &[Architecture],
    mirror: Option<&str>,
    say: &mut dyn FnMut(&str),
) -> Result<Lock, ImageError> {
    let _exclusive = cache.exclusive(say)?;
    let debian = Debian::new(mirror)?.stopped_by(&cache.stop);
    let work = unfinished(&cache.dir)?;
    let mut suites = Suites { debian: &debian, work: work.path(), known: BTreeMap::new() };
    let mut locked = Vec::new();
    for kernel in kernels {
        let suite = suites.open(kernel.suite, kernel.architecture.name(), say)?;
        let found = resolve(kernel, &mut |package| suite.record(package))?;
        locked.push(lock(cache, kernel, found, mirror, say)?);
    }
    let architectures: BTreeSet<_> = kernels.iter().map(|kernel| kernel.architecture.name()).collect();
    let mut shells = Vec::new();
    for architecture in architectures {
        shells.push(suites.open(shell::SUITE, architecture, say)?.record(shell::PACKAGE)?.pin);
    }
    let mut emulators = Vec::new();
    for host in hosts {
        let suite = suites.open(emulator::SUITE, host.name(), say)?;
        emulators.push(emulator::lock(cache, *host, suite, mirror, say)?);
    }
    Ok(cache.lock.clone().with(locked, shells, emulators))
}

/// Indices, each read once.
struct Suites<'a> {
    debian: &'a Debian,
    work: &'a Path,
    known: BTreeMap<(&'static str, &'static str), Suite<'a>>,
}

impl<'a> Suites<'a> {
    fn open(
        &mut self,
        suite: &'static str,
        architecture: &'static str,
        say: &mut dyn FnMut(&str),
    ) -> Result<&Suite<'a>, DebianError> {
        match self.known.entry((suite, architecture)) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => {
                say(&format!("reading the index of {suite} for {architecture}"));
                Ok(unknown.insert(self.debian.suite(suite, architecture, self.work)?))
            }
        }
    }
}

/// A kernel's current packages in the index.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    release: String,
    image: Pin,
    /// The packages with the list of built-in modules and with the modules, if they are not in the image's package.
    modules: Option<[Pin; 2]>,
    firmware: Option<Pin>,
}

/// Follows the package that depends on the newest kernel to those that contain it.
fn resolve(kernel: &Kernel, record: &mut dyn FnMut(&str) -> Result<Record, DebianError>) -> Result<Found, ImageError> {
    let newest = record(kernel.package)?;
    let named = dependency(&newest, "linux-image-").unwrap_or("nothing");
    let release = named.strip_prefix("linux-image-").unwrap_or_default();
    if !release.starts_with(&format!("{}.", kernel.release)) {
        return Err(ImageError::OtherRelease {
            package: kernel.package.into(),
            suite: kernel.suite.into(),
            release: kernel.release.into(),
            found: named.into(),
        });
    }
    let image = record(named)?;
    let mut pin = |name: &str| record(name).map(|record| record.pin);
    let firmware = kernel.firmware.map(|firmware| pin(firmware.package)).transpose()?;
    // Since Linux 7, Debian has separate packages for the parts.
    let part = |part: &str| image.depends.iter().find(|name| **name == format!("linux-{part}-{release}"));
    let (image, modules) = match (part("binary"), part("base"), part("modules")) {
        (Some(binary), Some(base), Some(modules)) => (pin(binary)?, Some([pin(base)?, pin(modules)?])),
        _ => (image.pin, None),
    };
    Ok(Found { release: release.into(), image, modules, firmware })
}

fn dependency<'a>(record: &'a Record, prefix: &str) -> Option<&'a str> {
    record.depends.iter().map(String::as_str).find(|name| name.starts_with(prefix))
}

/// Finds the modules that a guest needs, and locks the packages with modules only if it needs any.
fn lock(
    cache: &Cache,
    kernel: &Kernel,
    found: Found,
    mirror: Option<&str>,
    say: &mut dyn FnMut(&str),
) -> Result<LockedKernel, ImageError> {
    let Found { release, image, modules, firmware } = found;
    let mut pins: Vec<Pin> = [image].into_iter().chain(firmware).collect();
    let mut needed = |pins: &[Pin]| {
        let files = packages(cache, pins, &|pin| successor(kernel, pin), mirror, say)?;
        let work = unfinished(&cache.dir)?;
        unpack(kernel, &release, &files, &work.path().join("root"), &cache.stop)?.modules()
    };
    let modules = match modules {
        None => needed(&pins)?,
        Some([base, modules]) => {
            let told: Vec<_> = pins.iter().cloned().chain([base]).collect();
            match needed(&told) {
                Err(ImageError::NoModule { .. }) => {
                    pins = told;
                    pins.push(modules);
                    needed(&pins)?
                }
                other => other?,
            }
        }
    };
    let modules = modules.into_iter().map(|module| module.name).collect();
    Ok(LockedKernel { name: kernel.name(), release, modules, packages: pins })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::find;

    /// An index with packages and their dependencies.
    fn index<'a>(packages: &'a [(&str, &str)]) -> impl FnMut(&str) -> Result<Record, DebianError> + 'a {
        |name| {
            let missing =
                || DebianError::NoPackage { suite: "s".into(), architecture: "a".into(), package: name.into() };
            let (_, depends) = packages.iter().find(|(package, _)| *package == name).ok_or_else(missing)?;
            let pin = Pin {
                suite: "s".into(),
                architecture: "a".into(),
                package: name.into(),
                version: "1".into(),
                sha256: String::new(),
                size: 0,
                file: String::new(),
            };
            Ok(Record { pin, depends: depends.split_whitespace().map(Into::into).collect() })
        }
    }

    fn found(architecture: Architecture, release: &str, packages: &[(&str, &str)]) -> Result<Vec<String>, String> {
        let kernel = find(architecture, Some(release), None)?;
        let found = resolve(kernel, &mut index(packages)).map_err(|error| error.message())?;
        let pins = [found.image].into_iter().chain(found.modules.into_iter().flatten()).chain(found.firmware);
        Ok([found.release].into_iter().chain(pins.map(|pin| pin.package)).collect())
    }

    #[test]
    fn old_kernels_are_one_package() {
        let packages = [
            ("linux-image-cloud-arm64", "linux-image-5.10.0-32-cloud-arm64"),
            ("linux-image-5.10.0-32-cloud-arm64", "kmod linux-base"),
        ];
        let expected = ["5.10.0-32-cloud-arm64", "linux-image-5.10.0-32-cloud-arm64"];
        assert_eq!(found(Architecture::Arm64, "5.10", &packages).unwrap(), expected);
    }

    #[test]
    fn new_kernels_are_several_packages() {
        let packages = [
            ("linux-image-loong64", "linux-base-loong64 linux-image-7.2.12-loong64"),
            (
                "linux-image-7.2.12-loong64",
                "linux-base-7.2.12-loong64 linux-binary-7.2.12-loong64 linux-modules-7.2.12-loong64",
            ),
            ("linux-base-7.2.12-loong64", ""),
            ("linux-binary-7.2.12-loong64", "linux-base-7.2.12-loong64"),
            ("linux-modules-7.2.12-loong64", "kmod"),
            ("qemu-efi-loongarch64", ""),
        ];
        let expected = [
            "7.2.12-loong64",
            "linux-binary-7.2.12-loong64",
            "linux-base-7.2.12-loong64",
            "linux-modules-7.2.12-loong64",
            "qemu-efi-loongarch64",
        ];
        assert_eq!(found(Architecture::Loong64, "7.2", &packages).unwrap(), expected);
        let error = found(Architecture::Loong64, "7.2", &packages[..5]).unwrap_err();
        assert!(error.contains("no package qemu-efi-loongarch64"), "{error}");
    }

    #[test]
    fn another_release_is_not_taken_for_the_wanted_one() {
        for named in ["linux-image-7.20.1-cloud-arm64", "linux-image-7.3.1-cloud-arm64", "kmod"] {
            let packages = [("linux-image-cloud-arm64", named), (named, "")];
            let error = found(Architecture::Arm64, "7.2", &packages).unwrap_err();
            assert!(error.contains("no longer is Linux 7.2"), "{error}");
        }
    }
}
