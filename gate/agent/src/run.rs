//! One run: launch, wait until ready, warm up, measure, load on and collect, drain, stop.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use memgate_evidence::{
    Ending, Evidence, Phases, Requests, TimeSpan,
    error::{Error, FailureKind, Result, Stage, in_full},
    plan::{Load, Plan},
    platform::Platform,
};
use memgate_goexe::{GoExe, GoExeError};

use super::{
    cgroup::Cgroup,
    clock::Clock,
    collect::{self, Boundary, Elsewhere, Recorder, Requested, Sampler, Window},
    drain::Falling,
    environment,
    launch::{self, Exit, LaunchError, ServiceProcess, Unseen},
    load::{self, Endpoint, LoadCommand, LoadHandle, Schedule},
    log::LogEnd,
    ready, rest,
};
use crate::cancel::Cancel;

/// The least time from the service's first answer to the reading of the idle service.
const SETTLE: Duration = Duration::from_millis(200);

/// The most time for a service to come to rest before a reading without load. A service that is never at rest is read
/// after this time.
const REST: Duration = Duration::from_secs(3);

/// The length of the windows in which memgate makes the runtime collect: room for eight GC cycles. A window is at most a
/// third of the phase before its end or before it, so that short phases stay short.
const WINDOW: Duration = Duration::from_secs(4);

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

/// The logs of a run: the files that it writes in addition to its evidence.
#[derive(Debug, Clone)]
pub struct RunLogs {
    /// The service's output.
    pub service_log: PathBuf,
    /// The load command's output.
    pub load_log: PathBuf,
}

/// The progress of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum RunEvent {
    /// A guest is starting.
    Booting,
    /// A guest that has booted before resumes.
    Resuming,
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
}

/// Runs the plan on this machine.
///
/// Call it on the thread that lives longest, because the service is killed when that thread ends.
///
/// # Errors
/// Fails if the run cannot be made, or if the service never becomes ready, which leaves nothing to judge. A service
/// that ends early is not an error; the evidence shows it.
pub async fn run(plan: &Plan, logs: &RunLogs, event: &dyn Fn(RunEvent), cancel: &Cancel) -> Result<Evidence> {
    ready::port_is_free(&plan.ready.http)?;
    let exe = GoExe::open(&plan.executable).map_err(ExecutableError::Unfit)?;
    if exe.platform != plan.platform {
        let (found, wanted) = (exe.platform, plan.platform);
        return Err(ExecutableError::OtherPlatform { executable: plan.executable.clone(), found, wanted }.into());
    }
    event(RunEvent::Launching);
    let started_at = jiff::Timestamp::now().to_string();
    let mut running = Running::launch(plan, &exe, logs)?;
    let environment = environment::describe(&exe, &plan.env);
    running.notes.extend(environment::notes(&environment));
    // The executable is large, and the collectors have copied what they need.
    drop(exe);
    give_memory_back();
    let to_the_end = async {
        let requests = running.phases(plan, logs, event).await?;
        event(RunEvent::Stopping);
        running.finish(plan, requests, started_at, environment).await
    };
    // Dropping this ends the service, whatever it does.
    tokio::select! {
        evidence = to_the_end => evidence,
        () = cancel.cancelled() => Err(Error::Interrupted),
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
struct Running {
    service: ServiceProcess,
    sampler: Sampler,
    clock: Clock,
    phases: Phases,
    notes: Vec<String>,
    /// How the service ended by itself, and when, if it did.
    early_end: Option<(Exit, u64)>,
}

impl Running {
    fn launch(plan: &Plan, exe: &GoExe, logs: &RunLogs) -> Result<Self> {
        let cgroup = Cgroup::create(plan.memory_max).map_err(LaunchError::Limit)?;
        let notes = cgroup.notes.clone();
        let stopped = launch::spawn(plan, cgroup, &logs.service_log)?;
        let clock =
            |error| Error::caused(Stage::Collect, "the kernel has no monotonic clock", error, "use another kernel");
        let options = collect::Options { collecting: plan.collecting, ..collect::Options::default() };
        let mut recorder = Recorder::attach(exe, stopped.pid(), Clock::start().map_err(clock)?, options)?;
        let clock = Clock::start().map_err(clock)?;
        recorder.set_clock(clock);
        recorder.watch_cgroup(stopped.cgroup().files().clone());
        let service = stopped.resume()?;
        let sampler = Sampler::start(recorder)?;
        let phases = Phases { warmup: None, measure: None, tail: None, drain: None };
        Ok(Self { service, sampler, clock, phases, notes, early_end: None })
    }

    /// Runs every phase that starts before the service ends. Returns the load generator's figures.
    async fn phases(
        &mut self,
        plan: &Plan,
        logs: &RunLogs,
        event: &dyn Fn(RunEvent),
    ) -> Result<Result<Requests, String>> {
        self.wait_until_ready(plan, logs).await?;
        // The goroutine of the readiness check's connection must end first.
        tokio::time::sleep(SETTLE).await;
        rest::come(self.service.pid(), REST).await;
        // A service that ends without load has failed to start, whatever it answered meanwhile.
        if let Some(exit) = self.service.ended() {
            return Err(ended_early(plan, logs, exit, Unseen::Load));
        }
        self.sampler.request(Requested::Boundary(Boundary::Idle))?;
        let idle = self.sampler.goroutines()?.map(|(_, goroutines)| goroutines);
        let [warmup, measure] = [plan.phases.warmup_ms, plan.phases.measure_ms].map(Duration::from_millis);
        let can_force = self.sampler.can_force_collections()?;
        let window = if can_force { WINDOW } else { Duration::ZERO };
        let (forced, tail) = (window.min(warmup / 3), window.min(measure / 3));
        let start = Instant::now();
        let mut load = RunningLoad::start(plan, logs, Schedule { start, warmup, measure, tail })?;
        if let Some(requests) = load.progress() {
            self.sampler.request(Requested::Requests(requests))?;
        }
        event(RunEvent::WarmingUp(warmup));
        self.phases.warmup = self.warm_up(plan, start + warmup, forced, &load).await?;
        if self.early_end.is_none() {
            event(RunEvent::Measuring(measure));
            self.phases.measure = self.measure(start + warmup + measure, &load).await?;
        }
        if self.early_end.is_none() && !tail.is_zero() {
            event(RunEvent::Collecting(tail));
            self.phases.tail = self.tail(plan, start + warmup + measure + tail, &load).await?;
        }
        if self.early_end.is_some() {
            load.abort();
        }
        let requests = load.finish(&mut self.notes).await?;
        if self.early_end.is_none() {
            self.phases.drain = self.drain(plan, idle, event).await?;
        }
        Ok(requests)
    }

    async fn wait_until_ready(&mut self, plan: &Plan, logs: &RunLogs) -> Result<()> {
        tokio::select! {
            ready = ready::wait_ready(&plan.ready, &logs.service_log) => ready.map(|_| ()),
            exit = self.service.end() => Err(ended_early(plan, logs, exit, Unseen::Readiness)),
        }
    }

    /// Runs the warm-up until `end` or the end of the service. In its last part, of the length `forced`, memgate makes
    /// the runtime collect.
    async fn warm_up(
        &mut self,
        plan: &Plan,
        end: Instant,
        forced: Duration,
        load: &RunningLoad,
    ) -> Result<Option<TimeSpan>> {
        let start_ns = self.clock.now_ns();
        self.watch(end - forced, load).await?;
        if self.early_end.is_none() && !forced.is_zero() {
            self.sampler.request(Requested::Open(window(plan, end)))?;
            self.watch(end, load).await?;
            self.sampler.request(Requested::CloseWindow)?;
        }
        self.sampler.request(Requested::Reading)?;
        Ok(Some(TimeSpan { start_ns, end_ns: self.clock.now_ns() }))
    }

    /// Runs the measuring phase until `end` or the end of the service. Its span begins before the reading at its start
    /// and ends after the one at its end.
    async fn measure(&mut self, end: Instant, load: &RunningLoad) -> Result<Option<TimeSpan>> {
        let start_ns = self.clock.now_ns();
        self.sampler.request(Requested::Boundary(Boundary::MeasureStart))?;
        self.watch(end, load).await?;
        if self.early_end.is_none() {
            load.check()?;
        }
        self.sampler.request(Requested::Boundary(Boundary::MeasureEnd))?;
        Ok(Some(TimeSpan { start_ns, end_ns: self.clock.now_ns() }))
    }

    /// Makes the runtime collect under the same load until `end` or the end of the service. A load command that was told
    /// to last as long as the measuring phase may end in the tail, which ends then too.
    async fn tail(&mut self, plan: &Plan, end: Instant, load: &RunningLoad) -> Result<Option<TimeSpan>> {
        let start_ns = self.clock.now_ns();
        self.sampler.request(Requested::Open(window(plan, end)))?;
        while Instant::now() < end && self.early_end.is_none() && load.check().is_ok() {
            self.watch(end.min(Instant::now() + LOOK), &RunningLoad::None).await?;
        }
        self.sampler.request(Requested::CloseWindow)?;
        self.sampler.request(Requested::Reading)?;
        Ok(Some(TimeSpan { start_ns, end_ns: self.clock.now_ns() }))
    }

    /// Runs the drain, or the part of it before the end of the service. It lasts longer than configured while goroutines
    /// end. `idle` is their number before the load.
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
            self.watch(end.min(now + LOOK), &RunningLoad::None).await?;
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

    /// Watches service and load until `end` or the end of the service.
    async fn watch(&mut self, end: Instant, load: &RunningLoad) -> Result<()> {
        while Instant::now() < end {
            if let Some(exit) = self.service.ended() {
                self.early_end = Some((exit, self.clock.now_ns()));
                return Ok(());
            }
            load.check()?;
            tokio::time::sleep(end.saturating_duration_since(Instant::now()).min(Duration::from_millis(50))).await;
        }
        Ok(())
    }

    async fn finish(
        mut self,
        plan: &Plan,
        requests: Result<Requests, String>,
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
        let in_time = self.service.stop(Duration::from_millis(plan.stop_timeout_ms)).await;
        let ending = if in_time { ending } else { Ending::Killed { after_ms: plan.stop_timeout_ms } };
        if !in_time {
            self.notes
                .push(format!("the service did not end within {} ms of SIGTERM and was killed", plan.stop_timeout_ms));
        }
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
            signals,
            code,
            notes: self.notes,
        })
    }
}

/// The load while it runs.
enum RunningLoad {
    None,
    Http(LoadHandle),
    Command(LoadCommand),
}

impl RunningLoad {
    fn start(plan: &Plan, logs: &RunLogs, schedule: Schedule) -> Result<Self> {
        match &plan.load {
            Load::Http(http) => load::start(http, plan.seed, schedule).map(Self::Http),
            Load::Command(argv) => {
                // The user's command gets the user's environment.
                let env = std::env::vars().collect();
                load::command(argv, &plan.directory, &env, &logs.load_log).map(Self::Command)
            }
        }
    }

    fn progress(&self) -> Option<std::sync::Arc<load::Progress>> {
        match self {
            Self::Http(handle) => Some(handle.progress()),
            Self::None | Self::Command(_) => None,
        }
    }

    fn check(&self) -> Result<()> {
        match self {
            Self::Command(command) => command.check(),
            Self::None | Self::Http(_) => Ok(()),
        }
    }

    fn abort(&mut self) {
        if let Self::Http(handle) = self {
            handle.abort();
        }
    }

    /// Ends the load. Returns its figures, or why they are not known.
    async fn finish(self, notes: &mut Vec<String>) -> Result<Result<Requests, String>> {
        match self {
            Self::None => Ok(Err("there was no load".to_owned())),
            Self::Http(handle) => {
                // The last requests may take until their timeout. An interrupt must not wait for them.
                while !handle.is_finished() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                let outcome = handle.finish()?;
                notes.extend(outcome.generator_note());
                let load::LoadOutcome { warmup, measure, tail, latency, .. } = outcome;
                Ok(Ok(Requests { completed: memgate_evidence::Series::default(), warmup, measure, tail, latency }))
            }
            Self::Command(command) => {
                command.stop()?;
                Ok(Err("the load command counts its requests itself".to_owned()))
            }
        }
    }
}

/// A window that ends at this time. The service listens where it is asked whether it is ready.
fn window(plan: &Plan, end: Instant) -> Window {
    let service = Endpoint::of(&plan.ready.http).ok().and_then(|(endpoint, _)| endpoint.addresses.first().copied());
    Window { length: end.saturating_duration_since(Instant::now()), service }
}

fn ended_early(plan: &Plan, logs: &RunLogs, exit: Exit, before: Unseen) -> Error {
    let log = logs.service_log.clone();
    LaunchError::EndedEarly { service: plan.service.clone(), exit, before, output: LogEnd::of(&log), log }.into()
}

fn early_ending(exit: Exit, at_ns: u64) -> Ending {
    match exit {
        Exit::Code(code) => Ending::Exited { code, at_ns },
        Exit::Signal(signal) => Ending::Signalled { signal: signal.as_str().to_owned(), at_ns },
    }
}
