//! Connections in HTTP/1.1: one request at a time.

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{CONNECTION, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::{
    RequestFailure,
    client::{Link, Way},
};

/// A client's connection to an endpoint, if there is one.
#[derive(Debug)]
pub(crate) struct Http1 {
    keep_alive: bool,
    idle: Option<Connection>,
}

#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// The task that reads and writes. Dropping it closes the connection.
    _driver: JoinSet<()>,
}

impl Http1 {
    pub(super) const fn new(keep_alive: bool) -> Self {
        Self { keep_alive, idle: None }
    }
}

impl Link for Http1 {
    type Lease = Connection;

    /// Sends a request on the connection, or on a new one if there is none or the peer has closed it.
    ///
    /// A request is sent again only if hyper returns it without having written any byte. The peer had closed the idle
    /// connection, which is not a failure. Go's `net/http.Transport` does the same (`errServerClosedIdle`, Go 1.27
    /// src/net/http/transport.go).
    async fn send(
        &mut self,
        mut request: Request<Full<Bytes>>,
        way: Way<'_>,
    ) -> Result<(Connection, Response<Incoming>), RequestFailure> {
        if !self.keep_alive {
            // The service closes the connection first, as it does for other clients that use theirs once.
            request.headers_mut().entry(CONNECTION).or_insert(HeaderValue::from_static("close"));
        }
        if let Some(mut connection) = self.idle.take()
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

    fn keep(&mut self, lease: Connection) {
        self.idle = self.keep_alive.then_some(lease);
    }

    fn failure(error: &hyper::Error) -> RequestFailure {
        RequestFailure::from_hyper(error)
    }
}

async fn connect(way: Way<'_>) -> Result<Connection, RequestFailure> {
    let stream = way.dialer.dial(way.endpoint).await?;
    let (sender, driver) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| RequestFailure::from_hyper(&error))?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        // A failure here also fails the current request, which counts it.
        let _: Result<(), hyper::Error> = driver.await;
    });
    Ok(Connection { sender, _driver: tasks })
}
