//! Metrics and baseline → verdict. Pure: uses no process, clock, file or network.

mod against_baseline;
mod against_limit;
mod figures;
mod fit;
mod gate;
mod ruling;
mod service;
#[cfg(test)]
mod tests;

pub use service::{judge, needs_confirmation};
