//! Gives the build of memgate its identity, `MEMGATE_BUILD`: a hash of the sources that memgate and the agents in
//! guests share, and of the versions of the crates that they use.
//!
//! So memgate and an agent that are built from the same sources have the same identity, on any machine, for any target,
//! and also from an archive without git. A commit that changes no such source changes no identity, so that nothing is
//! compiled again for it.

use std::{
    env,
    error::Error,
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

/// What the identity covers, from the root of the workspace: this crate, the crates that it uses, and the lock of all
/// others.
const SOURCES: [&str; 13] = [
    "Cargo.lock",
    "gate-ebpf/Cargo.toml",
    "gate-ebpf/memgate-tier1.bpf.o",
    "gate-ebpf/memgate.bpf.o",
    "gate-ebpf/src",
    "gate/agent/Cargo.toml",
    "gate/agent/src",
    "gate/evidence/Cargo.toml",
    "gate/evidence/src",
    "gate/goexe/Cargo.toml",
    "gate/goexe/src",
    "qemu/Cargo.toml",
    "qemu/src",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../..");
    let mut hash = Sha256::new();
    for source in SOURCES {
        let path = root.join(source);
        println!("cargo::rerun-if-changed={}", path.display());
        add(&mut hash, source, &path).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let identity: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    println!("cargo::rustc-env=MEMGATE_BUILD={identity}");
    Ok(())
}

/// Adds a file with its name, or everything in a directory in the order of the names.
fn add(hash: &mut Sha256, name: &str, path: &Path) -> io::Result<()> {
    if path.is_dir() {
        let entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
        let mut names: Vec<_> = entries.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        return names.iter().try_for_each(|inside| add(hash, &format!("{name}/{inside}"), &path.join(inside)));
    }
    for part in [name.as_bytes(), &fs::read(path)?] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Ok(())
}
