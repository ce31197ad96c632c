//! Programs built by each version of Go that `cargo xtask` installs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use memgate_evidence::platform::Platform;
use memgate_testing::go::Toolchain;
use tempfile::TempDir;

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
        build(toolchain, self.directory.path(), &flags, platform, mode == Mode::Cgo, &executable);
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

/// Runs `go build` with these flags in this directory.
pub fn build(
    toolchain: &Toolchain,
    directory: &Path,
    flags: &[&str],
    platform: Platform,
    cgo: bool,
    executable: &Path,
) {
    let _alone = BUILDING.lock();
    let output = Command::new(toolchain.go())
        .args([Path::new("build"), Path::new("-o"), executable])
        .args(flags)
        .current_dir(directory)
        .env("GOROOT", &toolchain.root)
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-buildvcs=false")
        .env("GOARCH", platform.goarch())
        .env("CGO_ENABLED", if cgo { "1" } else { "0" })
        .output()
        .expect("Go starts");
    assert!(output.status.success(), "{}: {}", executable.display(), String::from_utf8_lossy(&output.stderr));
}
