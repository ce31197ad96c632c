//! Values that differ from request to request, and captured ones, with real connections.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use memgate_evidence::{
    RequestCounts,
    plan::{Capture, HttpLoad, Length, Request, Rows},
};

use super::{
    testserver::{Server, answer, ok, status},
    transport_tests::{load, run_in_guest},
    *,
};

fn run(load: &HttpLoad, requests: u64) -> RequestCounts {
    let measure = Length::Requests(requests);
    let schedule = Schedule { start: Instant::now(), warmup: Length::Ms(0), measure, tail: Duration::ZERO };
    start(load, 1, schedule, &Site::default()).unwrap().finish().unwrap().measure
}

fn all(requests: u64) -> RequestCounts {
    RequestCounts { intended: requests, succeeded: requests, failed: BTreeMap::new() }
}

fn paths(server: &Server) -> BTreeSet<String> {
    server.seen().iter().map(|seen| seen.path().to_owned()).collect()
}

/// A server that gives each connection a token of its own, and wants it back.
fn tokens() -> Server {
    Server::start(|seen, stream| {
        let token = format!("t-{}", seen.connection);
        match seen.path() {
            "/login" => {
                let body = format!("{{\"user\": {{\"token\": \"{token}\"}}}}");
                answer(stream, &format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
            }
            _ if seen.field("authorization") == Some(&format!("Bearer {token}")) => ok(stream),
            _ => status(stream, 401),
        }
    })
}

/// A load that rarely logs in and mostly needs that.
fn with_token(server: &Server) -> HttpLoad {
    let mut load = load(500.0, 3, server.url("/use"));
    load.requests[0].weight = 9;
    load.requests[0].headers = BTreeMap::from([("Authorization".to_owned(), "Bearer ${token}".to_owned())]);
    let capture = BTreeMap::from([("token".to_owned(), Capture::Json("/user/token".to_owned()))]);
    load.requests.push(Request { method: "POST".to_owned(), capture, ..Request::get(server.url("/login")) });
    load
}

#[test]
fn a_client_logs_in_before_it_uses_its_token() {
    let server = tokens();
    assert_eq!(run(&with_token(&server), 60), all(60));
    let seen = server.seen();
    for connection in 0..3 {
        let mut of_client = seen.iter().filter(|seen| seen.connection == connection);
        assert!(of_client.next().is_some_and(|first| first.head.starts_with("POST /login ")), "{connection}");
    }
    assert!(seen.iter().filter(|seen| seen.path() == "/use").count() >= 45, "nine in ten, but for three");
}

#[test]
fn a_client_of_a_guest_logs_in_too() {
    let server = tokens();
    assert_eq!(run_in_guest(&with_token(&server), &Site::default()), (true, vec![]));
    assert_eq!(server.seen()[0].path(), "/login");
}

#[test]
fn an_answer_without_the_value_fails() {
    let server = Server::start(|_, stream| ok(stream));
    let counts = run(&with_token(&server), 10);
    assert_eq!(counts.failed, BTreeMap::from([("nothing to capture".to_owned(), 10)]));
    assert_eq!(paths(&server), BTreeSet::from(["/login".to_owned()]), "nothing is sent without its value");
}

#[test]
fn the_same_requests_have_the_same_values_everywhere() {
    let values = |names: [&str; 3]| names.map(|name| vec![name.to_owned()]).to_vec();
    let rows = Rows { columns: vec!["name".to_owned()], values: values(["a b", "c", "d"]), count: 3 };
    let native = Server::start(|_, stream| ok(stream));
    let mut load = load(500.0, 3, native.url("/${rows.name}/${random}?n=${counter}"));
    load.rows = Some(rows);
    assert_eq!(run(&load, 40), all(40));
    let natively = paths(&native);
    assert_eq!(natively.len(), 40);
    for name in ["/a%20b/", "/c/", "/d/"] {
        assert!(natively.iter().any(|path| path.starts_with(name)), "{name}: {natively:?}");
    }
    for number in 1..=40 {
        assert!(natively.iter().any(|path| path.ends_with(&format!("?n={number}"))), "{number}: {natively:?}");
    }
    let again = Server::start(|_, stream| ok(stream));
    load.requests[0].url = again.url("/${rows.name}/${random}?n=${counter}");
    assert_eq!(run(&load, 40), all(40));
    assert_eq!(paths(&again), natively);
    let guest = Server::start(|_, stream| ok(stream));
    load.requests[0].url = guest.url("/${rows.name}/${random}?n=${counter}");
    assert_eq!(run_in_guest(&load, &Site::default()), (true, vec![]));
    assert!(paths(&guest).is_subset(&natively));
}
