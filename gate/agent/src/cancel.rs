//! Waits for Ctrl-C and SIGTERM.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
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
    /// Takes over SIGINT, SIGTERM and SIGHUP. Call it within a tokio runtime.
    ///
    /// # Errors
    /// Fails if the handlers cannot be installed.
    pub fn on_signals() -> std::io::Result<Self> {
        let (sender, receiver) = watch::channel(false);
        let flag = Arc::new(AtomicBool::new(false));
        for number in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(number, Arc::clone(&flag))?;
        }
        let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .into_iter()
            .map(signal)
            .collect::<std::io::Result<Vec<_>>>()?;
        tokio::spawn(async move {
            let [interrupt, terminate, hangup] = signals.as_mut_slice() else { return };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
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
            std::future::pending::<()>().await;
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
