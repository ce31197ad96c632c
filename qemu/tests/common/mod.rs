//! Helpers for the tests of this crate.

use std::path::{Path, PathBuf};

use memgate_qemu::{architecture::Architecture, image::Cache};
use object::{Endianness, elf, write::elf as write};

fn machine(architecture: Architecture) -> elf::Machine {
    match architecture {
        Architecture::Amd64 => elf::EM_X86_64,
        Architecture::Arm64 => elf::EM_AARCH64,
        Architecture::Loong64 => elf::EM_LOONGARCH,
    }
}

/// A static executable without code. `tail` makes it different from others.
pub(crate) fn agent(directory: &Path, architecture: Architecture, tail: &str) -> PathBuf {
    let mut contents = Vec::new();
    let mut writer = write::Writer::new(Endianness::Little, true, &mut contents);
    writer.reserve_file_header();
    let header = write::FileHeader {
        os_abi: elf::ELFOSABI_NONE,
        abi_version: 0,
        e_type: elf::ET_EXEC,
        e_machine: machine(architecture),
        e_entry: 0,
        e_flags: elf::FileFlags(0),
    };
    writer.write_file_header(&header).unwrap();
    contents.extend(tail.as_bytes());
    let path = directory.join(format!("agent-{architecture}-{tail}"));
    std::fs::write(&path, contents).unwrap();
    path
}

/// Every path below a directory, relative to it and sorted.
pub(crate) fn tree(directory: &Path) -> Vec<String> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        paths.extend(tree(&path).into_iter().map(|below| format!("{name}/{below}")));
        paths.push(name);
    }
    paths.sort();
    paths
}

/// A cache with the packages of the user's own cache, so that a test can run if the mirror has newer ones.
pub(crate) fn seeded(directory: &Path) -> Cache {
    let cache = Cache::new(directory).unwrap();
    std::fs::create_dir_all(cache.packages()).unwrap();
    let own = Cache::default_dir().map(|dir| dir.join("packages"));
    for entry in own.ok().and_then(|own| std::fs::read_dir(own).ok()).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            std::fs::copy(&path, cache.packages().join(path.file_name().unwrap())).unwrap();
        }
    }
    cache
}
