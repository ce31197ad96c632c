//! Builds of which one executable is wanted, wherever cargo's configuration puts it.

use std::path::PathBuf;

use miette::{IntoDiagnostic, Result, miette};
use serde::Deserialize;
use xshell::Cmd;

use crate::step;

/// The fields that are needed of cargo's messages (the Cargo Book, "External tools", JSON messages).
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
/// Fails where the build does, or builds no such executable.
pub(crate) fn build(cmd: Cmd<'_>, name: &str) -> Result<PathBuf> {
    let line = cmd.to_string();
    let messages = step::capture(cmd.arg("--message-format=json-render-diagnostics"))?;
    executable(&messages, name)?.ok_or_else(|| miette!("`{line}` built no executable `{name}`"))
}

fn executable(messages: &str, name: &str) -> Result<Option<PathBuf>> {
    for line in messages.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line).into_diagnostic()?;
        let is_it = message.target.is_some_and(|target| target.name == name);
        if is_it && message.reason == "compiler-artifact" && message.executable.is_some() {
            return Ok(message.executable);
        }
    }
    Ok(None)
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
        assert_eq!(executable(MESSAGES, "memgate").unwrap(), Some(PathBuf::from("/t/release/memgate")));
        assert_eq!(executable(MESSAGES, "memgate-bpf").unwrap(), None);
    }
}
