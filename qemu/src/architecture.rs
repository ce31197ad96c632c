//! The architectures of guests, and their names in QEMU and Debian.

use serde::{Deserialize, Serialize};

/// An architecture, with the names that Go and Debian use.
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

    /// Its name in compiler targets.
    pub const fn compilers(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
            Self::Loong64 => "loongarch64",
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
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Architecture {
    type Err = String;

    /// Reads [`Architecture::name`].
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|architecture| architecture.name() == name);
        known.ok_or_else(|| format!("guests are not made for `{name}`"))
    }
}
