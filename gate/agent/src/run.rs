//! One run: launch, wait until ready, warm up, measure, load on and collect, drain, stop.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use memgate_evidence::{
    Ending, Evidence, Phases, Requests, TimeSpan,
    error::{Error, FailureKind, Result, Stage, in_full},
    plan::{Length, Load, PhaseLengths, Plan},
    platform::Platform,
};
use memgate_goexe::{GoExe, GoExeError};

use super::{
    beside::{Beside, INHERITED, NEEDED},
    cgroup::Cgroup,
    child,
    clock::Clock,
    collect::{self, Boundary, Elsewhere, Recorder, Requested, Sampler, Window},
    drain::Falling,
    environment,
    launch::{self, LaunchError, ServiceProcess, Unseen},
    listeners::{Targets, When},
    load::{self, LoadCommand, LoadError, LoadHandle, LoadOutcome, Schedule, Site},
    process::CommandLine,
    ready, rest,
    socket::Socket,
};
use crate::{
    cancel::Cancel,
    in_guest::{relay::HostLoad, serve::memory_for_the_service},
    wait::Exit,
};

/// The least time from the service's first answer to the reading of the idle service.
const SETTLE: Duration = Duration::from_millis(200);

/// The most time for a service to come to rest before a reading without load. A service that is never at rest is read
/// after this time.
const REST: Duration = Duration::from_secs(3);

/// The time between two looks at a load command in the tail, and at the goroutines in the drain.
const LOOK: Duration = Duration::from_millis(200);

/// Why an executable cannot be run.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ExecutableError {
    /// It cannot be read, or memgate cannot measure executables of its kind.
    #[error(transparent)]
    #[diagnostic(help("memgate measures ELF executables of its platforms"))]
    Unfit(#[from] GoExeError),
    /// It was built for another platform than the plan's.
    #[error("{executable} was built for {found}, not for {wanted}")]
    #[diagnostic(help("name an executable for that platform under `binary`"))]
    OtherPlatform {
        /// The executable.
        executable: PathBuf,
        /// The platform of the executable.
        found: Platform,
        /// The platform of the plan.
        wanted: Platform,
    },
}

impl FailureKind for ExecutableError {
    fn stage(&self) -> Stage {
        Stage::Collect
    }
}

/// Who drives the built-in load of a run.
#[derive(Debug, Clone, Copy)]
pub enum Driver {
    /// This process, with [`load::start`].
    Here(load::Start),
    /// The host of this guest, over the load's port.
    Host,
}

/// The logs of a run: the files that it writes in addition to its evidence.
#[derive(Debug, Clone)]
pub struct RunLogs {
    /// The service's output.
    pub service_log: PathBuf,
    /// The load command's output.
    pub load_log: PathBuf,
    /// The outputs of sidecars and of what runs before the service, by what [`sidecar_log`] and [`before_log`] name.
    pub more: BTreeMap<String, PathBuf>,
}

/// The name of the log of a sidecar.
pub fn sidecar_log(name: &str) -> String {
    format!("sidecar-{name}")
}

/// The name of the log of a command before the service, of which 0 is the first.
pub fn before_log(index: usize) -> String {
    format!("before-{}", index + 1)
}

impl RunLogs {
    /// The logs of a run of this plan. `log` makes the path of a log of its name.
    pub fn of(plan: &Plan, log: impl Fn(&str) -> PathBuf) -> Self {
        let sidecars = plan.sidecars.iter().map(|sidecar| sidecar_log(&sidecar.name));
        let names = sidecars.chain((0..plan.before.len()).map(before_log));
        let more = names.map(|name| (name.clone(), log(&name))).collect();
        Self { service_log: log("service"), load_log: log("load"), more }
    }

    /// The log of a sidecar.
    pub(crate) fn sidecar(&self, name: &str) -> PathBuf {
        self.named(&sidecar_log(name))
    }

    /// The log of a command before the service, of which 0 is the first.
    pub(crate) fn before(&self, index: usize) -> PathBuf {
        self.named(&before_log(index))
    }

    fn named(&self, name: &str) -> PathBuf {
        self.more.get(name).cloned().unwrap_or_else(|| self.service_log.with_extension(format!("{name}.log")))
    }
}

/// The progress of a run.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum RunEvent {
    /// A guest is starting.
    Booting,
    /// A guest that has booted before resumes.
    Resuming,
    /// What the service needs starts.
    Preparing,
    /// The collectors attach, and the service starts.
    Launching,
    /// A phase has begun; it takes this long.
    WarmingUp(Duration),
    /// A phase has begun; it takes this long.
    Measuring(Duration),
    /// A phase has begun; it takes this long.
    Collecting(Duration),
    /// A phase has begun; it takes this long, or longer while goroutines end.
    Draining(Duration),
    /// The service is asked to end.
    Stopping,
    /// What a run that fails has done to the machine, or could not end or remove. A run that succeeds has it among the
    /// notes of its evidence.
    Note(String),
}

/// Runs the plan on this machine.
///
/// Call it on the thread that lives longest, because the service is killed when that thread ends.
///
/// # Errors
/// Fails if the run cannot be made, or if the service never becomes ready, which leaves nothing to judge. A service
/// that ends early is not an error; the evidence shows it.
pub async fn run(
    plan: &Plan,
    logs: &RunLogs,
    driver: Driver,
    event: &dyn Fn(RunEvent),
    cancel: &Cancel,
) -> Result<Evidence> {
    let exe = GoExe::open(&plan.executable).map_err(ExecutableError::Unfit)?;
    if exe.platform != plan.platform {
        let (found, wanted) = (exe.platform, plan.platform);
        return Err(ExecutableError::OtherPlatform { executable: plan.executable.clone(), found, wanted }.into());
    }
    let (mut beside, named) = Beside::prepare(plan)?;
    let outcome = tokio::select! {
        outcome = Box::pin(measure(plan, &named, exe, &mut beside, logs, driver, event)) => outcome,
        () = cancel.cancelled() => Err(Error::Interrupted),
    };
    // On every way: a database that is killed leaves more behind than one that ends.
    let notes = beside.stop().await;
    match outcome {
        Ok(mut evidence) => {
            evidence.notes.extend(notes);
            Ok(evidence)
        }
        Err(error) => {
            notes.into_iter().for_each(|note| event(RunEvent::Note(note)));
            Err(error)
        }
    }
}

/// Starts what the service needs, and then the service, and measures it. `named` is the plan with the names of this run
/// put in. Dropping it ends the service.
async fn measure(
    plan: &Plan,
    named: &Plan,
    exe: GoExe,
    beside: &mut Beside,
    logs: &RunLogs,
    driver: Driver,
    event: &dyn Fn(RunEvent),
) -> Result<Evidence> {
    ready::is_free(&named.ready, &named.directory)?;
    let targets = Targets::of(named)?;
    targets.are_free()?;
    if !plan.dependencies().is_empty() {
        event(RunEvent::Preparing);
        beside.start(named, logs).await?;
    }
    event(RunEvent::Launching);
    let started_at = jiff::Timestamp::now().to_string();
    let beside = &*beside;
    let to_the_end = async {
        let mut running = Running::launch(named, &exe, beside, logs, driver).await?;
        // Words such as those of a sidecar are told as the configuration has them.
        let environment = environment::describe(&exe, plan);
        running.notes.extend(environment::notes(&environment));
        // The executable is large, and the collectors have copied what they need.
        drop(exe);
        give_memory_back();
        let figures = running.phases(named, &targets, logs, driver, event).await?;
        event(RunEvent::Stopping);
        running.finish(named, figures, started_at, environment).await
    };
    tokio::select! {
        evidence = to_the_end => evidence,
        error = beside.failure(NEEDED) => Err(error),
    }
}

/// Returns freed memory to the system, because the service and its watcher share the machine. glibc keeps tens of
/// megabytes after large allocations. Other C libraries do not, and have no such call.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function has no preconditions, and uses only free memory.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// A launched service with its collectors.
struct Running<'a> {
    beside: &'a Beside,
    service: ServiceProcess,
    sampler: Sampler,
    clock: Clock,
    phases: Phases,
    notes: Vec<String>,
    /// How the service ended by itself, and when, if it did.
    early_end: Option<(Exit, u64)>,
}

impl<'a> Running<'a> {
    async fn launch(plan: &Plan, exe: &GoExe, beside: &'a Beside, logs: &RunLogs, driver: Driver) -> Result<Self> {
        let limit = plan.memory_max.or_else(|| match driver {
            Driver::Here(_) => None,
            Driver::Host => memory_for_the_service(logs.more.len()),
        });
        let cgroup = Cgroup::create(limit).map_err(LaunchError::Limit)?;
        let notes = cgroup.notes.clone();
        let stopped = launch::spawn(plan, exe.file, cgroup, &logs.service_log).await?;
        let clock =
            |error| Error::caused(Stage::Collect, "the kernel has no monotonic clock", error, "use another kernel");
        let options = collect::Options { collecting: plan.collecting, ..collect::Options::default() };
        let mut recorder = Recorder::attach(exe, stopped.pid(), Clock::start().map_err(clock)?, options)?;
        let clock = Clock::start().map_err(clock)?;
        recorder.set_clock(clock);
        recorder.watch_cgroup(stopped.cgroup().files().clone());
        if plan.watch.is_some() {
            recorder.expect_others();
        }
        let service = stopped.resume()?;
        let sampler = Sampler::start(recorder)?;
        let phases = Phases { warmup: None, measure: None, tail: None, drain: None };
        Ok(Self { beside, service, sampler, clock, phases, notes, early_end: None })
    }

    /// Runs every phase that starts before the service ends. Returns the figures of the load.
    async fn phases(
        &mut self,
        plan: &Plan,
        targets: &Targets,
        logs: &RunLogs,
        driver: Driver,
        event: &dyn Fn(RunEvent),
    ) -> Result<Figures> {
        self.service.wait_ready(plan).await?;
        // The goroutine of the readiness check's connection must end first.
        tokio::time::sleep(SETTLE).await;
        let who_listens = targets.check(When::Ready, self.service.cgroup().files(), self.service.pid()).await;
        // This check connects to unix sockets, too.
        rest::come(self.service.pid(), REST).await;
        // A service that ends without load has failed to start, whatever it answered meanwhile.
        if let Some(exit) = self.service.ended() {
            return Err(launch::ended_early(plan, self.service.output(), exit, Unseen::Load));
        }
        self.notes.extend(targets.notes.iter().cloned().chain(who_listens?));
        self.sampler.request(Requested::Boundary(Boundary::Idle))?;
        let idle = self.sampler.goroutines()?.map(|(_, goroutines)| goroutines);
        let (warmup, measure) = (duration(plan, plan.phases.warmup)?, duration(plan, plan.phases.measure)?);
        let can_force = self.sampler.can_force_collections()?;
        let forced = if can_force { load::window_in(warmup) } else { Duration::ZERO };
        let tail = tail(&plan.load, measure, can_force);
        let start = Instant::now();
        let load = RunningLoad::start(plan, logs, driver, start, tail)?;
        if let Some(requests) = load.progress() {
            self.sampler.request(Requested::Requests(requests))?;
        }
        event(RunEvent::WarmingUp(warmup));
        let until = Until { at: start + warmup, load: Some(load::Phase::Warmup) };
        self.phases.warmup = self.warm_up(targets, until, forced, &load).await?;
        if self.early_end.is_none() {
            event(RunEvent::Measuring(measure));
            let until = Until { at: start + warmup + measure, load: Some(load::Phase::Measure) };
            self.phases.measure = self.measure(until, &load).await?;
            self.listens_still(targets).await?;
        }
        if self.early_end.is_none() && !tail.is_zero() {
            event(RunEvent::Collecting(tail));
            let until = Until { at: start + warmup + measure + tail, load: Some(load::Phase::Tail) };
            self.phases.tail = self.tail(targets, until, can_force, &load).await?;
        }
        if self.early_end.is_some() {
            load.abort();
        }
        let figures = load.finish(plan, self.clock, &mut self.notes).await?;
        if self.early_end.is_none() {
            self.phases.drain = self.drain(plan, idle, event).await?;
        }
        Ok(figures)
    }

    /// Runs the warm-up until its end or the end of the service. In its last part, of the length `forced` or longer in a
    /// slow guest, memgate makes the runtime collect.
    async fn warm_up(
        &mut self,
        targets: &Targets,
        until: Until,
        forced: Duration,
        load: &RunningLoad,
    ) -> Result<Option<TimeSpan>> {
        let start_ns = self.clock.now_ns();
        load.begin(load::Phase::Warmup);
        self.watch(Until { at: until.at - forced, load: None }, load).await?;
        if self.early_end.is_none() && !forced.is_zero() {
            self.sampler.request(Requested::Open(window(targets, until.latest(load))))?;
            self.watch(until, load).await?;
            self.sampler.request(Requested::CloseWindow)?;
        } else {
            self.watch(until, load).await?;
        }
        self.sampler.request(Requested::Reading)?;
        Ok(Some(TimeSpan { start_ns, end_ns: self.clock.now_ns() }))
    }

    /// Runs the measuring phase until its end or the end of the service. Its span begins before the reading at its start
    /// and ends after the one at its end. If the host drives the load, no request is in flight at these readings.
    async fn measure(&mut self, until: Until, load: &RunningLoad) -> Result<Option<TimeSpan>> {
        let start_ns = self.clock.now_ns();
        self.sampler.request(Requested::Boundary(Boundary::MeasureStart))?;
        load.begin(load::Phase::Measure);
        self.watch(until, load).await?;
        if self.early_end.is_none() {
            load.check()?;
        }
        self.sampler.request(Requested::Boundary(Boundary::MeasureEnd))?;
        Ok(Some(TimeSpan { start_ns, end_ns: self.clock.now_ns() }))
    }

    /// Checks that the service is still the only one that listens where requests go, unless it has ended by itself.
    async fn listens_still(&mut self, targets: &Targets) -> Result<()> {
        if self.early_end.is_some() {
            return Ok(());
        }
        let who_listens = targets.check(When::Measured, self.service.cgroup().files(), self.service.pid()).await;
        // A service that has ended listens nowhere, and its port is free for others.
        self.early_end = self.service.ended().map(|exit| (exit, self.clock.now_ns()));
        if self.early_end.is_none() {
            let mut notes = who_listens?;
            notes.retain(|note| !self.notes.contains(note));
            self.notes.extend(notes);
        }
        Ok(())
    }

    /// Goes on under the same load until the end of the tail or of the service, and makes the runtime collect if it can be
    /// made to. A load command that was told to last as long as the measuring phase may end in the tail, which ends then
    /// too.
    async fn tail(
        &mut self,
        targets: &Targets,
        until: Until,
        can_force: bool,
        load: &RunningLoad,
    ) -> Result<Option<TimeSpan>> {
        let start_ns = self.clock.now_ns();
        if can_force {
            self.sampler.request(Requested::Open(window(targets, until.latest(load))))?;
        }
        load.begin(load::Phase::Tail);
        while let Some(left) = until.left(load) {
            if self.early_end.is_some() || load.check().is_err() {
                break;
            }
            let look = Until { at: Instant::now() + left.min(LOOK), load: None };
            self.watch(look, &RunningLoad::None).await?;
        }
        if can_force {
            self.sampler.request(Requested::CloseWindow)?;
        }
        self.sampler.request(Requested::Reading)?;
        Ok(Some(TimeSpan { start_ns, end_ns: self.clock.now_ns() }))
    }

    /// Runs the drain, or the part of it before the end of the service. It lasts longer than configured while
    /// goroutines end. `idle` is their number before the load.
    async fn drain(&mut self, plan: &Plan, idle: Option<u64>, event: &dyn Fn(RunEvent)) -> Result<Option<TimeSpan>> {
        let [least, most] = [plan.phases.drain_ms, plan.phases.drain_max_ms].map(Duration::from_millis);
        event(RunEvent::Draining(least));
        let start_ns = self.clock.now_ns();
        let start = Instant::now();
        // Without a number before the load, nobody knows what belongs to the load.
        let mut falling = Falling::new(idle.unwrap_or(u64::MAX), least);
        while self.early_end.is_none() {
            let now = Instant::now();
            let end = if now < start + least {
                start + least
            } else if now < start + most && falling.goes_on() {
                start + most
            } else {
                break;
            };
            let look = Until { at: end.min(now + LOOK), load: None };
            self.watch(look, &RunningLoad::None).await?;
            if let Some((at_ns, goroutines)) = self.sampler.goroutines()? {
                falling.see(at_ns, goroutines);
            }
        }
        if self.early_end.is_none() && falling.goes_on() {
            let lasted = start.elapsed().as_secs_f64();
            self.notes.push(format!(
                "goroutines were still ending when the drain ended, after {lasted:.1} s; raise `phases.drain_max`"
            ));
        }
        self.sampler.request(Requested::Reading)?;
        Ok(Some(TimeSpan { start_ns, end_ns: self.clock.now_ns() }))
    }

    /// Watches service and load until the end of the phase or of the service.
    async fn watch(&mut self, until: Until, load: &RunningLoad) -> Result<()> {
        while let Some(left) = until.left(load) {
            if let Some(exit) = self.service.ended() {
                self.early_end = Some((exit, self.clock.now_ns()));
                return Ok(());
            }
            load.check()?;
            tokio::time::sleep(left.min(Duration::from_millis(50))).await;
        }
        Ok(())
    }

    async fn finish(
        mut self,
        plan: &Plan,
        figures: Figures,
        started_at: String,
        environment: memgate_evidence::Environment,
    ) -> Result<Evidence> {
        if self.early_end.is_none() {
            // What still ends does not count as left, such as a goroutine of the load's connections that has not had a
            // processor yet.
            rest::come(self.service.pid(), REST).await;
            self.sampler.request(Requested::Boundary(Boundary::Drained))?;
            // A service that ends before the request to end has ended by itself, however late.
            self.early_end = self.service.ended().map(|exit| (exit, self.clock.now_ns()));
        }
        let ending = self.early_end.map_or(Ending::Stopped, |(exit, at_ns)| early_ending(exit, at_ns));
        let recorder = self.sampler.finish()?;
        let tier = recorder.tier();
        let oom_kills = self.service.cgroup().files().oom_kills().map_err(|error| in_full(&error));
        self.notes.extend(recorder.notes(oom_kills.as_ref().ok().copied()));
        self.beside.is_over()?;
        let in_time = self.service.stop(Duration::from_millis(plan.stop_timeout_ms)).await;
        let ending = if in_time { ending } else { Ending::Killed { after_ms: plan.stop_timeout_ms } };
        if !in_time {
            self.notes
                .push(format!("the service did not end within {} ms of SIGTERM and was killed", plan.stop_timeout_ms));
        }
        self.service.output().settle();
        self.notes.extend(self.service.output().failure());
        // Only now: reading takes long, and would make the drain of a service longer.
        let requests = figures.known(&self.phases, &mut self.notes).await?;
        let (signals, code) = recorder.into_signals(Elsewhere { requests, oom_kills });
        Ok(Evidence {
            service: plan.service.clone(),
            platform: plan.platform,
            run: plan.run,
            baseline: plan.baseline.clone(),
            started_at,
            environment,
            phases: self.phases,
            ending,
            tier,
            options: Vec::new(),
            against: None,
            origin: None,
            signals,
            code,
            notes: self.notes,
        })
    }
}

/// How long a phase takes natively.
fn duration(plan: &Plan, length: Length) -> Result<Duration> {
    match (&plan.load, length) {
        (Load::Http(http), length) => Ok(load::duration(length, http.rate_per_second)),
        (Load::Command(_), Length::Ms(ms)) => Ok(Duration::from_millis(ms)),
        (Load::Command(_), Length::Requests(_)) => Err(LoadError::NoRequests.into()),
    }
}

/// When a phase ends.
#[derive(Debug, Clone, Copy)]
struct Until {
    at: Instant,
    /// The phase of the load, if there is one. If the host drives the load, the phase ends with its last request.
    load: Option<load::Phase>,
}

impl Until {
    /// A time that the phase does not outlast.
    fn latest(self, load: &RunningLoad) -> Instant {
        /// Longer than any guest takes for what takes some seconds natively.
        const HOUR: Duration = Duration::from_secs(3600);
        match load {
            RunningLoad::Host(_) => self.at + HOUR,
            RunningLoad::None | RunningLoad::Http(_) | RunningLoad::Command(_) => self.at,
        }
    }

    /// The time that is left, as far as it is known; `None` at the end.
    fn left(self, load: &RunningLoad) -> Option<Duration> {
        match (load, self.load) {
            (RunningLoad::Host(host), Some(phase)) => (!host.is_done(phase)).then_some(Duration::MAX),
            (RunningLoad::Host(_), None)
            | (RunningLoad::None | RunningLoad::Http(_) | RunningLoad::Command(_), None | Some(_)) => {
                Some(self.at.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
            }
        }
    }
}

/// The load while it runs.
enum RunningLoad {
    None,
    Http(LoadHandle),
    Host(HostLoad),
    Command(Box<LoadCommand>),
}

impl RunningLoad {
    fn start(plan: &Plan, logs: &RunLogs, driver: Driver, start: Instant, tail: Duration) -> Result<Self> {
        match (&plan.load, driver) {
            (Load::Http(http), Driver::Host) => {
                let socket = http.transport.unix.as_ref().map(|name| Socket::of(name, &plan.directory));
                HostLoad::start(socket).map(Self::Host)
            }
            (Load::Http(http), Driver::Here(begin)) => {
                let PhaseLengths { warmup, measure, .. } = plan.phases;
                let schedule = Schedule { start, warmup, measure, tail };
                let user = plan.account.as_ref().map(|account| account.uid);
                let site = Site { directory: plan.directory.clone(), user };
                begin(http, plan.seed, schedule, &site).map(Self::Http)
            }
            (Load::Command(command), Driver::Here(_) | Driver::Host) => {
                let account = plan.account.as_ref();
                let mut env = child::inherited(&INHERITED, account);
                env.extend(command.env.iter().map(|(name, value)| (name.into(), value.into())));
                let line = CommandLine {
                    words: &command.words,
                    directory: &plan.directory,
                    env: &env,
                    account,
                    secrets: &plan.secrets,
                };
                load::command(&line, &logs.load_log).map(|command| Self::Command(Box::new(command)))
            }
        }
    }

    fn progress(&self) -> Option<std::sync::Arc<load::Progress>> {
        match self {
            Self::Http(handle) => Some(handle.progress()),
            Self::Host(host) => Some(host.progress()),
            Self::None | Self::Command(_) => None,
        }
    }

    /// Begins the load of a phase, if the host drives it. Any other load goes on by itself.
    fn begin(&self, phase: load::Phase) {
        match self {
            Self::Host(host) => host.begin(phase),
            Self::None | Self::Http(_) | Self::Command(_) => {}
        }
    }

    fn check(&self) -> Result<()> {
        match self {
            Self::Command(command) => command.check(),
            Self::Host(host) => host.check(),
            Self::None | Self::Http(_) => Ok(()),
        }
    }

    fn abort(&self) {
        match self {
            Self::Http(handle) => handle.abort(),
            Self::Host(host) => host.stop(),
            Self::None | Self::Command(_) => {}
        }
    }

    /// Ends the load. Returns its figures.
    async fn finish(self, plan: &Plan, clock: Clock, notes: &mut Vec<String>) -> Result<Figures> {
        let (per_second, results) = match &plan.load {
            Load::Http(http) => (http.rate_per_second, None),
            Load::Command(command) => (0.0, command.results.as_ref()),
        };
        match self {
            Self::None => Ok(Figures::Known(Err("there was no load".to_owned()))),
            Self::Http(handle) => {
                // The last requests may take until their timeout. An interrupt must not wait for them.
                while !handle.is_finished() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok(Figures::Known(Ok(requests(handle.finish()?, per_second, notes))))
            }
            Self::Host(host) => {
                host.stop();
                loop {
                    if let Some(outcome) = host.figures()? {
                        return Ok(Figures::Known(Ok(requests(outcome, per_second, notes))));
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            Self::Command(command) => Ok(match command.stop(results, clock).await? {
                Some(results) => Figures::Written(results),
                None => Figures::Known(Err("the load command counts its requests itself".to_owned())),
            }),
        }
    }
}

/// The figures of a load that has ended.
enum Figures {
    /// They are known, or there is a reason why not.
    Known(Result<Requests, String>),
    /// A load command has written them to a file, which nobody has read yet.
    Written(load::Results),
}

impl Figures {
    /// The figures, or why they are not known.
    async fn known(self, phases: &Phases, notes: &mut Vec<String>) -> Result<Result<Requests, String>> {
        match self {
            Self::Known(figures) => Ok(figures),
            Self::Written(results) => {
                notes.extend(results.note(phases));
                results.read(phases.clone()).await
            }
        }
    }
}

/// How long the load goes on after a measuring phase of this length: while memgate makes the runtime collect, or until
/// the results of a load command have all requests of the measuring phase.
fn tail(load: &Load, measure: Duration, can_force: bool) -> Duration {
    let has_results = match load {
        Load::Http(_) => false,
        Load::Command(command) => command.results.is_some(),
    };
    if can_force || has_results { load::window_in(measure) } else { Duration::ZERO }
}

/// A window that lasts until it is closed, or until this time.
fn window(targets: &Targets, end: Instant) -> Window {
    Window { length: end.saturating_duration_since(Instant::now()), service: targets.listener() }
}

fn requests(outcome: LoadOutcome, per_second: f64, notes: &mut Vec<String>) -> Requests {
    notes.extend(outcome.notes());
    let LoadOutcome { warmup, measure, tail, latency, lateness_p99_ns: _, busy_share: _ } = outcome;
    Requests { completed: memgate_evidence::Series::default(), warmup, measure, tail, per_second, latency }
}

fn early_ending(exit: Exit, at_ns: u64) -> Ending {
    match exit {
        Exit::Code(code) => Ending::Exited { code, at_ns },
        Exit::Signal(signal) => Ending::Signalled { signal: signal.to_string(), at_ns },
        Exit::Unknown => Ending::Ended { at_ns },
    }
}

#[cfg(test)]
mod tests {
    use memgate_evidence::plan::{CommandLoad, CommandResults, ResultsFormat};

    use super::*;

    #[test]
    fn an_end_that_nobody_has_seen_has_no_exit_code() {
        assert_eq!(early_ending(Exit::Unknown, 7), Ending::Ended { at_ns: 7 });
        assert_eq!(early_ending(Exit::Code(2), 7), Ending::Exited { code: 2, at_ns: 7 });
    }

    #[test]
    fn a_load_command_with_results_has_a_tail_where_the_runtime_cannot_be_made_to_collect() {
        let results = CommandResults { format: ResultsFormat::K6, file: "/srv/results.json".into() };
        let [with, without] =
            [Some(results), None].map(|results| Load::Command(CommandLoad { results, ..CommandLoad::default() }));
        let length = Duration::from_secs(60);
        let tails = [(&with, false), (&with, true), (&without, false), (&without, true)]
            .map(|(load, can_force)| tail(load, length, can_force).as_secs());
        assert_eq!(tails, [4, 4, 0, 4]);
    }
}
