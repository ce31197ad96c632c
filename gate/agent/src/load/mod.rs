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
//! One thread drives all connections, so the generator uses at most one core.

mod client;
mod closed;
mod command;
mod cookies;
mod error;
mod failure;
mod generator;
mod kind;
mod meter;
mod mix;
mod relay;
mod schedule;
mod tally;
mod timer;

#[cfg(test)]
mod closed_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod testserver;

pub(crate) use client::Client;
pub use closed::{GuestLoad, start_for_guest};
pub use command::{LoadCommand, command};
pub use error::LoadError;
pub use failure::RequestFailure;
pub use generator::{LoadHandle, start};
pub(crate) use kind::{Endpoint, Endpoints, RequestKind};
pub use schedule::{Phase, Schedule, duration, window_in};
pub use tally::{LoadOutcome, Progress};
