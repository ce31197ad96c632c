//! The failures that xtask distinguishes. All others are plain reports.

use miette::Diagnostic;

/// Why a chore ended early.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub(crate) enum Error {
    /// A step's command could not be started.
    #[error("cannot start `{command}`")]
    Start {
        /// The command line.
        command: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A step's command ran and failed.
    #[error("`{command}` failed: {status}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
    },
    /// Ctrl-C, SIGTERM or SIGHUP came. The running step has been ended.
    #[error("interrupted")]
    Interrupted,
}
