//! Steps: the commands that a chore runs. They are printed and fail fast.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use miette::{Context, IntoDiagnostic, Result};
use xshell::Cmd;

use crate::error::Error;
use crate::interrupt;

/// Runs a step. Its output goes to stderr, because stdout is only for the results of the last step.
///
/// # Errors
/// When the command cannot be started, fails, or is interrupted.
pub(crate) fn run(cmd: Cmd<'_>) -> Result<()> {
    let line = announce(&cmd);
    let mut command = Command::from(cmd);
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().into_diagnostic().wrap_err("stderr is closed")?;
    command.stdout(stderr);
    finish(command, line).map(drop)
}

/// Runs a step for which there is an alternative. Returns whether it succeeded, and prints the reason if not.
///
/// # Errors
/// When it is interrupted.
pub(crate) fn succeeds(cmd: Cmd<'_>) -> Result<bool> {
    match run(cmd) {
        Ok(()) => Ok(true),
        Err(report) if matches!(report.downcast_ref(), Some(Error::Interrupted)) => Err(report),
        Err(report) => {
            eprintln!("{report}");
            Ok(false)
        }
    }
}

/// Runs a step and returns its stdout.
///
/// # Errors
/// As [`run`], and when the output is not UTF-8.
pub(crate) fn capture(cmd: Cmd<'_>) -> Result<String> {
    let line = announce(&cmd);
    let mut command = Command::from(cmd);
    command.stdout(Stdio::piped());
    finish(command, line)
}

/// Runs a step whose exit code is a result, and writes its output to the file `log`. Returns `None` if a signal ended it.
///
/// # Errors
/// When it cannot be started, is interrupted, or the file cannot be written.
pub(crate) fn outcome(cmd: Cmd<'_>, log: &Path) -> Result<Option<i32>> {
    let line = announce(&cmd);
    let mut command = Command::from(cmd);
    let files = File::create(log).and_then(|file| Ok((file.try_clone()?, file)));
    let (stdout, stderr) = files.into_diagnostic().wrap_err_with(|| format!("cannot write {}", log.display()))?;
    command.stdout(stdout).stderr(stderr);
    end(command, &line).map(|(status, _)| status.code())
}

/// Queries a tool silently: returns its stdout if the tool exists and succeeds. Only for queries whose failure is an
/// answer ("is it installed?").
pub(crate) fn probe(cmd: Cmd<'_>) -> Option<String> {
    let line = cmd.to_string();
    let mut command = Command::from(cmd);
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    finish(command, line).ok()
}

/// Becomes the last step of a chore. Its exit code, its signals and its terminal are then xtask's own.
///
/// # Errors
/// Returns only if the command cannot be started.
pub(crate) fn become_command(cmd: Cmd<'_>) -> Result<Infallible> {
    let line = announce(&cmd);
    let mut command = Command::from(cmd);
    forget_cargo_run(&mut command);
    let source = command.exec();
    Err(Error::Start { command: line, source }.into())
}

fn announce(cmd: &Cmd<'_>) -> String {
    let line = cmd.to_string();
    eprintln!("$ {line}");
    line
}

fn finish(command: Command, line: String) -> Result<String> {
    let (status, output) = end(command, &line)?;
    if !status.success() {
        return Err(Error::Failed { command: line, status }.into());
    }
    String::from_utf8(output).into_diagnostic().wrap_err_with(|| format!("`{line}` printed text that is not UTF-8"))
}

/// Runs a command to its end. Returns how it ended, and its stdout if that is a pipe.
fn end(mut command: Command, line: &str) -> Result<(ExitStatus, Vec<u8>)> {
    forget_cargo_run(&mut command);
    command.stdin(Stdio::null());
    let child = interrupt::spawn(&mut command).map_err(|source| Error::Start { command: line.to_owned(), source })?;
    let mut child = child.ok_or(Error::Interrupted)?;
    let mut output = Vec::new();
    let read = child.stdout.take().map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut output));
    let status = child.wait();
    if interrupt::finished(&child) {
        return Err(Error::Interrupted.into());
    }
    read.into_diagnostic().wrap_err_with(|| format!("cannot read the output of `{line}`"))?;
    let status = status.into_diagnostic().wrap_err_with(|| format!("cannot wait for `{line}`"))?;
    Ok((status, output))
}

/// `cargo run`, which starts xtask, describes xtask in the environment. A step, or a Go service that memgate launches
/// in it, must see the user's environment instead.
fn forget_cargo_run(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if describes_xtask(&name) {
            command.env_remove(name);
        }
    }
    let Some(paths) = std::env::var_os("LD_LIBRARY_PATH") else { return };
    match without_cargo_paths(&paths, std::env::current_exe().ok().as_deref()) {
        Some(rest) => command.env("LD_LIBRARY_PATH", rest),
        None => command.env_remove("LD_LIBRARY_PATH"),
    };
}

fn describes_xtask(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let prefixes = ["CARGO_PKG_", "CARGO_MANIFEST_"];
    name == "CARGO" || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

/// The library path without the directories that cargo and rustup put before it: xtask's target directory and those of
/// the toolchain. `None` if nothing remains.
fn without_cargo_paths(paths: &OsStr, xtask: Option<&Path>) -> Option<OsString> {
    let build = xtask.and_then(Path::parent);
    let is_cargos = |path: &Path| {
        build.is_some_and(|build| path.starts_with(build))
            || path.components().any(|part| part.as_os_str() == "rustlib")
            || path.join("rustlib").is_dir()
    };
    let rest: Vec<_> =
        std::env::split_paths(paths).filter(|path| !path.as_os_str().is_empty() && !is_cargos(path)).collect();
    if rest.is_empty() { None } else { std::env::join_paths(rest).ok() }
}

#[cfg(test)]
mod tests {
    use xshell::{Shell, cmd};

    use super::*;

    #[test]
    fn cargos_library_paths_are_dropped_and_the_users_stay() {
        let xtask = Path::new("/src/target/debug/xtask");
        let all =
            OsStr::new("/src/target/debug/deps:/src/target/debug:/r/lib/rustlib/x86_64-unknown-linux-gnu/lib:/opt/lib");
        assert_eq!(without_cargo_paths(all, Some(xtask)).unwrap(), "/opt/lib");
        assert_eq!(without_cargo_paths(OsStr::new("/src/target/debug"), Some(xtask)), None);
    }

    #[test]
    fn what_describes_xtask_is_told_from_what_configures_cargo() {
        for name in ["CARGO", "CARGO_PKG_NAME", "CARGO_MANIFEST_DIR"] {
            assert!(describes_xtask(OsStr::new(name)), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_TERM_COLOR", "CARGO_TARGET_DIR", "PATH"] {
            assert!(!describes_xtask(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn failure_names_the_command_line_and_its_end() {
        let sh = Shell::new().unwrap();
        let script = "exit 7";
        let report = run(cmd!(sh, "sh -c {script}")).unwrap_err();
        assert_eq!(report.to_string(), "`sh -c \"exit 7\"` failed: exit status: 7");
        let report = run(cmd!(sh, "memgate-no-such-program")).unwrap_err();
        assert_eq!(report.to_string(), "cannot start `memgate-no-such-program`");
    }

    #[test]
    fn output_is_captured() {
        let sh = Shell::new().unwrap();
        assert_eq!(capture(cmd!(sh, "echo word")).unwrap(), "word\n");
        assert_eq!(probe(cmd!(sh, "false")), None);
        assert!(succeeds(cmd!(sh, "true")).unwrap());
        assert!(!succeeds(cmd!(sh, "false")).unwrap());
    }

    #[test]
    fn an_exit_code_can_be_a_result() {
        let (sh, dir) = (Shell::new().unwrap(), tempfile::tempdir().unwrap());
        let log = dir.path().join("log");
        let script = "echo out; echo error >&2; exit 3";
        assert_eq!(outcome(cmd!(sh, "sh -c {script}"), &log).unwrap(), Some(3));
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "out\nerror\n");
        let script = "kill -9 $$";
        assert_eq!(outcome(cmd!(sh, "sh -c {script}"), &log).unwrap(), None);
        assert!(outcome(cmd!(sh, "true"), &dir.path().join("none/log")).is_err());
    }
}
