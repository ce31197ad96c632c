//! The agent: runs on the target; a plan in, evidence out. Natively or in a guest it is the same code.

mod cgroup;
mod clock;
pub mod collect;
mod environment;
mod launch;
pub mod load;
pub mod ready;
mod run;

pub use clock::Clock;
pub use run::{Files, Progress, give_memory_back, run};
