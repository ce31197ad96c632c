//! Where a process listens, as far as the configuration tells.

use std::fmt;

use memgate_evidence::plan::{Ready, ReadyBy};

/// A place where only one process can listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Listens {
    /// A host and a port. The names of this machine are one.
    At(String, u16),
    /// A unix socket that has the same name wherever a process runs: an absolute path, or `@NAME`.
    Socket(String),
}

impl Listens {
    /// Where a process listens that is ready in this way.
    pub(super) fn of(ready: &Ready) -> Option<Self> {
        match &ready.by {
            ReadyBy::Http(url) => Self::at_url(url),
            ReadyBy::Tcp(address) => Self::at(address),
            ReadyBy::Unix(name) => Self::at_socket(name),
            ReadyBy::Log(_) | ReadyBy::Command(_) | ReadyBy::Notify => None,
        }
    }

    /// The socket of this name, unless each process may have its own.
    pub(super) fn at_socket(name: &str) -> Option<Self> {
        name.starts_with(['/', '@', '$']).then(|| Self::Socket(name.to_owned()))
    }

    /// Where requests to the URL go.
    pub(super) fn at_url(url: &str) -> Option<Self> {
        Self::at(url.parse::<hyper::Uri>().ok()?.authority()?.as_str())
    }

    fn at(address: &str) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        let is_here = ["localhost", "127.0.0.1", "0.0.0.0", "[::]", "[::1]"].contains(&host);
        Some(Self::At(if is_here { "127.0.0.1".to_owned() } else { host.to_owned() }, port.parse().ok()?))
    }
}

impl fmt::Display for Listens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(host, port) => write!(f, "{host}:{port}"),
            Self::Socket(name) => write!(f, "the socket {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_this_machine_are_one() {
        let of = |by| Listens::of(&Ready { by, timeout_ms: 1 });
        let port = of(ReadyBy::Tcp("127.0.0.1:80".to_owned()));
        assert_eq!(port.as_ref().unwrap().to_string(), "127.0.0.1:80");
        for by in [ReadyBy::Http("http://localhost:80/a".to_owned()), ReadyBy::Tcp("[::1]:80".to_owned())] {
            assert_eq!(of(by), port);
        }
        assert_ne!(of(ReadyBy::Tcp("127.0.0.1:81".to_owned())), port);
        assert_ne!(of(ReadyBy::Tcp("10.0.0.1:80".to_owned())), port);
        assert!(of(ReadyBy::Unix("app.sock".to_owned())).is_none(), "each process may have its own");
        assert!(of(ReadyBy::Unix("@app".to_owned())).is_some() && of(ReadyBy::Notify).is_none());
    }
}
