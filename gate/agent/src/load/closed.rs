//! The load of a service in a guest, driven from the host.
//!
//! The load is closed-loop: each connection sends its next request when its last one was answered, and all together no
//! faster than the rate. A guest therefore gets the same requests however slow its emulated processor is. Between two
//! phases no request is in flight, so the counts at their ends are exact.

use std::{
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use memgate_evidence::{
    error::{Result, in_full},
    plan::{HttpLoad, Length, PhaseLengths},
};
use memgate_qemu::channel::Step;
use tokio::{
    sync::{Notify, mpsc::UnboundedReceiver},
    task::JoinSet,
};

use super::{
    Client, LoadError, LoadOutcome, Progress, RequestFailure,
    client::Link,
    generator::{Clients, Requests, prepare, runtime},
    relay::{Asked, Relay},
    schedule::{self, Phase},
    tally::{Missing, Tally},
};

/// How much longer than at the rate a phase may take.
const LONGEST: u32 = 4;

/// How many times its timeout a request may take on an emulated processor.
const PATIENCE: u32 = 10;

/// How far the load may fall behind the rate and still catch up, so that short hold-ups do not lower the rate.
const SLACK: Duration = Duration::from_millis(100);

/// The load of a service in a guest. Dropping it ends it.
#[derive(Debug)]
pub struct GuestLoad {
    aborted: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

impl GuestLoad {
    /// Whether it has ended: it was stopped, or the guest is gone.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for GuestLoad {
    fn drop(&mut self) {
        self.aborted.notify_one();
        // What it failed of, the agent knows.
        let _: Option<std::thread::Result<()>> = self.thread.take().map(JoinHandle::join);
    }
}

/// What the clients share.
#[derive(Debug)]
struct Shared {
    requests: Requests,
    /// The number of requests of each phase, and how long it may take.
    phases: [(u64, Duration); 3],
    /// The time between two requests at the rate.
    period: Duration,
    timeout: Duration,
    tally: Mutex<Tally>,
    /// Whether the agent has begun it, by phase. It decides whether there is a tail.
    begun: [AtomicBool; 3],
    /// Whether time ran out, by phase.
    out_of_time: [AtomicBool; 3],
}

/// Starts the thread of the load of a guest. It waits until the agent begins a phase over `port`.
///
/// # Errors
/// Fails as [`start`](super::start), of which the agent hears nothing.
pub fn start_for_guest(load: &HttpLoad, seed: u64, lengths: &PhaseLengths, port: UnixStream) -> Result<GuestLoad> {
    let requests = prepare(load, seed)?;
    let progress = Arc::new(Progress::default());
    let rate = load.rate_per_second;
    let tail = schedule::window_in(schedule::duration(lengths.measure, rate));
    let tail = Length::Ms(u64::try_from(tail.as_millis()).unwrap_or(u64::MAX));
    let phases = [lengths.warmup, lengths.measure, tail]
        .map(|length| (schedule::requests(length, rate), schedule::duration(length, rate).saturating_mul(LONGEST)));
    let shared = Arc::new(Shared {
        requests,
        phases,
        period: Duration::from_secs_f64(1.0 / rate),
        timeout: Duration::from_millis(load.timeout_ms).saturating_mul(PATIENCE),
        tally: Mutex::new(Tally::new(Arc::clone(&progress))?),
        begun: Default::default(),
        out_of_time: Default::default(),
    });
    let aborted = Arc::new(Notify::new());
    let (runtime, abort) = (runtime()?, Arc::clone(&aborted));
    let thread = std::thread::Builder::new().name("memgate-load".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                biased;
                () = abort.notified() => {}
                () = drive(&shared, port, progress) => {}
            }
        });
    });
    Ok(GuestLoad { aborted, thread: Some(thread.map_err(LoadError::NotStarted)?) })
}

/// Serves the agent until it has the figures. If the port cannot be used, it is closed, and the agent knows it.
async fn drive(shared: &Arc<Shared>, port: UnixStream, progress: Arc<Progress>) {
    let Ok((relay, mut asks)) = Relay::new(port, progress) else { return };
    let dialer = Arc::new(shared.requests.dialer_over(&relay));
    let ended = match shared.requests.clients(&dialer) {
        Clients::Http1(clients) => serve(shared, &relay, clients, &mut asks).await,
        Clients::Http2(clients) => serve(shared, &relay, clients, &mut asks).await,
    };
    let figures = ended.map(|()| shared.outcome()).map_err(|error| in_full(&error));
    if let Ok(figures) = serde_json::to_vec(&figures) {
        relay.send_figures(&figures).await;
    }
    // The agent closes the port after it has read everything.
    while asks.recv().await.is_some() {}
}

/// Runs the phases that the agent asks for, until it asks for the end.
async fn serve<L: Link>(
    shared: &Arc<Shared>,
    relay: &Relay,
    mut clients: Vec<Client<L>>,
    asks: &mut UnboundedReceiver<Asked>,
) -> Result<(), LoadError> {
    while let Some(Asked::Begin(number)) = asks.recv().await {
        let Some(phase) = Phase::numbered(number) else { return Ok(()) };
        shared.begun[phase.number()].store(true, Ordering::Relaxed);
        tokio::select! {
            ended = run(shared, phase, clients) => clients = ended?,
            // The service has ended, or the port is gone.
            _ = asks.recv() => return Ok(()),
        }
        relay.send(Step::Done, number, &[]);
    }
    Ok(())
}

/// Sends the requests of a phase. At the end none is in flight.
async fn run<L: Link>(
    shared: &Arc<Shared>,
    phase: Phase,
    clients: Vec<Client<L>>,
) -> Result<Vec<Client<L>>, LoadError> {
    let turns = Arc::new(tokio::sync::Mutex::new(Turns::new(shared, phase)));
    let mut running = JoinSet::new();
    for mut client in clients {
        let (shared, turns) = (Arc::clone(shared), Arc::clone(&turns));
        running.spawn(async move {
            loop {
                // The mutex is fair, so that the clients take turns.
                let Some(index) = turns.lock().await.next(&shared).await else { return client };
                shared.answer(&mut client, phase, index).await;
            }
        });
    }
    let mut clients = Vec::new();
    while let Some(client) = running.join_next().await {
        clients.push(client.map_err(LoadError::Client)?);
    }
    Ok(clients)
}

/// The order of a phase's requests.
#[derive(Debug)]
struct Turns {
    phase: Phase,
    next: u64,
    end: u64,
    /// When the next request may be sent.
    due: Instant,
    /// When the phase ends even if requests are left.
    until: Instant,
}

impl Turns {
    fn new(shared: &Shared, phase: Phase) -> Self {
        let now = Instant::now();
        let (count, longest) = shared.phases[phase.number()];
        // A request's number decides its kind, so the phase has the same kinds even if the one before it was cut short.
        let next = shared.phases[..phase.number()].iter().map(|(count, _)| count).sum();
        Self { phase, next, end: next + count, due: now, until: now + longest }
    }

    /// Waits until a request may be sent, and returns its number; `None` if there is none left, or no time.
    async fn next(&mut self, shared: &Shared) -> Option<u64> {
        if self.next == self.end {
            return None;
        }
        tokio::time::sleep_until(self.due.into()).await;
        let now = Instant::now();
        if now >= self.until {
            shared.out_of_time[self.phase.number()].store(true, Ordering::Relaxed);
            return None;
        }
        self.due = self.due.max(now.checked_sub(SLACK).unwrap_or(now)) + shared.period;
        self.next += 1;
        Some(self.next - 1)
    }
}

impl Shared {
    /// Sends a request, waits for the answer and counts it.
    async fn answer<L: Link>(&self, client: &mut Client<L>, phase: Phase, index: u64) {
        let sent = Instant::now();
        let exchange = client.answer(&self.requests, index);
        let outcome =
            tokio::time::timeout(self.timeout, exchange).await.unwrap_or(Err(RequestFailure::Timeout)).map(|_| ());
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).record(phase, outcome, sent.elapsed());
    }

    /// The figures so far. Requests that are missing because time ran out are no failures of the service.
    fn outcome(&self) -> LoadOutcome {
        let missing = |phase: Phase| {
            let is_out_of_time = self.out_of_time[phase.number()].load(Ordering::Relaxed);
            let reason = if is_out_of_time { RequestFailure::NoTime } else { RequestFailure::NotSent };
            // Only the agent knows whether there is a tail.
            let is_without = phase == Phase::Tail && !self.begun[phase.number()].load(Ordering::Relaxed);
            let intended = if is_without { 0 } else { self.phases[phase.number()].0 };
            Missing { intended, reason }
        };
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.finish(missing)
    }
}
