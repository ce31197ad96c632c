//! Reads history files: JSON lines, of which each counts by itself.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use memgate_evidence::error::{Error, InputError, Result};
use memgate_verdict::{
    history::{Line, SCHEMA},
    metric::Metric,
};
use serde::Deserialize;

/// The largest history file that memgate reads, bytes: some ten thousand lines.
pub(super) const MAX_BYTES: u64 = 64 << 20;

/// What a file has.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// Its lines, as they stand in it.
    pub(super) lines: Vec<Line>,
    /// What in it does not count.
    pub(super) notes: Vec<String>,
}

/// Reads a file. Blank lines do not count, and neither does a last line that was cut off, of which a note tells.
///
/// # Errors
/// When the file cannot be read or is larger than [`MAX_BYTES`], and when a line is none of a history. The error names the
/// line.
pub(super) fn read(path: &Path) -> Result<Read> {
    parse(path, &bytes(path, MAX_BYTES)?)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Read> {
    let mut read = Read::default();
    let mut unknown: BTreeMap<String, usize> = BTreeMap::new();
    let count = bytes.split(|byte| *byte == b'\n').count();
    for (index, bytes) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        match line(bytes) {
            Ok(line) => {
                for name in line.metrics.keys().filter(|name| name.parse::<Metric>().is_err()) {
                    unknown.entry(name.clone()).or_insert(number);
                }
                read.lines.push(line);
            }
            // The newline is written with the line, so a last line without it is not whole.
            Err(Problem::Broken(_)) if number == count => {
                read.notes.push(format!("{}:{number}: the last line is cut off and does not count", path.display()));
            }
            Err(problem) => return Err(problem.at(path, number)),
        }
    }
    if read.lines.is_empty() && read.notes.is_empty() {
        read.notes.push(format!("{}: there is no verdict in it yet", path.display()));
    }
    let unknown = unknown.into_iter().map(|(name, number)| {
        let name = memgate_verdict::quoted::printable(&name, 60);
        format!("{}:{number}: `{name}` is no metric of this memgate and does not count", path.display())
    });
    read.notes.extend(unknown);
    Ok(read)
}

/// Why a line cannot be used.
#[derive(Debug)]
pub(super) enum Problem {
    /// It is not what memgate writes.
    Broken(String),
    /// It has another schema.
    Schema(u64),
}

impl Problem {
    pub(super) fn at(&self, path: &Path, number: usize) -> Error {
        let place = format!("{}:{number}", path.display());
        match self {
            Self::Broken(why) => {
                let message = format!("{place}: this is no line of a history: {why}");
                let help = "restore the line, or remove it if it is lost; `memgate schema history` has the format";
                InputError::new(message, help).into()
            }
            Self::Schema(schema) if *schema > SCHEMA => {
                let message = format!(
                    "{place}: this line was written by a newer memgate (schema {schema}); this one reads {SCHEMA}"
                );
                InputError::new(message, "update memgate").into()
            }
            Self::Schema(schema) => {
                let message = format!("{place}: this line has schema {schema}; this memgate reads {SCHEMA}");
                InputError::new(message, "correct the line, or remove it").into()
            }
        }
    }
}

/// The line in these bytes.
pub(super) fn line(bytes: &[u8]) -> Result<Line, Problem> {
    /// The part of a line that every schema has.
    #[derive(Deserialize)]
    #[serde(expecting = "expected an object")]
    struct SchemaOnly {
        schema: u64,
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Problem::Broken("it is not UTF-8".to_owned()))?;
    // This comes first: a line of another schema can contain anything.
    match serde_json::from_str(text) {
        Ok(SchemaOnly { schema: SCHEMA }) => {}
        Ok(SchemaOnly { schema }) => return Err(Problem::Schema(schema)),
        // A wrong value has a key, which is more than its column.
        Err(error) => return Err(with_key(text).err().unwrap_or_else(|| Problem::Broken(error.to_string()))),
    }
    let line = with_key(text)?;
    line.time().map_err(Problem::Broken)?;
    Ok(line)
}

/// The line in a text, or what is wrong with it, by its key.
fn with_key(text: &str) -> Result<Line, Problem> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let wrong = |error: serde_path_to_error::Error<serde_json::Error>| {
        let key = error.path().to_string();
        // Without a key, the path is a dot.
        Problem::Broken(if key.len() > 1 { format!("`{key}`: {}", error.inner()) } else { error.inner().to_string() })
    };
    let line = serde_path_to_error::deserialize(&mut reader).map_err(wrong)?;
    reader.end().map_err(|error| Problem::Broken(error.to_string()))?;
    Ok(line)
}

/// The bytes of a file of at most `most`.
pub(super) fn bytes(path: &Path, most: u64) -> Result<Vec<u8>> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => {
            refused(path, "does not exist", "`memgate check --history FILE` writes one, a line for each verdict")
        }
        io::ErrorKind::IsADirectory => refused(path, "is a directory", "name the history files in it"),
        _ => refused(path, &format!("cannot be read: {error}"), "check the file's permissions"),
    };
    let file = File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    // The length is counted while reading, because a pipe does not state one.
    file.take(most + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= most) {
        return Ok(bytes);
    }
    let what = format!("is larger than {most} bytes, more than memgate reads of a history");
    Err(refused(path, &what, "begin a new file, or keep only the newer lines: `tail -n 2000 FILE`"))
}

fn refused(path: &Path, what: &str, help: &str) -> Error {
    InputError::new(format!("{}: {what}", path.display()), help).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"schema":1,"judged_at":"2026-11-23T12:00:00Z","commit":null,"service":"uaa","platform":"linux/amd64","runner":"native","memgate":"0.1.0","go":"go1.27.3","verdict":"pass","runs":2,"metrics":{"alloc_bytes_per_request":{"measured":2000.0,"low":1999.0,"high":2001.5}}}"#;

    fn parsed(text: &str) -> Result<Read> {
        parse(Path::new("h.jsonl"), text.as_bytes())
    }

    #[track_caller]
    fn assert_refused(text: &str, message: &str) {
        let error = parsed(text).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(message), "{error} has no {message}");
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let read = parsed(&format!("{LINE}\n")).unwrap();
        assert!(read.notes.is_empty(), "{:?}", read.notes);
        assert_eq!(serde_json::to_string(&read.lines[0]).unwrap(), LINE);
    }

    #[test]
    fn a_last_line_that_is_cut_off_is_told_wherever_it_ends() {
        for end in 1..LINE.len() {
            let read = parsed(&format!("{LINE}\n{}", &LINE[..end])).unwrap();
            assert_eq!(read.lines.len(), 1);
            assert_eq!(read.notes, ["h.jsonl:2: the last line is cut off and does not count"]);
        }
        let whole = parsed(&format!("{LINE}\n{LINE}")).unwrap();
        assert_eq!((whole.lines.len(), whole.notes.len()), (2, 0), "only its newline is missing");
    }

    #[test]
    fn a_broken_line_elsewhere_is_refused_with_its_number() {
        assert_refused(&format!("{LINE}\n{}\n{LINE}\n", &LINE[..60]), "h.jsonl:2: this is no line of a history: EOF");
        assert_refused(&format!("{LINE}\n<<<<<<< HEAD\n{LINE}\n"), "h.jsonl:2: this is no line");
        assert_refused(&format!("[]\n{LINE}\n"), "h.jsonl:1: this is no line");
        assert_refused(&format!("{LINE}\n{LINE}x\n"), "h.jsonl:2: this is no line");
    }

    #[test]
    fn a_value_that_cannot_be_is_refused_with_its_key() {
        for (from, to, said) in [
            ("2000.0", "NaN", "h.jsonl:1: this is no line of a history: `metrics.alloc_bytes_per_request.measured`"),
            ("2000.0", "1e999", "`metrics.alloc_bytes_per_request.measured`: number out of range"),
            ("2000.0", "null", "`metrics.alloc_bytes_per_request.measured`: invalid type: null, expected f64"),
            ("1999.0", "\"a\"", "`metrics.alloc_bytes_per_request.low`"),
            ("\"pass\"", "\"good\"", "`verdict`: unknown variant `good`, expected one of `pass`"),
            ("linux/amd64", "plan9/386", "`platform`: unknown variant"),
            ("\"runs\":2", "\"runs\":-2", "`runs`"),
            ("\"runs\":2,", "", "missing field `runs`"),
            ("\"runs\":2", "\"runs\":2,\"walks\":1", "unknown field `walks`"),
            ("2026-11-23T12:00:00Z", "yesterday", "`judged_at`: `yesterday` is not a time such as"),
        ] {
            assert!(LINE.contains(from));
            assert_refused(&format!("{}\n{LINE}\n", LINE.replacen(from, to, 1)), said);
        }
    }

    #[test]
    fn a_line_of_another_schema_is_refused_even_as_the_last() {
        let newer = LINE.replacen("\"schema\":1", "\"schema\":2", 1);
        for end in ["", "\n"] {
            assert_refused(
                &format!("{LINE}\n{newer}{end}"),
                "h.jsonl:2: this line was written by a newer memgate (schema 2)",
            );
        }
        assert_refused(&LINE.replacen("\"schema\":1", "\"schema\":0", 1), "h.jsonl:1: this line has schema 0");
    }

    #[test]
    fn a_metric_of_another_version_does_not_count_and_is_told() {
        let other = LINE.replacen("alloc_bytes_per_request", "heap_colour", 1);
        let read = parsed(&format!("{LINE}\n{other}\n{other}\n")).unwrap();
        assert_eq!(read.lines.len(), 3);
        assert_eq!(read.notes, ["h.jsonl:2: `heap_colour` is no metric of this memgate and does not count"]);
    }

    #[test]
    fn blank_lines_and_carriage_returns_do_no_harm() {
        let read = parsed(&format!("\n{LINE}\r\n  \n{LINE}\n\n")).unwrap();
        assert_eq!((read.lines.len(), read.notes.len()), (2, 0));
        for empty in ["", "\n", " \n\n"] {
            assert_eq!(parsed(empty).unwrap().notes, ["h.jsonl: there is no verdict in it yet"]);
        }
        assert!(
            parse(Path::new("h"), b"\xff\n\n")
                .unwrap_err()
                .to_string()
                .contains("h:1: this is no line of a history: it is not UTF-8")
        );
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [b'\n'; 101]).unwrap();
        assert_eq!(bytes(file.path(), 101).unwrap().len(), 101);
        let error = bytes(file.path(), 100).unwrap_err();
        assert!(error.to_string().contains("is larger than 100 bytes"), "{error}");
    }
}
