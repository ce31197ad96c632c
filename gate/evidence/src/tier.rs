//! The tiers of collectors that kernels allow.

use serde::{Deserialize, Serialize};

/// A tier of collectors. Each includes the tiers below it; docs/reference/tiers.md says what each provides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Tier {
    /// Access to the process's memory only: counters and procfs.
    T0,
    /// BPF, Linux 4.19: probes with records in perf event arrays.
    T1,
    /// Linux 5.8: ring buffer.
    T2,
    /// Linux 5.15: cookies.
    T3,
    /// Linux 6.10: one link for many probes of one process (uprobe_multi).
    T4,
}

impl Tier {
    /// Every tier, lowest first.
    pub const ALL: [Self; 5] = [Self::T0, Self::T1, Self::T2, Self::T3, Self::T4];

    /// `T0` to `T4`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::T0 => "T0",
            Self::T1 => "T1",
            Self::T2 => "T2",
            Self::T3 => "T3",
            Self::T4 => "T4",
        }
    }
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
