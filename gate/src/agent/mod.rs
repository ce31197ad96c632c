//! agent
pub mod load;
