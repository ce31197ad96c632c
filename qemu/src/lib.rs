//! Guests: machines in QEMU in which memgate measures platforms other than the host's.
//!
//! A guest is a kernel, and memgate's agent as its first process and nothing else. This crate makes its image, starts it,
//! speaks with its agent, and names the way it ends. What plan and evidence are it does not know.

pub mod architecture;
pub mod channel;
mod console;
mod control;
pub mod debian;
pub mod ending;
pub mod guest;
pub mod image;
pub mod machine;
pub mod snapshot;
pub mod terminal;
