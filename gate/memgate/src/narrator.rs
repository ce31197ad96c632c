//! Shows progress on stderr: a moving line on a terminal, plain lines elsewhere.

use std::{
    cell::RefCell,
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use memgate_agent::RunEvent;

use crate::secrets;

/// Shows the progress of memgate's work.
#[derive(Debug)]
pub struct Narrator {
    bar: Option<RefCell<ProgressBar>>,
}

impl Narrator {
    /// Shows a moving line if stderr is a terminal and this is not a CI system, and plain lines otherwise.
    pub fn new() -> Self {
        let interactive = std::io::stderr().is_terminal() && std::env::var_os("CI").is_none();
        Self { bar: interactive.then(|| RefCell::new(ProgressBar::hidden())) }
    }

    /// Prints one line.
    pub fn say(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.borrow().suspend(|| line_to_stderr(line)),
            None => line_to_stderr(line),
        }
    }

    /// Shows the progress of the run with the name `run`.
    pub fn event(&self, run: &str, event: RunEvent) {
        let (what, length) = match event {
            RunEvent::Booting => ("starting a guest", None),
            RunEvent::Resuming => ("resuming a guest", None),
            RunEvent::Preparing => ("starting what the service needs", None),
            RunEvent::Launching => ("starting the service", None),
            RunEvent::WarmingUp(length) => ("warming up", Some(length)),
            RunEvent::Measuring(length) => ("measuring", Some(length)),
            RunEvent::Collecting(length) => ("collecting", Some(length)),
            RunEvent::Draining(length) => ("draining", Some(length)),
            RunEvent::Stopping => ("stopping the service", None),
            RunEvent::Note(note) => return self.say(&format!("{run}: {note}")),
        };
        match (&self.bar, length) {
            (Some(bar), Some(length)) => {
                let previous = bar.replace(phase_bar(&format!("{run}: {what}"), length));
                previous.finish_and_clear();
            }
            (Some(bar), None) => bar.replace(ProgressBar::hidden()).finish_and_clear(),
            (None, Some(length)) => self.say(&format!("{run}: {what}, {} s", length.as_secs_f64())),
            (None, None) => self.say(&format!("{run}: {what}")),
        }
    }
}

impl Default for Narrator {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Narrator {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.borrow().finish_and_clear();
        }
    }
}

/// A line that counts up to the phase's length.
fn phase_bar(message: &str, length: Duration) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(format!("{message}, {} s", length.as_secs_f64()));
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// A closed stderr must not end a run.
fn line_to_stderr(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", secrets::mask(line));
}
