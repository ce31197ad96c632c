//! Checks what a run needs of the machine, before anything is built or started.

use memgate_evidence::{
    error::{FailureKind, Result, Stage},
    platform::{Platform, Runner},
    tier::Tier,
};

/// What a run lacks on this machine.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum PreflightError {
    /// The platform is another machine's.
    #[error("{platform} is not this machine's platform and cannot run natively")]
    #[diagnostic(help(
        "run memgate on a machine of that platform, or leave the runner out: memgate then starts a guest"
    ))]
    NotNative {
        /// The platform.
        platform: Platform,
    },
    /// What memgate may do is not known.
    #[error("/proc/self/status cannot be read")]
    #[diagnostic(help("mount procfs at /proc"))]
    Status(#[source] procfs::ProcError),
    /// memgate may not do what the collectors need.
    #[error("memgate lacks {}, which BPF probes on a service need", .0.join(", "))]
    #[diagnostic(help(
        "run memgate as root (in a container: privileged), or with `--tier T0`, which does without BPF"
    ))]
    Capabilities(Vec<&'static str>),
}

impl FailureKind for PreflightError {
    fn stage(&self) -> Stage {
        Stage::Preflight
    }
}

/// Capabilities that the collectors need, by number (include/uapi/linux/capability.h, Linux 6.18).
const CAPABILITIES: [(u32, &str); 4] =
    [(38, "CAP_PERFMON"), (39, "CAP_BPF"), (19, "CAP_SYS_PTRACE"), (21, "CAP_SYS_ADMIN")];

/// Where to measure `platform`: natively on a machine of that platform and in a guest otherwise, unless `runner`
/// overrides it.
///
/// # Errors
/// When a platform that is not this machine's is to run natively.
pub fn place(platform: Platform, runner: Option<Runner>) -> Result<Runner> {
    let is_host = platform == Platform::host();
    match runner.unwrap_or(if is_host { Runner::Native } else { Runner::Qemu }) {
        Runner::Native if !is_host => Err(PreflightError::NotNative { platform }.into()),
        runner @ (Runner::Native | Runner::Qemu) => Ok(runner),
    }
}

/// Checks that this machine can run the collectors of this tier, or of any tier if none is given. Tier T0 needs no
/// capability, because the service is memgate's own child.
///
/// # Errors
/// When a capability is missing.
pub fn collectors(tier: Option<Tier>) -> Result<()> {
    if tier == Some(Tier::T0) {
        return Ok(());
    }
    let status = procfs::process::Process::myself().and_then(|process| process.status());
    let missing = missing_capabilities(status.map_err(PreflightError::Status)?.capeff);
    if missing.is_empty() { Ok(()) } else { Err(PreflightError::Capabilities(missing).into()) }
}

fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    CAPABILITIES.into_iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_platform_runs_in_a_guest_and_not_natively() {
        let other = Platform::ALL.into_iter().find(|platform| *platform != Platform::host()).unwrap();
        assert_eq!(place(other, None).unwrap(), Runner::Qemu);
        assert_eq!(place(Platform::host(), None).unwrap(), Runner::Native);
        assert_eq!(place(Platform::host(), Some(Runner::Qemu)).unwrap(), Runner::Qemu);
        let error = place(other, Some(Runner::Native)).unwrap_err();
        assert!(error.to_string().contains(other.name()) && error.exit_code() == 4, "{error}");
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing_capabilities(0), ["CAP_PERFMON", "CAP_BPF", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]);
        assert_eq!(missing_capabilities(!(1 << 39)), ["CAP_BPF"]);
        assert!(missing_capabilities(u64::MAX).is_empty());
    }
}
