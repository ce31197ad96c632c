//! The files that memgate writes: their names, and evidence. Each is written whole or not at all.
#![forbid(unsafe_code)]

mod error;
pub mod evidence_file;
pub mod names;
pub mod sha256;
pub mod whole;

pub use error::OutputError;
