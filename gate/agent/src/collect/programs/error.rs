//! What goes wrong with BPF programs, with the kernel's reason.

use std::error::Error;

/// A failure of the BPF programs.
///
/// The message holds the whole chain of causes, and with it the verifier's log: the evidence keeps reasons as text.
#[derive(Debug, thiserror::Error)]
pub(in crate::collect) enum ProgramError {
    /// The object does not fit memgate: it was built from other sources.
    #[error("the BPF object {0}")]
    Object(String),
    /// The kernel refuses to load or attach something.
    #[error("{what}: {}", chain(source.as_ref()))]
    Refused {
        /// What it refuses.
        what: String,
        /// Its reason.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The kernel fails at what it has allowed before.
    #[error("{what}: {}", chain(source.as_ref()))]
    Unexpected {
        /// What it fails at.
        what: String,
        /// Its reason.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The PID namespace is unknown.
    #[error("/proc/self/ns/pid: {0}")]
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

    /// What the user can do about it.
    pub(super) const fn help(&self) -> &'static str {
        match self {
            Self::Object(_) => "rebuild it with `cargo xtask ebpf`",
            Self::Refused { .. } => {
                "run as root (or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE) on a kernel with BPF and uprobes, or ask for `--tier T0`"
            }
            Self::Unexpected { .. } => "please report this with the kernel's version and the output above",
            Self::Namespace(_) => "mount procfs at /proc",
        }
    }
}

/// A program that the kernel does not load.
#[derive(Debug, thiserror::Error)]
#[error("the kernel does not load the program `{program}`: {source}. Verifier output: {log}")]
pub(super) struct LoadError {
    pub(super) program: String,
    pub(super) source: std::io::Error,
    /// What the verifier says; empty if it was not asked.
    pub(super) log: String,
}

/// The error with what caused it: aya keeps the kernel's reason in the cause.
pub(super) fn chain(error: &dyn Error) -> String {
    std::iter::successors(Some(error), |error| (*error).source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_log_and_the_causes_are_kept() {
        let source = std::io::Error::from_raw_os_error(13);
        let load = LoadError { program: "pause".to_owned(), source, log: "R1 invalid mem access 'scalar'".to_owned() };
        let error = ProgramError::refused("the probes `pause`", load);
        let message = error.to_string();
        assert!(message.starts_with("the probes `pause`: the kernel does not load the program `pause`: "), "{message}");
        assert!(message.contains("R1 invalid mem access 'scalar'"), "{message}");
        let load = error.source().unwrap().downcast_ref::<LoadError>().unwrap();
        let system = load.source().unwrap().downcast_ref::<std::io::Error>().unwrap();
        assert_eq!(system.raw_os_error(), Some(13));
    }
}
