//! The load on the service: the built-in open-loop HTTP load generator, or a command.
//!
//! The generator is open-loop: request `i` is intended at `start + i / rate`, whether or not earlier requests have been
//! answered, and its latency counts from that intended start. If a service stalls for 300 ms, every request that users
//! would have sent meanwhile shows the stall, not only the few requests in flight. This corrects *coordinated omission*
//! (Gil Tene, "How NOT to Measure Latency", 2013; wrk2).
//!
//! One thread drives all connections, so the generator uses at most one core.

mod client;
mod command;
mod cookies;
mod error;
mod failure;
mod generator;
mod kind;
mod meter;
mod mix;
mod schedule;
mod tally;
mod timer;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod testserver;

pub(crate) use client::Client;
pub use command::{LoadCommand, command};
pub use error::LoadError;
pub use failure::RequestFailure;
pub use generator::{LoadHandle, start};
pub(crate) use kind::{Endpoint, Endpoints, RequestKind};
pub use schedule::Schedule;
pub use tally::{LoadOutcome, Progress};
