//! Failures, and the exit code of each.
//!
//! A verdict is not an error: exit codes 0, 1 and 3 come from `Verdict::exit_code` in the crate `memgate-verdict`.

mod infrastructure;

pub use infrastructure::{FailureKind, FailureText, InfrastructureError, causes, in_full};
use miette::{Diagnostic, NamedSource, SourceSpan};

/// A failure that ends a command without a verdict.
///
/// `{error}` shows what happened, without the causes in [`source`](std::error::Error::source). `{error:#}` shows all of
/// it on one line.
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
    /// An infrastructure failure without a cause. `message` consists of full sentences. `help` says what the user can
    /// do.
    pub fn infrastructure(stage: Stage, message: impl Into<String>, help: impl Into<String>) -> Self {
        infrastructure::Message::new(stage, message.into(), help.into(), None).into()
    }

    /// An infrastructure failure with its cause. `message` does not repeat `source`, whose own causes are kept too.
    pub fn caused(
        stage: Stage,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
        help: impl Into<String>,
    ) -> Self {
        infrastructure::Message::new(stage, message.into(), help.into(), Some(source.into())).into()
    }

    /// The failure with the type from which it was made, for decisions by kind; `None` if it has another type.
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
            Self::Infrastructure(_) => InfrastructureError::EXIT_CODE,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Privileges, kernel features and tools that a run needs.
    Preflight,
    /// `go build`.
    Build,
    /// Building a guest's image, starting the guest, and communicating with it.
    Guest,
    /// Starting the service and waiting until it is ready.
    Launch,
    /// eBPF, procfs, and reading the service's memory.
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

/// Wrong input, with its place if it is in a file.
///
/// `message` names the file and, if there is one, the key. The span shows line and column.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{message}")]
pub struct InputError {
    /// What is wrong, and what is expected.
    pub message: String,
    /// The text of the file, if the error has a place in it.
    #[source_code]
    pub source_text: Option<NamedSource<String>>,
    /// The place in the text.
    #[label("{label}")]
    pub span: Option<SourceSpan>,
    /// The text beside the place.
    pub label: String,
    /// What to write or do instead.
    #[help]
    pub help: Option<String>,
}

impl InputError {
    /// Wrong input without a place in a file.
    pub fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), source_text: None, span: None, label: String::new(), help: Some(help.into()) }
    }
}

/// The result of everything that can fail with an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
