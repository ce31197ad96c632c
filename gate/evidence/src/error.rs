//! What can go wrong, and the exit code that each failure has.
//!
//! A verdict is not an error: exit codes 0, 1 and 3 come from `Verdict::exit_code` in the crate `memgate-verdict`.

mod infrastructure;

pub use infrastructure::{FailureKind, FailureText, InfrastructureError, causes, in_full};
use miette::{Diagnostic, NamedSource, SourceSpan};

/// Every failure that ends a command without a verdict.
///
/// `{error}` is what happened, without its causes, which [`source`](std::error::Error::source) gives. `{error:#}` is all of
/// it in one line.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum Error {
    /// The command line, a configuration, a baseline or an evidence file is wrong: exit code 2.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Input(#[from] Box<InputError>),
    /// Build, launch, collector, load generator or output failed: exit code 4.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Infrastructure(Box<InfrastructureError>),
    /// Ctrl-C or SIGTERM: exit code 130.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// An infrastructure failure that nothing else caused. `message` is one or several full sentences; `help` is what the
    /// user can do.
    pub fn infrastructure(stage: Stage, message: impl Into<String>, help: impl Into<String>) -> Self {
        infrastructure::Message::new(stage, message.into(), help.into(), None).into()
    }

    /// An infrastructure failure with what caused it. `message` does not repeat `source`, whose own causes are kept too.
    pub fn caused(
        stage: Stage,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
        help: impl Into<String>,
    ) -> Self {
        infrastructure::Message::new(stage, message.into(), help.into(), Some(source.into())).into()
    }

    /// The failure as the type that it was made of, to decide by; `None` where it is of another type.
    pub fn kind<K: FailureKind>(&self) -> Option<&K> {
        match self {
            Self::Infrastructure(failure) => failure.kind(),
            Self::Input(_) | Self::Interrupted => None,
        }
    }

    /// The process exit code: 2, 4 or 130.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Input(_) => 2,
            Self::Infrastructure(_) => 4,
            Self::Interrupted => 130,
        }
    }
}

impl From<InputError> for Error {
    fn from(error: InputError) -> Self {
        Self::Input(Box::new(error))
    }
}

/// The step of the pipeline in which an infrastructure failure happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Stage {
    /// Privileges, kernel features and tools that a run needs.
    Preflight,
    /// `go build`.
    Build,
    /// Making a guest's image, starting it, and speaking with it.
    Guest,
    /// Starting the service and waiting until it is ready.
    Launch,
    /// eBPF, procfs and the reading of the service's memory.
    Collect,
    /// The load generator.
    Load,
    /// Writing evidence or a report.
    Output,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Preflight => "preflight",
            Self::Build => "build",
            Self::Guest => "guest",
            Self::Launch => "launch",
            Self::Collect => "collect",
            Self::Load => "load",
            Self::Output => "output",
        })
    }
}

/// Wrong input, with the place where it is wrong when it is in a file.
///
/// `message` names the file and, where there is one, the key; the span shows line and column.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{message}")]
pub struct InputError {
    /// What is wrong, and what was expected.
    pub message: String,
    /// The text of the file, when there is a place in it to point at.
    #[source_code]
    pub source_text: Option<NamedSource<String>>,
    /// The place in the text.
    #[label("{label}")]
    pub span: Option<SourceSpan>,
    /// What stands beside the place.
    pub label: String,
    /// What to write or do instead.
    #[help]
    pub help: Option<String>,
}

impl InputError {
    /// Wrong input that has no place in a file.
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), source_text: None, span: None, label: String::new(), help: Some(help.into()) }
    }
}

/// The result of everything that can fail with an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
