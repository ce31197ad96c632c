//! What would change, as a patch for `git apply`.

use std::{
    collections::BTreeSet,
    env,
    fmt::Write as _,
    path::{Component, Path, PathBuf},
};

use memgate_config::baseline;
use memgate_evidence::error::{InputError, Result};
use memgate_verdict::metric::Limits;
use similar::{Algorithm, DiffOp, capture_diff_slices, group_diff_ops};

use super::{Recorded, read, summaries, today};

/// The lines around a change that a patch shows.
const CONTEXT: usize = 3;

/// The changes of [`accept`](super::accept), and new files as [`record`](super::record) makes them, as a unified diff
/// for `git apply` in the current directory. Empty if nothing would change.
///
/// # Errors
/// When a file cannot be changed or made, or when git could not find it from here.
pub(crate) fn patch(recorded: &Recorded<'_>) -> Result<String> {
    let directory = recorded.directory;
    let mut text = String::new();
    for summary in summaries(recorded)? {
        let name = name(&baseline::path(directory, summary.platform, &summary.baseline))?;
        let (before, after) = match read(directory, summary.platform, &summary.baseline)? {
            Some(file) => {
                let accepted = baseline::accept(&file.path, &file.text, &summary, &today(), &BTreeSet::new())?;
                (Some(file.text), accepted.text)
            }
            None => (None, baseline::render(&summary, &today(), Limits::General)?),
        };
        text.push_str(&unified(&name, before.as_deref(), &after));
    }
    Ok(text)
}

/// The name by which git finds the file from the current directory.
fn name(path: &Path) -> Result<String> {
    let help = "run the command in the repository, and name a directory of it with --baselines";
    let refused = |why: &str| InputError::new(format!("{}: {why}", path.display()), help);
    let here = env::current_dir().and_then(|here| here.canonicalize());
    let below = match (path.is_absolute(), &here) {
        (false, _) => path,
        (true, Ok(here)) => {
            path.strip_prefix(here).map_err(|_| refused("a patch changes only files below the current directory"))?
        }
        (true, Err(error)) => {
            return Err(refused(&format!("the current directory is not known: {error}")).into());
        }
    };
    let mut parts = Vec::new();
    for part in below.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => match part.to_str().filter(|part| !part.contains(['\n', '\r', '\t', '"', '\\']))
            {
                Some(part) => parts.push(part),
                None => return Err(refused("a patch cannot hold this name").into()),
            },
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(refused("a patch changes only files below the current directory").into());
            }
        }
    }
    let linked =
        (1..=parts.len()).map(|depth| parts[..depth].iter().collect::<PathBuf>()).find(|path| path.is_symlink());
    if let Some(link) = linked {
        let help = "name with --baselines the directory that it leads to, or accept the figures with `memgate baseline accept`";
        let message = format!("{}: this is a symbolic link, which `git apply` does not follow", link.display());
        return Err(InputError::new(message, help).into());
    }
    Ok(parts.join("/"))
}

/// The difference of a file's texts; `before` is `None` if there is no such file. Empty if they are equal.
///
/// Lines end at a line feed only, as they do for git. A carriage return before it is a part of the line.
fn unified(name: &str, before: Option<&str>, after: &str) -> String {
    if before == Some(after) {
        return String::new();
    }
    let lines = |text: &str| text.split_inclusive('\n').map(str::to_owned).collect::<Vec<_>>();
    let (old, new) = (lines(before.unwrap_or_default()), lines(after));
    let hunks = group_diff_ops(capture_diff_slices(Algorithm::Myers, &old, &new), CONTEXT);
    let from = if before.is_some() { format!("a/{name}") } else { "/dev/null".to_owned() };
    let mut text = format!("--- {from}\n+++ b/{name}\n");
    for hunk in &hunks {
        let Some(first) = hunk.first() else { continue };
        let span = |start: usize, lines: usize| {
            // A span without lines stands behind the line before it.
            format!("{},{lines}", if lines > 0 { start + 1 } else { start })
        };
        // The place of the other file in a deletion or an insertion is not always that behind the part before it, so
        // that lines are counted.
        let old_span = span(first.old_range().start, hunk.iter().map(|op| op.old_range().len()).sum());
        let new_span = span(first.new_range().start, hunk.iter().map(|op| op.new_range().len()).sum());
        // Writing to a string cannot fail.
        let _ = writeln!(text, "@@ -{old_span} +{new_span} @@");
        for op in hunk {
            write_op(&mut text, op, &old, &new);
        }
    }
    text
}

/// The lines of a part of a hunk: those of both files, or those that go and those that come.
fn write_op(text: &mut String, op: &DiffOp, old: &[String], new: &[String]) {
    let mut write = |sign: char, lines: &[String]| {
        for line in lines {
            text.push(sign);
            text.push_str(line);
            if !line.ends_with('\n') {
                text.push_str("\n\\ No newline at end of file\n");
            }
        }
    };
    match op {
        DiffOp::Equal { .. } => write(' ', &old[op.old_range()]),
        DiffOp::Delete { .. } | DiffOp::Insert { .. } | DiffOp::Replace { .. } => {
            write('-', &old[op.old_range()]);
            write('+', &new[op.new_range()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use proptest::prelude::*;

    use super::*;

    /// What `git apply` makes of a file by the patch.
    fn applied(before: Option<&str>, patch: &str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let [file, patch_file] = ["uaa x.yaml", "patch"].map(|name| directory.path().join(name));
        if let Some(before) = before {
            fs::write(&file, before).unwrap();
        }
        fs::write(&patch_file, patch).unwrap();
        let mut git = Command::new("git");
        git.env("GIT_CEILING_DIRECTORIES", "/").env("GIT_CONFIG_GLOBAL", "/dev/null").current_dir(directory.path());
        let output = git.args(["apply", "--whitespace=nowarn"]).arg(&patch_file).output().unwrap();
        assert!(output.status.success(), "{}\n{patch}", String::from_utf8_lossy(&output.stderr));
        fs::read_to_string(&file).unwrap()
    }

    fn line() -> impl Strategy<Value = String> {
        prop_oneof![Just("a"), Just("b"), Just("a\r"), Just(""), Just(" c\rd"), Just("-- x"), Just("@@ -1 +1 @@")]
            .prop_map(|line| format!("{line}\n"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn git_makes_the_second_text_of_the_first(
            old in prop::collection::vec(line(), 1..30),
            new in prop::collection::vec(line(), 1..30),
            ends in prop::array::uniform2(any::<bool>()),
        ) {
            let text = |lines: Vec<String>, ends: bool| {
                let text = lines.concat();
                if ends { text } else { format!("{text}end") }
            };
            let (old, new) = (text(old, ends[0]), text(new, ends[1]));
            let patch = unified("uaa x.yaml", Some(&old), &new);
            if old == new {
                prop_assert_eq!(patch, "");
            } else {
                prop_assert_eq!(applied(Some(&old), &patch), new.clone());
            }
            prop_assert_eq!(applied(None, &unified("uaa x.yaml", None, &new)), new);
        }
    }

    #[test]
    fn a_change_is_shown_with_three_lines_around_it() {
        let old: String = (1..=9).map(|line| format!("{line}\n")).collect();
        let patch = unified("x", Some(&old), &old.replace('5', "five"));
        assert_eq!(patch, "--- a/x\n+++ b/x\n@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+five\n 6\n 7\n 8\n");
        assert_eq!(unified("x", None, "1\n"), "--- /dev/null\n+++ b/x\n@@ -0,0 +1,1 @@\n+1\n");
    }

    #[test]
    fn git_must_find_the_file_from_here() {
        assert_eq!(name(Path::new("./baselines/linux-amd64/uaa.yaml")).unwrap(), "baselines/linux-amd64/uaa.yaml");
        let here = env::current_dir().unwrap().canonicalize().unwrap();
        assert_eq!(name(&here.join("b/uaa.yaml")).unwrap(), "b/uaa.yaml");
        for path in ["../uaa.yaml", "/nowhere/uaa.yaml", "a\tb/uaa.yaml", "a\"b/uaa.yaml"] {
            let message = name(Path::new(path)).unwrap_err().to_string();
            assert!(message.starts_with(path), "{message}");
        }
    }
}
