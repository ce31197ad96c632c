//! memgate: a CI quality gate for the memory behaviour of Go services.
//!
//! This crate is the command line. Data flows one way: `Plan → (agent) → Evidence → Metrics → Verdict → Report`;
//! docs/explanation/architecture.md describes it.

mod account;
pub mod architecture;
mod baseline_files;
pub mod baselines;
mod binding;
mod bisect;
pub mod boot;
pub mod cli;
mod command;
pub mod dispatch;
pub mod doctor;
pub mod failures;
mod git;
pub mod gobuild;
pub mod guest_runner;
mod history;
pub mod images;
mod init;
pub mod judging;
mod leftovers;
mod manual;
pub mod measure;
pub mod narrator;
mod origin;
pub mod outdir;
pub mod pipeline;
pub mod preflight;
pub mod prepare;
mod revision;
mod secrets;
pub mod select;
pub mod trust;
