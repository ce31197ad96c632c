//! Checks that the service's port is free, and then waits until the service is ready.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use hyper::StatusCode;
use memgate_evidence::{
    error::{FailureKind, Result, Stage},
    plan::{Ready, Request},
};

use super::{
    load::{Client, Endpoint, Endpoints, RequestFailure, RequestKind},
    log::LogEnd,
    output::Output,
};

/// The time between two attempts.
const INTERVAL: Duration = Duration::from_millis(20);

/// The most time for an attempt before a new connection.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Even a healthy service may leave an attempt unanswered for this time.
const BRIEF: Duration = Duration::from_secs(1);

/// The most time for a connection to a port that should be free.
const CONNECT: Duration = Duration::from_millis(500);

/// Why a service is not ready, or why another one is in its place.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ReadyError {
    /// It did not answer with success in time.
    #[error(
        "The service was not ready in time: at last {url} {}; it had {} s{output}",
        answer(.last),
        .timeout.as_secs_f64()
    )]
    #[diagnostic(help("Look at the service's log in {}, or raise `ready.timeout`.", log.display()))]
    TimedOut {
        /// The requested URL.
        url: String,
        /// The time that the service had.
        timeout: Duration,
        /// The outcome of the last attempt.
        last: RequestFailure,
        /// The end of its output.
        output: LogEnd,
        /// The file with its output.
        log: PathBuf,
    },
    /// Another process uses the port.
    #[error("Another process listens at {address}; memgate would measure the wrong one.")]
    #[diagnostic(help(
        "End it (`ss -ltnp 'sport = :{}'` names it), or let the service listen elsewhere.",
        address.port()
    ))]
    PortTaken {
        /// The address at which it listens.
        address: SocketAddr,
    },
}

impl FailureKind for ReadyError {
    fn stage(&self) -> Stage {
        Stage::Launch
    }
}

/// Waits until the service, which prints this output, answers with a status below 400. Returns the time until then.
///
/// # Errors
/// Fails with [`ReadyError::TimedOut`], which has the last answer and the end of the output, if time runs out, and with
/// [`Error::Input`](memgate_evidence::error::Error::Input) if the URL cannot be requested.
pub(super) async fn wait_ready(ready: &Ready, output: &Output) -> Result<Duration> {
    let start = Instant::now();
    let timeout = Duration::from_millis(ready.timeout_ms);
    let mut endpoints = Endpoints::new();
    let kind = RequestKind::new(&health_request(&ready.http), &mut endpoints)?;
    let mut last = None;
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            let last = last.unwrap_or(RequestFailure::Timeout);
            let (url, log, output) = (ready.http.clone(), output.log().to_owned(), output.end());
            return Err(ReadyError::TimedOut { url, timeout, last, output, log }.into());
        }
        match tokio::time::timeout(left.min(ATTEMPT), probe(&kind, &endpoints)).await {
            Ok(Ok(_)) => return Ok(start.elapsed()),
            Ok(Err(failure)) => last = Some(failure),
            Err(_) => last = Some(unanswered(last, left)),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The outcome of an attempt without an answer, for which `left` remained. If the end of the time cut the attempt
/// short, the earlier answer `before` says more.
fn unanswered(before: Option<RequestFailure>, left: Duration) -> RequestFailure {
    before.filter(|_| left < BRIEF).unwrap_or(RequestFailure::Timeout)
}

/// Sends a request on a new connection, so that a failure of an earlier one has no effect.
async fn probe(kind: &RequestKind, endpoints: &[Endpoint]) -> Result<StatusCode, RequestFailure> {
    Client::new(endpoints.len()).exchange(kind, endpoints).await
}

fn health_request(url: &str) -> Request {
    Request {
        method: "GET".into(),
        url: url.into(),
        headers: BTreeMap::new(),
        body: String::new(),
        weight: 1,
        expect: (100..400).collect(),
    }
}

fn answer(last: &RequestFailure) -> String {
    match last {
        RequestFailure::Status(status) => format!("answered {}", status.as_u16()),
        RequestFailure::Timeout => "did not answer".into(),
        RequestFailure::Refused
        | RequestFailure::Reset
        | RequestFailure::Closed
        | RequestFailure::Connection
        | RequestFailure::Malformed
        | RequestFailure::NotSent
        | RequestFailure::NoTime => format!("gave `{last}`"),
    }
}

/// Checks that nothing listens at the URL's address, so that memgate measures the service that it launches.
///
/// # Errors
/// Fails with [`ReadyError::PortTaken`], which has the address, if something listens, and with
/// [`Error::Input`](memgate_evidence::error::Error::Input) if the URL cannot be requested.
pub fn port_is_free(url: &str) -> Result<()> {
    let (endpoint, _) = Endpoint::of(url)?;
    endpoint.addresses.iter().try_for_each(address_is_free)
}

fn address_is_free(address: &SocketAddr) -> Result<()> {
    if TcpStream::connect_timeout(address, CONNECT).is_ok() {
        return Err(ReadyError::PortTaken { address: *address }.into());
    }
    match TcpListener::bind(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Err(ReadyError::PortTaken { address: *address }.into())
        }
        // Nothing answers here. Whether the service may use the address, it finds out itself.
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        sync::atomic::{AtomicU32, Ordering},
    };

    use super::*;
    use crate::load::testserver::{Server, ok, status};

    fn wait(url: String, timeout_ms: u64) -> Result<Duration> {
        wait_for(url, timeout_ms, "")
    }

    /// Waits for a service that has printed this.
    fn wait_for(url: String, timeout_ms: u64, printed: &str) -> Result<Duration> {
        let directory = tempfile::tempdir().unwrap();
        let (output, mut pipe) = Output::to(&directory.path().join("service.log"), None).unwrap();
        pipe.write_all(printed.as_bytes()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(wait_ready(&Ready { http: url, timeout_ms }, &output))
    }

    /// Longer than any test lasts.
    const FOREVER: Duration = Duration::from_secs(3600);

    /// A URL with a port at which nothing listens.
    fn unused_url() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}/", listener.local_addr().unwrap())
    }

    #[test]
    fn a_service_is_ready_when_its_status_is_below_400() {
        let answers = AtomicU32::new(0);
        let server = Server::start(move |_, stream| {
            if answers.fetch_add(1, Ordering::Relaxed) < 3 { status(stream, 503) } else { status(stream, 302) }
        });
        wait(server.url("/healthz"), 60_000).unwrap();
        assert_eq!(server.seen().len(), 4);
        assert!(server.seen()[0].head.starts_with("GET /healthz HTTP/1.1\r\n"));
    }

    #[test]
    fn a_timeout_reports_the_last_answer() {
        // Long enough for one attempt, even on a busy machine.
        const TIMEOUT_MS: u64 = 5_000;
        let server = Server::start(|_, stream| status(stream, 503));
        let (url, unused) = (server.url("/healthz"), unused_url());
        let [answered, refused] =
            [url, unused].map(|url| std::thread::spawn(move || wait(url, TIMEOUT_MS).unwrap_err()));
        let error = answered.join().unwrap();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("/healthz answered 503; it had 5 s"), "{error}");
        let error = refused.join().unwrap();
        assert!(error.to_string().contains("gave `connection refused`"), "{error}");
    }

    #[test]
    fn a_timeout_shows_what_the_service_said() {
        let error = wait_for(unused_url(), 1, "waiting for the database\n").unwrap_err();
        assert!(error.to_string().ends_with("it had 0.001 s; its output:\n| waiting for the database"), "{error}");
    }

    #[test]
    fn an_attempt_that_is_cut_short_does_not_hide_the_last_answer() {
        let [short, long] = [BRIEF / 2, 2 * BRIEF];
        assert_eq!(unanswered(Some(RequestFailure::Refused), short), RequestFailure::Refused);
        assert_eq!(unanswered(Some(RequestFailure::Refused), long), RequestFailure::Timeout);
        assert_eq!(unanswered(None, short), RequestFailure::Timeout);
    }

    #[test]
    fn a_service_that_does_not_answer_is_not_ready() {
        let server = Server::start(|_, _| {
            std::thread::sleep(FOREVER);
            Ok(false)
        });
        let error = wait(server.url("/"), 200).unwrap_err();
        assert!(error.to_string().contains("did not answer"), "{error}");
    }

    #[test]
    fn a_port_without_a_listener_is_free() {
        port_is_free(&unused_url()).unwrap();
        let server = Server::start(|_, stream| ok(stream));
        let error = port_is_free(&server.url("/")).unwrap_err();
        assert!(error.to_string().contains(&server.url("")["http://".len()..]), "{error}");
        assert_eq!(error.exit_code(), 4);
    }

    #[test]
    fn a_listener_on_every_address_takes_the_port() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(port_is_free(&format!("http://127.0.0.1:{port}/")).is_err());
        assert!(port_is_free(&format!("http://localhost:{port}/")).is_err());
    }
}
