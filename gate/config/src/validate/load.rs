//! The load: checks relations between its keys and fills in defaults.

mod grpc;
mod values;

use std::collections::{BTreeMap, HashSet};

use memgate_evidence::{
    error::Result,
    plan::{CommandLoad, CommandResults, Grpc, HttpLoad, HttpVersion, Load, Request, Tls, Transport},
};
use memgate_verdict::quoted::shorten;

use hyper::http::uri::Authority;
use prost_reflect::DescriptorPool;

use self::values::Known;
use super::{Validator, file, map, or, values};
use crate::{
    kinds::{SocketName, StatusCode, Switch},
    yaml::{KeyPath, Problem, Scalar, Whole},
};

/// The methods that a request can have as a key for its URL.
const METHODS: &str = "get, post, put, patch, delete, grpc";

/// The requests at a time on each connection of HTTP/2, unless the file says otherwise.
const STREAMS: u32 = 16;

/// The connections of a load, unless the file says otherwise.
const CONNECTIONS: u32 = 16;

/// The most requests at a time. memgate has a client in its memory for each.
const MOST_AT_ONCE: u64 = 100_000;

/// What the requests of a load have in common.
#[derive(Clone, Copy)]
struct Around<'a> {
    transport: &'a Transport,
    descriptors: Option<&'a DescriptorPool>,
    known: &'a Known<'a>,
}

/// The keys that say how requests reach the service.
struct Keys {
    http: Option<Whole<1, 2>>,
    streams: Option<Whole<1, 1000>>,
    keep_alive: Option<Scalar<Switch>>,
    unix: Option<Scalar<SocketName>>,
    tls: Option<file::Tls>,
}

impl Validator<'_> {
    fn transport(&self, keys: Keys, place: &KeyPath) -> Result<Transport> {
        let keep_alive = keys.keep_alive.is_none_or(|keep_alive| keep_alive.0);
        let streams = |what: &str, label: &str, help: &str| {
            Err(self.source.error(&place.key("streams").at_key(), Problem::new(what, label, help)))
        };
        let http = match (keys.http.map_or(1, Whole::as_u32), keys.streams.map(Whole::as_u32)) {
            (1, None) => HttpVersion::Http1,
            (1, Some(_)) => {
                let what = "`streams` has no meaning in HTTP/1.1, which has one request at a time on each connection";
                return streams(what, "without `http: 2`", "remove `streams`, or write `http: 2`");
            }
            (_, Some(_)) if !keep_alive => {
                let what = "`streams` has no meaning beside `keep_alive: false`, with a connection for each request";
                return streams(what, "beside `keep_alive: false`", "remove one of the two");
            }
            (_, streams) => HttpVersion::Http2 { streams: streams.unwrap_or(if keep_alive { STREAMS } else { 1 }) },
        };
        let tls = keys.tls.map(|tls| self.tls(tls, &place.key("tls"))).transpose()?;
        Ok(Transport { http, keep_alive, unix: keys.unix.map(|name| name.0), tls })
    }

    fn tls(&self, tls: file::Tls, place: &KeyPath) -> Result<Tls> {
        let refuse = |place: &KeyPath, what: String, label: &str| {
            let help = "write `tls: { ca: FILE }` or `tls: { insecure: true }`";
            Err(self.source.error(place, Problem::new(what, label, help)))
        };
        let insecure = tls.insecure.is_some_and(|insecure| insecure.0);
        let Some(ca) = tls.ca else {
            return match insecure {
                true => Ok(Tls::Insecure),
                false => refuse(place, "accepts no certificate".to_owned(), "expected `ca` or `insecure: true`"),
            };
        };
        if insecure {
            let what = "`insecure: true` accepts any certificate, so `ca` has no meaning".to_owned();
            return refuse(&place.key("ca").at_key(), what, "beside `insecure: true`");
        }
        let file = self.resolve(ca.0.clone());
        if !file.is_file() {
            let what = format!("there is no file `{}` relative to this file", ca.0.display());
            return refuse(&place.key("ca"), what, "no such file");
        }
        Ok(Tls::Ca(file))
    }

    /// The load.
    pub(super) fn load(&self, load: file::Load, place: &KeyPath) -> Result<Load> {
        if let Some(command) = load.command {
            let others = [
                ("rate", load.rate.is_some()),
                ("connections", load.connections.is_some()),
                ("http", load.http.is_some()),
                ("streams", load.streams.is_some()),
                ("keep_alive", load.keep_alive.is_some()),
                ("unix", load.unix.is_some()),
                ("tls", load.tls.is_some()),
                ("descriptors", load.descriptors.is_some()),
                ("rows", load.rows.is_some()),
                ("timeout", load.timeout.is_some()),
                ("seed", load.seed.is_some()),
                ("requests", load.requests.is_some()),
            ];
            if let Some((key, _)) = others.into_iter().find(|(_, is_there)| *is_there) {
                let what = format!("`{key}` has no meaning beside `command`");
                let help = format!("remove `{key}`, or `command` to use the built-in load generator");
                return Err(self.source.error(&place.key(key).at_key(), Problem::new(what, "beside `command`", help)));
            }
            let results = load.results.map(|results| CommandResults { format: results.format.0, file: results.file.0 });
            return self.command(values(command), map(load.env), results, &place.key("command"));
        }
        self.is_of_no_command(&load, place)?;
        let help = "write `rate: 500/s` and `requests: [ { get: \"http://127.0.0.1:8080/\" } ]`, or `command: [PROGRAM, ARGUMENT]`";
        let missing = |key: &str| {
            let what = format!("the key `{key}` is missing");
            self.source.error(&place.clone().at_key(), Problem::new(what, format!("has no key `{key}`"), help))
        };
        let rate = load.rate.ok_or_else(|| missing("rate"))?;
        let requests = load.requests.ok_or_else(|| missing("requests"))?;
        let transport = self.transport(
            Keys {
                http: load.http,
                streams: load.streams,
                keep_alive: load.keep_alive,
                unix: load.unix,
                tls: load.tls,
            },
            place,
        )?;
        let descriptors =
            load.descriptors.map(|file| self.descriptors(&file.0, &place.key("descriptors"))).transpose()?;
        let rows = load.rows.map(|file| self.rows(&file.0, &place.key("rows"))).transpose()?;
        let captured = requests.iter().flat_map(|request| request.capture.keys()).map(|name| name.0.clone()).collect();
        let known = Known { rows: rows.as_ref(), captured };
        let around = Around { transport: &transport, descriptors: descriptors.as_ref(), known: &known };
        let connections = load.connections.map_or(CONNECTIONS, Whole::as_u32);
        self.at_once(connections, transport.http, &place.key("connections"))?;
        let whole = place;
        let place = place.key("requests");
        if requests.is_empty() {
            return Err(self.source.error(&place, Problem::new("there are no requests", "at least one request", help)));
        }
        let requests = requests.into_iter().enumerate();
        let requests = requests.map(|(index, request)| self.request(request, around, &place.index(index)));
        let requests = requests.collect::<Result<Vec<_>>>()?;
        self.needs(&requests, &place)?;
        self.have_effect(&requests, around, whole)?;
        Ok(Load::Http(HttpLoad {
            rate_per_second: rate.0,
            connections,
            timeout_ms: or(load.timeout, 5000),
            transport,
            rows,
            requests,
        }))
    }

    /// Checks that the load has no key that only a command has.
    fn is_of_no_command(&self, load: &file::Load, place: &KeyPath) -> Result<()> {
        let of_a_command = [
            ("env", !load.env.is_empty()),
            ("pass_env", !load.pass_env.is_empty()),
            ("results", load.results.is_some()),
        ];
        let Some((key, _)) = of_a_command.into_iter().find(|(_, is_there)| *is_there) else { return Ok(()) };
        let what = format!("`{key}` has no meaning without `command`");
        let help = match key {
            "results" => "remove `results`; the built-in load generator counts its requests itself".to_owned(),
            _ => format!("remove `{key}`; the service has its own under `run`"),
        };
        Err(self.source.error(&place.key(key).at_key(), Problem::new(what, "without `command`", help)))
    }

    fn command(
        &self,
        words: Vec<String>,
        env: BTreeMap<String, String>,
        results: Option<CommandResults>,
        place: &KeyPath,
    ) -> Result<Load> {
        if words.first().is_some_and(|program| !program.is_empty()) {
            return Ok(Load::Command(CommandLoad { words, env, results }));
        }
        let help = "write the program and its arguments: `command: [k6, run, load.js]`";
        Err(self.source.error(place, Problem::new("names no program", "expected a program and its arguments", help)))
    }

    fn request(&self, request: file::Request, around: Around<'_>, place: &KeyPath) -> Result<Request> {
        let by_method = [
            ("GET", request.get),
            ("POST", request.post),
            ("PUT", request.put),
            ("PATCH", request.patch),
            ("DELETE", request.delete),
            ("gRPC", request.grpc),
        ];
        let mut urls = by_method.into_iter().filter_map(|(method, url)| url.map(|url| (method, url.0)));
        let Some((method, url)) = urls.next() else {
            let help = format!("add a URL under one of {METHODS}: `get: http://127.0.0.1:8080/`");
            return Err(self
                .source
                .error(place, Problem::new("the request has no URL", "has no method and URL", help)));
        };
        if let Some((second, _)) = urls.next() {
            let key = second.to_lowercase();
            let what = format!("the request has both `{}` and `{key}`", method.to_lowercase());
            let help = format!("write one request for each method ({METHODS})");
            return Err(self.source.error(&place.key(key).at_key(), Problem::new(what, "a second method", help)));
        }
        self.url(&url, around.transport, &place.key(method.to_lowercase()))?;
        let headers = self.headers(map(request.headers), &place.key("headers"))?;
        self.host(&headers, around.transport, &place.key("headers"))?;
        let capture = self.capture(request.capture, method == "gRPC", &place.key("capture"))?;
        let weight = request.weight.map_or(1, Whole::as_u32);
        let expect = values(request.expect);
        if method == "gRPC" {
            if request.body.is_some() {
                let problem = Problem::new(
                    "a gRPC request has a `message` and no `body`",
                    "beside `grpc`",
                    "write `message: { json: '{\"name\": \"ann\"}' }`, or the encoded message as `base64` or `hex`",
                );
                return Err(self.source.error(&place.key("body").at_key(), problem));
            }
            let message = self.message(&url, request.message, around, place)?;
            let grpc = Some(Grpc { message, expect: self.grpc_statuses(&expect, &place.key("expect"))? });
            let method = "POST".to_owned();
            let request = Request { method, headers, capture, weight, grpc, ..Request::get(url) };
            return self.names(&request, around.known, "grpc", place).map(|()| request);
        }
        if request.message.is_some() {
            let problem = Problem::new(
                "only a gRPC request has a `message`",
                "without `grpc`",
                "write the content under `body`, or the URL under `grpc`",
            );
            return Err(self.source.error(&place.key("message").at_key(), problem));
        }
        let body = request.body.map_or_else(String::new, |body| body.0);
        let expect = self.http_statuses(&expect, &place.key("expect"))?;
        let key = method.to_lowercase();
        let method = method.to_owned();
        let request = Request { method, headers, body, capture, weight, expect, ..Request::get(url) };
        self.names(&request, around.known, &key, place).map(|()| request)
    }

    /// Checks that the field `Host` of a request in HTTP/2, which has it in its URL, is a host.
    fn host(&self, headers: &BTreeMap<String, String>, transport: &Transport, place: &KeyPath) -> Result<()> {
        let host = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
        let Some((name, value)) = host.filter(|_| transport.http != HttpVersion::Http1) else { return Ok(()) };
        let is_host = value.parse().is_ok_and(|authority: Authority| !authority.as_str().contains('@'));
        if is_host {
            return Ok(());
        }
        let what = format!("`{}` is no host of a URL, in which HTTP/2 has it", shorten(value));
        let help = "write a host without values, such as `example.com`, or remove the field";
        Err(self.source.error(&place.key(name), Problem::new(what, "expected a host", help)))
    }

    /// Checks that there are not too many requests at a time. `place` is that of the connections.
    fn at_once(&self, connections: u32, http: HttpVersion, place: &KeyPath) -> Result<()> {
        let at_once = u64::from(connections) * u64::from(http.streams());
        if at_once <= MOST_AT_ONCE {
            return Ok(());
        }
        let what = format!(
            "`connections` times `streams`, {connections} times {}, are {at_once} requests at a time, more than \
             {MOST_AT_ONCE}",
            http.streams()
        );
        let help = format!("lower `connections` or `streams`, which is {STREAMS} by default");
        Err(self.source.error(place, Problem::new(what, "too many with these streams", help)))
    }

    /// Checks that no key of the load is there in vain.
    fn have_effect(&self, requests: &[Request], around: Around<'_>, place: &KeyPath) -> Result<()> {
        let in_vain = [
            (
                "tls",
                around.transport.tls.is_some() && !requests.iter().any(|request| request.url.starts_with("https:")),
                "an `https://` URL",
            ),
            (
                "descriptors",
                around.descriptors.is_some() && !requests.iter().any(|request| request.grpc.is_some()),
                "a `grpc` request",
            ),
            ("rows", around.known.rows.is_some() && !requests.iter().any(values::has_row), "`${rows.COLUMN}`"),
        ];
        let Some((key, _, user)) = in_vain.into_iter().find(|(_, is_in_vain, _)| *is_in_vain) else { return Ok(()) };
        let what = format!("`{key}` has no meaning without {user}");
        let help = format!("remove `{key}`, or write {user}");
        Err(self.source.error(&place.key(key).at_key(), Problem::new(what, format!("without {user}"), help)))
    }

    fn http_statuses(&self, expect: &[StatusCode], place: &KeyPath) -> Result<Vec<u16>> {
        let code = |(index, status): (usize, &StatusCode)| match *status {
            StatusCode::Http(code) => Ok(code),
            StatusCode::Grpc(_) => {
                let problem =
                    Problem::new("it is a status of gRPC", "expected a status code", "write a number such as `404`");
                Err(self.source.error(&place.index(index), problem))
            }
        };
        expect.iter().enumerate().map(code).collect()
    }

    /// Names of header fields do not depend on the case of their letters.
    fn headers(&self, headers: BTreeMap<String, String>, place: &KeyPath) -> Result<BTreeMap<String, String>> {
        let mut seen = HashSet::new();
        match headers.keys().find(|name| !seen.insert(name.to_lowercase())) {
            None => Ok(headers),
            Some(name) => Err(self.source.error(
                &place.key(name).at_key(),
                Problem::new(
                    format!("duplicate header `{name}`"),
                    "differs from another one only in case",
                    "keep one of the two",
                ),
            )),
        }
    }

    /// Checks that a URL is one for this transport.
    fn url(&self, url: &str, transport: &Transport, place: &KeyPath) -> Result<()> {
        let refuse =
            |what: String, label: &str, help: &str| Err(self.source.error(place, Problem::new(what, label, help)));
        let has_port = url.parse().is_ok_and(|uri: hyper::Uri| uri.port_u16().is_some());
        if !has_port && transport.unix.is_none() {
            let what = format!("`{}` has no port", shorten(url));
            return refuse(what, "expected a URL with a port", "write a URL such as http://127.0.0.1:8080/path");
        }
        if url.starts_with("https:") && transport.tls.is_none() {
            let what = format!("`{}` is https, and nothing says which certificates the load accepts", shorten(url));
            let help = "add `tls: { ca: FILE }` to the load, with the certificates that the service's one is checked by, or \
                        `tls: { insecure: true }` to accept any";
            return refuse(what, "https without `tls`", help);
        }
        Ok(())
    }
}
