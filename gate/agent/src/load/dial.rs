//! How a connection to the service is made: over TCP, to a unix socket, or through a guest's relay; plain or with TLS.

use std::path::PathBuf;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use super::{Endpoint, RequestFailure, relay::Relay, tls::Connector};

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
    Socket(Socket),
    Guest {
        relay: Relay,
        /// Whether to the unix socket of the plan and not to the address of the endpoint.
        is_unix: bool,
    },
}

/// A unix socket of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Socket {
    pub(super) path: PathBuf,
    /// The only user who may listen there; anybody if it is `None`.
    pub(super) user: Option<u32>,
}

impl Dialer {
    /// Connects to the addresses of endpoints.
    pub(crate) const fn network(tls: Option<Connector>) -> Self {
        Self { to: To::Network, tls }
    }

    /// Connects to a unix socket, whatever the endpoint is.
    pub(super) const fn socket(socket: Socket, tls: Option<Connector>) -> Self {
        Self { to: To::Socket(socket), tls }
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
            To::Socket(socket) => Box::new(socket.connect().await?),
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

impl Socket {
    /// Connects, and checks who listens.
    ///
    /// memgate may be root, and the service's user decides where the path leads to. So a socket of another user, such as
    /// that of a container engine, gets nothing.
    async fn connect(&self) -> Result<UnixStream, RequestFailure> {
        let stream = UnixStream::connect(&self.path).await.map_err(|error| RequestFailure::from_io(&error))?;
        let listener = stream.peer_cred().map_err(|error| RequestFailure::from_io(&error))?.uid();
        match self.user {
            Some(user) if user != listener => Err(RequestFailure::OtherUser),
            Some(_) | None => Ok(stream),
        }
    }
}
