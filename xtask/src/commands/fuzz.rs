//! `cargo xtask fuzz`: passes damaged input to all code that reads what others wrote (docs/how-to/fuzzing.md).

use std::path::{Path, PathBuf};

use miette::{IntoDiagnostic, Result};
use xshell::{Shell, cmd};

use crate::setup::go_lock::GoLock;
use crate::setup::{Tools, gcc, go};
use crate::step;
use crate::workspace::Workspace;

/// The executables to damage: name, minor version of Go (the newest if there is none), platform, further arguments of
/// `go build`.
const EXECUTABLES: [(&str, Option<u32>, &str, &[&str]); 7] = [
    ("plain", None, "amd64", &[]),
    ("stripped", None, "amd64", &["-ldflags=-s -w"]),
    ("pie", None, "amd64", &["-buildmode=pie"]),
    ("stripped", Some(21), "amd64", &["-ldflags=-s -w"]),
    ("plain", Some(24), "amd64", &[]),
    ("arm64", None, "arm64", &["-ldflags=-s -w"]),
    ("loong64", None, "loong64", &["-ldflags=-s -w"]),
];

/// The native modules to damage: name, arguments of the C compiler.
const MODULES: [(&str, &[&str]); 4] = [
    ("lines.so", &["-g", "-O2"]),
    ("compressed.so", &["-g", "-O1", "-gz=zlib"]),
    ("older.so", &["-gdwarf-4", "-O0"]),
    ("stripped.so", &["-O2", "-s"]),
];

/// The source of a module with every kind of frame: inlined calls, a frame of variable size, a call by pointer.
const MODULE: &str = "#include <stdlib.h>
#include <string.h>
static inline char *twice(size_t n) { char *p = malloc(n); return p ? memset(p, 1, n) : p; }
char *leak(size_t n) { char *p = twice(n); return p ? p : twice(n / 2); }
int with(int (*f)(int), int n) { volatile char frame[n + 1]; frame[n] = (char)f(n); return frame[n]; }
int recurse(int n) { return n < 2 ? n : recurse(n - 1) + with(recurse, n - 2); }
";

const PROGRAM: &str = "package main\n\nfunc main() { println(\"x\") }\n";

/// The compiler's own coverage counters, which libFuzzer reads. They need no nightly compiler.
const RUSTFLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// What to read from damaged input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum FuzzTarget {
    /// Go executables: function table, DWARF, variables, call sites.
    Goexe,
    /// Native modules: call frame information, symbols, source lines.
    Unwind,
    /// Evidence: the file, its summary, verdicts and reports.
    Evidence,
    /// Configurations and baselines, and changes of baselines.
    Yaml,
    /// The channel between host and guest.
    Frames,
}

impl FuzzTarget {
    const fn name(self) -> &'static str {
        match self {
            Self::Goexe => "goexe",
            Self::Unwind => "unwind",
            Self::Evidence => "evidence",
            Self::Yaml => "yaml",
            Self::Frames => "frames",
        }
    }

    /// The length of the longest input, bytes. Most inputs are lists of changes.
    const fn longest(self) -> u32 {
        match self {
            Self::Goexe | Self::Unwind | Self::Evidence => 200,
            Self::Frames => 1000,
            Self::Yaml => 8000,
        }
    }

    /// Makes what the target damages, and says in which variable it looks for that, and where it is.
    fn prepare(self, workspace: &Workspace, target: &Path, corpus: &Path) -> Result<Option<(&'static str, PathBuf)>> {
        match self {
            Self::Goexe => {
                let tools = Tools::open(workspace)?;
                go::ensure(&tools)?;
                go::ensure_older(&tools)?;
                drop(tools);
                let executables = target.join("executables");
                build_executables(workspace, &executables)?;
                Ok(Some(("MEMGATE_FUZZ_EXECUTABLES", executables)))
            }
            Self::Unwind => {
                let modules = target.join("modules");
                build_modules(&workspace.sh, &modules)?;
                Ok(Some(("MEMGATE_FUZZ_MODULES", modules)))
            }
            Self::Yaml => {
                copy_texts(workspace.root(), corpus)?;
                Ok(Some(("MEMGATE_FUZZ_ROOT", workspace.root().to_owned())))
            }
            Self::Evidence | Self::Frames => Ok(None),
        }
    }
}

/// Runs a target for the given number of minutes.
///
/// # Errors
/// When the set-up or a build fails, or when the target finds something. libFuzzer then prints the path of the input.
pub(crate) fn run(workspace: &Workspace, chosen: FuzzTarget, minutes: u32) -> Result<()> {
    gcc::ensure(&Tools::open(workspace)?)?;
    let (sh, name) = (&workspace.sh, chosen.name());
    let target = workspace.target().join("fuzz");
    let corpus = target.join(format!("corpus-{name}"));
    std::fs::create_dir_all(&corpus).into_diagnostic()?;
    let damaged = chosen.prepare(workspace, &target, &corpus)?;
    let host = step::capture(cmd!(sh, "rustc -vV"))?;
    let host =
        host.lines().find_map(|line| line.strip_prefix("host: ")).unwrap_or("x86_64-unknown-linux-gnu").to_owned();
    let manifest = workspace.root().join("gate/fuzz/Cargo.toml");
    // With a named platform, cargo builds build scripts without the counters.
    step::run(
        cmd!(sh, "cargo build --release --manifest-path {manifest} --bin {name} --target {host} --target-dir {target}")
            .env("RUSTFLAGS", RUSTFLAGS),
    )?;
    let program = target.join(&host).join("release").join(name);
    let (seconds, longest) = ((minutes * 60).to_string(), chosen.longest().to_string());
    let _in_target = sh.push_dir(&target);
    let limits = ["-timeout=10", "-rss_limit_mb=1024", "-print_final_stats=1"];
    let command = cmd!(sh, "{program} {corpus} {limits...} -max_len={longest} -max_total_time={seconds}");
    step::run(damaged.into_iter().fold(command, |command, (variable, place)| command.env(variable, place)))
}

/// Copies the project's own configurations and baselines into the corpus, from which libFuzzer begins.
fn copy_texts(root: &Path, corpus: &Path) -> Result<()> {
    for (name, file, mark) in [
        ("example", "memgate.yaml", ""),
        ("defects", "fixtures-go/memgate.yaml", ""),
        ("baseline", "baselines/linux-amd64/uaa.yaml", "#b\n"),
    ] {
        let text = std::fs::read_to_string(root.join(file)).into_diagnostic()?;
        std::fs::write(corpus.join(name), format!("{mark}{text}")).into_diagnostic()?;
    }
    Ok(())
}

fn build_modules(sh: &Shell, modules: &Path) -> Result<()> {
    std::fs::create_dir_all(modules).into_diagnostic()?;
    let source = modules.with_file_name("module.c");
    std::fs::write(&source, MODULE).into_diagnostic()?;
    for (name, flags) in MODULES {
        let module = modules.join(name);
        step::run(cmd!(sh, "cc -shared -fPIC {flags...} -o {module} {source}"))?;
    }
    Ok(())
}

fn build_executables(workspace: &Workspace, executables: &Path) -> Result<()> {
    let sh = &workspace.sh;
    let lock = GoLock::read(workspace.root())?;
    std::fs::create_dir_all(executables).into_diagnostic()?;
    let source = executables.with_file_name("program");
    std::fs::create_dir_all(&source).into_diagnostic()?;
    std::fs::write(source.join("main.go"), PROGRAM).into_diagnostic()?;
    std::fs::write(source.join("go.mod"), "module program\n\ngo 1.21\n").into_diagnostic()?;
    let _in_source = sh.push_dir(&source);
    for (name, minor, arch, flags) in EXECUTABLES {
        let pin = minor.and_then(|minor| lock.minor(minor)).unwrap_or(lock.newest());
        let root = workspace.tools().join(pin.directory());
        let (go, executable) = (root.join("bin/go"), executables.join(format!("{name}-1.{}", pin.version.minor)));
        step::run(
            cmd!(sh, "{go} build -o {executable} {flags...}")
                .env("GOROOT", &root)
                .env("GOTOOLCHAIN", "local")
                .env("GOFLAGS", "-buildvcs=false")
                .env("CGO_ENABLED", "0")
                .env("GOARCH", arch),
        )?;
    }
    Ok(())
}
