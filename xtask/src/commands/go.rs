//! `cargo xtask go`: the versions of Go that memgate measures.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use miette::{Context, IntoDiagnostic, Result};
use xshell::cmd;

use crate::citations::{self, Citation};
use crate::go_sources::{self, Compared, Difference};
use crate::setup::go_lock::{self, GoLock, GoVersion, Pin};
use crate::setup::{Tools, gcc, go as toolchain, nextest, pip};
use crate::step;
use crate::workspace::Workspace;

/// What is done with versions of Go.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Go {
    /// Pin a release, write the table of offsets anew, and say what a person must look at.
    Add {
        /// The release: 1.MINOR.PATCH. It replaces the one that is pinned of the same minor version.
        version: GoVersion,
    },
}

/// The table that the new version's DWARF is written to.
const OFFSETS: &str = "gate/goexe/src/offsets.txt";

/// Does it.
///
/// # Errors
/// Fails if the version cannot be added; the checkout is then as it was.
pub(crate) fn run(workspace: &Workspace, go: &Go) -> Result<()> {
    match go {
        Go::Add { version } => add(workspace, *version),
    }
}

fn add(workspace: &Workspace, version: GoVersion) -> Result<()> {
    let before = GoLock::read(workspace.root())?;
    before.admit(version)?;
    let [x86_64, aarch64] = pip::look_up(&workspace.sh, go_lock::PACKAGE, &version.to_string())?;
    let pin = Pin { version, x86_64, aarch64 };
    let after = before.with(pin.clone())?;
    // It is fetched, held to its hash and started before anything is written.
    let tools = Tools::open(workspace)?;
    let extent = if after.newest() == &pin { toolchain::Extent::Whole } else { toolchain::Extent::ToBuild };
    toolchain::install(&tools, &pin, extent)?;
    drop(tools);

    let offsets = workspace.root().join(OFFSETS);
    let old = std::fs::read(&offsets).into_diagnostic().wrap_err_with(|| format!("cannot read {OFFSETS}"))?;
    if let Err(error) = write(workspace, &after) {
        before.write(workspace.root())?;
        go_lock::replace(&offsets, &old)?;
        toolchain::ensure_newest(&Tools::open(workspace)?, &before)?;
        eprintln!("xtask/go.lock and {OFFSETS} are as they were.");
        return Err(error);
    }
    let new = std::fs::read(&offsets).into_diagnostic().wrap_err_with(|| format!("cannot read {OFFSETS}"))?;
    eprint!("{}", report(workspace, &before, &pin, old != new)?);
    Ok(())
}

/// Writes the lock, and the table of offsets by what the toolchains of the lock build.
fn write(workspace: &Workspace, lock: &GoLock) -> Result<()> {
    lock.write(workspace.root())?;
    let tools = Tools::open(workspace)?;
    gcc::ensure(&tools)?;
    toolchain::ensure(&tools)?;
    toolchain::ensure_older(&tools)?;
    nextest::ensure(&tools)?;
    drop(tools);
    let test = cmd!(workspace.sh, "cargo nextest run --package memgate --test goexe the_table_of_offsets");
    step::run(test.env("MEMGATE_WRITE_OFFSETS", "1"))
}

/// The version that a new one is compared with: the one that it replaces, else that before it.
fn previous<'a>(before: &'a GoLock, pin: &Pin) -> Option<&'a Pin> {
    let replaced = before.minor(pin.version.minor);
    replaced.or_else(|| before.pins().rfind(|other| other.version.minor < pin.version.minor))
}

/// What a person must look at.
fn report(workspace: &Workspace, before: &GoLock, pin: &Pin, offsets_changed: bool) -> Result<String> {
    let newest = before.newest().version.minor;
    let (comments, documents) = mentions(workspace, newest)?;
    let mut text = format!("\nGo {} is pinned in xtask/go.lock. ", pin.version);
    text += if offsets_changed {
        "The table of offsets has changed: look at `git diff gate/goexe/src/offsets.txt`.\n"
    } else {
        "The table of offsets is as it was.\n"
    };
    if let Some(old) = previous(before, pin) {
        let roots = [old, pin].map(|pin| PathBuf::from(".tools").join(pin.directory()));
        text += &sources(workspace.root(), &roots, &comments);
    }
    if pin.version.minor > newest {
        text += &list(&format!("\nThese documents name Go 1.{newest}:\n"), &documents);
        text += "\nFigures of another minor version are not compared. Record the baselines of every platform anew: \
                 docs/how-to/baselines.md says how.\n";
    }
    text += "\nThen run, as root:\n  cargo nextest run --package memgate-goexe\n  \
             cargo nextest run --package memgate --test goexe --test real_versions\n  cargo xtask test\n";
    Ok(text)
}

/// The comments that hold up to Go 1.`minor`, and the lines of documents that name it.
fn mentions(workspace: &Workspace, minor: u32) -> Result<(Vec<Citation>, Vec<String>)> {
    let (mut comments, mut documents) = (Vec::new(), Vec::new());
    for file in crate::commands::docs::files(workspace)? {
        let extension = file.extension().and_then(|extension| extension.to_str());
        if !matches!(extension, Some("rs" | "go" | "md")) || file == Path::new("CHANGELOG.md") {
            continue;
        }
        // A file that was deleted and is not yet committed names nothing.
        let text = std::fs::read_to_string(workspace.root().join(&file)).unwrap_or_default();
        if extension == Some("md") {
            let lines = citations::in_document(&text, minor);
            documents.extend(lines.into_iter().map(|line| format!("{}:{line}", file.display())));
        } else {
            comments.extend(citations::in_comments(&file, &text, minor));
        }
    }
    Ok((comments, documents))
}

/// The comments by what became of the sources that they cite.
fn sources(root: &Path, [old, new]: &[PathBuf; 2], comments: &[Citation]) -> String {
    let [old_root, new_root] = [old, new].map(|go| root.join(go));
    let (mut changed, mut same, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    let mut diffs = Vec::new();
    for comment in comments {
        let place = format!("{}:{}", comment.file.display(), comment.line);
        let compared = comment.sources.iter();
        let compared: Vec<_> =
            compared.filter_map(|source| go_sources::compare(&old_root, &new_root, source, &comment.names)).collect();
        let different: Vec<_> = compared.iter().filter(|source| source.difference != Difference::None).collect();
        diffs.extend(different.iter().map(|source| source.path.clone()));
        if compared.is_empty() {
            unknown.push(format!("{place}  {}", [comment.sources.as_slice(), &comment.names].concat().join(" ")));
        } else if different.is_empty() {
            same.push(place);
        } else {
            changed.push(format!("{place}  {}", different.into_iter().map(told).collect::<Vec<_>>().join(", ")));
        }
    }
    diffs.sort();
    diffs.dedup();
    let diffs: Vec<_> = diffs
        .iter()
        .map(|path| format!("diff -u {{{},{}}}/{}", old.display(), new.display(), path.display()))
        .collect();
    let [old, new] = [old, new].map(|go| go.file_name().unwrap_or_default().display());
    list(&format!("\nThese comments cite sources that differ between {old} and {new}:\n"), &changed)
        + &list("\nThe differences, in bash:\n", &diffs)
        + &list("\nThese cite sources that are the same:\n", &same)
        + &list("\nThese cite nothing that could be compared:\n", &unknown)
}

fn told(source: &Compared) -> String {
    let path = source.path.display();
    match &source.difference {
        Difference::Moved => format!("{path}: only one of them has it"),
        Difference::Changed { lines, names } if !names.is_empty() => {
            format!("{path}: {lines} lines, in {}", names.join(" "))
        }
        Difference::Changed { lines, .. } => format!("{path}: {lines} lines"),
        Difference::None => format!("{path}: the same"),
    }
}

/// A heading and its lines; nothing where there are none.
fn list(heading: &str, lines: &[String]) -> String {
    let mut text = String::new();
    if !lines.is_empty() {
        text += heading;
        for line in lines {
            // Writing to a string does not fail.
            let _infallible = writeln!(text, "  {}", line.trim_end());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn citation(file: &str, sources: &[&str], names: &[&str]) -> Citation {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        Citation { file: file.into(), line: 7, sources: owned(sources), names: owned(names) }
    }

    #[test]
    fn a_person_is_told_where_to_look() {
        let dir = tempfile::tempdir().unwrap();
        let roots = ["go-1.1.1", "go-1.2.2"].map(PathBuf::from);
        for (root, text) in roots.iter().zip(["func f() {\n\ta()\n}\n", "func f() {\n\tb()\n}\n"]) {
            let runtime = dir.path().join(root).join("src/runtime");
            std::fs::create_dir_all(&runtime).unwrap();
            std::fs::write(runtime.join("a.go"), text).unwrap();
            std::fs::write(runtime.join("b.go"), "").unwrap();
        }
        let comments = [
            citation("one.rs", &["a.go", "b.go"], &["f", "g"]),
            citation("two.rs", &["b.go"], &["f"]),
            citation("three.rs", &["c.go"], &["h"]),
        ];
        let text = sources(dir.path(), &roots, &comments);
        let expected = "
These comments cite sources that differ between go-1.1.1 and go-1.2.2:
  one.rs:7  src/runtime/a.go: 2 lines, in f

The differences, in bash:
  diff -u {go-1.1.1,go-1.2.2}/src/runtime/a.go

These cite sources that are the same:
  two.rs:7

These cite nothing that could be compared:
  three.rs:7  c.go h
";
        assert_eq!(text, expected);
    }
}
