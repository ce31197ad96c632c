//! Which of QEMU's architectures each platform's guests have.

use memgate_evidence::platform::Platform;
use memgate_qemu::architecture::Architecture;

/// The architecture of the platform's guests.
pub const fn architecture(platform: Platform) -> Architecture {
    match platform {
        Platform::LinuxAmd64 => Architecture::Amd64,
        Platform::LinuxArm64 => Architecture::Arm64,
        Platform::LinuxLoong64 => Architecture::Loong64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_platform_has_the_architecture_of_its_name() {
        for platform in Platform::ALL {
            assert_eq!(architecture(platform).name(), platform.goarch());
        }
    }
}
