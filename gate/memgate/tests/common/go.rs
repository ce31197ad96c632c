//! Programs built by each version of Go that `cargo xtask` installs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use memgate_evidence::platform::Platform;
use tempfile::TempDir;

/// A Go distribution in `.tools`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Toolchain {
    /// The minor version, such as 27 for Go 1.27.3.
    pub minor: u32,
    /// The full version, such as `go1.27.3`.
    pub version: String,
    root: PathBuf,
}

/// The versions of Go that memgate supports.
const VERSIONS: [u32; 7] = [21, 22, 23, 24, 25, 26, 27];

/// One distribution of each version, oldest first.
pub fn toolchains() -> Vec<Toolchain> {
    let tools = super::repository().join(".tools");
    let names = fs::read_dir(&tools).into_iter().flatten().flatten();
    let mut found: Vec<_> = names
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.strip_prefix("go-")?.to_owned();
            let minor = version.split('.').nth(1)?.parse().ok()?;
            Some(Toolchain { minor, version: format!("go{version}"), root: entry.path() })
        })
        .collect();
    found.sort();
    let minors: Vec<_> = found.iter().map(|toolchain| toolchain.minor).collect();
    assert_eq!(minors, VERSIONS, "one Go of each version in {}: run `cargo xtask setup`", tools.display());
    found
}

/// How a program is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Plain,
    PositionIndependent,
    /// With C code, for the host.
    Cgo,
}

/// Whether Go itself can link this, without a C toolchain for another architecture; see `internalLinkPIE`,
/// src/internal/platform/supported.go.
pub fn links(toolchain: &Toolchain, platform: Platform, mode: Mode) -> bool {
    match mode {
        Mode::Plain => true,
        Mode::PositionIndependent => platform != Platform::LinuxLoong64 || toolchain.minor >= 25,
        Mode::Cgo => platform == Platform::host(),
    }
}

/// A module with one program, and the executables built from it.
pub struct Program {
    directory: TempDir,
}

/// One build at a time: each uses all processors, and the next one uses what the last left in Go's cache.
static BUILDING: Mutex<()> = Mutex::new(());

impl Program {
    /// A program with this source.
    pub fn new(source: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let write =
            |name: &str, text: &str| fs::write(directory.path().join(name), text).expect("a writable directory");
        write("go.mod", "module program\n\ngo 1.21\n");
        write("main.go", source);
        Self { directory }
    }

    /// Builds it with these flags for the linker.
    pub fn build(&self, toolchain: &Toolchain, platform: Platform, mode: Mode, ldflags: &str) -> PathBuf {
        let name = format!("{}-{}-{mode:?}-{ldflags}", toolchain.version, platform.goarch()).replace([' ', '='], "_");
        let executable = self.directory.path().join(name);
        let flags = ["-ldflags", ldflags, mode.flag(), "."];
        toolchain.build(self.directory.path(), &flags, platform, mode == Mode::Cgo, &executable);
        executable
    }
}

impl Mode {
    /// Arguments for `go build`.
    pub const fn flag(self) -> &'static str {
        match self {
            Self::PositionIndependent => "-buildmode=pie",
            Self::Plain | Self::Cgo => "-buildmode=exe",
        }
    }
}

impl Toolchain {
    /// Runs `go build` with these flags in this directory.
    pub fn build(&self, directory: &Path, flags: &[&str], platform: Platform, cgo: bool, executable: &Path) {
        let _alone = BUILDING.lock();
        let output = Command::new(self.root.join("bin/go"))
            .args([Path::new("build"), Path::new("-o"), executable])
            .args(flags)
            .current_dir(directory)
            .env("GOROOT", &self.root)
            .env("GOTOOLCHAIN", "local")
            .env("GOFLAGS", "-buildvcs=false")
            .env("GOARCH", platform.goarch())
            .env("CGO_ENABLED", if cgo { "1" } else { "0" })
            .output()
            .expect("Go starts");
        assert!(output.status.success(), "{}: {}", executable.display(), String::from_utf8_lossy(&output.stderr));
    }
}
