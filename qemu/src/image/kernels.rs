//! The kernels of guests.

use crate::architecture::Architecture;

/// A kernel of guests: a Debian package and the facts that are known in advance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// Its architecture.
    pub architecture: Architecture,
    /// Its release without the last number: `6.12`.
    pub release: &'static str,
    /// The page size, bytes.
    pub page_size: u64,
    /// The suite of Debian that has it, by its codename.
    pub suite: &'static str,
    /// The package that depends on the newest kernel of its kind.
    pub package: &'static str,
    /// The firmware that starts it, if QEMU cannot do so itself.
    pub firmware: Option<Firmware>,
    /// Whether guests of its architecture run it by default.
    pub is_default: bool,
}

/// The firmware that starts a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Firmware {
    /// The package with the firmware, in the kernel's own suite.
    pub package: &'static str,
    /// Its file in that package.
    pub file: &'static str,
}

const KIB: u64 = 1 << 10;

/// A kernel with pages of 4 KiB that QEMU starts itself.
const fn plain(
    architecture: Architecture,
    release: &'static str,
    suite: &'static str,
    package: &'static str,
) -> Kernel {
    Kernel { architecture, release, page_size: 4 * KIB, suite, package, firmware: None, is_default: false }
}

/// Every kernel. For each architecture they go from the newest to the oldest and from the smallest pages to the
/// largest. The default ones are small downloads, because since Linux 7 Debian packages the image without the modules.
pub const KERNELS: &[Kernel] = &[
    Kernel { is_default: true, ..plain(Architecture::Amd64, "7.2", "forky", "linux-image-cloud-amd64") },
    plain(Architecture::Amd64, "6.12", "trixie", "linux-image-cloud-amd64"),
    plain(Architecture::Amd64, "5.10", "bullseye", "linux-image-cloud-amd64"),
    Kernel { is_default: true, ..plain(Architecture::Arm64, "7.2", "forky", "linux-image-cloud-arm64") },
    plain(Architecture::Arm64, "6.12", "trixie", "linux-image-cloud-arm64"),
    plain(Architecture::Arm64, "6.1", "bookworm", "linux-image-cloud-arm64"),
    plain(Architecture::Arm64, "5.10", "bullseye", "linux-image-cloud-arm64"),
    Kernel { page_size: 16 * KIB, ..plain(Architecture::Arm64, "7.2", "forky", "linux-image-arm64-16k") },
    Kernel {
        page_size: 16 * KIB,
        firmware: Some(Firmware {
            package: "qemu-efi-loongarch64",
            file: "usr/share/qemu-efi-loongarch64/QEMU_EFI.fd",
        }),
        is_default: true,
        ..plain(Architecture::Loong64, "7.2", "forky", "linux-image-loong64")
    },
];

impl Kernel {
    /// `arm64-6.12`, or `arm64-7.2-16k` if the page size differs from that of the architecture's default kernel.
    pub fn name(&self) -> String {
        let usual = default(self.architecture).map(|kernel| kernel.page_size);
        let pages = if usual == Some(self.page_size) { String::new() } else { format!("-{}k", self.page_size / KIB) };
        format!("{}-{}{pages}", self.architecture, self.release)
    }
}

fn default(architecture: Architecture) -> Option<&'static Kernel> {
    KERNELS.iter().find(|kernel| kernel.architecture == architecture && kernel.is_default)
}

/// The kernel of an architecture with this release and this page size in bytes. A missing argument is taken from the
/// architecture's default kernel if such a kernel exists, and otherwise from the newest one with the smallest pages.
///
/// # Errors
/// When there is none. The error lists the available kernels.
pub fn find(
    architecture: Architecture,
    release: Option<&str>,
    page_size: Option<u64>,
) -> Result<&'static Kernel, String> {
    let of_architecture = || KERNELS.iter().filter(move |kernel| kernel.architecture == architecture);
    let mut fitting: Vec<_> = of_architecture()
        .filter(|kernel| release.is_none_or(|release| kernel.release == release))
        .filter(|kernel| page_size.is_none_or(|page_size| kernel.page_size == page_size))
        .collect();
    // The sort is stable, so the others keep their order.
    fitting.sort_by_key(|kernel| !kernel.is_default);
    fitting.first().copied().ok_or_else(|| {
        let release = release.map_or_else(String::new, |release| format!(" {release}"));
        let pages = page_size.map_or_else(String::new, |page_size| format!(" with pages of {page_size} bytes"));
        let known: Vec<_> = of_architecture()
            .map(|kernel| format!("{} ({} KiB pages)", kernel.release, kernel.page_size / KIB))
            .collect();
        format!("there is no guest kernel{release}{pages} for {architecture}; there are {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn name(architecture: Architecture, release: Option<&str>, page_size: Option<u64>) -> Result<String, String> {
        find(architecture, release, page_size).map(Kernel::name)
    }

    #[test]
    fn each_architecture_has_one_default() {
        for architecture in Architecture::ALL {
            let defaults = KERNELS.iter().filter(|kernel| kernel.architecture == architecture && kernel.is_default);
            assert_eq!(defaults.count(), 1, "{architecture}");
            assert!(find(architecture, None, None).unwrap().is_default);
        }
    }

    #[test]
    fn names_tell_kernels_apart() {
        let names: BTreeSet<_> = KERNELS.iter().map(Kernel::name).collect();
        assert_eq!(names.len(), KERNELS.len());
        assert!(["amd64-6.12", "arm64-5.10", "arm64-7.2-16k", "loong64-7.2"].iter().all(|name| names.contains(*name)));
    }

    #[test]
    fn what_is_not_asked_for_is_as_usual() {
        assert_eq!(name(Architecture::Arm64, Some("7.2"), None).unwrap(), "arm64-7.2");
        assert_eq!(name(Architecture::Arm64, None, Some(16384)).unwrap(), "arm64-7.2-16k");
        assert_eq!(name(Architecture::Arm64, Some("6.1"), Some(4096)).unwrap(), "arm64-6.1");
        assert_eq!(name(Architecture::Loong64, None, Some(16384)).unwrap(), "loong64-7.2");
    }

    #[test]
    fn what_there_is_not_is_answered_with_what_there_is() {
        assert_eq!(
            name(Architecture::Loong64, Some("6.12"), None).unwrap_err(),
            "there is no guest kernel 6.12 for loong64; there are 7.2 (16 KiB pages)"
        );
        let error = name(Architecture::Arm64, None, Some(65536)).unwrap_err();
        assert!(error.contains("with pages of 65536 bytes") && error.contains("6.12 (4 KiB pages)"), "{error}");
    }
}
