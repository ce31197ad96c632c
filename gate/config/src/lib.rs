//! memgate.yaml: a user's whole configuration.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use memgate_evidence::{
    error::{InputError, Result},
    plan::{Load, PhaseLengths, Ready},
    platform::{Platform, Runner},
};

use crate::yaml::Source;

pub mod baseline;
mod file;
mod kinds;
mod plan;
mod validate;
pub mod yaml;

pub use kinds::{Name, Size};

/// A configuration, validated, with defaults filled in and paths resolved against the file's directory.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The services by name. There is at least one.
    pub services: BTreeMap<String, Service>,
    /// The directory of the baselines.
    pub baselines: PathBuf,
    /// How to run each platform. A platform without an entry runs natively on its own kind of machine and else in QEMU.
    pub platforms: BTreeMap<Platform, PlatformOptions>,
}

/// A service and how to measure it.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Its name, which can be part of a file's name.
    pub name: String,
    /// Where its executable comes from.
    pub executable: Executable,
    /// The name of the baseline that it is compared with, which can be part of a file's name.
    pub baseline: String,
    /// How it is run.
    pub run: Run,
    /// What drives it.
    pub load: Load,
    /// Seed of the order of the requests.
    pub seed: u64,
    /// Lengths of the phases.
    pub phases: PhaseLengths,
    /// How many fresh processes are measured, 1 to 20.
    pub runs: u32,
}

/// Where a service's executable comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Executable {
    /// `go build`.
    Build(Build),
    /// Existing Go executables by platform.
    Binary(BTreeMap<Platform, PathBuf>),
}

/// A `go build`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// The directory in which `go build` runs; it existed when the configuration was read.
    pub dir: PathBuf,
    /// The package: `./cmd/uaa`. Never begins with `-`.
    pub package: String,
    /// Build tags.
    pub tags: Vec<String>,
    /// The argument of `-ldflags`.
    pub ldflags: Option<String>,
    /// Variables added to the environment of `go build`.
    pub env: BTreeMap<String, String>,
}

/// How a service is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Arguments, without `argv[0]`.
    pub args: Vec<String>,
    /// Variables added to a minimal environment.
    pub env: BTreeMap<String, String>,
    /// The directory that the service and a load command run in.
    pub directory: PathBuf,
    /// When it counts as ready.
    pub ready: Ready,
    /// Limit of its cgroup, bytes.
    pub memory_max: Option<u64>,
    /// How long it may take to end after SIGTERM before it is killed, ms.
    pub stop_timeout_ms: u64,
}

/// How to run a platform.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlatformOptions {
    /// Natively or in QEMU; `None` leaves the choice to memgate.
    pub runner: Option<Runner>,
    /// Variables added to the environment of `go build`, over those of the service's own.
    pub build_env: BTreeMap<String, String>,
    /// Memory of the guest, bytes.
    pub memory: Option<u64>,
    /// CPUs of the guest.
    pub cpus: Option<u32>,
    /// The guest's kernel: `6.12`.
    pub kernel: Option<String>,
    /// The page size of the guest's kernel, bytes.
    pub page_size: Option<u64>,
    /// How long the guest may take to start.
    pub boot_timeout: Option<Duration>,
    /// Files of this machine's that the guest gets, by their absolute paths there.
    pub files: BTreeMap<String, PathBuf>,
}

/// Reads and validates a configuration file.
///
/// # Errors
/// The file cannot be read or is wrong; the error has the place.
pub fn load(path: &Path) -> Result<Config> {
    let Some(source) = Source::read(path)? else {
        let message = format!("{}: there is no such file", path.display());
        return Err(
            InputError::new(message, "name the configuration with `-c FILE`, or write a memgate.yaml here").into()
        );
    };
    from_source(&source, path)
}

/// Validates the text of a configuration file. `path` names it in errors and is where relative paths begin; it is not read.
///
/// # Errors
/// The text is wrong; the error has the place.
pub fn parse(path: &Path, text: &str) -> Result<Config> {
    from_source(&Source::new(path.display().to_string(), text), path)
}

fn from_source(source: &Source, path: &Path) -> Result<Config> {
    let absolute = std::path::absolute(path).map_err(|error| {
        InputError::new(
            format!("{}: the current directory is not known: {error}", path.display()),
            "change to a directory",
        )
    })?;
    let file = source.parse()?;
    let directory = absolute.parent().unwrap_or(Path::new("/"));
    validate::Validator { source, directory }.config(file)
}

/// The JSON schema of memgate.yaml, for editors. It knows the keys, their types and ranges, not every relation between them.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(file::File).to_value()
}

#[cfg(test)]
mod tests;
