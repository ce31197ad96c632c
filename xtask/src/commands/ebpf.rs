//! `cargo xtask ebpf`: the BPF objects. They are committed, so users need only stable Rust to build memgate.

use std::path::{Path, PathBuf};

use miette::{Context, IntoDiagnostic, Result, miette};
use xshell::cmd;

use crate::setup::{Tools, bpf_linker, rust_src, rustc};
use crate::workspace::Workspace;
use crate::{artifact, build_std};

/// The committed objects in the checkout, with the features for building them.
const OBJECTS: [(&str, &str); 2] = [("gate-ebpf/memgate.bpf.o", "bpf"), ("gate-ebpf/memgate-tier1.bpf.o", "tier1")];

/// Builds the objects. Then writes them beside their source, or with `check` compares them with the committed ones.
///
/// # Errors
/// When the set-up or a build fails, or with `check` when a committed object is missing or differs.
pub(crate) fn run(workspace: &Workspace, check: bool) -> Result<()> {
    for (object, features) in OBJECTS {
        let built = build(workspace, features)?;
        let built =
            std::fs::read(&built).into_diagnostic().wrap_err_with(|| format!("cannot read {}", built.display()))?;
        let path = workspace.root().join(object);
        if check {
            compare(&path, object, &built)?;
            eprintln!("{object} is what its source builds.");
        } else {
            std::fs::write(&path, &built).into_diagnostic().wrap_err_with(|| format!("cannot write {object}"))?;
            eprintln!("{object}: {} bytes.", built.len());
        }
    }
    Ok(())
}

fn build(workspace: &Workspace, features: &str) -> Result<PathBuf> {
    let tools = Tools::open(workspace)?;
    rustc::is_pinned(&tools)?;
    let linker = bpf_linker::ensure(&tools)?;
    let library = rust_src::ensure(&tools)?;
    drop(tools);

    let target = workspace.target().join("ebpf");
    let cargo = cmd!(
        workspace.sh,
        "cargo build --locked --profile bpf --package memgate-ebpf --bin memgate-bpf --features {features}
            -Z build-std=core --target bpfel-unknown-none --target-dir {target}"
    );
    let linker = format!("-Clinker={}", linker.display());
    artifact::build(build_std::with_sources(cargo, &library, &[&linker])?, "memgate-bpf")
}

fn compare(path: &Path, object: &str, built: &[u8]) -> Result<()> {
    let refresh = format!("run `cargo xtask ebpf` and commit {object}");
    match std::fs::read(path) {
        Ok(committed) if committed == built => Ok(()),
        Ok(committed) => {
            let offset = committed.iter().zip(built).take_while(|(a, b)| a == b).count();
            let (is, should) = (committed.len(), built.len());
            Err(miette!(
                help = refresh,
                "{object} is not what its source builds: it has {is} bytes, the build {should}; byte {offset} is the first that differs"
            ))
        }
        Err(error) => Err(miette!(help = refresh, "cannot read {object}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_must_be_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let object = dir.path().join("memgate.bpf.o");
        let missing = compare(&object, "gate-ebpf/memgate.bpf.o", b"abcd").unwrap_err();
        assert!(missing.to_string().starts_with("cannot read gate-ebpf/memgate.bpf.o"), "{missing}");
        std::fs::write(&object, b"abcd").unwrap();
        compare(&object, "gate-ebpf/memgate.bpf.o", b"abcd").unwrap();
        for other in [&b"abXd"[..], b"abc", b"abcde"] {
            let error = compare(&object, "gate-ebpf/memgate.bpf.o", other).unwrap_err();
            assert!(error.help().unwrap().to_string().contains("run `cargo xtask ebpf` and commit"));
        }
        assert!(
            compare(&object, "gate-ebpf/memgate.bpf.o", b"abXd")
                .unwrap_err()
                .to_string()
                .contains("byte 2 is the first")
        );
    }
}
