//! What the kernel lets memgate use, found by trying.

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{is_helper_supported, is_map_supported, is_program_supported},
};
use memgate_evidence::{error::in_full, tier::Tier};

/// The highest tier that works here, and why no higher one does.
pub fn probe() -> (Tier, Option<String>) {
    match is_program_supported(ProgramType::KProbe) {
        Ok(true) => {}
        Ok(false) => return (Tier::T0, Some("the kernel has no BPF programs for probes".to_owned())),
        Err(error) => return (Tier::T0, Some(format!("BPF cannot be used: {}", in_full(&error)))),
    }
    match is_map_supported(MapType::RingBuf) {
        Ok(true) => {}
        _ => return (Tier::T1, Some("the kernel has no BPF ring buffer (Linux 5.8)".to_owned())),
    }
    match is_helper_supported(ProgramType::KProbe, aya::sys::BpfHelper::BPF_FUNC_get_attach_cookie) {
        Ok(true) => {}
        _ => return (Tier::T2, Some("the kernel has no cookies for probes (Linux 5.15)".to_owned())),
    }
    if super::multi::is_supported() {
        (Tier::T4, None)
    } else {
        (Tier::T3, Some("the kernel has no links for many probes of one process (Linux 6.10)".to_owned()))
    }
}
