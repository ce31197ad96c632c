//! The values that differ from request to request: rows of a file, captured values, and the places of their names.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use memgate_evidence::{
    error::Result,
    plan::{Capture, Request, Rows},
    template::{self, Part},
};
use memgate_verdict::quoted::shorten;

use crate::{
    file,
    kinds::ValueName,
    validate::Validator,
    yaml::{KeyPath, Problem, Scalar},
};

/// The largest file of rows, bytes.
const LARGEST_ROWS: u64 = 16 << 20;

/// The values that the requests of a load may name.
pub(super) struct Known<'a> {
    pub(super) rows: Option<&'a Rows>,
    /// What requests capture.
    pub(super) captured: BTreeSet<String>,
}

impl Validator<'_> {
    /// Reads a file of rows: CSV with a header, or JSON objects, each on a line of its own.
    pub(super) fn rows(&self, file: &Path, place: &KeyPath) -> Result<Rows> {
        let name = file.display();
        let refuse = |what: String, help: &str| {
            self.source.error(place, Problem::new(what, "expected a file of rows", help.to_owned()))
        };
        let unreadable = |error| refuse(format!("`{name}` cannot be read: {error}"), "name a file that can be read");
        let path = self.resolve(file.to_owned()).canonicalize().map_err(unreadable)?;
        // memgate may be root, and what it reads goes to the service.
        if !path.starts_with(self.directory.canonicalize().map_err(unreadable)?) {
            let what = format!("`{name}` does not lie in the directory of this file");
            return Err(refuse(what, "put the file beside this one or below; no link may lead elsewhere"));
        }
        let metadata = std::fs::metadata(&path).map_err(unreadable)?;
        if !metadata.is_file() || metadata.len() > LARGEST_ROWS {
            let what = format!("`{name}` is not a regular file of at most 16 MiB");
            return Err(refuse(what, "name a file with fewer rows"));
        }
        let text = std::fs::read_to_string(&path).map_err(unreadable)?;
        let read = match file.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => of_csv(&text),
            Some("jsonl") => of_json_lines(&text),
            Some(_) | None => {
                let what = format!("`{name}` is neither a `.csv` nor a `.jsonl` file");
                return Err(refuse(what, "name the file by what it has: CSV with a header, or JSON objects in lines"));
            }
        };
        let (columns, values) = read
            .map_err(|(line, why)| refuse(format!("line {line} of `{name}` {why}"), "give each row all the columns"))?;
        if let Some(twice) = columns.iter().enumerate().find(|(at, name)| columns[..*at].contains(name)) {
            let what = format!("`{name}` has the column `{}` twice", shorten(twice.1));
            return Err(refuse(what, "give each column a name of its own"));
        }
        if values.is_empty() {
            return Err(refuse(
                format!("`{name}` has no rows"),
                "write at least one row below the names of the columns",
            ));
        }
        let count = u64::try_from(values.len()).unwrap_or(u64::MAX);
        Ok(Rows { columns, values, count })
    }

    /// What a request captures.
    pub(super) fn capture(
        &self,
        capture: BTreeMap<Scalar<ValueName>, file::Capture>,
        is_grpc: bool,
        place: &KeyPath,
    ) -> Result<BTreeMap<String, Capture>> {
        let one = |(Scalar(name), from): (Scalar<ValueName>, file::Capture)| {
            let place = place.key(&name);
            let refuse = |what: &str, label: &str, help: &str| {
                Err(self.source.error(&place, Problem::new(what.to_owned(), label.to_owned(), help.to_owned())))
            };
            let source = match (from.json, from.header, from.cookie) {
                (Some(_), None, None) if is_grpc => {
                    return refuse(
                        "the answer of a gRPC request is not JSON",
                        "in a gRPC request",
                        "capture a field of the header: `{ header: NAME }`",
                    );
                }
                (Some(pointer), None, None) => Capture::Json(pointer.0),
                (None, Some(field), None) => Capture::Header(field.0),
                (None, None, Some(cookie)) => Capture::Cookie(cookie.0),
                _ => {
                    return refuse(
                        "a value is captured from one place",
                        "expected one of `json`, `header` and `cookie`",
                        "write `{ json: /access_token }`, `{ header: NAME }` or `{ cookie: NAME }`",
                    );
                }
            };
            Ok((name, source))
        };
        capture.into_iter().map(one).collect()
    }

    /// Checks the values that a request names. `key` is that of its URL.
    pub(super) fn names(&self, request: &Request, known: &Known<'_>, key: &str, place: &KeyPath) -> Result<()> {
        self.text(&request.url, known, &place.key(key))?;
        for (name, value) in &request.headers {
            self.text(value, known, &place.key("headers").key(name))?;
        }
        self.text(&request.body, known, &place.key("body"))
    }

    fn text(&self, text: &str, known: &Known<'_>, place: &KeyPath) -> Result<()> {
        let refuse = |what: String, label: &str, help: String| {
            Err(self.source.error(place, Problem::new(what, label.to_owned(), help)))
        };
        let parts = match template::parse(text) {
            Ok(parts) => parts,
            Err(error) => {
                let help = "write `${counter}`, `${random}`, `${rows.COLUMN}` or `${NAME}`, or `$${` for the two \
                            characters themselves";
                return refuse(format!("{error}"), "expected a value", help.to_owned());
            }
        };
        for part in parts {
            match (part, known.rows) {
                (Part::Row(column), None) => {
                    let what = format!("`${{rows.{}}}` needs rows", shorten(&column));
                    return refuse(what, "without `rows`", "write `rows: FILE.csv` in the load".to_owned());
                }
                (Part::Row(column), Some(rows)) if !rows.columns.contains(&column) => {
                    let what = format!("the rows have no column `{}`", shorten(&column));
                    return refuse(what, "not a column", format!("their columns are {}", rows.columns.join(", ")));
                }
                (Part::Captured(name), _) if !known.captured.contains(&name) => {
                    let what = format!("nothing sets `{}`", shorten(&name));
                    let help = format!("capture it in another request: `capture: {{ {name}: {{ json: /{name} }} }}`");
                    return refuse(what, "not a value that is known here", help);
                }
                (Part::Text(_) | Part::Counter | Part::Random | Part::Row(_) | Part::Captured(_), _) => {}
            }
        }
        Ok(())
    }

    /// Checks that a client can capture what each request needs, in the order in which it does.
    pub(super) fn needs(&self, requests: &[Request], place: &KeyPath) -> Result<()> {
        let needs: Vec<BTreeSet<String>> = requests.iter().map(needed).collect();
        for (index, need) in needs.iter().enumerate() {
            let mut captured = BTreeSet::new();
            while let Some(missing) = need.difference(&captured).next().cloned() {
                let Some(first) = first_for(index, requests, &needs, &captured) else {
                    let what = format!("needs `{missing}`, which is set only by requests that need it themselves");
                    let help = "let one request set it without any captured value";
                    return Err(self.source.error(&place.index(index), Problem::new(what, "is never sent", help)));
                };
                captured.extend(requests[first].capture.keys().cloned());
            }
        }
        Ok(())
    }
}

/// The request that a client sends in place of one whose values it lacks, as the load generator chooses it; `None` if
/// there is none.
fn first_for(
    index: usize,
    requests: &[Request],
    needs: &[BTreeSet<String>],
    captured: &BTreeSet<String>,
) -> Option<usize> {
    let mut first = index;
    for _ in requests {
        let Some(missing) = needs[first].difference(captured).next() else { return Some(first) };
        first = requests.iter().position(|request| request.capture.contains_key(missing))?;
    }
    None
}

/// The parts of the texts of a request that may have values.
fn parts(request: &Request) -> impl Iterator<Item = Part> {
    let texts = [&request.url, &request.body].into_iter().chain(request.headers.values());
    texts.flat_map(|text| template::parse(text).unwrap_or_default())
}

/// Whether a request has a value of a row.
pub(super) fn has_row(request: &Request) -> bool {
    parts(request).any(|part| matches!(part, Part::Row(_)))
}

/// The captured values that a request needs.
fn needed(request: &Request) -> BTreeSet<String> {
    let names = parts(request).filter_map(|part| match part {
        Part::Captured(name) => Some(name),
        Part::Text(_) | Part::Counter | Part::Random | Part::Row(_) => None,
    });
    names.collect()
}

/// The columns and the rows, or what is wrong with a line.
type Read = std::result::Result<(Vec<String>, Vec<Vec<String>>), (u64, String)>;

fn of_csv(text: &str) -> Read {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let wrong = |error: csv::Error| {
        let line = error.position().map_or(1, csv::Position::line);
        (line, format!("is not CSV with the columns of the first: {error}"))
    };
    let owned = |record: &csv::StringRecord| record.iter().map(str::to_owned).collect();
    let columns = owned(reader.headers().map_err(wrong)?);
    let rows = reader.records().map(|record| record.map(|record| owned(&record)).map_err(wrong));
    Ok((columns, rows.collect::<std::result::Result<_, _>>()?))
}

fn of_json_lines(text: &str) -> Read {
    let (mut columns, mut rows) = (Vec::new(), Vec::new());
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(line).map_err(|error| (number, format!("is no JSON object: {error}")))?;
        if rows.is_empty() {
            columns = object.keys().cloned().collect();
        }
        let value = |column: &String| match object.get(column) {
            Some(serde_json::Value::String(text)) => Ok(text.clone()),
            Some(value) => Ok(value.to_string()),
            None => Err((number, format!("has no `{}`", shorten(column)))),
        };
        rows.push(columns.iter().map(value).collect::<std::result::Result<_, _>>()?);
    }
    Ok((columns, rows))
}
