//! The tokens of a Go source, as far as `memgate init` reads them: words, texts and signs, without comments.
//!
//! The lexical rules are those of the Go specification (go1.27). A source that breaks them, or breaks off, has the tokens
//! before that place.

use std::{iter::Peekable, str::CharIndices};

/// A token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// A name, a keyword or a number.
    Word(&'a str),
    /// A literal of a string; `None` if its value has an escape that no path or address has.
    Text(Option<String>),
    /// Any other character.
    Sign(char),
}

/// The tokens, each with its line, from 1.
pub(super) fn tokens(source: &str) -> Vec<(Token<'_>, usize)> {
    let mut lexer = Lexer { source, rest: source.char_indices().peekable(), line: 1 };
    let mut found = Vec::new();
    while let Some((at, character)) = lexer.next() {
        let line = lexer.line;
        let token = match character {
            _ if character.is_whitespace() => continue,
            '/' if lexer.sees('/') => {
                lexer.skip_line();
                continue;
            }
            '/' if lexer.sees('*') => {
                lexer.skip_comment();
                continue;
            }
            '"' => lexer.text(),
            '`' => lexer.raw_text(),
            '\'' => lexer.rune(),
            _ if is_of_a_word(character) => Some(lexer.word(at)),
            sign => Some(Token::Sign(sign)),
        };
        let Some(token) = token else { break };
        found.push((token, line));
    }
    found
}

fn is_of_a_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

struct Lexer<'a> {
    source: &'a str,
    rest: Peekable<CharIndices<'a>>,
    line: usize,
}

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Option<(usize, char)> {
        let next = self.rest.next()?;
        self.line += usize::from(next.1 == '\n');
        Some(next)
    }

    fn sees(&mut self, character: char) -> bool {
        self.rest.peek().is_some_and(|(_, next)| *next == character)
    }

    fn skip_line(&mut self) {
        while !self.sees('\n') && self.next().is_some() {}
    }

    fn skip_comment(&mut self) {
        self.next();
        while let Some((_, character)) = self.next() {
            if character == '*' && self.sees('/') {
                self.next();
                return;
            }
        }
    }

    /// The rest of an interpreted string; `None` if it does not end on its line.
    fn text(&mut self) -> Option<Token<'a>> {
        let mut text = Some(String::new());
        loop {
            match self.next()?.1 {
                '"' => return Some(Token::Text(text)),
                '\n' => return None,
                '\\' => match self.next()?.1 {
                    escaped @ ('"' | '\\') => text.iter_mut().for_each(|text| text.push(escaped)),
                    _ => text = None,
                },
                character => text.iter_mut().for_each(|text| text.push(character)),
            }
        }
    }

    /// The rest of a raw string; `None` if it does not end.
    fn raw_text(&mut self) -> Option<Token<'a>> {
        let mut text = String::new();
        loop {
            match self.next()?.1 {
                '`' => return Some(Token::Text(Some(text))),
                '\r' => {}
                character => text.push(character),
            }
        }
    }

    /// The rest of a rune; `None` if it does not end on its line.
    fn rune(&mut self) -> Option<Token<'a>> {
        loop {
            match self.next()?.1 {
                '\'' => return Some(Token::Sign('\'')),
                '\n' => return None,
                '\\' => drop(self.next()?),
                _ => {}
            }
        }
    }

    fn word(&mut self, start: usize) -> Token<'a> {
        while self.rest.peek().is_some_and(|(_, next)| is_of_a_word(*next)) {
            self.next();
        }
        let end = self.rest.peek().map_or(self.source.len(), |(at, _)| *at);
        Token::Word(&self.source[start..end])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Token<'_> {
        Token::Text(Some(text.to_owned()))
    }

    #[test]
    fn comments_and_runes_hide_no_text_and_make_none() {
        let source = "// \"no\"\nf('\"', '\\'', \"a\\\"b\", /* \"no\n\" */ `c\n\"d`)\nx := \"\\n\"";
        let found = tokens(source);
        let of = |line: usize| -> Vec<_> {
            found.iter().filter(|(_, at)| *at == line).map(|(token, _)| token.clone()).collect()
        };
        assert_eq!(of(1), []);
        let line = of(2);
        assert_eq!(line[..2], [Token::Word("f"), Token::Sign('(')]);
        assert_eq!(line[6], text("a\"b"));
        assert_eq!(of(3), [text("c\n\"d")]);
        assert_eq!(of(4), [Token::Sign(')')]);
        assert_eq!(*of(5).last().unwrap(), Token::Text(None));
    }

    #[test]
    fn a_source_that_breaks_off_has_the_tokens_before() {
        for source in ["a(\"b", "a('", "a(`b", "a(\"b\nc\")", "a( /* b"] {
            assert_eq!(tokens(source)[..2], [(Token::Word("a"), 1), (Token::Sign('('), 1)], "{source}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_tokens(source in "(\\PC|\n|\"|`|'|/|\\*|\\\\){0,200}") {
            prop_assert!(tokens(&source).len() <= source.chars().count());
        }
    }
}
