//! bpf-linker, which makes the BPF object of LLVM bitcode.

use std::path::PathBuf;

use miette::Result;

use super::{Tools, cargo_install};

/// This version loads rustc's own LLVM, which the pinned rustc carries in the version that it needs; 0.13 wants an
/// installed one.
const PINNED: &str = "0.10.3";

/// Returns the path of the pinned bpf-linker, building it where it is not there.
///
/// # Errors
/// Fails where cargo does.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<PathBuf> {
    cargo_install::ensure(tools, "bpf-linker", PINNED, &[])
}
