//! In place of `tls.rs` in the agent for guests: the host makes the connections with TLS.

use std::convert::Infallible;

use memgate_evidence::{
    error::{InputError, Result},
    plan,
};

use super::{RequestFailure, dial::Stream};

/// Makes TLS connections, which nobody can do here.
#[derive(Debug, Clone)]
pub(crate) struct Connector(Infallible);

impl Connector {
    /// No connector.
    ///
    /// # Errors
    /// Always fails.
    pub(crate) fn new(_: &plan::Tls, _: bool) -> Result<Self> {
        Err(InputError::new("This agent has no TLS.", "Let the host drive the load.").into())
    }

    pub(super) async fn connect(&self, _: Box<dyn Stream>, _: &str) -> Result<Box<dyn Stream>, RequestFailure> {
        match self.0 {}
    }
}
