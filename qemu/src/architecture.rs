//! The architectures that guests are made for, and what each means for QEMU and for Debian.

use serde::{Deserialize, Serialize};

/// An architecture, as Go and Debian name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// x86-64.
    Amd64,
    /// AArch64.
    Arm64,
    /// 64-bit LoongArch, new-world ABI.
    Loong64,
}

impl Architecture {
    /// Every architecture.
    pub const ALL: [Self; 3] = [Self::Amd64, Self::Arm64, Self::Loong64];

    /// `amd64`, `arm64` or `loong64`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
            Self::Loong64 => "loong64",
        }
    }

    /// QEMU's program for it.
    pub const fn emulator(self) -> &'static str {
        match self {
            Self::Amd64 => "qemu-system-x86_64",
            Self::Arm64 => "qemu-system-aarch64",
            Self::Loong64 => "qemu-system-loongarch64",
        }
    }

    /// The machine and what it needs beside `-nodefaults`.
    pub(crate) const fn machine(self) -> &'static [&'static str] {
        match self {
            Self::Amd64 => &["-machine", "q35", "-cpu", "max"],
            // The architected algorithm of pointer authentication takes most of the time under TCG.
            Self::Arm64 => &["-machine", "virt", "-cpu", "max,pauth-impdef=on"],
            Self::Loong64 => &["-machine", "virt", "-cpu", "max"],
        }
    }

    /// The kernel's name of the first serial port.
    pub(crate) const fn console(self) -> &'static str {
        match self {
            Self::Arm64 => "ttyAMA0",
            Self::Amd64 | Self::Loong64 => "ttyS0",
        }
    }
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
