//! What a run needs of the machine, checked before anything is built or started.

use crate::{
    error::{Error, Result, Stage},
    platform::Platform,
};

/// Capabilities that the collectors need, by number (include/uapi/linux/capability.h, Linux 6.18).
const CAPABILITIES: [(u32, &str); 4] =
    [(38, "CAP_PERFMON"), (39, "CAP_BPF"), (19, "CAP_SYS_PTRACE"), (21, "CAP_SYS_ADMIN")];

/// Checks that `platform` can be measured here.
///
/// # Errors
/// When the platform is not the host's, or a capability is missing.
pub fn check(platform: Platform) -> Result<()> {
    if platform != Platform::host() {
        let message = format!("{platform} is not this machine's platform, and this version of memgate runs no guests");
        return Err(Error::infrastructure(Stage::Preflight, message, "run memgate on a machine of that platform"));
    }
    let status = procfs::process::Process::myself().and_then(|process| process.status()).map_err(|error| {
        Error::infrastructure(Stage::Preflight, format!("/proc/self/status: {error}"), "mount procfs at /proc")
    })?;
    let missing = missing_capabilities(status.capeff);
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("memgate lacks {}, which BPF probes on a service need", missing.join(", "));
    Err(Error::infrastructure(Stage::Preflight, message, "run memgate as root (in a container: privileged)"))
}

fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    CAPABILITIES.into_iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing_capabilities(0), ["CAP_PERFMON", "CAP_BPF", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]);
        assert_eq!(missing_capabilities(!(1 << 39)), ["CAP_BPF"]);
        assert!(missing_capabilities(u64::MAX).is_empty());
    }
}
