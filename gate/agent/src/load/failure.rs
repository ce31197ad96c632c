//! Why a request failed, in a small fixed vocabulary.

use std::{error::Error, io};

use hyper::StatusCode;

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
    /// The answer is not HTTP/1.1.
    Malformed,
    /// A connection was free, but the answer was not complete in time.
    Timeout,
    /// No connection became free in time, or the load ended early.
    NotSent,
    /// No connection sent it before the time of a phase in a guest was over. The service is not to blame.
    NoTime,
    /// The answer's status does not count as success.
    Status(StatusCode),
}

impl RequestFailure {
    /// Whether a whole answer came in time.
    pub(super) const fn is_answered(self) -> bool {
        match self {
            Self::Status(_) => true,
            Self::Refused
            | Self::Reset
            | Self::Closed
            | Self::Connection
            | Self::Malformed
            | Self::Timeout
            | Self::NotSent
            | Self::NoTime => false,
        }
    }

    /// The reason why a connection could not be made.
    pub(crate) fn from_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
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
            Self::Timeout => f.write_str("timeout"),
            Self::NotSent => f.write_str("not sent"),
            Self::NoTime => f.write_str(memgate_evidence::NO_TIME),
            Self::Status(status) => write!(f, "status {}", status.as_u16()),
        }
    }
}

/// The failed system call behind an error of hyper, if there is one.
fn io_cause(error: &hyper::Error) -> Option<&io::Error> {
    std::iter::successors(error.source(), |&cause| cause.source()).find_map(|cause| cause.downcast_ref())
}
