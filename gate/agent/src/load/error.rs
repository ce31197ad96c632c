//! How a load fails as a whole, which a failing request is not.

use std::{io, path::PathBuf};

use memgate_evidence::error::{FailureKind, Stage};

/// Why there is no load, or not for the whole time.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum LoadError {
    /// A URL names a host without an address.
    #[error("The host `{host}` of a URL cannot be resolved.")]
    #[diagnostic(help("Use an address such as 127.0.0.1, or a name that this machine knows."))]
    UnknownHost {
        /// The host.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// The connections and everything else would take more file descriptors than the process may have.
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
    /// The thread or its runtime cannot be made.
    #[error("The load generator could not be started.")]
    #[diagnostic(help("Check the limits on processes and open files (`ulimit -a`)."))]
    NotStarted(#[source] io::Error),
    /// The timer that paces the requests fails.
    #[error("The timer of the load generator failed.")]
    #[diagnostic(help("Check the limit on open files (`ulimit -n`)."))]
    Timer(#[source] io::Error),
    /// A client's task panicked.
    #[error("The load generator failed.")]
    #[diagnostic(help("This is a fault of memgate; please report it."))]
    Client(#[source] tokio::task::JoinError),
    /// The thread panicked.
    #[error("The load generator panicked.")]
    #[diagnostic(help("This is a fault of memgate; please report it."))]
    Panicked,
    /// The histogram of latencies cannot be made.
    #[error("No histogram could be made.")]
    #[diagnostic(help("This is a fault of memgate."))]
    Histogram(#[source] hdrhistogram::CreationError),
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
        /// What the system says.
        source: io::Error,
    },
    /// The command is not there, or not allowed.
    #[error("The load command `{name}` cannot be started in {directory}.")]
    #[diagnostic(help("Install it, or correct `load.command`."))]
    CommandNotStarted {
        /// Its first word.
        name: String,
        /// Its working directory.
        directory: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The service was not under load for the whole time.
    #[error("The load command `{name}` ended {how} before the end of the measuring phase.{}", last_output(.tail))]
    #[diagnostic(help(
        "Let the command run longer than warm-up and measuring phase together; memgate ends it. Its output is in {}.",
        log.display()
    ))]
    CommandEnded {
        /// Its first word.
        name: String,
        /// With which exit code, or by which signal.
        how: String,
        /// The end of its output, if it wrote any.
        tail: Option<String>,
        /// The file with all of it.
        log: PathBuf,
    },
    /// Something else has waited for the command.
    #[error("The load command `{name}` cannot be watched.")]
    #[diagnostic(help("Check that nothing else waits for memgate's child processes."))]
    Unwatchable {
        /// Its first word.
        name: String,
        /// What the kernel says.
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
            | Self::NoCommand
            | Self::Log { .. }
            | Self::CommandNotStarted { .. }
            | Self::CommandEnded { .. }
            | Self::Unwatchable { .. } => Stage::Load,
        }
    }
}

fn last_output(tail: &Option<String>) -> String {
    tail.as_ref().map_or_else(String::new, |tail| format!(" Its last output:\n{tail}"))
}
