//! One run: launch, wait until ready, warm up, measure, drain, stop.

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
    collect::{self, Boundary, Elsewhere, Recorder, Requested, Sampler},
    environment,
    launch::{self, Exit, LaunchError, ServiceProcess},
    load::{self, LoadCommand, LoadHandle, Schedule},
    ready, rest,
};
use crate::cancel::Cancel;

/// From the service's first answer to the reading of it without load, at least.
const SETTLE: Duration = Duration::from_millis(200);

/// How long a service may take to come to rest before a reading of what it does without load. One that is never at rest is read all
/// the same.
const REST: Duration = Duration::from_secs(3);

/// Why a run cannot be made of an executable.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ExecutableError {
    /// It cannot be read, or it is no executable that memgate knows how to measure.
    #[error(transparent)]
    #[diagnostic(help("memgate measures ELF executables of its platforms"))]
    Unfit(#[from] GoExeError),
    /// It was built for another platform than the plan's.
    #[error("{executable} was built for {found}, not for {wanted}")]
    #[diagnostic(help("name one of that platform under `binary`"))]
    OtherPlatform {
        /// The executable.
        executable: PathBuf,
        /// What it was built for.
        found: Platform,
        /// What the plan is for.
        wanted: Platform,
    },
}

impl FailureKind for ExecutableError {
    fn stage(&self) -> Stage {
        Stage::Collect
    }
}

/// The logs of a run: files that it writes besides its evidence.
#[derive(Debug, Clone)]
pub struct RunLogs {
    /// What the service prints.
    pub service_log: PathBuf,
    /// What a load command prints.
    pub load_log: PathBuf,
}

/// What happens in a run, for whoever waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum RunEvent {
    /// A guest is starting.
    Booting,
    /// A guest that has booted before goes on.
    Resuming,
    /// The collectors are being attached and the service started.
    Launching,
    /// A phase has begun; it takes this long.
    WarmingUp(Duration),
    /// A phase has begun; it takes this long.
    Measuring(Duration),
    /// A phase has begun; it takes this long.
    Draining(Duration),
    /// The service is being asked to end.
    Stopping,
}

/// Runs the plan on this machine.
///
/// Must be called on the thread that lives longest: the service is killed when that thread ends.
///
/// # Errors
/// When the run cannot be made. A service that ends early is no error but in the evidence; one that never becomes ready
/// leaves nothing to judge and is.
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
    let environment = environment::describe(&exe);
    // It is large, and the collectors have what they need of it.
    drop(exe);
    give_memory_back();
    let to_the_end = async {
        let requests = running.phases(plan, logs, event).await?;
        event(RunEvent::Stopping);
        running.finish(plan, requests, started_at, environment).await
    };
    // Dropping what runs ends the service, whatever it is at.
    tokio::select! {
        evidence = to_the_end => evidence,
        () = cancel.cancelled() => Err(Error::Interrupted),
    }
}

/// Gives back what was freed: the service and its watcher share the machine. glibc keeps tens of megabytes after large
/// allocations; other C libraries do not, and have no such call.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the function has no preconditions; it touches free memory alone.
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
        let service = stopped.resume()?;
        let sampler = Sampler::start(recorder)?;
        let phases = Phases { warmup: None, measure: None, drain: None };
        Ok(Self { service, sampler, clock, phases, notes, early_end: None })
    }

    /// Runs every phase that the service lives to see; gives what the load generator saw.
    async fn phases(
        &mut self,
        plan: &Plan,
        logs: &RunLogs,
        event: &dyn Fn(RunEvent),
    ) -> Result<Result<Requests, String>> {
        self.wait_until_ready(plan, logs).await?;
        // The connection that asked whether the service is ready has a goroutine, which is to be gone first.
        tokio::time::sleep(SETTLE).await;
        rest::come(self.service.pid(), REST).await;
        self.sampler.request(Requested::Boundary(Boundary::Idle))?;
        let [warmup, measure, drain] =
            [plan.phases.warmup_ms, plan.phases.measure_ms, plan.phases.drain_ms].map(Duration::from_millis);
        let start = Instant::now();
        let mut load = RunningLoad::start(plan, logs, Schedule { start, warmup, measure })?;
        if let Some(requests) = load.progress() {
            self.sampler.request(Requested::Requests(requests))?;
        }
        event(RunEvent::WarmingUp(warmup));
        self.phases.warmup = self.phase(start + warmup, &load, None).await?;
        if self.early_end.is_none() {
            event(RunEvent::Measuring(measure));
            self.phases.measure = self.phase(start + warmup + measure, &load, Some(Boundary::MeasureStart)).await?;
        }
        if self.early_end.is_some() {
            load.abort();
        }
        let requests = load.finish(&mut self.notes).await?;
        if self.early_end.is_none() {
            event(RunEvent::Draining(drain));
            self.phases.drain = self.phase(Instant::now() + drain, &RunningLoad::None, None).await?;
        }
        Ok(requests)
    }

    async fn wait_until_ready(&mut self, plan: &Plan, logs: &RunLogs) -> Result<()> {
        let log = &logs.service_log;
        tokio::select! {
            ready = ready::wait_ready(&plan.ready) => ready.map(|_| ()),
            exit = self.service.end() => {
                Err(LaunchError::EndedEarly { service: plan.service.clone(), exit, log: log.clone() }.into())
            }
        }
    }

    /// A phase until `end` or the end of the service. Its span reaches from before the reading at its start until after
    /// the one at its end.
    async fn phase(
        &mut self,
        end: Instant,
        load: &RunningLoad,
        at_start: Option<Boundary>,
    ) -> Result<Option<TimeSpan>> {
        let measuring = at_start.is_some();
        let start_ns = self.clock.now_ns();
        if let Some(boundary) = at_start {
            self.sampler.request(Requested::Boundary(boundary))?;
        }
        self.watch(end, load).await?;
        self.sampler.request(if measuring { Requested::Boundary(Boundary::MeasureEnd) } else { Requested::Reading })?;
        Ok(Some(TimeSpan { start_ns, end_ns: self.clock.now_ns() }))
    }

    /// Watches service, processes and load until `end` or until the service has ended.
    async fn watch(&mut self, end: Instant, load: &RunningLoad) -> Result<()> {
        let mut next_reading = Instant::now();
        while Instant::now() < end {
            if let Some(exit) = self.service.ended() {
                self.early_end = Some((exit, self.clock.now_ns()));
                return Ok(());
            }
            load.check()?;
            // Reading it makes the kernel add up what its CPUs have counted.
            let due = Instant::now() >= next_reading;
            let thp_events = if due { self.service.cgroup().huge_pages() } else { None };
            if due {
                next_reading += Duration::from_millis(500);
            }
            self.sampler.request(Requested::Cgroup(self.service.processes(), thp_events))?;
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
            // What still ends is not left: a goroutine of the load's connections that has had no processor yet, say.
            rest::come(self.service.pid(), REST).await;
            self.sampler.request(Requested::Boundary(Boundary::Drained))?;
            // What ends before it is asked to has ended by itself, however late.
            self.early_end = self.service.ended().map(|exit| (exit, self.clock.now_ns()));
        }
        let ending = self.early_end.map_or(Ending::Stopped, |(exit, at_ns)| early_ending(exit, at_ns));
        let recorder = self.sampler.finish()?;
        let tier = recorder.tier();
        let oom_kills = self.service.cgroup().oom_kills().map_err(|error| in_full(&error));
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
                // The user's own command gets the user's own environment.
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

    /// Ends the load; gives what it saw, or why that is not known.
    async fn finish(self, notes: &mut Vec<String>) -> Result<Result<Requests, String>> {
        match self {
            Self::None => Ok(Err("there was no load".to_owned())),
            Self::Http(handle) => {
                // The last requests have until their timeout; an interrupt must not wait for them.
                while !handle.is_finished() {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                let outcome = handle.finish()?;
                notes.extend(outcome.generator_note());
                let load::LoadOutcome { warmup, measure, latency, .. } = outcome;
                Ok(Ok(Requests { completed: memgate_evidence::Series::default(), warmup, measure, latency }))
            }
            Self::Command(command) => {
                command.stop()?;
                Ok(Err("the load command counts its requests itself".to_owned()))
            }
        }
    }
}

fn early_ending(exit: Exit, at_ns: u64) -> Ending {
    match exit {
        Exit::Code(code) => Ending::Exited { code, at_ns },
        Exit::Signal(signal) => Ending::Signalled { signal: signal.as_str().to_owned(), at_ns },
    }
}
