//! Compilers of C and C++ and the C library: what cgo, libFuzzer and the tests of call stacks need.

use miette::{Context, IntoDiagnostic, Result};
use xshell::cmd;

use super::{Tools, apt};
use crate::step;

/// Installs the compilers and the library by the system's package manager, where they do not work. A program in C++ that is linked
/// statically needs all of them.
///
/// # Errors
/// Fails where the package manager does.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<()> {
    let scratch = tools.scratch()?;
    let (source, program) = (scratch.path().join("probe.cc"), scratch.path().join("probe"));
    let write =
        std::fs::write(&source, "#include <cstdlib>\nint main() { std::free(std::malloc(1)); delete new int; }\n");
    write.into_diagnostic().wrap_err_with(|| format!("cannot write {}", source.display()))?;
    if step::probe(cmd!(tools.sh, "g++ -static -o {program} {source}")).is_some() {
        return Ok(());
    }
    apt::install(tools, &["gcc", "g++", "libc6-dev"])
}
