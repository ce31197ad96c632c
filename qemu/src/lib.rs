//! Guests: machines in QEMU in which memgate measures platforms other than the host's.
//!
//! A guest is a kernel, and memgate's agent as its first process and nothing else. This crate makes its image, finds or makes
//! the QEMU that runs it, starts it, speaks with its agent, and names the way it ends. What plan and evidence are it does not know.
//!
//! Features: without any there is `channel` alone, which is what the agent needs; `images` adds the making of images and of QEMU, and
//! `guests` the running of guests.

#[cfg(feature = "images")]
pub mod architecture;
pub mod channel;
#[cfg(feature = "guests")]
mod console;
#[cfg(feature = "guests")]
mod control;
#[cfg(feature = "images")]
pub mod debian;
#[cfg(feature = "images")]
pub mod emulator;
#[cfg(feature = "guests")]
pub mod ending;
#[cfg(feature = "guests")]
pub mod guest;
#[cfg(feature = "images")]
pub mod image;
#[cfg(feature = "guests")]
pub mod machine;
#[cfg(feature = "guests")]
pub mod snapshot;
#[cfg(feature = "guests")]
pub mod terminal;
