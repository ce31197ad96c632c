//! YAML files that people write: read with limits, parsed strictly, and refused with the place of the mistake.
//!
//! A file is checked twice. First its structure, whatever it means: duplicate keys, tags, aliases that expand without end.
//! `serde` alone lets the last of two equal keys of a map win. Then it is deserialized into the types of its format.

use std::{fs::File, io::Read, path::Path};

use memgate_evidence::error::{Error, InputError, Result};
use memgate_verdict::quoted::printable;
use serde::de::DeserializeOwned;

mod message;
mod place;
mod scalar;
mod structure;
mod text;

pub use place::KeyPath;
pub use scalar::{Kind, Scalar, Text, Version, Whole};
pub use text::is_printable;

/// The largest file that is read, bytes. What people write by hand is a hundredth of it.
pub const LARGEST_FILE: u64 = 1 << 20;

/// Characters of a message that are kept. It can quote a key of any length.
const LONGEST_MESSAGE: usize = 500;

/// Bytes of a line that is still shown.
const LONGEST_LINE: usize = 500;

/// The text of a YAML file, with the name that messages call it by.
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
    /// What stands beside the place: `expected a duration`.
    pub label: String,
    /// What to write instead.
    pub help: String,
}

impl Problem {
    /// A problem with what stands beside the place and what to write instead.
    pub fn new(what: impl Into<String>, label: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what: what.into(), label: label.into(), help: help.into() }
    }
}

impl Source {
    /// A text that has been read already.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        // The parser does not count a byte order mark: places would be off.
        let text = text.strip_prefix('\u{feff}').map_or_else(|| text.clone(), str::to_owned);
        Self { name: name.into(), text }
    }

    /// Reads a file of at most [`LARGEST_FILE`] bytes; `None` when there is none.
    ///
    /// # Errors
    /// The path is no regular file, is too large, cannot be read or is not UTF-8.
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
        // One byte more than allowed tells a file that is too large, also one that grows while it is read.
        let limited = File::open(path).and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes));
        limited.map_err(|error| unreadable(&error))?;
        text::decode(&name, bytes).map(|text| Some(Self::new(name, text)))
    }

    /// Deserializes the text.
    ///
    /// # Errors
    /// The text is empty, is not YAML, nests or expands too deeply, has a duplicate key, or is not a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        text::check(self)?;
        structure::check(&self.text).map_err(|error| self.parse_error(&error))?;
        serde_yaml::from_str(&self.text).map_err(|error| self.parse_error(&error))
    }

    /// The error for a problem with what was parsed without one.
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
        // A line of half a megabyte would hide the message that it is to explain.
        if place::line_length(&self.text, offset) <= LONGEST_LINE {
            let (start, length) = place::token(&self.text, offset);
            error.span = Some((start, length).into());
            error.source_text = Some(miette::NamedSource::new(&self.name, self.text.clone()).with_language("yaml"));
        }
        error.into()
    }
}
