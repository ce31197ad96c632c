//! The platforms that memgate supports.

use serde::{Deserialize, Serialize};

/// A platform as Go names it: `GOOS/GOARCH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
pub enum Platform {
    /// x86-64.
    #[serde(rename = "linux/amd64")]
    LinuxAmd64,
    /// AArch64.
    #[serde(rename = "linux/arm64")]
    LinuxArm64,
    /// 64-bit LoongArch, new-world ABI.
    #[serde(rename = "linux/loong64")]
    LinuxLoong64,
}

impl Platform {
    /// Every platform, in the order in which reports list them.
    pub const ALL: [Self; 3] = [Self::LinuxAmd64, Self::LinuxArm64, Self::LinuxLoong64];

    /// The platform that this executable was built for, which is that of the host.
    pub const fn host() -> Self {
        if cfg!(target_arch = "x86_64") {
            Self::LinuxAmd64
        } else if cfg!(target_arch = "aarch64") {
            Self::LinuxArm64
        } else {
            Self::LinuxLoong64
        }
    }

    /// `linux/amd64`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LinuxAmd64 => "linux/amd64",
            Self::LinuxArm64 => "linux/arm64",
            Self::LinuxLoong64 => "linux/loong64",
        }
    }

    /// The name of the platform's folder under `baselines/`, such as `linux-amd64`.
    pub const fn folder(self) -> &'static str {
        match self {
            Self::LinuxAmd64 => "linux-amd64",
            Self::LinuxArm64 => "linux-arm64",
            Self::LinuxLoong64 => "linux-loong64",
        }
    }

    /// The value of `GOARCH`.
    pub fn goarch(self) -> &'static str {
        &self.name()["linux/".len()..]
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|platform| platform.name() == text)
            .ok_or_else(|| format!("`{text}` is not a platform; expected linux/amd64, linux/arm64 or linux/loong64"))
    }
}

/// Where the agent and the service run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Runner {
    /// On this machine.
    Native,
    /// In a QEMU guest.
    Qemu,
}

impl Runner {
    /// Both runners, in the order in which messages list them.
    pub const ALL: [Self; 2] = [Self::Native, Self::Qemu];

    /// `native` or `qemu`, as in evidence and baselines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Qemu => "qemu",
        }
    }
}

impl std::fmt::Display for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
