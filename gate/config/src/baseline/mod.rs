//! Baseline files: what a service is allowed on each platform, in YAML that people edit and review.

mod accept;
mod anchor;
mod file;
mod load;
mod memory;
mod render;
#[cfg(test)]
mod tests;

pub use accept::{Accepted, Change, accept, tighten, waive};
pub use anchor::{Pin, Pinned, anchor};
pub use file::is_day;
pub use load::{load, parse, path, schema};
pub use render::render;
