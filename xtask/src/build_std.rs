//! Builds for platforms without a standard library in the toolchain: cargo builds the library together with the
//! program.
//!
//! Only the sources, the compiler and the arguments given here determine the result. The environment's settings of
//! profiles, flags and targets are dropped, and no path of this machine gets in (`rustc_wrapper.rs`).

use std::path::Path;

use miette::Result;
use xshell::Cmd;

use crate::rustc_wrapper;

/// Makes `cargo`, whose arguments contain `-Z build-std`, use the standard library's sources in `library`, and compile
/// for the target with `rustflags`.
///
/// # Errors
/// When xtask's own path is not known.
pub(crate) fn with_sources<'a>(cargo: Cmd<'a>, library: &Path, rustflags: &[&str]) -> Result<Cmd<'a>> {
    Ok(without_configured_builds(rustc_wrapper::wrap(cargo)?)
        // `-Z build-std` is unstable.
        .env("RUSTC_BOOTSTRAP", "1")
        // cargo looks for the standard library's sources in the toolchain. The toolchain is the user's and stays
        // unchanged.
        .env("__CARGO_TESTS_ONLY_SRC_ROOT", library)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags.join("\u{1f}"))
        .env("CARGO_INCREMENTAL", "0"))
}

fn without_configured_builds(mut cargo: Cmd<'_>) -> Cmd<'_> {
    for (name, _) in std::env::vars_os() {
        if configures_builds(&name.to_string_lossy()) {
            cargo = cargo.env_remove(name);
        }
    }
    cargo
}

fn configures_builds(name: &str) -> bool {
    let prefixes = ["CARGO_PROFILE_", "CARGO_BUILD_", "CARGO_TARGET_", "CARGO_UNSTABLE_"];
    let where_it_goes = ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "CARGO_BUILD_JOBS"];
    name == "RUSTFLAGS" || prefixes.iter().any(|prefix| name.starts_with(prefix)) && !where_it_goes.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_that_changes_builds_is_dropped() {
        for name in [
            "RUSTFLAGS",
            "CARGO_PROFILE_RELEASE_LTO",
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER",
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUSTFLAGS",
            "CARGO_UNSTABLE_BUILD_STD_FEATURES",
        ] {
            assert!(configures_builds(name), "{name}");
        }
        for name in
            ["CARGO_TARGET_DIR", "CARGO_BUILD_JOBS", "CARGO_HOME", "CARGO_REGISTRIES_CRATES_IO_PROTOCOL", "PATH"]
        {
            assert!(!configures_builds(name), "{name}");
        }
    }
}
