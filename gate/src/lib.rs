//! memgate: a CI quality gate for the memory behaviour of Go services.
//!
//! Data flows one way: `Plan → (agent) → Evidence → Metrics → Verdict → Report`; docs/ARCHITECTURE.md is the map.

pub mod agent;
pub mod arch;
mod atomic_file;
pub mod baseline;
pub mod boot;
pub mod cancel;
pub mod cli;
pub mod command;
pub mod config;
pub mod doctor;
pub mod error;
pub mod evidence;
pub mod evidence_file;
pub mod gobuild;
pub mod goexe;
pub mod guest;
pub mod guests;
pub mod images;
pub mod judge;
pub mod metric;
pub mod narrator;
pub mod pipeline;
pub mod plan;
pub mod platform;
pub mod preflight;
pub mod probes;
mod quoted;
pub mod report;
pub mod summarise;
pub mod tier;
pub mod units;
pub mod yaml;
