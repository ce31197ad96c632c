//! Ctrl-C ends the running steps and all processes that they started.
//!
//! Each step runs in its own process group. It receives Ctrl-C only from here, once, together with its children. The
//! second Ctrl-C kills the groups.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

use miette::{Context, IntoDiagnostic};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static STATE: Mutex<State> = Mutex::new(State { groups: Vec::new(), interrupted: false });

/// The state that the signal thread shares with the threads that run steps.
struct State {
    /// The process groups of the running steps.
    groups: Vec<Pid>,
    interrupted: bool,
}

/// Starts to listen for Ctrl-C, SIGTERM and SIGHUP.
///
/// # Errors
/// When the handlers cannot be installed.
pub(crate) fn install() -> miette::Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP]).into_diagnostic().wrap_err("cannot listen for Ctrl-C and SIGTERM")?;
    std::thread::spawn(move || {
        for signal in &mut signals {
            receive(signal);
        }
    });
    Ok(())
}

/// Starts `command` in a process group that an interruption ends. Returns `None` if an interruption has already come.
///
/// # Errors
/// When the command cannot be started.
pub(crate) fn spawn(command: &mut Command) -> std::io::Result<Option<Child>> {
    // The lock is held while the child starts, so no signal comes between its start and its registration.
    let mut state = state();
    if state.interrupted {
        return Ok(None);
    }
    let child = command.process_group(0).spawn()?;
    state.groups.extend(group_of(&child));
    Ok(Some(child))
}

/// Records that a step has ended. Returns whether an interruption came.
pub(crate) fn finished(child: &Child) -> bool {
    let mut state = state();
    let ended = group_of(child);
    state.groups.retain(|group| Some(*group) != ended);
    state.interrupted
}

/// The process group that the child leads.
fn group_of(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().map(Pid::from_raw)
}

fn receive(signal: i32) {
    let mut state = state();
    let again = std::mem::replace(&mut state.interrupted, true);
    // No step is running. The next set-up removes unfinished files in `.tools`.
    if state.groups.is_empty() {
        std::process::exit(130);
    }
    let signal = if again { Signal::SIGKILL } else { Signal::try_from(signal).unwrap_or(Signal::SIGTERM) };
    for group in &state.groups {
        // A group that has just ended cannot be signalled, and does not need it.
        let _ended = killpg(*group, signal);
    }
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}
