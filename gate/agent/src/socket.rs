//! A unix socket at which a process listens.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{
            fs::{MetadataExt as _, OpenOptionsExt as _},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    libc::O_PATH,
    sys::socket::{
        AddressFamily, SockFlag, SockType, UnixAddr, UnixCredentials, connect, getsockopt, socket,
        sockopt::PeerCredentials,
    },
};

/// The longest path in the address of a socket, bytes (`sun_path` of unix(7), without the final NUL).
const LONGEST: usize = 107;

/// A unix socket: a file, or a name without a file (unix(7)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Socket {
    /// As the configuration has it: a path, or `@NAME` for one without a file.
    pub(crate) name: String,
    /// Where a relative path begins.
    directory: PathBuf,
}

impl Socket {
    /// The socket of this name, for a process with this working directory.
    pub(crate) fn of(name: &str, directory: &Path) -> Self {
        Self { name: name.to_owned(), directory: directory.to_owned() }
    }

    /// Connects. A connection to a unix socket is made or refused at once, so this does not wait. The stream does not
    /// block.
    ///
    /// # Errors
    /// The system's reason: `NotFound` if there is no such file, `ConnectionRefused` if nobody listens, and `WouldBlock` if
    /// the queue of the one who listens is full.
    pub(crate) fn connect(&self) -> io::Result<UnixStream> {
        // The file is open until the kernel has followed its link.
        let (address, _file) = self.address()?;
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let stream: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        connect(stream.as_raw_fd(), &address)?;
        Ok(stream.into())
    }

    /// The address now. A path that is too long for one is that of the open file under /proc.
    fn address(&self) -> io::Result<(UnixAddr, Option<File>)> {
        if let Some(name) = self.without_file() {
            return Ok((UnixAddr::new_abstract(name.as_bytes())?, None));
        }
        let path = self.path();
        if path.as_os_str().len() <= LONGEST {
            return Ok((UnixAddr::new(&path)?, None));
        }
        let file = File::options().read(true).custom_flags(O_PATH).open(&path)?;
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        Ok((UnixAddr::new(link.as_str())?, Some(file)))
    }

    /// Whether a socket that was bound to this text, as /proc/net/unix has it, is or was at the same place.
    pub(crate) fn is_bound_to(&self, text: &Path) -> bool {
        let file = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
        match self.without_file() {
            Some(_) => text == Path::new(&self.name),
            None => file(&self.path()).is_some_and(|own| file(&self.directory.join(text)) == Some(own)),
        }
    }

    fn without_file(&self) -> Option<&str> {
        self.name.strip_prefix('@')
    }

    fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }
}

/// The process that has called listen(2) for the socket at the other end of a connection, and its user.
///
/// # Errors
/// The system's reason.
pub(crate) fn listener(stream: &UnixStream) -> io::Result<UnixCredentials> {
    Ok(getsockopt(stream, PeerCredentials)?)
}

#[cfg(test)]
mod tests {
    use std::os::{
        linux::net::SocketAddrExt as _,
        unix::{
            fs::symlink,
            net::{SocketAddr, UnixListener},
        },
    };

    use super::*;

    /// A directory with a path that no address of a socket has room for, and a short link to it.
    fn deep(place: &Path) -> (PathBuf, PathBuf) {
        let directory = place.join("a".repeat(100)).join("b".repeat(100));
        fs::create_dir_all(&directory).unwrap();
        let link = place.join("d");
        symlink(&directory, &link).unwrap();
        (directory, link)
    }

    #[test]
    fn a_socket_is_reached_however_long_its_path_is() {
        let place = tempfile::tempdir().unwrap();
        let (directory, link) = deep(place.path());
        let long = format!("{}.sock", "x".repeat(LONGEST - link.as_os_str().len() - "/.sock".len()));
        for name in ["x.sock", long.as_str()] {
            let whole = directory.join(name).to_str().unwrap().to_owned();
            let sockets = [
                Socket::of(name, &directory),
                Socket::of(name, &link),
                Socket::of(&whole["/".len()..], Path::new("/")),
                Socket::of(&whole, Path::new("/none")),
            ];
            assert!(sockets.iter().all(|socket| socket.connect().unwrap_err().kind() == io::ErrorKind::NotFound));
            let listening = UnixListener::bind(link.join(name)).unwrap();
            for socket in &sockets {
                let stream = socket.connect().unwrap();
                assert_eq!(listener(&stream).unwrap().pid(), nix::unistd::getpid().as_raw());
                assert!(socket.is_bound_to(&link.join(name)) && !socket.is_bound_to(&link));
            }
            drop(listening);
            let refused = io::ErrorKind::ConnectionRefused;
            assert!(sockets.iter().all(|socket| socket.connect().unwrap_err().kind() == refused));
        }
    }

    #[test]
    fn a_name_without_a_file_is_no_path() {
        let place = tempfile::tempdir().unwrap();
        let name = format!("memgate-socket-{}", std::process::id());
        let socket = Socket::of(&format!("@{name}"), place.path());
        let _file = UnixListener::bind(place.path().join(&socket.name)).unwrap();
        assert_eq!(socket.connect().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let _listening = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.connect().unwrap();
        assert!(socket.is_bound_to(Path::new(&socket.name)) && !socket.is_bound_to(Path::new(&name)));
    }
}
