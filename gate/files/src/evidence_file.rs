//! Evidence on disk: one JSON object with the schema, a hash and the evidence, then a newline.
//!
//! `{"schema":3,"sha256":"…","evidence":{…}}`. The hash covers the exact bytes of the `evidence` value, so memgate
//! detects a file that was cut off or edited before it judges by it.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use memgate_evidence::{
    Evidence,
    error::{Error, InputError, Result},
};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::{error::Category, value::RawValue};

use crate::{OutputError, sha256, whole as atomic_file};

/// The schema version that this memgate writes, and the only one that it reads.
pub const SCHEMA: u64 = 3;

/// The largest evidence file that memgate writes or reads, bytes.
pub const MAX_BYTES: u64 = 1 << 30;

const RECORD_AGAIN: &str = "Record it again with `memgate record`.";

/// The file, with the evidence as the bytes that were hashed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapper<'a> {
    schema: u64,
    #[serde(borrow)]
    sha256: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    evidence: &'a RawValue,
}

/// The part of a file that every schema has.
#[derive(Deserialize)]
struct SchemaOnly {
    schema: u64,
}

/// An evidence file of memgate.
#[derive(schemars::JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "only its JSON Schema is used: files are read and written through `Wrapper`")]
struct EvidenceFile {
    /// Version of this format.
    #[schemars(range(min = 3, max = 3))]
    schema: u64,
    /// SHA-256 of the bytes of the `evidence` value, in lower-case hexadecimal.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    sha256: String,
    /// The record of one run.
    evidence: Evidence,
}

/// The JSON Schema of an evidence file.
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(EvidenceFile).to_value()
}

/// The bytes of an evidence file.
///
/// # Errors
/// Fails with [`OutputError::TooLarge`] if the file would be larger than [`MAX_BYTES`], which [`decode`] refuses.
pub fn encode(evidence: &Evidence) -> Result<Vec<u8>> {
    encode_up_to(evidence, MAX_BYTES)
}

fn encode_up_to(evidence: &Evidence, max_bytes: u64) -> Result<Vec<u8>> {
    let evidence = serde_json::value::to_raw_value(evidence).map_err(OutputError::Json)?;
    let wrapper = Wrapper { schema: SCHEMA, sha256: sha256::of(evidence.get().as_bytes()).into(), evidence: &evidence };
    let mut bytes = serde_json::to_vec(&wrapper).map_err(OutputError::Json)?;
    bytes.push(b'\n');
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= max_bytes) {
        return Ok(bytes);
    }
    Err(OutputError::TooLarge { bytes: bytes.len(), limit: max_bytes }.into())
}

/// Writes an evidence file, whole or not at all. Makes missing parent directories.
///
/// # Errors
/// Fails with [`OutputError`] if the file cannot be written, for example on a full disk. It leaves no temporary file.
pub fn write(path: &Path, evidence: &Evidence) -> Result<()> {
    let written = atomic_file::write(path, &encode(evidence)?);
    Ok(written.map_err(|source| OutputError::Evidence { path: path.to_owned(), source })?)
}

/// Reads an evidence file.
///
/// # Errors
/// Fails with [`Error::Input`], which has the file's name, if the file is missing, unreadable, larger than
/// [`MAX_BYTES`], or refused by [`decode`].
pub fn read(path: &Path) -> Result<Evidence> {
    let bytes = read_up_to(path, MAX_BYTES)?;
    decode(path, &bytes)
}

fn read_up_to(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    let mut bytes = Vec::new();
    // The length is counted while reading, because a pipe does not state one.
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= max_bytes) {
        return Ok(bytes);
    }
    Err(refused(
        path,
        format!("is larger than {max_bytes} bytes, more than memgate reads"),
        "Is it an evidence file? Record with shorter phases or a lower rate.",
    ))
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => refused(
            path,
            "does not exist",
            "`memgate record` and `memgate check` write evidence to the directory in `--out`.",
        ),
        io::ErrorKind::IsADirectory => {
            refused(path, "is a directory", "Name the evidence files in it: `DIR/*.evidence.json`.")
        }
        _ => refused(path, format!("cannot be read: {error}"), "Check the file's permissions and its disk."),
    }
}

/// The evidence in the bytes of an evidence file. `path` only names the file in errors.
///
/// # Errors
/// Fails with [`Error::Input`] if the bytes are empty, not JSON, cut off, of another schema, changed after they were
/// written, or contain fields that this memgate does not know.
pub fn decode(path: &Path, bytes: &[u8]) -> Result<Evidence> {
    if bytes.is_empty() {
        return Err(refused(path, "is empty", RECORD_AGAIN));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| match error.error_len() {
        None => truncated(path),
        Some(_) => refused(path, "is not JSON: it is not UTF-8", RECORD_AGAIN),
    })?;
    check_schema(path, text)?;
    // The newline is written last, so a file without it has lost at least its end.
    if !text.ends_with('\n') {
        return Err(truncated(path));
    }
    let wrapper: Wrapper<'_> = serde_json::from_str(text).map_err(|error| not_evidence(path, text, &error))?;
    if sha256::of(wrapper.evidence.get().as_bytes()) != wrapper.sha256 {
        return Err(refused(path, "was changed after it was written: its SHA-256 differs", RECORD_AGAIN));
    }
    serde_json::from_str(wrapper.evidence.get()).map_err(|error| not_evidence(path, text, &error))
}

/// This check comes first: a file of another schema can contain anything.
fn check_schema(path: &Path, text: &str) -> Result<()> {
    let SchemaOnly { schema } = serde_json::from_str(text).map_err(|error: serde_json::Error| {
        // For serde_json, a number that was cut off after its point is a wrong one.
        let is_cut_number = error.is_syntax() && error.column() == text.len() && text.ends_with('.');
        if is_cut_number { truncated(path) } else { not_evidence(path, text, &error) }
    })?;
    match schema.cmp(&SCHEMA) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(refused(
            path,
            format!("was written by a newer memgate (schema {schema}); this one reads {SCHEMA}"),
            "Update memgate.",
        )),
        std::cmp::Ordering::Less => {
            Err(refused(path, format!("has schema {schema}; this memgate reads {SCHEMA}"), RECORD_AGAIN))
        }
    }
}

fn not_evidence(path: &Path, text: &str, error: &serde_json::Error) -> Error {
    let what = match error.classify() {
        Category::Eof => return truncated(path),
        Category::Data => "is not memgate evidence",
        Category::Syntax | Category::Io => "is not JSON",
    };
    let why = wrong_value(text).unwrap_or_else(|| error.to_string());
    refused(path, format!("{what}: {why}"), RECORD_AGAIN)
}

/// The first value that cannot be read, by its key, and why; `None` if nothing is wrong below the top of the file. A
/// place in a line of some megabytes leads nobody to it.
fn wrong_value(text: &str) -> Option<String> {
    /// The file without its borrowed part, through which no key could be told.
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only what cannot be read is of interest")]
    struct Whole {
        schema: IgnoredAny,
        sha256: IgnoredAny,
        evidence: Evidence,
    }
    let mut reader = serde_json::Deserializer::from_str(text);
    let error = serde_path_to_error::deserialize::<_, Whole>(&mut reader).err()?;
    let key = error.path().to_string();
    (key.len() > 1).then(|| format!("`{key}`: {}", error.inner()))
}

fn truncated(path: &Path) -> Error {
    refused(path, "ends in the middle; it was probably cut off while being written or copied", RECORD_AGAIN)
}

fn refused(path: &Path, what: impl AsRef<str>, help: &str) -> Error {
    InputError::new(format!("{}: {}.", path.display(), what.as_ref()), help).into()
}

#[cfg(test)]
mod tests;
