//! Checks on the text before the YAML parser sees it.

use memgate_evidence::error::{InputError, Result};
use miette::NamedSource;

use super::{LARGEST_FILE, Problem, Source};

/// How deep brackets may nest. The parser allows 128 levels but reads the whole document first, in a time that grows
/// with the square of the depth: minutes for a megabyte.
const DEEPEST: usize = 128;

/// The text of a file's bytes.
pub(super) fn decode(name: &str, bytes: Vec<u8>) -> Result<String> {
    if bytes.len() as u64 > LARGEST_FILE {
        let message = format!("{name}: is larger than 1 MiB");
        return Err(InputError::new(
            message,
            "name a YAML file that memgate is to read; a long request body can be shorter",
        )
        .into());
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
        let (line, column) = super::place::line_and_column(&text, offset);
        InputError {
            message: format!("{name}:{line}:{column}: is not UTF-8"),
            source_text: Some(NamedSource::new(name, text)),
            span: Some((offset, '\u{fffd}'.len_utf8()).into()),
            label: "these bytes are not UTF-8".to_owned(),
            help: Some("save the file as UTF-8".to_owned()),
        }
        .into()
    })
}

/// Refuses text that is empty, contains characters that YAML does not allow, or nests too deeply.
pub(super) fn check(source: &Source) -> Result<()> {
    let text = &source.text;
    if text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#') || line == "---") {
        return Err(source.error_at(
            None,
            Problem::new("is empty", "", "restore the file, or write it anew; `memgate schema` shows editors the keys"),
        ));
    }
    if let Some((offset, character)) = text.char_indices().find(|(_, character)| !is_printable(*character)) {
        let what = format!("the character U+{:04X} is not allowed in YAML", u32::from(character));
        return Err(
            source.error_at(Some(offset), Problem::new(what, "this character", "remove it, or write it as \"\\x…\""))
        );
    }
    match too_deep(text) {
        Some(offset) => Err(source.error_at(
            Some(offset),
            Problem::new(
                format!("brackets nest deeper than {DEEPEST} levels"),
                "one level too many",
                "close the brackets that were left open",
            ),
        )),
        None => Ok(()),
    }
}

/// YAML 1.2, production 1, `c-printable`.
pub const fn is_printable(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='~' | '\u{85}' | '\u{a0}'..='\u{fffd}' | '\u{10000}'..)
}

/// The position where brackets nest too deeply. Brackets in strings and comments count too, because only the parser can
/// tell them apart. More than a hundred unclosed brackets are a mistake there as well.
fn too_deep(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (offset, byte) in text.bytes().enumerate() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return Some(offset);
        }
    }
    None
}
