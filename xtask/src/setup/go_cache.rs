//! Go's build cache, filled with the parts of the standard library that tests build with, so that no test waits for their
//! compilation.
//!
//! The list follows the tests: `Program` in `gate/goexe/src/pclntab/tests.rs` and `gate/memgate/tests/common/go.rs`, and the
//! services of `fixtures-go` in `real_…`. A test that builds something else compiles it itself, once.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use miette::{Context, IntoDiagnostic, Result, miette};
use xshell::cmd;

use super::go_lock::{GoLock, Pin};
use super::{Stamp, Tools};
use crate::step;

/// What programs without a service import.
const SMALL: &str = "fmt runtime sort strings";
/// The Go platforms.
const PLATFORMS: [&str; 3] = ["amd64", "arm64", "loong64"];
/// The versions that services in guests of other platforms are built with, beside the newest: those of
/// `gate/memgate/tests/real_guest_exactness.rs`.
const IN_GUESTS: [(&str, &[u32]); 2] = [("arm64", &[22, 25]), ("loong64", &[21, 22, 25])];
/// How long the stamp holds. Go removes what was not used for five days (`trimLimit`, cmd/go/internal/cache/cache.go).
/// Running the builds again counts as use.
const FRESH: Duration = Duration::from_hours(24);

/// How a program is linked, which decides how its packages are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    PositionIndependent,
    Cgo,
    PositionIndependentCgo,
}

/// Packages that are compiled together.
#[derive(Debug, PartialEq, Eq)]
struct Build {
    /// The distribution: `go-1.27.3`.
    go: String,
    goarch: &'static str,
    mode: Mode,
    packages: String,
}

/// Compiles what is not in Go's cache.
///
/// # Errors
/// Fails if a package cannot be compiled.
pub(crate) fn ensure(tools: &Tools<'_>) -> Result<()> {
    let builds = builds(&GoLock::read(tools.root())?, host()?, &imports(tools)?);
    let cache = PathBuf::from(step::capture(cmd!(tools.sh, "go env GOCACHE"))?.trim());
    let commands: String = builds.iter().map(|build| build.command(tools.dir())).collect();
    let stamp = Stamp::new("go-cache", "1", &commands);
    // `go clean -cache` removes this directory, and the stamp with it.
    let place = cache.join("00/memgate-stamp.json");
    if stamp.is_at(&place) && is_fresh(&place) {
        return Ok(());
    }
    eprintln!("Compiling Go's standard library for tests: {} versions, platforms and modes", builds.len());
    let scratch = tools.scratch()?;
    let list = scratch.path().join("commands");
    std::fs::write(&list, commands).into_diagnostic().wrap_err_with(|| format!("cannot write {}", list.display()))?;
    let parallel = std::thread::available_parallelism().map_or(1, |number| number.get().min(4)).to_string();
    step::run(cmd!(tools.sh, "xargs --arg-file={list} --max-lines=1 --max-procs={parallel} env"))?;
    // A cache that is switched off has no directory.
    if place.parent().is_some_and(Path::is_dir) { stamp.write(&place) } else { Ok(()) }
}

/// The standard packages that the services of `fixtures-go` import.
fn imports(tools: &Tools<'_>) -> Result<String> {
    let sh = tools.sh;
    let _in_fixtures = sh.push_dir(tools.root().join("fixtures-go"));
    let template = "{{join .Imports \"\\n\"}}";
    let listed = step::capture(
        cmd!(sh, "go list -tags memprofile -f {template} ./cmd/... ./internal/...").env("CGO_ENABLED", "0"),
    )?;
    Ok(standard(&listed))
}

/// Each standard package of a list once; the first element of every other import path has a dot.
fn standard(listed: &str) -> String {
    let is_standard = |package: &&str| !package.split('/').next().unwrap_or_default().contains('.');
    let mut packages: Vec<_> = listed.split_whitespace().filter(is_standard).collect();
    packages.sort_unstable();
    packages.dedup();
    packages.join(" ")
}

/// The builds that tests need on a host of this platform.
fn builds(lock: &GoLock, host: &'static str, services: &str) -> Vec<Build> {
    lock.pins().flat_map(|pin| of_version(pin, pin == lock.newest(), host, services)).collect()
}

fn of_version(pin: &Pin, newest: bool, host: &'static str, services: &str) -> Vec<Build> {
    let minor = pin.version.minor;
    let build =
        |goarch, mode, packages: &str| Build { go: pin.directory(), goarch, mode, packages: packages.to_owned() };
    let mut builds = vec![
        build(host, Mode::Plain, services),
        build(host, Mode::PositionIndependent, services),
        build(host, Mode::Cgo, &format!("{services} runtime/cgo")),
        build(host, Mode::PositionIndependentCgo, &format!("{SMALL} runtime/cgo")),
    ];
    for goarch in PLATFORMS.into_iter().filter(|goarch| *goarch != host) {
        let in_guests = IN_GUESTS.iter().any(|(guest, minors)| *guest == goarch && minors.contains(&minor));
        builds.push(build(goarch, Mode::Plain, if newest || in_guests { services } else { SMALL }));
        // Before Go 1.25 its own linker cannot link them for loong64 (`internalLinkPIE`, src/internal/platform/supported.go).
        if goarch != "loong64" || minor >= 25 {
            builds.push(build(goarch, Mode::PositionIndependent, if newest { SMALL } else { "runtime" }));
        }
    }
    builds
}

fn host() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        "loongarch64" => Ok("loong64"),
        other => Err(miette!("memgate does not run on {other}")),
    }
}

/// Whether the file was written within the last day.
fn is_fresh(path: &Path) -> bool {
    let written = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    written.and_then(|written| written.elapsed().ok()).is_some_and(|age| age < FRESH)
}

impl Build {
    /// A line of arguments for `env`, quoted as xargs reads it.
    fn command(&self, tools: &Path) -> String {
        let root = tools.join(&self.go);
        let cgo = matches!(self.mode, Mode::Cgo | Mode::PositionIndependentCgo);
        // With `-buildmode=exe`, which is what Go does anyway, it would look at nothing but programs (`pkgsMain`,
        // cmd/go/internal/work/init.go).
        let link = match self.mode {
            Mode::Plain | Mode::Cgo => "",
            Mode::PositionIndependent | Mode::PositionIndependentCgo => "-buildmode=pie ",
        };
        let mut line = String::new();
        // Writing to a string does not fail.
        let _infallible = writeln!(
            line,
            "\"GOROOT={root}\" GOTOOLCHAIN=local GOFLAGS=-buildvcs=false GOARCH={} CGO_ENABLED={} \"{root}/bin/go\" build {link}{}",
            self.goarch,
            u8::from(cgo),
            self.packages,
            root = root.display(),
        );
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: &str, newest: bool) -> Vec<Build> {
        let sum = "a".repeat(64);
        let pin = Pin { version: version.parse().unwrap(), x86_64: sum.clone(), aarch64: sum };
        of_version(&pin, newest, "amd64", "net/http")
    }

    #[test]
    fn only_standard_packages_are_compiled() {
        assert_eq!(standard("net/http\nfmt\nmemgate.dev/fixtures/internal/session\nfmt\n"), "fmt net/http");
    }

    #[test]
    fn each_version_is_compiled_for_what_is_built_with_it() {
        let packages = |builds: &[Build], goarch, mode| {
            let found = builds.iter().find(|build| build.goarch == goarch && build.mode == mode);
            found.map(|build| build.packages.clone())
        };
        let old = of("1.22.10", false);
        assert_eq!(packages(&old, "amd64", Mode::Cgo).as_deref(), Some("net/http runtime/cgo"));
        assert_eq!(packages(&old, "arm64", Mode::Plain).as_deref(), Some("net/http"));
        assert_eq!(packages(&old, "arm64", Mode::PositionIndependent).as_deref(), Some("runtime"));
        assert_eq!(packages(&old, "loong64", Mode::PositionIndependent), None);
        assert_eq!(packages(&of("1.23.9", false), "loong64", Mode::Plain).as_deref(), Some(SMALL));
        let newest = of("1.99.0", true);
        assert_eq!(packages(&newest, "loong64", Mode::Plain).as_deref(), Some("net/http"));
        assert_eq!(packages(&newest, "loong64", Mode::PositionIndependent).as_deref(), Some(SMALL));
        assert_eq!((old.len(), newest.len()), (7, 8));
    }

    #[test]
    fn a_build_is_a_line_for_xargs() {
        let build = Build { go: "go-1.27.3".into(), goarch: "arm64", mode: Mode::Cgo, packages: "fmt net".into() };
        let line = "\"GOROOT=/a b/go-1.27.3\" GOTOOLCHAIN=local GOFLAGS=-buildvcs=false GOARCH=arm64 CGO_ENABLED=1 \
                    \"/a b/go-1.27.3/bin/go\" build fmt net\n";
        assert_eq!(build.command(Path::new("/a b")), line);
    }

    #[test]
    fn a_file_is_fresh_for_a_day() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(is_fresh(file.path()));
        let yesterday = std::time::SystemTime::now() - FRESH;
        file.as_file().set_modified(yesterday).unwrap();
        assert!(!is_fresh(file.path()) && !is_fresh(Path::new("/nowhere")));
    }
}
