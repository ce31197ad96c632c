//! Metrics and baseline in, verdict out. Pure: touches no process, clock, file or network.

mod against_baseline;
mod against_limit;
mod figures;
mod fit;
mod gate;
mod ruling;
mod service;
#[cfg(test)]
mod tests;

pub use ruling::worst;
use serde::{Deserialize, Serialize};
pub use service::{judge, needs_confirmation};

/// The verdict of a gate, of a service or of a whole run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The gate holds.
    Pass,
    /// The gate holds, and the figure is better than the baseline by more than noise.
    Improved,
    /// The figure is beyond the gate, and the gate is only advisory.
    Advisory,
    /// There is neither a limit nor a baseline to hold the figure against. Not a pass.
    NoBaseline,
    /// The evidence does not suffice. Not a pass.
    Inconclusive,
    /// The gate fails.
    Regressed,
}

impl Verdict {
    /// The process exit code: 0, 1 or 3.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Pass | Self::Improved | Self::Advisory => 0,
            Self::NoBaseline | Self::Inconclusive => 3,
            Self::Regressed => 1,
        }
    }
}
