//! The ways in which requests reach a service: connections for one request, unix sockets, TLS and HTTP/2.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use hyper::{Version, header};
use memgate_evidence::{
    RequestCounts,
    plan::{Capture, Grpc, HttpLoad, HttpVersion, Length, PhaseLengths, Request, Tls, Transport},
};

use super::{
    testserver,
    transport_server::{Answer, Authority, Kind, Seen, Server, self_signed},
    *,
};
use crate::{in_guest::relay::HostLoad, socket::Socket};

const AT_ONCE: Answer = Answer::After(Duration::ZERO);

pub(super) fn load(per_second: f64, connections: u32, url: String) -> HttpLoad {
    let transport = Transport::default();
    HttpLoad {
        rate_per_second: per_second,
        connections,
        timeout_ms: 30_000,
        transport,
        rows: None,
        requests: vec![Request::get(url)],
    }
}

/// A load in HTTP/2.
fn load2(per_second: f64, connections: u32, streams: u32, url: String) -> HttpLoad {
    let transport = Transport { http: HttpVersion::Http2 { streams }, ..Transport::default() };
    HttpLoad { transport, ..load(per_second, connections, url) }
}

/// The counts of that many requests.
fn run(load: &HttpLoad, requests: u64) -> RequestCounts {
    run_at(load, requests, &Site::default())
}

fn run_at(load: &HttpLoad, requests: u64, site: &Site) -> RequestCounts {
    whole(load, requests, site).measure
}

fn whole(load: &HttpLoad, requests: u64, site: &Site) -> LoadOutcome {
    let measure = Length::Requests(requests);
    let schedule = Schedule { start: Instant::now(), warmup: Length::Ms(0), measure, tail: Duration::ZERO };
    start(load, 1, schedule, site).unwrap().finish().unwrap()
}

/// How requests to a service in a guest end: whether some succeeded, and why others failed.
pub(super) fn run_in_guest(load: &HttpLoad, site: &Site) -> (bool, Vec<String>) {
    let (host, guest) = UnixStream::pair().unwrap();
    // A busy machine does not get them all in the time of the phase, which is 4 s.
    let (load, measure) = (HttpLoad { rate_per_second: 8.0, ..load.clone() }, Length::Requests(8));
    let lengths = PhaseLengths { warmup: Length::Ms(0), measure, drain_ms: 0, drain_max_ms: 0 };
    let _load = start_for_guest(&load, 1, &lengths, host).unwrap();
    let socket = load.transport.unix.as_ref().map(|name| Socket::of(name, &site.directory));
    let guest = HostLoad::over(File::from(OwnedFd::from(guest)), socket).unwrap();
    guest.begin(Phase::Measure);
    while guest.check().is_ok() && !guest.is_done(Phase::Measure) {
        std::thread::sleep(Duration::from_millis(2));
    }
    guest.stop();
    let outcome = loop {
        match guest.figures().unwrap() {
            Some(outcome) => break outcome,
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let failed = outcome.measure.failed.into_keys().filter(|reason| reason != memgate_evidence::NO_TIME);
    (outcome.measure.succeeded > 0, failed.collect())
}

fn all(requests: u64) -> RequestCounts {
    RequestCounts { intended: requests, succeeded: requests, failed: BTreeMap::new() }
}

fn failed(requests: u64, reason: &str) -> RequestCounts {
    RequestCounts { intended: requests, succeeded: 0, failed: [(reason.to_owned(), requests)].into() }
}

fn connections(seen: &[Seen]) -> usize {
    seen.iter().map(|seen| seen.connection).collect::<BTreeSet<_>>().len()
}

fn cookie(seen: &Seen) -> Option<&str> {
    seen.headers.get(header::COOKIE).map(|value| value.to_str().unwrap())
}

fn http2() -> Kind {
    Kind { http2: true, ..Kind::default() }
}

#[test]
fn without_keep_alive_each_request_has_a_connection_of_its_own() {
    let server = Server::start(Kind::default(), |_| AT_ONCE);
    let mut load = load(1000.0, 2, server.url("http", "/"));
    load.transport.keep_alive = false;
    assert_eq!(run(&load, 20), all(20));
    let seen = server.seen();
    assert_eq!((seen.len(), connections(&seen)), (20, 20));
    assert!(seen.iter().all(|seen| seen.headers[header::CONNECTION] == "close"), "{seen:?}");
    // A client is still one: its cookies outlive its connections.
    assert_eq!(seen.iter().filter(|seen| cookie(seen).is_none()).count(), 2);
    assert_eq!(run_in_guest(&load, &Site::default()), (true, vec![]));
    let seen = server.seen();
    assert_eq!(connections(&seen), seen.len());
}

#[test]
fn without_keep_alive_the_requests_own_field_stays() {
    let server = Server::start(Kind::default(), |_| AT_ONCE);
    let mut load = load(1000.0, 1, server.url("http", "/"));
    load.transport.keep_alive = false;
    load.requests[0].headers = BTreeMap::from([("Connection".to_owned(), "keep-alive".to_owned())]);
    assert_eq!(run(&load, 3), all(3));
    let seen = server.seen();
    assert_eq!(connections(&seen), 3);
    assert!(seen.iter().all(|seen| seen.headers[header::CONNECTION] == "keep-alive"), "{seen:?}");
}

#[test]
fn streams_share_connections_and_their_cookies() {
    let server = Server::start(http2(), |_| Answer::After(Duration::from_millis(100)));
    let mut load = load2(1000.0, 2, 3, server.url("http", "/a?b=c"));
    load.requests[0].method = "POST".to_owned();
    load.requests[0].body = "x=1".to_owned();
    assert_eq!(run(&load, 24), all(24));
    let seen = server.seen();
    assert_eq!(connections(&seen), 2);
    assert_eq!(seen.iter().map(|seen| seen.at_once).max(), Some(3), "as many requests at once as streams");
    let url = server.url("http", "/a?b=c");
    assert!(seen.iter().all(|seen| seen.version == Version::HTTP_2 && seen.uri == url && seen.body == b"x=1"));
    assert!(seen.iter().all(|seen| !seen.headers.contains_key(header::HOST)));
    // The first requests of a connection have no cookie yet. All others have that of their connection.
    assert!(seen.iter().filter(|seen| cookie(seen).is_none()).count() <= 6, "{seen:?}");
    let own = |seen: &&Seen| cookie(seen) == Some(&format!("connection={}", seen.connection));
    assert!(seen.iter().filter(own).count() >= 18, "{seen:?}");
}

#[test]
fn a_stall_shows_in_every_request_that_is_intended_meanwhile() {
    let server = Server::start(http2(), |_| Answer::After(Duration::from_millis(200)));
    // One stream answers 5 requests a second, of 50 that are intended.
    let outcome = whole(&load2(50.0, 1, 1, server.url("http", "/")), 10, &Site::default());
    assert_eq!(outcome.measure, all(10));
    // The last is intended after 180 ms and answered after 2 s.
    assert!(outcome.latency.value_ns.last().is_some_and(|last| *last >= 1_800_000_000), "{:?}", outcome.latency);
}

#[test]
fn without_keep_alive_each_request_of_http_2_has_a_connection_too() {
    let server = Server::start(http2(), |_| AT_ONCE);
    let mut load = load2(1000.0, 2, 1, server.url("http", "/"));
    load.transport.keep_alive = false;
    assert_eq!(run(&load, 10), all(10));
    assert_eq!(connections(&server.seen()), 10);
}

#[test]
fn failures_of_http_2_have_their_reasons() {
    let counts = |answer: Answer| {
        let server = Server::start(http2(), move |seen| if seen.uri.ends_with("/bad") { answer } else { AT_ONCE });
        let mut load = load2(1000.0, 1, 2, server.url("http", "/bad"));
        load.timeout_ms = 3000;
        (run(&load, 6), connections(&server.seen()))
    };
    assert_eq!(counts(Answer::Status(503)), (failed(6, "status 503"), 1));
    // The connection goes on.
    assert_eq!(counts(Answer::Reset), (failed(6, "stream reset"), 1));
    let (closed, connections) = counts(Answer::Close);
    assert_eq!(closed.succeeded, 0);
    assert!(
        closed.failed.keys().all(|reason| ["connection closed", "connection reset"].contains(&reason.as_str())),
        "{closed:?}"
    );
    assert!((3..=6).contains(&connections), "a new one for each that was closed: {connections}");
}

/// A load of gRPC requests with this message.
fn grpc(server: &Server, message: &[u8], expect: &[u8]) -> HttpLoad {
    let mut load = load2(1000.0, 1, 2, server.url("http", "/memgate.Echo/Say"));
    load.requests[0].method = "POST".to_owned();
    load.requests[0].grpc = Some(Grpc { message: message.to_vec(), expect: expect.to_vec() });
    load
}

#[test]
fn a_grpc_request_succeeds_by_its_status() {
    let server = Server::start(http2(), |seen| Answer::Grpc(seen.body[5]));
    assert_eq!(run(&grpc(&server, &[0], &[]), 6), all(6));
    assert_eq!(run_in_guest(&grpc(&server, &[0], &[]), &Site::default()), (true, vec![]));
    assert_eq!(run(&grpc(&server, &[5], &[]), 6), failed(6, "gRPC NOT_FOUND"));
    assert_eq!(run(&grpc(&server, &[5], &[0, 5]), 6), all(6));
    let seen = server.seen();
    assert!(seen.iter().all(|seen| seen.body[..5] == [0, 0, 0, 0, 1] && seen.uri.ends_with("/memgate.Echo/Say")));
    let field = |seen: &Seen, name: &str| seen.headers[name].to_str().unwrap().to_owned();
    assert!(
        seen.iter().all(|seen| field(seen, "content-type") == "application/grpc" && field(seen, "te") == "trailers")
    );
}

#[test]
fn a_grpc_request_without_a_status_fails() {
    let server = Server::start(http2(), |seen| if seen.body.len() > 5 { Answer::Status(503) } else { AT_ONCE });
    assert_eq!(run(&grpc(&server, &[], &[]), 4), failed(4, "malformed response"));
    assert_eq!(run(&grpc(&server, &[1], &[]), 4), failed(4, "status 503"));
}

#[test]
fn a_stream_without_an_answer_fails_alone() {
    let server = Server::start(http2(), |seen| if seen.uri.ends_with("/never") { Answer::Never } else { AT_ONCE });
    let mut load = load2(20.0, 1, 2, server.url("http", "/"));
    let never = Request { url: server.url("http", "/never"), ..load.requests[0].clone() };
    load.requests.push(never);
    load.timeout_ms = 2000;
    let counts = run(&load, 8);
    assert_eq!(counts.failed.keys().collect::<Vec<_>>(), ["timeout"], "{counts:?}");
    assert!(counts.succeeded >= 3, "{counts:?}");
    assert_eq!(connections(&server.seen()), 1);
}

#[test]
fn an_answer_without_an_end_is_late() {
    for kind in [Kind::default(), http2()] {
        let is_http2 = kind.http2;
        let server = Server::start(kind, |_| Answer::Endless);
        let url = server.url("http", "/");
        let mut load = if is_http2 { load2(50.0, 1, 2, url) } else { load(50.0, 2, url) };
        load.timeout_ms = 200;
        assert_eq!(run(&load, 2), failed(2, "timeout"));
        // A body in which a value is searched is not kept as a whole.
        load.requests[0].capture = [("id".to_owned(), Capture::Json("/id".to_owned()))].into();
        assert_eq!(run(&load, 2), failed(2, "timeout"));
        // In a guest it has more time.
        load.timeout_ms = 20;
        assert_eq!(run_in_guest(&load, &Site::default()), (false, vec!["timeout".to_owned()]));
    }
}

#[test]
fn a_service_that_speaks_only_http_1_gives_a_malformed_response() {
    let server = testserver::Server::start(|_, stream| testserver::ok(stream));
    assert_eq!(run(&load2(1000.0, 1, 2, server.url("/")), 4), failed(4, "malformed response"));
    let url = server.url("/");
    drop(server);
    assert_eq!(run(&load2(1000.0, 1, 2, url), 4), failed(4, "connection refused"));
}

#[test]
fn requests_go_to_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let server = Server::start(Kind { unix: Some(path.clone()), ..Kind::default() }, |_| AT_ONCE);
    let mut load = load(1000.0, 2, "http://no.such.host.invalid/a".to_owned());
    load.transport.unix = Some("x.sock".into());
    let site = Site { directory: directory.path().to_owned(), user: None };
    assert_eq!(run_at(&load, 10, &site), all(10));
    assert_eq!(run_in_guest(&load, &site), (true, vec![]));
    let seen = server.seen();
    assert!(seen.iter().all(|seen| seen.headers[header::HOST] == "no.such.host.invalid" && seen.uri == "/a"));
    let own = nix::unistd::geteuid().as_raw();
    assert_eq!(run_at(&load, 4, &Site { user: Some(own), ..site.clone() }), all(4));
    // The path may lead to a socket of somebody else's, such as that of a container engine.
    let (other, before) = (Site { user: Some(own + 1), ..site.clone() }, server.seen().len());
    assert_eq!(run_at(&load, 4, &other), failed(4, "socket of another user"));
    assert_eq!(server.seen().len(), before);
    load.transport.unix = Some("none.sock".into());
    assert_eq!(run_at(&load, 4, &site), failed(4, "connection refused"));
    assert_eq!(run_in_guest(&load, &site), (false, vec!["connection refused".to_owned()]));
}

#[test]
fn requests_go_to_a_socket_with_a_long_path_and_to_one_without_a_file() {
    let place = tempfile::tempdir().unwrap();
    let (long, link) = (place.path().join("a".repeat(150)), place.path().join("link"));
    std::fs::create_dir(&long).unwrap();
    std::os::unix::fs::symlink(&long, &link).unwrap();
    let _server = Server::start(Kind { unix: Some(link.join("x.sock")), ..Kind::default() }, |_| AT_ONCE);
    let name = format!("@memgate-load-{}", std::process::id());
    // tokio takes a leading zero byte for a name without a file.
    let unnamed =
        Server::start(Kind { unix: Some(format!("\0{}", &name[1..]).into()), ..Kind::default() }, |_| AT_ONCE);
    let site = Site { directory: long, user: Some(nix::unistd::geteuid().as_raw()) };
    for name in ["x.sock", &name] {
        let mut load = load(1000.0, 2, "http://localhost/".to_owned());
        load.transport.unix = Some(name.to_owned());
        assert_eq!(run_at(&load, 4, &site), all(4), "{name}");
        assert_eq!(run_in_guest(&load, &site), (true, vec![]), "{name}");
    }
    assert!(unnamed.seen().len() > 4);
}

/// A server with a certificate for `name` by an authority, the load on it that trusts the authority, and the directory
/// of the authority's file.
fn secure(name: &str, http2: bool, protocols: &'static [&'static str]) -> (Server, HttpLoad, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    let tls = Some((Authority::new(&ca).sign(name, |_| {}), protocols));
    let server = Server::start(Kind { http2, tls, unix: None }, |_| AT_ONCE);
    let url = server.url("https", "/a");
    let mut load = if http2 { load2(200.0, 2, 2, url) } else { load(200.0, 2, url) };
    load.transport.tls = Some(Tls::Ca(ca));
    (server, load, directory)
}

#[test]
fn a_certificate_by_the_authority_is_accepted() {
    let (server, load, _directory) = secure("127.0.0.1", false, &["h2", "http/1.1"]);
    assert_eq!(run(&load, 8), all(8));
    assert_eq!(run_in_guest(&load, &Site::default()), (true, vec![]));
    let seen = server.seen();
    assert_eq!(connections(&seen[..8]), 2);
    assert!(seen.iter().all(|seen| seen.version == Version::HTTP_11));
}

#[test]
fn http_2_is_agreed_on_by_alpn() {
    let (server, load, _directory) = secure("127.0.0.1", true, &["h2"]);
    assert_eq!(run(&load, 8), all(8));
    assert_eq!(run_in_guest(&load, &Site::default()), (true, vec![]));
    let seen = server.seen();
    assert_eq!(connections(&seen[..8]), 2);
    assert!(seen.iter().all(|seen| seen.version == Version::HTTP_2 && seen.uri.starts_with("https://127.0.0.1:")));
    let (_server, load, _directory) = secure("127.0.0.1", false, &["h2"]);
    assert_eq!(run(&load, 4), failed(4, "TLS: no HTTP/1.1"));
    for protocols in [&["http/1.1"][..], &[]] {
        let (_server, load, _directory) = secure("127.0.0.1", true, protocols);
        assert_eq!(run(&load, 4), failed(4, "TLS: no HTTP/2"), "{protocols:?}");
    }
}

#[test]
fn the_name_in_the_certificate_is_that_of_the_url() {
    let (server, mut load, _directory) = secure("uaa.example", false, &[]);
    assert_eq!(run(&load, 4), failed(4, "TLS: certificate for another name"));
    load.transport.tls = Some(Tls::Insecure);
    assert_eq!(run(&load, 4), all(4));
    assert_eq!(server.seen().len(), 4);
}

#[test]
fn the_name_is_sent_and_checked_over_a_unix_socket_too() {
    let directory = tempfile::tempdir().unwrap();
    let (ca, path) = (directory.path().join("ca.pem"), directory.path().join("x.sock"));
    let tls = Some((Authority::new(&ca).sign("uaa.example", |_| {}), &[][..]));
    let _server = Server::start(Kind { http2: false, unix: Some(path.clone()), tls }, |_| AT_ONCE);
    let mut load = load(200.0, 1, "https://uaa.example/".to_owned());
    let unix = Some(path.to_str().unwrap().to_owned());
    load.transport = Transport { unix, tls: Some(Tls::Ca(ca)), ..Transport::default() };
    assert_eq!(run(&load, 4), all(4));
    load.requests[0].url = "https://other.example/".to_owned();
    assert_eq!(run(&load, 4), failed(4, "TLS: certificate for another name"));
}

#[test]
fn certificates_that_are_not_accepted_have_their_reasons() {
    let (_server, mut load, directory) = secure("127.0.0.1", false, &[]);
    let other = directory.path().join("other.pem");
    let authority = Authority::new(&other);
    load.transport.tls = Some(Tls::Ca(other.clone()));
    assert_eq!(run(&load, 4), failed(4, "TLS: certificate by an unknown issuer"));
    let expired = authority.sign("127.0.0.1", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let server = Server::start(Kind { tls: Some((expired, &[])), ..Kind::default() }, |_| AT_ONCE);
    load.requests[0].url = server.url("https", "/");
    assert_eq!(run(&load, 4), failed(4, "TLS: unfit certificate"));
    let plain = Server::start(Kind::default(), |_| AT_ONCE);
    load.requests[0].url = plain.url("https", "/");
    assert_eq!(run(&load, 4), failed(4, "TLS: handshake failed"));
}

#[test]
fn a_certificate_of_its_own_is_accepted_if_it_is_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("own.pem");
    let pem = self_signed("127.0.0.1");
    std::fs::write(&ca, &pem).unwrap();
    let server = Server::start(Kind { tls: Some((pem, &[])), ..Kind::default() }, |_| AT_ONCE);
    let mut load = load(200.0, 1, server.url("https", "/"));
    load.transport.tls = Some(Tls::Ca(ca.clone()));
    assert_eq!(run(&load, 4), all(4));
    load.requests[0].url = server.url("https", "/").replacen("127.0.0.1", "localhost", 1);
    assert_eq!(run(&load, 4), failed(4, "TLS: certificate for another name"));
    std::fs::write(&ca, self_signed("localhost")).unwrap();
    assert_eq!(run(&load, 4).succeeded, 0, "another one of the same issuer's name");
}

#[test]
fn a_load_with_tls_that_cannot_be_sent_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    let mut load = load(10.0, 1, "https://127.0.0.1:1/".to_owned());
    let refused = |load: &HttpLoad| {
        let schedule =
            Schedule { start: Instant::now(), warmup: Length::Ms(0), measure: Length::Ms(1), tail: Duration::ZERO };
        let error = start(load, 1, schedule, &Site::default()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    assert!(refused(&load).contains("which certificates"));
    load.transport.tls = Some(Tls::Ca(file.clone()));
    assert!(refused(&load).contains("ca.pem cannot be used"), "it is missing");
    std::fs::write(&file, "no certificate").unwrap();
    assert!(refused(&load).contains("it has no certificate"));
}
