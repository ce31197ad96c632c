//! Guests: machines in QEMU in which memgate measures platforms other than the host's.
//!
//! A guest is a kernel with memgate's agent as its first process, and nothing else. This crate makes the guest's image,
//! finds or makes the QEMU that runs it, starts it, communicates with its agent, and names the way it ends. It does not
//! know what plans and evidence are.
//!
//! Features: without any there is only `channel`, which the agent needs. `images` adds making images and QEMU, and
//! `guests` adds running guests.

#[cfg(feature = "images")]
pub mod architecture;
pub mod channel;
#[cfg(feature = "guests")]
mod confine;
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
mod http;
#[cfg(feature = "images")]
pub mod image;
#[cfg(feature = "guests")]
pub mod machine;
#[cfg(feature = "images")]
pub mod package;
#[cfg(feature = "guests")]
pub mod snapshot;
#[cfg(feature = "images")]
pub mod stop;
#[cfg(feature = "guests")]
pub mod terminal;
