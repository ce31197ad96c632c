//! The agent: runs on the target; a plan in, evidence out. Natively or in a guest it is the same code.

pub mod cancel;
mod cgroup;
mod clock;
pub mod collect;
mod environment;
pub mod guest;
mod launch;
pub mod load;
pub mod ready;
pub mod rest;
mod run;

pub use clock::Clock;
pub use run::{Files, Progress, give_memory_back, run};
