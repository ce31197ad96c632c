//! Baseline files: what a service is allowed, per platform, in YAML that people own and review.

mod file;
mod load;
mod render;
#[cfg(test)]
mod tests;

pub use load::{load, parse, path, schema};
pub use render::render;
