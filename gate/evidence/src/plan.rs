//! The agent's task: one run of one service on one platform.
//!
//! A plan is plain data. It is made from the configuration without touching the machine. A guest gets it with the
//! guest's own paths and without the rows of the load.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{platform::Platform, secrets::Secrets, tier::Tier};

/// One run of one service on one platform.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The service's name in the configuration.
    pub service: String,
    /// The platform to measure.
    pub platform: Platform,
    /// The run's number within its command, from 1.
    pub run: u32,
    /// The name of the baseline to compare the service with, `baselines/<platform>/<baseline>.yaml`.
    pub baseline: String,
    /// The Go executable.
    pub executable: PathBuf,
    /// Its arguments, without `argv[0]`.
    pub args: Vec<String>,
    /// How the executable comes to run, if memgate does not execute it itself.
    pub watch: Option<Watch>,
    /// Variables to add to a minimal environment (`PATH`, `HOME`, `TMPDIR`).
    pub env: BTreeMap<String, String>,
    /// What the service reads at its standard input.
    pub stdin: Stdin,
    /// Values in the environments that memgate must not write.
    pub secrets: Secrets,
    /// The working directory of the service and of a load command.
    pub directory: PathBuf,
    /// The user that the service and a load command run as; `None` for memgate's own.
    pub account: Option<Account>,
    /// When the service counts as ready.
    pub ready: Ready,
    /// The memory limit of the service's cgroup, bytes.
    pub memory_max: Option<u64>,
    /// What runs beside the service, in the order in which it starts.
    pub sidecars: Vec<Sidecar>,
    /// What runs to its end before the service starts, once the sidecars are ready, in this order.
    pub before: Vec<Before>,
    /// The load.
    pub load: Load,
    /// The lengths of the phases.
    pub phases: PhaseLengths,
    /// The seed for the order of the requests.
    pub seed: u64,
    /// How long a service may take to end after SIGTERM before it is killed, ms.
    pub stop_timeout_ms: u64,
    /// How to collect.
    pub collecting: Collecting,
}

/// Which process is measured, if it is not simply the one that memgate starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// The program that memgate starts and its arguments; empty for the executable itself.
    pub command: Vec<String>,
    /// A word among the arguments of the execution that is measured.
    pub argument: Option<String>,
    /// The number of the execution that is measured among those of the executable with that word, from 1.
    pub execution: u32,
}

/// As JSON, without the secrets.
impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = Self { secrets: Secrets::default(), ..self.clone() };
        let mut shown = serde_json::to_value(shown).map_err(|_| fmt::Error)?;
        self.secrets.mask_all(&mut shown);
        write!(f, "Plan {shown}")
    }
}

/// What a service reads at its standard input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// /dev/null, which is at its end at once.
    #[default]
    Empty,
    /// A pipe to which nobody writes, and which stays open while the service runs.
    Open,
}

/// A user of the machine, as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Its name, or its number if it has no name; for messages.
    pub name: String,
    /// The user's id.
    pub uid: u32,
    /// The id of its group.
    pub gid: u32,
    /// The ids of its other groups.
    pub groups: Vec<u32>,
    /// Its home directory, `HOME` of its processes.
    pub home: PathBuf,
}

/// How to collect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collecting {
    /// The highest tier to use; the highest that the kernel allows if there is none.
    pub tier: Option<Tier>,
    /// Whether probes may be put on instructions that the kernel single-steps.
    pub force_probes: bool,
}

/// When a process counts as ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// What tells it.
    pub by: ReadyBy,
    /// How long to wait, ms.
    pub timeout_ms: u64,
}

/// What tells that a process is ready. An address or a socket must be free before the launch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadyBy {
    /// An `http://` URL answers with a status below 400.
    Http(String),
    /// `HOST:PORT` accepts a connection.
    Tcp(String),
    /// A unix socket accepts a connection: its path, which the working directory of the process resolves, or `@NAME` for
    /// one without a file.
    Unix(String),
    /// A line of the output matches this regular expression.
    Log(String),
    /// A command ends with exit code 0: program and arguments, at least the program. It runs as the process does.
    Command(Vec<String>),
    /// The process sends `READY=1` as sd_notify(3) does.
    Notify,
}

/// A process that the service needs, such as a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sidecar {
    /// Its name, which can be part of a file name.
    pub name: String,
    /// The program and its arguments, at least the program.
    pub words: Vec<String>,
    /// Variables to add to its environment (`PATH`, `HOME`, `TMPDIR`, `LANG`, `LC_ALL`, `TZ`).
    pub env: BTreeMap<String, String>,
    /// Its working directory; `None` for a fresh one of its own.
    pub directory: Option<PathBuf>,
    /// The user that it runs as; `None` for memgate's own.
    pub account: Option<Account>,
    /// When it counts as ready.
    pub ready: Ready,
    /// The memory limit of its cgroup, bytes.
    pub memory_max: Option<u64>,
    /// How long it may take to end after SIGTERM before it is killed, ms.
    pub stop_timeout_ms: u64,
}

/// A command that prepares what the service needs, such as a migration of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Before {
    /// The program and its arguments, at least the program.
    pub words: Vec<String>,
    /// Variables to add to its environment, which is otherwise that of a sidecar.
    pub env: BTreeMap<String, String>,
    /// Its working directory; `None` for that of the service.
    pub directory: Option<PathBuf>,
    /// The user that it runs as; `None` for memgate's own.
    pub account: Option<Account>,
    /// How long it may take, ms.
    pub timeout_ms: u64,
}

impl Plan {
    /// What the service needs as a baseline and a message name it: the commands of its sidecars and of what runs before
    /// it, such as ``redis `redis-server --port 6379`, before `./migrate` ``. Empty if it needs nothing.
    pub fn dependencies(&self) -> String {
        let sidecars = self.sidecars.iter().map(|sidecar| format!("{} `{}`", sidecar.name, sidecar.words.join(" ")));
        let before = self.before.iter().map(|before| format!("before `{}`", before.words.join(" ")));
        sidecars.chain(before).collect::<Vec<_>>().join(", ")
    }
}

/// The lengths of the phases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseLengths {
    /// The phase under load that is not judged.
    pub warmup: Length,
    /// The phase under load that is judged.
    pub measure: Length,
    /// The phase without load, ms. What remains after it has leaked.
    pub drain_ms: u64,
    /// The most that the drain lasts while goroutines still end. The drain is never shorter than `drain_ms`.
    pub drain_max_ms: u64,
}

/// The length of a phase under load. At the rate of the built-in load, each is the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// A time, ms.
    Ms(u64),
    /// A number of requests of the built-in load.
    Requests(u64),
}

/// The load on the service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Load {
    /// The built-in HTTP load generator.
    Http(HttpLoad),
    /// Any command. It starts with the warm-up and ends before the drain. memgate knows its counts only by its results;
    /// without them, figures per request are not available.
    Command(CommandLoad),
}

/// A command that loads the service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandLoad {
    /// The program and its arguments, at least the program.
    pub words: Vec<String>,
    /// Variables to add to its environment (`PATH`, `HOME`, `TMPDIR`, `LANG`, `LC_ALL`, `TZ`).
    pub env: BTreeMap<String, String>,
    /// Where it writes what became of each request, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<CommandResults>,
}

/// A file with the result of each request, and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandResults {
    /// Whose results they are.
    pub format: ResultsFormat,
    /// The file, relative to the working directory of the command.
    pub file: PathBuf,
}

/// The format of a load command's results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResultsFormat {
    /// What `k6 run --out json=FILE` writes.
    K6,
    /// What `vegeta encode --to json` writes.
    Vegeta,
}

impl ResultsFormat {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::K6, Self::Vegeta];

    /// Its name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::K6 => "k6",
            Self::Vegeta => "vegeta",
        }
    }
}

/// As a baseline and a message name it: what decides about figures, without addresses, header fields and bodies.
impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(command) => write!(f, "`{}`", command.words.join(" ")),
            Self::Http(load) => {
                write!(f, "{}/s over {} connections{}:", load.rate_per_second, load.connections, load.transport)?;
                for (index, request) in load.requests.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    let (method, size) = match &request.grpc {
                        None => (request.method.as_str(), request.body.len()),
                        Some(grpc) => ("gRPC", grpc.message.len()),
                    };
                    write!(f, "{comma} {} {method} {}", request.weight, path(&request.url))?;
                    if size > 0 {
                        write!(f, " ({size} B)")?;
                    }
                }
                match &load.rows {
                    Some(rows) => write!(f, "; {} rows", rows.count),
                    None => Ok(()),
                }
            }
        }
    }
}

/// The URL without its scheme and its authority.
fn path(url: &str) -> &str {
    let after = url.split_once("://").map_or(url, |(_, after)| after);
    after.find(['/', '?']).map_or("/", |start| &after[start..])
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Ms(ms) if ms.is_multiple_of(1000) => write!(f, "{} s", ms / 1000),
            Self::Ms(ms) => write!(f, "{ms} ms"),
            Self::Requests(requests) => write!(f, "{requests} requests"),
        }
    }
}

/// HTTP load. Natively it is open-loop: requests start at intended times that do not depend on the answers. In a guest
/// each connection sends its next request when the last one was answered, so that the guest takes the time that it needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpLoad {
    /// Intended requests per second, evenly spaced; in a guest the most.
    pub rate_per_second: f64,
    /// The number of connections. Each is a client with its own cookie jar.
    pub connections: u32,
    /// How long a request may wait for a connection, and how long for its answer, before it fails, ms.
    pub timeout_ms: u64,
    /// How the requests reach the service. The usual way is not written.
    #[serde(default, skip_serializing_if = "Transport::is_usual")]
    pub transport: Transport,
    /// The rows from which each request takes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<Rows>,
    /// The kinds of requests.
    pub requests: Vec<Request>,
}

/// Rows of values for requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rows {
    /// The names of the columns.
    pub columns: Vec<String>,
    /// The rows, each with a value for each column. An agent in a guest gets none, because the host drives the load.
    pub values: Vec<Vec<String>>,
    /// The number of the rows, at least 1.
    pub count: u64,
}

/// How requests reach the service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transport {
    /// The version of HTTP.
    pub http: HttpVersion,
    /// Whether a connection is used for more than one request.
    pub keep_alive: bool,
    /// The unix socket at which the service listens, as in [`ReadyBy::Unix`]; `None` for the hosts and ports of the URLs.
    pub unix: Option<String>,
    /// What `https://` URLs accept as the service's certificate; `None` if there are no such URLs.
    pub tls: Option<Tls>,
}

/// A version of HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpVersion {
    /// HTTP/1.1: a connection has one request at a time.
    Http1,
    /// HTTP/2: with prior knowledge for `http://` URLs (RFC 9113, section 3.3), by ALPN for `https://`.
    Http2 {
        /// The most requests at a time on each connection, at least 1.
        streams: u32,
    },
}

/// What the load accepts as the service's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    /// Any certificate.
    Insecure,
    /// A certificate for the host of the URL, by an authority of this PEM file.
    Ca(PathBuf),
}

impl Default for Transport {
    fn default() -> Self {
        Self { http: HttpVersion::Http1, keep_alive: true, unix: None, tls: None }
    }
}

impl Transport {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

impl HttpVersion {
    /// The most requests at a time on each connection.
    pub const fn streams(self) -> u32 {
        match self {
            Self::Http1 => 1,
            Self::Http2 { streams } => streams,
        }
    }
}

/// What decides about figures, as an addition to the number of connections. The usual way adds nothing.
impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let HttpVersion::Http2 { streams } = self.http {
            write!(f, " of HTTP/2 with {streams} streams")?;
        }
        let words = [(self.tls.is_some(), " with TLS"), (self.unix.is_some(), " to a unix socket")];
        words.into_iter().filter(|(holds, _)| *holds).try_for_each(|(_, words)| f.write_str(words))?;
        if self.keep_alive { Ok(()) } else { f.write_str(", a new one for each request") }
    }
}

/// A kind of request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// `GET`, `POST`, `PUT`, `PATCH` or `DELETE`.
    pub method: String,
    /// An `http://` or `https://` URL. Its path and query, the values of header fields and the body may have values that
    /// differ from request to request ([`template`](crate::template)).
    pub url: String,
    /// Header fields.
    pub headers: BTreeMap<String, String>,
    /// The body, empty for none.
    pub body: String,
    /// What a client captures from a successful answer, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub capture: BTreeMap<String, Capture>,
    /// How often it is chosen relative to the others, at least 1.
    pub weight: u32,
    /// The status codes that count as success; empty means 200 to 399. A gRPC request has its own.
    pub expect: Vec<u16>,
    /// What a gRPC request adds. It is a POST request without another body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<Grpc>,
}

/// Where a value is in an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    /// At a JSON pointer (RFC 6901) in the body: a string, a number or a truth value.
    Json(String),
    /// In a header field.
    Header(String),
    /// In a cookie, from this answer or an earlier one.
    Cookie(String),
}

/// A unary gRPC request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grpc {
    /// The encoded message, without the prefix of its length.
    pub message: Vec<u8>,
    /// The statuses that count as success, as numbers of [`GRPC_STATUSES`]; empty means 0, `OK`.
    pub expect: Vec<u8>,
}

/// The statuses of gRPC by their numbers (doc/statuscodes.md of github.com/grpc/grpc).
pub const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl Request {
    /// A GET request of a URL, without header fields and body.
    pub fn get(url: impl Into<String>) -> Self {
        Self {
            method: "GET".to_owned(),
            url: url.into(),
            headers: BTreeMap::new(),
            body: String::new(),
            capture: BTreeMap::new(),
            weight: 1,
            expect: Vec::new(),
            grpc: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_service_needs_is_named_by_its_commands() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect();
        let sidecar = Sidecar {
            name: "redis".to_owned(),
            words: words("redis-server --port 1"),
            env: [("TOKEN".to_owned(), "secret".to_owned())].into(),
            directory: None,
            account: None,
            ready: Ready { by: ReadyBy::Notify, timeout_ms: 1 },
            memory_max: None,
            stop_timeout_ms: 1,
        };
        let before = Before {
            words: words("./migrate up"),
            env: BTreeMap::new(),
            directory: None,
            account: None,
            timeout_ms: 1,
        };
        let plan = |sidecars, before| Plan {
            service: String::new(),
            platform: Platform::LinuxAmd64,
            run: 1,
            baseline: String::new(),
            executable: PathBuf::new(),
            args: vec![],
            watch: None,
            env: BTreeMap::new(),
            stdin: Stdin::Empty,
            secrets: Secrets::default(),
            directory: PathBuf::new(),
            account: None,
            ready: Ready { by: ReadyBy::Notify, timeout_ms: 1 },
            memory_max: None,
            sidecars,
            before,
            load: Load::Command(CommandLoad::default()),
            phases: PhaseLengths { warmup: Length::Ms(0), measure: Length::Ms(0), drain_ms: 0, drain_max_ms: 0 },
            seed: 1,
            stop_timeout_ms: 1,
            collecting: Collecting::default(),
        };
        let text = "redis `redis-server --port 1`, before `./migrate up`";
        assert_eq!(plan(vec![sidecar], vec![before]).dependencies(), text);
        assert_eq!(plan(vec![], vec![]).dependencies(), "");
        let mut secret = plan(vec![], vec![]);
        secret.env.insert("PASSWORD".to_owned(), "\"hunter2\"".to_owned());
        secret.secrets.add("\"hunter2\"");
        let shown = format!("{secret:?}");
        assert!(shown.contains(r#""PASSWORD":"***""#) && !shown.contains("hunter2"), "{shown}");
        let sent: Plan = serde_json::from_str(&serde_json::to_string(&secret).unwrap()).unwrap();
        assert_eq!(sent, secret, "a guest gets them");
    }

    #[test]
    fn a_load_is_named_by_what_decides_about_figures() {
        let request = |weight, method: &str, url: &str, body: &str| Request {
            method: method.to_owned(),
            body: body.to_owned(),
            weight,
            ..Request::get(url)
        };
        let mut load = HttpLoad {
            rate_per_second: 500.0,
            connections: 32,
            timeout_ms: 5000,
            transport: Transport::default(),
            rows: None,
            requests: vec![
                request(3, "POST", "http://127.0.0.1:18080/login?next=/", "name=x"),
                request(6, "GET", "http://[::1]:18080", ""),
            ],
        };
        let text = "500/s over 32 connections: 3 POST /login?next=/ (6 B), 6 GET /";
        assert_eq!(Load::Http(load.clone()).to_string(), text);
        // Another port is the same load.
        load.requests[0].url = "http://127.0.0.1:9/login?next=/".to_owned();
        assert_eq!(Load::Http(load.clone()).to_string(), text);
        // So is one over another socket, or with other certificates.
        load.requests.truncate(1);
        load.transport = Transport {
            http: HttpVersion::Http2 { streams: 8 },
            keep_alive: false,
            unix: Some("secret.sock".to_owned()),
            tls: Some(Tls::Ca("secret.pem".into())),
        };
        let text = "500/s over 32 connections of HTTP/2 with 8 streams with TLS to a unix socket, a new one for each \
                    request: 3 POST /login?next=/ (6 B)";
        assert_eq!(Load::Http(load.clone()).to_string(), text);
        let grpc = Grpc { message: b"secret".to_vec(), expect: vec![5] };
        load.requests =
            vec![Request { method: "POST".to_owned(), grpc: Some(grpc), ..Request::get("http://127.0.0.1:1/p.S/M") }];
        load.transport = Transport::default();
        assert_eq!(Load::Http(load.clone()).to_string(), "500/s over 32 connections: 1 gRPC /p.S/M (6 B)");
        load.requests = vec![Request::get("http://127.0.0.1:1/${rows.id}")];
        load.rows = Some(Rows { columns: vec!["id".to_owned()], values: vec![vec!["secret".to_owned()]; 2], count: 2 });
        assert_eq!(Load::Http(load).to_string(), "500/s over 32 connections: 1 GET /${rows.id}; 2 rows");
        let words = ["k6", "run"].map(str::to_owned).to_vec();
        let command = CommandLoad { words, env: [("TOKEN".to_owned(), "secret".to_owned())].into(), results: None };
        assert_eq!(Load::Command(command).to_string(), "`k6 run`");
        let lengths = [Length::Ms(10_000), Length::Ms(1500), Length::Requests(6000)];
        assert_eq!(lengths.map(|length| length.to_string()), ["10 s", "1500 ms", "6000 requests"]);
    }
}
