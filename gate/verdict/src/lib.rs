//! Evidence → metrics → verdict.
//!
//! Pure: nothing here uses a file, a process, a clock, the environment or the network. The same evidence and baseline
//! give the same verdict anywhere, at any time. clippy.toml in this folder forbids what the dependencies would allow.
#![forbid(unsafe_code)]

pub mod baseline;
pub mod history;
pub mod judge;
pub mod metric;
pub mod profile;
pub mod quoted;
pub mod results;
pub mod summarise;
pub mod units;
