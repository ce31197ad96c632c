//! Values that differ from request to request, and those that a client captures from answers.

use std::{borrow::Cow, collections::BTreeMap};

use hyper::{HeaderMap, body::Bytes, header::HeaderName};
use memgate_evidence::{
    error::{InputError, Result},
    plan::{self, Capture},
    template::{self, Part as Named},
};

use super::{
    RequestFailure,
    cookies::Jar,
    mix::{scale, splitmix64},
};

/// The longest body in which a value is searched, bytes.
pub(super) const LONGEST_BODY: usize = 1 << 20;

/// What a client has captured, by name.
pub(super) type Captured = BTreeMap<String, String>;

/// A part of a text, with the column's index.
#[derive(Debug)]
enum Part {
    Text(String),
    Counter,
    Random,
    Row(usize),
    Captured(String),
}

/// A text with values.
#[derive(Debug)]
pub(super) struct Template(Vec<Part>);

/// The values of one request but for those that its client has captured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Values<'a> {
    index: u64,
    random: u64,
    row: &'a [String],
}

impl<'a> Values<'a> {
    /// The values of the request with this index. Only the seed and the index decide about them.
    pub(super) fn of(seed: u64, index: u64, rows: Option<&'a plan::Rows>) -> Self {
        // Of a generator of its own: the mix uses the seed itself.
        let random = splitmix64(!seed, index);
        let row = rows.and_then(|rows| {
            let count = u64::try_from(rows.values.len()).unwrap_or(u64::MAX);
            rows.values.get(usize::try_from(scale(splitmix64(!seed, random), count)).unwrap_or(usize::MAX))
        });
        Self { index, random, row: row.map_or(&[], Vec::as_slice) }
    }
}

impl Template {
    /// Reads a text; `None` if it has no values.
    ///
    /// # Errors
    /// Fails with [`Error::Input`](memgate_evidence::error::Error::Input) if it names a value that there cannot be.
    pub(super) fn new(text: &str, rows: Option<&plan::Rows>) -> Result<Option<Self>> {
        let wrong = |what: String| InputError::new(what, "Write `$${` for the two characters themselves.");
        let named = template::parse(text).map_err(|error| wrong(format!("The text `{text}` is wrong: {error}.")))?;
        if !text.contains("${") {
            return Ok(None);
        }
        let part = |part: Named| match part {
            Named::Text(text) => Ok(Part::Text(text)),
            Named::Counter => Ok(Part::Counter),
            Named::Random => Ok(Part::Random),
            Named::Captured(name) => Ok(Part::Captured(name)),
            Named::Row(column) => {
                let index = rows.and_then(|rows| rows.columns.iter().position(|known| *known == column));
                Ok(Part::Row(index.ok_or_else(|| wrong(format!("The rows have no column `{column}`.")))?))
            }
        };
        Ok(Some(Self(named.into_iter().map(part).collect::<Result<_>>()?)))
    }

    /// The names of captured values that it needs.
    pub(super) fn needs(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Captured(name) => Some(name.as_str()),
            Part::Text(_) | Part::Counter | Part::Random | Part::Row(_) => None,
        })
    }

    /// The text of a request. `encode` changes each value, and not the text around it.
    pub(super) fn render(
        &self,
        values: Values<'_>,
        captured: &Captured,
        encode: impl Fn(&str) -> Cow<'_, str>,
    ) -> Result<String, RequestFailure> {
        let mut text = String::new();
        for part in &self.0 {
            let value = match part {
                Part::Text(same) => {
                    text.push_str(same);
                    continue;
                }
                Part::Counter => Cow::Owned(values.index.saturating_add(1).to_string()),
                // As long in each request, so that bodies have one length.
                Part::Random => Cow::Owned((1_000_000_000 + scale(values.random, 9_000_000_000)).to_string()),
                Part::Row(column) => Cow::Borrowed(values.row.get(*column).ok_or(RequestFailure::Value)?.as_str()),
                Part::Captured(name) => Cow::Borrowed(captured.get(name).ok_or(RequestFailure::Value)?.as_str()),
            };
            text.push_str(&encode(&value));
        }
        Ok(text)
    }
}

/// A value as a part of a URL's path or query: all but the unreserved characters of RFC 3986 are percent-encoded.
pub(super) fn in_url(value: &str) -> Cow<'_, str> {
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if value.bytes().all(is_unreserved) {
        return Cow::Borrowed(value);
    }
    let encoded = value.bytes().map(|byte| match is_unreserved(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    Cow::Owned(encoded.collect())
}

/// Captures values from a successful answer. `body` is empty if no value is searched in it.
///
/// # Errors
/// Fails with [`RequestFailure::Capture`] if a value is not there.
pub(super) fn capture(
    wanted: &BTreeMap<String, Capture>,
    headers: &HeaderMap,
    jar: &Jar,
    body: &Bytes,
    captured: &mut Captured,
) -> Result<(), RequestFailure> {
    let mut parsed = None;
    for (name, source) in wanted {
        let value = match source {
            Capture::Json(pointer) => {
                // Other requests wait meanwhile, so it is parsed once at most.
                let whole = parsed.get_or_insert_with(|| serde_json::from_slice(body).ok());
                whole.as_ref().and_then(|whole| in_json(whole, pointer))
            }
            Capture::Header(field) => {
                let field = HeaderName::from_bytes(field.as_bytes()).ok();
                field.and_then(|field| headers.get(field)?.to_str().ok().map(str::to_owned))
            }
            Capture::Cookie(name) => jar.get(name).map(str::to_owned),
        };
        captured.insert(name.clone(), value.ok_or(RequestFailure::Capture)?);
    }
    Ok(())
}

/// The string, number or truth value at a JSON pointer (RFC 6901).
fn in_json(whole: &serde_json::Value, pointer: &str) -> Option<String> {
    match whole.pointer(pointer)? {
        serde_json::Value::String(text) => Some(text.clone()),
        value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_)) => Some(value.to_string()),
        serde_json::Value::Null | serde_json::Value::Array(_) | serde_json::Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn rows() -> plan::Rows {
        let rows = [["1", "ann"], ["2", "中 b"]];
        let values = rows.map(|row| row.map(str::to_owned).to_vec()).to_vec();
        plan::Rows { columns: vec!["id".to_owned(), "name".to_owned()], values, count: 2 }
    }

    fn rendered(text: &str, index: u64, captured: &Captured) -> Result<String, RequestFailure> {
        let rows = rows();
        let template = Template::new(text, Some(&rows)).unwrap().unwrap();
        template.render(Values::of(1, index, Some(&rows)), captured, in_url)
    }

    #[test]
    fn only_seed_and_number_decide_about_values() {
        let captured = Captured::new();
        assert_eq!(rendered("/${counter}", 0, &captured).unwrap(), "/1");
        assert_eq!(rendered("/${counter}", 9, &captured).unwrap(), "/10");
        let text = "${random}-${rows.id}";
        let all = |seed: u64| {
            let rows = rows();
            let template = Template::new(text, Some(&rows)).unwrap().unwrap();
            let one = |index| template.render(Values::of(seed, index, Some(&rows)), &captured, in_url).unwrap();
            (0..100).map(one).collect::<Vec<_>>()
        };
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
        assert!(all(1).iter().all(|value| value.len() == 12));
        let first = all(3).iter().filter(|value| value.ends_with("-1")).count();
        assert!((20..80).contains(&first), "{first} of 100 requests have the first of two rows");
    }

    #[test]
    fn a_request_has_one_row_and_one_random_number() {
        for index in 0..20 {
            let both = rendered("${rows.id} ${rows.name} ${random} ${random}", index, &Captured::new()).unwrap();
            let words: Vec<_> = both.split(' ').collect();
            assert!(["1 ann", "2 %E4%B8%AD%20b"].contains(&words[..2].join(" ").as_str()), "{both}");
            assert_eq!(words[2], words[3]);
        }
    }

    #[test]
    fn what_a_client_has_not_captured_is_missing() {
        assert_eq!(rendered("${token}", 0, &Captured::new()), Err(RequestFailure::Value));
        let captured = Captured::from([("token".to_owned(), "a/b".to_owned())]);
        assert_eq!(rendered("x=${token}", 0, &captured).unwrap(), "x=a%2Fb");
    }

    #[test]
    fn a_text_without_values_is_no_template() {
        assert!(Template::new("a $ {b}", None).unwrap().is_none());
        let escaped = Template::new("$${a}", None).unwrap().unwrap();
        assert_eq!(escaped.render(Values::of(1, 0, None), &Captured::new(), in_url).unwrap(), "${a}");
        for text in ["${", "${a-b}", "${rows.id}"] {
            assert_eq!(Template::new(text, None).unwrap_err().exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn values_are_captured_from_each_place() {
        let headers = HeaderMap::from_iter([(HeaderName::from_static("x-id"), HeaderValue::from_static("7"))]);
        let mut jar = Jar::default();
        jar.store(&HeaderMap::from_iter([(hyper::header::SET_COOKIE, HeaderValue::from_static("sid=abc"))]));
        let body = Bytes::from_static(br#"{"a": {"b/c": "x", "n": 5, "t": true, "z": null}}"#);
        let one = |source: Capture| {
            let mut captured = Captured::new();
            let wanted = BTreeMap::from([("v".to_owned(), source)]);
            capture(&wanted, &headers, &jar, &body, &mut captured).map(|()| captured["v"].clone())
        };
        let json = |pointer: &str| Capture::Json(pointer.to_owned());
        let both = BTreeMap::from([("n".to_owned(), json("/a/n")), ("t".to_owned(), json("/a/t"))]);
        let mut captured = Captured::new();
        capture(&both, &headers, &jar, &body, &mut captured).unwrap();
        assert_eq!((captured["n"].as_str(), captured["t"].as_str()), ("5", "true"));
        assert_eq!(one(Capture::Json("/a/b~1c".into())).unwrap(), "x");
        assert_eq!(one(Capture::Json("/a/n".into())).unwrap(), "5");
        assert_eq!(one(Capture::Json("/a/t".into())).unwrap(), "true");
        assert_eq!(one(Capture::Header("X-Id".into())).unwrap(), "7");
        assert_eq!(one(Capture::Cookie("sid".into())).unwrap(), "abc");
        for missing in [
            Capture::Json("/a".into()),
            Capture::Json("/a/z".into()),
            Capture::Header("y".into()),
            Capture::Cookie("z".into()),
        ] {
            assert_eq!(one(missing), Err(RequestFailure::Capture));
        }
    }
}
