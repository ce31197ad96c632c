//! `cargo xtask dist`: the agent for guests, one static program for each platform, in `target/dist`.
//!
//! A guest contains a kernel, this program and the service, and no C library, so the program is linked statically with
//! musl. Few machines have a musl and a linker for all three platforms. For loongarch64, no toolchain has a standard
//! library for cross-compiling. So all machines use the same way: cargo builds `std` from its sources (`-Z build-std`),
//! and Zig, one package of the Python index, provides musl, the start files and the linker for every platform.
//!
//! The agent is the crate `memgate-agent`. A first build takes 3 minutes of processor time, and 9 to 10 for all three
//! platforms; a fifth of it is for Zig's musl. A build takes 7 s after a change and half a second without one. The
//! agent has 3.7 MB (arm64) to 4.2 MB (loong64).

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use memgate_qemu::architecture::Architecture;
use memgate_qemu::image::Agent;
use miette::{Context, IntoDiagnostic, Result, miette};
use xshell::{Cmd, cmd};

use crate::setup::{Tools, rust_src, zig};
use crate::workspace::{INCREMENTAL, Workspace, is_ci};
use crate::{artifact, build_std};

/// The program, as cargo names it.
const AGENT: &str = "memgate-agent";

/// Static: at a fixed address, with Zig's C library instead of one from rustc.
const RUSTFLAGS: [&str; 3] = ["-Ctarget-feature=+crt-static", "-Clink-self-contained=no", "-Crelocation-model=static"];

/// Builds the agents for `chosen`, or for all platforms if none is chosen, and puts them where memgate looks for them.
///
/// # Errors
/// When the set-up or the build fails, or when the result would not run in a guest.
pub(crate) fn run(workspace: &Workspace, chosen: &[Architecture]) -> Result<()> {
    let chosen: BTreeSet<_> = if chosen.is_empty() { &Architecture::ALL } else { chosen }.iter().copied().collect();
    let dir = workspace.target().join("dist");
    std::fs::create_dir_all(&dir).into_diagnostic().wrap_err_with(|| format!("cannot make {}", dir.display()))?;
    let built = build(workspace, &chosen).wrap_err("the agent for guests cannot be built")?;
    for architecture in chosen {
        let place = dir.join(format!("{AGENT}-linux-{}", architecture));
        let agent = Agent::read(of_target(&built, &rust_target(architecture))?, architecture).into_diagnostic()?;
        put(&agent.contents, &place).into_diagnostic().wrap_err_with(|| format!("cannot write {}", place.display()))?;
        eprintln!("{}: {} kB", place.display(), agent.contents.len().div_ceil(1000));
    }
    Ok(())
}

fn build(workspace: &Workspace, chosen: &BTreeSet<Architecture>) -> Result<Vec<PathBuf>> {
    let tools = Tools::open(workspace)?;
    let library = rust_src::ensure(&tools)?;
    let zig = zig::ensure(&tools)?;
    drop(tools);

    // A directory of its own. Otherwise these flags and the usual ones would invalidate each other's builds.
    let dir = workspace.target().join("dist-build");
    let targets: Vec<_> =
        chosen.iter().map(|architecture| format!("--target={}", rust_target(*architecture))).collect();
    // `std` without unwinding and without symbols for backtraces.
    let mut cargo = build_std::with_sources(
        cmd!(
            workspace.sh,
            "cargo build --locked --profile agent --package memgate-agent --bin {AGENT} -Z build-std=std,panic_abort
                -Z build-std-features= {targets...} --target-dir {dir}"
        ),
        &library,
        &RUSTFLAGS,
    )?;
    for architecture in chosen {
        cargo =
            with_linker(cargo, *architecture, &dir).into_diagnostic().wrap_err("cannot write the linker's script")?;
    }
    if !is_ci() {
        // Unchanged parts are not compiled again, so a new build takes seconds.
        cargo = cargo.env(INCREMENTAL, "1");
    }
    let cargo = cargo
        .env("MEMGATE_ZIG", zig)
        .env("ZIG_GLOBAL_CACHE_DIR", dir.join("zig"))
        .env("ZIG_LOCAL_CACHE_DIR", dir.join("zig"));
    artifact::build_all(cargo, AGENT)
}

fn rust_target(architecture: Architecture) -> String {
    format!("{}-unknown-linux-musl", architecture.compilers())
}

/// The linker. rustc needs a program, but Zig's linker is a subcommand. `zig cc` refuses unknown options. The script
/// removes an option that rustc passes from 1.98 on, which works around a fault of the first Cortex-A53. By default,
/// Zig would also compile a sanitizer's library for C code, but there is no C code.
fn linker_script(target: &str) -> String {
    format!(
        r#"#!/bin/sh
for argument do
    shift
    [ "$argument" = -Wl,--fix-cortex-a53-843419 ] || set -- "$@" "$argument"
done
exec "$MEMGATE_ZIG" cc -target {target} -fno-sanitize=undefined "$@"
"#
    )
}

/// Makes cargo link programs for `architecture` with Zig, through a script in `dir`.
fn with_linker<'a>(cargo: Cmd<'a>, architecture: Architecture, dir: &Path) -> std::io::Result<Cmd<'a>> {
    let target = format!("{}-linux-musl", architecture.compilers());
    let dir = dir.join("linkers");
    std::fs::create_dir_all(&dir)?;
    let script = dir.join(&target);
    put(linker_script(&target).as_bytes(), &script)?;
    let variable = format!("CARGO_TARGET_{}_LINKER", rust_target(architecture).to_uppercase().replace('-', "_"));
    Ok(cargo.env(variable, script))
}

fn of_target<'a>(built: &'a [PathBuf], target: &str) -> Result<&'a PathBuf> {
    let is_it = |path: &&PathBuf| path.components().any(|part| part.as_os_str() == target);
    built.iter().find(is_it).ok_or_else(|| miette!("cargo built no {AGENT} for {target}"))
}

/// Makes `path` an executable file with these bytes, atomically, unless it is one already.
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

    #[test]
    fn executables_are_told_apart_by_target() {
        let built = ["x86_64", "aarch64"]
            .map(|name| PathBuf::from(format!("/t/{name}-unknown-linux-musl/agent/memgate-agent")));
        assert_eq!(of_target(&built, &rust_target(Architecture::Arm64)).unwrap(), &built[1]);
        let error = of_target(&built, &rust_target(Architecture::Loong64)).unwrap_err();
        assert!(error.to_string().contains("loongarch64"), "{error}");
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
        assert_eq!(ran, "cc -target loongarch64-linux-musl -fno-sanitize=undefined -Wl,--as-needed a b.o -o a");
    }
}
