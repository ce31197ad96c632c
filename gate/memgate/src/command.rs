//! Runs the commands of others: `go` and `git`.

use std::process::{Output, Stdio};

use memgate_agent::cancel::Cancel;
use memgate_evidence::error::{Error, Result};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::process::Command;

/// How many lines of a command's output an error shows.
const SHOWN_LINES: usize = 20;

/// Runs the command to its end. If memgate is interrupted, this kills the command and the processes that it started.
/// The inner result has the system's reason if the command could not be started.
///
/// # Errors
/// When memgate is interrupted.
pub(crate) async fn output_unless_cancelled(
    command: std::process::Command,
    cancel: &Cancel,
) -> Result<std::io::Result<Output>> {
    let mut command = Command::from(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ok(Err(error)),
    };
    let group = child.id().map(|id| Pid::from_raw(id.cast_signed()));
    tokio::select! {
        output = child.wait_with_output() => Ok(output),
        () = cancel.cancelled() => {
            if let Some(group) = group {
                // It may already have ended.
                let _ = killpg(group, Signal::SIGKILL);
            }
            Err(Error::Interrupted)
        }
    }
}

/// The last lines of an output.
pub(crate) fn last_lines(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_long_output_is_shown() {
        let output: String = (0..100).map(|line| format!("{line}\n")).collect();
        let shown = last_lines(output.as_bytes());
        assert!(shown.starts_with("80\n") && shown.ends_with("99"), "{shown}");
        assert_eq!(last_lines(b""), "");
    }
}
