//! How a file cannot be written.

use std::{io, path::PathBuf};

use memgate_evidence::error::{FailureKind, Stage};

/// Why something that memgate makes is not on the disk.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum OutputError {
    /// A file or a directory in one that the command line names.
    #[error("{path} cannot be written")]
    #[diagnostic(help("give another directory with {option}, or make room"))]
    Path {
        /// The file or directory.
        path: PathBuf,
        /// The option of the command line that names where it is: `--out`.
        option: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// An evidence file.
    #[error("The evidence cannot be written to {path}.")]
    #[diagnostic(help("Make room there, or choose another directory with `--out`, and run again."))]
    Evidence {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Evidence that JSON cannot hold.
    #[error("The evidence cannot be written as JSON.")]
    #[diagnostic(help("This is a bug in memgate; please report it."))]
    Json(#[source] serde_json::Error),
    /// Evidence that memgate would not read again.
    #[error("The evidence takes {bytes} bytes, more than the {limit} that memgate reads back.")]
    #[diagnostic(help("Shorten the phases or lower the load's rate."))]
    TooLarge {
        /// What the file would have.
        bytes: usize,
        /// The most that it may have, bytes.
        limit: u64,
    },
}

impl FailureKind for OutputError {
    fn stage(&self) -> Stage {
        Stage::Output
    }
}
