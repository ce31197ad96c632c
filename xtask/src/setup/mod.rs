//! The tools of the chores, each in its own file, installed if missing.
//!
//! Each `ensure` returns at once if its tool is there. Everything that is fetched is pinned by version, and by hash
//! unless the registry's client itself checks a fixed one. It goes to `.tools`, which git ignores, or comes from the
//! system's package manager. A tool is unpacked beside its place and then renamed, so an interrupted set-up leaves
//! nothing that looks installed.

pub(crate) mod apt;
pub(crate) mod bpf_linker;
pub(crate) mod cargo_deny;
mod cargo_install;
pub(crate) mod gcc;
pub(crate) mod go;
pub(crate) mod go_cache;
pub(crate) mod go_lock;
pub(crate) mod mdbook;
pub(crate) mod nextest;
pub(crate) mod pip;
pub(crate) mod qemu;
pub(crate) mod rust_components;
pub(crate) mod rust_src;
pub(crate) mod rustc;
pub(crate) mod services;
mod stamp;
mod tools;
mod version;
pub(crate) mod zig;

use self::stamp::Stamp;
pub(crate) use self::tools::Tools;
use self::version::Version;
