//! Who listens at a unix socket: the kernel tells one who connects.

use std::io;

use nix::unistd::Pid;
use procfs::{
    net::{UnixNetEntry, UnixState},
    process::Process,
};

use super::{Holder, INTERVAL, LOOKS, ListenerError, When, command, holder, lives, sockets};
use crate::socket::{Socket, listener};

/// A socket that only one process or its family may serve.
pub(super) struct Peer<'a> {
    /// Whose it is: `the service`.
    pub(super) who: &'a str,
    pub(super) socket: &'a Socket,
    /// Whether requests go there, so that somebody must listen.
    pub(super) is_of_load: bool,
}

impl Peer<'_> {
    /// Checks that one of these processes listens at the socket. Returns a note if that is not known.
    ///
    /// # Errors
    /// Fails with [`ListenerError`] if another one listens there, or if nobody does although requests go there.
    pub(super) async fn check(&self, when: When, own: &[Pid]) -> Result<Option<String>, ListenerError> {
        let mut looks = 1;
        let connected = loop {
            match (self.socket.connect().and_then(|stream| listener(&stream)), when) {
                (Ok(listener), _) => break Ok(listener),
                // It may have closed its socket meanwhile, for which its requests have failed.
                (Err(error), When::Measured) if is_nobody(&error) => return Ok(None),
                (Err(error), _) if looks == LOOKS => break Err(error),
                // A service that is ready elsewhere may not listen here yet.
                (Err(_), _) => {}
            }
            looks += 1;
            tokio::time::sleep(INTERVAL).await;
        };
        let listener = match connected {
            Ok(listener) => listener.pid(),
            Err(source) if self.is_of_load && when == When::Ready => {
                return Err(ListenerError::NoSocket { name: self.socket.name.clone(), source });
            }
            Err(error) => return Ok(Some(self.unknown(&error.to_string()))),
        };
        match Process::new(listener) {
            // Another PID namespace.
            _ if listener <= 0 => Err(self.other(Holder::Unseen)),
            _ if own.contains(&Pid::from_raw(listener)) => Ok(None),
            Ok(process) if lives(Pid::from_raw(listener)) => {
                Err(self.other(Holder::Process { pid: listener, command: command(&process) }))
            }
            Ok(_) | Err(_) => self.inherited(own),
        }
    }

    /// Checks who has the socket of a process that has ended since it called listen(2): a child of it may have, and serve
    /// it.
    fn inherited(&self, own: &[Pid]) -> Result<Option<String>, ListenerError> {
        let sockets_here = procfs::net::unix().map_err(ListenerError::Unreadable)?;
        let listening: Vec<_> = sockets_here.into_iter().filter(|entry| self.may_be_at(entry)).collect();
        let own = sockets(own);
        let other = listening.iter().find(|entry| !own.inodes.contains(&entry.inode));
        if other.is_none() && !listening.is_empty() {
            return Ok(None);
        }
        match other.map_or(Holder::Unseen, |entry| holder(entry.inode)) {
            Holder::Unseen if own.has_unreadable => {
                Ok(Some(self.unknown(&format!("it may not read the files of a process of {}", self.who))))
            }
            holder => Err(self.other(holder)),
        }
    }

    fn may_be_at(&self, entry: &UnixNetEntry) -> bool {
        // The kernel lists one that listens as one that is not connected.
        entry.state == UnixState::UNCONNECTED && entry.path.as_ref().is_some_and(|path| self.socket.is_bound_to(path))
    }

    fn other(&self, holder: Holder) -> ListenerError {
        ListenerError::OtherAtSocket { name: self.socket.name.clone(), holder, who: self.who.to_owned() }
    }

    fn unknown(&self, why: &str) -> String {
        format!("memgate cannot tell who listens at the socket {}: {why}", self.socket.name)
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::net::UnixListener,
        process::{Command, Stdio},
    };

    use super::*;

    fn peer(socket: &Socket, is_of_load: bool) -> Peer<'_> {
        Peer { who: "the service", socket, is_of_load }
    }

    #[tokio::test]
    async fn the_process_that_listens_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let socket = Socket::of("app.sock", directory.path());
        let note = peer(&socket, false).check(When::Ready, &[]).await.unwrap().unwrap();
        assert!(note.contains("cannot tell who listens at the socket app.sock: No such file"), "{note}");
        let error = peer(&socket, true).check(When::Ready, &[]).await.unwrap_err();
        assert!(error.to_string().starts_with("nobody listens at the socket app.sock, where requests go"), "{error}");
        assert_eq!(peer(&socket, true).check(When::Measured, &[]).await.unwrap(), None, "its requests have failed");
        let listener = UnixListener::bind(directory.path().join("app.sock")).unwrap();
        for when in [When::Ready, When::Measured] {
            assert_eq!(peer(&socket, true).check(when, &[Pid::this()]).await.unwrap(), None);
            let error = peer(&socket, true).check(when, &[Pid::from_raw(1)]).await.unwrap_err();
            let start = format!("another process listens at the socket app.sock: process {} (`", Pid::this());
            assert!(error.to_string().starts_with(&start), "{error}");
        }
        drop(listener);
        assert_eq!(peer(&socket, true).check(When::Measured, &[]).await.unwrap(), None);
    }

    /// Listens at the socket of its argument, and leaves it to a child, whose number it prints.
    const LEAVES_A_CHILD: &str = "import os, socket, sys, time\n\
        s = socket.socket(socket.AF_UNIX)\n\
        s.bind(sys.argv[1].replace('@', '\\0'))\n\
        s.listen()\n\
        child = os.fork()\n\
        print(child, flush=True) if child else (os.close(1), time.sleep(600))";

    #[tokio::test]
    async fn a_socket_that_a_child_has_inherited_is_that_childs() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["app.sock".to_owned(), format!("@memgate-peer-{}", std::process::id())] {
            let started = Command::new("python3")
                .args(["-c", LEAVES_A_CHILD, &name])
                .current_dir(directory.path())
                .stderr(Stdio::inherit())
                .output()
                .unwrap();
            let child = Pid::from_raw(String::from_utf8(started.stdout).unwrap().trim().parse().unwrap());
            let socket = Socket::of(&name, directory.path());
            let own = peer(&socket, true).check(When::Ready, &[child]).await;
            let stranger = peer(&socket, true).check(When::Ready, &[]).await;
            nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
            assert_eq!(own.unwrap(), None);
            let error = stranger.unwrap_err().to_string();
            let start = format!("another process listens at the socket {name}: process {child} (`");
            assert!(error.starts_with(&start) && error.contains("python3"), "{error}");
        }
    }
}
