//! Makes and parses the names of the files that a run writes. No other code does.
//!
//! `SERVICE.OS-ARCH.runN.KIND`, such as `uaa.linux-amd64.run1.evidence.json` and `uaa.linux-amd64.run1.service.log`.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use memgate_evidence::platform::Platform;

/// The end of every evidence file's name.
pub const EVIDENCE: &str = ".evidence.json";

/// The directory beside a command's evidence that has the evidence of the build it is compared with.
pub const AGAINST: &str = "against";

/// The files of one run in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunFiles {
    directory: PathBuf,
    /// `uaa.linux-amd64.run1`.
    stem: String,
}

impl RunFiles {
    /// The files of this run of a service on a platform.
    pub fn of(directory: &Path, service: &str, platform: Platform, run: u32) -> Self {
        Self { directory: directory.to_path_buf(), stem: format!("{}{run}", prefix(service, platform)) }
    }

    /// The evidence file.
    pub fn evidence(&self) -> PathBuf {
        self.directory.join(format!("{}{EVIDENCE}", self.stem))
    }

    /// The log of this kind: `service`, `load` or `console`.
    pub fn log(&self, kind: &str) -> PathBuf {
        self.directory.join(format!("{}.{kind}.log", self.stem))
    }

    /// Whether a file with this name belongs to this run.
    pub fn has(&self, name: &str) -> bool {
        name.strip_prefix(&self.stem).is_some_and(|rest| rest.starts_with('.'))
    }

    /// Whether a file with this name belongs to some run of the service on the platform.
    pub fn are_of(name: &str, service: &str, platform: Platform) -> bool {
        name.starts_with(&prefix(service, platform))
    }
}

fn prefix(service: &str, platform: Platform) -> String {
    format!("{}.run", stem(service, platform))
}

/// The start of all file names of one service on one platform, such as `uaa.linux-amd64`.
///
/// Different arguments give different names. Letters, digits, `-`, `_` and `.` stay as they are, except for a leading
/// `.`. Every other byte of the service's name becomes `%` and two hexadecimal digits. So the name is one path
/// component.
pub fn stem(service: &str, platform: Platform) -> String {
    let mut name = String::new();
    for (index, character) in service.char_indices() {
        let plain = character.is_alphanumeric() || "-_.".contains(character);
        if plain && !(index == 0 && character == '.') {
            name.push(character);
        } else {
            for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                // Writing to a string cannot fail.
                let _ = write!(name, "%{byte:02X}");
            }
        }
    }
    name + "." + platform.folder()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(service: &str, platform: Platform, run: u32) -> String {
        RunFiles::of(Path::new("d"), service, platform, run).evidence().display().to_string()
    }

    #[test]
    fn names_are_one_path_component_and_differ() {
        assert_eq!(evidence("uaa", Platform::LinuxAmd64, 1), "d/uaa.linux-amd64.run1.evidence.json");
        assert_eq!(evidence("认证", Platform::LinuxLoong64, 12), "d/认证.linux-loong64.run12.evidence.json");
        assert_eq!(evidence("../a b%", Platform::LinuxArm64, 1), "d/%2E.%2Fa%20b%25.linux-arm64.run1.evidence.json");
    }

    #[test]
    fn the_files_of_a_run_are_known_by_their_names() {
        let files = RunFiles::of(Path::new("d"), "uaa", Platform::LinuxAmd64, 2);
        assert_eq!(files.log("service"), Path::new("d/uaa.linux-amd64.run2.service.log"));
        assert!(files.has("uaa.linux-amd64.run2.service.log") && !files.has("uaa.linux-amd64.run21.service.log"));
        let is = |name: &str| RunFiles::are_of(name, "uaa", Platform::LinuxAmd64);
        assert!(is("uaa.linux-amd64.run2.service.log") && is("uaa.linux-amd64.run12.evidence.json"));
        assert!(
            !is("uaa.linux-arm64.run1.evidence.json") && !is("uaa-2.linux-amd64.run1.load.log") && !is("report.json")
        );
    }
}
