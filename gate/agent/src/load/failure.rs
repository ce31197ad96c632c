//! Why a request failed, in a small fixed vocabulary.

use std::{error::Error, io};

use hyper::StatusCode;
use memgate_evidence::plan::GRPC_STATUSES;

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequestFailure {
    /// No process listens at the address.
    Refused,
    /// The peer reset the connection.
    Reset,
    /// The peer closed the connection before the answer was complete.
    Closed,
    /// The connection failed in another way, or could not be made.
    Connection,
    /// The answer is not HTTP of the load's version.
    Malformed,
    /// The peer reset the request's stream of HTTP/2.
    StreamReset,
    /// Another user than the service's listens at the unix socket.
    OtherUser,
    /// There is no TLS connection.
    Tls(TlsFailure),
    /// A connection was free, but the answer was not complete in time.
    Timeout,
    /// No connection became free in time, or the load ended early.
    NotSent,
    /// No connection sent it before the time of a phase in a guest was over. The service is not to blame.
    NoTime,
    /// The answer's status does not count as success.
    Status(StatusCode),
    /// The answer's gRPC status does not count as success.
    Grpc(u8),
    /// The request was not sent: HTTP does not allow one of its values, or there is none.
    Value,
    /// The answer counts as success, and a value that the client is to capture is not in it.
    Capture,
}

/// Why there is no TLS connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsFailure {
    /// The certificate is for other names than the URL's host.
    OtherName,
    /// No authority that the load accepts has signed the certificate.
    UnknownIssuer,
    /// The certificate is unfit in another way, such as one that has expired.
    Certificate,
    /// The service does not speak HTTP/1.1 over TLS.
    NoHttp1,
    /// The service does not speak HTTP/2 over TLS.
    NoHttp2,
    /// The handshake failed in another way, such as with a service that does not speak TLS.
    Handshake,
}

impl RequestFailure {
    /// Whether a whole answer came in time.
    pub(super) const fn is_answered(self) -> bool {
        match self {
            Self::Status(_) | Self::Grpc(_) | Self::Capture => true,
            Self::Refused
            | Self::Reset
            | Self::Closed
            | Self::Connection
            | Self::Malformed
            | Self::StreamReset
            | Self::OtherUser
            | Self::Tls(_)
            | Self::Timeout
            | Self::NotSent
            | Self::NoTime
            | Self::Value => false,
        }
    }

    /// The reason why a connection could not be made, or why one failed.
    pub(crate) fn from_io(error: &io::Error) -> Self {
        match error.kind() {
            // There is no unix socket.
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                Self::Reset
            }
            io::ErrorKind::UnexpectedEof => Self::Closed,
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => Self::Malformed,
            _ => Self::Connection,
        }
    }

    /// The reason why a request on a connection failed.
    pub(super) fn from_hyper(error: &hyper::Error) -> Self {
        if let Some(cause) = io_cause(error) {
            Self::from_io(cause)
        } else if error.is_parse() {
            Self::Malformed
        } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
            Self::Closed
        } else {
            Self::Connection
        }
    }
}

impl std::fmt::Display for RequestFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Reset => f.write_str("connection reset"),
            Self::Closed => f.write_str("connection closed"),
            Self::Connection => f.write_str("connection failed"),
            Self::Malformed => f.write_str("malformed response"),
            Self::StreamReset => f.write_str("stream reset"),
            Self::OtherUser => f.write_str("socket of another user"),
            Self::Tls(reason) => write!(f, "TLS: {reason}"),
            Self::Timeout => f.write_str("timeout"),
            Self::NotSent => f.write_str("not sent"),
            Self::NoTime => f.write_str(memgate_evidence::NO_TIME),
            Self::Status(status) => write!(f, "status {}", status.as_u16()),
            Self::Value => f.write_str("unfit value"),
            Self::Capture => f.write_str("nothing to capture"),
            Self::Grpc(code) => match GRPC_STATUSES.get(usize::from(*code)) {
                Some(name) => write!(f, "gRPC {name}"),
                None => write!(f, "gRPC status {code}"),
            },
        }
    }
}

impl std::fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OtherName => "certificate for another name",
            Self::UnknownIssuer => "certificate by an unknown issuer",
            Self::Certificate => "unfit certificate",
            Self::NoHttp1 => "no HTTP/1.1",
            Self::NoHttp2 => "no HTTP/2",
            Self::Handshake => "handshake failed",
        })
    }
}

/// The failed system call behind an error of hyper, if there is one.
fn io_cause(error: &hyper::Error) -> Option<&io::Error> {
    std::iter::successors(error.source(), |&cause| cause.source()).find_map(|cause| cause.downcast_ref())
}
