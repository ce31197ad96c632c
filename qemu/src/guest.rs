//! A guest from its start to its end, on memgate's side.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read as _},
    os::{fd::AsRawFd as _, unix::net::UnixStream as Socket},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use nix::{sys::signal::Signal, unistd::getpid};
use serde::{Serialize, de::DeserializeOwned};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
};

use crate::{
    architecture::Architecture,
    channel::{Decoder, Encoder, FromAgent, FromInit, Kind, LONGEST, ToAgent},
    confine::Confined,
    console::Console,
    control::{Control, ControlError, Limits},
    ending::{Ending, LAST_WORDS, Patience, Watch},
    machine::{Machine, Sockets},
    snapshot::{Snapshot, Streams},
};

/// How to start a guest, and where its output goes.
#[derive(Debug, Clone)]
pub struct Start {
    /// Its machine.
    pub machine: Machine,
    /// The console's file. Its directory exists.
    pub console: PathBuf,
    /// The limits on its boot and on its silence.
    pub patience: Patience,
    /// The identity of the build of memgate that its agent must be of.
    pub build: String,
    /// Whether its console is also joined to this process's terminal: see [`crate::terminal`].
    pub is_joined: bool,
}

/// Why a guest's work is not done.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The guest has ended.
    #[error("the guest (linux/{architecture}) {ending}{detail}")]
    Ended {
        /// Its architecture.
        architecture: Architecture,
        /// How it ended.
        ending: Ending,
        /// QEMU's output, if there was any.
        detail: String,
        /// QEMU's exit code, if it exited; 0 if the guest was switched off.
        code: Option<i32>,
        /// Its console.
        console: PathBuf,
    },
    /// Something on this machine failed, such as a file or a socket.
    #[error("{what}: {error}")]
    Host {
        /// The operation.
        what: String,
        /// The error.
        #[source]
        error: io::Error,
    },
    /// The agent is of another build of memgate, which may not know what this one wants.
    #[error(
        "the guest's agent is of another build of memgate ({}), and this memgate is of build {wanted}",
        told(found)
    )]
    OtherBuild {
        /// The identity of the agent's build; empty if it tells none.
        found: String,
        /// The identity of this memgate's build.
        wanted: String,
    },
    /// QEMU no longer does what it is asked, so the guest cannot continue.
    #[error("{what}: {why}")]
    Uncontrolled {
        /// The operation.
        what: &'static str,
        /// What QEMU did instead of an answer.
        why: String,
    },
    /// The agent violates the protocol.
    #[error("the guest's agent: {0}")]
    Protocol(String),
}

/// What the agent sent.
#[derive(Debug)]
pub enum Spoken {
    /// A message other than a heartbeat.
    Message(FromAgent),
    /// A piece of the announced file.
    Data(Vec<u8>),
}

/// An event from a guest, from any of its sources.
#[derive(Debug)]
enum Sign {
    Agent(Spoken),
    Init(FromInit),
    Panic(String),
    /// The channel cannot be used.
    Closed(String),
    /// QEMU has closed it.
    ClosedByQemu,
    /// The console cannot be kept.
    Console(io::Error),
}

/// A running guest. Dropping it ends it. It also ends with the thread that started it.
#[derive(Debug)]
pub struct Guest {
    architecture: Architecture,
    life: Life,
    agent: tokio::net::unix::OwnedWriteHalf,
    encoder: Encoder,
    /// The host's end of the load's port, until it is taken.
    load: Option<Socket>,
    /// What the agent sent while memgate was sending.
    unheard: VecDeque<Spoken>,
    console: PathBuf,
    control: Control,
    from_agent: Arc<Position>,
    from_init: Arc<Position>,
    notes: Vec<String>,
    directory: TempDir,
}

/// The state of a guest.
#[derive(Debug)]
struct Life {
    qemu: Running,
    /// Whether QEMU has ended.
    ended: bool,
    /// QEMU's exit code, if it exited.
    code: Option<i32>,
    /// Whether the agent can no longer be reached or heard.
    closed: bool,
    signs: mpsc::Receiver<Sign>,
    /// Reads what the agent sends, and ends with its stream.
    reader: JoinHandle<()>,
    watch: Watch,
}

/// A running QEMU. Dropping it waits until the kernel has ended the process.
#[derive(Debug)]
struct Running(Child);

/// The kernel ends a process in milliseconds, unless the machine is very busy or it waits for a broken disk.
const LAST_PATIENCE: Duration = Duration::from_secs(30);

impl Drop for Running {
    fn drop(&mut self) {
        // If it has already ended, there is nothing to kill or to wait for.
        let _ = self.0.start_kill();
        let asked = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) && asked.elapsed() < LAST_PATIENCE {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Life {
    /// Waits for the next sign of life, for QEMU's end, or until the watch has a result. Returns what the agent sent.
    async fn look(&mut self) -> Option<Spoken> {
        let until = tokio::time::Instant::from_std(self.watch.deadline());
        tokio::select! {
            biased;
            Some(sign) = self.signs.recv() => self.take(sign),
            status = self.qemu.0.wait(), if !self.ended => {
                self.ended = true;
                self.code = code(&status);
                self.watch.qemu_ended(described(status), Instant::now());
                None
            }
            () = tokio::time::sleep_until(until) => None,
        }
    }

    /// What the agent sent and nobody has heard yet.
    ///
    /// If it has ended, it may have sent more than is here: the news of its end uses another stream. Then this waits until
    /// its own stream ends, as it does when the guest switches itself off.
    async fn last_words(&mut self) -> Vec<Spoken> {
        let mut heard = Vec::new();
        let until = tokio::time::Instant::now() + LAST_WORDS;
        let may_send_more = self.ended || self.watch.agent_has_ended();
        while may_send_more && !self.reader.is_finished() {
            tokio::select! {
                biased;
                Some(sign) = self.signs.recv() => heard.extend(self.take(sign)),
                _ = &mut self.reader => break,
                () = tokio::time::sleep_until(until) => break,
            }
        }
        // If this process did not listen for a long time, the guest may have sent messages meanwhile.
        tokio::task::yield_now().await;
        while let Ok(sign) = self.signs.try_recv() {
            heard.extend(self.take(sign));
        }
        heard
    }

    fn take(&mut self, sign: Sign) -> Option<Spoken> {
        let now = Instant::now();
        match sign {
            Sign::Agent(spoken) => {
                self.watch.agent_spoke(now);
                return Some(spoken).filter(|spoken| !matches!(spoken, Spoken::Message(FromAgent::Heartbeat)));
            }
            Sign::Init(message) => self.watch.init_spoke(message, now),
            Sign::Panic(line) => self.watch.panicked(line, now),
            Sign::Closed(how) => self.lose(how),
            Sign::ClosedByQemu => self.take_end_of_channel(),
            Sign::Console(error) => self.watch.console_unkept(error.to_string()),
        }
        None
    }

    /// QEMU has closed the channel.
    fn take_end_of_channel(&mut self) {
        self.closed = true;
        self.watch.closed_by_qemu("its channel is closed".to_owned(), Instant::now());
    }

    /// Takes the guest for lost, unless what comes in the next moments says more.
    fn lose(&mut self, how: String) {
        self.closed = true;
        self.watch.closed(how, Instant::now());
    }
}

/// How far a stream has been read: the number of its next frame, or [`Position::WITHIN`] a frame.
#[derive(Debug, Default)]
struct Position(AtomicU64);

impl Position {
    const WITHIN: u64 = u64::MAX;

    fn set(&self, decoder: &Decoder) {
        self.0.store(decoder.boundary().map_or(Self::WITHIN, u64::from), Ordering::Relaxed);
    }

    fn get(&self) -> Option<u32> {
        u32::try_from(self.0.load(Ordering::Relaxed)).ok()
    }
}

impl Guest {
    /// Starts QEMU and waits until the guest's agent is ready.
    ///
    /// Must be called on a thread that lives as long as the guest.
    ///
    /// # Errors
    /// When QEMU cannot be started, when the console's file cannot be made, or when the guest ends before its agent is
    /// ready, and with [`GuestError::OtherBuild`] when its agent is of another build.
    pub async fn boot(start: &Start) -> Result<Self, GuestError> {
        let mut guest = Self::start(start, None).await?;
        let heard = guest.next().await?;
        is_of(&start.build, &heard).map(|()| guest)
    }

    /// Starts QEMU with a guest that was saved when its agent was ready.
    ///
    /// # Errors
    /// As [`Guest::boot`], and when the snapshot cannot be resumed, or not in time.
    pub async fn resume(start: &Start, snapshot: &Snapshot) -> Result<Self, GuestError> {
        let (streams, memory) = snapshot.open().map_err(|error| host("the snapshot", error))?;
        let mut guest = Self::start(start, Some(streams)).await?;
        let failed = |error| uncontrolled("the snapshot cannot be resumed", &error);
        guest.control.load(&memory).await.map_err(failed)?;
        guest.control.cont().await.map_err(failed)?;
        let now = Instant::now();
        guest.life.watch.init_spoke(FromInit::Heartbeat, now);
        guest.life.watch.agent_spoke(now);
        Ok(guest)
    }

    /// Saves a booted guest that has not received anything yet. The guest continues afterwards.
    ///
    /// # Errors
    /// When there is no space for it, or when QEMU cannot save it. After [`GuestError::Uncontrolled`], the guest does not
    /// continue.
    pub async fn save(&mut self, snapshot: &Snapshot) -> Result<(), GuestError> {
        const FAILED: &str = "the guest cannot be saved";
        let failed = |error| host(FAILED, error);
        let draft = snapshot.draft().map_err(failed)?;
        self.control.stop().await.map_err(|error| uncontrolled(FAILED, &error))?;
        // Meanwhile, memgate reads what the guest sent before it stopped.
        let saved = self.control.save(&draft.memory).await;
        if let Err(error) = saved.as_ref()
            && !error.leaves_control()
        {
            return Err(uncontrolled(FAILED, error));
        }
        let boundary = self.from_agent.get().zip(self.from_init.get());
        self.control.cont().await.map_err(|error| uncontrolled(FAILED, &error))?;
        // The guest was stopped, so its silence is not its own fault.
        self.life.watch.init_spoke(FromInit::Heartbeat, Instant::now());
        saved.map_err(|error| failed(io::Error::other(error)))?;
        let (from_agent, from_init) =
            boundary.ok_or_else(|| failed(io::Error::other("it was saved within a frame")))?;
        let streams = Streams { to_agent: self.encoder.number(), from_agent, from_init };
        snapshot.keep(draft, streams).map_err(failed)
    }

    /// How its QEMU is less confined than usual, for the notes of a run.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    async fn start(start: &Start, streams: Option<Streams>) -> Result<Self, GuestError> {
        let directory = tempfile::Builder::new().prefix("memgate-guest-").tempdir();
        let directory = directory.map_err(|error| host("a temporary directory", error))?;
        let (ours, theirs) = sockets().map_err(|error| host("the guest's sockets", error))?;
        let kept = Console::create(&start.console)
            .map_err(|error| host(&format!("the console's file {}", start.console.display()), error))?;
        let confined = Confined::new(&start.machine).map_err(|error| host("a file of the guest's", error))?;
        let notes = confined.notes();
        let mut qemu = spawn(start, confined, theirs, streams.is_some(), directory.path())?;
        let connected = async {
            let [agent, init, load, console, control] = ours;
            let [agent, init, console, control] = [agent, init, console, control].map(UnixStream::from_std);
            Ok::<_, io::Error>((agent?, init?, load, console?, Control::negotiate(control?, Limits::default()).await?))
        };
        let connected = tokio::select! {
            connected = connected => connected,
            _ = qemu.0.wait() => Err(io::Error::other("QEMU has ended")),
            () = tokio::time::sleep(start.patience.boot) => Err(io::Error::other("QEMU did not connect")),
        };
        let (agent, init, load, console, control) = match connected {
            Ok(connected) => connected,
            Err(error) => return Err(unconnected(start, &mut qemu, directory.path(), error).await),
        };
        let (read_half, to_agent) = agent.into_split();
        let streams = streams.unwrap_or(Streams { to_agent: 0, from_agent: 0, from_init: 0 });
        let [from_agent, from_init] = [Arc::new(Position::default()), Arc::new(Position::default())];
        // A small queue, so that the guest waits while memgate is busy.
        let (signs, received) = mpsc::channel(16);
        let reader = tokio::spawn(read_agent(read_half, streams.from_agent, Arc::clone(&from_agent), signs.clone()));
        tokio::spawn(read_init(init, streams.from_init, Arc::clone(&from_init), signs.clone()));
        let (console, to_console) = console.into_split();
        if start.is_joined {
            crate::terminal::hand_on(to_console).map_err(|error| host("the terminal", error))?;
        } else {
            // Dropping the socket would shut it down, and QEMU would close the console.
            to_console.forget();
        }
        tokio::spawn(read_console(console, kept, start.is_joined, signs.clone()));
        drop(signs);
        Ok(Self {
            architecture: start.machine.architecture,
            life: Life {
                qemu,
                ended: false,
                code: None,
                closed: false,
                signs: received,
                reader,
                watch: Watch::new(start.patience, Instant::now()),
            },
            agent: to_agent,
            encoder: Encoder::from_number(streams.to_agent),
            load: Some(load),
            unheard: VecDeque::new(),
            console: start.console.clone(),
            control,
            from_agent,
            from_init,
            notes,
            directory,
        })
    }

    /// Sets the guest's clock. From now on, the agent sends something every second.
    ///
    /// # Errors
    /// When the guest ends before it answers.
    pub async fn begin(&mut self) -> Result<(), GuestError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let mut entropy = [0; 32];
        let random = File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut entropy));
        random.map_err(|error| host("/dev/urandom", error))?;
        self.life.watch.agent_begins(Instant::now());
        self.message(&ToAgent::Begin { now_ns, entropy }).await?;
        match self.next().await? {
            Spoken::Message(FromAgent::Begun) => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Copies a file of this machine into the guest, to the absolute path `to`, and waits until it has arrived.
    ///
    /// # Errors
    /// When the file cannot be read, or when the guest ends.
    pub async fn store(&mut self, file: &Path, to: &str) -> Result<(), GuestError> {
        use std::os::unix::fs::MetadataExt as _;
        let failed = |error| host(&file.display().to_string(), error);
        let mut open = File::open(file).map_err(failed)?;
        let metadata = open.metadata().map_err(failed)?;
        let (length, mode) = (metadata.len(), metadata.mode() & 0o7777);
        self.message(&ToAgent::File { path: to.to_owned(), mode, length }).await?;
        let (mut left, mut piece) = (length, vec![0; LONGEST]);
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(LONGEST).min(LONGEST);
            open.read_exact(&mut piece[..wanted]).map_err(failed)?;
            self.send(Kind::Data, &piece[..wanted]).await?;
            left -= wanted as u64;
        }
        match self.next().await? {
            Spoken::Message(FromAgent::Stored) => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// The host's end of [`LOAD_PORT`](crate::channel::LOAD_PORT), a socket that does not block; `None` if it was taken
    /// before.
    pub const fn take_load_port(&mut self) -> Option<Socket> {
        self.load.take()
    }

    /// Sends a message to the agent.
    ///
    /// # Errors
    /// When the guest ends before it receives the message.
    pub async fn message(&mut self, message: &(impl Serialize + Sync)) -> Result<(), GuestError> {
        let payload = serde_json::to_vec(message).map_err(|error| GuestError::Protocol(error.to_string()))?;
        if payload.len() > LONGEST {
            return Err(GuestError::Protocol(format!("a message of {} bytes; {LONGEST} are the most", payload.len())));
        }
        self.send(Kind::Message, &payload).await
    }

    async fn send(&mut self, kind: Kind, payload: &[u8]) -> Result<(), GuestError> {
        let frame = self.encoder.encode(kind, payload);
        let mut left = frame.as_slice();
        while !left.is_empty() {
            tokio::select! {
                biased;
                spoken = self.life.look() => self.unheard.extend(spoken),
                written = self.agent.write(left), if !self.life.closed => match written {
                    Ok(written) => left = &left[written..],
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.life.take_end_of_channel(),
                    Err(error) => self.life.lose(format!("QEMU takes nothing any more: {error}")),
                },
            }
            self.check()?;
        }
        Ok(())
    }

    /// The agent's next message.
    ///
    /// # Errors
    /// When the guest ends, or is silent for too long.
    pub async fn next(&mut self) -> Result<Spoken, GuestError> {
        loop {
            if let Some(spoken) = self.unheard.pop_front() {
                return Ok(spoken);
            }
            if self.check().is_err() {
                self.unheard.extend(self.life.last_words().await);
                if let Some(spoken) = self.unheard.pop_front() {
                    return Ok(spoken);
                }
            }
            self.check()?;
            let spoken = self.life.look().await;
            self.unheard.extend(spoken);
        }
    }

    /// Waits until QEMU has ended after the guest switched itself off, but no longer than `patience`.
    pub async fn wait(&mut self, patience: Duration) {
        let _in_time = tokio::time::timeout(patience, async {
            while !self.life.ended {
                self.life.look().await;
            }
        })
        .await;
    }

    fn check(&self) -> Result<(), GuestError> {
        match self.life.watch.ending(Instant::now()) {
            None => Ok(()),
            Some(ending) => Err(ended(self.architecture, ending, self.directory.path(), &self.console, self.life.code)),
        }
    }
}

/// The sockets for agent, init, load, console and control: memgate's ends, which do not block, and QEMU's.
fn sockets() -> io::Result<([Socket; 5], [Socket; 5])> {
    let pair = || {
        let (ours, theirs) = Socket::pair()?;
        ours.set_nonblocking(true)?;
        Ok::<_, io::Error>((ours, theirs))
    };
    let [agent, init, load, console, control] = [pair()?, pair()?, pair()?, pair()?, pair()?];
    Ok(([agent.0, init.0, load.0, console.0, control.0], [agent.1, init.1, load.1, console.1, control.1]))
}

/// Starts QEMU. It ends when this thread does.
fn spawn(
    start: &Start,
    confined: Confined,
    theirs: [Socket; 5],
    incoming: bool,
    directory: &Path,
) -> Result<Running, GuestError> {
    let Machine { architecture, emulator, .. } = confined.machine.clone();
    let numbers = theirs.each_ref().map(Socket::as_raw_fd);
    let [agent, init, load, console, control] = numbers;
    let sockets = Sockets { agent, init, load, console, control };
    let said = File::create(directory.join("qemu.log")).map_err(|error| host("QEMU's log", error))?;
    let mut command = Command::new(&emulator.program);
    // Lists of processes show this name, even if the program is the loader of memgate's own QEMU.
    command.arg0(architecture.emulator());
    command.args(confined.machine.arguments(&sockets, incoming, start.is_joined));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).process_group(0);
    let parent = getpid();
    // SAFETY: between fork and exec the closure makes only system calls, which are async-signal-safe, and allocates
    // nothing.
    unsafe {
        command.pre_exec(move || confined.become_it(&numbers, parent));
    }
    let program = &start.machine.emulator.program;
    // With the command, memgate's copies of QEMU's sockets and files are closed.
    command.spawn().map(Running).map_err(|error| host(&program.display().to_string(), error))
}

/// Explains the end of a guest whose QEMU did not connect, or not for long.
async fn unconnected(start: &Start, qemu: &mut Running, directory: &Path, error: io::Error) -> GuestError {
    // It closes its sockets a moment before it has ended.
    let ended = tokio::time::timeout(LAST_WORDS, qemu.0.wait()).await;
    match ended {
        Ok(status) => {
            let code = code(&status);
            never_booted(start, directory, described(status), code)
        }
        Err(_) => never_booted(start, directory, error.to_string(), None),
    }
}

fn never_booted(start: &Start, directory: &Path, why: String, code: Option<i32>) -> GuestError {
    ended(start.machine.architecture, Ending::NeverBooted(why), directory, &start.console, code)
}

fn ended(
    architecture: Architecture,
    ending: Ending,
    directory: &Path,
    console: &Path,
    code: Option<i32>,
) -> GuestError {
    let said = std::fs::read_to_string(directory.join("qemu.log")).unwrap_or_default();
    let said = said.trim();
    let detail = if said.is_empty() { String::new() } else { format!("; QEMU said: {said}") };
    GuestError::Ended { architecture, ending, detail, code, console: console.to_owned() }
}

fn code(status: &io::Result<ExitStatus>) -> Option<i32> {
    status.as_ref().ok().and_then(ExitStatus::code)
}

fn described(status: io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("QEMU exited with code {code}"),
            (None, Some(number)) => {
                let name = Signal::try_from(number).map_or("a signal", Signal::as_str);
                format!("QEMU was ended by {name}")
            }
            (None, None) => "QEMU ended".to_owned(),
        },
        Err(error) => format!("QEMU's end is not known: {error}"),
    }
}

fn uncontrolled(what: &'static str, error: &ControlError) -> GuestError {
    GuestError::Uncontrolled { what, why: error.to_string() }
}

fn host(what: &str, error: io::Error) -> GuestError {
    GuestError::Host { what: what.to_owned(), error }
}

/// The identity of a build as a message names it.
fn told(build: &str) -> String {
    if build.is_empty() { "an older one, which tells no identity".to_owned() } else { build.to_owned() }
}

/// Checks that what the agent sent first says that it is ready and of this build.
fn is_of(wanted: &str, heard: &Spoken) -> Result<(), GuestError> {
    match heard {
        Spoken::Message(FromAgent::Ready { build }) if build == wanted => Ok(()),
        Spoken::Message(FromAgent::Ready { build }) => {
            Err(GuestError::OtherBuild { found: build.clone(), wanted: wanted.to_owned() })
        }
        other => Err(unexpected(other)),
    }
}

fn unexpected(spoken: &Spoken) -> GuestError {
    let what = match spoken {
        Spoken::Message(message) => format!("it said {message:?}"),
        Spoken::Data(_) => "it sent a piece of a file".to_owned(),
    };
    GuestError::Protocol(format!("{what} when something else was expected"))
}

async fn read_agent(
    stream: tokio::net::unix::OwnedReadHalf,
    first: u32,
    position: Arc<Position>,
    signs: mpsc::Sender<Sign>,
) {
    read_frames(stream, first, &position, &signs, |kind, payload| {
        Ok(Sign::Agent(match kind {
            Kind::Data => Spoken::Data(payload),
            Kind::Message => Spoken::Message(parsed(&payload)?),
        }))
    })
    .await;
}

async fn read_init(stream: UnixStream, first: u32, position: Arc<Position>, signs: mpsc::Sender<Sign>) {
    read_frames(stream, first, &position, &signs, |_, payload| Ok(Sign::Init(parsed(&payload)?))).await;
}

fn parsed<M: DeserializeOwned>(payload: &[u8]) -> Result<M, String> {
    serde_json::from_slice(payload)
        .map_err(|error| format!("the channel holds a message that is not understood: {error}"))
}

/// Reads frames until the stream ends, its receiver is gone, or something other than a frame comes.
async fn read_frames(
    mut stream: impl tokio::io::AsyncRead + Unpin,
    first: u32,
    position: &Position,
    signs: &mpsc::Sender<Sign>,
    sign: impl Fn(Kind, Vec<u8>) -> Result<Sign, String>,
) {
    let (mut decoder, mut bytes) = (Decoder::from_number(first), vec![0; 64 << 10]);
    position.set(&decoder);
    loop {
        let closed = match stream.read(&mut bytes).await {
            Ok(0) => Sign::ClosedByQemu,
            // What it had not read when it ended.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Sign::ClosedByQemu,
            Err(error) => Sign::Closed(format!("its channel cannot be read: {error}")),
            Ok(read) => {
                decoder.push(&bytes[..read]);
                loop {
                    let frame = match decoder.next_frame() {
                        Ok(Some(frame)) => sign(frame.kind, frame.payload),
                        Ok(None) => break,
                        Err(error) => Err(format!("its channel is corrupted: {error}")),
                    };
                    let (sign, is_last) = match frame {
                        Ok(sign) => (sign, false),
                        Err(how) => (Sign::Closed(how), true),
                    };
                    if signs.send(sign).await.is_err() || is_last {
                        return;
                    }
                }
                position.set(&decoder);
                continue;
            }
        };
        // Nobody may be left to hear it.
        let _ = signs.send(closed).await;
        return;
    }
}

async fn read_console(
    mut stream: tokio::net::unix::OwnedReadHalf,
    mut console: Console,
    is_joined: bool,
    signs: mpsc::Sender<Sign>,
) {
    let mut bytes = vec![0; 64 << 10];
    let failed = loop {
        match stream.read(&mut bytes).await {
            Ok(0) | Err(_) => break console.finish().err(),
            Ok(read) => match keep(&mut console, &bytes[..read], is_joined) {
                Ok(None) => {}
                Ok(Some(line)) => {
                    if signs.send(Sign::Panic(line)).await.is_err() {
                        break console.finish().err();
                    }
                }
                Err(error) => break Some(error),
            },
        }
    };
    if let Some(error) = failed {
        let _ = signs.send(Sign::Console(error)).await;
    }
}

fn keep(console: &mut Console, bytes: &[u8], is_joined: bool) -> io::Result<Option<String>> {
    if is_joined {
        crate::terminal::show(bytes);
    }
    console.push(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{AgentEnd, Outgoing};

    #[test]
    fn an_agent_of_another_build_is_refused() {
        let heard = |said: &str| Spoken::Message(serde_json::from_str(said).unwrap());
        assert!(is_of("b1", &heard(r#"{"ready":{"build":"b1"}}"#)).is_ok());
        let why = |said: &str| is_of("b1", &heard(said)).unwrap_err().to_string();
        let other = why(r#"{"ready":{"build":"b2"}}"#);
        assert_eq!(other, "the guest's agent is of another build of memgate (b2), and this memgate is of build b1");
        // As agents said it before there were identities.
        let old = why(r#"{"ready":{"version":3,"memgate":"0.1.0"}}"#);
        assert!(old.contains("(an older one, which tells no identity)"), "{old}");
        assert!(matches!(is_of("b1", &heard(r#""begun""#)), Err(GuestError::Protocol(_))));
    }

    /// The news that the agent has ended overtakes its evidence, which comes a moment later and fills the queue.
    #[tokio::test]
    async fn what_the_agent_sent_before_its_end_is_heard_after_the_news_of_its_end() {
        const PIECES: usize = 40;
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let (read_half, _to_agent) = UnixStream::from_std(ours).unwrap().into_split();
        let (signs, received) = mpsc::channel(16);
        let news = FromInit::AgentEnded { end: AgentEnd::Exited(0), oom_kills: 0 };
        signs.send(Sign::Init(news)).await.unwrap();
        let mut life = Life {
            qemu: Running(Command::new("sleep").arg("1000").spawn().unwrap()),
            ended: false,
            code: None,
            closed: false,
            signs: received,
            reader: tokio::spawn(read_agent(read_half, 0, Arc::default(), signs)),
            watch: Watch::new(Patience::default(), Instant::now()),
        };
        assert!(life.look().await.is_none() && life.watch.ending(Instant::now()).is_some());
        let sender = std::thread::spawn(move || {
            let mut stream = Outgoing::new(theirs);
            std::thread::sleep(std::time::Duration::from_millis(50));
            for _ in 0..PIECES {
                stream.data(&[7; 64 << 10]).unwrap();
            }
        });
        assert_eq!(life.last_words().await.len(), PIECES);
        sender.join().unwrap();
    }

    #[test]
    fn an_emulator_is_gone_when_it_was_dropped() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let child = Command::new("sleep").arg("1000").spawn().unwrap();
            let process = PathBuf::from(format!("/proc/{}", child.id().unwrap()));
            let emulator = Running(child);
            assert!(process.exists());
            drop(emulator);
            assert!(!process.exists(), "it is not even waiting to be reaped");
        });
    }
}
