//! Text from files, made safe for messages.

/// Text from a file for a message: at most this many characters, on one line, without control characters.
pub fn printable(text: &str, longest: usize) -> String {
    let mut printable = String::new();
    for (position, character) in text.chars().enumerate() {
        match character {
            _ if position == longest => {
                printable.push('…');
                break;
            }
            _ if character.is_control() => printable.extend(character.escape_default()),
            _ => printable.push(character),
        }
    }
    printable
}

/// A word or a value from a file for a message, cut to a length that fits on a line.
pub fn shorten(text: &str) -> String {
    printable(text, 60)
}
