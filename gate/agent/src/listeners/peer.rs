//! Who listens at a unix socket: the kernel tells one who connects.

use nix::unistd::Pid;
use procfs::process::Process;

use super::{Holder, INTERVAL, LOOKS, ListenerError, command};
use crate::ready::Socket;

/// Checks that one of these processes listens at the socket. Returns a note if that is not known.
///
/// # Errors
/// Fails with [`ListenerError`] if another one listens there, or if nobody does although requests go there.
pub(super) async fn check(
    who: &str,
    socket: &Socket,
    own: &[Pid],
    is_of_load: bool,
) -> Result<Option<String>, ListenerError> {
    let name = &socket.name;
    let other = |holder| ListenerError::OtherAtSocket { name: name.clone(), holder, who: who.to_owned() };
    let mut looks = 1;
    // The process that has called listen(2), which may have ended since. What started it may serve the socket now.
    let listener = loop {
        let peer = socket.connect().await.and_then(|stream| stream.peer_cred());
        if peer.is_ok() || looks == LOOKS {
            break peer;
        }
        // A service that is ready elsewhere may not listen here yet.
        looks += 1;
        tokio::time::sleep(INTERVAL).await;
    };
    let listener = match listener {
        Ok(peer) => peer.pid().filter(|pid| *pid > 0),
        Err(source) if is_of_load => return Err(ListenerError::NoSocket { name: name.clone(), source }),
        Err(error) => return Ok(Some(format!("memgate cannot tell who listens at the socket {name}: {error}"))),
    };
    let Some(pid) = listener else {
        return Err(other(Holder::Unseen));
    };
    if own.contains(&Pid::from_raw(pid)) {
        return Ok(None);
    }
    match Process::new(pid) {
        Ok(process) => {
            let holder = Holder::Process { pid, command: command(&process) };
            Err(other(holder))
        }
        Err(_) => Ok(Some(format!("memgate cannot tell who listens at the socket {name}: process {pid} has ended"))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn the_process_that_listens_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let socket = Socket::of("app.sock", directory.path());
        let who = "the service";
        let note = check(who, &socket, &[], false).await.unwrap().unwrap();
        assert!(note.contains("cannot tell who listens at the socket app.sock: No such file"), "{note}");
        let error = check(who, &socket, &[], true).await.unwrap_err();
        assert!(error.to_string().starts_with("nobody listens at the socket app.sock, where requests go"), "{error}");
        let _listener = UnixListener::bind(directory.path().join("app.sock")).unwrap();
        assert_eq!(check(who, &socket, &[Pid::this()], false).await.unwrap(), None);
        let error = check(who, &socket, &[Pid::from_raw(1)], true).await.unwrap_err();
        let start = format!("another process listens at the socket app.sock: process {} (`", Pid::this());
        assert!(error.to_string().starts_with(&start), "{error}");
    }
}
