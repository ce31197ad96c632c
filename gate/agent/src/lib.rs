//! The agent runs on the target. It turns a plan into evidence, with the same code natively and in a guest.

pub mod alone;
mod beside;
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
mod ownership;
mod process;
mod ready;
pub mod rest;
mod run;
mod socket;
pub mod trial;
mod wait;

pub use beside::BesideError;
pub use cgroup::{CgroupError, CgroupFiles};
pub use clock::Clock;
pub use follow::FollowError;
pub use launch::{LaunchError, StartError, Unseen};
pub use listeners::{Holder, ListenerError};
pub use log::LogEnd;
pub use ready::ReadyError;
pub use run::{Driver, ExecutableError, RunEvent, RunLogs, before_log, give_memory_back, run, sidecar_log};
pub use wait::{Change, Exit, SignalNumber};

/// Ends and removes what a killed memgate has left. Returns a line for each thing that a reader must know.
pub fn remove_leftovers() -> Vec<String> {
    // What runs in a cgroup may write in a directory.
    let mut lines = cgroup::remove_leftovers();
    lines.extend(beside::remove_leftovers());
    lines
}

/// The identity of this build, 32 hexadecimal digits: a hash of the sources that memgate and its agents share
/// (`build.rs`). memgate and the agent in a guest have the same one.
pub const BUILD: &str = env!("MEMGATE_BUILD");

#[cfg(test)]
mod error_tests;
