//! xtask as cargo's `RUSTC_WRAPPER`. It makes the BPF objects and the agents of guests identical wherever they are
//! built.
//!
//! Symbol names contain a hash of `-C metadata`, in which cargo puts the paths of the standard library's sources, the
//! flags and the host. Panic messages contain the paths of source files. The wrapper replaces both with package names:
//! `core-0.0.0`, `memgate-ebpf-0.1.0`. A crate that both the standard library and the program use is compiled twice and
//! has two names: `cfg-if-1.0.4` and `cfg-if-1.0.4-std`.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use miette::{Context, IntoDiagnostic, Result};
use xshell::Cmd;

/// If it is set, xtask acts as a wrapper of rustc.
const REQUEST: &str = "MEMGATE_XTASK_WRAPS_RUSTC";

/// Makes `cargo` compile through this wrapper.
///
/// # Errors
/// When xtask's own path is not known.
pub(crate) fn wrap(cargo: Cmd<'_>) -> Result<Cmd<'_>> {
    let xtask: PathBuf = std::env::current_exe().into_diagnostic().wrap_err("xtask's own path is not known")?;
    Ok(cargo.env("RUSTC_WRAPPER", xtask).env(REQUEST, "1").env_remove("RUSTC_WORKSPACE_WRAPPER"))
}

/// Whether cargo started xtask in place of rustc.
pub(crate) fn is_requested() -> bool {
    std::env::var_os(REQUEST).is_some()
}

/// Becomes rustc, with the arguments made independent of this machine.
pub(crate) fn run() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let Some(rustc) = args.next() else {
        eprintln!("xtask wraps rustc only where cargo asks it to");
        return ExitCode::FAILURE;
    };
    let error = Command::new(&rustc).args(stabilise(args, &Package::from_cargo())).exec();
    eprintln!("cannot start {}: {error}", rustc.display());
    ExitCode::FAILURE
}

/// The compiled package, as cargo describes it to rustc.
#[derive(Debug, Default)]
struct Package {
    name: String,
    directory: OsString,
}

impl Package {
    fn from_cargo() -> Self {
        let variable = |name| std::env::var_os(name).unwrap_or_default();
        let [name, version] = ["CARGO_PKG_NAME", "CARGO_PKG_VERSION"].map(variable);
        let name = format!("{}-{}", name.to_string_lossy(), version.to_string_lossy());
        Self { name, directory: variable("CARGO_MANIFEST_DIR") }
    }
}

/// The standard library uses other crates with this feature.
const OF_STD: &str = r#"feature="rustc-dep-of-std""#;

/// Replaces `-C metadata=…`, and maps the package's directory to its name. Queries about rustc itself have no metadata
/// and pass unchanged.
fn stabilise(args: impl Iterator<Item = OsString>, package: &Package) -> Vec<OsString> {
    let mut args: Vec<OsString> = args.collect();
    let suffix = if args.iter().any(|arg| arg == OF_STD) { "-std" } else { "" };
    let name = format!("{}{suffix}", package.name);
    let mut compiles = false;
    for arg in args.iter_mut().filter(|arg| arg.as_encoded_bytes().starts_with(b"metadata=")) {
        compiles = true;
        *arg = format!("metadata={name}").into();
    }
    if compiles {
        args.push("--remap-path-prefix".into());
        args.push([package.directory.as_os_str(), OsStr::new("="), OsStr::new(&name)].into_iter().collect());
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stabilised(args: &[&str]) -> Vec<OsString> {
        let package = Package { name: "core-0.0.0".into(), directory: "/home/someone/rust/library/core".into() };
        stabilise(args.iter().map(Into::into), &package)
    }

    #[test]
    fn metadata_and_paths_are_named_by_the_package() {
        assert_eq!(
            stabilised(&["--crate-name", "core", "-C", "metadata=7f52fd26cb4ee72a", "-C", "extra-filename=-1"]),
            [
                "--crate-name",
                "core",
                "-C",
                "metadata=core-0.0.0",
                "-C",
                "extra-filename=-1",
                "--remap-path-prefix",
                "/home/someone/rust/library/core=core-0.0.0",
            ]
        );
    }

    #[test]
    fn crates_of_the_standard_library_are_told_from_the_programs() {
        let of = |feature| stabilised(&["--cfg", feature, "-C", "metadata=7f52fd26cb4ee72a"])[3].clone();
        assert_eq!(of(r#"feature="rustc-dep-of-std""#), "metadata=core-0.0.0-std");
        assert_eq!(of(r#"feature="std""#), "metadata=core-0.0.0");
    }

    #[test]
    fn questions_about_rustc_pass_unchanged() {
        assert_eq!(stabilised(&["-vV"]), ["-vV"]);
    }
}
