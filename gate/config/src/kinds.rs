//! The kinds of scalars in memgate.yaml.

use std::path::PathBuf;

use base64::Engine as _;
use hyper::http::uri::Authority;
use memgate_evidence::{
    plan::{GRPC_STATUSES, Length, ResultsFormat},
    template,
};
use memgate_verdict::{metric::Unit, quoted::shorten, units};

use crate::yaml::{Kind, Problem};

/// A problem with a scalar. Its help is what was expected; only the help gives examples.
fn wrong(what: String, expected: &str) -> Problem {
    let noun = expected.split(" such as").next().unwrap_or_default().trim_end_matches(',');
    Problem::new(what, format!("expected {noun}"), format!("write {expected}"))
}

/// Refuses text that is not as expected.
fn require<T>(holds: bool, text: &str, expected: &str, value: impl FnOnce() -> T) -> Result<T, Problem> {
    if holds { Ok(value()) } else { Err(wrong(format!("`{}` is not {expected}", shorten(text)), expected)) }
}

/// A name that becomes part of a file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name;

impl Name {
    /// Whether the text can be part of a file name.
    pub fn is_valid(text: &str) -> bool {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        text.len() <= 100
            && text.bytes().next().is_some_and(is_plain)
            && text.bytes().all(|byte| is_plain(byte) || byte == b'-')
    }
}

impl Kind for Name {
    type Value = String;
    const EXPECTED: &'static str = "a name of a-z, 0-9 and -, such as `uaa` or `order-service`";
    const PATTERN: Option<&'static str> = Some("^[a-z0-9][a-z0-9-]{0,99}$");

    fn read(text: &str) -> Result<String, Problem> {
        require(Self::is_valid(text), text, Self::EXPECTED, || text.to_owned())
    }
}

/// A path.
#[derive(Debug)]
pub(super) struct FilePath;

impl Kind for FilePath {
    type Value = PathBuf;
    const EXPECTED: &'static str = "a path such as `services/uaa`, relative to this file";
    const PATTERN: Option<&'static str> = Some(".");

    fn read(text: &str) -> Result<PathBuf, Problem> {
        require(!text.is_empty(), text, Self::EXPECTED, || PathBuf::from(text))
    }
}

/// An absolute path in a guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct GuestPath;

impl Kind for GuestPath {
    type Value = String;
    const EXPECTED: &'static str = "an absolute path such as `/lib64/ld-linux-x86-64.so.2`";
    const PATTERN: Option<&'static str> = Some("^/.*[^/]$");

    fn read(text: &str) -> Result<String, Problem> {
        let is_file = text.starts_with('/') && !text.ends_with('/') && !text.split('/').any(|part| part == "..");
        require(is_file, text, Self::EXPECTED, || text.to_owned())
    }
}

/// A Go package as `go build` names it. It is passed as an argument, so it must not look like an option.
#[derive(Debug)]
pub(super) struct Package;

impl Kind for Package {
    type Value = String;
    const EXPECTED: &'static str = "a Go package such as `./cmd/uaa`";
    const PATTERN: Option<&'static str> = Some("^[^-]");

    fn read(text: &str) -> Result<String, Problem> {
        require(!text.is_empty() && !text.starts_with('-'), text, Self::EXPECTED, || text.to_owned())
    }
}

/// A Go build tag.
#[derive(Debug)]
pub(super) struct BuildTag;

impl Kind for BuildTag {
    type Value = String;
    const EXPECTED: &'static str = "a build tag such as `netgo`";
    const PATTERN: Option<&'static str> = Some("^[A-Za-z0-9_.]+$");

    fn read(text: &str) -> Result<String, Problem> {
        let is_tag = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
        require(!text.is_empty() && text.bytes().all(is_tag), text, Self::EXPECTED, || text.to_owned())
    }
}

/// The name of an environment variable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Variable;

impl Kind for Variable {
    type Value = String;
    const EXPECTED: &'static str = "a name of a variable such as `GOGC`";
    const PATTERN: Option<&'static str> = Some("^[^=]+$");

    fn read(text: &str) -> Result<String, Problem> {
        require(!text.is_empty() && !text.contains('='), text, Self::EXPECTED, || text.to_owned())
    }
}

/// A user, and perhaps its group: names or numbers.
#[derive(Debug)]
pub struct User;

impl User {
    /// Whether the text can name a user. Whether there is one depends on the machine.
    pub fn is_valid(text: &str) -> bool {
        let is_name = |name: &str| {
            let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
            name.bytes().all(of_a_name) && name.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '_')
        };
        text.split(':').count() <= 2 && text.split(':').all(is_name)
    }
}

impl Kind for User {
    type Value = String;
    const EXPECTED: &'static str = "a user such as `nobody`, `www-data:www-data` or `1000:1000`";
    const PATTERN: Option<&'static str> = Some("^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$");

    fn read(text: &str) -> Result<String, Problem> {
        require(Self::is_valid(text), text, Self::EXPECTED, || text.to_owned())
    }
}

/// The name of an HTTP header field.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HeaderName;

impl Kind for HeaderName {
    type Value = String;
    const EXPECTED: &'static str = "a name of a header such as `Content-Type`";
    const PATTERN: Option<&'static str> = Some("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$");

    fn read(text: &str) -> Result<String, Problem> {
        let is_valid = hyper::header::HeaderName::from_bytes(text.as_bytes()).is_ok();
        require(is_valid, text, Self::EXPECTED, || text.to_owned())
    }
}

/// The value of an HTTP header field.
#[derive(Debug)]
pub(super) struct HeaderValue;

impl Kind for HeaderValue {
    type Value = String;
    const EXPECTED: &'static str = "a value of a header, on one line";

    fn read(text: &str) -> Result<String, Problem> {
        require(hyper::header::HeaderValue::from_str(text).is_ok(), text, Self::EXPECTED, || text.to_owned())
    }

    fn schema() -> schemars::Schema {
        crate::yaml::Text::schema()
    }
}

/// What an authority has behind its host and a `:`, which may be no port.
fn port(authority: &Authority) -> Option<&str> {
    authority.as_str().strip_prefix(authority.host())?.strip_prefix(':')
}

/// Whether the text is a port at which a process can listen.
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse().is_ok_and(|port: u16| port > 0)
}

/// An `http://` URL with a port.
#[derive(Debug)]
pub(super) struct Url;

impl Kind for Url {
    type Value = String;
    const EXPECTED: &'static str = "a URL such as http://127.0.0.1:8080/path";
    const PATTERN: Option<&'static str> = Some("^http://[^/?#@]+:[0-9]+([/?][^#]*)?$");

    fn read(text: &str) -> Result<String, Problem> {
        let refuse = |why: &str| Err(wrong(format!("`{}` {why}", shorten(text)), Self::EXPECTED));
        if text.starts_with("https://") {
            let what = format!("`{}` is https; memgate asks over plain http whether a process is ready", shorten(text));
            let help = "write an http:// URL, or another kind of readiness, such as `tcp: 127.0.0.1:8443`";
            return Err(Problem::new(what, "expected an http:// URL", help));
        }
        let Ok(uri) = text.parse::<hyper::Uri>() else {
            return refuse(&format!("is not {}", Self::EXPECTED));
        };
        let Some(authority) = uri.authority().filter(|_| uri.scheme_str() == Some("http")) else {
            return refuse(&format!("is not {}", Self::EXPECTED));
        };
        if authority.host().is_empty() || authority.as_str().contains('@') || text.contains('#') {
            return refuse("has no host, or has a user or a fragment");
        }
        match port(authority) {
            None => refuse("has no port"),
            Some(port) if !is_port(port) => refuse("has no port from 1 to 65535"),
            Some(_) => Ok(uri.to_string()),
        }
    }
}

/// A host and a port.
#[derive(Debug)]
pub(super) struct Address;

impl Kind for Address {
    type Value = String;
    const EXPECTED: &'static str = "an address such as `127.0.0.1:5432`";
    const PATTERN: Option<&'static str> = Some("^[^/?#@]+:[0-9]+$");

    fn read(text: &str) -> Result<String, Problem> {
        let is_address = |authority: Authority| {
            !authority.host().is_empty() && !authority.as_str().contains('@') && port(&authority).is_some_and(is_port)
        };
        require(text.parse().is_ok_and(is_address), text, Self::EXPECTED, || text.to_owned())
    }
}

/// A unix socket: a path, or `@NAME` for a socket without a file (unix(7)).
#[derive(Debug)]
pub(super) struct SocketName;

impl Kind for SocketName {
    type Value = String;
    const EXPECTED: &'static str = "a path of a socket, such as `run/app.sock`, or `@NAME`";
    const PATTERN: Option<&'static str> = Some("^(@.{1,107}|[^@].{0,4094})$");

    fn read(text: &str) -> Result<String, Problem> {
        let refuse = |why: &str| Err(wrong(format!("`{}` {why}", shorten(text)), Self::EXPECTED));
        // The kernel's limits: `sun_path` of unix(7), and `PATH_MAX` of path_resolution(7).
        match text.strip_prefix('@') {
            Some(name) if !(1..=107).contains(&name.len()) => refuse("has no name of 1 to 107 bytes behind its `@`"),
            None if !(1..=4095).contains(&text.len()) => refuse("is no path of 1 to 4095 bytes"),
            Some(_) | None => require(!text.contains('\0'), text, Self::EXPECTED, || text.to_owned()),
        }
    }
}

/// A regular expression that lines of an output are held against.
#[derive(Debug)]
pub(super) struct LinePattern;

impl Kind for LinePattern {
    type Value = String;
    const EXPECTED: &'static str = "a regular expression such as `listening on .*:5432`";
    const PATTERN: Option<&'static str> = Some(".");

    fn read(text: &str) -> Result<String, Problem> {
        if text.is_empty() {
            return Err(wrong("an empty text matches every line".to_owned(), Self::EXPECTED));
        }
        match regex_lite::Regex::new(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(error) => Err(wrong(format!("`{}` is no regular expression: {error}", shorten(text)), Self::EXPECTED)),
        }
    }
}

/// `true`, where nothing else makes sense.
#[derive(Debug)]
pub(super) struct True;

impl Kind for True {
    type Value = ();
    const EXPECTED: &'static str = "`true`";

    fn read(text: &str) -> Result<(), Problem> {
        if text == "true" {
            return Ok(());
        }
        Err(Problem::new(
            format!("`{}` is not `true`", shorten(text)),
            "expected `true`",
            "write `true`, or remove the key",
        ))
    }

    fn schema() -> schemars::Schema {
        schemars::json_schema!({ "const": true })
    }
}

/// An `http://` or `https://` URL. Without a port it is only good for a unix socket.
#[derive(Debug)]
pub(super) struct RequestUrl;

impl Kind for RequestUrl {
    type Value = String;
    const EXPECTED: &'static str = Url::EXPECTED;
    const PATTERN: Option<&'static str> = Some("^https?://[^/?#@]+([/?][^#]*)?$");

    fn read(text: &str) -> Result<String, Problem> {
        let refuse = |why: &str| Err(wrong(format!("`{}` {why}", shorten(text)), Self::EXPECTED));
        let Ok(uri) = text.parse::<hyper::Uri>() else {
            return refuse(&format!("is not {}", Self::EXPECTED));
        };
        let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
        let Some(authority) = uri.authority().filter(|_| is_known) else {
            return refuse(&format!("is not {}", Self::EXPECTED));
        };
        if authority.host().is_empty() || authority.as_str().contains('@') || text.contains('#') {
            return refuse("has no host, or has a user or a fragment");
        }
        if port(authority).is_some_and(|port| !is_port(port)) {
            return refuse("has no port from 1 to 65535");
        }
        Ok(uri.to_string())
    }
}

/// `true` or `false`.
#[derive(Debug)]
pub(super) struct Switch;

impl Kind for Switch {
    type Value = bool;
    const EXPECTED: &'static str = "`true` or `false`";

    fn read(text: &str) -> Result<bool, Problem> {
        text.parse().map_err(|_| wrong(format!("`{}` is not {}", shorten(text), Self::EXPECTED), Self::EXPECTED))
    }

    fn schema() -> schemars::Schema {
        schemars::json_schema!({ "type": "boolean" })
    }
}

/// What counts as success: a status code of HTTP, or the name of a status of gRPC.
#[derive(Debug)]
pub(super) struct Status;

/// A status, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StatusCode {
    /// Of HTTP, from 100 to 599.
    Http(u16),
    /// Of gRPC: its number.
    Grpc(u8),
}

impl Kind for Status {
    type Value = StatusCode;
    const EXPECTED: &'static str = "a status code from 100 to 599, or a status of gRPC such as NOT_FOUND";

    fn read(text: &str) -> Result<StatusCode, Problem> {
        let name = (0..).zip(GRPC_STATUSES).find(|(_, name)| *name == text).map(|(code, _)| StatusCode::Grpc(code));
        let code = text.parse().ok().filter(|code| (100..=599).contains(code)).map(StatusCode::Http);
        let wrong = || wrong(format!("`{}` is not {}", shorten(text), Self::EXPECTED), Self::EXPECTED);
        name.or(code).ok_or_else(wrong)
    }

    fn schema() -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [{ "type": "integer", "minimum": 100, "maximum": 599 }, { "enum": GRPC_STATUSES }] })
    }
}

/// The name of a captured value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ValueName;

impl Kind for ValueName {
    type Value = String;
    const EXPECTED: &'static str = "a name of letters, digits and _, such as `token`";
    const PATTERN: Option<&'static str> = Some("^[A-Za-z_][A-Za-z0-9_]*$");

    fn read(text: &str) -> Result<String, Problem> {
        if template::is_reserved(text) {
            let help = "write another name than `counter`, `random` and `rows`";
            return Err(Problem::new(
                format!("`{text}` is a value that every load has"),
                "expected another name",
                help,
            ));
        }
        require(template::is_name(text), text, Self::EXPECTED, || text.to_owned())
    }
}

/// A JSON pointer, RFC 6901.
#[derive(Debug)]
pub(super) struct Pointer;

impl Kind for Pointer {
    type Value = String;
    const EXPECTED: &'static str = "a JSON pointer such as `/access_token` or `/users/0/id`";
    const PATTERN: Option<&'static str> = Some("^/");

    fn read(text: &str) -> Result<String, Problem> {
        require(text.starts_with('/'), text, Self::EXPECTED, || text.to_owned())
    }
}

/// The name of a cookie.
#[derive(Debug)]
pub(super) struct CookieName;

impl Kind for CookieName {
    type Value = String;
    const EXPECTED: &'static str = "a name of a cookie such as `session`";
    const PATTERN: Option<&'static str> = Some("^[^=; ]+$");

    fn read(text: &str) -> Result<String, Problem> {
        let is_name = !text.is_empty() && !text.contains(['=', ';', ' ']);
        require(is_name, text, Self::EXPECTED, || text.to_owned())
    }
}

/// Bytes in Base64, with padding.
#[derive(Debug)]
pub(super) struct Base64;

impl Kind for Base64 {
    type Value = Vec<u8>;
    const EXPECTED: &'static str = "bytes in Base64 such as `CgNhbm4=`";
    const PATTERN: Option<&'static str> = Some("^[A-Za-z0-9+/]*=*$");

    fn read(text: &str) -> Result<Vec<u8>, Problem> {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text);
        bytes.map_err(|_| wrong(format!("`{}` is not {}", shorten(text), Self::EXPECTED), Self::EXPECTED))
    }
}

/// Bytes in hexadecimal.
#[derive(Debug)]
pub(super) struct Hex;

impl Kind for Hex {
    type Value = Vec<u8>;
    const EXPECTED: &'static str = "bytes in hexadecimal such as `0a03616e6e`";
    const PATTERN: Option<&'static str> = Some("^([0-9A-Fa-f]{2})*$");

    fn read(text: &str) -> Result<Vec<u8>, Problem> {
        let bytes = hex::decode(text);
        bytes.map_err(|_| wrong(format!("`{}` is not {}", shorten(text), Self::EXPECTED), Self::EXPECTED))
    }
}

/// The program whose results a load command writes.
#[derive(Debug)]
pub(super) struct ResultsName;

impl Kind for ResultsName {
    type Value = ResultsFormat;
    const EXPECTED: &'static str = "`k6` or `vegeta`";
    const PATTERN: Option<&'static str> = Some("^(k6|vegeta)$");

    fn read(text: &str) -> Result<ResultsFormat, Problem> {
        /// Programs whose files memgate cannot use.
        const OTHERS: [&str; 6] = ["oha", "hey", "wrk", "wrk2", "ab", "fortio"];
        if let Some(format) = ResultsFormat::ALL.into_iter().find(|format| format.name() == text) {
            return Ok(format);
        }
        if OTHERS.contains(&text) {
            let why = "which does not say at what time of the day each request was sent and whether it failed";
            let what =
                format!("memgate cannot use the results of `{text}`, {why}: the measuring phase is a part of its run");
            return Err(wrong(what, Self::EXPECTED));
        }
        Err(wrong(format!("`{}` is not {}", shorten(text), Self::EXPECTED), Self::EXPECTED))
    }
}

/// `open`, for a standard input.
#[derive(Debug)]
pub(super) struct Open;

impl Kind for Open {
    type Value = ();
    const EXPECTED: &'static str = "`open`";

    fn read(text: &str) -> Result<(), Problem> {
        if text == "open" {
            return Ok(());
        }
        Err(Problem::new(
            format!("`{}` is not `open`", shorten(text)),
            "expected `open`",
            "write `open`, or remove the key for /dev/null",
        ))
    }

    fn schema() -> schemars::Schema {
        schemars::json_schema!({ "const": "open" })
    }
}

/// A duration from `LEAST` to `MOST`, in whole milliseconds.
#[derive(Debug)]
pub(super) struct Millis<const LEAST: u64, const MOST: u64>;

impl<const LEAST: u64, const MOST: u64> Kind for Millis<LEAST, MOST> {
    type Value = u64;
    const EXPECTED: &'static str = units::expected(Unit::Nanoseconds);
    const PATTERN: Option<&'static str> = Some("^[0-9].*[a-z]$");

    fn read(text: &str) -> Result<u64, Problem> {
        let milliseconds = units::parse(text, Unit::Nanoseconds).map_err(|what| wrong(what, Self::EXPECTED))? / 1e6;
        let range = format!("a duration from {} to {}", millis(LEAST), millis(MOST));
        match whole(milliseconds) {
            Some(whole) if (LEAST..=MOST).contains(&whole) => Ok(whole),
            Some(_) => Err(wrong(format!("`{}` is out of range; expected {range}", shorten(text)), &range)),
            None => Err(wrong(format!("`{}` is not a whole number of milliseconds", shorten(text)), &range)),
        }
    }
}

/// The length of a phase under load: a duration as [`Millis`], or a number of requests from 1 to 10^12. Whether the
/// requests take as long depends on the rate.
#[derive(Debug)]
pub(super) struct PhaseLength<const LEAST: u64, const MOST: u64>;

impl<const LEAST: u64, const MOST: u64> Kind for PhaseLength<LEAST, MOST> {
    type Value = Length;
    const EXPECTED: &'static str = "a duration or a number of requests, such as 30s or `6000 requests`";
    const PATTERN: Option<&'static str> = Some("^[0-9].*[a-z]$");

    fn read(text: &str) -> Result<Length, Problem> {
        let Some(number) = text.strip_suffix("requests").or_else(|| text.strip_suffix("request")) else {
            return Millis::<LEAST, MOST>::read(text).map(Length::Ms);
        };
        let number = number.trim_end().parse().ok().filter(|number| (1..=1_000_000_000_000).contains(number));
        let expected = "a number of requests from 1 to 10^12, such as `6000 requests`";
        number.map(Length::Requests).ok_or_else(|| wrong(format!("`{}` is not {expected}", shorten(text)), expected))
    }
}

/// Milliseconds in the largest unit without a fraction.
fn millis(milliseconds: u64) -> String {
    let units = [("h", 3_600_000), ("s", 1000), ("ms", 1)];
    let unit = units.into_iter().find(|(_, length)| milliseconds.is_multiple_of(*length) && milliseconds >= *length);
    unit.map_or_else(|| "0s".to_owned(), |(unit, length)| format!("{}{unit}", milliseconds / length))
}

/// A size of at least `LEAST` bytes and below 2^53, in whole bytes.
#[derive(Debug)]
pub struct Size<const LEAST: u64>;

impl<const LEAST: u64> Kind for Size<LEAST> {
    type Value = u64;
    const EXPECTED: &'static str = units::expected(Unit::Bytes);
    const PATTERN: Option<&'static str> = Some("^[0-9]+([.][0-9]+)? *(B|[kKMGT]B|[KMGT]iB)$");

    fn read(text: &str) -> Result<u64, Problem> {
        let bytes = units::parse(text, Unit::Bytes).map_err(|what| wrong(what, Self::EXPECTED))?;
        match whole(bytes) {
            Some(whole) if whole >= LEAST => Ok(whole),
            Some(_) => {
                let expected = format!("a size of at least {}", units::format(as_f64(LEAST), Unit::Bytes));
                Err(wrong(format!("`{}` is too small; expected {expected}", shorten(text)), &expected))
            }
            None => Err(wrong(format!("`{}` is not a whole number of bytes", shorten(text)), Self::EXPECTED)),
        }
    }
}

/// Requests per second, above 0 and at most 1,000,000, which is what one machine can send.
#[derive(Debug)]
pub(super) struct Rate;

impl Kind for Rate {
    type Value = f64;
    const EXPECTED: &'static str = "a rate from above 0/s to 1000000/s, such as 500/s or 1200/min";
    const PATTERN: Option<&'static str> = Some("^[0-9]+([.][0-9]+)? */(s|min|h)$");

    fn read(text: &str) -> Result<f64, Problem> {
        let rate = units::parse_rate(text).map_err(|what| wrong(what, Self::EXPECTED))?;
        if rate > 0.0 && rate <= 1e6 {
            return Ok(rate);
        }
        Err(wrong(format!("`{}` is out of range; expected {}", shorten(text), Self::EXPECTED), Self::EXPECTED))
    }
}

#[expect(clippy::cast_precision_loss, reason = "no least size comes near 2^53")]
const fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

/// The whole number nearest to a value below 2^53, unless they differ by more than rounding: 0.3 s is 300 ms.
fn whole(value: f64) -> Option<u64> {
    let rounded = value.round();
    let is_whole = (value - rounded).abs() <= value.abs() * 1e-12;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the value is a whole number in range")]
    (is_whole && (0.0..=9_007_199_254_740_992.0).contains(&rounded)).then_some(rounded as u64)
}
