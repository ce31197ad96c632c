//! What drives the service: the built-in open-loop HTTP load generator, or a command.
//!
//! The generator is open-loop: request `i` is intended at `start + i / rate`, whether or not earlier ones have been
//! answered, and its latency counts from that intended start. A service that stalls for 300 ms therefore shows the stall
//! in every request that a user would have sent meanwhile, not only in the few that were on their way: the correction for
//! *coordinated omission* (Gil Tene, "How NOT to Measure Latency", 2013; wrk2).
//!
//! One thread of its own drives all connections, so that it takes one core at most from what is measured.

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
