//! The machine on which a run is measured.

use std::fs;

use memgate_evidence::{Environment, platform::Runner};
use memgate_goexe::GoExe;
use nix::unistd::{SysconfVar, sysconf};
use sysinfo::{CpuRefreshKind, RefreshKind, System};

/// Describes this machine and the executable.
pub(super) fn describe(exe: &GoExe) -> Environment {
    let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
    let brand = system.ok().and_then(|system| system.cpus().first().map(|cpu| cpu.brand().trim().to_owned()));
    let cpu = brand.filter(|brand| !brand.is_empty());
    Environment {
        go: exe.version().to_owned(),
        kernel: System::kernel_version().unwrap_or_else(|_| "unknown".to_owned()),
        page_size: page_size(),
        thp: transparent_huge_pages(),
        cpu: cpu.unwrap_or_else(|| "unknown".to_owned()),
        cpus: std::thread::available_parallelism().ok().and_then(|cpus| u32::try_from(cpus.get()).ok()).unwrap_or(1),
        runner: Runner::Native,
        memgate: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// The page size, bytes.
pub(super) fn page_size() -> u64 {
    sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| u64::try_from(size).ok()).unwrap_or(4096)
}

fn transparent_huge_pages() -> String {
    let text = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    chosen(&text).unwrap_or("unknown").to_owned()
}

/// `madvise` from `always [madvise] never`.
fn chosen(text: &str) -> Option<&str> {
    text.split_once('[')?.1.split_once(']').map(|(chosen, _)| chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_mode_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n"), Some("madvise"));
        assert_eq!(chosen("unknown"), None);
    }
}
