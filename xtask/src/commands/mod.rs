//! The chores, each in its own file.

pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod dist;
pub(crate) mod docs;
pub(crate) mod ebpf;
pub(crate) mod fuzz;
pub(crate) mod go;
pub(crate) mod lint;
pub(crate) mod setup;
pub(crate) mod test;
