//! QEMU: the system's own if it is suitable, or else memgate's own, made from Debian's packages.
//!
//! memgate's own QEMU has its own C library and is started by its own loader, so it runs on any distribution.

mod build;
mod libraries;
mod relock;
mod version;

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

pub(crate) use self::relock::lock;
pub use self::{
    build::ensure,
    version::{OLDEST, Version},
};
use crate::{
    architecture::Architecture,
    image::{Cache, ImageError},
    stop::Stop,
};

/// The suite of Debian that has it, by its codename.
pub(crate) const SUITE: &str = "trixie";

/// The file that describes an emulator, beside its directories.
pub(crate) const DESCRIPTION: &str = "emulator.json";

/// The value of QEMU's option `-sandbox`: it may neither start programs nor change its user, its priorities or the
/// processors that it runs on.
pub(crate) const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// The machines for which memgate's own QEMU is pinned.
pub const HOSTS: [Architecture; 2] = [Architecture::Amd64, Architecture::Arm64];

/// The emulator of guests of one architecture. While it exists, no memgate removes its files.
#[derive(Debug, Clone)]
pub struct Emulator {
    /// The program to start.
    pub program: PathBuf,
    /// The arguments before the ones that describe the machine.
    pub leading: Vec<OsString>,
    /// The version that it prints, such as `10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)`.
    pub version: String,
    /// Distinguishes it from others of the same version.
    pub build: String,
    /// Whether it can filter its own system calls (seccomp). Whoever builds QEMU decides that.
    pub has_sandbox: bool,
    /// The directory of all its files, if it is memgate's own.
    pub place: Option<PathBuf>,
    _lease: Option<Arc<File>>,
}

impl PartialEq for Emulator {
    fn eq(&self, other: &Self) -> bool {
        let parts = |it: &Self| (it.program.clone(), it.leading.clone(), it.version.clone(), it.build.clone());
        parts(self) == parts(other)
    }
}

impl Eq for Emulator {}

/// The emulator of guests of this architecture: the system's QEMU if it is [`OLDEST`] or later, or else memgate's own,
/// which is made if the cache does not have it; see [`ensure`].
///
/// # Errors
/// When the system has no suitable QEMU, and memgate has none for this machine or cannot make it.
pub fn find(
    cache: &Cache,
    architecture: Architecture,
    mirror: Option<&str>,
    say: &mut dyn FnMut(&str),
) -> Result<Emulator, ImageError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    choose(installed(architecture, &path, &cache.stop), architecture, host(), || {
        ensure(cache, architecture, mirror, say)
    })
}

/// Uses the system's own if it is suitable, or else makes the pinned one; `None` if none is pinned.
fn choose(
    installed: Result<Emulator, String>,
    architecture: Architecture,
    host: Option<Architecture>,
    pinned: impl FnOnce() -> Result<Option<Emulator>, ImageError>,
) -> Result<Emulator, ImageError> {
    let installed = match installed {
        Ok(emulator) => return Ok(emulator),
        Err(why) => format!("{} {why}", architecture.emulator()),
    };
    match pinned() {
        Ok(Some(emulator)) => Ok(emulator),
        Ok(None) => {
            let host = host.map_or(std::env::consts::ARCH, Architecture::name).to_owned();
            Err(ImageError::NoEmulator { architecture, installed, host })
        }
        Err(why) => Err(ImageError::Emulator { architecture, installed, why: Box::new(why) }),
    }
}

/// The architecture of this machine, if guests can have it too.
fn host() -> Option<Architecture> {
    Architecture::ALL.into_iter().find(|architecture| architecture.compilers() == std::env::consts::ARCH)
}

/// The system's QEMU, or what is wrong with it.
fn installed(architecture: Architecture, path: &OsStr, stop: &Stop) -> Result<Emulator, String> {
    let is_program = |path: &PathBuf| {
        path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    let mut places = std::env::split_paths(path).map(|place| place.join(architecture.emulator()));
    let program = places.find(is_program).ok_or("is not installed")?;
    let broken = |error: io::Error| format!("cannot be run: {error}");
    let metadata = program.metadata().map_err(broken)?;
    let mut command = Command::new(&program);
    command.arg("--version");
    let printed = stop.output(command).map_err(broken)?.ok_or("was interrupted")?;
    let version = version::fit(&String::from_utf8_lossy(&printed.stdout))?.to_owned();
    // Someone who builds QEMU may give two builds the same version.
    let build = format!("{} {}.{}", metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    let has_sandbox = has_sandbox(&program, &[], stop);
    Ok(Emulator { program, leading: Vec::new(), version, build, has_sandbox, place: None, _lease: None })
}

/// Whether a QEMU knows the option `-sandbox`. One that was built without seccomp ends with an error.
fn has_sandbox(program: &Path, leading: &[OsString], stop: &Stop) -> bool {
    let mut command = Command::new(program);
    command.args(leading).args(["-sandbox", SANDBOX, "--version"]);
    matches!(stop.output(command), Ok(Some(output)) if output.status.success())
}

/// The package with the program for guests of this architecture.
const fn package(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Amd64 => "qemu-system-x86",
        Architecture::Arm64 => "qemu-system-arm",
        Architecture::Loong64 => "qemu-system-misc",
    }
}

/// The packages with the data that QEMU reads when a machine starts, and the place of the data in them.
const DATA: [(&str, &str); 2] = [("qemu-system-data", "usr/share/qemu"), ("seabios", "usr/share/seabios")];

/// The directories of libraries in packages for this machine.
fn library_directory(host: Architecture) -> PathBuf {
    Path::new("usr/lib").join(format!("{}-linux-gnu", host.compilers()))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const ARCHITECTURE: Architecture = Architecture::Arm64;

    /// A program that does not exist.
    pub(crate) fn emulator(version: &str, build: &str) -> Emulator {
        Emulator {
            program: "/usr/bin/qemu".into(),
            leading: Vec::new(),
            version: version.into(),
            build: build.into(),
            has_sandbox: true,
            place: None,
            _lease: None,
        }
    }

    fn chosen(
        installed: Result<Emulator, String>,
        pinned: Result<Option<Emulator>, ImageError>,
    ) -> Result<Emulator, ImageError> {
        choose(installed, ARCHITECTURE, None, || pinned)
    }

    #[test]
    fn a_fit_one_of_the_system_is_taken_and_none_is_made() {
        let one = emulator("11.1.0", "");
        let made = choose(Ok(one.clone()), ARCHITECTURE, host(), || panic!("it was made"));
        assert_eq!(made.unwrap(), one);
    }

    #[test]
    fn without_a_fit_one_the_pinned_one_is_taken() {
        let pinned = emulator("10.0.13", "key");
        assert_eq!(chosen(Err("is not installed".into()), Ok(Some(pinned.clone()))).unwrap(), pinned);
    }

    #[test]
    fn where_there_is_none_it_is_said_what_to_install() {
        let error = chosen(Err("is not installed".into()), Ok(None)).unwrap_err();
        let message = error.message();
        assert!(message.contains("guests of arm64: qemu-system-aarch64 is not installed"), "{message}");
        assert!(message.contains(&format!("this kind of machine ({})", std::env::consts::ARCH)), "{message}");
        assert_eq!(error.help(), "install QEMU 10.0.13 or later, so that `qemu-system-aarch64` is on the PATH");
        let why = ImageError::Debian(crate::debian::DebianError::NoKeyring);
        let help = why.help();
        let error = chosen(Err("is of version 7.2.0".into()), Err(why)).unwrap_err();
        let message = error.message();
        assert!(
            message.contains("qemu-system-aarch64 is of version 7.2.0, and memgate cannot make its own"),
            "{message}"
        );
        assert!(message.ends_with("are missing"), "{message}");
        assert!(
            error.help().starts_with(&help) && error.help().contains("or install QEMU 10.0.13"),
            "{}",
            error.help()
        );
    }

    #[test]
    fn the_one_of_the_system_is_the_first_on_the_path_that_can_be_started() {
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
        let put = |place: &Path, script: &str, mode| {
            std::fs::create_dir_all(place).unwrap();
            let program = place.join(ARCHITECTURE.emulator());
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let path = std::env::join_paths([&first, &second]).unwrap();
        assert_eq!(installed(ARCHITECTURE, &path, &Stop::default()).unwrap_err(), "is not installed");
        put(&first, "echo QEMU emulator version 9.9.9", 0o644);
        put(&second, "echo QEMU emulator version 10.1.0 '(made)'", 0o755);
        let found = installed(ARCHITECTURE, &path, &Stop::default()).unwrap();
        assert_eq!((found.program, &*found.version), (second.join(ARCHITECTURE.emulator()), "10.1.0 (made)"));
        assert!(found.has_sandbox);
        let without = "echo QEMU emulator version 10.1.0 '(made)'; [ $1 != -sandbox ]";
        put(&second, without, 0o755);
        assert!(!installed(ARCHITECTURE, &path, &Stop::default()).unwrap().has_sandbox);
        put(&second, "echo QEMU emulator version 10.1.0 '(made)'; # again", 0o755);
        assert_ne!(
            installed(ARCHITECTURE, &path, &Stop::default()).unwrap().build,
            found.build,
            "another build of the same version"
        );
        put(&first, "echo QEMU emulator version 9.9.9", 0o755);
        let why = installed(ARCHITECTURE, &path, &Stop::default()).unwrap_err();
        assert_eq!(why, "is of version 9.9.9, and guests need 10.0.13 or later");
        put(&first, "echo segmentation fault >&2; exit 139", 0o755);
        assert_eq!(installed(ARCHITECTURE, &path, &Stop::default()).unwrap_err(), "does not report its version");
    }

    #[test]
    fn the_lock_has_the_programs_for_every_guest_on_every_pinned_machine() {
        let lock = crate::image::Lock::embedded().unwrap();
        for host in HOSTS {
            let packages = &lock.emulator(host).unwrap().packages;
            let own = Architecture::ALL.map(package).into_iter().chain(DATA.map(|(package, _)| package));
            for name in own.chain(["libc6", "libgcc-s1", "libglib2.0-0t64"]) {
                assert!(packages.iter().any(|pin| pin.package == name), "{host}: {name}");
            }
            assert!(packages.iter().all(|pin| pin.suite == SUITE && pin.architecture == host.name()));
            assert!(packages.is_sorted_by_key(|pin| &pin.package), "{host}");
        }
        assert_eq!(lock.emulator(Architecture::Loong64), None);
    }
}
