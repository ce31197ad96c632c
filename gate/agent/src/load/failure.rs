//! Why a request failed, in a small fixed vocabulary.

use std::{error::Error, io};

use hyper::StatusCode;

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequestFailure {
    /// Nobody listens at the address.
    Refused,
    /// The peer reset the connection.
    Reset,
    /// The peer closed the connection before the answer was complete.
    Closed,
    /// Any other failure of the connection or of making it.
    Connection,
    /// What was answered is not HTTP/1.1.
    Malformed,
    /// A connection was free, but the answer was not complete in time.
    Timeout,
    /// No connection became free in time, or the load ended early.
    NotSent,
    /// Answered with a status that does not count as success.
    Status(StatusCode),
}

impl RequestFailure {
    /// Whether there was a whole answer in time.
    pub(super) const fn is_answered(self) -> bool {
        match self {
            Self::Status(_) => true,
            Self::Refused
            | Self::Reset
            | Self::Closed
            | Self::Connection
            | Self::Malformed
            | Self::Timeout
            | Self::NotSent => false,
        }
    }

    /// The reason for a failure to make a connection.
    pub(super) fn from_io(error: &io::Error) -> Self {
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

    /// The reason for a failure on a connection.
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
            Self::Status(status) => write!(f, "status {}", status.as_u16()),
        }
    }
}

/// The failed system call behind an error of hyper, if there is one.
fn io_cause(error: &hyper::Error) -> Option<&io::Error> {
    std::iter::successors(error.source(), |&cause| cause.source()).find_map(|cause| cause.downcast_ref())
}
