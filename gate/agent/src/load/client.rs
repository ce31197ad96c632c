//! One client: a keep-alive connection and a cookie jar for each endpoint.

use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

use super::{Endpoint, RequestFailure, RequestKind, cookies::Jar};

/// One client of the service, as a browser or another service would be.
#[derive(Debug)]
pub(crate) struct Client {
    /// One for each endpoint.
    sessions: Vec<Session>,
}

#[derive(Debug, Default)]
struct Session {
    connection: Option<Connection>,
    jar: Jar,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// The task that reads and writes; dropping it closes the connection.
    _driver: JoinSet<()>,
}

impl Client {
    /// A client without connections or cookies.
    pub(crate) fn new(endpoints: usize) -> Self {
        Self { sessions: std::iter::repeat_with(Session::default).take(endpoints).collect() }
    }

    /// Sends a request and reads the whole answer, connecting first where there is no connection.
    ///
    /// When the future is dropped before its end, or fails, the connection is closed and the next request makes a new one.
    pub(crate) async fn exchange(
        &mut self,
        kind: &RequestKind,
        endpoints: &[Endpoint],
    ) -> Result<StatusCode, RequestFailure> {
        let session = &mut self.sessions[kind.endpoint];
        let mut request = kind.request().map(Full::new);
        session.jar.add_to(request.headers_mut());
        let (connection, response) = send(session.connection.take(), request, &endpoints[kind.endpoint]).await?;
        session.jar.store(response.headers());
        let status = response.status();
        discard(response.into_body()).await?;
        session.connection = Some(connection);
        if kind.expects(status) { Ok(status) } else { Err(RequestFailure::Status(status)) }
    }
}

/// Sends a request on the connection, or on a new one when there is none or the peer has closed it meanwhile.
///
/// A request is sent anew only when hyper hands it back, not one byte of it written: the peer had closed the idle
/// connection, which is no failure. Go's `net/http.Transport` does the same (`errServerClosedIdle`, Go 1.27
/// src/net/http/transport.go).
async fn send(
    idle: Option<Connection>,
    request: Request<Full<Bytes>>,
    endpoint: &Endpoint,
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
    let mut connection = connect(endpoint).await?;
    match connection.sender.send_request(request).await {
        Ok(response) => Ok((connection, response)),
        Err(error) => Err(RequestFailure::from_hyper(&error)),
    }
}

async fn connect(endpoint: &Endpoint) -> Result<Connection, RequestFailure> {
    let stream = TcpStream::connect(&endpoint.addresses[..]).await.map_err(|error| RequestFailure::from_io(&error))?;
    // Without it, the kernel holds back the end of a request until the peer has acknowledged its beginning.
    stream.set_nodelay(true).map_err(|error| RequestFailure::from_io(&error))?;
    let (sender, driver) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| RequestFailure::from_hyper(&error))?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        // What fails here also fails the request that is on its way, which counts it.
        let _: Result<(), hyper::Error> = driver.await;
    });
    Ok(Connection { sender, _driver: tasks })
}

/// Reads a body to its end, keeping nothing: it may be of any size.
async fn discard(mut body: Incoming) -> Result<(), RequestFailure> {
    while let Some(frame) = body.frame().await {
        frame.map_err(|error| RequestFailure::from_hyper(&error))?;
    }
    Ok(())
}
