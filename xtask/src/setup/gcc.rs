//! The C and C++ compilers and the C library, for cgo, libFuzzer and the tests of call stacks.

use miette::{Context, IntoDiagnostic, Result};
use xshell::cmd;

use super::{Tools, apt};
use crate::step;

/// Installs the compilers and the library with the system's package manager if they do not work. The test is a
/// statically linked C++ program, which needs all of them.
///
/// # Errors
/// When the package manager fails.
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
