//! Secrets in a stream of bytes, which may be cut anywhere.

use std::borrow::Cow;

use memgate_evidence::secrets::{MASK, Secrets};

/// Puts [`MASK`] in place of each secret. What may be the start of one is held back until more is known.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    /// Longest first: one may begin with another.
    secrets: Vec<Vec<u8>>,
    held: Vec<u8>,
}

/// The shortest start of a secret that is not shown at the end of a stream, bytes.
const TELLING: usize = 4;

impl Hidden {
    pub(super) fn new(secrets: &Secrets) -> Self {
        let secrets = secrets.longest_first().into_iter().map(|secret| secret.as_bytes().to_vec()).collect();
        Self { secrets, held: Vec::new() }
    }

    /// What may be shown once these bytes have come.
    pub(super) fn pass<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.secrets.is_empty() {
            return bytes.into();
        }
        self.held.extend(bytes);
        let mut shown = Vec::with_capacity(self.held.len());
        let mut rest = self.held.as_slice();
        while let [first, after @ ..] = rest {
            let mut may_be = self.secrets.iter().filter(|secret| secret.first() == Some(first));
            match may_be.find(|secret| rest.starts_with(secret) || secret.starts_with(rest)) {
                Some(secret) if rest.starts_with(secret) => {
                    shown.extend(MASK.as_bytes());
                    rest = &rest[secret.len()..];
                }
                Some(_) => break,
                None => {
                    shown.push(*first);
                    rest = after;
                }
            }
        }
        self.held = rest.to_vec();
        shown.into()
    }

    /// What is left at the end of the stream. A secret that is cut off there is not shown.
    pub(super) fn end(&mut self) -> Vec<u8> {
        let mut shown = Vec::new();
        let held = std::mem::take(&mut self.held);
        let mut rest = held.as_slice();
        while let [first, after @ ..] = rest {
            if let Some(secret) = self.secrets.iter().find(|secret| rest.starts_with(secret)) {
                shown.extend(MASK.as_bytes());
                rest = &rest[secret.len()..];
            } else if rest.len() >= TELLING && self.secrets.iter().any(|secret| secret.starts_with(rest)) {
                shown.extend(MASK.as_bytes());
                break;
            } else {
                shown.push(*first);
                rest = after;
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hidden(secrets: &[&str]) -> Hidden {
        let mut all = Secrets::default();
        secrets.iter().for_each(|secret| all.add(secret));
        Hidden::new(&all)
    }

    fn shown(secrets: &[&str], pieces: &[&str]) -> Vec<String> {
        let mut hidden = hidden(secrets);
        let mut shown: Vec<_> = pieces.iter().map(|piece| hidden.pass(piece.as_bytes()).into_owned()).collect();
        shown.push(hidden.end());
        shown.into_iter().map(|shown| String::from_utf8(shown).unwrap()).collect()
    }

    #[test]
    fn a_secret_is_hidden_wherever_the_pieces_are_cut() {
        assert_eq!(shown(&["hunter2"], &["a hun", "ter", "2 b\n"]), ["a ", "", "*** b\n", ""]);
        assert_eq!(shown(&["hunter2"], &["hunthunter2"]), ["hunt***", ""]);
        assert_eq!(shown(&["hunter2"], &["line\n"]), ["line\n", ""], "what is no start of one comes at once");
        assert_eq!(shown(&["pass", "password"], &["pass", "word pass\n"]), ["", "*** ***\n", ""], "the longest");
        assert_eq!(shown(&["pass", "password"], &["passwd\n"]), ["***wd\n", ""]);
        assert_eq!(shown(&[], &["any"]), ["any", ""]);
    }

    #[test]
    fn at_the_end_the_start_of_a_secret_is_hidden_too() {
        assert_eq!(shown(&["hunter2"], &["x hunter"]), ["x ", "***"]);
        assert_eq!(shown(&["hunter2"], &["a bath"]), ["a bat", "h"], "a few letters tell nothing");
        assert_eq!(shown(&["pass", "password"], &["pass"]), ["", "***"]);
    }

    proptest! {
        #[test]
        fn it_is_the_same_in_any_pieces(pieces in prop::collection::vec("[abc]{0,6}", 0..12)) {
            let secrets = ["abca", "bcabc", "abcabcab"];
            let whole = pieces.concat();
            let mut at_once = hidden(&secrets);
            let mut expected = at_once.pass(whole.as_bytes()).into_owned();
            expected.extend(at_once.end());
            let pieces: Vec<_> = pieces.iter().map(String::as_str).collect();
            let found = shown(&secrets, &pieces).concat();
            prop_assert_eq!(&found, &String::from_utf8(expected).unwrap());
            prop_assert!(!secrets.iter().any(|secret| found.contains(secret)), "{}", found);
        }
    }
}
