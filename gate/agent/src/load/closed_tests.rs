//! The host's load and the guest's relay together, over a pair of sockets instead of a guest's port.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Write as _,
    os::{fd::OwnedFd, unix::net::UnixStream},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use memgate_evidence::{
    RequestCounts,
    plan::{HttpLoad, Length, PhaseLengths, Request, Transport},
};

use super::{
    testserver::{Server, answer, ok, status},
    *,
};
use crate::in_guest::relay::HostLoad;

const FOREVER: Duration = Duration::from_secs(3600);

fn load(per_second: f64, connections: u32, url: String) -> HttpLoad {
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

/// A load of these numbers of requests.
fn start(load: &HttpLoad, warmup: u64, measure: u64) -> (GuestLoad, HostLoad) {
    let (host, guest) = UnixStream::pair().unwrap();
    let [warmup, measure] = [warmup, measure].map(Length::Requests);
    let load = start_for_guest(load, 1, &PhaseLengths { warmup, measure, drain_ms: 0, drain_max_ms: 0 }, host).unwrap();
    (load, HostLoad::over(File::from(OwnedFd::from(guest)), None).unwrap())
}

fn wait(until: impl Fn() -> bool) {
    while !until() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs a phase, and returns how many requests have succeeded since the start.
fn phase(guest: &HostLoad, phase: Phase) -> u64 {
    guest.begin(phase);
    wait(|| guest.check().is_err() || guest.is_done(phase));
    guest.check().unwrap();
    guest.progress().succeeded.load(Ordering::Relaxed)
}

fn figures(guest: &HostLoad) -> LoadOutcome {
    guest.stop();
    wait(|| guest.check().is_err() || guest.figures().unwrap().is_some());
    guest.figures().unwrap().unwrap()
}

/// Runs both phases.
fn run(load: &HttpLoad, warmup: u64, measure: u64) -> LoadOutcome {
    let (host, guest) = start(load, warmup, measure);
    let counts = [phase(&guest, Phase::Warmup), phase(&guest, Phase::Measure)];
    let outcome = figures(&guest);
    drop(host);
    let expected = [outcome.warmup.succeeded, outcome.warmup.succeeded + outcome.measure.succeeded];
    assert_eq!(counts, expected, "the agent knows the counts at the ends of the phases");
    outcome
}

fn counts(intended: u64, succeeded: u64, failed: &[(&str, u64)]) -> RequestCounts {
    let failed = failed.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
    RequestCounts { intended, succeeded, failed }
}

#[test]
fn a_guest_gets_every_request_of_both_phases() {
    let server = Server::start(|_, stream| ok(stream));
    let outcome = run(&load(1000.0, 4, server.url("/a?b=c")), 50, 150);
    assert_eq!(outcome.warmup, counts(50, 50, &[]));
    assert_eq!(outcome.measure, counts(150, 150, &[]));
    assert_eq!(outcome.latency.count.iter().sum::<u64>(), 150);
    assert_eq!(outcome.notes(), [""; 0]);
    let seen = server.seen();
    assert_eq!(seen.len(), 200);
    let host = server.url("")["http://".len()..].to_owned();
    assert!(seen.iter().all(|seen| seen.path() == "/a?b=c" && seen.field("host") == Some(&host)));
    let connections: BTreeSet<_> = seen.iter().map(|seen| seen.connection).collect();
    assert_eq!(connections.len(), 4, "connections take turns and outlive the warm-up");
}

#[test]
fn requests_come_no_faster_than_the_rate() {
    let server = Server::start(|_, stream| ok(stream));
    let begin = Instant::now();
    run(&load(100.0, 4, server.url("/")), 0, 51);
    assert!(
        begin.elapsed() >= Duration::from_millis(400),
        "{:?} is less than 50 periods and the slack",
        begin.elapsed()
    );
}

#[test]
fn a_slow_guest_gets_the_same_requests_and_none_is_late() {
    let server = Server::start(|_, stream| {
        std::thread::sleep(Duration::from_millis(5));
        ok(stream)
    });
    // At the rate they take 0.1 s, and may take 0.4 s. One connection needs at least 0.25 s, in turns of 5 ms.
    let outcome = run(&load(500.0, 1, server.url("/")), 0, 50);
    let unmade = outcome.measure.unmade();
    assert_eq!(outcome.measure.succeeded + unmade, 50, "{:?}", outcome.measure);
    assert_eq!(server.seen().len() as u64, outcome.measure.succeeded);
}

#[test]
fn what_there_was_no_time_for_is_no_failure() {
    let server = Server::start(|_, stream| {
        std::thread::sleep(Duration::from_millis(100));
        ok(stream)
    });
    // 0.8 s are enough for at most 9 requests: the last one may begin just before.
    let outcome = run(&load(100.0, 1, server.url("/")), 0, 20);
    assert!((1..=9).contains(&outcome.measure.succeeded), "{:?}", outcome.measure);
    assert_eq!(outcome.measure.succeeded + outcome.measure.unmade(), 20);
    assert!(outcome.notes()[0].ends_with("of 20 requests, because its time was over."), "{:?}", outcome.notes());
}

#[test]
fn real_errors_have_their_reasons() {
    let url = Server::start(|_, stream| ok(stream)).url("/");
    assert_eq!(run(&load(1000.0, 2, url), 0, 20).measure, counts(20, 0, &[("connection refused", 20)]));
    let server = Server::start(|seen, stream| status(stream, if seen.number % 2 == 0 { 500 } else { 204 }));
    assert_eq!(run(&load(1000.0, 1, server.url("/")), 0, 20).measure, counts(20, 10, &[("status 500", 10)]));
    let server = Server::start(|seen, stream| {
        if seen.number == 2 {
            return answer(stream, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of").map(|_| false);
        }
        ok(stream)
    });
    assert_eq!(run(&load(1000.0, 1, server.url("/")), 0, 30).measure, counts(30, 20, &[("connection closed", 10)]));
}

#[test]
fn a_request_that_is_never_answered_fails_after_ten_timeouts() {
    let server = Server::start(|seen, stream| {
        if seen.connection == 0 {
            std::thread::sleep(FOREVER);
        }
        ok(stream)
    });
    let mut load = load(1.0, 1, server.url("/"));
    load.timeout_ms = 100;
    let begin = Instant::now();
    let outcome = run(&load, 0, 1);
    assert_eq!(outcome.measure, counts(1, 0, &[("timeout", 1)]));
    assert!(begin.elapsed() >= Duration::from_secs(1));
}

#[test]
fn each_connection_keeps_its_own_cookies() {
    let server = Server::start(|seen, stream| {
        let line = match seen.number {
            0 => format!("set-cookie: sid={}; Path=/\r\n", seen.connection),
            _ => String::new(),
        };
        answer(stream, &format!("HTTP/1.1 200 OK\r\n{line}content-length: 0\r\n\r\n"))
    });
    run(&load(1000.0, 4, server.url("/")), 20, 20);
    for seen in server.seen() {
        let expected = (seen.number > 0).then(|| format!("sid={}", seen.connection));
        assert_eq!(seen.field("cookie"), expected.as_deref(), "{seen:?}");
    }
}

#[test]
fn bodies_of_any_size_pass() {
    const SIZE: usize = 8 << 20;
    let server = Server::start(|seen, stream| {
        assert_eq!(seen.body.len(), 1 << 20);
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n")?;
        stream.write_all(&vec![b'x'; SIZE])?;
        Ok(true)
    });
    let mut load = load(100.0, 3, server.url("/"));
    load.requests[0].method = "POST".into();
    load.requests[0].body = "y".repeat(1 << 20);
    load.requests[0].headers.insert("content-length".into(), (1 << 20).to_string());
    let (_host, guest) = start(&load, 0, 6);
    guest.begin(Phase::Measure);
    wait(|| guest.check().is_err() || guest.is_done(Phase::Measure));
    let measure = figures(&guest).measure;
    assert_eq!(measure.succeeded + measure.unmade(), 6, "{measure:?}");
    assert!(measure.succeeded >= 3, "each connection has one: {measure:?}");
}

#[test]
fn after_a_stop_every_unfinished_request_was_not_sent() {
    let server = Server::start(|_, stream| {
        std::thread::sleep(FOREVER);
        ok(stream)
    });
    let (_host, guest) = start(&load(10.0, 2, server.url("/")), 0, 1000);
    guest.begin(Phase::Measure);
    wait(|| server.seen().len() == 2);
    assert_eq!(figures(&guest).measure, counts(1000, 0, &[("not sent", 1000)]));
}

#[test]
fn each_end_notices_that_the_other_is_gone() {
    let server = Server::start(|_, stream| ok(stream));
    let (host, guest) = start(&load(10.0, 2, server.url("/")), 0, 1000);
    guest.begin(Phase::Measure);
    wait(|| guest.progress().succeeded.load(Ordering::Relaxed) > 2);
    guest.check().unwrap();
    drop(host);
    wait(|| guest.check().is_err());
    let error = guest.check().unwrap_err().to_string();
    assert!(error.contains("port to the host's load generator"), "{error}");
    let (host, guest) = UnixStream::pair().unwrap();
    let lengths = PhaseLengths { warmup: Length::Ms(0), measure: Length::Ms(1000), drain_ms: 0, drain_max_ms: 0 };
    let load = start_for_guest(&load(10.0, 2, server.url("/")), 1, &lengths, host).unwrap();
    drop(guest);
    wait(|| load.is_finished());
}
