//! The report formats, in one table, and the outputs that the command line names.
//!
//! A new format is a row in the table and a module with a function `render`. Names, help texts and default file names
//! come from the rows; tests compare the snapshots and the table in docs/reference/reports.md with them.

use std::{path::PathBuf, str::FromStr};

use memgate_evidence::error::{InputError, Result};
use memgate_verdict::results::Report;

use super::{github, json, junit, markdown, terminal};

/// Makes [`Format`] from a row for each format.
macro_rules! formats {
    ($(
        #[doc = $sentence:literal]
        $format:ident { name: $name:literal, file: $file:literal, module: $module:ident }
    )+) => {
        /// A format of the report. docs/reference/reports.md describes each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Format {
            $(#[doc = $sentence] $format,)+
        }

        impl Format {
            /// Every format, in the order in which help texts and messages list them.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$format),+];

            /// The format's name on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$format => $name,)+ }
            }

            /// What the format is, in a sentence.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$format => $sentence.trim_ascii(),)+ }
            }

            /// The usual name of a file in this format.
            pub const fn file_name(self) -> &'static str {
                match self { $(Self::$format => $file,)+ }
            }
        }

        /// The report in a format, with a newline at its end. The same report gives the same text.
        pub fn render(report: &Report, format: Format, style: Style) -> String {
            match format { $(Format::$format => $module::render(report, style),)+ }
        }
    };
}

formats! {
    /// Tables for a person at a terminal or in a log.
    Terminal { name: "terminal", file: "report.txt", module: terminal }
    /// The whole report, for programs.
    Json { name: "json", file: "report.json", module: json }
    /// A comment on a pull request.
    Markdown { name: "markdown", file: "report.md", module: markdown }
    /// Test results in XML, as CI systems read them.
    Junit { name: "junit", file: "junit.xml", module: junit }
    /// Annotations of GitHub Actions.
    Github { name: "github", file: "annotations.txt", module: github }
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
            None => Err(format!("`{text}` is not a format; expected one of {names}")),
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
            format!("Give one of them a file of its own: `--format {}={}`.", second.format, second.format.file_name()),
        )
        .into());
    }
    Ok(())
}

/// The style of [`Format::Terminal`]. The caller takes it from `NO_COLOR` and from the kind of standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    /// Whether to use ANSI colours.
    pub colour: bool,
    /// The width that tables must fit into, columns; `None` for no limit.
    pub width: Option<u16>,
}
