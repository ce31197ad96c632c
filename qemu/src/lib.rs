//! Guests: machine descriptions of the platforms that memgate runs in QEMU.
//!
//! Nothing here runs a guest yet; `memgate` says so when asked for a platform that is not the host's.
