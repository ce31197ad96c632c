//! Why what a service needs is not there.

use std::{io, net::SocketAddr, path::PathBuf};

use memgate_evidence::error::{FailureKind, Stage};

use crate::{CgroupError, log::LogEnd, wait::Exit};

/// Why what a service needs is not there.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum BesideError {
    /// The fresh directory of the run cannot be made.
    #[error("the directory for MEMGATE_TMP cannot be made")]
    #[diagnostic(help("make room in the directory for temporary files, or name another one in TMPDIR"))]
    Scratch(#[source] io::Error),
    /// No cgroup can enforce the memory limit of a sidecar.
    #[error("the memory of the sidecar `{name}` cannot be limited")]
    #[diagnostic(help(
        "remove its `memory_max`, or run memgate where it gets a cgroup with the memory controller \
         (docs/how-to/without-root.md)"
    ))]
    Limit {
        /// The sidecar.
        name: String,
        /// The reason.
        source: CgroupError,
    },
    /// A program does not exist, or may not be executed.
    #[error("{who} cannot be started: `{program}` in {directory}")]
    #[diagnostic(help("install it, correct its `command`, or let its user reach the program and its `directory`"))]
    NotStarted {
        /// Who it is.
        who: String,
        /// The first word.
        program: String,
        /// Its working directory.
        directory: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The file for the output cannot be made.
    #[error("the output of {who} cannot go to {log}")]
    #[diagnostic(help("make room there, or choose another `--out` directory"))]
    Log {
        /// Who it is.
        who: String,
        /// The file.
        log: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Two sidecars want one port.
    #[error("the sidecar `{name}` is to listen at {address}, where the sidecar `{other}` listens")]
    #[diagnostic(help("give one of the two another port"))]
    Port {
        /// The address.
        address: SocketAddr,
        /// The one that listens there.
        other: String,
        /// The one that is to start.
        name: String,
    },
    /// A process of another has the port of a sidecar.
    #[error("another process listens at {address}, where the sidecar `{name}` is to listen")]
    #[diagnostic(help(
        "end it (`ss -ltnp 'sport = :{}'` names it), or give the sidecar another port",
        address.port()
    ))]
    Taken {
        /// The address.
        address: SocketAddr,
        /// The sidecar.
        name: String,
    },
    /// A sidecar has ended by itself.
    #[error("the sidecar `{name}` ended {when}: {exit}{output}")]
    #[diagnostic(help("see its output in {}; it must stay in the foreground", log.display()))]
    Ended {
        /// The sidecar.
        name: String,
        /// How it ended.
        exit: Exit,
        /// When it ended, as words.
        when: &'static str,
        /// The end of its output.
        output: LogEnd,
        /// The file with its output.
        log: PathBuf,
    },
    /// A command before the service has failed.
    #[error("`{command}` failed before the service: {exit}{output}")]
    #[diagnostic(help("see its output in {}; memgate starts the service only if it ends with exit code 0", log.display()))]
    Failed {
        /// Its words.
        command: String,
        /// How it ended.
        exit: Exit,
        /// The end of its output.
        output: LogEnd,
        /// The file with its output.
        log: PathBuf,
    },
    /// A command before the service does not end.
    #[error("`{command}` did not end within {seconds} s before the service{output}")]
    #[diagnostic(help("see its output in {}, or raise its `timeout`", log.display()))]
    TooLong {
        /// Its words.
        command: String,
        /// The time that it had, s.
        seconds: f64,
        /// The end of its output.
        output: LogEnd,
        /// The file with its output.
        log: PathBuf,
    },
    /// Something else has waited for a process.
    #[error("`{name}` cannot be watched")]
    #[diagnostic(help("check that nothing else waits for memgate's child processes"))]
    Unwatchable {
        /// The sidecar or the command.
        name: String,
        /// The kernel's reason.
        source: nix::Error,
    },
}

impl FailureKind for BesideError {
    fn stage(&self) -> Stage {
        Stage::Launch
    }
}
