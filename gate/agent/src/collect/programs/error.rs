//! What goes wrong with BPF programs, with the kernel's reason.

use std::error::Error;

use memgate_evidence::error::{FailureKind, Stage, in_full};
use miette::Diagnostic;

/// A failure of the BPF programs.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub(in crate::collect) enum ProgramError {
    /// The object does not fit memgate: it was built from other sources.
    #[error("the BPF object {0}")]
    #[diagnostic(help("rebuild it with `cargo xtask ebpf`"))]
    Object(String),
    /// The kernel refuses to load or attach something.
    #[error("{what}")]
    #[diagnostic(help(
        "run as root (or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE) on a kernel with BPF and uprobes, or ask for `--tier T0`"
    ))]
    Refused {
        /// What it refuses.
        what: String,
        /// Its reason.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The kernel fails at what it has allowed before.
    #[error("{what}")]
    #[diagnostic(help("please report this with the kernel's version and the output above"))]
    Unexpected {
        /// What it fails at.
        what: String,
        /// Its reason.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The PID namespace is unknown.
    #[error("/proc/self/ns/pid cannot be read")]
    #[diagnostic(help("mount procfs at /proc"))]
    Namespace(#[source] nix::Error),
}

impl ProgramError {
    pub(in crate::collect) fn refused(
        what: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Refused { what: what.into(), source: source.into() }
    }

    pub(in crate::collect) fn unexpected(
        what: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self::Unexpected { what: what.into(), source: source.into() }
    }

    /// The failure with its causes, and with them the verifier's log: evidence keeps reasons as text.
    pub(in crate::collect) fn reason(&self) -> String {
        in_full(self)
    }
}

impl FailureKind for ProgramError {
    fn stage(&self) -> Stage {
        Stage::Collect
    }
}

/// A program that the kernel does not load.
#[derive(Debug, thiserror::Error)]
#[error("the kernel does not load the program `{program}`: {source}. The verifier says: {log}")]
pub(super) struct LoadError {
    pub(super) program: String,
    pub(super) source: std::io::Error,
    /// What the verifier says; empty if it was not asked.
    pub(super) log: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_log_and_the_causes_are_kept() {
        let source = std::io::Error::from_raw_os_error(13);
        let load = LoadError { program: "pause".to_owned(), source, log: "R1 invalid mem access 'scalar'".to_owned() };
        let error = ProgramError::refused("the probes `pause`", load);
        let message = error.reason();
        assert!(message.starts_with("the probes `pause`: the kernel does not load the program `pause`: "), "{message}");
        assert!(message.contains("R1 invalid mem access 'scalar'"), "{message}");
        let load = error.source().unwrap().downcast_ref::<LoadError>().unwrap();
        let system = load.source().unwrap().downcast_ref::<std::io::Error>().unwrap();
        assert_eq!(system.raw_os_error(), Some(13));
    }
}
