//! Runs `go build` for the platform to measure.

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use memgate_agent::cancel::Cancel;
use memgate_config::Build;
use memgate_evidence::{
    error::{Error, FailureKind, Result, Stage},
    platform::Platform,
};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::process::Command;

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
        /// What the system says.
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
        /// The last lines that the compiler printed.
        output: String,
        /// The whole command, as a shell would take it.
        command: String,
    },
}

impl FailureKind for BuildError {
    fn stage(&self) -> Stage {
        Stage::Build
    }
}

/// How many lines of the compiler's output an error shows.
const SHOWN_LINES: usize = 20;

/// Builds the executable for `platform` and writes it to `executable`.
///
/// # Errors
/// When there is no Go, when the build fails (with the compiler's output), or when memgate is interrupted.
pub async fn build(build: &Build, platform: Platform, executable: &Path, cancel: &Cancel) -> Result<()> {
    let go = find_go(&build.dir)?;
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

/// Runs the command to its end. If memgate is interrupted, kills it together with the compilers that it started.
async fn output_unless_cancelled(command: &mut Command, cancel: &Cancel) -> Result<std::io::Result<Output>> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ok(Err(error)),
    };
    let group = child.id().map(|id| Pid::from_raw(id.cast_signed()));
    tokio::select! {
        output = child.wait_with_output() => Ok(output),
        () = cancel.cancelled() => {
            if let Some(group) = group {
                // It may already have ended.
                let _ = killpg(group, Signal::SIGKILL);
            }
            Err(Error::Interrupted)
        }
    }
}

/// The `go` command: the one on `PATH`, or else the project's own in `.tools/go` beside or above the module.
fn find_go(directory: &Path) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|folder| folder.join("go"));
    let directory = directory.canonicalize().unwrap_or_else(|_| directory.to_path_buf());
    let of_project = directory.ancestors().map(|folder| folder.join(".tools/go/bin/go")).collect::<Vec<_>>();
    let go = on_path.chain(of_project).find(|candidate| candidate.is_file());
    go.ok_or_else(|| BuildError::NoGo { directory }.into())
}

fn last_lines(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_output_is_shown() {
        let output: String = (0..100).map(|line| format!("{line}\n")).collect();
        let shown = last_lines(output.as_bytes());
        assert!(shown.starts_with("80\n") && shown.ends_with("99"), "{shown}");
        assert_eq!(last_lines(b""), "");
    }
}
