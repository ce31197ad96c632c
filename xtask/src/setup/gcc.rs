//! A C compiler and the C library's headers: what cgo needs.

use miette::{Context, IntoDiagnostic, Result};
use xshell::cmd;

use super::{Tools, apt};
use crate::step;

/// Installs gcc and the headers by the system's package manager, where they do not work.
///
/// # Errors
/// Fails where the package manager does.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<()> {
    let scratch = tools.scratch()?;
    let (source, program) = (scratch.path().join("probe.c"), scratch.path().join("probe"));
    let write = std::fs::write(&source, "#include <stdlib.h>\nint main(void) { free(malloc(1)); return 0; }\n");
    write.into_diagnostic().wrap_err_with(|| format!("cannot write {}", source.display()))?;
    if step::probe(cmd!(tools.sh, "gcc -o {program} {source}")).is_some() {
        return Ok(());
    }
    apt::install(tools, &["gcc", "libc6-dev"])
}
