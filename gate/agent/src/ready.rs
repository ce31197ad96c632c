//! Whether the service is ready, and before that, whether its port is free.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use hyper::StatusCode;
use memgate_evidence::{
    error::{FailureKind, Result, Stage},
    plan::{Ready, Request},
};

use super::load::{Client, Endpoint, Endpoints, RequestFailure, RequestKind};

/// How long to wait between two attempts.
const INTERVAL: Duration = Duration::from_millis(20);

/// How long an attempt may take before a new connection is tried.
const ATTEMPT: Duration = Duration::from_secs(5);

/// A service that is well may leave an attempt without an answer for so long.
const BRIEF: Duration = Duration::from_secs(1);

/// How long to try to reach somebody at a port that should be free.
const CONNECT: Duration = Duration::from_millis(500);

/// Why a service is not ready, or another one is in its place.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ReadyError {
    /// It did not answer with success in time.
    #[error("The service was not ready in time: at last {url} {}; it had {} s.", answer(.last), .timeout.as_secs_f64())]
    #[diagnostic(help("Look at the service's log, or raise `ready.timeout`."))]
    TimedOut {
        /// What was asked for.
        url: String,
        /// The time that it had.
        timeout: Duration,
        /// What the last attempt came to.
        last: RequestFailure,
    },
    /// Another process has the port.
    #[error("Another process listens at {address}; memgate would measure the wrong one.")]
    #[diagnostic(help(
        "End it (`ss -ltnp 'sport = :{}'` names it), or let the service listen elsewhere.",
        address.port()
    ))]
    PortTaken {
        /// Where it listens.
        address: SocketAddr,
    },
}

impl FailureKind for ReadyError {
    fn stage(&self) -> Stage {
        Stage::Launch
    }
}

/// Waits until the service answers with a status below 400; gives the time that it took.
///
/// # Errors
/// [`ReadyError::TimedOut`] with the last answer when time runs out;
/// [`Error::Input`](memgate_evidence::error::Error::Input) for a URL that cannot be requested.
pub async fn wait_ready(ready: &Ready) -> Result<Duration> {
    let start = Instant::now();
    let timeout = Duration::from_millis(ready.timeout_ms);
    let mut endpoints = Endpoints::new();
    let kind = RequestKind::new(&health_request(&ready.http), &mut endpoints)?;
    let mut last = None;
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            let last = last.unwrap_or(RequestFailure::Timeout);
            return Err(ReadyError::TimedOut { url: ready.http.clone(), timeout, last }.into());
        }
        match tokio::time::timeout(left.min(ATTEMPT), probe(&kind, &endpoints)).await {
            Ok(Ok(_)) => return Ok(start.elapsed()),
            Ok(Err(failure)) => last = Some(failure),
            Err(_) => last = Some(unanswered(last, left)),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What is said of a service whose attempt, which had `left`, got no answer: one that was cut short by the end of the time says less than
/// the answer `before`.
fn unanswered(before: Option<RequestFailure>, left: Duration) -> RequestFailure {
    before.filter(|_| left < BRIEF).unwrap_or(RequestFailure::Timeout)
}

/// A request on a new connection: what an earlier one stumbled over must not stand in its way.
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
        | RequestFailure::NotSent => format!("gave `{last}`"),
    }
}

/// Makes sure that nobody listens where the URL points, so that the service measured is the one that was launched.
///
/// # Errors
/// [`ReadyError::PortTaken`] names the address; [`Error::Input`](memgate_evidence::error::Error::Input) is for a URL
/// that cannot be requested.
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
        // Whether the service may use a port or an address is for the service to find out; here, nobody answers.
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::load::testserver::{Server, ok, status};

    fn wait(url: String, timeout_ms: u64) -> Result<Duration> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(wait_ready(&Ready { http: url, timeout_ms }))
    }

    /// Longer than any test lasts.
    const FOREVER: Duration = Duration::from_secs(3600);

    /// A URL at whose port nobody listens.
    fn nobody() -> String {
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
    fn the_last_answer_is_in_the_message_when_time_runs_out() {
        // Long enough for one attempt, whoever has the processors meanwhile.
        const TIMEOUT_MS: u64 = 5_000;
        let server = Server::start(|_, stream| status(stream, 503));
        let (url, nobody) = (server.url("/healthz"), nobody());
        let [answered, refused] =
            [url, nobody].map(|url| std::thread::spawn(move || wait(url, TIMEOUT_MS).unwrap_err()));
        let error = answered.join().unwrap();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("/healthz answered 503; it had 5 s"), "{error}");
        let error = refused.join().unwrap();
        assert!(error.to_string().contains("gave `connection refused`"), "{error}");
    }

    #[test]
    fn an_attempt_that_is_cut_short_is_not_the_last_answer() {
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
    fn a_port_is_free_when_nobody_listens() {
        port_is_free(&nobody()).unwrap();
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
