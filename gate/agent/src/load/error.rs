//! Failures of a whole load. A failing request is not one.

use std::{io, path::PathBuf};

use memgate_evidence::error::{FailureKind, Stage};

use crate::log::LogEnd;

/// Why there is no load, or why it does not last for the whole time.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum LoadError {
    /// A URL names a host without an address.
    #[error("The host `{host}` of a URL cannot be resolved.")]
    #[diagnostic(help("Use an address such as 127.0.0.1, or a name that this machine knows."))]
    UnknownHost {
        /// The host.
        host: String,
        /// The resolver's reason.
        source: io::Error,
    },
    /// The connections and the rest need more file descriptors than the process may have.
    #[error("{connections} connections do not fit in the limit of {limit} open files.")]
    #[diagnostic(help("Raise it with `ulimit -n {needed}`, or use fewer connections."))]
    TooFewFiles {
        /// Connections that the load makes.
        connections: u64,
        /// File descriptors that the process may have.
        limit: u64,
        /// File descriptors that it needs.
        needed: u64,
    },
    /// The thread or its runtime cannot be started.
    #[error("The load generator could not be started.")]
    #[diagnostic(help("Check the limits on processes and open files (`ulimit -a`)."))]
    NotStarted(#[source] io::Error),
    /// The timer that paces the requests fails.
    #[error("The timer of the load generator failed.")]
    #[diagnostic(help("Check the limit on open files (`ulimit -n`)."))]
    Timer(#[source] io::Error),
    /// A client's task panicked.
    #[error("The load generator failed.")]
    #[diagnostic(help("This is a bug in memgate; please report it."))]
    Client(#[source] tokio::task::JoinError),
    /// The thread panicked.
    #[error("The load generator panicked.")]
    #[diagnostic(help("This is a bug in memgate; please report it."))]
    Panicked,
    /// The histogram of latencies cannot be created.
    #[error("The histogram of latencies cannot be created.")]
    #[diagnostic(help("This is a bug in memgate; please report it."))]
    Histogram(#[source] hdrhistogram::CreationError),
    /// The host's load generator failed, or the guest does not reach it.
    #[error("The host's load generator failed: {reason}.")]
    #[diagnostic(help("If the guest was not ended meanwhile, this is a bug in memgate; please report it."))]
    Host {
        /// The reason.
        reason: String,
    },
    /// The phases have a length that only the built-in load has.
    #[error("The phases of a load command cannot have lengths in requests.")]
    #[diagnostic(help("Write times, such as `measure: 60s`."))]
    NoRequests,
    /// The load command has no words.
    #[error("The load command is empty.")]
    #[diagnostic(help("Write `command: [k6, run, load.js]`."))]
    NoCommand,
    /// The file for the command's output cannot be opened.
    #[error("The log {log} of the load command cannot be written.")]
    #[diagnostic(help("Choose another `--out` directory."))]
    Log {
        /// The file.
        log: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The command does not exist, or may not be executed.
    #[error("The load command `{name}` cannot be started in {directory}.")]
    #[diagnostic(help("Install it, or correct `load.command`."))]
    CommandNotStarted {
        /// Its first word.
        name: String,
        /// Its working directory.
        directory: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The service was not under load for the whole time.
    #[error("The load command `{name}` ended {how} before the end of the measuring phase{output}")]
    #[diagnostic(help(
        "Let the command run longer than the warm-up and the measuring phase together; memgate ends it. Its output is in {}.",
        log.display()
    ))]
    CommandEnded {
        /// Its first word.
        name: String,
        /// The exit code or the signal, as words.
        how: String,
        /// The end of its output.
        output: LogEnd,
        /// The file with its output.
        log: PathBuf,
    },
    /// Something else has waited for the command.
    #[error("The load command `{name}` cannot be watched.")]
    #[diagnostic(help("Check that nothing else waits for memgate's child processes."))]
    Unwatchable {
        /// Its first word.
        name: String,
        /// The kernel's reason.
        source: nix::Error,
    },
}

impl FailureKind for LoadError {
    fn stage(&self) -> Stage {
        match self {
            Self::UnknownHost { .. } => Stage::Preflight,
            Self::TooFewFiles { .. }
            | Self::NotStarted(_)
            | Self::Timer(_)
            | Self::Client(_)
            | Self::Panicked
            | Self::Histogram(_)
            | Self::Host { .. }
            | Self::NoRequests
            | Self::NoCommand
            | Self::Log { .. }
            | Self::CommandNotStarted { .. }
            | Self::CommandEnded { .. }
            | Self::Unwatchable { .. } => Stage::Load,
        }
    }
}
