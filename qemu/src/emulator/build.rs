//! Makes QEMU from its packages, once.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;
use xshell::cmd;

use super::{
    DATA, DESCRIPTION, Emulator, has_sandbox, host, libraries::libraries, library_directory, package, version,
};
use crate::{
    architecture::Architecture,
    debian::{self, DebianError, Pin, hex, run, sha256, unfinished},
    image::{Cache, ImageError, is_readable, packages, put, supersede, touch},
    package::unpack,
    stop::Stop,
};

/// The version of the result for the same packages.
const FORMAT: u32 = 1;

/// The directories of an emulator: the program, its libraries with the loader, and in the last one the program's data.
const PROGRAMS: &str = "bin";
const LIBRARIES: &str = "lib";
const SHARED: &str = "share";

/// The description of an emulator, beside its files.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    /// The version that the program prints.
    version: String,
    /// The loader's name.
    loader: String,
    /// SHA-256 of all files together, in hexadecimal.
    digest: String,
}

/// memgate's own QEMU for guests of this architecture, if the cache's lock has one for this machine. If the cache does
/// not have it yet, this makes it and removes older ones that nobody uses. Packages are fetched like those of images.
/// `say` receives messages about slow steps.
///
/// # Errors
/// When a package is not available or lacks what it must contain, or when the cache cannot be written.
pub fn ensure(
    cache: &Cache,
    architecture: Architecture,
    mirror: Option<&str>,
    say: &mut dyn FnMut(&str),
) -> Result<Option<Emulator>, ImageError> {
    let Some((host, locked)) = host().and_then(|host| Some((host, cache.lock.emulator(host)?))) else {
        return Ok(None);
    };
    let pins = pins(&locked.packages, architecture);
    let place = cache.emulators().join(architecture.name()).join(key(architecture, &pins));
    cache.check()?;
    if let Some(emulator) = read(&place, architecture, &cache.stop) {
        return Ok(Some(emulator));
    }
    let _exclusive = cache.exclusive(say)?;
    // Another memgate may have made it meanwhile.
    if let Some(emulator) = read(&place, architecture, &cache.stop) {
        return Ok(Some(emulator));
    }
    if place.exists() {
        say(&format!("QEMU for guests of {architecture} in the cache is damaged"));
    }
    let files = packages(cache, &pins, &|pin| &pin.package, mirror, say)?;
    say(&format!("unpacking QEMU for guests of {architecture}"));
    let siblings = cache.emulators().join(architecture.name());
    let work = unfinished(&siblings)?;
    let whole = work.path().join("emulator");
    make(architecture, host, &files, &work.path().join("root"), &whole, &cache.stop)?;
    let write = || put(&whole, &place).and_then(|()| supersede(&siblings, &place));
    write().map_err(|error| ImageError::io(format!("put QEMU into {}", place.display()), error))?;
    let unreadable = || ImageError::io(format!("read back {}", place.display()), io::ErrorKind::InvalidData.into());
    read(&place, architecture, &cache.stop).map(Some).ok_or_else(unreadable)
}

/// Everything except the programs for other guests.
fn pins(locked: &[Pin], architecture: Architecture) -> Vec<Pin> {
    let others = Architecture::ALL.into_iter().filter(|other| *other != architecture);
    let others: Vec<_> = others.map(package).collect();
    locked.iter().filter(|pin| !others.contains(&&*pin.package)).cloned().collect()
}

/// The name of an emulator's directory. Equal contents have equal names.
fn key(architecture: Architecture, pins: &[Pin]) -> String {
    let mut all = Sha256::new();
    all.update(format!("{FORMAT} {architecture}\n"));
    pins.iter().for_each(|pin| all.update(format!("{}\n", pin.sha256)));
    hex(&all.finalize())[..16].to_owned()
}

/// The emulator in a directory, if it is undamaged.
fn read(place: &Path, architecture: Architecture, stop: &Stop) -> Option<Emulator> {
    let path = place.join(DESCRIPTION);
    let file = File::open(&path).ok()?;
    // An emulator that is being removed is locked exclusively.
    file.try_lock_shared().ok()?;
    let description: Description = serde_json::from_reader(io::BufReader::new(&file)).ok()?;
    if !path.exists() || digest(place).ok()? != description.digest {
        return None;
    }
    let directories = [PROGRAMS, LIBRARIES, SHARED].map(|name| place.join(name));
    if !is_readable(place) || !directories.iter().all(|directory| is_readable(directory)) {
        return None;
    }
    touch(&file);
    let mut emulator = emulator(place, architecture, &description);
    emulator.has_sandbox = has_sandbox(&emulator.program, &emulator.leading, stop);
    emulator._lease = Some(Arc::new(file));
    Some(emulator)
}

fn emulator(place: &Path, architecture: Architecture, description: &Description) -> Emulator {
    let program = place.join(LIBRARIES).join(&description.loader);
    // Nothing of the system's is to be found: neither its libraries nor its firmware. The loader takes a colon or a semicolon for the end
    // of a directory, and knows what `$ORIGIN` is, the program's own directory, when it has split the list (glibc 2.41, elf/dl-load.c,
    // fillin_rpath): so the cache may lie in a directory of any name.
    let mut leading = vec![
        "--inhibit-cache".into(),
        "--library-path".into(),
        format!("$ORIGIN/../{LIBRARIES}").into(),
        place.join(PROGRAMS).join(architecture.emulator()).into(),
    ];
    for (package, _) in DATA {
        leading.extend(["-L".into(), place.join(SHARED).join(package).into()]);
    }
    let (version, build) = (description.version.clone(), description.digest.clone());
    Emulator { program, leading, version, build, has_sandbox: false, place: Some(place.to_owned()), _lease: None }
}

/// Unpacks packages into `root`, and moves the needed files to `whole`.
fn make(
    architecture: Architecture,
    host: Architecture,
    files: &[PathBuf],
    root: &Path,
    whole: &Path,
    stop: &Stop,
) -> Result<(), ImageError> {
    for file in files {
        unpack(file, root, stop)?;
    }
    let program = root.join("usr/bin").join(architecture.emulator());
    let needed = libraries(&program, &[root.join(library_directory(host))])?;
    let write = || -> io::Result<()> {
        for directory in [PROGRAMS, LIBRARIES, SHARED] {
            std::fs::create_dir_all(whole.join(directory))?;
        }
        std::fs::rename(program, whole.join(PROGRAMS).join(architecture.emulator()))?;
        for (name, file) in &needed.files {
            // Follows the link under which the library is requested.
            std::fs::copy(file, whole.join(LIBRARIES).join(name))?;
        }
        for (package, directory) in DATA {
            std::fs::rename(root.join(directory), whole.join(SHARED).join(package))?;
        }
        Ok(())
    };
    write().map_err(|error| ImageError::io("take QEMU out of its packages", error))?;
    let sh = debian::shell()?;
    let mut description = Description { version: String::new(), loader: needed.loader, digest: String::new() };
    let Emulator { program, leading, .. } = emulator(whole, architecture, &description);
    let printed = run(stop, cmd!(sh, "{program} {leading...} --version")).map_err(|error| match error {
        DebianError::Interrupted => error.into(),
        _ => ImageError::BadEmulator { why: error.to_string() },
    })?;
    let fit = version::fit(&printed).map_err(|why| ImageError::BadEmulator { why: format!("it {why}") })?;
    fit.clone_into(&mut description.version);
    let mut describe = || {
        description.digest = digest(whole)?;
        std::fs::write(whole.join(DESCRIPTION), serde_json::to_vec_pretty(&description)?)
    };
    describe().map_err(|error| ImageError::io("describe QEMU", error))
}

/// The hash of the paths and contents of all files except the description.
fn digest(place: &Path) -> io::Result<String> {
    let mut all = Sha256::new();
    for entry in WalkDir::new(place).sort_by_file_name() {
        let entry = entry?;
        let name = entry.path().strip_prefix(place).unwrap_or(entry.path());
        if entry.file_type().is_dir() || name == Path::new(DESCRIPTION) {
            continue;
        }
        let sum = if entry.file_type().is_symlink() {
            std::fs::read_link(entry.path())?.display().to_string()
        } else {
            sha256(entry.path())?.0
        };
        all.update(format!("{} {sum}\n", name.display()));
    }
    Ok(hex(&all.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell in QEMU's place, which shows what it has been run with: the loader and the C library that this test runs with.
    #[test]
    fn the_loader_finds_the_libraries_below_a_directory_of_any_name() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("a:b;c$d,e f");
        let own = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mapped = |is_it: fn(&str) -> bool| {
            let paths = own.lines().filter_map(|line| line.split_once('/')).map(|(_, path)| format!("/{path}"));
            paths.into_iter().find(|path| path.rsplit('/').next().is_some_and(is_it)).unwrap()
        };
        let library = mapped(|name| name == "libc.so.6");
        let loader = mapped(|name| name.starts_with("ld-linux"));
        let name = loader.rsplit('/').next().unwrap().to_owned();
        let architecture = Architecture::Arm64;
        for (file, to) in [
            (&*library, place.join(LIBRARIES).join("libc.so.6")),
            (&*loader, place.join(LIBRARIES).join(&name)),
            ("/bin/sh", place.join(PROGRAMS).join(architecture.emulator())),
        ] {
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(file, to).unwrap();
        }
        let description = Description { version: String::new(), loader: name, digest: String::new() };
        let Emulator { program, leading, .. } = emulator(&place, architecture, &description);
        let of_loader = &leading[..leading.len() - 2 * DATA.len()];
        let show = "while read -r line; do echo \"$line\"; done </proc/$$/maps";
        let output = std::process::Command::new(program).args(of_loader).args(["-c", show]).output().unwrap();
        let maps = String::from_utf8_lossy(&output.stdout);
        let libc: Vec<_> = maps.lines().filter(|line| line.ends_with("/libc.so.6")).collect();
        let place = place.to_str().unwrap();
        assert!(!libc.is_empty() && libc.iter().all(|line| line.contains(place)), "{output:?}");
    }
}
