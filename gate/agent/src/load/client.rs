//! One client: a keep-alive connection and a cookie jar for each endpoint.
//!
//! It connects itself, or over a relay to a service in a guest.

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
};

use super::{Endpoint, RequestFailure, RequestKind, cookies::Jar, relay::Relay};

/// One client of the service, like a browser or another service.
#[derive(Debug)]
pub(crate) struct Client {
    /// One for each endpoint.
    sessions: Vec<Session>,
    /// The way to a guest.
    relay: Option<Relay>,
}

#[derive(Debug, Default)]
struct Session {
    connection: Option<Connection>,
    jar: Jar,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// The task that reads and writes. Dropping it closes the connection.
    _driver: JoinSet<()>,
}

impl Client {
    /// A client without connections or cookies.
    pub(crate) fn new(endpoints: usize) -> Self {
        Self { sessions: std::iter::repeat_with(Session::default).take(endpoints).collect(), relay: None }
    }

    /// As [`Self::new`], for a service in a guest.
    pub(super) fn over(relay: &Relay, endpoints: usize) -> Self {
        Self { relay: Some(relay.clone()), ..Self::new(endpoints) }
    }

    /// Sends a request and reads the whole answer. If there is no connection, it connects first.
    ///
    /// If the future fails or is dropped early, its connection is closed, and the next request makes a new one.
    pub(crate) async fn exchange(
        &mut self,
        kind: &RequestKind,
        endpoints: &[Endpoint],
    ) -> Result<StatusCode, RequestFailure> {
        let session = &mut self.sessions[kind.endpoint];
        let mut request = kind.request().map(Full::new);
        session.jar.add_to(request.headers_mut());
        let way = Way { endpoint: &endpoints[kind.endpoint], relay: self.relay.as_ref() };
        let (connection, response) = send(session.connection.take(), request, way).await?;
        session.jar.store(response.headers());
        let status = response.status();
        discard(response.into_body()).await?;
        session.connection = Some(connection);
        if kind.expects(status) { Ok(status) } else { Err(RequestFailure::Status(status)) }
    }
}

/// Where to connect, and how.
#[derive(Clone, Copy)]
struct Way<'a> {
    endpoint: &'a Endpoint,
    relay: Option<&'a Relay>,
}

/// Sends a request on the connection, or on a new one if there is none or the peer has closed it.
///
/// A request is sent again only if hyper returns it without having written any byte. The peer had closed the idle
/// connection, which is not a failure. Go's `net/http.Transport` does the same (`errServerClosedIdle`, Go 1.27
/// src/net/http/transport.go).
async fn send(
    idle: Option<Connection>,
    request: Request<Full<Bytes>>,
    way: Way<'_>,
) -> Result<(Connection, Response<Incoming>), RequestFailure> {
    let mut request = request;
    if let Some(mut connection) = idle
        && connection.sender.ready().await.is_ok()
    {
        match connection.sender.try_send_request(request).await {
            Ok(response) => return Ok((connection, response)),
            Err(mut error) => match error.take_message() {
                Some(unsent) => request = unsent,
                None => return Err(RequestFailure::from_hyper(error.error())),
            },
        }
    }
    let mut connection = connect(way).await?;
    match connection.sender.send_request(request).await {
        Ok(response) => Ok((connection, response)),
        Err(error) => Err(RequestFailure::from_hyper(&error)),
    }
}

async fn connect(way: Way<'_>) -> Result<Connection, RequestFailure> {
    let (addresses, failed) = (&way.endpoint.addresses[..], |error| RequestFailure::from_io(&error));
    if let Some(relay) = way.relay {
        return converse(relay.connect(addresses).await.map_err(failed)?).await;
    }
    let stream = TcpStream::connect(addresses).await.map_err(failed)?;
    // Without it, the kernel delays the end of a request until the peer has acknowledged its start.
    stream.set_nodelay(true).map_err(failed)?;
    converse(stream).await
}

async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Connection, RequestFailure> {
    let (sender, driver) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| RequestFailure::from_hyper(&error))?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        // A failure here also fails the current request, which counts it.
        let _: Result<(), hyper::Error> = driver.await;
    });
    Ok(Connection { sender, _driver: tasks })
}

/// Reads a body of any size to its end and drops it.
async fn discard(mut body: Incoming) -> Result<(), RequestFailure> {
    while let Some(frame) = body.frame().await {
        frame.map_err(|error| RequestFailure::from_hyper(&error))?;
    }
    Ok(())
}
