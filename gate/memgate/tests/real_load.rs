//! The load reaches a real service in every way that a configuration can say.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod common;

use std::fs;

use common::{Bench, assert_fails, repository, stderr};
use memgate_evidence::{Evidence, platform::Platform};
use memgate_files::evidence_file;
use rcgen::{CertificateParams, KeyPair};

/// The service `transports`, which is ready at the first port and has TLS at the second, under this load of 150 requests
/// in the measuring phase.
fn bench(ports: [u16; 2], load: &str) -> Bench {
    let [plain, secure] = ports;
    let fixtures = repository().join("fixtures-go");
    let bench = Bench::new("");
    let directory = bench.directory.path().display().to_string();
    let yaml = format!(
        r#"version: 1
services:
  s:
    build: {{ dir: {}, package: ./cmd/transports, env: {{ CGO_ENABLED: "0" }} }}
    run:
      args: [-listen, "127.0.0.1:{plain}", -unix, s.sock, -tls, "127.0.0.1:{secure}", -certificate, {directory}/s.pem]
      ready: {{ http: "http://127.0.0.1:{plain}/healthz", timeout: 60s }}
      directory: {directory}
      stop_timeout: 10s
    load: {{ rate: 100/s, connections: 3, timeout: 60s, {load} }}
    phases: {{ warmup: 0s, measure: 150 requests, drain: 0s }}
    runs: 1
"#,
        fixtures.display()
    );
    fs::write(bench.config(), yaml).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(bench.directory.path().join("s.pem"), certificate.pem() + &key.serialize_pem()).unwrap();
    bench
}

/// Measures, and returns the evidence and what the service said in the end.
fn recorded(bench: &Bench) -> (Evidence, String) {
    let output = bench.run("record", &["--tier", "T0"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let stem = bench.out().join(format!("s.{}.run1", Platform::host().folder()));
    let file = |rest: &str| stem.with_file_name(format!("{}.{rest}", stem.file_name().unwrap().to_str().unwrap()));
    let evidence = evidence_file::read(&file("evidence.json")).unwrap();
    let log = fs::read_to_string(file("service.log")).unwrap();
    let said = log.lines().find_map(|line| line.strip_prefix("transports: ")).unwrap();
    (evidence, said.to_owned())
}

/// The requests of the measuring phase and of the tail, all of which succeeded.
fn succeeded(evidence: &Evidence) -> u64 {
    let requests = &evidence.signals.requests.data;
    assert_eq!((requests.measure.intended, requests.measure.succeeded), (150, 150), "{requests:?}");
    assert_eq!(requests.tail.intended, requests.tail.succeeded, "{requests:?}");
    150 + requests.tail.succeeded
}

#[test]
fn http_2_with_prior_knowledge_over_a_unix_socket() {
    let load = r#"http: 2, streams: 4, unix: s.sock, requests: [ { post: "http://s.example/work", body: "x=1" } ]"#;
    let bench = bench([18201, 18202], load);
    let (evidence, said) = recorded(&bench);
    let requests = succeeded(&evidence);
    // Two connections are memgate's own, which sees who listens before the load and after it.
    assert!(said.contains(&format!("unix HTTP/2.0: {requests} requests, unix: 5 connections")), "{said}");
    let named = "100/s over 3 connections of HTTP/2 with 4 streams to a unix socket: 1 POST /work (3 B)";
    assert_eq!(evidence.environment.load, named);
}

#[test]
fn a_tls_connection_for_each_request() {
    let load = r#"keep_alive: false, tls: { insecure: true }, requests: [ { get: "https://127.0.0.1:18204/work" } ]"#;
    let (evidence, said) = recorded(&bench([18203, 18204], load));
    let requests = succeeded(&evidence);
    assert!(said.contains(&format!("tls HTTP/1.1: {requests} requests, tls: {requests} connections")), "{said}");
}

#[test]
fn http_2_by_alpn_with_a_certificate_that_is_checked() {
    let load = r#"http: 2, tls: { ca: s.pem }, requests: [ { get: "https://127.0.0.1:18206/work" } ]"#;
    let (evidence, said) = recorded(&bench([18205, 18206], load));
    let requests = succeeded(&evidence);
    assert!(said.contains(&format!("tls HTTP/2.0: {requests} requests, tls: 3 connections")), "{said}");
    assert_eq!(evidence.environment.load, "100/s over 3 connections of HTTP/2 with 16 streams with TLS: 1 GET /work");
}

#[test]
fn clients_log_in_and_use_their_tokens() {
    let load = r#"rows: users.csv, requests: [
          { get: "http://127.0.0.1:18213/private?n=${counter}", headers: { Authorization: "Bearer ${token}" }, weight: 9 },
          { post: "http://127.0.0.1:18213/login", body: "user-${rows.name}",
            capture: { token: { json: /access/token } } } ]"#;
    let bench = bench([18213, 18214], load);
    fs::write(bench.directory.path().join("users.csv"), "id,name\n1,ann\n2,bob\n").unwrap();
    let (evidence, said) = recorded(&bench);
    let requests = succeeded(&evidence);
    let count = |what: &str| -> u64 {
        let part = said.split(", ").find_map(|part| part.strip_prefix(&format!("{what}: "))).unwrap_or("0 requests");
        part.trim_end_matches(" requests").parse().unwrap()
    };
    let logins = count("login of user-ann") + count("login of user-bob");
    assert_eq!(count("private") + logins, requests, "{said}");
    // A tenth of the requests, and the first of each of three clients.
    assert!((requests / 10 - 2..=requests / 10 + 5).contains(&logins), "{said}");
    assert!(count("login of user-ann") > 0 && count("login of user-bob") > 0, "{said}");
    let named = "100/s over 3 connections: 9 GET /private?n=${counter}, 1 POST /login (17 B); 2 rows";
    assert_eq!(evidence.environment.load, named);
}

#[test]
fn a_grpc_method() {
    let load = r#"http: 2, descriptors: DESCRIPTORS, requests: [
          { grpc: "http://127.0.0.1:18211/memgate.Echo/Say", message: { json: '{"text": "ann"}' }, headers: { X-Status: "5" },
            expect: [NOT_FOUND] } ]"#;
    let descriptors = repository().join("gate/config/src/testdata/echo.pb");
    let bench = bench([18211, 18212], &load.replacen("DESCRIPTORS", descriptors.to_str().unwrap(), 1));
    let (evidence, said) = recorded(&bench);
    let requests = succeeded(&evidence);
    assert!(said.contains(&format!("tcp gRPC: {requests} requests")), "{said}");
    let named = "100/s over 3 connections of HTTP/2 with 16 streams: 1 gRPC /memgate.Echo/Say (5 B)";
    assert_eq!(evidence.environment.load, named);
}

#[test]
fn a_certificate_for_another_name() {
    let load = r#"tls: { ca: s.pem }, requests: [ { get: "https://localhost:18208/work" } ]"#;
    let (evidence, _) = recorded(&bench([18207, 18208], load));
    let failed = &evidence.signals.requests.data.measure.failed;
    assert_eq!(failed.iter().collect::<Vec<_>>(), [(&"TLS: certificate for another name".to_owned(), &150)]);
}

#[test]
fn a_unix_socket_at_which_nobody_listens() {
    let load = r#"unix: other.sock, requests: [ { get: "http://s.example/work" } ]"#;
    let output = bench([18209, 18210], load).run("record", &["--tier", "T0"]);
    assert_fails(&output, 4, &["launch:", "nobody listens at the socket other.sock, where requests go", "load.unix"]);
}
