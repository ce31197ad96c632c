//! One client: a connection and a cookie jar for each endpoint.

use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Bytes, Incoming},
};

use super::{Endpoint, RequestFailure, RequestKind, cookies::Jar, dial::Dialer, http1::Http1, http2::Http2};

/// One client of the service, like a browser or another service.
#[derive(Debug)]
pub(crate) struct Client<L = Http1> {
    /// One for each endpoint.
    sessions: Vec<Session<L>>,
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
        Self { sessions: self.sessions.iter().map(session).collect(), dialer: Arc::clone(&self.dialer) }
    }
}

impl<L> Client<L> {
    fn with(dialer: &Arc<Dialer>, endpoints: usize, link: impl Fn() -> L) -> Self {
        let session = || Session { link: link(), jar: Arc::default() };
        Self { sessions: std::iter::repeat_with(session).take(endpoints).collect(), dialer: Arc::clone(dialer) }
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
        let session = &mut self.sessions[kind.endpoint];
        let mut request = kind.request().map(Full::new);
        session.jar().add_to(request.headers_mut());
        let way = Way { endpoint: &endpoints[kind.endpoint], dialer: &self.dialer };
        let (lease, response) = session.link.send(request, way).await?;
        session.jar().store(response.headers());
        let (head, body) = response.into_parts();
        let trailers = trailers::<L>(body).await?;
        session.link.keep(lease);
        kind.check(&head, trailers.as_ref()).map(|()| head.status)
    }
}

impl<L> Session<L> {
    fn jar(&self) -> std::sync::MutexGuard<'_, Jar> {
        self.jar.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a body of any size to its end and drops it. Returns its trailers, if there are any.
async fn trailers<L: Link>(mut body: Incoming) -> Result<Option<HeaderMap>, RequestFailure> {
    let mut trailers = None;
    while let Some(frame) = body.frame().await {
        trailers = frame.map_err(|error| L::failure(&error))?.into_trailers().ok();
    }
    Ok(trailers)
}
