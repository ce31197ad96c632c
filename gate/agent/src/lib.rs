//! The agent runs on the target. It turns a plan into evidence, with the same code natively and in a guest.

pub mod alone;
pub mod cancel;
mod cgroup;
pub mod child;
mod clock;
pub mod collect;
mod drain;
mod environment;
mod family;
mod follow;
pub mod in_guest;
mod launch;
mod listeners;
pub mod load;
mod log;
mod output;
mod process;
mod ready;
pub mod rest;
mod run;
pub mod trial;

pub use cgroup::{CgroupError, CgroupFiles, remove_leftovers};
pub use clock::Clock;
pub use follow::FollowError;
pub use launch::{Exit, LaunchError, StartError, Unseen};
pub use listeners::{Holder, ListenerError};
pub use log::LogEnd;
pub use ready::ReadyError;
pub use run::{Driver, ExecutableError, RunEvent, RunLogs, give_memory_back, run};

/// The identity of this build, 32 hexadecimal digits: a hash of the sources that memgate and its agents share
/// (`build.rs`). memgate and the agent in a guest have the same one.
pub const BUILD: &str = env!("MEMGATE_BUILD");

#[cfg(test)]
mod error_tests;
