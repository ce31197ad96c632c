//! Makes text from others safe to show.
//!
//! Reasons, notes and names come from evidence, configuration and the service itself. In a report they must not move
//! the cursor, start a line, hide text, or give a command to the CI system that reads the log.

/// The text on one line, without active characters. Line breaks and tabs become spaces. Other control characters become
/// their pictures (U+2400 …). Characters that change the text direction become U+FFFD.
///
/// GitHub's runner finds the `##[` of the older workflow commands anywhere in a line (`ActionCommand.TryParse`), so it
/// is broken up.
pub fn visible(text: &str) -> String {
    text.chars().map(visible_character).collect::<String>().replace("##[", "## [")
}

fn visible_character(character: char) -> char {
    match character {
        '\n' | '\r' | '\t' | '\u{85}' | '\u{2028}' | '\u{2029}' => ' ',
        '\0'..='\u{1f}' => char::from_u32(0x2400 + u32::from(character)).unwrap_or(char::REPLACEMENT_CHARACTER),
        '\u{7f}' => '\u{2421}',
        '\u{80}'..='\u{9f}'
        | '\u{61c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}'
        | '\u{fffe}'
        | '\u{ffff}' => char::REPLACEMENT_CHARACTER,
        other => other,
    }
}

/// The text as one word of a POSIX shell. Control characters need the `$'…'` of POSIX 2024, bash and zsh.
pub fn shell_word(text: &str) -> String {
    let plain = |character: char| character.is_alphanumeric() || "-_./:@%+,".contains(character);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else if text.chars().any(|character| visible_character(character) != character) {
        let escaped: String = text.bytes().map(shell_byte).collect();
        format!("$'{escaped}'")
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

fn shell_byte(byte: u8) -> String {
    match byte {
        b'\'' | b'\\' => format!("\\{}", char::from(byte)),
        b' '..=b'~' => char::from(byte).to_string(),
        _ => format!("\\{byte:03o}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_acts() {
        assert_eq!(visible("a\nb\r\nc\td"), "a b  c d");
        assert_eq!(visible("\x1b[31mred\x07\x7f\u{9b}1m"), "␛[31mred␇␡\u{fffd}1m");
        assert_eq!(visible("user\u{202e}nimda"), "user\u{fffd}nimda");
        assert_eq!(visible("##[error]boo"), "## [error]boo");
        assert_eq!(visible("身份认证 é 👩‍💻"), "身份认证 é 👩‍💻");
    }

    #[test]
    fn words_are_quoted_when_they_must_be() {
        assert_eq!(shell_word("uaa-2.api_x"), "uaa-2.api_x");
        assert_eq!(shell_word("认证"), "认证");
        assert_eq!(shell_word(""), "''");
        assert_eq!(shell_word("a; rm -rf $HOME"), "'a; rm -rf $HOME'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word("a\n'b\\"), r"$'a\012\'b\\'");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn one_line_without_control_characters(text in any::<String>()) {
            let shown = visible(&text);
            prop_assert!(!shown.chars().any(char::is_control));
            prop_assert!(!shown.contains("##["));
            prop_assert_eq!(visible(&shown), shown);
        }

        #[test]
        fn the_shell_reads_the_word_back(text in "[^\\x00]{0,40}") {
            let word = shell_word(&text);
            prop_assert_eq!(visible(&word), word.replace("##[", "## ["));
            let output = std::process::Command::new("bash").args(["-c", &format!("printf %s {word}")]).output().unwrap();
            prop_assert_eq!(output.stdout, text.as_bytes());
        }
    }
}
