//! agent
pub mod load;
pub mod ready;
