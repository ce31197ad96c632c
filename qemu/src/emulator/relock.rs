//! Selects the Debian packages from which QEMU is made.

use std::path::PathBuf;

use super::{DATA, libraries::libraries, library_directory, package};
use crate::{
    architecture::Architecture,
    debian::{Pin, Suite, unfinished},
    image::{Cache, ImageError, LockedEmulator, packages},
    package::unpack,
};

/// Selects the programs, their data and the packages of the libraries that they need. Most packages that Debian
/// installs with them serve other programs, such as those for users and passwords. Only with [`Cache::exclusive`].
///
/// # Errors
/// When a package is not available, or when no package contains a library.
pub(crate) fn lock(
    cache: &Cache,
    host: Architecture,
    suite: &Suite<'_>,
    mirror: Option<&str>,
    say: &mut dyn FnMut(&str),
) -> Result<LockedEmulator, ImageError> {
    let own: Vec<_> = Architecture::ALL.map(package).into_iter().chain(DATA.map(|(package, _)| package)).collect();
    let mut names = suite.closure(&own)?;
    // QEMU's other programs and their firmware are large and not needed.
    names.retain(|name| own.contains(&&**name) || !name.starts_with("qemu-"));
    names.sort();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let pins: Vec<_> = suite.records(&names)?.into_iter().map(|record| record.pin).collect();
    let files = packages(cache, &pins, &|pin| &pin.package, mirror, say)?;
    say(&format!("seeing which libraries QEMU needs on {host}"));
    let work = unfinished(&cache.dir)?;
    let root = |pin: &Pin| work.path().join(&pin.package);
    for (pin, file) in pins.iter().zip(files) {
        unpack(&file, &root(pin), &cache.stop)?;
    }
    let directories: Vec<_> = pins.iter().map(|pin| root(pin).join(library_directory(host))).collect();
    let mut needed: Vec<PathBuf> = Vec::new();
    for architecture in Architecture::ALL {
        let program = work.path().join(package(architecture)).join("usr/bin").join(architecture.emulator());
        needed.extend(libraries(&program, &directories)?.files.into_values());
    }
    let packages = pins
        .iter()
        .filter(|pin| own.contains(&&*pin.package) || needed.iter().any(|library| library.starts_with(root(pin))));
    Ok(LockedEmulator { host, packages: packages.cloned().collect() })
}
