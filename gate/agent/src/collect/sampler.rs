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

use super::{collector::Boundary, recorder::Recorder};
use crate::load::Progress;

/// Between two ticks of the recorder.
const INTERVAL: Duration = Duration::from_millis(100);

/// What the sampler can be asked for besides its readings at intervals.
#[derive(Debug)]
pub enum Requested {
    /// Read everything at once: a phase begins or ends that no collector acts on.
    Reading,
    /// Act on a boundary, and read everything at once.
    Boundary(Boundary),
    /// Count the requests of this load from now on, and read everything at once.
    Requests(Arc<Progress>),
    /// Note the processes of the service's cgroup, and its transparent huge pages since the launch.
    Cgroup(Vec<nix::unistd::Pid>, Option<u64>),
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
    /// When the thread cannot be started.
    pub fn start(recorder: Recorder) -> Result<Self> {
        let (requests, received) = sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("sampler".to_owned())
            .spawn(move || run(recorder, &received))
            .map_err(|error| failure(&error.to_string()))?;
        Ok(Self { requests, thread })
    }

    /// Has something done; returns when it is, about a millisecond later.
    ///
    /// # Errors
    /// When the thread has died.
    pub fn request(&self, what: Requested) -> Result<()> {
        let (done, wait) = sync_channel(1);
        self.requests.send((what, done)).map_err(|_| failure("it ended early"))?;
        wait.recv().map_err(|_| failure("it ended early"))
    }

    /// Ends the thread after a last reading of the records.
    ///
    /// # Errors
    /// When the thread has died.
    pub fn finish(self) -> Result<Recorder> {
        drop(self.requests);
        self.thread.join().map_err(|_| failure("it panicked"))
    }
}

fn failure(what: &str) -> Error {
    Error::infrastructure(Stage::Collect, format!("the sampler's thread: {what}"), "please report this")
}

fn run(mut recorder: Recorder, requests: &Receiver<(Requested, SyncSender<()>)>) -> Recorder {
    let mut next = Instant::now();
    loop {
        match requests.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok((what, done)) => {
                perform(&mut recorder, what);
                // The one who asked may have given up.
                let _ = done.send(());
            }
            Err(RecvTimeoutError::Timeout) => {
                recorder.tick();
                next += INTERVAL;
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
        Requested::Cgroup(processes, thp_events) => return recorder.see_cgroup(&processes, thp_events),
    }
    recorder.read_all();
}
