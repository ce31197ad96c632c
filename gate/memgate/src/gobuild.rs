//! Runs `go build` for the platform to measure.

use std::path::{Path, PathBuf};

use memgate_agent::cancel::Cancel;
use memgate_config::Build;
use memgate_evidence::{
    error::{FailureKind, Result, Stage},
    platform::Platform,
};
use tokio::process::Command;

use crate::command::{last_lines, output_unless_cancelled};

/// Why there is no executable.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum BuildError {
    /// There is no Go toolchain.
    #[error("no `go` on PATH and none in .tools/go/bin beside or above {directory}")]
    #[diagnostic(help("install Go 1.22 or later, or name an executable with `binary:`"))]
    NoGo {
        /// The module's directory.
        directory: PathBuf,
    },
    /// The toolchain does not start.
    #[error("{go} cannot be started")]
    #[diagnostic(help("check the Go toolchain"))]
    NotStarted {
        /// The `go` command.
        go: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The program does not compile.
    #[error("`go build {package}` in {directory} failed:\n{output}")]
    #[diagnostic(help("fix the build; the command was {command}"))]
    Failed {
        /// The package.
        package: String,
        /// The module's directory.
        directory: PathBuf,
        /// The last lines of the compiler's output.
        output: String,
        /// The whole command, in the form for a shell.
        command: String,
    },
}

impl FailureKind for BuildError {
    fn stage(&self) -> Stage {
        Stage::Build
    }
}

/// Builds the executable for `platform` and writes it to `executable`. A Go toolchain that is not on `PATH` is looked for
/// in `.tools/go` beside or above `tools`.
///
/// # Errors
/// Fails if there is no Go, if the build fails (with the compiler's output), or if memgate is interrupted.
pub async fn build(build: &Build, tools: &Path, platform: Platform, executable: &Path, cancel: &Cancel) -> Result<()> {
    let go = find_go(tools)?;
    let mut command = Command::new(&go);
    command.arg("build").arg("-o").arg(executable).current_dir(&build.dir);
    if !build.tags.is_empty() {
        command.arg("-tags").arg(build.tags.join(","));
    }
    if let Some(flags) = &build.ldflags {
        command.arg("-ldflags").arg(flags);
    }
    command.arg(&build.package).env("GOOS", "linux").env("GOARCH", platform.goarch()).envs(&build.env);
    let output = output_unless_cancelled(&mut command, cancel).await?;
    let output = output.map_err(|source| BuildError::NotStarted { go, source })?;
    if output.status.success() {
        return Ok(());
    }
    let command = format!("{:?}", command.as_std());
    let (package, directory) = (build.package.clone(), build.dir.clone());
    Err(BuildError::Failed { package, directory, output: last_lines(&output.stderr), command }.into())
}

/// The `go` command: the one on `PATH`, or else the project's own in `.tools/go` beside or above the directory.
fn find_go(directory: &Path) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("go"));
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_path_buf());
    let of_project = directory.ancestors().map(|folder| folder.join(".tools/go/bin/go")).collect::<Vec<_>>();
    let go = on_path.chain(of_project).find(|candidate| candidate.is_file());
    go.ok_or_else(|| BuildError::NoGo { directory }.into())
}
