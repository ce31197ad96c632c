//! Checks that who listens where requests go is the service itself.
//!
//! A process that an earlier run left may listen at the same address: with `SO_REUSEPORT` the kernel spreads
//! connections over all who do, so that each has a part of the requests. Figures per request would then be too low, and
//! no one would notice.

mod peer;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::Path,
    time::Duration,
};

use memgate_evidence::{
    error::{FailureKind, Result, Stage},
    plan::{Load, Plan, Ready, ReadyBy},
};
use nix::unistd::Pid;
use procfs::{
    ProcError,
    net::TcpState,
    process::{FDTarget, ProcState, Process, all_processes},
};

use self::peer::Peer;

use super::{cgroup::CgroupFiles, family::descendants, load::Endpoint, ready, socket::Socket};

/// How often memgate looks at a socket that nobody seems to have: one that was closed while memgate read who has it.
const LOOKS: u32 = 5;

/// The time between two such looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// Why what answers may not be the service.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ListenerError {
    /// Another process listens where requests go.
    #[error("another process listens at {address}, where requests to {target} go: {holder}")]
    #[diagnostic(help(
        "end it, or let {who} listen elsewhere; if it is a part of it, let {who} start it; \
         `ss -ltnp 'sport = :{}'` lists all who listen there",
        address.port()
    ))]
    Other {
        /// The address at which it listens.
        address: SocketAddr,
        /// The host and port of the URL.
        target: String,
        /// Who it is.
        holder: Holder,
        /// Who is to listen there.
        who: String,
    },
    /// Another process listens at the unix socket.
    #[error("another process listens at the socket {name}: {holder}")]
    #[diagnostic(help("end it, or let {who} listen elsewhere; if it is a part of it, let {who} start it"))]
    OtherAtSocket {
        /// The socket, as the configuration has it.
        name: String,
        /// Who it is.
        holder: Holder,
        /// Who is to listen there.
        who: String,
    },
    /// Nobody listens at the unix socket of the load.
    #[error("nobody listens at the socket {name}, where requests go")]
    #[diagnostic(help(
        "let `load.unix` name the socket at which the service listens once it is ready, relative to `run.directory`"
    ))]
    NoSocket {
        /// The socket, as the configuration has it.
        name: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The service has no socket that listens where it is asked whether it is ready.
    #[error("{target} answers, but {who} does not listen there")]
    #[diagnostic(help(
        "let `ready` name the address at which {who} itself listens, and not a proxy or a forwarded port"
    ))]
    NotTheService {
        /// The host and port of the URL.
        target: String,
        /// Who is to listen there.
        who: String,
    },
    /// The service is in another cgroup than the one that memgate has started it in.
    #[error("{who} (process {process}) has left the cgroup that memgate started it in")]
    #[diagnostic(help(
        "its memory is not where memgate looks, and its limit does not hold: run it as a user who may not do that, with \
         `user`, `run.user` or --user"
    ))]
    OutsideOfItsCgroup {
        /// The launched process.
        process: Pid,
        /// Who it is.
        who: String,
    },
    /// The kernel does not tell who listens.
    #[error("memgate cannot read who listens on this machine")]
    #[diagnostic(help("run memgate where /proc/net/tcp can be read"))]
    Unreadable(#[source] ProcError),
}

impl FailureKind for ListenerError {
    fn stage(&self) -> Stage {
        Stage::Launch
    }
}

/// The process that has a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// One that memgate can see.
    Process {
        /// Its id.
        pid: i32,
        /// Its command line, or its name if it has none.
        command: String,
    },
    /// One of which memgate may not read the files, or one of another PID namespace.
    Unseen,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process { pid, command } => write!(f, "process {pid} (`{command}`)"),
            Self::Unseen => f.write_str("memgate may not see which"),
        }
    }
}

/// Where requests go: the addresses on this machine, by the host and port of the URLs.
#[derive(Debug)]
pub(super) struct Targets {
    /// Who is to listen there: `the service`.
    who: String,
    /// Where the service is asked whether it is ready, if that is an address.
    ready: Option<String>,
    /// The unix socket where it is asked, if it is one.
    socket: Option<Socket>,
    /// The unix socket to which requests go, if they go to one.
    load_socket: Option<Socket>,
    addresses: BTreeMap<String, Vec<SocketAddr>>,
    /// What memgate cannot check, for the reader.
    pub(super) notes: Vec<String>,
}

/// When memgate looks who listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// The service has answered that it is ready.
    Ready,
    /// The measuring phase is over. The service may have closed its sockets, for which its requests failed.
    Measured,
}

/// A socket that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listener {
    address: SocketAddr,
    inode: u64,
}

/// The sockets of the service.
#[derive(Debug, Default)]
struct Own {
    inodes: BTreeSet<u64>,
    /// Whether a process did not let memgate read its files.
    has_unreadable: bool,
}

impl Targets {
    /// Where the requests of the plan go.
    ///
    /// # Errors
    /// When a URL or an address cannot be used.
    pub(super) fn of(plan: &Plan) -> Result<Self> {
        let load_socket = match &plan.load {
            Load::Http(load) => load.transport.unix.as_ref().map(|name| Socket::of(name, &plan.directory)),
            Load::Command(_) => None,
        };
        let urls = match &plan.load {
            // The hosts of URLs are names for the service to read.
            Load::Http(_) if load_socket.is_some() => Vec::new(),
            Load::Http(load) => load.requests.iter().map(|request| request.url.as_str()).collect(),
            // memgate does not know where a command sends its requests.
            Load::Command(_) => Vec::new(),
        };
        let mut targets = Self::of_readiness("the service".to_owned(), &plan.ready, &plan.directory)?;
        targets.load_socket = load_socket;
        for url in urls {
            targets.add(Endpoint::of(url)?.0);
        }
        Ok(targets)
    }

    /// Where a process in this directory is asked whether it is ready.
    ///
    /// # Errors
    /// When a URL or an address cannot be used.
    pub(super) fn of_readiness(who: String, ready: &Ready, directory: &Path) -> Result<Self> {
        let (addresses, notes) = (BTreeMap::new(), Vec::new());
        let mut targets = Self { who, ready: None, socket: None, load_socket: None, addresses, notes };
        let endpoint = match &ready.by {
            ReadyBy::Http(url) => Some(Endpoint::of(url)?.0),
            ReadyBy::Tcp(address) => Some(Endpoint::at(address)?),
            ReadyBy::Unix(name) => {
                targets.socket = Some(Socket::of(name, directory));
                None
            }
            ReadyBy::Log(_) | ReadyBy::Command(_) | ReadyBy::Notify => None,
        };
        if let Some(endpoint) = endpoint {
            targets.ready = Some(endpoint.authority.clone());
            targets.add(endpoint);
        }
        Ok(targets)
    }

    /// Checks that nobody listens yet where the service is to.
    ///
    /// # Errors
    /// Fails with [`ReadyError`](super::ReadyError), which has the address or the socket.
    pub(super) fn are_free(&self) -> Result<()> {
        let addresses: Vec<_> = self.addresses.values().flatten().copied().collect();
        ready::addresses_are_free(&addresses)?;
        self.sockets().try_for_each(|(socket, _)| ready::socket_is_free(socket))
    }

    /// The unix sockets, each with whether requests of the load go there.
    fn sockets(&self) -> impl Iterator<Item = (&Socket, bool)> {
        let of_readiness = self.socket.iter().filter(|socket| self.load_socket.as_ref() != Some(socket));
        of_readiness.map(|socket| (socket, false)).chain(self.load_socket.iter().map(|socket| (socket, true)))
    }

    /// An address where the service listens: where it is asked whether it is ready, or where a request goes.
    pub(super) fn listener(&self) -> Option<SocketAddr> {
        let of_readiness = self.ready.as_ref().and_then(|ready| self.addresses.get(ready));
        of_readiness.into_iter().chain(self.addresses.values()).flatten().next().copied()
    }

    fn add(&mut self, Endpoint { authority, addresses, is_tls: _ }: Endpoint) {
        if self.addresses.contains_key(&authority) {
            return;
        }
        let here: Vec<_> = addresses.into_iter().filter(|address| is_here(address.ip())).collect();
        if here.is_empty() {
            let who = &self.who;
            self.notes.push(format!(
                "{authority} is not on this machine, so that memgate cannot tell whether {who} answers there"
            ));
        }
        self.addresses.insert(authority, here);
    }

    /// Checks that nobody but the service listens where requests go. Returns a note for each place of which memgate may
    /// not read who does.
    ///
    /// # Errors
    /// Fails with [`ListenerError`] if another process listens there, or if a service that has answered that it is
    /// ready does not listen there.
    pub(super) async fn check(&self, when: When, cgroup: &CgroupFiles, service: Pid) -> Result<Vec<String>> {
        let mut looks = 1;
        let mut notes = loop {
            match self.look(when, cgroup, service) {
                // The socket may be closed already, or its file may not have been there yet.
                Err(ListenerError::Other { holder: Holder::Unseen, .. } | ListenerError::NotTheService { .. })
                    if looks < LOOKS => {}
                outcome => break outcome?,
            }
            looks += 1;
            tokio::time::sleep(INTERVAL).await;
        };
        for (socket, is_of_load) in self.sockets() {
            let (processes, _) = processes(&self.who, cgroup, service)?;
            notes.extend(Peer { who: &self.who, socket, is_of_load }.check(when, &processes).await?);
        }
        Ok(notes)
    }

    fn look(&self, when: When, cgroup: &CgroupFiles, service: Pid) -> Result<Vec<String>, ListenerError> {
        let (listeners, own) = listeners_and_own(&self.who, cgroup, service)?;
        self.judge(when, &listeners, &own, holder)
    }

    /// The same with these sockets. `holder` tells who has the socket of another process.
    fn judge(
        &self,
        when: When,
        listeners: &[Listener],
        own: &Own,
        holder: impl Fn(u64) -> Holder,
    ) -> Result<Vec<String>, ListenerError> {
        let mut unknown = BTreeSet::new();
        for (target, addresses) in &self.addresses {
            let takes = |listener: &&Listener| addresses.iter().any(|address| takes(listener.address, *address));
            let (of_service, of_others): (Vec<&Listener>, Vec<&Listener>) =
                listeners.iter().filter(takes).partition(|listener| own.inodes.contains(&listener.inode));
            for other in of_others {
                let holder = holder(other.inode);
                if own.has_unreadable && holder == Holder::Unseen {
                    unknown.insert(target);
                    continue;
                }
                let (target, who) = (target.clone(), self.who.clone());
                return Err(ListenerError::Other { address: other.address, target, holder, who });
            }
            let is_ready_there = self.ready.as_ref() == Some(target);
            let must_listen = when == When::Ready && is_ready_there && !addresses.is_empty();
            if must_listen && of_service.is_empty() && !own.has_unreadable {
                return Err(ListenerError::NotTheService { target: target.clone(), who: self.who.clone() });
            }
        }
        let who = &self.who;
        let notes = unknown.into_iter().map(|target| {
            format!(
                "memgate may not read the files of a process of {who}, so that it cannot tell whether {who} answers at \
                 {target}"
            )
        });
        Ok(notes.collect())
    }
}

/// Whether one of these processes listens at the address.
pub(super) fn listen_at(address: SocketAddr, processes: &[Pid]) -> bool {
    let own = sockets(processes).inodes;
    let all = listeners().unwrap_or_default();
    all.iter().any(|listener| takes(listener.address, address) && own.contains(&listener.inode))
}

/// The processes of the service, and whether these are all.
///
/// # Errors
/// Fails with [`ListenerError::OutsideOfItsCgroup`].
fn processes(who: &str, cgroup: &CgroupFiles, service: Pid) -> Result<(Vec<Pid>, bool), ListenerError> {
    match cgroup.processes() {
        None => Ok((descendants(service), true)),
        Some(Err(_)) => Ok((descendants(service), false)),
        Some(Ok(processes)) if !processes.contains(&service) && lives(service) => {
            Err(ListenerError::OutsideOfItsCgroup { process: service, who: who.to_owned() })
        }
        Some(Ok(processes)) => Ok((processes, true)),
    }
}

/// The sockets that listen on this machine, and those of the service.
fn listeners_and_own(who: &str, cgroup: &CgroupFiles, service: Pid) -> Result<(Vec<Listener>, Own), ListenerError> {
    // Listeners first: one that is opened later is nobody's concern, and one that is listed has its file by now.
    let listeners = listeners().map_err(ListenerError::Unreadable)?;
    let (processes, are_all) = processes(who, cgroup, service)?;
    let own = sockets(&processes);
    let own = Own { has_unreadable: own.has_unreadable || !are_all, ..own };
    Ok((listeners, own))
}

/// The addresses at which the service listens and nobody else would get a part of its connections, in order. An address
/// that stands for all of this machine is that of the loopback device.
///
/// # Errors
/// When the kernel does not tell, or the service has left its cgroup.
pub(super) fn addresses(cgroup: &CgroupFiles, service: Pid) -> Result<BTreeSet<SocketAddr>, ListenerError> {
    let (listeners, own) = listeners_and_own("the service", cgroup, service)?;
    let (of_service, of_others): (Vec<&Listener>, Vec<&Listener>) =
        listeners.iter().partition(|listener| own.inodes.contains(&listener.inode));
    let targets = of_service.into_iter().map(|listener| reached_at(listener.address));
    Ok(targets.filter(|target| !of_others.iter().any(|other| takes(other.address, *target))).collect())
}

/// Where a client on this machine reaches a socket that listens at this address.
fn reached_at(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip().to_canonical() {
        ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Whether the process runs. One that has ended is in no cgroup any more.
fn lives(process: Pid) -> bool {
    let state = Process::new(process.as_raw()).and_then(|process| process.stat()?.state());
    state.is_ok_and(|state| !matches!(state, ProcState::Zombie | ProcState::Dead))
}

/// Whether an address is one of this machine's own.
fn is_here(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Whether a socket that listens at `listener` may get a connection to `target`. One that listens at every address of
/// IP version 6 also gets those of version 4, unless it is told not to, which the kernel does not list.
fn takes(listener: SocketAddr, target: SocketAddr) -> bool {
    let [listens, wanted] = [listener.ip().to_canonical(), target.ip().to_canonical()];
    let anywhere = listens.is_unspecified() && (listens.is_ipv6() || wanted.is_ipv4());
    // A connection to the unspecified address goes to the loopback address.
    let to_loopback = wanted.is_unspecified() && listens.is_loopback() && listens.is_ipv4() == wanted.is_ipv4();
    listener.port() == target.port() && (listens == wanted || anywhere || to_loopback)
}

/// The TCP sockets that listen where this process is.
fn listeners() -> Result<Vec<Listener>, ProcError> {
    // A kernel without one version of IP has no such file.
    let or_none = |entries: Result<Vec<_>, ProcError>| match entries {
        Err(ProcError::NotFound(_)) => Ok(Vec::new()),
        entries => entries,
    };
    let entries = or_none(procfs::net::tcp())?.into_iter().chain(or_none(procfs::net::tcp6())?);
    let listening = entries.filter(|entry| entry.state == TcpState::Listen);
    Ok(listening.map(|entry| Listener { address: entry.local_address, inode: entry.inode }).collect())
}

/// The sockets of these processes.
fn sockets(processes: &[Pid]) -> Own {
    let mut own = Own::default();
    for process in processes {
        match sockets_of(process.as_raw()) {
            Ok(inodes) => own.inodes.extend(inodes),
            // It has ended, and its sockets with it.
            Err(ProcError::NotFound(_)) => {}
            Err(_) => own.has_unreadable = true,
        }
    }
    own
}

fn sockets_of(process: i32) -> Result<Vec<u64>, ProcError> {
    let files = Process::new(process)?.fd()?;
    // A file that is closed meanwhile cannot be read.
    let inodes = files.flatten().filter_map(|file| match file.target {
        FDTarget::Socket(inode) => Some(inode),
        _ => None,
    });
    Ok(inodes.collect())
}

/// The process with the socket.
fn holder(inode: u64) -> Holder {
    let mut processes = all_processes().into_iter().flatten().flatten();
    let found = processes.find(|process| sockets_of(process.pid()).is_ok_and(|inodes| inodes.contains(&inode)));
    found.map_or(Holder::Unseen, |process| Holder::Process { pid: process.pid(), command: command(&process) })
}

fn command(process: &Process) -> String {
    let words = process.cmdline().unwrap_or_default();
    if words.is_empty() { process.stat().map(|stat| stat.comm).unwrap_or_default() } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use std::{
        net::TcpListener,
        os::{
            linux::net::SocketAddrExt as _,
            unix::net::{self, UnixListener},
        },
    };

    use memgate_evidence::error::Error;

    use super::*;

    const NONE: Vec<String> = Vec::new();

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn plan(ready: &str, load: &str) -> Plan {
        let mut plan = memgate_testing::plan();
        plan.ready.by = ReadyBy::Http(ready.to_owned());
        let Load::Http(http) = &mut plan.load else { panic!("{plan:?}") };
        http.requests[0].url = load.to_owned();
        plan
    }

    fn targets() -> Targets {
        Targets::of(&plan("http://127.0.0.1:81/healthz", "http://127.0.0.1:80/")).unwrap()
    }

    fn listener(text: &str, inode: u64) -> Listener {
        Listener { address: address(text), inode }
    }

    fn own(inodes: &[u64]) -> Own {
        Own { inodes: inodes.iter().copied().collect(), has_unreadable: false }
    }

    fn stranger(_: u64) -> Holder {
        Holder::Process { pid: 7, command: "old -listen :80".to_owned() }
    }

    #[test]
    fn a_listener_gets_connections_to_its_address_and_to_each_if_it_has_none() {
        for (listens, wanted) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("[::1]:80", "[::1]:80"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
            ("[::ffff:0.0.0.0]:80", "127.0.0.1:80"),
            ("127.0.0.1:80", "0.0.0.0:80"),
        ] {
            assert!(takes(address(listens), address(wanted)), "{listens} {wanted}");
        }
        for (listens, wanted) in [
            ("127.0.0.1:81", "127.0.0.1:80"),
            ("127.0.0.2:80", "127.0.0.1:80"),
            ("0.0.0.0:80", "[::1]:80"),
            ("[::1]:80", "127.0.0.1:80"),
            ("[::]:81", "127.0.0.1:80"),
        ] {
            assert!(!takes(address(listens), address(wanted)), "{listens} {wanted}");
        }
    }

    #[test]
    fn a_client_reaches_every_address_of_this_machine_at_the_loopback_device() {
        for (listens, target) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "127.0.0.1:80"),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("192.0.2.1:80", "192.0.2.1:80"),
        ] {
            assert_eq!(reached_at(address(listens)), address(target), "{listens}");
        }
    }

    #[test]
    fn the_services_own_listeners_are_right_whichever_of_its_processes_has_them() {
        let all = [listener("0.0.0.0:80", 1), listener("[::]:81", 2), listener("127.0.0.1:82", 3)];
        assert_eq!(targets().judge(When::Ready, &all, &own(&[1, 2]), stranger).unwrap(), NONE);
        // Nobody has to listen yet where the load goes: its requests fail then.
        assert_eq!(targets().judge(When::Ready, &all[1..], &own(&[2]), stranger).unwrap(), NONE);
    }

    #[test]
    fn another_listener_is_named_with_its_process() {
        let all = [listener("127.0.0.1:81", 1), listener("127.0.0.1:80", 2), listener("0.0.0.0:80", 3)];
        let error = targets().judge(When::Ready, &all, &own(&[1, 2]), stranger).unwrap_err();
        assert_eq!(
            error.to_string(),
            "another process listens at 0.0.0.0:80, where requests to 127.0.0.1:80 go: process 7 (`old -listen :80`)"
        );
        assert!(miette::Diagnostic::help(&error).unwrap().to_string().contains("sport = :80"));
        assert_eq!(Error::from(error).exit_code(), 4);
        let error = targets().judge(When::Ready, &all, &own(&[1, 2]), |_| Holder::Unseen).unwrap_err();
        assert!(error.to_string().ends_with("memgate may not see which"), "{error}");
    }

    #[test]
    fn the_service_listens_where_it_is_ready() {
        let error = targets().judge(When::Ready, &[listener("127.0.0.1:80", 1)], &own(&[1]), stranger).unwrap_err();
        assert_eq!(error.to_string(), "127.0.0.1:81 answers, but the service does not listen there");
        assert_eq!(Error::from(error).exit_code(), 4);
        // Later it may have closed its socket, and its requests fail.
        assert_eq!(targets().judge(When::Measured, &[], &own(&[]), stranger).unwrap(), NONE);
    }

    #[test]
    fn files_that_memgate_may_not_read_are_told_and_fail_nothing() {
        let unreadable = || Own { has_unreadable: true, ..own(&[]) };
        let all = [listener("127.0.0.1:81", 1), listener("127.0.0.1:80", 2)];
        let notes = targets().judge(When::Ready, &all, &unreadable(), |_| Holder::Unseen).unwrap();
        let note = "memgate may not read the files of a process of the service, so that it cannot tell whether the service \
                    answers at 127.0.0.1:8";
        assert_eq!(notes, ["0", "1"].map(|port| format!("{note}{port}")), "each place");
        // That another process has the socket is known all the same.
        assert!(targets().judge(When::Ready, &all, &unreadable(), stranger).is_err());
        let all_known = Own { has_unreadable: true, ..own(&[1, 2]) };
        assert_eq!(targets().judge(When::Ready, &all, &all_known, stranger).unwrap(), NONE);
    }

    #[test]
    fn a_target_on_another_machine_is_told_and_not_checked() {
        // An address of the range for documentation (RFC 5737).
        let targets = Targets::of(&plan("http://127.0.0.1:81/", "http://192.0.2.1:80/")).unwrap();
        assert!(targets.notes[0].starts_with("192.0.2.1:80 is not on this machine"), "{:?}", targets.notes);
        let all = [listener("127.0.0.1:81", 1), listener("0.0.0.0:80", 2)];
        assert_eq!(targets.judge(When::Ready, &all, &own(&[1]), stranger).unwrap(), NONE);
        // Nor is anything asked of a service that is ready elsewhere.
        let elsewhere = Targets::of(&plan("http://192.0.2.1:81/", "http://127.0.0.1:80/")).unwrap();
        assert_eq!(elsewhere.judge(When::Ready, &all, &own(&[2]), stranger).unwrap(), NONE);
    }

    #[test]
    fn a_service_that_is_ready_in_another_way_is_alone_where_the_load_goes() {
        let plan = |by| {
            let plan = plan("http://127.0.0.1:81/", "http://127.0.0.1:80/");
            Plan { ready: Ready { by, ..plan.ready }, ..plan }
        };
        let listens = "127.0.0.1:80".parse().ok();
        for by in [ReadyBy::Notify, ReadyBy::Log("up".to_owned()), ReadyBy::Unix("@memgate-none".to_owned())] {
            let targets = Targets::of(&plan(by)).unwrap();
            let addresses: Vec<_> = targets.addresses.values().flatten().copied().collect();
            assert_eq!((addresses.first().copied(), targets.listener()), (listens, listens));
            assert!(targets.judge(When::Ready, &[listener("127.0.0.1:80", 2)], &own(&[1]), stranger).is_err());
            assert_eq!(targets.judge(When::Ready, &[], &own(&[]), stranger).unwrap(), NONE, "it may listen later");
        }
        let targets = Targets::of(&plan(ReadyBy::Tcp("127.0.0.1:82".to_owned()))).unwrap();
        assert_eq!(targets.listener(), "127.0.0.1:82".parse().ok());
        let error = targets.judge(When::Ready, &[], &own(&[]), stranger).unwrap_err();
        assert_eq!(error.to_string(), "127.0.0.1:82 answers, but the service does not listen there");
    }

    #[test]
    fn of_a_load_command_only_the_place_of_readiness_is_known() {
        let load = Load::Command(memgate_evidence::plan::CommandLoad::default());
        let plan = Plan { load, ..plan("http://127.0.0.1:81/", "http://x/") };
        let targets = Targets::of(&plan).unwrap();
        assert_eq!(targets.addresses.keys().collect::<Vec<_>>(), ["127.0.0.1:81"]);
    }

    /// The tables of the kernel itself: this process listens, on both versions of IP.
    #[tokio::test]
    async fn the_kernel_tells_who_listens() {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = socket.local_addr().unwrap();
        let url = format!("http://{here}/");
        let targets = Targets::of(&plan(&url, &url)).unwrap();
        let this = nix::unistd::getpid();
        assert_eq!(targets.check(When::Ready, &CgroupFiles::default(), this).await.unwrap(), NONE);
        // For any other process, this one is the stranger.
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let other = Pid::from_raw(child.id().cast_signed());
        let seen = targets.look(When::Measured, &CgroupFiles::default(), other);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(addresses(&CgroupFiles::default(), this).unwrap().contains(&here));
        let error = seen.unwrap_err();
        let ListenerError::Other { address, holder: Holder::Process { pid, command }, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!((*address, *pid), (here, this.as_raw()));
        assert!(!command.is_empty());
    }

    /// Nobody may listen there before the start, and nobody but the service afterwards.
    #[tokio::test]
    async fn the_socket_of_the_load_is_checked_each_time() {
        let directory = tempfile::tempdir().unwrap();
        let mut plan = plan("http://127.0.0.1:81/", "http://localhost/");
        plan.directory = directory.path().to_owned();
        let abstract_name = format!("@memgate-listeners-{}", std::process::id());
        let address = net::SocketAddr::from_abstract_name(&abstract_name[1..]).unwrap();
        for name in ["app.sock", &abstract_name] {
            plan.ready.by = ReadyBy::Log("up".to_owned());
            let Load::Http(load) = &mut plan.load else { panic!("{plan:?}") };
            load.transport.unix = Some(name.to_owned());
            let targets = Targets::of(&plan).unwrap();
            targets.are_free().unwrap();
            let listening = match name {
                "app.sock" => UnixListener::bind(directory.path().join(name)).unwrap(),
                _ => UnixListener::bind_addr(&address).unwrap(),
            };
            let taken = targets.are_free().unwrap_err();
            assert!(taken.to_string().contains(&format!("Another process listens at the socket {name}")), "{taken}");
            // Readiness at the same socket is the same check.
            plan.ready.by = ReadyBy::Unix(name.to_owned());
            assert_eq!(
                Targets::of(&plan).unwrap().sockets().map(|(_, is_of_load)| is_of_load).collect::<Vec<_>>(),
                [true]
            );
            let files = CgroupFiles::default();
            let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
            let other = Pid::from_raw(child.id().cast_signed());
            for when in [When::Ready, When::Measured] {
                assert_eq!(targets.check(when, &files, Pid::this()).await.unwrap(), NONE);
                let error = targets.check(when, &files, other).await.unwrap_err();
                let start = format!("another process listens at the socket {name}: process {} (`", Pid::this());
                assert!(error.to_string().contains(&start), "{error}");
            }
            drop(listening);
            assert_eq!(targets.check(When::Measured, &files, Pid::this()).await.unwrap(), NONE);
            let nobody = targets.check(When::Ready, &files, Pid::this()).await.unwrap_err();
            assert!(nobody.to_string().contains(&format!("nobody listens at the socket {name}")), "{nobody}");
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
