//! The line of an output that memgate waits for.

use regex_lite::Regex;

/// The most of a line that is held against the pattern, bytes.
const LONGEST: usize = 64 << 10;

/// Holds each whole line of an output against a pattern.
#[derive(Debug)]
pub(super) struct Awaited {
    pattern: Regex,
    /// The start of a line whose end has not been printed yet.
    line: Vec<u8>,
}

impl Awaited {
    pub(super) const fn new(pattern: Regex) -> Self {
        Self { pattern, line: Vec::new() }
    }

    /// Whether a line that ends in these bytes matches.
    pub(super) fn sees(&mut self, bytes: &[u8]) -> bool {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = LONGEST.saturating_sub(self.line.len());
            self.line.extend(&piece[..piece.len().min(room)]);
            if piece.ends_with(b"\n") {
                let line = String::from_utf8_lossy(&self.line);
                let is_it = self.pattern.is_match(line.trim_end_matches(['\r', '\n']));
                self.line.clear();
                if is_it {
                    return true;
                }
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sees(pattern: &str, pieces: &[&[u8]]) -> Vec<bool> {
        let mut awaited = Awaited::new(Regex::new(pattern).unwrap());
        pieces.iter().map(|piece| awaited.sees(piece)).collect()
    }

    #[test]
    fn a_line_is_seen_when_it_is_whole_wherever_the_pieces_are_cut() {
        assert_eq!(sees("^ready$", &[b"not ready\nre", b"ad", b"y", b"\r\nmore"]), [false, false, false, true]);
        assert_eq!(sees("listening on .*:80", &[b"a\nlistening on [::]:80\nb\n"]), [true]);
        assert_eq!(sees("ready", &[b"re\nady\n", b"\n", b"\xff ready\n"]), [false, false, true]);
    }

    #[test]
    fn a_line_of_any_length_takes_no_more_memory() {
        let long = vec![b'x'; 3 * LONGEST];
        let mut awaited = Awaited::new(Regex::new("^x+$").unwrap());
        assert!(!awaited.sees(&long) && !awaited.sees(b"y"));
        assert_eq!(awaited.line.len(), LONGEST);
        assert!(awaited.sees(b"y\n"), "what is beyond is not looked at");
        assert!(!awaited.sees(b"y\n"), "the next line is another one");
    }
}
