//! memgate.yaml: the user's whole configuration.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use memgate_evidence::{
    error::{InputError, Result},
    plan::{Load, PhaseLengths, Ready, Stdin, Watch},
    platform::{Platform, Runner},
};

use crate::yaml::Source;

pub mod baseline;
mod file;
mod kinds;
mod listens;
mod plan;
mod validate;
pub mod yaml;

pub use kinds::{Name, Size, User};

/// A validated configuration. Defaults are filled in, and paths are resolved against the file's directory.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The file, as an absolute path.
    pub file: PathBuf,
    /// The services by name, at least one.
    pub services: BTreeMap<String, Service>,
    /// The directory of baselines.
    pub baselines: PathBuf,
    /// How to run each platform. A platform without an entry runs natively on a machine of its own kind and in QEMU
    /// otherwise.
    pub platforms: BTreeMap<Platform, PlatformOptions>,
}

/// A service and how to measure it.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Its name, which can be part of a file name.
    pub name: String,
    /// The source of its executable.
    pub executable: Executable,
    /// The name of the baseline to compare it with, which can be part of a file name.
    pub baseline: String,
    /// How to run it.
    pub run: Run,
    /// What runs beside it, in the order in which it starts.
    pub sidecars: Vec<Sidecar>,
    /// What runs to its end before it starts, in this order.
    pub before: Vec<Before>,
    /// The load on it.
    pub load: Load,
    /// Names of memgate's own variables that a load command gets too, if they are set.
    pub load_pass_env: Vec<String>,
    /// The seed for the order of the requests.
    pub seed: u64,
    /// The lengths of the phases.
    pub phases: PhaseLengths,
    /// The number of fresh processes to measure at first, 1 to 20.
    pub runs: u32,
    /// The most fresh processes to measure if a gate cannot be decided. If it is less than `runs`, `runs` counts.
    pub max_runs: u32,
}

/// The source of a service's executable.
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
    /// The directory in which `go build` runs. It existed when the configuration was read.
    pub dir: PathBuf,
    /// The package, such as `./cmd/uaa`. Never begins with `-`.
    pub package: String,
    /// Build tags.
    pub tags: Vec<String>,
    /// The argument of `-ldflags`.
    pub ldflags: Option<String>,
    /// Variables to add to the environment of `go build`.
    pub env: BTreeMap<String, String>,
    /// Names of memgate's own variables that `go build` gets too, if they are set.
    pub pass_env: Vec<String>,
}

/// How to run a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Arguments, without `argv[0]`.
    pub args: Vec<String>,
    /// Which process is measured, if it is not simply the one that memgate starts.
    pub watch: Option<Watch>,
    /// Variables to add to a minimal environment.
    pub env: BTreeMap<String, String>,
    /// Names of memgate's own variables that the service gets too, if they are set.
    pub pass_env: Vec<String>,
    /// The user that build, service and load command run as: `NAME`, `NAME:GROUP`, or numbers; `None` leaves the choice
    /// to memgate.
    pub user: Option<String>,
    /// The working directory of the service and of a load command.
    pub directory: PathBuf,
    /// What it reads at its standard input.
    pub stdin: Stdin,
    /// When the service counts as ready.
    pub ready: Ready,
    /// The memory limit of its cgroup, bytes.
    pub memory_max: Option<u64>,
    /// How long it may take to end after SIGTERM before memgate kills it, ms.
    pub stop_timeout_ms: u64,
}

/// A process that the service needs, such as a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sidecar {
    /// Its name, which can be part of a file name.
    pub name: String,
    /// The program and its arguments, at least the program.
    pub words: Vec<String>,
    /// Variables to add to a minimal environment.
    pub env: BTreeMap<String, String>,
    /// Names of memgate's own variables that it gets too, if they are set.
    pub pass_env: Vec<String>,
    /// The working directory; `None` for a fresh one of its own.
    pub directory: Option<PathBuf>,
    /// The user that it runs as; `None` for the service's.
    pub user: Option<String>,
    /// When it counts as ready.
    pub ready: Ready,
    /// The memory limit of its cgroup, bytes.
    pub memory_max: Option<u64>,
    /// How long it may take to end after SIGTERM before memgate kills it, ms.
    pub stop_timeout_ms: u64,
}

/// A command that prepares what the service needs, such as a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Before {
    /// The program and its arguments, at least the program.
    pub words: Vec<String>,
    /// Variables to add to a minimal environment.
    pub env: BTreeMap<String, String>,
    /// Names of memgate's own variables that it gets too, if they are set.
    pub pass_env: Vec<String>,
    /// The working directory; `None` for the service's.
    pub directory: Option<PathBuf>,
    /// The user that it runs as; `None` for the service's.
    pub user: Option<String>,
    /// How long it may take, ms.
    pub timeout_ms: u64,
}

/// How to run a platform.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlatformOptions {
    /// Natively or in QEMU; `None` leaves the choice to memgate.
    pub runner: Option<Runner>,
    /// Variables to add to the environment of `go build`. They override the service's own.
    pub build_env: BTreeMap<String, String>,
    /// The guest's memory, bytes.
    pub memory: Option<u64>,
    /// The guest's CPUs.
    pub cpus: Option<u32>,
    /// The guest's kernel, such as `6.12`.
    pub kernel: Option<String>,
    /// The page size of the guest's kernel, bytes.
    pub page_size: Option<u64>,
    /// How long the guest may take to start.
    pub boot_timeout: Option<Duration>,
    /// Files of this machine to copy into the guest, by their absolute paths in the guest.
    pub files: BTreeMap<String, PathBuf>,
}

/// Reads and validates a configuration file.
///
/// # Errors
/// When the file cannot be read or is wrong. The error names the place.
pub fn load(path: &Path) -> Result<Config> {
    let Some(source) = Source::read(path)? else {
        let message = format!("{}: there is no such file", path.display());
        return Err(
            InputError::new(message, "name the configuration with `-c FILE`, or let `memgate init` write one").into()
        );
    };
    from_source(&source, path)
}

/// Validates the text of a configuration file. `path` names it in errors, and relative paths start from its directory;
/// the file itself is not read.
///
/// # Errors
/// When the text is wrong. The error names the place.
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
    validate::Validator { source, path: &absolute, directory }.config(file)
}

/// The JSON Schema of memgate.yaml, for editors. It contains the keys with their types and ranges, but not every
/// relation between keys.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(file::File).to_value()
}

#[cfg(test)]
mod tests;
