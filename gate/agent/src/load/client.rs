//! One client: a connection and a cookie jar for each endpoint.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Bytes, Incoming},
};

use super::{
    Endpoint, RequestFailure, RequestKind,
    cookies::Jar,
    dial::Dialer,
    generator::Requests,
    http1::Http1,
    http2::Http2,
    values::{Captured, LONGEST_BODY, capture},
};

/// One client of the service, like a browser or another service.
#[derive(Debug)]
pub(crate) struct Client<L = Http1> {
    /// One for each endpoint.
    sessions: Vec<Session<L>>,
    /// Streams of one connection share it.
    captured: Arc<Mutex<Captured>>,
    dialer: Arc<Dialer>,
}

#[derive(Debug)]
struct Session<L> {
    link: L,
    /// Streams of one connection share it.
    jar: Arc<Mutex<Jar>>,
}

/// A client's way to an endpoint: its connections, in one version of HTTP.
pub(crate) trait Link: Send + 'static {
    /// What an answer comes over. Dropping it early ends the answer.
    type Lease: Send;

    /// Sends a request and waits for the head of its answer. If there is no connection, it connects first.
    ///
    /// If the future is dropped early, the request is given up.
    fn send(
        &mut self,
        request: Request<Full<Bytes>>,
        way: Way<'_>,
    ) -> impl Future<Output = Result<(Self::Lease, Response<Incoming>), RequestFailure>> + Send;

    /// Takes the lease back after the whole answer was read.
    fn keep(&mut self, lease: Self::Lease);

    /// The reason why a request failed.
    fn failure(error: &hyper::Error) -> RequestFailure;
}

/// Where to connect, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) dialer: &'a Dialer,
}

impl Client {
    /// A client without connections or cookies, in HTTP/1.1 over plain TCP.
    pub(crate) fn new(endpoints: usize) -> Self {
        Self::http1(&Arc::new(Dialer::network(None)), endpoints, true)
    }

    /// As [`Self::new`], over any connections.
    pub(super) fn http1(dialer: &Arc<Dialer>, endpoints: usize, keep_alive: bool) -> Self {
        Self::with(dialer, endpoints, || Http1::new(keep_alive))
    }
}

impl Client<Http2> {
    /// A client without connections or cookies, in HTTP/2.
    pub(super) fn http2(dialer: &Arc<Dialer>, endpoints: usize, keep_alive: bool) -> Self {
        Self::with(dialer, endpoints, || Http2::new(keep_alive))
    }

    /// The same client for another request at the same time, on another stream of the same connection.
    pub(super) fn stream(&self) -> Self {
        let session = |session: &Session<Http2>| Session { link: session.link.clone(), jar: Arc::clone(&session.jar) };
        let sessions = self.sessions.iter().map(session).collect();
        Self { sessions, captured: Arc::clone(&self.captured), dialer: Arc::clone(&self.dialer) }
    }
}

impl<L> Client<L> {
    fn with(dialer: &Arc<Dialer>, endpoints: usize, link: impl Fn() -> L) -> Self {
        let session = || Session { link: link(), jar: Arc::default() };
        let sessions = std::iter::repeat_with(session).take(endpoints).collect();
        Self { sessions, captured: Arc::default(), dialer: Arc::clone(dialer) }
    }
}

impl<L: Link> Client<L> {
    /// Sends a request and reads the whole answer. If there is no connection, it connects first.
    ///
    /// If the future fails or is dropped early, the request's connection or stream is closed.
    pub(crate) async fn exchange(
        &mut self,
        kind: &RequestKind,
        endpoints: &[Endpoint],
    ) -> Result<StatusCode, RequestFailure> {
        self.send(kind, kind.request(), endpoints).await
    }

    /// As [`Self::exchange`], with the request of this index. If the client has not captured a value that it needs, the
    /// request is one that captures it instead.
    pub(super) async fn answer(&mut self, requests: &Requests, index: u64) -> Result<StatusCode, RequestFailure> {
        let kind = requests.kind(index);
        if kind.is_plain() {
            return self.exchange(kind, &requests.endpoints).await;
        }
        let (kind, request) = {
            let captured = lock(&self.captured);
            let kind = requests.first_for(kind, &captured);
            (kind, kind.request_with(requests.values(index), &captured)?)
        };
        self.send(kind, request, &requests.endpoints).await
    }

    async fn send(
        &mut self,
        kind: &RequestKind,
        request: Request<Bytes>,
        endpoints: &[Endpoint],
    ) -> Result<StatusCode, RequestFailure> {
        let session = &mut self.sessions[kind.endpoint];
        let mut request = request.map(Full::new);
        session.jar().add_to(request.headers_mut());
        let way = Way { endpoint: &endpoints[kind.endpoint], dialer: &self.dialer };
        let (lease, response) = session.link.send(request, way).await?;
        session.jar().store(response.headers());
        let (head, body) = response.into_parts();
        let (body, trailers) = read::<L>(body, kind.searches_body()).await?;
        session.link.keep(lease);
        kind.check(&head, trailers.as_ref())?;
        if !kind.capture.is_empty() {
            capture(&kind.capture, &head.headers, &session.jar(), &body, &mut lock(&self.captured))?;
        }
        Ok(head.status)
    }
}

impl<L> Session<L> {
    fn jar(&self) -> MutexGuard<'_, Jar> {
        lock(&self.jar)
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a body of any size to its end. Returns its first [`LONGEST_BODY`] bytes if they are wanted, and its trailers if
/// there are any.
async fn read<L: Link>(mut body: Incoming, is_wanted: bool) -> Result<(Bytes, Option<HeaderMap>), RequestFailure> {
    let (mut bytes, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        match frame.map_err(|error| L::failure(&error))?.into_data() {
            Ok(data) if is_wanted => bytes.extend_from_slice(&data[..data.len().min(LONGEST_BODY - bytes.len())]),
            Ok(_) => {}
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((bytes.into(), trailers))
}
