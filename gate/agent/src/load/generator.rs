//! The thread that drives all connections.
//!
//! The pacer releases one permit for each request when it is due. The clients wait for permits in a fair queue, so that
//! they take turns. A client with a permit takes the oldest request that has not been sent. Requests are numbered in
//! the order of their intended starts, so the queue of due requests is a counter.
//!
//! A request that has waited for a connection for longer than its timeout is not sent any more, and one that is sent has
//! its whole timeout for the answer. So an overloaded service works on requests that somebody waits for, and answers as
//! many as it can.

use std::{
    ops::Range,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use memgate_evidence::{
    error::{Error, InputError, Result},
    plan::{self, HttpLoad, HttpVersion, Transport},
};
use nix::sys::resource::{Resource, getrlimit};
use tokio::{
    runtime::Runtime,
    sync::{Notify, Semaphore},
    task::JoinSet,
};

use super::{
    Client, Endpoints, LoadError, LoadOutcome, Progress, RequestFailure, RequestKind, Schedule,
    client::Link,
    dial::Dialer,
    http1::Http1,
    http2::Http2,
    meter::Meter,
    mix::Mix,
    relay::Relay,
    schedule::{Pace, Phase},
    tally::{Missing, Tally},
    timer::Timer,
    tls::Connector,
    values::{Captured, Values},
};
use crate::socket::Socket;

/// The highest accepted rate, requests per second. One thread cannot send that many.
const HIGHEST_RATE: f64 = 1e6;

/// File descriptors that are reserved for everything except the connections.
const OTHER_FILES: u64 = 128;

/// Starts a load, as [`start`] does. The agent in a guest, whose load the host drives, names no function of the generator,
/// so the linker leaves it out.
pub type Start = fn(&HttpLoad, u64, Schedule, &Site) -> Result<LoadHandle>;

/// Where the service runs, as far as its unix socket is concerned.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// Its working directory.
    pub directory: PathBuf,
    /// The id of its user. Nobody else may listen at the socket; `None` if that does not matter.
    pub user: Option<u32>,
}

/// A load that is running or waits for its start.
///
/// Dropping it ends the load and closes its connections.
#[derive(Debug)]
pub struct LoadHandle {
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// The state that the clients of the load share. Only `aborted` is used by more than one thread.
#[derive(Debug)]
struct Shared {
    pace: Pace,
    requests: Requests,
    dialer: Arc<Dialer>,
    /// One permit for each request that is due and that no client has taken.
    due: Semaphore,
    /// The oldest request that no client has taken.
    next: AtomicU64,
    tally: Mutex<Option<Tally>>,
    aborted: Notify,
}

/// The requests of a load, ready to be sent.
#[derive(Debug)]
pub(super) struct Requests {
    mix: Mix,
    kinds: Vec<RequestKind>,
    pub(super) endpoints: Endpoints,
    seed: u64,
    rows: Option<plan::Rows>,
    connections: u32,
    transport: Transport,
    tls: Option<Connector>,
}

/// The clients of a load, one for each request at a time.
pub(super) enum Clients {
    Http1(Vec<Client<Http1>>),
    Http2(Vec<Client<Http2>>),
}

impl Requests {
    /// The kind of the request with this index.
    pub(super) fn kind(&self, index: u64) -> &RequestKind {
        &self.kinds[self.mix.kind(index)]
    }

    /// The values of the request with this index.
    pub(super) fn values(&self, index: u64) -> Values<'_> {
        Values::of(self.seed, index, self.rows.as_ref())
    }

    /// The kind that a client sends which has captured these values: `kind`, or one that captures what it lacks.
    pub(super) fn first_for<'a>(&'a self, kind: &'a RequestKind, captured: &Captured) -> &'a RequestKind {
        let mut first = kind;
        // No chain of needs is longer than there are kinds.
        for _ in &self.kinds {
            let Some(missing) = first.lacks(captured) else { break };
            first = self.kinds.iter().find(|kind| kind.capture.contains_key(missing)).unwrap_or(first);
        }
        first
    }

    /// How many requests there are at a time at most.
    fn at_once(&self) -> u64 {
        u64::from(self.connections) * u64::from(self.transport.http.streams())
    }

    /// How the clients connect on this machine.
    fn dialer(&self, site: &Site) -> Dialer {
        let tls = self.tls.clone();
        match &self.transport.unix {
            None => Dialer::network(tls),
            Some(name) => Dialer::socket(Socket::of(name, &site.directory), site.user, tls),
        }
    }

    /// How the clients connect in a guest.
    pub(super) fn dialer_over(&self, relay: &Relay) -> Dialer {
        Dialer::guest(relay.clone(), self.transport.unix.is_some(), self.tls.clone())
    }

    /// The clients. Those that are next to each other have different connections, so that all connections take turns.
    pub(super) fn clients(&self, dialer: &Arc<Dialer>) -> Clients {
        let (endpoints, keep_alive) = (self.endpoints.len(), self.transport.keep_alive);
        let connections = 0..self.connections;
        match self.transport.http {
            HttpVersion::Http1 => {
                Clients::Http1(connections.map(|_| Client::http1(dialer, endpoints, keep_alive)).collect())
            }
            HttpVersion::Http2 { streams } => {
                let first: Vec<_> = connections.map(|_| Client::http2(dialer, endpoints, keep_alive)).collect();
                Clients::Http2((0..streams).flat_map(|_| first.iter().map(Client::stream)).collect())
            }
        }
    }
}

/// Starts the thread of the load. Requests begin at `schedule.start`.
///
/// `seed` decides the order of the kinds of requests. `site` is where the service runs.
///
/// # Errors
/// Fails with [`Error::Input`] if the load cannot be sent, and with [`LoadError`] if the machine does not allow that
/// many connections, a host cannot be resolved, or the thread cannot be started.
pub fn start(load: &HttpLoad, seed: u64, schedule: Schedule, site: &Site) -> Result<LoadHandle> {
    let requests = prepare(load, seed)?;
    let dialer = Arc::new(requests.dialer(site));
    check_file_limit(u64::from(load.connections).saturating_mul(requests.endpoints.len() as u64))?;
    let progress = Arc::new(Progress::default());
    let shared = Arc::new(Shared {
        pace: Pace::new(schedule, load.rate_per_second, Duration::from_millis(load.timeout_ms)),
        requests,
        dialer,
        due: Semaphore::new(0),
        next: AtomicU64::new(0),
        tally: Mutex::new(Some(Tally::new(Arc::clone(&progress))?)),
        aborted: Notify::new(),
    });
    let thread = spawn(Arc::clone(&shared))?;
    Ok(LoadHandle { shared, progress, thread: Some(thread) })
}

/// Checks a load.
///
/// # Errors
/// Fails with [`Error::Input`] if the load cannot be sent, and with [`LoadError`] if a host cannot be resolved.
pub(super) fn prepare(load: &HttpLoad, seed: u64) -> Result<Requests> {
    check(load)?;
    let (endpoints, kinds) = kinds(load)?;
    let mix = Mix::new(seed, load.requests.iter().map(|request| request.weight)).ok_or_else(|| {
        InputError::new("The load has no requests.", "Give at least one request a weight of 1 or more.")
    })?;
    let transport = load.transport.clone();
    let is_http2 = matches!(transport.http, HttpVersion::Http2 { .. });
    let tls = transport.tls.as_ref().map(|tls| Connector::new(tls, is_http2)).transpose()?;
    let (connections, rows) = (load.connections, load.rows.clone());
    Ok(Requests { mix, kinds, endpoints, seed, rows, connections, transport, tls })
}

/// The endpoints and the kinds of requests of a load.
fn kinds(load: &HttpLoad) -> Result<(Endpoints, Vec<RequestKind>)> {
    let mut endpoints = Endpoints::new();
    let new = if load.transport.unix.is_some() { RequestKind::of_socket } else { RequestKind::new };
    let kind = |request| new(request, &mut endpoints)?.with_values(request, load.rows.as_ref());
    let mut kinds = load.requests.iter().map(kind).collect::<Result<Vec<_>>>()?;
    if let HttpVersion::Http2 { .. } = load.transport.http {
        kinds = kinds.into_iter().map(|kind| kind.for_http2(&endpoints)).collect::<Result<_>>()?;
    }
    Ok((endpoints, kinds))
}

fn check(load: &HttpLoad) -> Result<()> {
    let wrong = |message: String, help: &str| Err(InputError::new(message, help).into());
    if !(load.rate_per_second > 0.0 && load.rate_per_second <= HIGHEST_RATE) {
        let message = format!("A load of {} requests/s is impossible.", load.rate_per_second);
        return wrong(message, "Write a rate above 0 and up to 1,000,000/s, such as `rate: 500/s`.");
    }
    if load.connections == 0 {
        return wrong("A load needs at least one connection.".into(), "Write `connections: 32`.");
    }
    if load.timeout_ms == 0 {
        return wrong("A timeout of 0 fails every request.".into(), "Write `timeout: 5s`.");
    }
    if load.transport.http.streams() == 0 {
        return wrong("A connection needs at least one stream.".into(), "Write `streams: 16`.");
    }
    let is_https = |request: &&plan::Request| request.url.starts_with("https://");
    if let (Some(request), None) = (load.requests.iter().find(is_https), &load.transport.tls) {
        let message = format!("The load does not say which certificates it accepts from `{}`.", request.url);
        return wrong(message, "Write `tls: { ca: FILE }` or `tls: { insecure: true }`.");
    }
    Ok(())
}

/// Checks before the load that there are enough file descriptors, so that requests do not fail for that reason.
fn check_file_limit(connections: u64) -> Result<()> {
    let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(()) };
    let needed = connections.saturating_add(OTHER_FILES);
    if needed <= soft { Ok(()) } else { Err(LoadError::TooFewFiles { connections, limit: soft, needed }.into()) }
}

/// The runtime of a load's thread.
pub(super) fn runtime() -> Result<Runtime> {
    // If many tasks are ready, tokio checks for events only after 61 of them by default. The pacer must not wait that
    // long.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().event_interval(16).build();
    Ok(runtime.map_err(LoadError::NotStarted)?)
}

fn spawn(shared: Arc<Shared>) -> Result<JoinHandle<Result<()>>> {
    let runtime = runtime()?;
    let thread = std::thread::Builder::new().name("memgate-load".into()).spawn(move || drive(&runtime, &shared));
    Ok(thread.map_err(LoadError::NotStarted)?)
}

/// The work of the thread.
fn drive(runtime: &Runtime, shared: &Arc<Shared>) -> Result<()> {
    runtime.block_on(async {
        let mut clients = match shared.requests.clients(&shared.dialer) {
            Clients::Http1(clients) => spawn_all(shared, clients),
            Clients::Http2(clients) => spawn_all(shared, clients),
        };
        tokio::select! {
            biased;
            () = shared.aborted.notified() => Ok(()),
            ended = run(shared, &mut clients) => ended,
        }
    })
}

fn spawn_all<L: Link>(shared: &Arc<Shared>, clients: Vec<Client<L>>) -> JoinSet<()> {
    clients.into_iter().map(|client| serve(Arc::clone(shared), client)).collect()
}

/// Releases every request, then waits until each has ended, the last one at the latest after its timeout twice.
async fn run(shared: &Shared, clients: &mut JoinSet<()>) -> Result<()> {
    pace(shared).await.map_err(LoadError::Timer)?;
    while let Some(ended) = clients.join_next().await {
        ended.map_err(LoadError::Client)?;
    }
    Ok(())
}

/// Releases requests when they are due. At the end it releases one more permit for each client, which finds no request
/// and ends.
async fn pace(shared: &Shared) -> std::io::Result<()> {
    let timer = Timer::new()?;
    let warmup = shared.pace.length(Phase::Warmup);
    let measured = warmup + shared.pace.length(Phase::Measure);
    let mut meter = None;
    let mut is_measured = false;
    let mut released = 0;
    while released < shared.pace.total() {
        timer.sleep_until(shared.pace.intended(released)).await?;
        let now = Instant::now();
        let due = shared.pace.due_by(now);
        shared.release(released..due, now);
        released = released.max(due);
        if released > warmup && meter.is_none() {
            meter = Meter::start();
        }
        if released >= measured && !is_measured {
            is_measured = true;
            let share = meter.as_ref().and_then(Meter::share);
            shared.tally(|tally| tally.record_busy_share(share));
        }
    }
    shared.add_permits(shared.requests.at_once());
    Ok(())
}

/// Runs a client, which takes one request after the other until none is left.
async fn serve<L: Link>(shared: Arc<Shared>, mut client: Client<L>) {
    loop {
        let free_since = Instant::now();
        match shared.due.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => return,
        }
        let index = shared.next.fetch_add(1, Ordering::Relaxed);
        if index >= shared.pace.total() {
            return;
        }
        shared.answer(&mut client, index, free_since).await;
    }
}

impl Shared {
    /// Lets the clients take the requests with these indices.
    fn release(&self, requests: Range<u64>, now: Instant) {
        self.add_permits(requests.end.saturating_sub(requests.start));
        self.tally(|tally| {
            for index in requests {
                let late = now.saturating_duration_since(self.pace.intended(index));
                tally.record_release(self.pace.phase(index), late);
            }
        });
    }

    fn add_permits(&self, count: u64) {
        self.due.add_permits(usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS));
    }

    /// Sends a request, waits for the answer and counts it.
    async fn answer<L: Link>(&self, client: &mut Client<L>, index: u64, free_since: Instant) {
        let (phase, intended) = (self.pace.phase(index), self.pace.intended(index));
        let taken = Instant::now();
        let deadline = self.pace.deadline(taken);
        self.tally(|tally| tally.record_sending(phase, taken.saturating_duration_since(intended.max(free_since))));
        let outcome = if self.pace.is_too_late(index, taken) {
            Err(RequestFailure::NotSent)
        } else {
            let exchange = client.answer(&self.requests, index);
            tokio::time::timeout_at(deadline.into(), exchange).await.unwrap_or(Err(RequestFailure::Timeout))
        };
        let ended = Instant::now();
        // The runtime's timer is coarser than the clock.
        let in_time = ended <= deadline || outcome == Err(RequestFailure::NotSent);
        let outcome = if in_time { outcome.map(|_| ()) } else { Err(RequestFailure::Timeout) };
        self.tally(|tally| tally.record(phase, outcome, ended.saturating_duration_since(intended)));
    }

    fn tally(&self, count: impl FnOnce(&mut Tally)) {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(count);
    }
}

impl LoadHandle {
    /// The counts so far.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Whether every request has ended, so that [`Self::finish`] returns at once.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the load early, because the service has died or the run is interrupted.
    ///
    /// Every unfinished request of the phases counts as failed, `not sent`, even if it was not due yet.
    pub fn abort(&self) {
        self.shared.aborted.notify_one();
    }

    /// Waits for the end of the load, and closes all connections. It ends at most twice the request timeout after the
    /// last phase.
    ///
    /// For each phase, `intended = succeeded + Σ failed`.
    ///
    /// # Errors
    /// Fails with [`LoadError`] if the generator itself failed.
    pub fn finish(mut self) -> Result<LoadOutcome> {
        self.join()?;
        let tally = self.shared.tally.lock().unwrap_or_else(PoisonError::into_inner).take();
        let missing = |phase| Missing { intended: self.shared.pace.length(phase), reason: RequestFailure::NotSent };
        tally.map(|mut tally| tally.finish(missing)).ok_or_else(panicked)
    }

    fn join(&mut self) -> Result<()> {
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap_or_else(|_| Err(panicked())))
    }
}

impl Drop for LoadHandle {
    fn drop(&mut self) {
        self.abort();
        // Nobody needs the outcome or its error any more.
        let _: Result<()> = self.join();
    }
}

fn panicked() -> Error {
    LoadError::Panicked.into()
}
