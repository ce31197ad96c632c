//! The host's side of runs in guests.
//!
//! The agent that runs natively on the host also runs in the guest. This module copies the executable and the plan into
//! the guest and reads the evidence back.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use memgate_agent::{
    BUILD, RunEvent, RunLogs,
    cancel::Cancel,
    in_guest::serve::{EVIDENCE, SERVICE_LOG, log_there},
    load,
};
use memgate_config::PlatformOptions;
use memgate_evidence::{
    Evidence,
    error::{Error, FailureKind, FailureText, InputError, Result, Stage, in_full},
    plan::{Account, HttpLoad, Load, Plan, Ready, ReadyBy},
    platform::{Platform, Runner},
};
use memgate_goexe::{GoExe, GoExeError};
use memgate_qemu::{
    channel::{FromAgent, ToAgent},
    emulator,
    ending::{Ending, Patience},
    guest::{Guest, GuestError, Spoken, Start},
    image::{self, Cache, Image, ImageError, Kernel},
    machine::Machine,
    snapshot::Snapshot,
};
use serde_json::value::to_raw_value;

use crate::architecture::architecture;

/// A guest's memory if the configuration names none, bytes.
pub(crate) const MEMORY: u64 = 2 << 30;
/// A guest's CPUs if the configuration names none.
pub(crate) const CPUS: u32 = 2;
/// How often memgate tries a run whose emulated processor fails.
const ATTEMPTS: u32 = 3;
/// The message for such a failure.
const BROKEN: &str = "the emulated processor failed the Go runtime's own check of it before the service began";
/// What stands for the service's executable in a command.
const SERVICE: &str = "$MEMGATE_SERVICE";
/// The service's path in the guest.
const DIRECTORY: &str = "/srv";

/// Why a service is not measured in a guest.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum GuestRunError {
    /// The executable cannot be read, or memgate cannot measure executables of its kind.
    #[error(transparent)]
    #[diagnostic(help("{UNFIT}"))]
    Unfit(#[from] GoExeError),
    /// The executable was built for another platform.
    #[error("{executable} was built for {found}, not for {wanted}")]
    #[diagnostic(help("{UNFIT}"))]
    OtherPlatform {
        /// The executable.
        executable: PathBuf,
        /// The platform of the executable.
        found: Platform,
        /// The guests' platform.
        wanted: Platform,
    },
    /// The executable's needs of the system are not known.
    #[error("{executable}: {reason}")]
    #[diagnostic(help("{UNFIT}"))]
    UnknownNeeds {
        /// The executable.
        executable: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The guest lacks the executable's loader or its libraries.
    #[error("{executable} is dynamically linked, and the guests of {platform} lack {}", .missing.join(", "))]
    #[diagnostic(help(
        "build it with CGO_ENABLED=0, or add the files to `platforms.{platform}.files`: {{ {}: FILE }}",
        missing.join(": FILE, ")
    ))]
    MissingFiles {
        /// The executable.
        executable: PathBuf,
        /// The guests' platform.
        platform: Platform,
        /// The files, by their paths in the guest.
        missing: Vec<String>,
    },
    /// The emulator computes wrong results.
    #[error("{BROKEN}, {ATTEMPTS} times in a row")]
    #[diagnostic(help("use QEMU 10.0.13 or later; docs/explanation/guests.md describes the errors of older ones"))]
    BrokenProcessor,
    /// The guest ended, or communication with it failed.
    #[error(transparent)]
    #[diagnostic(help("{}", guest_help(_0)))]
    Guest(#[from] GuestError),
    /// There is no image or no emulator for the guest.
    #[error(transparent)]
    #[diagnostic(help("{}", _0.help()))]
    Image(#[from] ImageError),
    /// There is no agent for the guest.
    #[error("{name}, which guests of {platform} run, is not in {}", .places.join(" or "))]
    #[diagnostic(help("build it with `cargo xtask dist`, or name its directory in MEMGATE_AGENTS"))]
    NoAgent {
        /// The agent's file name.
        name: String,
        /// The guests' platform.
        platform: Platform,
        /// The directories where it could be.
        places: Vec<String>,
    },
}

const UNFIT: &str =
    "memgate measures ELF executables of its platforms; name an executable for this platform under `binary`";

impl FailureKind for GuestRunError {
    fn stage(&self) -> Stage {
        match self {
            Self::Unfit(_) | Self::OtherPlatform { .. } | Self::UnknownNeeds { .. } | Self::MissingFiles { .. } => {
                Stage::Preflight
            }
            Self::BrokenProcessor | Self::Guest(_) | Self::Image(_) | Self::NoAgent { .. } => Stage::Guest,
        }
    }
}

fn guest_help(error: &GuestError) -> String {
    match error {
        GuestError::Ended { ending: Ending::Unkept(_), console, .. } => {
            format!("make room for {}, or choose another directory with --out", console.display())
        }
        GuestError::Ended { console, .. } => format!("the guest's output is in {}", console.display()),
        GuestError::Uncontrolled { .. } => "give memgate more of the machine, or update QEMU".to_owned(),
        GuestError::Host { .. } => "make room, or raise the limits on files and memory".to_owned(),
        GuestError::OtherBuild { .. } => {
            "build the agents anew from the sources of this memgate with `cargo xtask dist`, \
             or name the directory of its own agents in MEMGATE_AGENTS"
                .to_owned()
        }
        GuestError::Protocol(_) => "please report this".to_owned(),
    }
}

/// What the runs on one platform need to start their guests.
#[derive(Debug)]
pub struct GuestRunner {
    platform: Platform,
    /// Keeps its files in place until it is dropped.
    _image: Image,
    machine: Machine,
    /// Files that each guest gets in addition to the service, by their paths in the guest.
    files: BTreeMap<String, PathBuf>,
    patience: Patience,
    /// The place of a booted guest for the next run; `None` if each run boots its own.
    snapshot: Option<Snapshot>,
}

/// The logs of a run in a guest: the files that it writes in addition to its evidence.
#[derive(Debug, Clone)]
pub struct GuestLogs {
    /// The outputs of the service and of what it needs.
    pub run: RunLogs,
    /// The guest's console.
    pub console_log: PathBuf,
}

impl GuestRunner {
    /// Makes the image for the platform's guests, and QEMU, unless they are in the cache or the system has them. With
    /// `snapshots`, memgate boots one guest and resumes it for later runs.
    ///
    /// # Errors
    /// Fails if there is no agent, kernel or QEMU for the platform, if the image cannot be made, or if memgate is
    /// interrupted.
    pub fn prepare(
        platform: Platform,
        options: &PlatformOptions,
        snapshots: bool,
        cancel: &Cancel,
        say: &mut dyn FnMut(&str),
    ) -> Result<Self> {
        let architecture = architecture(platform);
        let kernel =
            kernel(&format!("platforms.{platform}.kernel"), platform, options.kernel.as_deref(), options.page_size)?;
        let cache = cache(cancel)?;
        let emulator = emulator::find(&cache, architecture, None, say).map_err(of_image)?;
        let image = image::ensure(&cache, kernel, &agent(platform)?, None, say).map_err(of_image)?;
        let memory = options.memory.unwrap_or(MEMORY);
        let cpus = processors(options);
        let machine = Machine::of(&image, emulator, memory, cpus);
        Ok(Self {
            platform,
            snapshot: snapshots.then(|| Snapshot::of(&image, &machine, BUILD)),
            _image: image,
            machine,
            files: options.files.clone(),
            patience: options
                .boot_timeout
                .map_or_else(Patience::default, |boot| Patience { boot, ..Patience::default() }),
        })
    }

    /// Checks that the plan can run in a guest of this platform.
    ///
    /// # Errors
    /// Fails if the plan has a load command, names a program that the guest lacks, has a memory limit above the guest's
    /// memory, or has an executable that needs files that the guest lacks.
    pub fn check(&self, plan: &Plan) -> Result<()> {
        let at = format!("services.{}", plan.service);
        match plan.load {
            Load::Http(_) => {}
            Load::Command(_) => {
                let message =
                    format!("{at}.load.command: a guest cannot run this machine's programs to load the service");
                return Err(InputError::new(message, "write `rate` and `requests`, the built-in load").into());
            }
        }
        self.check_commands(plan, &at)?;
        if let Some((key, wanted)) = too_large(plan, self.machine.memory) {
            let platform = self.platform;
            let (wanted, memory) = (wanted >> 20, self.machine.memory >> 20);
            let message = format!("{at}.{key}: {wanted} MiB, but the guests of {platform} have {memory} MiB");
            let help = format!("raise `platforms.{platform}.memory`, or lower `memory_max`");
            return Err(InputError::new(message, help).into());
        }
        let exe = GoExe::open(&plan.executable).map_err(GuestRunError::Unfit)?;
        let (executable, platform) = (plan.executable.clone(), self.platform);
        if exe.platform != platform {
            return Err(GuestRunError::OtherPlatform { executable, found: exe.platform, wanted: platform }.into());
        }
        let missing = missing_files(exe, &self.files)?;
        if missing.is_empty() {
            return Ok(());
        }
        Err(GuestRunError::MissingFiles { executable, platform, missing }.into())
    }

    /// Checks that the guests have the programs that the plan names.
    ///
    /// # Errors
    /// Fails with the key of the first command that they lack.
    fn check_commands(&self, plan: &Plan, at: &str) -> Result<()> {
        let Some((key, program)) = lacking(plan, &self.files) else { return Ok(()) };
        let platform = self.platform;
        let message = format!("{at}.{key}: the guests of {platform} have no program `{program}`");
        let help = format!(
            "copy it there with `platforms: {{ {platform}: {{ files: {{ /bin/NAME: FILE }} }} }}` and name the absolute \
             path, or measure natively"
        );
        Err(InputError::new(message, help).into())
    }

    /// Runs the plan in a fresh guest, which has ended when this returns. If the emulated processor failed the Go
    /// runtime's own check of it, memgate tries again in another guest, because the service is not to blame.
    ///
    /// # Errors
    /// Fails if the guest cannot be started, ends before its work is done, or cannot make the run.
    pub async fn run(
        &self,
        plan: &Plan,
        logs: &GuestLogs,
        event: &dyn Fn(RunEvent),
        cancel: &Cancel,
    ) -> Result<Evidence> {
        for failed in 0..ATTEMPTS {
            let run = self.attempt(plan, logs, event, cancel).await;
            if run.is_ok() || !processor_failed(&logs.run.service_log) {
                return run.map(|mut evidence| {
                    evidence.notes.extend((failed > 0).then(|| format!("attempt {} in a guest: {BROKEN}", failed + 1)));
                    evidence
                });
            }
            remove(&logs.run).map_err(GuestRunError::Guest)?;
        }
        Err(GuestRunError::BrokenProcessor.into())
    }

    async fn attempt(
        &self,
        plan: &Plan,
        logs: &GuestLogs,
        event: &dyn Fn(RunEvent),
        cancel: &Cancel,
    ) -> Result<Evidence> {
        let run = async {
            let (mut guest, notes) = self.start(&logs.console_log, event).await?;
            let evidence = self.carry_out(&mut guest, plan, logs, event).await?;
            Ok::<_, GuestError>(evidence.map(|mut evidence| {
                evidence.notes.extend(notes);
                evidence
            }))
        };
        tokio::select! {
            outcome = run => outcome.map_err(GuestRunError::Guest)?,
            () = cancel.cancelled() => Err(Error::Interrupted),
        }
    }

    /// Starts a guest and waits until its agent begins. Resumes a usable snapshot if there is one, and boots otherwise.
    /// Also returns notes on what went wrong. Dropping the guest ends it.
    ///
    /// # Errors
    /// Fails if the guest cannot be started, or ends before its agent begins.
    pub async fn start(&self, console: &Path, event: &dyn Fn(RunEvent)) -> Result<(Guest, Vec<String>), GuestError> {
        let start = &Start {
            machine: self.machine.clone(),
            console: console.to_owned(),
            patience: self.patience,
            build: BUILD.to_owned(),
            is_joined: false,
        };
        let mut notes = Vec::new();
        let Some(snapshot) = &self.snapshot else {
            event(RunEvent::Booting);
            let guest = booted(start).await?;
            notes.extend_from_slice(guest.notes());
            return Ok((guest, notes));
        };
        if snapshot.exists() {
            event(RunEvent::Resuming);
            let resumed = async {
                let mut guest = Guest::resume(start, snapshot).await?;
                guest.begin().await?;
                Ok::<_, GuestError>(guest)
            };
            match resumed.await {
                Ok(guest) => {
                    notes.extend_from_slice(guest.notes());
                    return Ok((guest, notes));
                }
                // If the snapshot is broken, a boot still shows whether the guest works.
                Err(error) => {
                    notes
                        .push(format!("a snapshot could not be resumed, so the guest was booted: {}", in_full(&error)));
                }
            }
            if let Err(error) = snapshot.remove() {
                notes.push(format!("the snapshot cannot be removed: {error}"));
            }
        }
        event(RunEvent::Booting);
        let mut guest = Guest::boot(start).await?;
        match guest.save(snapshot).await {
            Ok(()) => {}
            // Without a snapshot, the next run boots too.
            Err(error @ GuestError::Host { .. }) => notes.push(in_full(&error)),
            Err(error @ GuestError::Uncontrolled { .. }) => {
                notes.push(format!("a guest was booted again, and not saved: {}", in_full(&error)));
                drop(guest);
                event(RunEvent::Booting);
                let guest = booted(start).await?;
                notes.extend_from_slice(guest.notes());
                return Ok((guest, notes));
            }
            Err(error @ (GuestError::Ended { .. } | GuestError::OtherBuild { .. } | GuestError::Protocol(_))) => {
                return Err(error);
            }
        }
        guest.begin().await?;
        notes.extend_from_slice(guest.notes());
        Ok((guest, notes))
    }

    async fn carry_out(
        &self,
        guest: &mut Guest,
        plan: &Plan,
        logs: &GuestLogs,
        event: &dyn Fn(RunEvent),
    ) -> Result<Result<Evidence>, GuestError> {
        for (to, from) in &self.files {
            guest.store(from, to).await?;
        }
        // It ends when the run is over.
        let port = guest.take_load_port().ok_or_else(|| protocol("a guest has one run"))?;
        let _load = match &plan.load {
            Load::Http(http) => match load::start_for_guest(http, plan.seed, &plan.phases, port) {
                Ok(load) => Some(load),
                Err(error) => return Ok(Err(error)),
            },
            Load::Command(_) => None,
        };
        let executable = format!("{DIRECTORY}/{}", plan.service);
        guest.store(&plan.executable, &executable).await?;
        let there = there(plan, executable.into());
        let there = to_raw_value(&there).map_err(|error| GuestError::Protocol(error.to_string()))?;
        guest.message(&ToAgent::Run(there)).await?;
        let mut evidence = None;
        loop {
            match guest.next().await? {
                Spoken::Message(FromAgent::Progress(said)) => event(understood(said.get())?),
                Spoken::Message(FromAgent::File { name, length }) => {
                    let bytes = receive(guest, length).await?;
                    match name.as_str() {
                        EVIDENCE => evidence = Some(bytes),
                        SERVICE_LOG => keep(&logs.run.service_log, &bytes)?,
                        name => logs.run.more.get(name).map_or(Ok(()), |log| keep(log, &bytes))?,
                    }
                }
                Spoken::Message(FromAgent::Failed(failure)) => {
                    return Ok(Err(here(understood(failure.get())?, &logs.run).into()));
                }
                Spoken::Message(FromAgent::Done) => {
                    let evidence = evidence.ok_or_else(|| protocol("it ended the run without evidence"))?;
                    let mut evidence: Evidence =
                        serde_json::from_slice(&evidence).map_err(|error| protocol(&error.to_string()))?;
                    evidence.environment.runner = Runner::Qemu;
                    return Ok(Ok(evidence));
                }
                other @ (Spoken::Data(_)
                | Spoken::Message(
                    FromAgent::Ready { .. }
                    | FromAgent::Begun
                    | FromAgent::Heartbeat
                    | FromAgent::Stored
                    | FromAgent::Printed { .. }
                    | FromAgent::CommandEnded(_),
                )) => return Err(protocol(&format!("{other:?} was not expected"))),
            }
        }
    }
}

/// The key of the first command whose program is neither the service nor one of these files, and that program. A guest
/// has no others.
fn lacking<'plan>(plan: &'plan Plan, files: &BTreeMap<String, PathBuf>) -> Option<(String, &'plan str)> {
    let of_sidecars = plan.sidecars.iter().flat_map(|sidecar| {
        let key = format!("sidecars.{}", sidecar.name);
        [(format!("{key}.command"), Some(&sidecar.words)), (format!("{key}.ready.command"), asks(&sidecar.ready))]
    });
    let of_before = plan.before.iter().enumerate();
    let of_before = of_before.map(|(index, before)| (format!("before[{index}].command"), Some(&before.words)));
    // A plan without a command of its own names the executable by no word.
    let of_start = plan.watch.iter().map(|watch| ("run.command".to_owned(), Some(&watch.command)));
    let of_service = of_start.chain([("run.ready.command".to_owned(), asks(&plan.ready))]);
    let programs = of_sidecars.chain(of_before).chain(of_service);
    let mut programs = programs.filter_map(|(key, words)| Some((key, words?.first()?.as_str())));
    programs.find(|(_, program)| *program != SERVICE && !files.contains_key(*program))
}

/// The first memory limit of the plan above this memory, with its key, bytes.
fn too_large(plan: &Plan, memory: u64) -> Option<(String, u64)> {
    let of_service = plan.memory_max.map(|limit| ("run.memory_max".to_owned(), limit));
    let of_sidecars = plan.sidecars.iter();
    let of_sidecars =
        of_sidecars.filter_map(|sidecar| Some((format!("sidecars.{}.memory_max", sidecar.name), sidecar.memory_max?)));
    of_service.into_iter().chain(of_sidecars).find(|(_, limit)| *limit > memory)
}

/// The command that tells whether a process is ready, if there is one.
const fn asks(ready: &Ready) -> Option<&Vec<String>> {
    match &ready.by {
        ReadyBy::Command(words) => Some(words),
        ReadyBy::Http(_) | ReadyBy::Tcp(_) | ReadyBy::Unix(_) | ReadyBy::Log(_) | ReadyBy::Notify => None,
    }
}

/// The plan as the guest carries it out: it has one directory, and no home directories.
fn there(plan: &Plan, executable: PathBuf) -> Plan {
    let home = |account: &mut Option<Account>| {
        if let Some(account) = account {
            account.home = DIRECTORY.into();
        }
    };
    let mut there = Plan { executable, directory: DIRECTORY.into(), ..plan.clone() };
    home(&mut there.account);
    if let Load::Http(HttpLoad { rows: Some(rows), .. }) = &mut there.load {
        // The host drives the load, and a message has a limit.
        rows.values.clear();
    }
    for sidecar in &mut there.sidecars {
        sidecar.directory = sidecar.directory.take().map(|_| DIRECTORY.into());
        home(&mut sidecar.account);
    }
    for before in &mut there.before {
        before.directory = None;
        home(&mut before.account);
    }
    there
}

/// A guest whose agent has begun.
async fn booted(start: &Start) -> Result<Guest, GuestError> {
    let mut guest = Guest::boot(start).await?;
    guest.begin().await?;
    Ok(guest)
}

/// The platform's kernel with this release and page size, or the usual one. `asked` names what asked for it, for the
/// message.
///
/// # Errors
/// Fails if there is no such kernel.
pub fn kernel(
    asked: &str,
    platform: Platform,
    release: Option<&str>,
    page_size: Option<u64>,
) -> Result<&'static Kernel> {
    image::find(architecture(platform), release, page_size).map_err(|error| {
        InputError::new(
            format!("{asked}: {error}"),
            "name a kernel that `memgate image list` shows, or leave the choice to memgate",
        )
        .into()
    })
}

/// A run's failure in the guest, with the user's paths of the logs instead of the guest's.
fn here(failure: FailureText, logs: &RunLogs) -> FailureText {
    let service = (SERVICE_LOG.to_owned(), logs.service_log.clone());
    let all: Vec<_> = [service].into_iter().chain(logs.more.clone()).collect();
    let here = |text: String| {
        let replace = |text: String, (name, log): &(String, PathBuf)| {
            text.replace(&log_there(name).display().to_string(), &log.display().to_string())
        };
        all.iter().fold(text, replace)
    };
    let FailureText { stage, message, causes, help } = failure;
    FailureText { stage, message: here(message), causes: causes.into_iter().map(here).collect(), help: help.map(here) }
}

/// The directory for images, their packages, and snapshots. Work on it ends with `cancel`.
///
/// # Errors
/// Fails if the environment names no such directory.
pub fn cache(cancel: &Cancel) -> Result<Cache, GuestRunError> {
    let cache = Cache::default_dir().and_then(|directory| Cache::new(&directory)).map_err(GuestRunError::Image)?;
    Ok(Cache { stop: cancel.flag().into(), ..cache })
}

/// Why there is no image or no emulator, or that memgate was interrupted before there was.
pub(crate) fn of_image(error: ImageError) -> Error {
    if error.is_interruption() { Error::Interrupted } else { GuestRunError::Image(error).into() }
}

pub(crate) fn protocol(what: &str) -> GuestError {
    GuestError::Protocol(what.to_owned())
}

pub(crate) fn understood<T: serde::de::DeserializeOwned>(said: &str) -> Result<T, GuestError> {
    serde_json::from_str(said).map_err(|error| protocol(&error.to_string()))
}

/// The largest file that a guest may send, bytes.
const LARGEST_FILE: u64 = 1 << 30;

pub(crate) async fn receive(guest: &mut Guest, length: u64) -> Result<Vec<u8>, GuestError> {
    if length > LARGEST_FILE {
        return Err(protocol(&format!("a file of {length} bytes")));
    }
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < length {
        match guest.next().await? {
            Spoken::Data(piece) => bytes.extend(piece),
            Spoken::Message(message) => return Err(protocol(&format!("{message:?} within a file"))),
        }
    }
    if bytes.len() as u64 > length {
        return Err(protocol("a file longer than announced"));
    }
    Ok(bytes)
}

/// Whether the service printed the Go runtime's message for wrong results of comparisons with NaN (`check` in
/// runtime/runtime1.go, the same from Go 1.21 to 1.27). The runtime prints it before the program's own code runs.
fn processor_failed(service_log: &Path) -> bool {
    let log = fs::read_to_string(service_log).unwrap_or_default();
    log.lines().next().is_some_and(|line| {
        let failed = line.strip_prefix("fatal error: float");
        failed.is_some_and(|what| what.starts_with("64nan") || what.starts_with("32nan"))
    })
}

/// Removes the logs of an attempt, as far as there are any: those of the next one would follow them.
fn remove(logs: &RunLogs) -> Result<(), GuestError> {
    for log in [&logs.service_log].into_iter().chain(logs.more.values()) {
        match fs::remove_file(log) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(GuestError::Host { what: log.display().to_string(), error });
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

fn keep(path: &Path, bytes: &[u8]) -> Result<(), GuestError> {
    let written = File::options().create(true).append(true).open(path).and_then(|mut file| file.write_all(bytes));
    written.map_err(|error| GuestError::Host { what: path.display().to_string(), error })
}

/// The number of processors of each guest of the platform.
pub fn processors(options: &PlatformOptions) -> u32 {
    options.cpus.unwrap_or(CPUS)
}

/// The static agent for the platform's guests: in `MEMGATE_AGENTS`, beside memgate itself, or in `dist` beside
/// memgate's directory.
///
/// # Errors
/// Fails if no agent is found.
pub fn agent(platform: Platform) -> Result<PathBuf> {
    let name = format!("memgate-agent-{}", platform.folder());
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(Path::to_path_buf);
    let dist = beside.as_deref().and_then(Path::parent).map(|parent| parent.join("dist"));
    let named = std::env::var_os("MEMGATE_AGENTS").map(PathBuf::from);
    let places: Vec<_> = match named {
        Some(named) => vec![named],
        None => beside.into_iter().chain(dist).collect(),
    };
    let found = places.iter().map(|place| place.join(&name)).find(|path| path.is_file());
    let places = || places.iter().map(|place| place.display().to_string()).collect();
    found.ok_or_else(|| GuestRunError::NoAgent { name: name.clone(), platform, places: places() }.into())
}

/// The paths that a dynamically linked executable needs in the guest and that are not in `files`: its loader, and the
/// libraries that it names, whatever their directory.
fn missing_files(exe: GoExe, files: &BTreeMap<String, PathBuf>) -> Result<Vec<String>, GuestRunError> {
    let needs = exe.needs.map_err(|reason| GuestRunError::UnknownNeeds { executable: exe.path.clone(), reason })?;
    let has = |name: &str| {
        files.keys().any(|path| path == name || Path::new(path).file_name().is_some_and(|file| *file == *name))
    };
    Ok(needs.into_iter().filter(|name| !has(name)).collect())
}

#[cfg(test)]
mod tests {
    use memgate_evidence::plan::{Before, Sidecar, Watch};

    use super::*;

    #[test]
    fn a_failure_has_the_users_paths_of_the_logs() {
        let [service, redis] = ["/run/service.log", "/run/sidecar-redis.log"].map(str::to_owned);
        let failure = FailureText {
            stage: Stage::Launch,
            message: service.clone(),
            causes: vec![redis.clone()],
            help: Some(format!("{service} {redis}")),
        };
        let more = [("sidecar-redis".to_owned(), "/out/x.sidecar-redis.log".into())].into();
        let logs = RunLogs { service_log: "/out/x.service.log".into(), load_log: PathBuf::new(), more };
        let FailureText { message, causes, help, .. } = here(failure, &logs);
        let [service, redis] = ["/out/x.service.log", "/out/x.sidecar-redis.log"];
        assert_eq!([message, causes.concat(), help.unwrap()], [service, redis, &format!("{service} {redis}")]);
    }

    fn sidecar(directory: Option<PathBuf>) -> Sidecar {
        Sidecar {
            name: "redis".to_owned(),
            words: vec!["/bin/redis-server".to_owned(), "--port".to_owned()],
            env: BTreeMap::new(),
            directory,
            account: memgate_testing::plan().account,
            ready: Ready { by: ReadyBy::Notify, timeout_ms: 1 },
            memory_max: None,
            stop_timeout_ms: 1,
        }
    }

    #[test]
    fn a_guest_has_the_programs_that_were_put_there_and_no_others() {
        let by = |program: &str| Ready { by: ReadyBy::Command(vec![program.to_owned()]), timeout_ms: 1 };
        let before = |program: &str| Before {
            words: vec![program.to_owned()],
            env: BTreeMap::new(),
            directory: None,
            account: None,
            timeout_ms: 1,
        };
        let files = BTreeMap::from([("/bin/redis-server".to_owned(), PathBuf::from("/here/redis-server"))]);
        let plan = |change: fn(&mut Plan)| {
            let mut plan = Plan { sidecars: vec![sidecar(None)], ..memgate_testing::plan() };
            change(&mut plan);
            plan
        };
        assert_eq!(lacking(&plan(|_| ()), &files), None);
        let lacks = |plan: Plan| lacking(&plan, &files).map(|(key, program)| format!("{key} {program}"));
        let mut other = plan(|_| ());
        other.before = vec![before(SERVICE), before("sh")];
        assert_eq!(lacks(other).unwrap(), "before[1].command sh");
        assert_eq!(
            lacks(plan(|plan| plan.sidecars[0].words[0] = "redis-server".to_owned())).unwrap(),
            "sidecars.redis.command redis-server"
        );
        let mut other = plan(|_| ());
        other.sidecars[0].ready = by("redis-cli");
        assert_eq!(lacks(other).unwrap(), "sidecars.redis.ready.command redis-cli");
        assert_eq!(lacks(Plan { ready: by("true"), ..memgate_testing::plan() }).unwrap(), "run.ready.command true");
        let started_by = |words: &[&str]| {
            let command = words.iter().map(|word| (*word).to_owned()).collect();
            let watch = Some(Watch { command, argument: None, execution: 1 });
            lacks(Plan { watch, ..memgate_testing::plan() })
        };
        assert_eq!(started_by(&["./start.sh"]).unwrap(), "run.command ./start.sh");
        assert_eq!([started_by(&["/bin/redis-server"]), started_by(&[SERVICE]), started_by(&[])], [None, None, None]);
    }

    #[test]
    fn a_limit_above_the_memory_of_a_guest_is_named() {
        let plan = |service, of_sidecar| {
            let sidecars = vec![Sidecar { memory_max: of_sidecar, ..sidecar(None) }];
            Plan { memory_max: service, sidecars, ..memgate_testing::plan() }
        };
        assert_eq!(too_large(&plan(Some(10), Some(10)), 10), None);
        assert_eq!(too_large(&plan(None, None), 10), None);
        assert_eq!(too_large(&plan(Some(11), Some(12)), 10), Some(("run.memory_max".to_owned(), 11)));
        assert_eq!(too_large(&plan(Some(1), Some(12)), 10), Some(("sidecars.redis.memory_max".to_owned(), 12)));
    }

    #[test]
    fn the_logs_of_a_failed_attempt_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let more = [("sidecar-redis".to_owned(), at("redis")), ("before-1".to_owned(), at("before"))].into();
        let logs = RunLogs { service_log: at("service"), load_log: PathBuf::new(), more };
        keep(&at("service"), b"1").unwrap();
        keep(&at("redis"), b"1").unwrap();
        remove(&logs).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        fs::create_dir(at("before")).unwrap();
        assert!(remove(&logs).is_err());
    }

    #[test]
    fn a_guest_has_directories_of_its_own() {
        let sidecars = vec![sidecar(Some("/home/me".into())), sidecar(None)];
        let there = there(&Plan { sidecars, ..memgate_testing::plan() }, "/srv/s".into());
        assert_eq!((there.executable, there.directory), ("/srv/s".into(), PathBuf::from("/srv")));
        let directories = there.sidecars.iter().map(|sidecar| sidecar.directory.clone());
        assert_eq!(directories.collect::<Vec<_>>(), [Some("/srv".into()), None]);
        let homes = there.sidecars.iter().map(|sidecar| sidecar.account.as_ref().unwrap().home.clone());
        assert!(homes.chain(there.account.map(|account| account.home)).all(|home| home == Path::new("/srv")));
    }

    #[test]
    fn the_first_line_shows_a_failing_processor() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("service.log");
        let failed = |text: &str| {
            fs::write(&log, text).unwrap();
            processor_failed(&log)
        };
        assert!(failed("fatal error: float64nan3\nruntime: panic before malloc heap initialized\n"));
        assert!(failed("fatal error: float32nan\n"));
        assert!(!failed("fatal error: all goroutines are asleep - deadlock!\n"));
        assert!(!failed("listening\nfatal error: float64nan3\n"), "the service had begun");
        assert!(!failed(""));
        assert!(!processor_failed(&dir.path().join("none")));
    }
}
