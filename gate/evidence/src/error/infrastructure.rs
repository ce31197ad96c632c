//! Infrastructure failures: the kind, which is declared beside the failing code, the step of the pipeline, and the
//! causes.

use std::{error::Error as StdError, fmt};

use miette::Diagnostic;

use super::{Error, Stage};
use crate::secrets::Secrets;

/// A kind of infrastructure failure: an enum beside the failing code. `Display` shows what happened and leaves the
/// cause to `source`. `help` of [`Diagnostic`] says what the user can do. It becomes an [`Error`] with `?` or `into`.
pub trait FailureKind: Diagnostic + Send + Sync + 'static {
    /// The step of the pipeline that fails.
    fn stage(&self) -> Stage;
}

impl<K: FailureKind> From<K> for Error {
    fn from(kind: K) -> Self {
        Self::Infrastructure(Box::new(InfrastructureError { kind: Box::new(kind) }))
    }
}

/// A failed step: "STAGE: what happened". `{error:#}` appends the causes.
#[derive(Debug)]
pub struct InfrastructureError {
    kind: Box<dyn FailureKind>,
}

impl InfrastructureError {
    /// The process exit code.
    pub const EXIT_CODE: u8 = 4;

    /// The step that failed.
    pub fn stage(&self) -> Stage {
        self.kind.stage()
    }

    /// The failure with the type from which it was made.
    pub fn kind<K: FailureKind>(&self) -> Option<&K> {
        let kind: &(dyn StdError + 'static) = &*self.kind;
        kind.downcast_ref()
    }

    /// The failure as text.
    pub fn text(&self) -> FailureText {
        FailureText {
            stage: self.stage(),
            message: self.kind.to_string(),
            causes: causes(&*self.kind),
            help: self.kind.help().map(|help| help.to_string()),
        }
    }
}

impl fmt::Display for InfrastructureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.stage())?;
        if f.alternate() { f.write_str(&in_full(&*self.kind)) } else { write!(f, "{}", self.kind) }
    }
}

impl StdError for InfrastructureError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.kind.source()
    }
}

impl Diagnostic for InfrastructureError {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.kind.help()
    }
}

/// An infrastructure failure as text, which a guest sends over its channel, which reports show and which users read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
pub struct FailureText {
    /// The step that failed.
    pub stage: Stage,
    /// What happened.
    pub message: String,
    /// The causes, the nearest first. None repeats the text before it.
    pub causes: Vec<String>,
    /// What the user can do.
    pub help: Option<String>,
}

impl FailureText {
    /// The failure of a step that could not be carried out because of `error`. Other failures than those of the
    /// infrastructure name no step.
    ///
    /// # Errors
    /// Fails with [`Error::Interrupted`] itself, which is not about the step.
    pub fn of(error: Error, step: Stage) -> Result<Self, Error> {
        match error {
            Error::Infrastructure(failure) => Ok(failure.text()),
            Error::Input(input) => {
                Ok(Self { stage: step, message: input.message, causes: Vec::new(), help: input.help })
            }
            Error::Interrupted => Err(Error::Interrupted),
        }
    }
}

impl FailureText {
    /// The same without the secrets.
    pub fn masked(self, secrets: &Secrets) -> Self {
        let mask = |text: String| secrets.mask(&text).into_owned();
        let Self { stage, message, causes, help } = self;
        Self { stage, message: mask(message), causes: causes.into_iter().map(mask).collect(), help: help.map(mask) }
    }
}

impl From<FailureText> for Error {
    fn from(text: FailureText) -> Self {
        let FailureText { stage, message, causes, help } = text;
        let source = causes.into_iter().rev().fold(None, |source, text| Some(Box::new(Cause { text, source })));
        Message { stage, message, help, source: source.map(|cause| cause as Box<dyn StdError + Send + Sync>) }.into()
    }
}

/// The causes of an error, the nearest first. A cause is left out if earlier text contains it, because many errors
/// print their source.
pub fn causes(error: &dyn StdError) -> Vec<String> {
    let mut said = error.to_string();
    let mut causes = Vec::new();
    for cause in std::iter::successors(error.source(), |&error| error.source()) {
        let text = cause.to_string();
        if !said.contains(&text) {
            said.push('\n');
            said.push_str(&text);
            causes.push(text);
        }
    }
    causes
}

/// An error with its causes: `the service's memory cannot be limited: memory.max: Permission denied (os error 13)`.
pub fn in_full(error: &dyn StdError) -> String {
    causes(error).iter().fold(error.to_string(), |mut text, cause| {
        // The causes continue a full sentence.
        text.truncate(text.trim_end_matches('.').len());
        text + ": " + cause
    })
}

/// A failure without a kind of its own.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{message}")]
pub(super) struct Message {
    stage: Stage,
    message: String,
    #[help]
    help: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Message {
    pub(super) fn new(
        stage: Stage,
        message: String,
        help: String,
        source: Option<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self { stage, message, help: Some(help), source }
    }
}

impl FailureKind for Message {
    fn stage(&self) -> Stage {
        self.stage
    }
}

/// A cause with only its text.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Cause {
    text: String,
    source: Option<Box<Cause>>,
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error, Diagnostic)]
    enum Kind {
        #[error("/x cannot be written.")]
        #[diagnostic(help("make room"))]
        Full(#[source] io::Error),
        #[error("/x: {0}")]
        Repeats(#[source] io::Error),
    }

    impl FailureKind for Kind {
        fn stage(&self) -> Stage {
            Stage::Output
        }
    }

    fn full() -> io::Error {
        io::Error::other("no space left")
    }

    #[test]
    fn an_error_keeps_its_kind_and_its_source() {
        let error = Error::from(Kind::Full(full()));
        assert!(matches!(error.kind(), Some(Kind::Full(_))));
        assert!(Error::infrastructure(Stage::Output, "m", "h").kind::<Kind>().is_none());
        assert!(error.source().unwrap().is::<io::Error>());
        assert_eq!(error.to_string(), "output: /x cannot be written.");
        assert_eq!(format!("{error:#}"), "output: /x cannot be written: no space left");
        assert_eq!(error.help().unwrap().to_string(), "make room");
        assert_eq!(error.exit_code(), 4);
    }

    #[test]
    fn a_source_is_printed_only_once() {
        let error = Error::from(Kind::Repeats(full()));
        assert!(error.source().is_some());
        assert_eq!(format!("{error:#}"), "output: /x: no space left");
    }

    #[test]
    fn a_message_keeps_its_source() {
        let error = Error::caused(Stage::Collect, "a probe was refused", Kind::Full(full()), "run as root");
        assert_eq!(format!("{error:#}"), "collect: a probe was refused: /x cannot be written: no space left");
        assert!(error.source().unwrap().is::<Kind>());
        assert!(Error::infrastructure(Stage::Collect, "m", "h").source().is_none());
    }

    #[test]
    fn causes_are_kept_as_text() {
        let error = Error::caused(Stage::Collect, "a probe was refused", Kind::Full(full()), "run as root");
        let Error::Infrastructure(failure) = &error else { panic!("{error:?}") };
        let text = failure.text();
        assert_eq!(text.causes, ["/x cannot be written.", "no space left"]);
        let again = Error::from(text.clone());
        assert_eq!(format!("{again:#}"), format!("{error:#}"));
        let Error::Infrastructure(again) = again else { panic!("{error:?}") };
        assert_eq!(again.text(), text);
    }
}
