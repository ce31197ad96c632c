//! Connections in HTTP/2: several requests at a time, each on a stream of its own.

use std::{error::Error, sync::Arc};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{sync::Mutex, task::JoinSet};

use super::{
    RequestFailure,
    client::{Link, Way},
};

/// A client's connection to an endpoint, if there is one. The streams of a client share it.
#[derive(Debug, Clone)]
pub(crate) struct Http2 {
    keep_alive: bool,
    connection: Arc<Mutex<Option<Connection>>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// The task that hands requests to the connection. Dropping the last one closes the connection.
    _driver: Arc<JoinSet<()>>,
}

impl Http2 {
    pub(super) fn new(keep_alive: bool) -> Self {
        Self { keep_alive, connection: Arc::default() }
    }

    /// The connection, or a new one if there is none or it is closed. Streams that wait for it get the same one.
    async fn connection(&self, way: Way<'_>) -> Result<Connection, RequestFailure> {
        if !self.keep_alive {
            return connect(way).await;
        }
        let mut slot = self.connection.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.sender.is_closed()) {
            return Ok(connection.clone());
        }
        let connection = connect(way).await?;
        *slot = Some(connection.clone());
        Ok(connection)
    }
}

impl Link for Http2 {
    type Lease = Connection;

    /// Sends a request on the connection. It is sent again, on a new connection, only if hyper returns it without having
    /// written any byte, because the peer had closed the idle connection.
    async fn send(
        &mut self,
        mut request: Request<Full<Bytes>>,
        way: Way<'_>,
    ) -> Result<(Connection, Response<Incoming>), RequestFailure> {
        let mut connection = self.connection(way).await?;
        if connection.sender.ready().await.is_ok() {
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok((connection, response)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Self::failure(error.error())),
                },
            }
        }
        let mut connection = self.connection(way).await?;
        match connection.sender.send_request(request).await {
            Ok(response) => Ok((connection, response)),
            Err(error) => Err(Self::failure(&error)),
        }
    }

    fn keep(&mut self, _: Connection) {}

    fn failure(error: &hyper::Error) -> RequestFailure {
        match std::iter::successors(error.source(), |&cause| cause.source()).find_map(|cause| cause.downcast_ref()) {
            Some(cause) => of_protocol(cause),
            None => RequestFailure::from_hyper(error),
        }
    }
}

fn of_protocol(error: &h2::Error) -> RequestFailure {
    match error.get_io() {
        Some(cause) => RequestFailure::from_io(cause),
        None if error.is_remote() && error.is_reset() => RequestFailure::StreamReset,
        // The peer announces the end of the connection.
        None if error.is_remote() => RequestFailure::Closed,
        None => RequestFailure::Malformed,
    }
}

async fn connect(way: Way<'_>) -> Result<Connection, RequestFailure> {
    let stream = way.dialer.dial(way.endpoint).await?;
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (sender, driver) = handshake.map_err(|error| Http2::failure(&error))?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        // A failure here also fails the current requests, which count it.
        let _: Result<(), hyper::Error> = driver.await;
    });
    Ok(Connection { sender, _driver: Arc::new(tasks) })
}
