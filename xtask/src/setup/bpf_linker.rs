//! bpf-linker, which makes the BPF object from LLVM bitcode.

use std::path::PathBuf;

use miette::Result;

use super::{Tools, cargo_install};

/// This version loads rustc's own LLVM, and the pinned rustc has the right version of LLVM. 0.13 needs an installed
/// LLVM.
const PINNED: &str = "0.10.3";

/// Returns the path of the pinned bpf-linker. Builds it if it is missing.
///
/// # Errors
/// When cargo fails.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<PathBuf> {
    cargo_install::ensure(tools, "bpf-linker", PINNED, &[])
}
