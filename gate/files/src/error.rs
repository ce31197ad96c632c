//! Why a file cannot be written.

use std::{io, path::PathBuf};

use memgate_evidence::error::{FailureKind, Stage};

/// Why memgate could not write one of its files.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum OutputError {
    /// A file or directory at a path from the command line.
    #[error("{path} cannot be written")]
    #[diagnostic(help("choose another directory with {option}, or make room"))]
    Path {
        /// The file or directory.
        path: PathBuf,
        /// The command line's option for the path, such as `--out`.
        option: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// An evidence file.
    #[error("The evidence cannot be written to {path}.")]
    #[diagnostic(help("Make room there, or choose another directory with `--out`, and run again."))]
    Evidence {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Evidence that JSON cannot represent.
    #[error("The evidence cannot be written as JSON.")]
    #[diagnostic(help("This is a bug in memgate; please report it."))]
    Json(#[source] serde_json::Error),
    /// Evidence that memgate would not read again.
    #[error("The evidence has {bytes} bytes, more than the {limit} that memgate reads back.")]
    #[diagnostic(help("Shorten the phases or lower the load's rate."))]
    TooLarge {
        /// The size of the file, bytes.
        bytes: usize,
        /// The largest allowed size, bytes.
        limit: u64,
    },
}

impl FailureKind for OutputError {
    fn stage(&self) -> Stage {
        Stage::Output
    }
}
