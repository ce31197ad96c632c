//! YAML files that people write. memgate limits their size, parses them strictly, and names the place of a mistake.
//!
//! A file is checked twice. First memgate checks the structure: duplicate keys, tags, aliases that expand without end.
//! (`serde` alone lets the last of two equal keys win.) Then it deserializes the file into the types of its format.

use std::{fs::File, io::Read, path::Path};

use memgate_evidence::error::{Error, InputError, Result};
use memgate_verdict::quoted::printable;
use serde::de::DeserializeOwned;

mod message;
mod ordered;
mod place;
mod scalar;
mod structure;
mod text;

pub(crate) use ordered::Ordered;
pub use place::KeyPath;
pub use scalar::{Kind, Scalar, Text, Version, Whole};
pub use text::is_printable;

/// The largest file that is read, bytes. Handwritten files are about a hundredth of it.
pub const LARGEST_FILE: u64 = 1 << 20;

/// How many characters of a message are kept. It can quote a key of any length.
const LONGEST_MESSAGE: usize = 1200;

/// The longest line that is shown, bytes.
const LONGEST_LINE: usize = 500;

/// The text of a YAML file and its name in messages.
#[derive(Debug, Clone)]
pub struct Source {
    name: String,
    text: String,
}

/// What is wrong at a place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, as a clause without a full stop.
    pub what: String,
    /// The label at the place, such as `expected a duration`.
    pub label: String,
    /// What to write instead.
    pub help: String,
}

impl Problem {
    /// A problem with its label and what to write instead.
    pub fn new(what: impl Into<String>, label: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what: what.into(), label: label.into(), help: help.into() }
    }
}

impl Source {
    /// Text that has already been read.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        // The parser does not count a byte order mark, which would shift all places.
        let text = text.strip_prefix('\u{feff}').map_or_else(|| text.clone(), str::to_owned);
        Self { name: name.into(), text }
    }

    /// Reads a file of at most [`LARGEST_FILE`] bytes; `None` if there is none.
    ///
    /// # Errors
    /// When the path is not a regular file, or the file is too large, cannot be read or is not UTF-8.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let name = path.display().to_string();
        let unreadable = |error: &std::io::Error| {
            InputError::new(
                format!("{name}: cannot be read: {error}"),
                "check the file's permissions, or name another file",
            )
        };
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(&error).into()),
        };
        if !metadata.is_file() {
            let kind = if metadata.is_dir() { "a directory" } else { "not a regular file" };
            return Err(InputError::new(format!("{name}: is {kind}"), "name a YAML file").into());
        }
        let mut bytes = Vec::new();
        // Reads one byte more than allowed to detect a file that is too large, or that grows while it is read.
        let limited = File::open(path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes));
        limited.map_err(|error| unreadable(&error))?;
        text::decode(&name, bytes).map(|text| Some(Self::new(name, text)))
    }

    /// Deserializes the text.
    ///
    /// # Errors
    /// When the text is empty, is not YAML, nests or expands too deeply, has a duplicate key, or is not a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        text::check(self)?;
        structure::check(&self.text).map_err(|error| self.parse_error(&error))?;
        serde_yaml::from_str(&self.text).map_err(|error| self.parse_error(&error))
    }

    /// The error for a problem with a value that was parsed without one.
    pub fn error(&self, place: &KeyPath, problem: Problem) -> Error {
        let path = place.to_string();
        let what = if path.is_empty() { problem.what } else { format!("{path}: {}", problem.what) };
        self.error_at(place.find(&self.text), Problem { what, ..problem })
    }

    fn parse_error(&self, error: &serde_yaml::Error) -> Error {
        let (offset, problem) = message::explain(&self.text, error);
        self.error_at(offset, problem)
    }

    /// The error for a problem at a byte of the text.
    fn error_at(&self, offset: Option<usize>, problem: Problem) -> Error {
        let what = printable(&problem.what, LONGEST_MESSAGE);
        let mut error = InputError::new(format!("{}: {what}", self.name), printable(&problem.help, LONGEST_MESSAGE));
        error.label = printable(&problem.label, LONGEST_MESSAGE);
        let Some(offset) = offset.filter(|offset| self.text.is_char_boundary(*offset)) else { return error.into() };
        let (line, column) = place::line_and_column(&self.text, offset);
        error.message = format!("{}:{line}:{column}: {what}", self.name);
        // A line of half a megabyte would hide the message.
        if place::line_length(&self.text, offset) <= LONGEST_LINE {
            let (start, length) = place::token(&self.text, offset);
            error.span = Some((start, length).into());
            error.source_text = Some(miette::NamedSource::new(&self.name, self.text.clone()).with_language("yaml"));
        }
        error.into()
    }
}
