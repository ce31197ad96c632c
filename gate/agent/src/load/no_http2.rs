//! In place of `http2.rs` in the agent for guests: the host sends the requests in HTTP/2.

use std::convert::Infallible;

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
};

use super::{
    RequestFailure,
    client::{Link, Way},
};

/// A connection in HTTP/2, which nobody makes here.
#[derive(Debug, Clone)]
pub(crate) struct Http2;

impl Http2 {
    pub(super) const fn new(_: bool) -> Self {
        Self
    }
}

impl Link for Http2 {
    type Lease = Infallible;

    async fn send(
        &mut self,
        _: Request<Full<Bytes>>,
        _: Way<'_>,
    ) -> Result<(Infallible, Response<Incoming>), RequestFailure> {
        Err(RequestFailure::Malformed)
    }

    fn keep(&mut self, lease: Infallible) {
        match lease {}
    }

    fn failure(error: &hyper::Error) -> RequestFailure {
        RequestFailure::from_hyper(error)
    }
}
