//! The lock: the exact files from which the guests' images are made.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{error::ImageError, kernels::Kernel};
use crate::{architecture::Architecture, debian::Pin};

/// The version of the lock's format.
const VERSION: u32 = 3;

const HEADER: &str = "\
# The files that memgate's guests and their QEMU are made of, from Debian's archive. Written by `memgate image lock`, which asks
# a mirror for what it has now; a person reviews the difference.
";

/// The sources of the guests' images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    version: u32,
    /// Sorted by name.
    kernels: Vec<LockedKernel>,
    /// The package of the shell for each architecture, sorted by architecture. No measured guest contains it.
    shells: Vec<Pin>,
    /// QEMU for each machine for which it is pinned, sorted by machine.
    emulators: Vec<LockedEmulator>,
}

/// The sources of QEMU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedEmulator {
    /// The architecture of the machine that it runs on.
    pub host: Architecture,
    /// The programs for guests of every architecture, their data, and their libraries, sorted by name.
    pub packages: Vec<Pin>,
}

/// The sources of one kernel's images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedKernel {
    /// The name, as from [`Kernel::name`].
    pub name: String,
    /// The release, as from `uname -r`.
    pub release: String,
    /// The modules that a guest loads, in their order; empty if everything is built in.
    pub modules: Vec<String>,
    /// The files.
    pub packages: Vec<Pin>,
}

/// The only field that every version of the format has.
#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
}

impl Lock {
    /// The lock that is built into memgate.
    ///
    /// # Errors
    /// When it cannot be understood.
    pub fn embedded() -> Result<Self, ImageError> {
        Self::parse(include_str!("../../images.lock"))
    }

    /// Reads a lock from a file.
    ///
    /// # Errors
    /// When it cannot be read or understood.
    pub fn read(path: &Path) -> Result<Self, ImageError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ImageError::BadLock { why: format!("cannot read {}: {error}", path.display()) })?;
        Self::parse(&text)
    }

    /// Writes the lock to a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), ImageError> {
        std::fs::write(path, self.text()?).map_err(|error| ImageError::io(format!("write {}", path.display()), error))
    }

    /// The lock's text. The same lock gives the same text.
    ///
    /// # Errors
    /// When YAML cannot represent it.
    pub fn text(&self) -> Result<String, ImageError> {
        let yaml = serde_yaml::to_string(self).map_err(|error| ImageError::BadLock { why: error.to_string() })?;
        Ok(format!("{HEADER}{yaml}"))
    }

    /// Parses a lock.
    ///
    /// # Errors
    /// When it has another version, or cannot be understood.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let bad = |why: String| ImageError::BadLock { why };
        let AnyVersion { version } = serde_yaml::from_str(text).map_err(|error| bad(error.to_string()))?;
        if version != VERSION {
            return Err(bad(format!("it is of version {version}, and this memgate knows version {VERSION}")));
        }
        let lock: Self = serde_yaml::from_str(text).map_err(|error| bad(error.to_string()))?;
        let emulators = lock.emulators.iter().flat_map(|emulator| &emulator.packages);
        for pin in lock.kernels.iter().flat_map(|kernel| &kernel.packages).chain(&lock.shells).chain(emulators) {
            check(pin).map_err(bad)?;
        }
        Ok(lock)
    }

    /// The sources of a kernel's images.
    ///
    /// # Errors
    /// When the lock does not contain the kernel.
    pub fn kernel(&self, kernel: &Kernel) -> Result<&LockedKernel, ImageError> {
        let name = kernel.name();
        self.kernels.iter().find(|locked| locked.name == name).ok_or(ImageError::NotLocked { name })
    }

    /// The package of the shell for an architecture.
    ///
    /// # Errors
    /// When the lock does not contain it.
    pub fn shell(&self, architecture: Architecture) -> Result<&Pin, ImageError> {
        let found = self.shells.iter().find(|pin| pin.architecture == architecture.name());
        found.ok_or(ImageError::NoShell { architecture })
    }

    /// The sources of QEMU for this machine, if the lock has them.
    pub fn emulator(&self, host: Architecture) -> Option<&LockedEmulator> {
        self.emulators.iter().find(|locked| locked.host == host)
    }

    /// Every kernel in the lock, sorted by name.
    pub fn kernels(&self) -> &[LockedKernel] {
        &self.kernels
    }

    /// A lock in which these kernels, shells and emulators replace those with the same names, architectures and
    /// machines.
    pub(super) fn with(mut self, kernels: Vec<LockedKernel>, shells: Vec<Pin>, emulators: Vec<LockedEmulator>) -> Self {
        self.kernels.retain(|old| kernels.iter().all(|new| new.name != old.name));
        self.kernels.extend(kernels);
        self.kernels.sort_by(|a, b| a.name.cmp(&b.name));
        self.shells.retain(|old| shells.iter().all(|new| new.architecture != old.architecture));
        self.shells.extend(shells);
        self.shells.sort_by(|a, b| a.architecture.cmp(&b.architecture));
        self.emulators.retain(|old| emulators.iter().all(|new| new.host != old.host));
        self.emulators.extend(emulators);
        self.emulators.sort_by_key(|emulator| emulator.host);
        self
    }
}

/// The SHA-256 is compared as text, and the file name becomes a name in the cache.
fn check(pin: &Pin) -> Result<(), String> {
    let is_hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if pin.sha256.len() != 64 || !pin.sha256.bytes().all(is_hexadecimal) {
        return Err(format!("{} has no SHA-256 but `{}`", pin.package, pin.sha256));
    }
    let name = pin.file_name();
    if name.starts_with('.') || !name.ends_with(".deb") || pin.file.starts_with('/') {
        return Err(format!("{} has no file in the archive but `{}`", pin.package, pin.file));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::kernels::KERNELS;

    fn pin() -> Pin {
        Pin {
            suite: "forky".into(),
            architecture: "arm64".into(),
            package: "linux-binary".into(),
            version: "7.2.12-1".into(),
            sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".into(),
            size: 3,
            file: "pool/main/l/linux/linux-binary_7.2.12-1_arm64.deb".into(),
        }
    }

    fn locked(name: &str) -> LockedKernel {
        LockedKernel { name: name.into(), release: "7.2.12".into(), modules: Vec::new(), packages: vec![pin()] }
    }

    fn shell(architecture: &str, version: &str) -> Pin {
        Pin { architecture: architecture.into(), package: "shell".into(), version: version.into(), ..pin() }
    }

    fn emulator(host: Architecture) -> LockedEmulator {
        LockedEmulator { host, packages: vec![pin()] }
    }

    fn lock(names: &[&str]) -> Lock {
        let nothing = Lock { version: VERSION, kernels: Vec::new(), shells: Vec::new(), emulators: Vec::new() };
        let emulators = [Architecture::Arm64, Architecture::Amd64].map(emulator).to_vec();
        nothing.with(names.iter().map(|name| locked(name)).collect(), vec![shell("b", "1"), shell("a", "1")], emulators)
    }

    #[test]
    fn embedded_lock_has_every_kernel_and_no_other() {
        let lock = Lock::embedded().unwrap();
        for kernel in KERNELS {
            let locked = lock.kernel(kernel).unwrap();
            assert!(locked.release.starts_with(&format!("{}.", kernel.release)), "{locked:?}");
            assert!(locked.packages.iter().all(|pin| pin.suite == kernel.suite), "{locked:?}");
            assert!(locked.packages.iter().all(|pin| pin.architecture == kernel.architecture.name()), "{locked:?}");
        }
        assert_eq!(lock.kernels().len(), KERNELS.len());
        for architecture in Architecture::ALL {
            assert_eq!(lock.shell(architecture).unwrap().architecture, architecture.name());
        }
        assert_eq!(lock.shells.len(), Architecture::ALL.len());
    }

    #[test]
    fn default_kernels_are_small_downloads() {
        let lock = Lock::embedded().unwrap();
        for kernel in KERNELS.iter().filter(|kernel| kernel.is_default) {
            let size: u64 = lock.kernel(kernel).unwrap().packages.iter().map(|pin| pin.size).sum();
            assert!(size <= 25_000_000, "{}: {size}", kernel.name());
        }
    }

    #[test]
    fn embedded_lock_is_as_it_is_written() {
        assert_eq!(Lock::embedded().unwrap().text().unwrap(), include_str!("../../images.lock"));
    }

    #[test]
    fn text_is_sorted_and_comes_back() {
        let text = lock(&["b", "a"]).text().unwrap();
        assert_eq!(text, lock(&["a", "b"]).text().unwrap());
        assert_eq!(Lock::parse(&text).unwrap(), lock(&["a", "b"]));
        insta::assert_snapshot!(text);
    }

    #[test]
    fn kernels_are_replaced_by_name_and_the_rest_by_architecture() {
        let mut newer = locked("a");
        newer.release = "7.2.13".into();
        let of_arm64 = LockedEmulator { host: Architecture::Arm64, packages: Vec::new() };
        let lock = lock(&["a", "b"]).with(vec![newer.clone()], vec![shell("a", "2")], vec![of_arm64.clone()]);
        assert_eq!(lock.kernels(), [newer, locked("b")]);
        assert_eq!(lock.shells, [shell("a", "2"), shell("b", "1")]);
        assert_eq!(lock.emulators, [emulator(Architecture::Amd64), of_arm64]);
    }

    #[test]
    fn what_cannot_be_used_is_refused() {
        let good = lock(&["a"]).text().unwrap();
        let why = |text: &str| Lock::parse(text).unwrap_err().message();
        assert!(why(&good.replacen("version: 3\n", "version: 4\nnews: true\n", 1)).contains("of version 4"));
        assert!(why(&good.replace("size: 3", "size: x")).contains("size"));
        assert!(why(&good.replacen("size: 3", "size: 3\n    sise: 3", 1)).contains("sise"));
        assert!(why(&good.replace("ba7816bf", "BA7816BF")).contains("SHA-256"));
        assert!(why(&good.replace("ba7816bf", "")).contains("SHA-256"));
        assert!(why(&good.replace("linux-binary_7.2.12-1_arm64.deb", "..")).contains("no file"));
        assert!(why(&good.replace("pool/main", "/pool/main")).contains("no file"));
    }
}
