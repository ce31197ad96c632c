//! The load on the service: the built-in open-loop HTTP load generator, or a command.
//!
//! The generator is open-loop: request `i` is intended at `start + i / rate`, whether or not earlier requests have been
//! answered, and its latency counts from that intended start. If a service stalls for 300 ms, every request that users
//! would have sent meanwhile shows the stall, not only the few requests in flight. This corrects *coordinated omission*
//! (Gil Tene, "How NOT to Measure Latency", 2013; wrk2).
//!
//! A service in a guest is loaded from the host, closed-loop (`closed.rs`). The guest's agent hands on the bytes
//! (`relay.rs`, and `in_guest/relay.rs` there).
//!
//! Connections are made by `dial.rs`: TCP or unix sockets, with TLS by `tls.rs` or without. `http1.rs` and `http2.rs` send
//! requests over them.
//!
//! One thread drives all connections, so the generator uses at most one core.

mod client;
mod closed;
mod command;
mod cookies;
mod dial;
mod error;
mod failure;
mod generator;
mod grpc;
mod http1;
// The agents for guests get no HTTP/2, no TLS, and no cryptography in C: the load comes from the host.
#[cfg_attr(not(feature = "host"), path = "no_http2.rs")]
mod http2;
mod kind;
mod meter;
mod mix;
mod relay;
mod results;
mod schedule;
mod tally;
mod timer;
#[cfg_attr(not(feature = "host"), path = "no_tls.rs")]
mod tls;
mod values;

#[cfg(test)]
mod closed_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod testserver;
#[cfg(test)]
mod transport_server;
#[cfg(test)]
mod transport_tests;
#[cfg(test)]
mod values_tests;

pub(crate) use client::Client;
pub use closed::{GuestLoad, start_for_guest};
pub use command::{LoadCommand, command};
pub use error::LoadError;
pub use failure::{RequestFailure, TlsFailure};
pub use generator::{LoadHandle, Site, Start, start};
pub(crate) use kind::{Endpoint, Endpoints, RequestKind};
pub use results::Results;
pub use schedule::{Phase, Schedule, duration, window_in};
pub use tally::{LoadOutcome, Progress};
