//! Tools that cargo builds from crates.io into `.tools/cargo`.

use std::path::PathBuf;

use miette::{Context, IntoDiagnostic, Result};
use xshell::cmd;

use super::{Stamp, Tools};
use crate::step;

/// Returns the path of the executable `name` of the crate `name`. Builds it if this version is missing. `options` are
/// for cargo install, and choose the crate's features. The versions of its dependencies come from the crate's own lock
/// file. cargo puts an executable into place as a whole.
///
/// # Errors
/// When cargo fails.
pub(crate) fn ensure(tools: &Tools<'_>, name: &str, version: &str, options: &[&str]) -> Result<PathBuf> {
    let root = tools.dir().join("cargo");
    let program = root.join("bin").join(name);
    let stamps = root.join("stamps");
    let source = format!("crates.io, --locked {}", options.join(" "));
    let stamp = Stamp::new(name, version, source.trim_end());
    let place = stamps.join(format!("{name}.json"));
    if stamp.is_at(&place) && program.is_file() {
        return Ok(program);
    }
    eprintln!("Building {name} {version}: this takes a few minutes, once");
    let exact = format!("={version}");
    let install =
        cmd!(tools.sh, "cargo install --quiet --locked --force {name} --version {exact} --root {root} {options...}")
            // The tools' own release profiles (full link-time optimisation) would take several times as long to build, and the
            // tools have little to do.
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "false");
    step::run(install)?;
    std::fs::create_dir_all(&stamps).into_diagnostic().wrap_err_with(|| format!("cannot make {}", stamps.display()))?;
    stamp.write(&place)?;
    Ok(program)
}
