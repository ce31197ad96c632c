//! How a connection to the service is made: over TCP, to a unix socket, or through a guest's relay; plain or with TLS.

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use super::{Endpoint, RequestFailure, relay::Relay, tls::Connector};
use crate::socket::{Socket, listener};

/// The bytes of a connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Makes connections.
#[derive(Debug)]
pub(crate) struct Dialer {
    to: To,
    tls: Option<Connector>,
}

/// Where a connection leads to.
#[derive(Debug)]
enum To {
    /// The address of the endpoint.
    Network,
    Socket {
        socket: Socket,
        /// The only user who may listen there; anybody if it is `None`.
        user: Option<u32>,
    },
    Guest {
        relay: Relay,
        /// Whether to the unix socket of the plan and not to the address of the endpoint.
        is_unix: bool,
    },
}

impl Dialer {
    /// Connects to the addresses of endpoints.
    pub(crate) const fn network(tls: Option<Connector>) -> Self {
        Self { to: To::Network, tls }
    }

    /// Connects to a unix socket, whatever the endpoint is. `user` is the only one who may listen there, if that matters.
    pub(super) const fn socket(socket: Socket, user: Option<u32>, tls: Option<Connector>) -> Self {
        Self { to: To::Socket { socket, user }, tls }
    }

    /// Connects in a guest.
    pub(super) const fn guest(relay: Relay, is_unix: bool, tls: Option<Connector>) -> Self {
        Self { to: To::Guest { relay, is_unix }, tls }
    }

    pub(super) async fn dial(&self, endpoint: &Endpoint) -> Result<Box<dyn Stream>, RequestFailure> {
        let failed = |error| RequestFailure::from_io(&error);
        let stream: Box<dyn Stream> = match &self.to {
            To::Network => {
                let stream = TcpStream::connect(&endpoint.addresses[..]).await.map_err(failed)?;
                // Without it, the kernel delays the end of a request until the peer has acknowledged its start.
                stream.set_nodelay(true).map_err(failed)?;
                Box::new(stream)
            }
            To::Socket { socket, user } => Box::new(connect(socket, *user)?),
            To::Guest { relay, is_unix: true } => Box::new(relay.connect_to_socket().await.map_err(failed)?),
            To::Guest { relay, is_unix: false } => Box::new(relay.connect(&endpoint.addresses).await.map_err(failed)?),
        };
        match (endpoint.is_tls, &self.tls) {
            (false, _) => Ok(stream),
            (true, Some(connector)) => connector.connect(stream, endpoint.host()).await,
            (true, None) => Err(RequestFailure::Tls(super::TlsFailure::Handshake)),
        }
    }
}

/// Connects, and checks who listens.
///
/// memgate may be root, and the service's user decides where the path leads to. So a socket of another user, such as that
/// of a container engine, gets nothing.
fn connect(socket: &Socket, user: Option<u32>) -> Result<UnixStream, RequestFailure> {
    let failed = |error| RequestFailure::from_io(&error);
    let stream = socket.connect().map_err(failed)?;
    match user {
        Some(user) if user != listener(&stream).map_err(failed)?.uid() => Err(RequestFailure::OtherUser),
        Some(_) | None => UnixStream::from_std(stream).map_err(failed),
    }
}
