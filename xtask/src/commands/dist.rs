//! `cargo xtask dist`: the agent for guests, one static program for each platform, in `target/dist`.
//!
//! A guest holds a kernel, this program and the service, and no C library: so it is linked with musl, whole. Few machines have a
//! musl and a linker for all three platforms, and for loongarch64 no toolchain carries a standard library that a compiler
//! elsewhere could fetch. So there is one way for all machines: cargo builds `std` from its sources (`-Z build-std`), and Zig,
//! one package of the Python index, brings musl, the start files and the linker for every platform.
//!
//! On 2 shared cores: an agent takes 3 to 5 minutes from nothing (all three 9 to 10, most of it for memgate's dependencies), 7 s after a
//! change, and half a second where there is none. It has 3.7 MB (arm64) to 4.2 MB (loong64).

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use miette::{Context, IntoDiagnostic, Result, ensure, miette};
use object::elf::PT_INTERP;
use object::read::elf::{ElfFile64, ProgramHeader};
use object::{Endianness, Object};
use xshell::{Cmd, cmd};

use crate::setup::{Tools, rust_src, zig};
use crate::workspace::Workspace;
use crate::{artifact, build_std};

/// The program, as cargo names it.
const AGENT: &str = "memgate-agent";

/// Static: at a fixed address, with its C library, which is Zig's and not one that rustc carries.
const RUSTFLAGS: [&str; 3] = ["-Ctarget-feature=+crt-static", "-Clink-self-contained=no", "-Crelocation-model=static"];

/// What a guest runs on, by Go's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Architecture {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
    /// LoongArch64.
    Loong64,
}

impl Architecture {
    const ALL: [Self; 3] = [Self::Amd64, Self::Arm64, Self::Loong64];

    fn go(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Loong64 => "loong64",
        }
    }

    /// Its name in compilers' targets.
    fn compilers(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
            Self::Loong64 => "loongarch64",
        }
    }

    fn rust_target(self) -> String {
        format!("{}-unknown-linux-musl", self.compilers())
    }

    fn elf(self) -> object::Architecture {
        match self {
            Self::Amd64 => object::Architecture::X86_64,
            Self::Arm64 => object::Architecture::Aarch64,
            Self::Loong64 => object::Architecture::LoongArch64,
        }
    }
}

/// Builds the agents for `chosen`, or for all where none is chosen, and puts them where memgate looks for them.
///
/// # Errors
/// Fails where the set-up or the build does, and where what was built would not run in a guest.
pub(crate) fn run(workspace: &Workspace, chosen: &[Architecture]) -> Result<()> {
    let chosen: BTreeSet<_> = if chosen.is_empty() { &Architecture::ALL } else { chosen }.iter().copied().collect();
    let dir = workspace.target().join("dist");
    std::fs::create_dir_all(&dir).into_diagnostic().wrap_err_with(|| format!("cannot make {}", dir.display()))?;
    let built = build(workspace, &chosen).wrap_err("the agent for guests cannot be built")?;
    for architecture in chosen {
        let place = dir.join(format!("{AGENT}-linux-{}", architecture.go()));
        let agent = of_target(&built, &architecture.rust_target())?;
        let bytes =
            std::fs::read(agent).into_diagnostic().wrap_err_with(|| format!("cannot read {}", agent.display()))?;
        runs_in_a_guest(&bytes, architecture)
            .wrap_err_with(|| format!("{} is of no use in a guest", agent.display()))?;
        put(&bytes, &place).into_diagnostic().wrap_err_with(|| format!("cannot write {}", place.display()))?;
        eprintln!("{}: {} kB", place.display(), bytes.len().div_ceil(1000));
    }
    Ok(())
}

fn build(workspace: &Workspace, chosen: &BTreeSet<Architecture>) -> Result<Vec<PathBuf>> {
    let tools = Tools::open(workspace)?;
    let library = rust_src::ensure(&tools)?;
    let zig = zig::ensure(&tools)?;
    drop(tools);

    // A directory of its own, or these flags and the usual ones would undo each other's builds.
    let dir = workspace.target().join("dist-build");
    let targets: Vec<_> =
        chosen.iter().map(|architecture| format!("--target={}", architecture.rust_target())).collect();
    // No unwinding, and no symbols to name in a backtrace: so `std` does without both.
    let mut cargo = build_std::with_sources(
        cmd!(
            workspace.sh,
            "cargo build --locked --profile agent --package memgate --bin {AGENT} -Z build-std=std,panic_abort
                -Z build-std-features= {targets...} --target-dir {dir}"
        ),
        &library,
        &RUSTFLAGS,
    )?;
    for architecture in chosen {
        cargo =
            with_linker(cargo, *architecture, &dir).into_diagnostic().wrap_err("cannot write the linker's script")?;
    }
    let cargo = cargo
        // What has not changed is not compiled again, by which a new build takes seconds.
        .env("CARGO_INCREMENTAL", "1")
        .env("MEMGATE_ZIG", zig)
        .env("ZIG_GLOBAL_CACHE_DIR", dir.join("zig"))
        .env("ZIG_LOCAL_CACHE_DIR", dir.join("zig"));
    artifact::build_all(cargo, AGENT)
}

/// The linker: rustc wants one program, where Zig's is a subcommand. `zig cc` refuses options that it does not know; the one left
/// out, which rustc passes from 1.98 on, works around a fault of the first Cortex-A53.
fn linker_script(target: &str) -> String {
    format!(
        r#"#!/bin/sh
for argument do
    shift
    [ "$argument" = -Wl,--fix-cortex-a53-843419 ] || set -- "$@" "$argument"
done
exec "$MEMGATE_ZIG" cc -target {target} "$@"
"#
    )
}

/// Has cargo link programs for `architecture` with Zig, by a script in `dir`.
fn with_linker<'a>(cargo: Cmd<'a>, architecture: Architecture, dir: &Path) -> std::io::Result<Cmd<'a>> {
    let target = format!("{}-linux-musl", architecture.compilers());
    let dir = dir.join("linkers");
    std::fs::create_dir_all(&dir)?;
    let script = dir.join(&target);
    put(linker_script(&target).as_bytes(), &script)?;
    let variable = format!("CARGO_TARGET_{}_LINKER", architecture.rust_target().to_uppercase().replace('-', "_"));
    Ok(cargo.env(variable, script))
}

fn of_target<'a>(built: &'a [PathBuf], target: &str) -> Result<&'a PathBuf> {
    let is_it = |path: &&PathBuf| path.components().any(|part| part.as_os_str() == target);
    built.iter().find(is_it).ok_or_else(|| miette!("cargo built no {AGENT} for {target}"))
}

/// Makes sure that `bytes` are a program that a kernel on `architecture` starts with no other file.
fn runs_in_a_guest(bytes: &[u8], architecture: Architecture) -> Result<()> {
    let elf = ElfFile64::<Endianness>::parse(bytes).into_diagnostic()?;
    ensure!(
        elf.architecture() == architecture.elf(),
        "it is for {:?}, not for {}",
        elf.architecture(),
        architecture.go()
    );
    let needs_loader = elf.elf_program_headers().iter().any(|header| header.p_type(elf.endian()) == PT_INTERP);
    ensure!(!needs_loader, "it is not static: it asks for a dynamic loader");
    Ok(())
}

/// Makes `path` an executable file of these bytes at one stroke, unless it is.
fn put(bytes: &[u8], path: &Path) -> std::io::Result<()> {
    if std::fs::read(path).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    let new = tempfile::NamedTempFile::new_in(path.parent().unwrap_or(Path::new(".")))?;
    std::fs::write(new.path(), bytes)?;
    std::fs::set_permissions(new.path(), PermissionsExt::from_mode(0o755))?;
    new.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head of an executable of 64 bits with one segment.
    fn elf(machine: u16, segment: u32) -> Vec<u8> {
        let mut bytes = vec![0; 64 + 56];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        let mut set = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        set(16, &2u16.to_le_bytes());
        set(18, &machine.to_le_bytes());
        set(20, &1u32.to_le_bytes());
        set(32, &64u64.to_le_bytes());
        set(52, &64u16.to_le_bytes());
        set(54, &56u16.to_le_bytes());
        set(56, &1u16.to_le_bytes());
        set(64, &segment.to_le_bytes());
        bytes
    }

    #[test]
    fn only_a_static_program_of_the_right_machine_will_do() {
        let (load, interpreter) = (1, 3);
        for (machine, architecture) in
            [(62, Architecture::Amd64), (183, Architecture::Arm64), (258, Architecture::Loong64)]
        {
            runs_in_a_guest(&elf(machine, load), architecture).unwrap();
            let error = runs_in_a_guest(&elf(machine, interpreter), architecture).unwrap_err();
            assert!(error.to_string().contains("not static"), "{error}");
        }
        let error = runs_in_a_guest(&elf(62, load), Architecture::Loong64).unwrap_err();
        assert_eq!(error.to_string(), "it is for X86_64, not for loong64");
        assert!(runs_in_a_guest(b"#!/bin/sh\n", Architecture::Amd64).is_err());
    }

    #[test]
    fn executables_are_told_apart_by_target() {
        let built = ["x86_64", "aarch64"]
            .map(|name| PathBuf::from(format!("/t/{name}-unknown-linux-musl/agent/memgate-agent")));
        assert_eq!(of_target(&built, &Architecture::Arm64.rust_target()).unwrap(), &built[1]);
        assert!(
            of_target(&built, &Architecture::Loong64.rust_target()).unwrap_err().to_string().contains("loongarch64")
        );
    }

    #[test]
    fn what_has_not_changed_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        let written = |bytes: &[u8]| {
            put(bytes, &path).unwrap();
            std::fs::metadata(&path).unwrap()
        };
        let inode = |metadata: &std::fs::Metadata| std::os::unix::fs::MetadataExt::ino(metadata);
        let first = written(b"1");
        assert_eq!(first.permissions().mode() & 0o777, 0o755);
        assert_eq!(inode(&written(b"1")), inode(&first));
        written(b"2");
        assert_eq!(std::fs::read(&path).unwrap(), b"2");
    }

    #[test]
    fn linker_is_zigs_for_the_platform() {
        let (dir, sh) = (tempfile::tempdir().unwrap(), xshell::Shell::new().unwrap());
        drop(with_linker(cmd!(sh, "cargo"), Architecture::Loong64, dir.path()).unwrap());
        let script = dir.path().join("linkers/loongarch64-linux-musl");
        let arguments = ["-Wl,--as-needed", "a b.o", "-Wl,--fix-cortex-a53-843419", "-o", "a"];
        let ran = cmd!(sh, "{script} {arguments...}").env("MEMGATE_ZIG", "/bin/echo").quiet().read().unwrap();
        assert_eq!(ran, "cc -target loongarch64-linux-musl -Wl,--as-needed a b.o -o a");
    }
}
