//! Builds an executable, for one or several platforms, and finds it wherever cargo's configuration puts it.

use std::path::PathBuf;

use miette::{IntoDiagnostic, Result, miette};
use serde::Deserialize;
use xshell::Cmd;

use crate::step;

/// The needed fields of cargo's messages (the Cargo Book, "External tools", JSON messages).
#[derive(Debug, Deserialize)]
struct Message {
    reason: String,
    target: Option<Target>,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    name: String,
}

/// Runs the `cargo build` of `cmd` and returns the path of the executable `name`.
///
/// # Errors
/// When the build fails, or builds no such executable.
pub(crate) fn build(cmd: Cmd<'_>, name: &str) -> Result<PathBuf> {
    let line = cmd.to_string();
    build_all(cmd, name)?.into_iter().next().ok_or_else(|| miette!("`{line}` built no executable `{name}`"))
}

/// Runs the `cargo build` of `cmd` and returns the paths of all executables `name`.
///
/// # Errors
/// When the build fails.
pub(crate) fn build_all(cmd: Cmd<'_>, name: &str) -> Result<Vec<PathBuf>> {
    let messages = step::capture(cmd.arg("--message-format=json-render-diagnostics"))?;
    executables(&messages, name)
}

fn executables(messages: &str, name: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line).into_diagnostic()?;
        if message.reason == "compiler-artifact" && message.target.is_some_and(|target| target.name == name) {
            found.extend(message.executable);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: &str = r#"{"reason":"compiler-artifact","package_id":"a","target":{"kind":["lib"],"name":"memgate"},"executable":null,"fresh":true}
{"reason":"build-script-executed","package_id":"b","env":[]}
{"reason":"compiler-artifact","package_id":"a","target":{"kind":["bin"],"name":"memgate"},"executable":"/t/release/memgate","fresh":false}
{"reason":"build-finished","success":true}
"#;

    #[test]
    fn executable_is_told_from_the_library_of_the_same_name() {
        assert_eq!(executables(MESSAGES, "memgate").unwrap(), [PathBuf::from("/t/release/memgate")]);
        assert!(executables(MESSAGES, "memgate-bpf").unwrap().is_empty());
    }
}
