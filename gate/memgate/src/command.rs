//! Runs the commands of others: `go` and `git`.

use std::process::{Output, Stdio};

use memgate_agent::{cancel::Cancel, child::Pen};
use memgate_evidence::error::{Error, Result};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
};

/// How many lines of a command's output an error shows.
const SHOWN_LINES: usize = 20;

/// Runs the command to its end. Then this kills what it has left in its process group and in its cgroup, which is `pen`,
/// and so it does at once if memgate is interrupted. The inner result has the system's reason if the command could not
/// be started.
///
/// # Errors
/// When memgate is interrupted.
pub(crate) async fn output_unless_cancelled(
    command: std::process::Command,
    pen: Option<Pen>,
    cancel: &Cancel,
) -> Result<std::io::Result<Output>> {
    let mut command = Command::from(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ok(Err(error)),
    };
    let group = child.id().map(|id| Pid::from_raw(id.cast_signed()));
    let (stdout, stderr) = (all(child.stdout.take()), all(child.stderr.take()));
    let end = async {
        let status = child.wait().await;
        // What it has left holds its output open. The group may be gone.
        let _ = group.map(|group| killpg(group, Signal::SIGKILL));
        drop(pen);
        status
    };
    tokio::select! {
        (status, stdout, stderr) = async { tokio::join!(end, stdout, stderr) } => {
            Ok(status.and_then(|status| Ok(Output { status, stdout: stdout?, stderr: stderr? })))
        }
        () = cancel.cancelled() => {
            let _ = group.map(|group| killpg(group, Signal::SIGKILL));
            Err(Error::Interrupted)
        }
    }
}

/// Everything that comes out of a pipe.
async fn all(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
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

    #[tokio::test]
    async fn what_a_command_leaves_holds_nobody_up() {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $!"]);
        let output = output_unless_cancelled(command, None, &Cancel::never()).await.unwrap().unwrap();
        let left = String::from_utf8(output.stdout).unwrap();
        let runs = || {
            let state = std::fs::read_to_string(format!("/proc/{}/stat", left.trim()));
            state.is_ok_and(|state| !state.rsplit_once(") ").unwrap().1.starts_with(['X', 'Z']))
        };
        // It closes its files before it has ended.
        let begun = std::time::Instant::now();
        while runs() {
            assert!(begun.elapsed() < std::time::Duration::from_secs(100), "it still runs");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    #[test]
    fn the_end_of_a_long_output_is_shown() {
        let output: String = (0..100).map(|line| format!("{line}\n")).collect();
        let shown = last_lines(output.as_bytes());
        assert!(shown.starts_with("80\n") && shown.ends_with("99"), "{shown}");
        assert_eq!(last_lines(b""), "");
    }
}
