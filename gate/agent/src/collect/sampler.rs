//! The thread that reads the collectors at intervals.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use memgate_evidence::error::{Error, Result, Stage};

use super::{
    collector::{Boundary, Window},
    recorder::Recorder,
};
use crate::load::Progress;

/// The time between two ticks of the recorder.
const INTERVAL: Duration = Duration::from_millis(100);

/// What is due within this time is done at once. A thread that has slept finds cold caches and a slow processor, so that
/// each time costs more than what it does.
const AT_ONCE: Duration = Duration::from_millis(20);

/// Requests to the sampler, besides its readings at intervals.
#[derive(Debug)]
pub enum Requested {
    /// Reads everything at once, when a phase begins or ends without a boundary for the collectors.
    Reading,
    /// Handles a boundary and reads everything at once.
    Boundary(Boundary),
    /// Counts the requests of this load from now on, and reads everything at once.
    Requests(Arc<Progress>),
    /// Makes the runtime collect at intervals from now on.
    Open(Window),
    /// Ends that.
    CloseWindow,
    /// Asks whether the runtime can be made to collect.
    CanForceCollections(SyncSender<bool>),
    /// Asks for the goroutines at the last reading.
    Goroutines(SyncSender<Option<(u64, u64)>>),
}

/// The running thread.
pub struct Sampler {
    requests: SyncSender<(Requested, SyncSender<()>)>,
    thread: JoinHandle<Recorder>,
}

impl Sampler {
    /// Starts reading.
    ///
    /// # Errors
    /// Fails if the thread cannot be started.
    pub fn start(recorder: Recorder) -> Result<Self> {
        let (requests, received) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("sampler".to_owned())
            .spawn(move || run(recorder, &received))
            .map_err(|error| failure(&error.to_string()))?;
        Ok(Self { requests, thread })
    }

    /// Performs a request. Returns when it is done, about a millisecond later.
    ///
    /// # Errors
    /// Fails if the thread has died.
    pub fn request(&self, what: Requested) -> Result<()> {
        let (done, wait) = sync_channel(1);
        self.requests.send((what, done)).map_err(|_| failure("it ended early"))?;
        wait.recv().map_err(|_| failure("it ended early"))
    }

    /// Whether the runtime can be made to collect.
    ///
    /// # Errors
    /// Fails if the thread has died.
    pub fn can_force_collections(&self) -> Result<bool> {
        self.ask(Requested::CanForceCollections)
    }

    /// When the goroutines were last counted, ns since launch, and their number; `None` if it is not known.
    ///
    /// # Errors
    /// Fails if the thread has died.
    pub fn goroutines(&self) -> Result<Option<(u64, u64)>> {
        self.ask(Requested::Goroutines)
    }

    fn ask<T>(&self, question: impl FnOnce(SyncSender<T>) -> Requested) -> Result<T> {
        let (answer, wait) = sync_channel(1);
        self.request(question(answer))?;
        wait.recv().map_err(|_| failure("it ended early"))
    }

    /// Ends the thread after a last reading of the records.
    ///
    /// # Errors
    /// Fails if the thread has died.
    pub fn finish(self) -> Result<Recorder> {
        drop(self.requests);
        self.thread.join().map_err(|_| failure("it panicked"))
    }
}

fn failure(what: &str) -> Error {
    Error::infrastructure(Stage::Collect, format!("the sampler's thread: {what}"), "please report this")
}

fn run(mut recorder: Recorder, requests: &Receiver<(Requested, SyncSender<()>)>) -> Recorder {
    let mut next_tick = Instant::now();
    loop {
        let next = next_tick.min(recorder.look_at());
        match requests.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok((what, done)) => {
                perform(&mut recorder, what);
                // The caller may no longer wait.
                let _ = done.send(());
            }
            Err(RecvTimeoutError::Timeout) => {
                let soon = Instant::now() + AT_ONCE;
                if recorder.look_at() <= soon {
                    recorder.look();
                }
                if next_tick <= soon {
                    recorder.tick();
                    next_tick += INTERVAL;
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                recorder.drain();
                return recorder;
            }
        }
    }
}

fn perform(recorder: &mut Recorder, what: Requested) {
    match what {
        Requested::Reading => {}
        Requested::Boundary(boundary) => recorder.reach(boundary),
        Requested::Requests(progress) => recorder.watch_requests(progress),
        Requested::Open(window) => return recorder.open(window),
        Requested::CloseWindow => return recorder.close_window(),
        Requested::CanForceCollections(to) => return answer(&to, recorder.can_force_collections()),
        Requested::Goroutines(to) => return answer(&to, recorder.goroutines()),
    }
    recorder.read_all();
}

/// Answers a question. The caller may no longer wait.
fn answer<T>(to: &SyncSender<T>, answer: T) {
    let _ = to.send(answer);
}
