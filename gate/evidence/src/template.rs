//! Texts with values that differ from request to request: `/users/${rows.id}?page=${counter}`.

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The same in every request.
    Text(String),
    /// The number of the request in the load, from 1: `${counter}`.
    Counter,
    /// A number of ten digits, by the load's seed and the request's number: `${random}`.
    Random,
    /// A column of the request's row: `${rows.COLUMN}`.
    Row(String),
    /// What the same client has captured from an earlier answer: `${NAME}`.
    Captured(String),
}

/// Why a text is no template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `${` without its end.
    #[error("`${{` has no `}}`")]
    Unclosed,
    /// A name that no value can have.
    #[error("`${{{0}}}` names no value")]
    NoName(String),
}

/// Whether the text can be the name of a captured value.
pub fn is_name(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    text.bytes().next().is_some_and(is_letter) && text.bytes().all(|byte| is_letter(byte) || byte.is_ascii_digit())
}

/// Whether a name is one of the values that every load has.
pub fn is_reserved(name: &str) -> bool {
    ["counter", "random", "rows"].contains(&name)
}

/// The parts of a text, without empty ones. Directly before `{`, `$$` stands for `$`: `$${` for `${`, and `$$${counter}` for
/// a dollar sign and a number.
///
/// # Errors
/// When a value is not named as it should be.
pub fn parse(text: &str) -> Result<Vec<Part>, TemplateError> {
    let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
    while let Some(at) = rest.find("${") {
        let before = rest[..at].trim_end_matches('$');
        let dollars = at + 1 - before.len();
        plain.push_str(before);
        plain.push_str(&rest[before.len()..][..dollars / 2]);
        rest = &rest[at + 1..];
        if dollars.is_multiple_of(2) {
            plain.push('{');
            rest = &rest[1..];
            continue;
        }
        let (name, after) = rest[1..].split_once('}').ok_or(TemplateError::Unclosed)?;
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain)));
        }
        parts.push(value(name)?);
        rest = after;
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(parts)
}

fn value(name: &str) -> Result<Part, TemplateError> {
    match name {
        "counter" => Ok(Part::Counter),
        "random" => Ok(Part::Random),
        _ => match name.strip_prefix("rows.") {
            Some(column) if !column.is_empty() => Ok(Part::Row(column.to_owned())),
            None if is_name(name) && !is_reserved(name) => Ok(Part::Captured(name.to_owned())),
            Some(_) | None => Err(TemplateError::NoName(name.to_owned())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    #[test]
    fn values_are_found_among_text() {
        assert_eq!(parse("").unwrap(), []);
        assert_eq!(parse("a $1 {b} $").unwrap(), [text("a $1 {b} $")]);
        let row = |name: &str| Part::Row(name.to_owned());
        assert_eq!(
            parse("/${rows.user id}?c=${counter}&${random}${token_2}").unwrap(),
            [
                text("/"),
                row("user id"),
                text("?c="),
                Part::Counter,
                text("&"),
                Part::Random,
                Part::Captured("token_2".to_owned())
            ]
        );
    }

    #[test]
    fn two_dollars_before_a_brace_stand_for_one() {
        assert_eq!(parse("$${a} $$ ${counter}$${").unwrap(), [text("${a} $$ "), Part::Counter, text("${")]);
        let price = [text("$"), Part::Counter, text(" $$")];
        assert_eq!(parse("$$${counter} $$").unwrap(), price);
        assert_eq!(parse("$$$${a}").unwrap(), [text("$${a}")]);
        assert_eq!(parse("中$$$$${b}").unwrap(), [text("中$$"), Part::Captured("b".to_owned())]);
    }

    #[test]
    fn names_that_no_value_can_have_are_refused() {
        for name in ["", "a-b", "1a", "rows", "rows.", "a.b", " a"] {
            assert_eq!(parse(&format!("x${{{name}}}")), Err(TemplateError::NoName(name.to_owned())));
        }
        assert_eq!(parse("${counter} ${a"), Err(TemplateError::Unclosed));
    }
}
