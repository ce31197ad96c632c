//! The format of memgate.yaml. Editors show these doc comments.

use std::collections::BTreeMap;

use memgate_evidence::platform::{Platform, Runner};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;

use super::kinds::{
    Address, Base64, BuildTag, CookieName, FilePath, GuestPath, HeaderName, HeaderValue, Hex, LinePattern, Millis,
    Name, Open, Package, PhaseLength, Pointer, Rate, RequestUrl, ResultsName, Size, SocketName, Status, Switch, True,
    Url, User, ValueName, Variable,
};
use crate::yaml::{Ordered, Scalar, Text, Version, Whole};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const MEBIBYTE: u64 = 1 << 20;
/// The shortest measuring phase, ms.
pub(super) const LEAST_MEASURE: u64 = 1000;
/// The longest phase, ms.
pub(super) const LONGEST_PHASE: u64 = 24 * HOUR;

/// memgate's configuration.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "memgate.yaml")]
pub(super) struct File {
    /// Version of this format: 1.
    #[expect(dead_code, reason = "that it deserializes is the check")]
    pub(super) version: Scalar<Version>,
    /// The directory of baselines, relative to this file; `baselines` by default.
    pub(super) baselines: Option<Scalar<FilePath>>,
    /// The services, by name.
    pub(super) services: BTreeMap<Scalar<Name>, Service>,
    /// How to run each platform.
    #[serde(default)]
    #[schemars(schema_with = "by_platform::<Platforms>")]
    pub(super) platforms: BTreeMap<Platform, Platforms>,
}

/// A service and how to measure it. It has either `build` or `binary`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    /// How `go build` makes the executable.
    pub(super) build: Option<Build>,
    /// Existing Go executables by platform, relative to this file.
    #[serde(default)]
    #[schemars(schema_with = "by_platform::<Scalar<FilePath>>")]
    pub(super) binary: Option<BTreeMap<Platform, Scalar<FilePath>>>,
    /// The name of the baseline to compare the service with; the service's name by default.
    pub(super) baseline: Option<Scalar<Name>>,
    /// How to run the service.
    pub(super) run: Run,
    /// What runs beside the service, such as a database, by name. It starts in this order, each once the one before is
    /// ready.
    #[serde(default)]
    pub(super) sidecars: Ordered<Scalar<Name>, Sidecar>,
    /// Commands that run to their ends before the service starts, once the sidecars are ready, in this order.
    #[serde(default)]
    pub(super) before: Vec<Before>,
    /// The load on the service.
    pub(super) load: Load,
    /// The lengths of the phases.
    #[serde(default)]
    pub(super) phases: Phases,
    /// The number of fresh processes to measure at first; 2 by default.
    pub(super) runs: Option<Whole<1, 20>>,
    /// The most fresh processes to measure if a gate cannot be decided. 6 by default.
    pub(super) max_runs: Option<Whole<1, 20>>,
}

/// How `go build` makes the executable.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Build {
    /// The directory in which `go build` runs, relative to this file.
    pub(super) dir: Scalar<FilePath>,
    /// The package.
    pub(super) package: Scalar<Package>,
    /// Build tags.
    #[serde(default)]
    pub(super) tags: Vec<Scalar<BuildTag>>,
    /// The argument of `-ldflags`.
    pub(super) ldflags: Option<Scalar<Text>>,
    /// Variables to add to the environment of `go build`.
    #[serde(default)]
    pub(super) env: BTreeMap<Scalar<Variable>, Scalar<Text>>,
    /// Variables of memgate's own that `go build` gets too, such as tokens for private modules.
    #[serde(default)]
    pub(super) pass_env: Vec<Scalar<Variable>>,
}

/// How to run a service.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Run {
    /// Arguments.
    #[serde(default)]
    pub(super) args: Vec<Scalar<Text>>,
    /// What memgate starts instead of the executable: program and arguments. It finds the executable's path in the
    /// variable `MEMGATE_SERVICE`.
    pub(super) command: Option<Vec<Scalar<Text>>>,
    /// Which execution of the executable is measured; the first by default.
    pub(super) watch: Option<Watch>,
    /// Variables to add to a minimal environment (`PATH`, `HOME`, `TMPDIR`).
    #[serde(default)]
    pub(super) env: BTreeMap<Scalar<Variable>, Scalar<Text>>,
    /// Variables of memgate's own that the service gets too, such as passwords.
    #[serde(default)]
    pub(super) pass_env: Vec<Scalar<Variable>>,
    /// The user that build, service and load command run as if memgate runs as root: `NAME`, `NAME:GROUP`, or their
    /// numbers. By default the user who called `sudo`, or the owner of the checkout.
    pub(super) user: Option<Scalar<User>>,
    /// The working directory of the service and of a load command, relative to this file; this file's directory by
    /// default.
    pub(super) directory: Option<Scalar<FilePath>>,
    /// `open` for a standard input that stays open and is empty; /dev/null by default.
    pub(super) stdin: Option<Scalar<Open>>,
    /// When the service counts as ready.
    pub(super) ready: Ready,
    /// The memory limit above which the kernel kills the service.
    pub(super) memory_max: Option<Scalar<Size<MEBIBYTE>>>,
    /// How long the service may take to end after SIGTERM before memgate kills it; 10s by default.
    pub(super) stop_timeout: Option<Scalar<Millis<1, HOUR>>>,
}

/// Which execution of the executable is measured.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Watch {
    /// A word that is among its arguments.
    pub(super) argument: Option<Scalar<Text>>,
    /// Its number among the executions with that argument; 1 by default.
    pub(super) execution: Option<Whole<1, 1000>>,
}

/// A process that the service needs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Sidecar {
    /// Program and arguments. `$MEMGATE_TMP` in them is a fresh directory of the run.
    pub(super) command: Vec<Scalar<Text>>,
    /// Variables to add to a minimal environment.
    #[serde(default)]
    pub(super) env: BTreeMap<Scalar<Variable>, Scalar<Text>>,
    /// Variables of memgate's own that it gets too.
    #[serde(default)]
    pub(super) pass_env: Vec<Scalar<Variable>>,
    /// The working directory, relative to this file; `$MEMGATE_TMP/NAME` by default.
    pub(super) directory: Option<Scalar<FilePath>>,
    /// The user that it runs as if memgate runs as root; the service's by default.
    pub(super) user: Option<Scalar<User>>,
    /// When it counts as ready.
    pub(super) ready: Ready,
    /// The memory limit above which the kernel kills it.
    pub(super) memory_max: Option<Scalar<Size<MEBIBYTE>>>,
    /// How long it may take to end after SIGTERM before memgate kills it; 10s by default.
    pub(super) stop_timeout: Option<Scalar<Millis<1, HOUR>>>,
}

/// A command that prepares what the service needs, such as a migration.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Before {
    /// Program and arguments. `$MEMGATE_SERVICE` in them is the service's executable.
    pub(super) command: Vec<Scalar<Text>>,
    /// Variables to add to a minimal environment.
    #[serde(default)]
    pub(super) env: BTreeMap<Scalar<Variable>, Scalar<Text>>,
    /// Variables of memgate's own that it gets too.
    #[serde(default)]
    pub(super) pass_env: Vec<Scalar<Variable>>,
    /// The working directory, relative to this file; that of the service by default.
    pub(super) directory: Option<Scalar<FilePath>>,
    /// The user that it runs as if memgate runs as root; the service's by default.
    pub(super) user: Option<Scalar<User>>,
    /// How long it may take; 5min by default.
    pub(super) timeout: Option<Scalar<Millis<1, HOUR>>>,
}

/// When a process counts as ready: one of `http`, `tcp`, `unix`, `log`, `command` and `notify`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Ready {
    /// A URL that answers with a status below 400 when the process is ready.
    pub(super) http: Option<Scalar<Url>>,
    /// An address that accepts connections when the process is ready.
    pub(super) tcp: Option<Scalar<Address>>,
    /// A unix socket that accepts connections when the process is ready: a path, relative to its working directory, or
    /// `@NAME` for one without a file.
    pub(super) unix: Option<Scalar<SocketName>>,
    /// A regular expression that a line of the process's output matches when it is ready.
    pub(super) log: Option<Scalar<LinePattern>>,
    /// A command that ends with exit code 0 when the process is ready: program and arguments.
    pub(super) command: Option<Vec<Scalar<Text>>>,
    /// The process says that it is ready, as sd_notify(3) does.
    pub(super) notify: Option<Scalar<True>>,
    /// How long to wait; 30s by default.
    pub(super) timeout: Option<Scalar<Millis<1, HOUR>>>,
}

/// The load on a service: `rate` and `requests`, or a `command`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Load {
    /// The number of requests that start per second, whatever the answers are.
    pub(super) rate: Option<Scalar<Rate>>,
    /// The number of connections. Each is a client with its own cookie jar; 16 by default.
    pub(super) connections: Option<Whole<1, 10_000>>,
    /// The version of HTTP: 1 for HTTP/1.1 or 2 for HTTP/2; 1 by default.
    pub(super) http: Option<Whole<1, 2>>,
    /// The most requests at a time on each connection, in HTTP/2; 16 by default.
    pub(super) streams: Option<Whole<1, 1000>>,
    /// Whether a connection is used for more than one request; true by default.
    pub(super) keep_alive: Option<Scalar<Switch>>,
    /// The unix socket at which the service listens: a path, relative to its working directory, or `@NAME` for one without
    /// a file. All requests go there, as with `curl --unix-socket`: their URLs keep their host, for the service to read,
    /// and need no port.
    pub(super) unix: Option<Scalar<SocketName>>,
    /// What `https://` URLs accept as the service's certificate.
    pub(super) tls: Option<Tls>,
    /// How long a request may wait for a connection, and how long for its answer once it was sent; 5s by default.
    pub(super) timeout: Option<Scalar<Millis<1, HOUR>>>,
    /// The seed for the order of the requests; 1 by default.
    pub(super) seed: Option<Whole<0, { u64::MAX }>>,
    /// A file with the descriptors of gRPC services, relative to this file, as `protoc --include_imports
    /// --descriptor_set_out` and `buf build` write it. `json` messages need it.
    pub(super) descriptors: Option<Scalar<FilePath>>,
    /// A file of rows, relative to this file, for `${rows.COLUMN}`: `.csv` with a header, or `.jsonl` with a JSON object
    /// in each line. Each request takes one at random, by the seed.
    pub(super) rows: Option<Scalar<FilePath>>,
    /// The kinds of requests. Paths and queries of URLs, values of header fields and bodies may have `${counter}`,
    /// `${random}`, `${rows.COLUMN}` and the name of a captured value. Before `{`, `$$` stands for `$`.
    pub(super) requests: Option<Vec<Request>>,
    /// A command that loads the service: program and arguments.
    pub(super) command: Option<Vec<Scalar<Text>>>,
    /// Variables to add to the environment of the command.
    #[serde(default)]
    pub(super) env: BTreeMap<Scalar<Variable>, Scalar<Text>>,
    /// Variables of memgate's own that the command gets too.
    #[serde(default)]
    pub(super) pass_env: Vec<Scalar<Variable>>,
    /// Where the command writes what became of each request.
    pub(super) results: Option<Results>,
}

/// A file with the result of each request of a load command.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Results {
    /// Whose results they are: `k6` (`k6 run --out json=FILE`) or `vegeta` (`vegeta encode --to json`).
    pub(super) format: Scalar<ResultsName>,
    /// The file, relative to the working directory of the command.
    pub(super) file: Scalar<FilePath>,
}

/// What `https://` URLs accept as the service's certificate: either `ca` or `insecure`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    /// A PEM file, relative to this file, with the certificates of authorities, or with the service's own.
    pub(super) ca: Option<Scalar<FilePath>>,
    /// Whether any certificate is accepted.
    pub(super) insecure: Option<Scalar<Switch>>,
}

/// A kind of request, with its URL under one of `get`, `post`, `put`, `patch`, `delete` and `grpc`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    /// URL of a GET request.
    pub(super) get: Option<Scalar<RequestUrl>>,
    /// URL of a POST request.
    pub(super) post: Option<Scalar<RequestUrl>>,
    /// URL of a PUT request.
    pub(super) put: Option<Scalar<RequestUrl>>,
    /// URL of a PATCH request.
    pub(super) patch: Option<Scalar<RequestUrl>>,
    /// URL of a DELETE request.
    pub(super) delete: Option<Scalar<RequestUrl>>,
    /// URL of a unary gRPC request: `http://127.0.0.1:9090/package.Service/Method`. It needs `http: 2`.
    pub(super) grpc: Option<Scalar<RequestUrl>>,
    /// The message of a gRPC request; an empty one by default.
    pub(super) message: Option<Message>,
    /// Values that a client keeps from a successful answer for its later requests, by name.
    #[serde(default)]
    pub(super) capture: BTreeMap<Scalar<ValueName>, Capture>,
    /// How often it is chosen, relative to the others; 1 by default.
    pub(super) weight: Option<Whole<1, 1_000_000>>,
    /// Header fields.
    #[serde(default)]
    pub(super) headers: BTreeMap<Scalar<HeaderName>, Scalar<HeaderValue>>,
    /// The body.
    pub(super) body: Option<Scalar<Text>>,
    /// The status codes that count as success; 200 to 399 by default. Those of a gRPC request are names such as
    /// `NOT_FOUND`; `OK` by default.
    #[serde(default)]
    pub(super) expect: Vec<Scalar<Status>>,
}

/// Where a value is in an answer, under one of `json`, `header` and `cookie`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Capture {
    /// A JSON pointer to a string, a number or a truth value in the body.
    pub(super) json: Option<Scalar<Pointer>>,
    /// The name of a header field.
    pub(super) header: Option<Scalar<HeaderName>>,
    /// The name of a cookie.
    pub(super) cookie: Option<Scalar<CookieName>>,
}

/// The message of a gRPC request under one of `json`, `base64` and `hex`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Message {
    /// The message in protobuf's mapping to JSON. It needs `descriptors`.
    pub(super) json: Option<Scalar<Text>>,
    /// The encoded message in Base64.
    pub(super) base64: Option<Scalar<Base64>>,
    /// The encoded message in hexadecimal.
    pub(super) hex: Option<Scalar<Hex>>,
}

/// The lengths of the phases. Under the built-in load, a phase's length may also be a number of requests.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Phases {
    /// The phase under load that is not judged; 30s by default.
    pub(super) warmup: Option<Scalar<PhaseLength<0, LONGEST_PHASE>>>,
    /// The phase under load that is judged; 60s by default.
    pub(super) measure: Option<Scalar<PhaseLength<LEAST_MEASURE, LONGEST_PHASE>>>,
    /// The phase without load. What remains after it has leaked; 10s by default.
    pub(super) drain: Option<Scalar<Millis<0, LONGEST_PHASE>>>,
    /// The most that the drain lasts while goroutines still end; three times `drain` by default, and at least 30s.
    pub(super) drain_max: Option<Scalar<Millis<0, LONGEST_PHASE>>>,
}

/// How to run a platform.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Platforms {
    /// On this machine, or in a QEMU guest.
    pub(super) runner: Option<Runner>,
    /// Variables to add to the environment of `go build` for this platform, such as `CC` for a cross compiler. They
    /// override those of the service's `build`.
    #[serde(default)]
    pub(super) build_env: BTreeMap<Scalar<Variable>, Scalar<Text>>,
    /// The guest's memory.
    pub(super) memory: Option<Scalar<Size<MEBIBYTE>>>,
    /// The guest's CPUs.
    pub(super) cpus: Option<Whole<1, 256>>,
    /// The guest's kernel, such as `6.12`; `memgate image list` shows the available kernels.
    pub(super) kernel: Option<Scalar<Text>>,
    /// The page size of the guest's kernel, if there is a choice.
    pub(super) page_size: Option<Scalar<Size<4096>>>,
    /// How long the guest may take to start; 2 minutes by default.
    pub(super) boot_timeout: Option<Scalar<Millis<1, HOUR>>>,
    /// Files to copy into the guest, such as the loader and the libraries of a dynamically linked service. Keys are
    /// absolute paths in the guest; values are paths on this machine, relative to this file.
    #[serde(default)]
    pub(super) files: BTreeMap<Scalar<GuestPath>, Scalar<FilePath>>,
}

/// A map with an optional key for each platform.
fn by_platform<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let value = generator.subschema_for::<T>();
    let properties: BTreeMap<_, _> = Platform::ALL.into_iter().map(|platform| (platform.name(), &value)).collect();
    schemars::json_schema!({ "type": "object", "properties": properties, "additionalProperties": false })
}
