//! What a run needs of the machine, checked before anything is built or started.

use crate::{
    config::Runner,
    error::{Error, Result, Stage},
    platform::Platform,
    tier::Tier,
};

/// Capabilities that the collectors need, by number (include/uapi/linux/capability.h, Linux 6.18).
const CAPABILITIES: [(u32, &str); 4] =
    [(38, "CAP_PERFMON"), (39, "CAP_BPF"), (19, "CAP_SYS_PTRACE"), (21, "CAP_SYS_ADMIN")];

/// Checks that `platform` can be measured here with the collectors of this tier, or of any. Without a `runner`, the host's
/// platform runs natively and others in a guest. Tier T0 needs no capability: the service is memgate's own child.
///
/// # Errors
/// When the platform needs a guest or is not the host's, or a capability is missing.
pub fn check(platform: Platform, runner: Option<Runner>, tier: Option<Tier>) -> Result<()> {
    let is_host = platform == Platform::host();
    let problem = match runner.unwrap_or(if is_host { Runner::Native } else { Runner::Qemu }) {
        Runner::Native if is_host => None,
        Runner::Native => Some("is not this machine's platform and cannot run natively"),
        Runner::Qemu => Some("needs a guest here, and this version of memgate runs no guests"),
    };
    if let Some(problem) = problem {
        let message = format!("{platform} {problem}");
        return Err(Error::infrastructure(Stage::Preflight, message, "run memgate on a machine of that platform"));
    }
    if tier == Some(Tier::T0) {
        return Ok(());
    }
    let status = procfs::process::Process::myself().and_then(|process| process.status()).map_err(|error| {
        Error::infrastructure(Stage::Preflight, format!("/proc/self/status: {error}"), "mount procfs at /proc")
    })?;
    let missing = missing_capabilities(status.capeff);
    if missing.is_empty() {
        return Ok(());
    }
    let message = format!("memgate lacks {}, which BPF probes on a service need", missing.join(", "));
    Err(Error::infrastructure(
        Stage::Preflight,
        message,
        "run memgate as root (in a container: privileged), or with `--tier T0`, which does without BPF",
    ))
}

fn missing_capabilities(effective: u64) -> Vec<&'static str> {
    CAPABILITIES.into_iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_refused_until_there_are_guests() {
        let guest = Platform::ALL.into_iter().find(|platform| *platform != Platform::host()).unwrap();
        for (platform, runner) in [(guest, None), (guest, Some(Runner::Native)), (Platform::host(), Some(Runner::Qemu))]
        {
            let error = check(platform, runner, None).unwrap_err();
            assert!(error.to_string().contains(platform.name()) && error.exit_code() == 4, "{error}");
        }
    }

    #[test]
    fn missing_capabilities_are_named() {
        assert_eq!(missing_capabilities(0), ["CAP_PERFMON", "CAP_BPF", "CAP_SYS_PTRACE", "CAP_SYS_ADMIN"]);
        assert_eq!(missing_capabilities(!(1 << 39)), ["CAP_BPF"]);
        assert!(missing_capabilities(u64::MAX).is_empty());
    }
}
