//! Checks that nothing listens yet where a process is to listen.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::Duration,
};

use memgate_evidence::{
    error::Result,
    plan::{Ready, ReadyBy},
};

use super::ReadyError;
use crate::{load::Endpoint, socket::Socket};

/// The most time for a connection to a port that should be free.
const CONNECT: Duration = Duration::from_millis(500);

/// Checks that nothing listens where a process in this directory is to say that it is ready, so that memgate measures
/// the one that it launches.
///
/// # Errors
/// Fails with [`ReadyError`], which has the address, if something listens, and with
/// [`Error::Input`](memgate_evidence::error::Error::Input) if a URL or an address cannot be used.
pub(crate) fn is_free(ready: &Ready, directory: &Path) -> Result<()> {
    match &ready.by {
        ReadyBy::Http(url) => addresses_are_free(&Endpoint::of(url)?.0.addresses),
        ReadyBy::Tcp(address) => addresses_are_free(&Endpoint::at(address)?.addresses),
        ReadyBy::Unix(name) => socket_is_free(&Socket::of(name, directory)),
        ReadyBy::Log(_) | ReadyBy::Command(_) | ReadyBy::Notify => Ok(()),
    }
}

/// Checks that nothing listens at these addresses.
///
/// # Errors
/// Fails with [`ReadyError::PortTaken`].
pub(crate) fn addresses_are_free(addresses: &[SocketAddr]) -> Result<()> {
    addresses.iter().try_for_each(|address| {
        if is_taken(address) { Err(ReadyError::PortTaken { address: *address }.into()) } else { Ok(()) }
    })
}

/// Checks that nobody listens at this socket. A file that another process has left is no listener.
///
/// # Errors
/// Fails with [`ReadyError::SocketTaken`].
pub(crate) fn socket_is_free(socket: &Socket) -> Result<()> {
    match socket.connect() {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Ok(()),
        // One whose queue is full listens too.
        Ok(_) | Err(_) => Err(ReadyError::SocketTaken { name: socket.name.clone() }.into()),
    }
}

fn is_taken(address: &SocketAddr) -> bool {
    if TcpStream::connect_timeout(address, CONNECT).is_ok() {
        return true;
    }
    match TcpListener::bind(address) {
        Err(error) => error.kind() == io::ErrorKind::AddrInUse,
        // Nothing answers here. Whether the service may use the address, it finds out itself.
        Ok(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::load::testserver::{Server, ok};

    fn check(by: ReadyBy, directory: &Path) -> Result<()> {
        is_free(&Ready { by, timeout_ms: 1 }, directory)
    }

    fn port_is_free(url: &str) -> Result<()> {
        check(ReadyBy::Http(url.to_owned()), Path::new("/"))
    }

    #[test]
    fn a_port_without_a_listener_is_free() {
        let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        port_is_free(&format!("http://{unused}/")).unwrap();
        check(ReadyBy::Tcp(unused.to_string()), Path::new("/")).unwrap();
        let server = Server::start(|_, stream| ok(stream));
        let address = server.url("")["http://".len()..].to_owned();
        let by_tcp = check(ReadyBy::Tcp(address.clone()), Path::new("/"));
        for error in [port_is_free(&server.url("/")).unwrap_err(), by_tcp.unwrap_err()] {
            assert!(error.to_string().contains(&address), "{error}");
            assert_eq!(error.exit_code(), 4);
        }
    }

    #[test]
    fn a_listener_on_every_address_takes_the_port() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(port_is_free(&format!("http://127.0.0.1:{port}/")).is_err());
        assert!(port_is_free(&format!("http://localhost:{port}/")).is_err());
    }

    #[test]
    fn a_socket_at_which_nobody_listens_is_free() {
        let directory = tempfile::tempdir().unwrap();
        let by = || ReadyBy::Unix("app.sock".to_owned());
        check(by(), directory.path()).unwrap();
        let listener = UnixListener::bind(directory.path().join("app.sock")).unwrap();
        let error = check(by(), directory.path()).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("listens at the socket app.sock"), "{error}");
        drop(listener);
        check(by(), directory.path()).unwrap();
    }
}
