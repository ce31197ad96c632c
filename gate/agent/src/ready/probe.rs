//! One look at whether a process is ready, by each kind of readiness.

use std::{io, path::PathBuf};

use memgate_evidence::{
    error::Result,
    plan::{ReadyBy, Request},
    secrets::Secrets,
};
use nix::unistd::Pid;
use tokio::net::TcpStream;

use super::{
    ReadyError, Waiting,
    notify::{NotifySocket, Told},
};
use crate::{
    cgroup::Cgroup,
    family::members,
    load::{Client, Endpoint, Endpoints, RequestFailure, RequestKind},
    output::Output,
    process::{CommandLine, Process},
    socket::Socket,
    wait::Exit,
};

/// How a process is asked whether it is ready.
pub(super) enum Probe<'a> {
    Http { url: &'a str, kind: Box<RequestKind>, endpoints: Endpoints },
    Tcp(Endpoint),
    Unix(Socket),
    Log { pattern: &'a str, output: &'a Output },
    Command(CommandProbe<'a>),
    Notify { socket: &'a NotifySocket, told: Told, is_own: Box<dyn Fn(Pid) -> bool + 'a>, secrets: &'a Secrets },
}

impl<'a> Probe<'a> {
    /// # Errors
    /// When a URL or an address cannot be used, or when there is no socket for what the process tells.
    pub(super) fn of(waiting: &'a Waiting<'a>) -> Result<Self> {
        Ok(match &waiting.ready.by {
            ReadyBy::Http(url) => {
                let mut endpoints = Endpoints::new();
                let kind = Box::new(RequestKind::new(&health_request(url), &mut endpoints)?);
                Self::Http { url, kind, endpoints }
            }
            ReadyBy::Tcp(address) => Self::Tcp(Endpoint::at(address)?),
            ReadyBy::Unix(name) => Self::Unix(Socket::of(name, waiting.line.directory)),
            ReadyBy::Log(pattern) => Self::Log { pattern, output: waiting.output },
            ReadyBy::Command(words) => Self::Command(CommandProbe::of(words, waiting)),
            ReadyBy::Notify => {
                let unset = || ReadyError::NoSocket(io::ErrorKind::NotFound.into());
                let is_own = Box::new(|sender| members(waiting.cgroup, waiting.pid).contains(&sender));
                let (socket, secrets) = (waiting.notify.ok_or_else(unset)?, waiting.line.secrets);
                Self::Notify { socket, told: Told::default(), is_own, secrets }
            }
        })
    }

    /// Whether a look that has no answer after some seconds should give way to another one.
    pub(super) const fn is_brief(&self) -> bool {
        match self {
            Self::Http { .. } | Self::Tcp(_) | Self::Unix(_) | Self::Log { .. } | Self::Notify { .. } => true,
            Self::Command(_) => false,
        }
    }

    /// Looks once. Fails with what it saw, as words after “at last”.
    pub(super) async fn look(&mut self) -> Result<(), String> {
        match self {
            Self::Http { url, kind, endpoints } => {
                // On a new connection, so that a failure of an earlier one has no effect.
                let answer = Client::new(endpoints.len()).exchange(kind, endpoints).await;
                answer.map(drop).map_err(|failure| format!("{url} {}", said(failure)))
            }
            Self::Tcp(endpoint) => {
                let connected = TcpStream::connect(&endpoint.addresses[..]).await;
                let failed = |error| format!("{} {}", endpoint.authority, said(RequestFailure::from_io(&error)));
                connected.map(drop).map_err(failed)
            }
            Self::Unix(socket) => socket.connect().map(drop).map_err(|error| unconnected(&socket.name, &error)),
            Self::Log { pattern, output } if output.has_line() => Ok(()),
            Self::Log { pattern, .. } => Err(format!("no line of its output had matched `{pattern}`")),
            Self::Command(command) => command.run().await,
            Self::Notify { socket, told, is_own, secrets } => {
                socket.read(told, &*is_own).map_err(|error| format!("its message could not be read: {error}"))?;
                if told.is_ready { Ok(()) } else { Err(unsaid(told, secrets)) }
            }
        }
    }

    /// What is to say of a look without an answer.
    pub(super) fn unanswered(&self) -> String {
        match self {
            Self::Http { url, .. } => format!("{url} did not answer"),
            Self::Tcp(endpoint) => format!("{} did not answer", endpoint.authority),
            Self::Unix(socket) => format!("the socket {} did not answer", socket.name),
            Self::Log { pattern, .. } => format!("no line of its output had matched `{pattern}`"),
            Self::Command(command) => format!("`{}` still ran", command.line.words.join(" ")),
            Self::Notify { told, secrets, .. } => unsaid(told, secrets),
        }
    }
}

fn health_request(url: &str) -> Request {
    Request { expect: (100..400).collect(), ..Request::get(url) }
}

fn said(failure: RequestFailure) -> String {
    match failure {
        RequestFailure::Status(status) => format!("answered {}", status.as_u16()),
        RequestFailure::Timeout => "did not answer".into(),
        RequestFailure::Refused
        | RequestFailure::Reset
        | RequestFailure::Closed
        | RequestFailure::Connection
        | RequestFailure::Malformed
        | RequestFailure::StreamReset
        | RequestFailure::OtherUser
        | RequestFailure::Tls(_)
        | RequestFailure::Grpc(_)
        | RequestFailure::Value
        | RequestFailure::Capture
        | RequestFailure::NotSent
        | RequestFailure::NoTime => format!("gave `{failure}`"),
    }
}

fn unsaid(told: &Told, secrets: &Secrets) -> String {
    // Escaped, a secret would not be found any more.
    let status = told.status.as_ref().map(|status| secrets.mask(status));
    let status = status.map(|status| format!("; its status was `{}`", status.escape_debug()));
    let stranger = told.stranger.map(|pid| format!("; process {pid} had, which is not in its cgroup"));
    format!("it had not sent READY=1{}{}", status.unwrap_or_default(), stranger.unwrap_or_default())
}

/// Why there is no connection to a socket.
fn unconnected(name: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => format!("there was no socket {name}"),
        io::ErrorKind::ConnectionRefused => format!("nobody listened at the socket {name}"),
        io::ErrorKind::WouldBlock => format!("the queue of the socket {name} was full"),
        _ => format!("the socket {name} gave `{error}`"),
    }
}

/// A command that ends with exit code 0 when the process is ready. It runs as the process does, in a cgroup of its own.
pub(super) struct CommandProbe<'a> {
    line: CommandLine<'a>,
    log: PathBuf,
}

impl<'a> CommandProbe<'a> {
    fn of(words: &'a [String], waiting: &Waiting<'a>) -> Self {
        let line = CommandLine { words, ..waiting.line };
        Self { line, log: waiting.output.log().with_extension("ready.log") }
    }

    async fn run(&self) -> Result<(), String> {
        let name = self.line.words.join(" ");
        let started = self.start();
        let process = started.map_err(|error| format!("`{name}` could not be started: {error}"))?;
        let exit = process.end(super::INTERVAL).await;
        let exit = exit.map_err(|error| format!("`{name}` could not be watched: {error}"))?;
        if exit == Exit::Code(0) {
            return Ok(());
        }
        let how = match exit {
            Exit::Code(code) => format!("exited with code {code}"),
            Exit::Signal(signal) => format!("was ended by {signal}"),
            Exit::Unknown => "ended, and another process has its exit code".to_owned(),
        };
        let said = process.output().end().last().map(|line| format!(" and said `{line}`"));
        Err(format!("`{name}` {how}{}", said.unwrap_or_default()))
    }

    fn start(&self) -> io::Result<Process> {
        let output = Output::to(&self.log, self.line.account)?;
        Process::start(&self.line, Cgroup::without_memory(), output)
    }
}
