//! Waits for Ctrl-C and SIGTERM.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::sys::signal::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Reports that the user or the CI system wants memgate to end.
#[derive(Debug, Clone)]
pub struct Cancel {
    receiver: watch::Receiver<bool>,
    /// Set by the signal's handler, also while this thread is busy.
    flag: Arc<AtomicBool>,
}

impl Cancel {
    /// Takes over those of SIGINT, SIGTERM and SIGHUP that memgate's parent does not have it ignore: `nohup` has
    /// SIGHUP ignored, and a shell without job control SIGINT of what runs in the background. Call it within a tokio
    /// runtime.
    ///
    /// # Errors
    /// Fails if it is not known which signals are ignored, or if the handlers cannot be installed.
    pub fn on_signals() -> std::io::Result<Self> {
        let (sender, receiver) = watch::channel(false);
        let flag = Arc::new(AtomicBool::new(false));
        let ignored = procfs::process::Process::myself().and_then(|own| own.status()).map_err(std::io::Error::other)?;
        let take_over = |number: Signal, kind| {
            if is_in(ignored.sigign, number) {
                return Ok(None);
            }
            signal_hook::flag::register(number as i32, Arc::clone(&flag))?;
            signal(kind).map(Some)
        };
        let mut interrupt = take_over(Signal::SIGINT, SignalKind::interrupt())?;
        let mut terminate = take_over(Signal::SIGTERM, SignalKind::terminate())?;
        let mut hangup = take_over(Signal::SIGHUP, SignalKind::hangup())?;
        tokio::spawn(async move {
            tokio::select! {
                () = next(&mut interrupt) => {}
                () = next(&mut terminate) => {}
                () = next(&mut hangup) => {}
            }
            // Nobody listens if the command is already over.
            let _ = sender.send(true);
            sender.closed().await;
        });
        Ok(Self { receiver, flag })
    }

    /// A cancellation that never comes.
    pub fn never() -> Self {
        let (sender, receiver) = watch::channel(false);
        // Waiting would end without the sender, so it must live as long as the receiver.
        std::mem::forget(sender);
        Self { receiver, flag: Arc::default() }
    }

    /// A cancellation that has come.
    #[cfg(test)]
    pub(crate) fn now() -> Self {
        let (_, receiver) = watch::channel(true);
        Self { receiver, flag: Arc::new(AtomicBool::new(true)) }
    }

    /// Waits for the cancellation.
    pub async fn cancelled(&self) {
        let mut receiver = self.receiver.clone();
        if receiver.wait_for(|cancelled| *cancelled).await.is_err() {
            pending::<()>().await;
        }
    }

    /// Whether the cancellation has come.
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// What says that the cancellation has come, for work that blocks its thread.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }
}

/// Whether a set of signals, as in /proc/PID/status, has this one.
const fn is_in(set: u64, signal: Signal) -> bool {
    set >> (signal as i32 - 1) & 1 == 1
}

/// Waits for the signal, for ever if it is ignored.
async fn next(signal: &mut Option<tokio::signal::unix::Signal>) {
    match signal {
        Some(signal) => _ = signal.recv().await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::signal::{self, SigHandler, raise};

    use super::*;

    /// As under `nohup`.
    #[tokio::test]
    async fn a_signal_that_the_parent_has_ignored_stays_ignored_and_the_others_cancel() {
        // SAFETY: no handler runs.
        unsafe { signal::signal(Signal::SIGHUP, SigHandler::SigIgn) }.unwrap();
        let cancel = Cancel::on_signals().unwrap();
        let ignored = procfs::process::Process::myself().unwrap().status().unwrap().sigign;
        assert!(is_in(ignored, Signal::SIGHUP) && !is_in(ignored, Signal::SIGINT) && !is_in(ignored, Signal::SIGTERM));
        raise(Signal::SIGHUP).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(200), cancel.cancelled()).await.is_err());
        raise(Signal::SIGTERM).unwrap();
        tokio::time::timeout(Duration::from_secs(100), cancel.cancelled()).await.unwrap();
        assert!(cancel.is_cancelled());
        // SAFETY: no handler runs.
        unsafe { signal::signal(Signal::SIGHUP, SigHandler::SigDfl) }.unwrap();
    }
}
