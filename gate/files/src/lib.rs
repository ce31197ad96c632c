//! The files that memgate writes: their names, and evidence; each is there whole or not at all.
#![forbid(unsafe_code)]

mod error;
pub mod evidence_file;
pub mod names;
pub mod whole;

pub use error::OutputError;
