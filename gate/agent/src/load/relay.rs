//! The host's end of the load's port: connections to a service in a guest.
//!
//! The agent in the guest makes each connection and hands on its bytes. To the service it is an ordinary one from
//! 127.0.0.1. Every frame to the guest also has the number of requests that have succeeded so far. So the agent knows
//! it when the next request arrives, and no message has this purpose alone.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    task::{Context, Poll, ready},
};

use memgate_qemu::channel::{LONGEST_PIECE, Piece, Step, UNIX, next_piece};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{Notify, mpsc, oneshot},
};

use super::Progress;

/// What the agent asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// The load of the phase with this number.
    Begin(u32),
    /// The end of the load, and its figures.
    Stop,
}

/// The port, with all its connections.
#[derive(Debug, Clone)]
pub(super) struct Relay(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    progress: Arc<Progress>,
    state: Mutex<State>,
    /// Wakes the writer.
    unsent: Notify,
    /// Wakes who waits until everything is sent.
    sent: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the next connection.
    next: u32,
    connections: HashMap<u32, Connection>,
    /// Frames that the writer has not taken yet.
    outgoing: Vec<u8>,
    is_writing: bool,
    /// Whether the port is gone.
    is_closed: bool,
}

#[derive(Debug)]
struct Connection {
    /// Who waits for the connection, until it is there.
    opening: Option<oneshot::Sender<io::Result<()>>>,
    /// What the service sends.
    bytes: mpsc::UnboundedSender<io::Result<Vec<u8>>>,
}

impl Relay {
    /// Takes over a port. Its two tasks run until it is closed. What the agent asks for is received from the channel,
    /// which ends with the port.
    pub(super) fn new(
        port: std::os::unix::net::UnixStream,
        progress: Arc<Progress>,
    ) -> io::Result<(Self, mpsc::UnboundedReceiver<Asked>)> {
        port.set_nonblocking(true)?;
        let (read, write) = UnixStream::from_std(port)?.into_split();
        let shared = Shared { progress, state: Mutex::default(), unsent: Notify::new(), sent: Notify::new() };
        let relay = Self(Arc::new(shared));
        let (asked, asks) = mpsc::unbounded_channel();
        tokio::spawn(relay.clone().write(write));
        tokio::spawn(relay.clone().read(read, asked));
        Ok((relay, asks))
    }

    /// Connects to the first of the addresses that accepts.
    ///
    /// # Errors
    /// As the last address refused.
    pub(super) async fn connect(&self, addresses: &[SocketAddr]) -> io::Result<RelayStream> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match self.connect_to(&address.to_string()).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Connects to the unix socket of the plan, which the agent knows.
    ///
    /// # Errors
    /// As the guest's system refused.
    pub(super) async fn connect_to_socket(&self) -> io::Result<RelayStream> {
        self.connect_to(UNIX).await
    }

    async fn connect_to(&self, address: &str) -> io::Result<RelayStream> {
        let (opening, opened) = oneshot::channel();
        let (bytes, inbox) = mpsc::unbounded_channel();
        let number = self.state(|state| {
            let number = state.next;
            state.next = state.next.wrapping_add(1);
            if !state.is_closed {
                state.connections.insert(number, Connection { opening: Some(opening), bytes });
            }
            number
        });
        // If this future is dropped, so is the stream, which closes the connection.
        let stream = RelayStream { relay: self.clone(), number, inbox, read: Vec::new(), consumed: 0 };
        self.send(Step::Open, number, address.as_bytes());
        opened.await.map_err(|_| gone())??;
        Ok(stream)
    }

    /// Sends a frame. It never waits: a request is small, and there is one for each connection.
    pub(super) fn send(&self, step: Step, number: u32, payload: &[u8]) {
        let succeeded = self.0.progress.succeeded.load(Ordering::Relaxed);
        self.state(|state| Piece { step, number, succeeded, payload }.append_to(&mut state.outgoing));
        self.0.unsent.notify_one();
    }

    /// Sends the load's figures, and waits until the guest has everything or the port is closed.
    pub(super) async fn send_figures(&self, figures: &[u8]) {
        for piece in figures.chunks(LONGEST_PIECE) {
            self.send(Step::Figures, 0, piece);
        }
        if figures.len().is_multiple_of(LONGEST_PIECE) {
            self.send(Step::Figures, 0, &[]);
        }
        while self.state(|state| !state.is_closed && (state.is_writing || !state.outgoing.is_empty())) {
            self.0.sent.notified().await;
        }
    }

    fn state<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn write(self, mut port: OwnedWriteHalf) {
        loop {
            let frames = self.state(|state| {
                state.is_writing = !state.outgoing.is_empty();
                std::mem::take(&mut state.outgoing)
            });
            if frames.is_empty() {
                self.0.sent.notify_one();
                self.0.unsent.notified().await;
            } else if port.write_all(&frames).await.is_err() {
                // The reader notices it too, and closes everything.
                return;
            }
        }
    }

    async fn read(self, mut port: OwnedReadHalf, asked: mpsc::UnboundedSender<Asked>) {
        let (mut stream, mut bytes) = (Vec::new(), vec![0; 64 << 10]);
        while let Ok(read @ 1..) = port.read(&mut bytes).await {
            stream.extend_from_slice(&bytes[..read]);
            let mut consumed = 0;
            let is_sound = loop {
                match next_piece(&stream[consumed..]) {
                    Ok(Some((piece, length))) => {
                        consumed += length;
                        if !self.take(piece, &asked) {
                            break false;
                        }
                    }
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
            stream.drain(..consumed);
            if !is_sound {
                break;
            }
        }
        self.state(|state| {
            state.is_closed = true;
            state.connections.clear();
        });
        self.0.sent.notify_one();
    }

    /// Hands a frame to whom it concerns; `false` if no agent sends such a frame. A connection that the host has closed
    /// may still have frames on their way.
    fn take(&self, piece: Piece<'_>, asked: &mpsc::UnboundedSender<Asked>) -> bool {
        let remove = |number| self.state(|state| state.connections.remove(&number));
        match piece.step {
            Step::Begin => asked.send(Asked::Begin(piece.number)).is_ok(),
            Step::Stop => asked.send(Asked::Stop).is_ok(),
            Step::Opened => {
                let opening = self.state(|state| state.connections.get_mut(&piece.number)?.opening.take());
                // Nobody may be left to hear it, here and below.
                opening.map(|opening| opening.send(Ok(())));
                true
            }
            Step::Broken => {
                let Ok(code) = piece.payload.try_into().map(i32::from_le_bytes) else { return false };
                let error = io::Error::from_raw_os_error(code);
                match remove(piece.number) {
                    Some(Connection { opening: Some(opening), .. }) => drop(opening.send(Err(error))),
                    Some(Connection { opening: None, bytes }) => drop(bytes.send(Err(error))),
                    None => {}
                }
                true
            }
            Step::Bytes => {
                self.state(|state| {
                    let connection = state.connections.get(&piece.number);
                    connection.map(|connection| connection.bytes.send(Ok(piece.payload.to_vec())));
                });
                true
            }
            Step::Ended => {
                remove(piece.number);
                true
            }
            Step::Open | Step::Close | Step::Done | Step::Figures => false,
        }
    }
}

/// A connection to the service. Dropping it closes it.
#[derive(Debug)]
pub(super) struct RelayStream {
    relay: Relay,
    number: u32,
    inbox: mpsc::UnboundedReceiver<io::Result<Vec<u8>>>,
    /// What has been received.
    read: Vec<u8>,
    /// The part of it that has been read.
    consumed: usize,
}

impl Drop for RelayStream {
    fn drop(&mut self) {
        self.relay.state(|state| state.connections.remove(&self.number));
        self.relay.send(Step::Close, self.number, &[]);
    }
}

impl AsyncRead for RelayStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.consumed == this.read.len() {
            match ready!(this.inbox.poll_recv(context)) {
                Some(bytes) => (this.read, this.consumed) = (bytes?, 0),
                None => return Poll::Ready(Ok(())),
            }
        }
        let left = &this.read[this.consumed..];
        let read = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..read]);
        this.consumed += read;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for RelayStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.relay.state(|state| state.is_closed) {
            return Poll::Ready(Err(gone()));
        }
        let piece = &bytes[..bytes.len().min(LONGEST_PIECE)];
        self.relay.send(Step::Bytes, self.number, piece);
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the guest is gone")
}
