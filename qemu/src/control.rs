//! QEMU's control socket (QMP): stops a guest, saves it, and continues it.
//!
//! QEMU may stop answering, or write what is no answer. Every wait has a limit, and a QEMU that has missed one is not
//! asked again.

use std::{
    cell::Cell,
    fs::File,
    io::{self, IoSlice},
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use qapi::{
    Command, ExecuteError,
    futures::{QapiService, QmpStreamTokio},
    qmp,
};
use tokio::{
    io::{AsyncRead, ReadBuf, ReadHalf, WriteHalf},
    net::UnixStream,
};

/// How long QEMU may take. It answers in milliseconds, but of a processor that others may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// For one answer. While a QEMU loads a snapshot, it answers nothing.
    pub(crate) answer: Duration,
    /// To save or to load a snapshot.
    pub(crate) transfer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { answer: Duration::from_secs(30), transfer: Duration::from_secs(60) }
    }
}

/// The longest line of QEMU's, bytes. Its greeting, the longest one, has less than 1 KiB.
const LONGEST: usize = 1 << 20;

/// Why QEMU does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// It has not answered in time.
    #[error("QEMU has not answered `{command}` for {} s", .limit.as_secs_f64())]
    Silent { command: &'static str, limit: Duration },
    /// It missed an earlier limit.
    #[error("QEMU is not asked again after it has not answered")]
    Given,
    /// The socket is closed, or holds what is no answer.
    #[error("QEMU's control socket is of no use any more: {0}")]
    Broken(io::Error),
    /// It answers that it will not.
    #[error("QEMU refuses `{command}`: {why}")]
    Refused { command: &'static str, why: String },
    /// It answers, but is not done in time.
    #[error("QEMU is not done with the snapshot after {} s", .0.as_secs_f64())]
    Slow(Duration),
}

impl ControlError {
    /// Whether QEMU still answers, so that its guest can continue.
    pub(crate) const fn leaves_control(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Slow(_))
    }
}

/// One QEMU's control socket.
pub(crate) struct Control {
    service: QapiService<QmpStreamTokio<WriteHalf<UnixStream>>>,
    /// The same socket, for passing files.
    socket: OwnedFd,
    limits: Limits,
    /// Whether QEMU has missed a limit.
    is_given_up: Cell<bool>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

impl Control {
    /// Starts the conversation on a socket that QEMU has. The caller limits the wait for QEMU's greeting.
    pub(crate) async fn negotiate(stream: UnixStream, limits: Limits) -> io::Result<Self> {
        let socket = stream.as_fd().try_clone_to_owned()?;
        let (read, write): (ReadHalf<_>, WriteHalf<_>) = tokio::io::split(stream);
        let negotiation = QmpStreamTokio::open_split(Lines { inner: read, length: 0 }, write).await?;
        let (service, events) = negotiation.negotiate().await?.into_parts();
        // This call also handles the answers.
        tokio::spawn(events.into_future());
        Ok(Self { service, socket, limits, is_given_up: Cell::new(false) })
    }

    /// Stops the guest's CPUs.
    pub(crate) async fn stop(&self) -> Result<(), ControlError> {
        self.ask(qmp::stop {}).await.map(drop)
    }

    /// Lets the guest's CPUs run.
    pub(crate) async fn cont(&self) -> Result<(), ControlError> {
        self.ask(qmp::cont {}).await.map(drop)
    }

    /// Writes the stopped guest to a file that is open for writing only.
    pub(crate) async fn save(&self, file: &File) -> Result<(), ControlError> {
        self.map_memory().await?;
        let set = self.pass(file).await?;
        self.ask(qmp::migrate { uri: Some(uri(set)), channels: None, detach: None, resume: None }).await?;
        match self.wait().await {
            Err(slow @ ControlError::Slow(_)) => {
                self.ask(qmp::migrate_cancel {}).await?;
                Err(slow)
            }
            // QEMU has no further use for the file.
            Ok(()) => self.ask(qmp::remove_fd { fdset_id: set, fd: None }).await.map(drop),
            Err(other) => Err(other),
        }
    }

    /// Loads a file that is open for reading only into a guest that was started with `-incoming defer`.
    pub(crate) async fn load(&self, file: &File) -> Result<(), ControlError> {
        self.map_memory().await?;
        let set = self.pass(file).await?;
        self.ask(qmp::migrate_incoming { uri: Some(uri(set)), channels: None, exit_on_error: None }).await?;
        self.wait().await
    }

    /// Each page has a fixed place in the file, so the file is no larger than the guest's memory.
    async fn map_memory(&self) -> Result<(), ControlError> {
        let mapped = qmp::MigrationCapabilityStatus { capability: qmp::MigrationCapability::mapped_ram, state: true };
        self.ask(qmp::migrate_set_capabilities { capabilities: vec![mapped] }).await.map(drop)
    }

    /// Gives QEMU a file that its user could not open. Returns QEMU's number for it.
    async fn pass(&self, file: &File) -> Result<i64, ControlError> {
        let descriptors = [file.as_raw_fd()];
        // QEMU keeps what comes with any byte for the next command, and skips white space.
        let (bytes, with) = ([IoSlice::new(b"\n")], [ControlMessage::ScmRights(&descriptors)]);
        sendmsg::<()>(self.socket.as_raw_fd(), &bytes, &with, MsgFlags::MSG_NOSIGNAL, None)
            .map_err(|error| ControlError::Broken(error.into()))?;
        self.ask(qmp::add_fd { fdset_id: None, opaque: None }).await.map(|added| added.fdset_id)
    }

    async fn wait(&self) -> Result<(), ControlError> {
        let started = Instant::now();
        loop {
            let info = self.ask(qmp::query_migrate {}).await?;
            match info.status {
                Some(qmp::MigrationStatus::completed) => return Ok(()),
                Some(qmp::MigrationStatus::failed | qmp::MigrationStatus::cancelled) => {
                    let why = info.error_desc.unwrap_or_else(|| "it does not say why".to_owned());
                    return Err(ControlError::Refused { command: "migrate", why });
                }
                _ if started.elapsed() >= self.limits.transfer => return Err(ControlError::Slow(self.limits.transfer)),
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    async fn ask<C: qmp::QmpCommand>(&self, command: C) -> Result<<C as Command>::Ok, ControlError> {
        let (name, limit) = (<C as Command>::NAME, self.limits.answer);
        if self.is_given_up.get() {
            return Err(ControlError::Given);
        }
        match tokio::time::timeout(limit, self.service.execute(command)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(ExecuteError::Qapi(error))) => Err(ControlError::Refused { command: name, why: error.to_string() }),
            Ok(Err(ExecuteError::Io(error))) => Err(ControlError::Broken(error)),
            Err(_) => {
                self.is_given_up.set(true);
                Err(ControlError::Silent { command: name, limit })
            }
        }
    }
}

/// The place of a file that QEMU got with `add-fd`.
fn uri(set: i64) -> String {
    format!("file:/dev/fdset/{set}")
}

/// A stream that fails at a line longer than [`LONGEST`], before anybody keeps it.
struct Lines<R> {
    inner: R,
    /// The length of the line so far, bytes.
    length: usize,
}

impl<R: AsyncRead + Unpin> AsyncRead for Lines<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let read = &buffer.filled()[before..];
        self.length = match read.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => read.len() - end - 1,
            None => self.length + read.len(),
        };
        if self.length > LONGEST {
            let why = format!("a line of more than {LONGEST} bytes");
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        os::unix::net::UnixStream as Socket,
    };

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 13, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}"#;

    const SHORT: Limits = Limits { answer: Duration::from_millis(200), transfer: Duration::from_millis(300) };

    /// A QEMU that answers commands as `answer` says: the answer without its id, or what it writes and does instead.
    enum Answer {
        Return(&'static str),
        Error,
        Write(&'static str),
        Flood,
        Close,
    }

    fn peer(mut write: Socket, answer: fn(&str) -> Answer) {
        let lines = BufReader::new(write.try_clone().unwrap()).lines();
        writeln!(write, "{GREETING}").unwrap();
        for line in lines.map_while(Result::ok) {
            let Ok(command) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
            let name = command["execute"].as_str().unwrap();
            let id = &command["id"];
            let answer = if name == "qmp_capabilities" { Answer::Return("{}") } else { answer(name) };
            let text = match answer {
                Answer::Return(value) => format!("{{\"return\": {value}, \"id\": {id}}}\n"),
                Answer::Error => {
                    format!("{{\"error\": {{\"class\": \"GenericError\", \"desc\": \"no\"}}, \"id\": {id}}}\n")
                }
                Answer::Write(text) => text.to_owned(),
                Answer::Flood => {
                    while write.write_all(&[b'x'; 1 << 16]).is_ok() {}
                    return;
                }
                Answer::Close => return,
            };
            if write.write_all(text.as_bytes()).is_err() {
                return;
            }
        }
    }

    /// What saving to a file comes to, what continuing the guest does afterwards, and the time that both took.
    async fn saving(answer: fn(&str) -> Answer) -> (Result<(), ControlError>, Result<(), ControlError>, Duration) {
        let (ours, theirs) = Socket::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        std::thread::spawn(move || peer(theirs, answer));
        let control = Control::negotiate(UnixStream::from_std(ours).unwrap(), SHORT).await.unwrap();
        let started = Instant::now();
        let saved = control.save(&tempfile::tempfile().unwrap()).await;
        let continued = control.cont().await;
        (saved, continued, started.elapsed())
    }

    /// A QEMU that works, whose transfer has this status.
    fn working(name: &str, status: &'static str) -> Answer {
        match name {
            "add-fd" => Answer::Return(r#"{"fdset-id": 3, "fd": 9}"#),
            "query-migrate" => Answer::Return(status),
            _ => Answer::Return("{}"),
        }
    }

    #[tokio::test]
    async fn a_guest_is_saved() {
        let (saved, continued, _) = saving(|name| working(name, r#"{"status": "completed"}"#)).await;
        saved.unwrap();
        continued.unwrap();
    }

    #[tokio::test]
    async fn a_qemu_that_is_silent_is_given_up() {
        let (saved, continued, took) = saving(|name| match name {
            "migrate" => Answer::Write(""),
            _ => working(name, "{}"),
        })
        .await;
        let error = saved.unwrap_err();
        assert_eq!(error.to_string(), "QEMU has not answered `migrate` for 0.2 s");
        assert!(!error.leaves_control());
        assert!(matches!(continued, Err(ControlError::Given)), "{continued:?}");
        assert!(took < SHORT.answer * 10, "{took:?}");
    }

    #[tokio::test]
    async fn half_a_line_is_no_answer() {
        let (saved, ..) = saving(|_| Answer::Write("{\"return\": {")).await;
        assert!(matches!(saved, Err(ControlError::Silent { .. })), "{saved:?}");
    }

    #[tokio::test]
    async fn what_is_no_answer_ends_the_conversation() {
        for answer in [|_: &str| Answer::Write("garbage\n"), |_: &str| Answer::Close, |_: &str| Answer::Flood] {
            let (saved, continued, took) = saving(answer).await;
            let error = saved.unwrap_err();
            assert!(matches!(error, ControlError::Broken(_)) && !error.leaves_control(), "{error}");
            assert!(matches!(continued, Err(ControlError::Broken(_))), "{continued:?}");
            // A flood is noticed by its length, and nobody waits for its end.
            assert!(took < Duration::from_secs(60), "{took:?}");
        }
    }

    #[tokio::test]
    async fn a_transfer_without_an_end_is_cancelled_and_the_guest_continues() {
        let (saved, continued, _) = saving(|name| working(name, r#"{"status": "active"}"#)).await;
        let error = saved.unwrap_err();
        assert_eq!(error.to_string(), "QEMU is not done with the snapshot after 0.3 s");
        assert!(error.leaves_control());
        continued.unwrap();
    }

    #[tokio::test]
    async fn a_refusal_is_named_and_the_guest_continues() {
        let (saved, continued, _) = saving(|name| match name {
            "migrate" => Answer::Error,
            _ => working(name, "{}"),
        })
        .await;
        let error = saved.unwrap_err();
        assert!(error.to_string().starts_with("QEMU refuses `migrate`: ") && error.leaves_control(), "{error}");
        continued.unwrap();
    }

    #[tokio::test]
    async fn a_greeting_without_an_end_is_not_kept() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let flood = tokio::spawn(async move {
            let (_read, mut write) = theirs.into_split();
            let mut written = 0;
            while let Ok(length) = write.write(&[b'x'; 1 << 16]).await {
                written += length;
            }
            written
        });
        let error = Control::negotiate(ours, SHORT).await.unwrap_err();
        assert!(error.to_string().contains("a line of more than 1048576 bytes"), "{error}");
        assert!(flood.await.unwrap() < 4 * LONGEST);
    }
}
