//! Why an image is not available.

use std::io;

use crate::{
    architecture::Architecture,
    debian::{DebianError, io_help},
    emulator::OLDEST,
};

/// Why an image or a lock cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A package is not available.
    #[error(transparent)]
    Debian(#[from] DebianError),
    /// The agent cannot run as a guest's first process.
    #[error("{path} cannot be a guest's agent: {why}")]
    BadAgent {
        /// The executable.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// The lock does not contain the kernel.
    #[error("the lock of the guests' images has no kernel {name}")]
    NotLocked {
        /// The kernel.
        name: String,
    },
    /// The lock does not contain a shell.
    #[error("the lock of the guests' images has no shell for {architecture}")]
    NoShell {
        /// The guest's architecture.
        architecture: Architecture,
    },
    /// The lock cannot be used.
    #[error("the lock of the guests' images cannot be used: {why}")]
    BadLock {
        /// What is wrong with it.
        why: String,
    },
    /// The suite now has another release of the kernel.
    #[error("{package} of Debian's {suite} no longer is Linux {release}: it is {found}")]
    OtherRelease {
        /// The package that depends on the newest kernel.
        package: String,
        /// The suite.
        suite: String,
        /// The release that memgate expects.
        release: String,
        /// What it depends on.
        found: String,
    },
    /// A package lacks a required part.
    #[error("the packages of {kernel} have no {what}")]
    NoFile {
        /// The kernel.
        kernel: String,
        /// What is missing.
        what: String,
    },
    /// A module is missing.
    #[error("the kernel's module {name} is neither built in nor in its packages")]
    NoModule {
        /// The module.
        name: String,
    },
    /// A module cannot be read.
    #[error("{path} is not a kernel module")]
    BadModule {
        /// Its file.
        path: String,
    },
    /// There is no QEMU for such guests.
    #[error(
        "there is no QEMU for guests of {architecture}: {installed}, and memgate has none for this kind of machine ({host})"
    )]
    NoEmulator {
        /// The guest's architecture.
        architecture: Architecture,
        /// What is wrong with the system's QEMU.
        installed: String,
        /// This machine's architecture.
        host: String,
    },
    /// memgate's own QEMU is not available.
    #[error("there is no QEMU for guests of {architecture}: {installed}, and memgate cannot make its own: {why}")]
    Emulator {
        /// The guest's architecture.
        architecture: Architecture,
        /// What is wrong with the system's QEMU.
        installed: String,
        /// Why memgate's own is not available.
        why: Box<ImageError>,
    },
    /// The contents of Debian's QEMU packages do not work.
    #[error("the packages of QEMU cannot be used: {why}")]
    BadEmulator {
        /// What is wrong with it.
        why: String,
    },
    /// There is no directory for the cache.
    #[error("there is no directory for memgate's cache: neither MEMGATE_CACHE nor HOME is set")]
    NoCache,
    /// The directory may have been given by mistake.
    #[error("{directory} does not look like memgate's cache, so nothing in it is removed")]
    NotACache {
        /// The directory.
        directory: String,
    },
    /// Another user could decide what memgate starts.
    #[error("{path} is not safe to use: {why}")]
    NotOurs {
        /// The file or directory of the cache.
        path: String,
        /// Who else can change it.
        why: String,
    },
    /// The file system refuses.
    #[error("cannot {what}: {source}")]
    Io {
        /// The operation.
        what: String,
        /// The system's error.
        source: io::Error,
    },
}

impl ImageError {
    /// The message.
    pub fn message(&self) -> String {
        self.to_string()
    }

    /// What the user can do.
    pub fn help(&self) -> String {
        match self {
            Self::Debian(error) => error.help(),
            Self::BadAgent { .. } => "give a static build of memgate for the guest's architecture".into(),
            Self::NotLocked { .. } | Self::NoShell { .. } | Self::OtherRelease { .. } => "update memgate".into(),
            Self::BadLock { .. } => "write it again with `memgate image lock`".into(),
            Self::NoFile { .. } | Self::NoModule { .. } | Self::BadModule { .. } | Self::BadEmulator { .. } => {
                "update memgate: Debian has changed the contents of its packages".into()
            }
            Self::NoEmulator { architecture, .. } => {
                format!("install QEMU {OLDEST} or later, so that `{}` is on the PATH", architecture.emulator())
            }
            Self::Emulator { architecture, why, .. } => {
                let program = architecture.emulator();
                format!("{}; or install QEMU {OLDEST} or later, so that `{program}` is on the PATH", why.help())
            }
            Self::NoCache => "name a directory in MEMGATE_CACHE".into(),
            Self::NotACache { .. } => {
                "name memgate's cache directory in MEMGATE_CACHE, or remove the directory yourself".into()
            }
            Self::NotOurs { .. } => {
                "name another cache directory in MEMGATE_CACHE, or remove this one: its files must belong to this user \
                 or to root, and no other user may write them"
                    .into()
            }
            Self::Io { source, .. } => io_help(source),
        }
    }

    /// Whether nothing failed, and the user or the CI system wants memgate to end.
    pub fn is_interruption(&self) -> bool {
        match self {
            Self::Debian(DebianError::Interrupted) => true,
            Self::Emulator { why, .. } => why.is_interruption(),
            _ => false,
        }
    }

    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self::Io { what: what.into(), source }
    }
}
