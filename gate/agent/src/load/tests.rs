//! The generator with well-behaved servers and others.
//!
//! The assertions are on counts and limits that hold on a busy machine. Benchmarks measure the generator's speed.

use std::{
    collections::BTreeSet,
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use memgate_evidence::{
    Histogram, RequestCounts,
    error::Result,
    plan::{HttpLoad, Length, Request, Transport},
};

use super::{
    testserver::{Handled, Seen, Server, answer, ok, status},
    *,
};

const MS: u64 = 1_000_000;

/// Longer than any test lasts.
const FOREVER: Duration = Duration::from_secs(3600);

fn request(method: &str, url: String) -> Request {
    Request { method: method.into(), ..Request::get(url) }
}

/// A load of GET requests to the URL, with a timeout that even a busy machine does not reach.
fn load(per_second: f64, connections: u32, url: String) -> HttpLoad {
    HttpLoad {
        rate_per_second: per_second,
        connections,
        timeout_ms: 30_000,
        transport: Transport::default(),
        rows: None,
        requests: vec![request("GET", url)],
    }
}

/// Phases that begin at once.
fn phases(warmup_ms: u64, measure_ms: u64) -> Schedule {
    Schedule {
        start: Instant::now(),
        warmup: Length::Ms(warmup_ms),
        measure: Length::Ms(measure_ms),
        tail: Duration::ZERO,
    }
}

fn run(load: &HttpLoad, schedule: Schedule) -> LoadOutcome {
    checked(start(load, 1, schedule).unwrap())
}

fn start(load: &HttpLoad, seed: u64, schedule: Schedule) -> Result<LoadHandle> {
    super::start(load, seed, schedule, &Site::default())
}

/// Finishes a load and checks what holds for every load.
fn checked(handle: LoadHandle) -> LoadOutcome {
    let progress = handle.progress();
    let outcome = handle.finish().unwrap();
    for counts in [&outcome.warmup, &outcome.measure, &outcome.tail] {
        assert_eq!(counts.intended, counts.succeeded + failed(counts), "{counts:?}");
        assert!(!counts.failed.values().any(|count| *count == 0), "{counts:?}");
    }
    let (warmup, measure, tail) = (&outcome.warmup, &outcome.measure, &outcome.tail);
    assert_eq!(progress.succeeded.load(Ordering::Relaxed), warmup.succeeded + measure.succeeded + tail.succeeded);
    assert_eq!(progress.failed.load(Ordering::Relaxed), failed(warmup) + failed(measure) + failed(tail));
    let answered =
        measure.succeeded + measure.failed.iter().filter(|(k, _)| k.starts_with("status")).map(|(_, n)| n).sum::<u64>();
    assert_eq!(outcome.latency.count.iter().sum::<u64>(), answered);
    outcome
}

fn failed(counts: &RequestCounts) -> u64 {
    counts.failed.values().sum()
}

/// The number of latencies of at least `ns`.
fn at_least(histogram: &Histogram, ns: u64) -> u64 {
    histogram.value_ns.iter().zip(&histogram.count).filter(|(value, _)| **value >= ns).map(|(_, count)| count).sum()
}

fn counts(intended: u64, succeeded: u64, failed: &[(&str, u64)]) -> RequestCounts {
    let failed = failed.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect();
    RequestCounts { intended, succeeded, failed }
}

#[test]
fn every_request_of_both_phases_is_sent_and_answered() {
    let server = Server::start(|_, stream| ok(stream));
    let outcome = run(&load(500.0, 4, server.url("/a?b=c")), phases(200, 400));
    assert_eq!(outcome.warmup, counts(100, 100, &[]));
    assert_eq!(outcome.measure, counts(200, 200, &[]));
    assert!(outcome.lateness_p99_ns > 0);
    let seen = server.seen();
    assert_eq!(seen.len(), 300);
    assert!(seen.iter().all(|seen| seen.path() == "/a?b=c"));
    let host = server.url("")["http://".len()..].to_owned();
    assert!(seen.iter().all(|seen| seen.field("host") == Some(&host)));
    let connections: BTreeSet<_> = seen.iter().map(|seen| seen.connection).collect();
    assert_eq!(connections.len(), 4, "connections take turns and are kept alive");
}

#[test]
fn the_seed_decides_the_order_of_the_kinds() {
    let order = |seed: u64| {
        let server = Server::start(|_, stream| ok(stream));
        let mut load = load(500.0, 1, server.url("/often"));
        load.requests[0].weight = 3;
        let mut post = request("POST", server.url("/rare"));
        post.body = "{\"name\":\"中\"}".into();
        post.headers.insert("Content-Type".into(), "application/json".into());
        load.requests.push(post);
        checked(start(&load, seed, phases(0, 400)).unwrap());
        server.seen()
    };
    let paths = |seen: &[Seen]| seen.iter().map(|seen| seen.path().to_owned()).collect::<Vec<_>>();
    let first = order(7);
    assert_eq!(paths(&first), paths(&order(7)));
    assert_ne!(paths(&first), paths(&order(8)));
    let rare: Vec<_> = first.iter().filter(|seen| seen.path() == "/rare").collect();
    assert!((20..80).contains(&rare.len()), "about a quarter of 200, not {}", rare.len());
    assert!(rare.iter().all(|seen| seen.head.starts_with("POST ") && seen.body == "{\"name\":\"中\"}"));
    assert!(rare.iter().all(|seen| seen.field("content-type") == Some("application/json")));
}

#[test]
fn requests_to_a_port_without_a_listener_are_refused() {
    let url = Server::start(|_, stream| ok(stream)).url("/");
    let outcome = run(&load(500.0, 4, url), phases(100, 200));
    assert_eq!(outcome.warmup, counts(50, 0, &[("connection refused", 50)]));
    assert_eq!(outcome.measure, counts(100, 0, &[("connection refused", 100)]));
}

#[test]
fn an_unexpected_status_is_a_failure_with_a_latency() {
    let server = Server::start(|seen, stream| status(stream, if seen.number % 2 == 0 { 500 } else { 204 }));
    let mut load = load(500.0, 1, server.url("/"));
    assert_eq!(run(&load, phases(0, 200)).measure, counts(100, 50, &[("status 500", 50)]));
    load.requests[0].expect = vec![500];
    assert_eq!(run(&load, phases(0, 200)).measure, counts(100, 50, &[("status 204", 50)]));
}

#[test]
fn each_broken_answer_has_its_reason_and_the_next_request_a_new_connection() {
    let reset = |_: &Seen, stream: &mut std::net::TcpStream| -> Handled {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of")?;
        set_linger_zero(stream);
        Ok(false)
    };
    let close = |_: &Seen, stream: &mut std::net::TcpStream| -> Handled {
        answer(stream, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf of")?;
        Ok(false)
    };
    let silent = |_: &Seen, _: &mut std::net::TcpStream| -> Handled { Ok(false) };
    let garbage = |_: &Seen, stream: &mut std::net::TcpStream| -> Handled { answer(stream, "SSH-2.0-OpenSSH_9.9\r\n") };
    let chunk = |_: &Seen, stream: &mut std::net::TcpStream| -> Handled {
        answer(stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n")
    };
    type Handler = fn(&Seen, &mut std::net::TcpStream) -> Handled;
    let cases: [(&str, Handler); 5] = [
        ("connection reset", reset),
        ("connection closed", close),
        ("connection closed", silent),
        ("malformed response", garbage),
        ("malformed response", chunk),
    ];
    for (reason, misbehave) in cases {
        let server = Server::start(move |seen, stream| {
            // The third request of each connection fails.
            if seen.number == 2 { misbehave(seen, stream) } else { ok(stream) }
        });
        let outcome = run(&load(500.0, 1, server.url("/")), phases(0, 240));
        assert_eq!(outcome.measure, counts(120, 80, &[(reason, 40)]), "{reason}");
        let seen = server.seen();
        assert_eq!(seen.len(), 120, "a failed request is not sent again");
        assert_eq!(seen.last().unwrap().connection, 39);
    }
}

/// Makes the kernel reset the connection when it is closed.
fn set_linger_zero(stream: &std::net::TcpStream) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let copy = stream.try_clone().unwrap();
    copy.set_nonblocking(true).unwrap();
    let _context = runtime.enter();
    tokio::net::TcpStream::from_std(copy).unwrap().set_zero_linger().unwrap();
}

#[test]
fn no_request_fails_if_the_server_announces_the_end_of_a_connection() {
    let server = Server::start(|seen, stream| match seen.number {
        0 => ok(stream),
        _ => answer(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok").map(|_| false),
    });
    let outcome = run(&load(500.0, 1, server.url("/")), phases(0, 400));
    assert_eq!(outcome.measure, counts(200, 200, &[]));
    assert_eq!(server.seen().iter().map(|seen| seen.connection).max(), Some(99));
}

#[test]
fn a_connection_that_was_closed_while_idle_is_replaced() {
    let server = Server::start(|_, stream| {
        ok(stream)?;
        // Without `connection: close` the client must notice by itself.
        Ok(false)
    });
    // The server has 5 s to close the connection before the next request.
    let outcome = run(&load(0.2, 1, server.url("/")), phases(0, 5100));
    assert_eq!(outcome.measure, counts(2, 2, &[]));
}

#[test]
fn every_request_intended_during_a_stall_shows_it() {
    let stalled = AtomicBool::new(false);
    let stall = Arc::new(Mutex::new(()));
    let begin = Instant::now();
    let server = Server::start(move |_, stream| {
        let guard = stall.lock().unwrap();
        if begin.elapsed() > Duration::from_millis(400) && !stalled.swap(true, Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(300));
        }
        drop(guard);
        ok(stream)
    });
    // During the stall two connections send two requests, and 148 more are intended.
    let outcome = run(&load(500.0, 2, server.url("/")), phases(0, 1000));
    assert_eq!(outcome.measure, counts(500, 500, &[]));
    // The requests of the first 200 ms wait at least 100 ms, and those of the first 100 ms at least 200 ms.
    assert!(at_least(&outcome.latency, 100 * MS) >= 95, "{:?}", outcome.latency);
    assert!(at_least(&outcome.latency, 200 * MS) >= 45, "{:?}", outcome.latency);
    assert!(at_least(&outcome.latency, 290 * MS) >= 1, "{:?}", outcome.latency);
}

#[test]
fn requests_beyond_the_services_capacity_fail_by_their_timeout() {
    let server = Server::start(|_, stream| {
        std::thread::sleep(Duration::from_millis(50));
        ok(stream)
    });
    let mut load = load(500.0, 1, server.url("/"));
    load.timeout_ms = 400;
    let outcome = run(&load, phases(0, 1000));
    assert_eq!(outcome.measure.intended, 500);
    assert!(outcome.measure.succeeded <= 29, "20 a second for 1.4 s, and the last: {:?}", outcome.measure);
    assert_eq!(outcome.measure.late(), 500 - outcome.measure.succeeded);
    assert!(outcome.measure.failed.keys().all(|reason| ["timeout", "not sent"].contains(&reason.as_str())));
    // A request waits its timeout at most twice: for a connection, and for its answer.
    assert_eq!(at_least(&outcome.latency, 801 * MS), 0, "{:?}", outcome.latency);
}

#[test]
fn an_overloaded_service_answers_what_it_works_on() {
    let worker = Mutex::new(());
    let server = Server::start(move |_, stream| {
        let alone = worker.lock().unwrap();
        std::thread::sleep(Duration::from_millis(4));
        drop(alone);
        ok(stream)
    });
    // It bears at most 250 requests a second, and gets twice as many.
    let mut load = load(500.0, 8, server.url("/"));
    load.timeout_ms = 1000;
    let outcome = run(&load, phases(0, 4000));
    let (seen, measure) = (server.seen().len() as u64, &outcome.measure);
    assert!(measure.succeeded <= 1260, "250 a second for 5 s: {measure:?}");
    assert!(measure.succeeded >= seen * 9 / 10, "{seen} requests reached the service: {measure:?}");
    assert!(measure.failed["not sent"] > 100, "{measure:?}");
}

#[test]
fn a_request_that_is_not_answered_in_time_fails_and_its_connection_is_closed() {
    let server = Server::start(|seen, stream| {
        if seen.connection % 2 == 0 {
            std::thread::sleep(FOREVER);
        }
        ok(stream)
    });
    let mut load = load(0.25, 1, server.url("/"));
    load.timeout_ms = 4200;
    let outcome = run(&load, phases(0, 4100));
    // The first request waits for an answer until 4200 ms, then its connection is closed. The second is due at 4000 ms.
    // It is sent at 4200 ms on a new connection, with 4 s left.
    assert_eq!(outcome.measure, counts(2, 1, &[("timeout", 1)]));
    assert!(at_least(&outcome.latency, 195 * MS) == 1, "{:?}", outcome.latency);
    assert_eq!(server.seen().iter().map(|seen| (seen.connection, seen.number)).collect::<Vec<_>>(), [(0, 0), (1, 0)]);
}

#[test]
fn at_the_end_unanswered_requests_get_only_their_timeout() {
    let server = Server::start(|_, stream| {
        std::thread::sleep(FOREVER);
        ok(stream)
    });
    let mut load = load(10.0, 4, server.url("/"));
    load.timeout_ms = 5000;
    let outcome = checked(start(&load, 1, phases(100, 200)).unwrap());
    assert_eq!(outcome.warmup, counts(1, 0, &[("timeout", 1)]));
    assert_eq!(outcome.measure, counts(2, 0, &[("timeout", 2)]));
}

#[test]
fn each_connection_keeps_its_own_cookies() {
    let server = Server::start(|seen, stream| {
        let line = match (seen.number, seen.field("cookie")) {
            (0, None) => format!("set-cookie: sid={}; Path=/\r\n", seen.connection),
            (3, Some(_)) => "set-cookie: sid=gone; Max-Age=0\r\n".into(),
            _ => String::new(),
        };
        answer(stream, &format!("HTTP/1.1 200 OK\r\n{line}content-length: 0\r\n\r\n"))
    });
    run(&load(200.0, 4, server.url("/")), phases(0, 400));
    let seen = server.seen();
    assert_eq!(seen.len(), 80);
    for seen in seen {
        let expected = (1..=3).contains(&seen.number).then(|| format!("sid={}", seen.connection));
        assert_eq!(seen.field("cookie"), expected.as_deref(), "{seen:?}");
    }
}

#[test]
fn cookies_outlive_a_connection() {
    let server = Server::start(|seen, stream| {
        let line = if seen.connection == 0 { "set-cookie: sid=a\r\n" } else { "" };
        answer(stream, &format!("HTTP/1.1 200 OK\r\n{line}connection: close\r\ncontent-length: 0\r\n\r\n"))
            .map(|_| false)
    });
    run(&load(100.0, 1, server.url("/")), phases(0, 100));
    let cookies: Vec<_> = server.seen().iter().skip(1).map(|seen| seen.field("cookie").map(str::to_owned)).collect();
    assert_eq!(cookies, vec![Some("sid=a".to_owned()); 9]);
}

#[test]
fn a_huge_body_is_read_to_its_end() {
    const CHUNK: usize = 1 << 20;
    const CHUNKS: usize = 64;
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    let server = Server::start(move |_, stream| {
        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", CHUNK * CHUNKS)?;
        let chunk = vec![b'x'; CHUNK];
        for _ in 0..CHUNKS {
            count.fetch_add(CHUNK, Ordering::Relaxed);
            stream.write_all(&chunk)?;
        }
        Ok(true)
    });
    let outcome = run(&load(10.0, 1, server.url("/")), phases(0, 200));
    assert_eq!(outcome.measure, counts(2, 2, &[]));
    assert_eq!(sent.load(Ordering::Relaxed), 2 * CHUNK * CHUNKS);
}

#[test]
fn a_latency_lasts_until_the_last_byte() {
    let server = Server::start(|_, stream| {
        answer(stream, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n")?;
        std::thread::sleep(Duration::from_millis(100));
        answer(stream, "1\r\nb\r\n0\r\n\r\n")
    });
    let outcome = run(&load(10.0, 2, server.url("/")), phases(0, 300));
    assert_eq!(outcome.measure, counts(3, 3, &[]));
    assert_eq!(at_least(&outcome.latency, 100 * MS), 3);
}

#[test]
fn after_an_abort_every_unfinished_request_counts_as_not_sent() {
    let server = Server::start(|_, stream| ok(stream));
    // With one connection, the first requests are the first to be answered.
    let handle = start(&load(100.0, 1, server.url("/")), 1, phases(100, 3_600_000)).unwrap();
    let progress = handle.progress();
    while progress.succeeded.load(Ordering::Relaxed) < 40 {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(!handle.is_finished());
    handle.abort();
    let outcome = checked(handle);
    assert_eq!(outcome.warmup, counts(10, 10, &[]));
    assert_eq!(outcome.measure.intended, 360_000);
    assert!(outcome.measure.succeeded >= 30);
    assert_eq!(outcome.measure.failed.keys().collect::<Vec<_>>(), ["not sent"]);
}

#[test]
fn an_abort_does_not_wait_for_answers() {
    let server = Server::start(|_, stream| {
        std::thread::sleep(FOREVER);
        ok(stream)
    });
    let handle = start(&load(100.0, 2, server.url("/")), 1, phases(0, 3_600_000)).unwrap();
    while server.seen().len() < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    handle.abort();
    assert_eq!(checked(handle).measure, counts(360_000, 0, &[("not sent", 360_000)]));
}

#[test]
fn an_abort_before_the_start_counts_every_request_as_not_sent() {
    let server = Server::start(|_, stream| ok(stream));
    let mut schedule = phases(1000, 1000);
    schedule.start += Duration::from_secs(3600);
    let handle = start(&load(10.0, 1, server.url("/")), 1, schedule).unwrap();
    handle.abort();
    let outcome = checked(handle);
    assert_eq!(outcome.warmup, counts(10, 0, &[("not sent", 10)]));
    assert_eq!(outcome.measure, counts(10, 0, &[("not sent", 10)]));
    assert!(server.seen().is_empty());
}

#[test]
fn a_dropped_load_ends() {
    let server = Server::start(|_, stream| ok(stream));
    let handle = start(&load(100.0, 1, server.url("/")), 1, phases(0, 3_600_000)).unwrap();
    let progress = handle.progress();
    while progress.succeeded.load(Ordering::Relaxed) < 3 {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(handle);
    assert_eq!(Arc::strong_count(&progress), 1, "the thread has ended");
}

#[test]
fn the_generator_reports_how_busy_it_was() {
    let url = Server::start(|_, stream| ok(stream)).url("/");
    // Waiting for a processor counts as busy. A generator that sent its requests in time did not wait. Other attempts
    // prove nothing.
    let in_time = |outcome: &LoadOutcome| outcome.lateness_p99_ns < 20 * MS;
    let mut attempts = std::iter::repeat_with(|| run(&load(20.0, 4, url.clone()), phases(100, 300))).take(20);
    let light = attempts.find(in_time).expect("the generator gets a processor in time in one of 20 attempts");
    let light = light.busy_share.unwrap();
    let heavy = run(&load(500_000.0, 4, url), phases(0, 300)).busy_share.unwrap();
    assert!(0.0 < light && light < heavy && heavy < 1.1, "{light} and {heavy}");
}

#[test]
fn a_load_that_cannot_be_sent_is_refused() {
    let good = load(10.0, 1, "http://127.0.0.1:1/".into());
    let refused = |change: fn(&mut HttpLoad)| {
        let mut load = good.clone();
        change(&mut load);
        start(&load, 1, phases(0, 1)).unwrap_err()
    };
    for change in [
        (|load| load.rate_per_second = 0.0) as fn(&mut HttpLoad),
        |load| load.rate_per_second = f64::NAN,
        |load| load.rate_per_second = 1e300,
        |load| load.connections = 0,
        |load| load.timeout_ms = 0,
        |load| load.requests.clear(),
        |load| load.requests[0].weight = 0,
        |load| load.requests[0].url = "https://127.0.0.1/".into(),
        |load| load.requests[0].method = "GE T".into(),
    ] {
        assert_eq!(refused(change).exit_code(), 2);
    }
    let error = refused(|load| load.connections = u32::MAX);
    assert_eq!(error.exit_code(), 4);
    assert!(error.to_string().contains("open files"), "{error}");
}
