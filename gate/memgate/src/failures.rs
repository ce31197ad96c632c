//! Services that cannot be measured or judged, beside those that can. What fails in one is that one's result.

use std::io::IsTerminal as _;

use memgate_evidence::error::{Error, FailureText, Result, Stage};
use memgate_verdict::results::ServiceFailure;
use miette::{GraphicalReportHandler, GraphicalTheme};

use crate::{
    narrator::Narrator,
    secrets,
    select::{Against, Target},
};

/// The outcome for each service on each platform.
#[derive(Debug)]
pub struct Outcomes<T> {
    /// What was made of those that could be measured.
    pub done: Vec<T>,
    /// Why the others could not.
    pub failures: Vec<ServiceFailure>,
}

impl<T> Default for Outcomes<T> {
    fn default() -> Self {
        Self { done: Vec::new(), failures: Vec::new() }
    }
}

impl<T> Outcomes<T> {
    /// Keeps the outcome of one service. Says at once why it failed.
    ///
    /// # Errors
    /// Fails if memgate was interrupted, which ends everything.
    pub(crate) fn keep(
        &mut self,
        target: &Target<'_>,
        options: &[String],
        step: Stage,
        outcome: Result<T>,
        narrator: &Narrator,
    ) -> Result<()> {
        match outcome {
            Ok(done) => self.done.push(done),
            Err(error) => {
                let mut failure = FailureText::of(error, step)?.masked(&secrets::all());
                if let Some(Against { name, .. }) = &target.against {
                    failure.message = format!("{name}: {}", failure.message);
                }
                narrator.say(&format!("{} failed:\n{}", target.title(), rendered(failure.clone().into()).trim_end()));
                let (service, platform, options) = (target.service.name.clone(), target.platform, options.to_vec());
                self.failures.push(ServiceFailure { service, platform, options, failure });
            }
        }
        Ok(())
    }
}

/// The error for the user: what happened, a line for each cause that adds something, and what to do. In colour if
/// stderr may have it.
pub(crate) fn rendered(error: Error) -> String {
    let theme = if std::io::stderr().is_terminal() && colour_is_allowed() {
        GraphicalTheme::unicode()
    } else {
        GraphicalTheme::unicode_nocolor()
    };
    rendered_with(error, theme)
}

fn rendered_with(error: Error, theme: GraphicalTheme) -> String {
    let error = match error {
        // Lines are broken below, where nothing could be found any more.
        Error::Infrastructure(failure) => failure.text().masked(&secrets::all()).into(),
        error @ (Error::Input(_) | Error::Interrupted) => error,
    };
    let mut text = String::new();
    match GraphicalReportHandler::new_themed(theme).with_width(120).render_report(&mut text, &error) {
        Ok(()) => text,
        Err(_) => format!("{error:#}\n"),
    }
}

/// Whether the user allows colour (<https://no-color.org>).
pub(crate) fn colour_is_allowed() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::{error::Error as _, io};

    use memgate_files::OutputError;
    use memgate_qemu::guest::GuestError;

    use super::*;
    use crate::{gobuild::BuildError, guest_runner::GuestRunError, preflight::PreflightError};

    fn refused() -> io::Error {
        io::Error::other("the system refuses")
    }

    #[test]
    fn failures_of_each_stage_keep_the_systems_reason() {
        let status = procfs::ProcError::Io(refused(), None);
        let errors: [(Stage, Error); 4] = [
            (Stage::Preflight, PreflightError::Status(status).into()),
            (Stage::Build, BuildError::NotStarted { go: "/go".into(), source: refused() }.into()),
            (Stage::Guest, GuestRunError::from(GuestError::Host { what: "a socket".into(), error: refused() }).into()),
            (Stage::Output, OutputError::Path { path: "/x".into(), option: "--out", source: refused() }.into()),
        ];
        for (stage, error) in errors {
            assert!(error.source().is_some(), "{stage}");
            let text = rendered_with(error, GraphicalTheme::unicode_nocolor());
            assert!(text.contains(&format!("× {stage}: ")), "{text}");
            assert_eq!(text.matches("the system refuses").count(), 1, "exactly once: {text}");
            assert!(text.contains("help: "), "{text}");
        }
    }

    #[test]
    fn each_cause_has_its_own_line() {
        let cause = OutputError::Evidence { path: "/run/x".into(), source: refused() };
        let error = Error::caused(Stage::Collect, "the run was not saved", cause, "try again");
        assert_eq!(
            rendered_with(error, GraphicalTheme::unicode_nocolor()),
            "  × collect: the run was not saved\n  ├─▶ The evidence cannot be written to /run/x.\n  ╰─▶ the system refuses\n  help: try again\n"
        );
    }
}
