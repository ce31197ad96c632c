//! The end of a service's log, for messages.

use std::{fs::File, io, os::unix::fs::FileExt as _};

/// How many lines a message shows.
const LINES: usize = 10;

/// How many bytes of the log a message shows.
const BYTES: u64 = 2 << 10;

/// The last lines of what a service printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogEnd {
    /// At most ten lines without control characters; 2 KiB in all.
    lines: Vec<String>,
}

impl LogEnd {
    /// Reads the end of the log, which is open: another file may have its name by now. A log that cannot be read is an
    /// empty one: the message is about something else.
    pub fn of(log: &File) -> Self {
        let (text, is_cut) = end_of(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        // Where the log is cut, the first line is only a part.
        let first = if is_cut { text.find('\n').map_or(0, |end| end + 1) } else { 0 };
        let lines: Vec<String> = text[first..].lines().filter(|line| !line.trim().is_empty()).map(harmless).collect();
        Self { lines: lines[lines.len().saturating_sub(LINES)..].to_vec() }
    }

    /// The last line, if there is one.
    pub fn last(&self) -> Option<&str> {
        self.lines.last().map(|line| line.strip_prefix("| ").unwrap_or(line))
    }

    /// The lines. Each begins with `| `.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Whether the service printed nothing.
    pub const fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl std::fmt::Display for LogEnd {
    /// Continues a sentence: `; the last lines of its output:`, and the lines below it; nothing for an empty log.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.lines.as_slice() {
            [] => Ok(()),
            [line] => write!(f, "; its output:\n{line}"),
            lines => write!(f, "; the end of its output:\n{}", lines.join("\n")),
        }
    }
}

/// The last bytes of the log, and whether there are more.
fn end_of(log: &File) -> io::Result<(Vec<u8>, bool)> {
    let length = log.metadata()?.len();
    let start = length.saturating_sub(BYTES);
    let mut end = vec![0; usize::try_from(length - start).unwrap_or(0)];
    log.read_exact_at(&mut end, start)?;
    Ok((end, start > 0))
}

/// The line without characters that could move a terminal's cursor, hide text or give commands. CI systems read
/// commands at the start of a line (`::error`, `##[error]`).
fn harmless(line: &str) -> String {
    let shown: String = line.trim_end().chars().map(shown).collect();
    format!("| {}", shown.replace("##[", "## ["))
}

/// A picture for a control character, and U+FFFD for one that changes the direction of text.
fn shown(character: char) -> char {
    match character {
        '\t' => ' ',
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(character)).unwrap_or(char::REPLACEMENT_CHARACTER),
        '\u{7f}' => '\u{2421}',
        '\u{80}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}'
        | '\u{fffe}'
        | '\u{ffff}' => char::REPLACEMENT_CHARACTER,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &[u8]) -> LogEnd {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("service.log");
        std::fs::write(&log, text).unwrap();
        LogEnd::of(&File::open(&log).unwrap())
    }

    #[test]
    fn the_last_lines_are_shown_and_no_more_than_2_kib() {
        let many: String = (0..100).map(|line| format!("line {line}\n")).collect();
        let shown = end(many.as_bytes()).to_string();
        assert!(
            shown.starts_with("; the end of its output:\n| line 90\n") && shown.ends_with("\n| line 99"),
            "{shown}"
        );
        let long = format!("start {}\nthe last\n", "x".repeat(5000));
        assert_eq!(end(long.as_bytes()).to_string(), "; its output:\n| the last", "a part of a line is no line");
        let one = "y".repeat(5000);
        assert_eq!(end(one.as_bytes()).to_string().matches('y').count(), 2048);
    }

    #[test]
    fn a_log_without_text_is_empty() {
        let unreadable = File::options().write(true).open("/dev/null").unwrap();
        for log in [end(b""), end(b"\n \n\n"), LogEnd::of(&unreadable)] {
            assert!(log.is_empty());
            assert_eq!(log.to_string(), "");
        }
    }

    #[test]
    fn the_last_line_is_as_it_was_written() {
        assert_eq!(end(b"id | name\n| a | b |\n").last(), Some("| a | b |"));
        assert_eq!(end(b"").last(), None);
    }

    #[test]
    fn nothing_in_a_log_acts() {
        let hostile = end("\x1b[31mred\x07\r\n::error::boo\n##[error]boo\nuser\u{202e}nimda\n".as_bytes()).to_string();
        assert_eq!(
            hostile,
            "; the end of its output:\n| ␛[31mred␇\n| ::error::boo\n| ## [error]boo\n| user\u{fffd}nimda"
        );
        assert_eq!(end(b"\xffa\n").to_string(), "; its output:\n| \u{fffd}a");
    }
}
