//! Turns messages of `serde` and of the YAML parser into messages for users.

use memgate_verdict::quoted::shorten;

use super::Problem;

/// Separates the parts of a [`Problem`] inside a `serde` error, which carries one string.
const SEPARATOR: char = '\u{1f}';

/// An error of memgate's own for a deserializer, which adds the place.
pub(super) fn custom<E: serde::de::Error>(problem: Problem) -> E {
    E::custom(format!("{}{SEPARATOR}{}{SEPARATOR}{}", problem.what, problem.label, problem.help))
}

/// The position of the error in bytes, and the problem there.
pub(super) fn explain(text: &str, error: &serde_yaml::Error) -> (Option<usize>, Problem) {
    let location = error.location();
    // The parser counts bytes.
    let offset = location.as_ref().map(serde_yaml::Location::index).filter(|at| text.is_char_boundary(*at));
    let mut message = error.to_string();
    if let Some(location) = location {
        let suffix = format!(" at line {} column {}", location.line(), location.column());
        if let Some(at) = message.rfind(&suffix) {
            message.replace_range(at..at + suffix.len(), "");
        }
    }
    let mut parts = message.rsplitn(3, SEPARATOR);
    if let (Some(help), Some(label), Some(what)) = (parts.next(), parts.next(), parts.next()) {
        return (offset, Problem::new(what, label, help));
    }
    if message.contains("more than one document") {
        return (second_document(text), several_documents());
    }
    (offset, of_type(&message).unwrap_or_else(|| of_syntax(&message, text, offset)))
}

/// Problems that `serde` finds: the text is YAML, but not what was expected.
fn of_type(message: &str) -> Option<Problem> {
    let (path, rest) = split_at_any(message, &["unknown field ", "unknown variant ", "missing field ", "invalid "])?;
    if let Some(rest) = rest.strip_prefix("unknown field ") {
        return unknown(path, "key", rest);
    }
    if let Some(rest) = rest.strip_prefix("unknown variant ") {
        return unknown(path, "value", rest);
    }
    if let Some(key) = rest.strip_prefix("missing field ") {
        let what = format!("{path}the key {key} is missing");
        return Some(Problem::new(what, format!("has no key {key}"), format!("add the key {key} here")));
    }
    let (found, expected) = rest.rsplit_once(", expected ").map(|(found, expected)| (found, in_words(expected)))?;
    let found = shorten(in_words(found.split_once(": ").map_or(found, |(_, found)| found)));
    let what = format!("{path}found {found}, expected {expected}");
    Some(Problem::new(what, format!("expected {expected}"), format!("write {expected} here")))
}

/// The user's word for what `serde` names in programmers' terms.
fn in_words(noun: &str) -> &str {
    match noun {
        "map" => "a map",
        "sequence" => "a list",
        "a sequence" => "a list such as `[a, b]`",
        "unit value" => "no value",
        _ if noun.starts_with("struct ") => "a map of keys and values",
        _ => noun,
    }
}

/// The path before the first marker, and the message from the marker on.
fn split_at_any<'a>(message: &'a str, markers: &[&str]) -> Option<(&'a str, &'a str)> {
    markers
        .iter()
        .filter_map(|marker| message.find(marker))
        .filter(|at| *at == 0 || message[..*at].ends_with(": "))
        .min()
        .map(|at| message.split_at(at))
}

/// A key or value that is not allowed, such as `lod`, expected one of `build`, `load`.
fn unknown(path: &str, noun: &str, rest: &str) -> Option<Problem> {
    let (found, expected) =
        rest.strip_prefix('`')?.rsplit_once("`, expected ").or_else(|| rest.split_once("`, there are "))?;
    let allowed: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let found = shorten(found);
    let mut what = format!("{path}unknown {noun} `{found}`");
    if let Some(nearest) = nearest(&found, &allowed) {
        what = format!("{what}; did you mean `{nearest}`?");
    }
    Some(Problem::new(
        what,
        format!("not a {noun} that is known here"),
        format!("allowed here: {}", allowed.join(", ")),
    ))
}

/// The allowed word that was probably meant.
fn nearest<'a>(found: &str, allowed: &[&'a str]) -> Option<&'a str> {
    let likeness = |word: &str| strsim::normalized_damerau_levenshtein(&found.to_lowercase(), word);
    let best = allowed.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(best) > 0.65).then_some(*best)
}

/// Problems that the parser finds: the text is not YAML.
fn of_syntax(message: &str, text: &str, offset: Option<usize>) -> Problem {
    if offset.is_some_and(|at| text[at..].starts_with('\t')) {
        return Problem::new("a tab is not allowed here", "this tab", "indent with spaces: YAML does not allow tabs");
    }
    let (label, help) = if message.contains("recursion limit") || message.contains("repetition limit") {
        ("nests or expands too deeply", "write the values out, without anchors and aliases")
    } else if message.contains("unknown anchor") {
        ("no anchor (`&name`) of this name", "write the value out; a string that begins with `*` needs quotes")
    } else if offset.is_some_and(|at| text[at..].trim().is_empty()) {
        ("the file ends too early", "the file may be cut off: complete it, and close every bracket and quote")
    } else {
        (
            "not YAML from here on",
            "check the indentation and the brackets; a string with `: `, ` #` or a leading `@ % & * !` needs quotes",
        )
    };
    Problem::new(format!("not valid YAML: {message}"), label, help)
}

fn several_documents() -> Problem {
    Problem::new(
        "the file holds several documents",
        "a second document",
        "keep one document to a file, without `---` between them",
    )
}

/// The line `---` that begins the second document.
fn second_document(text: &str) -> Option<usize> {
    let is_marker = |line: &str| line.trim_end() == "---" || line.starts_with("--- ");
    let is_blank = |line: &str| line.trim().is_empty() || line.starts_with(['#', '%']);
    let mut seen_content = false;
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        if is_marker(line) && seen_content {
            return Some(offset);
        }
        seen_content |= !is_blank(line);
        offset += line.len();
    }
    None
}
