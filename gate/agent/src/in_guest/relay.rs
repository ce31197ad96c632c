//! The guest's end of the load's port: it connects to the service for the host's load generator and hands on the bytes.
//!
//! Every step costs an emulated processor much more than a real one. So one thread moves the bytes with few system
//! calls, and the host does the rest: it knows HTTP and decides what is sent when. The thread also keeps what the host
//! tells it: how many requests have succeeded, which phases are over, and in the end the figures.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread::JoinHandle,
};

use memgate_evidence::error::Result;
use memgate_qemu::channel::{LOAD_PORT, LONGEST_PIECE, Piece, Step, UNIX, next_piece};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        eventfd::EventFd,
        socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket},
    },
};

use crate::{
    load::{LoadError, LoadOutcome, Phase, Progress},
    socket::Socket,
};

/// The load that the host drives. Its thread ends when the process does, or when the port fails.
#[derive(Debug)]
pub struct HostLoad {
    told: Arc<Told>,
    wake: Arc<EventFd>,
    _thread: JoinHandle<()>,
}

/// What the host has told, and what it is to be told.
#[derive(Debug, Default)]
struct Told {
    progress: Arc<Progress>,
    /// Phases that are over.
    done: AtomicU32,
    figures: Mutex<Option<Result<LoadOutcome, String>>>,
    /// Frames for the host from other threads.
    asks: Mutex<Vec<u8>>,
}

impl HostLoad {
    /// Opens the port and starts the thread. `unix` is the unix socket of the plan, if it has one.
    ///
    /// # Errors
    /// Fails with [`LoadError`] if the guest has no such port, or if the thread cannot be started.
    pub(crate) fn start(unix: Option<Socket>) -> Result<Self> {
        let port = super::ports::open(LOAD_PORT).map_err(LoadError::NotStarted)?;
        Ok(Self::over(port, unix).map_err(LoadError::NotStarted)?)
    }

    /// Uses this port.
    pub(crate) fn over(port: File, unix: Option<Socket>) -> io::Result<Self> {
        let (told, wake) = (Arc::new(Told::default()), Arc::new(EventFd::new()?));
        let mut relay = Relay::new(port, unix, Arc::clone(&told), &wake)?;
        let woken = Arc::clone(&wake);
        let thread = std::thread::Builder::new().name("relay".to_owned()).spawn(move || {
            let Err(error) = relay.run(&woken);
            let lost = format!("the port to the host's load generator: {error}");
            relay.told.figures.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(Err(lost));
        })?;
        Ok(Self { told, wake, _thread: thread })
    }

    /// The counts so far: of the requests, those that succeeded.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.told.progress)
    }

    /// Begins the load of a phase.
    pub fn begin(&self, phase: Phase) {
        self.ask(Step::Begin, u32::try_from(phase.number()).unwrap_or(u32::MAX));
    }

    /// Whether every request of this phase has ended, and none is in flight.
    pub fn is_done(&self, phase: Phase) -> bool {
        self.told.done.load(Ordering::Acquire) as usize > phase.number()
    }

    /// Checks that the load goes on.
    ///
    /// # Errors
    /// Fails with [`LoadError::Host`] if the host's load generator has failed or is not reached.
    pub fn check(&self) -> Result<()> {
        match &*self.told.figures.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(Err(reason)) => Err(LoadError::Host { reason: reason.clone() }.into()),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    /// Ends the load at once. Then [`Self::figures`] comes.
    pub fn stop(&self) {
        self.ask(Step::Stop, 0);
    }

    /// The figures, when they are there.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn figures(&self) -> Result<Option<LoadOutcome>> {
        self.check()?;
        Ok(self.told.figures.lock().unwrap_or_else(PoisonError::into_inner).clone().and_then(Result::ok))
    }

    fn ask(&self, step: Step, number: u32) {
        let mut asks = self.told.asks.lock().unwrap_or_else(PoisonError::into_inner);
        Piece { step, number, succeeded: 0, payload: &[] }.append_to(&mut asks);
        // It fails only if its counter is full, and then the thread wakes too.
        let _ = self.wake.write(1);
    }
}

/// What never happens: the relay does not end without an error.
enum Never {}

/// The number of the port among the events. Connections have 32 bits.
const PORT: u64 = u64::MAX;
/// The number of the wake-ups among the events.
const WAKE: u64 = u64::MAX - 1;

/// The thread's state.
struct Relay {
    port: File,
    /// The unix socket of the plan.
    unix: Option<Socket>,
    events: Epoll,
    told: Arc<Told>,
    connections: HashMap<u32, Connection>,
    /// Received from the host and not yet taken.
    incoming: Vec<u8>,
    /// For the host.
    outgoing: Vec<u8>,
    /// Pieces of the figures.
    figures: Vec<u8>,
    buffer: Vec<u8>,
}

/// A connection to the service.
struct Connection {
    stream: Stream,
    is_open: bool,
    /// What the service's side had no room for.
    unsent: Vec<u8>,
}

/// A socket of the service's kind.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Relay {
    fn new(port: File, unix: Option<Socket>, told: Arc<Told>, wake: &EventFd) -> io::Result<Self> {
        // A write that blocks would spin in the kernel until the host has taken the bytes (`__send_to_port`,
        // drivers/char/virtio_console.c, Linux 5.10 to 7.2).
        fcntl(&port, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let events = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        events.add(&port, EpollEvent::new(EpollFlags::EPOLLIN, PORT))?;
        events.add(wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        let (connections, buffer) = (HashMap::new(), vec![0; 64 << 10]);
        let (incoming, outgoing, figures) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { port, unix, events, told, connections, incoming, outgoing, figures, buffer })
    }

    fn run(&mut self, wake: &EventFd) -> io::Result<Never> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let count = match self.events.wait(&mut events, EpollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                count => count?,
            };
            for event in &events[..count] {
                match event.data() {
                    PORT => self.hear()?,
                    WAKE => {
                        wake.read()?;
                        let asks = std::mem::take(&mut *self.told.asks.lock().unwrap_or_else(PoisonError::into_inner));
                        self.outgoing.extend(asks);
                    }
                    number => self.serve(u32::try_from(number).unwrap_or(u32::MAX), event.events())?,
                }
            }
            self.tell()?;
        }
    }

    /// Reads from the port once. If there is more, the next round reads it.
    fn hear(&mut self) -> io::Result<()> {
        match self.port.read(&mut self.buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => self.incoming.extend_from_slice(&self.buffer[..read]),
            Err(error) if is_not_yet(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
        let incoming = std::mem::take(&mut self.incoming);
        let mut consumed = 0;
        while let Some((piece, length)) = next_piece(&incoming[consumed..]).map_err(io::Error::other)? {
            consumed += length;
            self.take(piece)?;
        }
        self.incoming = incoming;
        self.incoming.drain(..consumed);
        Ok(())
    }

    fn take(&mut self, piece: Piece<'_>) -> io::Result<()> {
        // Only the host's frames have the number, and it only grows.
        self.told.progress.succeeded.store(piece.succeeded, Ordering::Relaxed);
        match piece.step {
            Step::Open => self.open(piece.number, piece.payload),
            Step::Bytes => self.send(piece.number, piece.payload),
            Step::Close => {
                self.connections.remove(&piece.number);
                Ok(())
            }
            Step::Done => {
                self.told.done.store(piece.number.saturating_add(1), Ordering::Release);
                Ok(())
            }
            Step::Figures => {
                self.figures.extend_from_slice(piece.payload);
                if piece.payload.len() < LONGEST_PIECE {
                    let figures: Result<LoadOutcome, String> = serde_json::from_slice(&self.figures)?;
                    *self.told.figures.lock().unwrap_or_else(PoisonError::into_inner) = Some(figures);
                }
                Ok(())
            }
            Step::Opened | Step::Broken | Step::Ended | Step::Begin | Step::Stop => {
                Err(io::Error::other("a frame that only the agent sends"))
            }
        }
    }

    fn open(&mut self, number: u32, address: &[u8]) -> io::Result<()> {
        let none = || io::Error::other("an address that is none");
        let stream = if address == UNIX.as_bytes() {
            self.unix.as_ref().ok_or_else(none)?.connect().map(Stream::Unix)
        } else {
            let address = std::str::from_utf8(address).ok().and_then(|address| address.parse::<SocketAddr>().ok());
            Stream::to_address(address.ok_or_else(none)?)
        };
        match stream {
            Ok(stream) => {
                // It is writable when it is connected or has failed.
                self.events.add(&stream, EpollEvent::new(EpollFlags::EPOLLOUT, u64::from(number)))?;
                self.connections.insert(number, Connection { stream, is_open: false, unsent: Vec::new() });
            }
            Err(error) => self.break_off(number, &error),
        }
        Ok(())
    }

    /// Hands bytes on to the service. What it has no room for waits.
    fn send(&mut self, number: u32, bytes: &[u8]) -> io::Result<()> {
        // The service may have closed it meanwhile.
        let Some(connection) = self.connections.get_mut(&number) else { return Ok(()) };
        let was_empty = connection.unsent.is_empty();
        connection.unsent.extend_from_slice(bytes);
        match connection.flush() {
            Ok(true) => Ok(()),
            Ok(false) if !was_empty => Ok(()),
            Ok(false) => self.watch(number, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT),
            Err(error) => {
                self.break_off(number, &error);
                Ok(())
            }
        }
    }

    /// Handles an event of a connection.
    fn serve(&mut self, number: u32, flags: EpollFlags) -> io::Result<()> {
        // It may have been closed in the same round.
        let Some(connection) = self.connections.get_mut(&number) else { return Ok(()) };
        if !connection.is_open {
            match connection.stream.take_error() {
                Ok(None) => {
                    connection.is_open = true;
                    self.frame(Step::Opened, number, &[]);
                    return self.watch(number, EpollFlags::EPOLLIN);
                }
                Ok(Some(error)) | Err(error) => self.break_off(number, &error),
            }
            return Ok(());
        }
        if flags.contains(EpollFlags::EPOLLOUT) {
            match connection.flush() {
                Ok(true) => self.watch(number, EpollFlags::EPOLLIN)?,
                Ok(false) => {}
                Err(error) => self.break_off(number, &error),
            }
        }
        if flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
            self.hand_on(number);
        }
        Ok(())
    }

    /// Reads from a connection once, for the host.
    fn hand_on(&mut self, number: u32) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        match connection.stream.read(&mut self.buffer[..LONGEST_PIECE]) {
            Ok(0) => {
                self.connections.remove(&number);
                self.frame(Step::Ended, number, &[]);
            }
            Ok(read) => {
                let payload = &self.buffer[..read];
                Piece { step: Step::Bytes, number, succeeded: 0, payload }.append_to(&mut self.outgoing);
            }
            Err(error) if is_not_yet(&error) => {}
            Err(error) => self.break_off(number, &error),
        }
    }

    fn break_off(&mut self, number: u32, error: &io::Error) {
        self.connections.remove(&number);
        let code = error.raw_os_error().unwrap_or(nix::libc::EIO);
        self.frame(Step::Broken, number, &code.to_le_bytes());
    }

    fn watch(&self, number: u32, flags: EpollFlags) -> io::Result<()> {
        let Some(connection) = self.connections.get(&number) else { return Ok(()) };
        Ok(self.events.modify(&connection.stream, &mut EpollEvent::new(flags, u64::from(number)))?)
    }

    fn frame(&mut self, step: Step, number: u32, payload: &[u8]) {
        Piece { step, number, succeeded: 0, payload }.append_to(&mut self.outgoing);
    }

    /// Writes everything to the port. The host always reads, so waiting for room is safe.
    fn tell(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.outgoing.len() {
            match self.port.write(&self.outgoing[written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if is_not_yet(&error) => {
                    let mut room = [PollFd::new(self.port.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut room, PollTimeout::NONE)?;
                }
                Err(error) => return Err(error),
            }
        }
        self.outgoing.clear();
        Ok(())
    }
}

impl Connection {
    /// Sends what waits. Whether everything was sent.
    fn flush(&mut self) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if is_not_yet(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Stream {
    /// A stream that connects, or has connected already.
    fn to_address(address: SocketAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(family, SockType::Stream, flags, None)?;
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let stream = TcpStream::from(socket);
        // As the generator does on this machine.
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    fn take_error(&self) -> io::Result<Option<io::Error>> {
        match self {
            Self::Tcp(stream) => stream.take_error(),
            Self::Unix(stream) => stream.take_error(),
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(bytes),
            Self::Unix(stream) => stream.read(bytes),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

fn is_not_yet(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
