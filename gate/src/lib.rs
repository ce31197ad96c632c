//! memgate: a CI quality gate for the memory behaviour of Go services.
//!
//! Data flows one way: `Plan → (agent) → Evidence → Metrics → Verdict → Report`; docs/explanation/architecture.md is the map.
//!
//! The feature `cli`, on by default, is all of memgate but the agent. Without it the agent is built, which thus compiles no more than
//! measuring needs.

pub mod agent;
pub mod arch;
#[cfg(feature = "cli")]
mod atomic_file;
#[cfg(feature = "cli")]
pub mod baseline;
#[cfg(feature = "cli")]
pub mod boot;
pub mod cancel;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod command;
#[cfg(feature = "cli")]
pub mod config;
#[cfg(feature = "cli")]
pub mod doctor;
pub mod error;
pub mod evidence;
#[cfg(feature = "cli")]
pub mod evidence_file;
#[cfg(feature = "cli")]
pub mod gobuild;
pub mod goexe;
pub mod guest;
#[cfg(feature = "cli")]
pub mod guests;
#[cfg(feature = "cli")]
pub mod images;
#[cfg(feature = "cli")]
pub mod judge;
#[cfg(feature = "cli")]
pub mod metric;
#[cfg(feature = "cli")]
pub mod narrator;
#[cfg(feature = "cli")]
pub mod pipeline;
pub mod plan;
pub mod platform;
#[cfg(feature = "cli")]
pub mod preflight;
pub mod probes;
#[cfg(feature = "cli")]
mod quoted;
#[cfg(feature = "cli")]
pub mod report;
#[cfg(feature = "cli")]
pub mod summarise;
pub mod tier;
#[cfg(feature = "cli")]
pub mod units;
#[cfg(feature = "cli")]
pub mod yaml;
