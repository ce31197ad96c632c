//! The formats, and where each goes.

use std::{path::PathBuf, str::FromStr};

use memgate_evidence::error::{InputError, Result};
use memgate_verdict::results::Report;

use super::{github, json, junit, markdown, terminal};

/// A form in which a report can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Tables for a person at a terminal or in a log.
    Terminal,
    /// The [`Report`] itself.
    Json,
    /// For a comment on a pull request.
    Markdown,
    /// `JUnit` XML, which every CI system reads.
    Junit,
    /// Annotations of GitHub Actions.
    Github,
}

impl Format {
    /// Every format, in the order in which messages list them.
    pub const ALL: [Self; 5] = [Self::Terminal, Self::Json, Self::Markdown, Self::Junit, Self::Github];

    /// The format's name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Terminal => "terminal",
            Self::Json => "json",
            Self::Markdown => "markdown",
            Self::Junit => "junit",
            Self::Github => "github",
        }
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let names = Self::ALL.map(Self::name).join(", ");
        match Self::ALL.into_iter().find(|format| format.name() == text) {
            Some(format) => Ok(format),
            None if text == "html" => {
                Err(format!("`html` is a format of a later version and not available yet; expected one of {names}"))
            }
            None => Err(format!("`{text}` is no format; expected one of {names}")),
        }
    }
}

/// A format and where it goes, `F[=FILE]` on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The format.
    pub format: Format,
    /// The file; standard output if there is none.
    pub file: Option<PathBuf>,
}

impl FromStr for Output {
    type Err = String;

    /// Reads `F`, `F=FILE`, or `F=-` for standard output.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (format, file) = match text.split_once('=') {
            None => (text, None),
            Some((format, "-")) => (format, None),
            Some((format, "")) => {
                return Err(format!(
                    "`{text}` names no file; write `{format}=FILE`, or `{format}` for standard output"
                ));
            }
            Some((format, file)) => (format, Some(PathBuf::from(file))),
        };
        Ok(Self { format: format.parse()?, file })
    }
}

impl Output {
    /// A format that goes to a file.
    pub const fn to_file(format: Format, file: PathBuf) -> Self {
        Self { format, file: Some(file) }
    }
}

/// Checks that no two outputs go to the same place.
///
/// # Errors
/// [`memgate_evidence::error::Error::Input`] when two formats would go to standard output, or two to one file.
pub fn validate(outputs: &[Output]) -> Result<()> {
    for (index, second) in outputs.iter().enumerate() {
        let Some(first) = outputs[..index].iter().find(|first| first.file == second.file) else { continue };
        let place =
            second.file.as_ref().map_or_else(|| "standard output".to_owned(), |file| file.display().to_string());
        return Err(InputError::new(
            format!("The formats `{}` and `{}` would both go to {place}.", first.format, second.format),
            format!("Give one of them a file of its own: `--format {}=FILE`.", second.format),
        )
        .into());
    }
    Ok(())
}

/// How [`Format::Terminal`] looks; the caller decides by `NO_COLOR` and by what standard output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Whether to use ANSI colours.
    pub colour: bool,
    /// The width that tables are to keep to, columns; `None` for as wide as they need.
    pub width: Option<u16>,
}

/// The report in a format, with a newline at its end. The same report gives the same text.
pub fn render(report: &Report, format: Format, style: Style) -> String {
    match format {
        Format::Terminal => terminal::render(report, style),
        Format::Json => json::render(report),
        Format::Markdown => markdown::render(report),
        Format::Junit => junit::render(report),
        Format::Github => github::render(report),
    }
}
