//! What a process tells of itself as sd_notify(3) has it: datagrams with lines such as `READY=1` to the socket that
//! `NOTIFY_SOCKET` names.
//!
//! Everybody on the machine may send to the socket. The kernel tells who did, and only what comes from the process's own
//! cgroup counts.

use std::{
    ffi::OsString,
    hash::{BuildHasher as _, RandomState},
    io::{self, IoSliceMut},
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

use nix::{
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, UnixAddr, UnixCredentials, recvmsg, setsockopt, sockopt::PassCred},
    unistd::Pid,
};

/// The variable with the name of the socket.
pub(crate) const VARIABLE: &str = "NOTIFY_SOCKET";

/// The most that a datagram has; the rest is cut off. systemd takes as much (`NOTIFY_BUFFER_MAX`, src/core/manager.c,
/// systemd 257).
const LONGEST: usize = 4096;

/// The most open files that a datagram can have (`SCM_MAX_FD`, include/net/scm.h, Linux 6.18).
const MOST_FILES: usize = 253;

/// The most datagrams of one look, so that one who sends without end does not keep memgate from the time and from an
/// interrupt. Each costs a read of the cgroup's processes.
const MOST: usize = 64;

/// The socket for one process. It has no file, so nothing of it can be left.
#[derive(Debug)]
pub(crate) struct NotifySocket {
    socket: UnixDatagram,
    name: String,
}

/// What has been told so far.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Whether the process is ready.
    pub(super) is_ready: bool,
    /// Its last `STATUS=`.
    pub(super) status: Option<String>,
    /// The last stranger that said it were ready; 0 for one of another PID namespace.
    pub(super) stranger: Option<i32>,
}

impl NotifySocket {
    /// A socket with a name of its own.
    ///
    /// # Errors
    /// The system's reason.
    pub(crate) fn open() -> io::Result<Self> {
        let name = format!("memgate-{}-{:016x}", std::process::id(), RandomState::new().hash_one(()));
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        socket.set_nonblocking(true)?;
        setsockopt(&socket, PassCred, &true)?;
        Ok(Self { socket, name })
    }

    /// The variable for the process. A leading `@` stands for a socket without a file.
    pub(crate) fn variable(&self) -> (OsString, OsString) {
        (VARIABLE.into(), format!("@{}", self.name).into())
    }

    /// Reads what has come since, until the process is ready, and adds it to what was told. It leaves all but the first
    /// [`MOST`] datagrams for the next look. `is_own` says whether a process counts.
    ///
    /// # Errors
    /// The system's reason.
    pub(super) fn read(&self, told: &mut Told, is_own: impl Fn(Pid) -> bool) -> io::Result<()> {
        for _ in 0..MOST {
            let Some((text, sender)) = self.receive()? else { return Ok(()) };
            let has = |wanted: &str| text.lines().any(|line| line == wanted);
            if !is_own(sender) {
                if has("READY=1") {
                    told.stranger = Some(sender.as_raw());
                }
                continue;
            }
            told.is_ready |= has("READY=1");
            if let Some(status) = text.lines().rev().find_map(|line| line.strip_prefix("STATUS=")) {
                told.status = Some(status.to_owned());
            }
            if told.is_ready {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The next datagram and its sender; `None` if there is none. The files that it brings are closed, which is what a
    /// sender waits for that wants to know when it was read (`BARRIER=1`).
    fn receive(&self) -> io::Result<Option<(String, Pid)>> {
        let mut bytes = [0; LONGEST];
        let mut pieces = [IoSliceMut::new(&mut bytes)];
        let mut space = nix::cmsg_space!(UnixCredentials, [RawFd; MOST_FILES]);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let received = match recvmsg::<UnixAddr>(self.socket.as_raw_fd(), &mut pieces, Some(&mut space), flags) {
            Err(Errno::EAGAIN) => return Ok(None),
            received => received?,
        };
        let mut sender = Pid::from_raw(0);
        for message in received.cmsgs()? {
            match message {
                ControlMessageOwned::ScmCredentials(credentials) => sender = Pid::from_raw(credentials.pid()),
                ControlMessageOwned::ScmRights(files) => {
                    for file in files {
                        // SAFETY: the kernel has just made the descriptor for this process, and nothing else knows it.
                        drop(unsafe { OwnedFd::from_raw_fd(file) });
                    }
                }
                _ => {}
            }
        }
        let length = received.bytes;
        Ok(Some((String::from_utf8_lossy(&bytes[..length]).into_owned(), sender)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(socket: &NotifySocket, text: &str) {
        let client = UnixDatagram::unbound().unwrap();
        client.send_to_addr(text.as_bytes(), &SocketAddr::from_abstract_name(&socket.name).unwrap()).unwrap();
    }

    #[test]
    fn what_the_own_process_tells_counts() {
        let socket = NotifySocket::open().unwrap();
        let mut told = Told::default();
        let is_own = |sender| sender == Pid::this();
        socket.read(&mut told, is_own).unwrap();
        assert_eq!(told, Told::default());
        send(&socket, "STATUS=loading\nREADY=0");
        send(&socket, "STATUS=almost\nNOT_READY=1");
        socket.read(&mut told, is_own).unwrap();
        assert_eq!(told, Told { status: Some("almost".to_owned()), ..Told::default() });
        send(&socket, "READY=1\nSTATUS=up\n");
        socket.read(&mut told, is_own).unwrap();
        assert!(told.is_ready && told.stranger.is_none());
        let (name, value) = socket.variable();
        assert!(name == "NOTIFY_SOCKET" && value.to_str().unwrap().starts_with("@memgate-"));
    }

    #[test]
    fn what_a_stranger_tells_does_not() {
        let socket = NotifySocket::open().unwrap();
        let mut told = Told::default();
        send(&socket, "READY=1\nSTATUS=mine");
        socket.read(&mut told, |_| false).unwrap();
        assert_eq!(told, Told { stranger: Some(Pid::this().as_raw()), ..Told::default() });
    }

    #[test]
    fn one_who_sends_without_end_does_not_hold_a_look() {
        let socket = NotifySocket::open().unwrap();
        let mut told = Told::default();
        let count = std::cell::Cell::new(0_usize);
        let again = |_| {
            count.set(count.get() + 1);
            send(&socket, &format!("STATUS={}", count.get()));
            true
        };
        send(&socket, "STATUS=0");
        socket.read(&mut told, again).unwrap();
        assert_eq!((count.get(), told.status.as_deref()), (MOST, Some("63")));
        send(&socket, "READY=1");
        socket.read(&mut told, |_| true).unwrap();
        assert!(told.is_ready);
    }

    #[test]
    fn files_that_a_datagram_brings_are_closed() {
        use std::io::Read as _;
        let socket = NotifySocket::open().unwrap();
        let (mut end, other) = io::pipe().unwrap();
        let client = UnixDatagram::unbound().unwrap();
        let address = UnixAddr::new_abstract(socket.name.as_bytes()).unwrap();
        nix::sys::socket::sendmsg(
            client.as_raw_fd(),
            &[io::IoSlice::new(b"BARRIER=1")],
            &[nix::sys::socket::ControlMessage::ScmRights(&[other.as_raw_fd()])],
            MsgFlags::empty(),
            Some(&address),
        )
        .unwrap();
        drop(other);
        socket.read(&mut Told::default(), |_| true).unwrap();
        assert_eq!(end.read(&mut [0]).unwrap(), 0, "the last end for writing is closed");
    }
}
