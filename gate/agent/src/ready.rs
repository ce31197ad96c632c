//! Checks that the service's address is free, and then waits until the service is ready.

mod free;
pub(crate) mod notify;
mod probe;

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

pub(super) use free::{addresses_are_free, is_free, socket_is_free};
use memgate_evidence::{
    error::{FailureKind, Result, Stage},
    plan::{Ready, ReadyBy},
};
use nix::unistd::Pid;
use notify::NotifySocket;
use probe::Probe;
use regex_lite::Regex;

use super::{cgroup::CgroupFiles, log::LogEnd, output::Output, process::CommandLine};

/// The time between two looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// The most time for a look before a new connection.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Even a healthy service may leave a look unanswered for this time.
const BRIEF: Duration = Duration::from_secs(1);

/// Why a process is not ready, or why another one is in its place.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum ReadyError {
    /// It was not ready in time.
    #[error("{who} was not ready in time: at last {last}; it had {} s{output}", .timeout.as_secs_f64())]
    #[diagnostic(help("Look at its log in {}, or raise `ready.timeout`.", log.display()))]
    TimedOut {
        /// Who it is: `the service`.
        who: String,
        /// The time that it had.
        timeout: Duration,
        /// What the last look saw.
        last: String,
        /// The end of its output.
        output: LogEnd,
        /// The file with its output.
        log: PathBuf,
    },
    /// Another process uses the port.
    #[error("Another process listens at {address}; memgate would measure the wrong one.")]
    #[diagnostic(help(
        "End it (`ss -ltnp 'sport = :{}'` names it), or let the service listen elsewhere.",
        address.port()
    ))]
    PortTaken {
        /// The address at which it listens.
        address: SocketAddr,
    },
    /// Another process uses the socket.
    #[error("Another process listens at the socket {name}; memgate would measure the wrong one.")]
    #[diagnostic(help("End it (`ss -lxp` names it), or let the service listen elsewhere."))]
    SocketTaken {
        /// The socket as the configuration has it.
        name: String,
    },
    /// The pattern of a line cannot be used.
    #[error("`{pattern}` is no regular expression")]
    #[diagnostic(help("correct `ready.log`"))]
    Pattern {
        /// The pattern.
        pattern: String,
        /// The reason.
        source: regex_lite::Error,
    },
    /// memgate cannot make the socket for what a process tells of itself.
    #[error("the socket for `ready.notify` cannot be made")]
    #[diagnostic(help("raise the limit on open files (`ulimit -n`), or use another kind of readiness"))]
    NoSocket(#[source] io::Error),
}

impl FailureKind for ReadyError {
    fn stage(&self) -> Stage {
        Stage::Launch
    }
}

/// What must be there before a process starts, so that no sign of its readiness is missed.
#[derive(Debug, Default)]
pub(super) struct Signs {
    /// The pattern of a line of its output.
    line: Option<Regex>,
    /// The socket for what it tells of itself.
    notify: Option<NotifySocket>,
}

impl Signs {
    /// # Errors
    /// Fails with [`ReadyError`] if a pattern is wrong, or if there is no socket.
    pub(super) fn of(by: &ReadyBy) -> Result<Self, ReadyError> {
        Ok(match by {
            ReadyBy::Log(pattern) => {
                let line =
                    Regex::new(pattern).map_err(|source| ReadyError::Pattern { pattern: pattern.clone(), source })?;
                Self { line: Some(line), notify: None }
            }
            ReadyBy::Notify => Self { line: None, notify: Some(NotifySocket::open().map_err(ReadyError::NoSocket)?) },
            ReadyBy::Http(_) | ReadyBy::Tcp(_) | ReadyBy::Unix(_) | ReadyBy::Command(_) => Self::default(),
        })
    }

    /// Has the output watched. Returns the socket, which the process is to know.
    pub(super) fn watch(self, output: &Output) -> Option<NotifySocket> {
        if let Some(line) = self.line {
            output.await_line(line);
        }
        self.notify
    }
}

/// A process that memgate waits for.
#[derive(Debug)]
pub(super) struct Waiting<'a> {
    /// Who it is, for messages: `the service`.
    pub(super) who: String,
    pub(super) ready: &'a Ready,
    /// How it runs.
    pub(super) line: CommandLine<'a>,
    pub(super) cgroup: &'a CgroupFiles,
    pub(super) pid: Pid,
    pub(super) output: &'a Output,
    /// The socket for what it tells of itself, if it is to do that.
    pub(super) notify: Option<&'a NotifySocket>,
}

/// Waits until the process is ready. Returns the time until then.
///
/// # Errors
/// Fails with [`ReadyError::TimedOut`], which has what was seen last and the end of the output, if time runs out, and
/// with [`Error::Input`](memgate_evidence::error::Error::Input) if a URL or an address cannot be used.
pub(super) async fn wait_ready(waiting: &Waiting<'_>) -> Result<Duration> {
    let start = Instant::now();
    let timeout = Duration::from_millis(waiting.ready.timeout_ms);
    let mut probe = Probe::of(waiting)?;
    let mut last = None;
    loop {
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            let (who, last) = (waiting.who.clone(), last.unwrap_or_else(|| probe.unanswered()));
            let (output, log) = (waiting.output.end(), waiting.output.log().to_owned());
            return Err(ReadyError::TimedOut { who, timeout, last, output, log }.into());
        }
        let most = if probe.is_brief() { left.min(ATTEMPT) } else { left };
        match tokio::time::timeout(most, probe.look()).await {
            Ok(Ok(())) => return Ok(start.elapsed()),
            Ok(Err(seen)) => last = Some(seen),
            Err(_) => last = Some(unanswered(last, left, probe.unanswered())),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// What is to say of a look without an answer, for which `left` remained. If the end of the time cut it short, what was
/// seen `before` says more.
fn unanswered(before: Option<String>, left: Duration, now: String) -> String {
    before.filter(|_| left < BRIEF).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{PipeWriter, Write as _},
        net::TcpListener,
        os::{
            linux::net::SocketAddrExt as _,
            unix::net::{self, UnixDatagram, UnixListener},
        },
        sync::atomic::{AtomicU32, Ordering},
    };

    use memgate_evidence::{error::Error, secrets::Secrets};

    use super::*;
    use crate::load::testserver::{Server, status};

    /// A process in a directory of its own, which this process stands for.
    struct Case {
        ready: Ready,
        directory: tempfile::TempDir,
        output: Output,
        pipe: PipeWriter,
        notify: NotifySocket,
        secrets: Secrets,
    }

    impl Case {
        fn new(by: ReadyBy, timeout_ms: u64) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let (output, pipe) = Output::to(&directory.path().join("service.log"), None).unwrap();
            let notify = NotifySocket::open().unwrap();
            let secrets = Secrets::default();
            Self { ready: Ready { by, timeout_ms }, directory, output, pipe, notify, secrets }
        }

        fn print(mut self, text: &str) -> Self {
            self.pipe.write_all(text.as_bytes()).unwrap();
            self
        }

        fn wait(&self) -> Result<Duration> {
            let env = [("PATH".into(), std::env::var_os("PATH").unwrap())];
            let waiting = Waiting {
                who: "the service".to_owned(),
                ready: &self.ready,
                line: CommandLine {
                    words: &[],
                    directory: self.directory.path(),
                    env: &env,
                    account: None,
                    secrets: &self.secrets,
                },
                cgroup: &CgroupFiles::default(),
                pid: Pid::this(),
                output: &self.output,
                notify: Some(&self.notify),
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(wait_ready(&waiting))
        }

        /// What is said of the last look.
        fn last(&self) -> String {
            let error = self.wait().unwrap_err();
            assert_eq!(error.exit_code(), 4);
            let Some(ReadyError::TimedOut { last, .. }) = error.kind() else { panic!("{error:?}") };
            last.clone()
        }
    }

    /// Longer than any test lasts.
    const FOREVER: Duration = Duration::from_secs(3600);
    const LONG_MS: u64 = 60_000;
    const SHORT_MS: u64 = 300;

    fn http(url: String, timeout_ms: u64) -> Case {
        Case::new(ReadyBy::Http(url), timeout_ms)
    }

    /// An address at which nothing listens.
    fn unused() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
    }

    fn words(words: &[&str]) -> ReadyBy {
        ReadyBy::Command(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn a_service_is_ready_when_its_status_is_below_400() {
        let answers = AtomicU32::new(0);
        let server = Server::start(move |_, stream| {
            if answers.fetch_add(1, Ordering::Relaxed) < 3 { status(stream, 503) } else { status(stream, 302) }
        });
        http(server.url("/healthz"), LONG_MS).wait().unwrap();
        assert_eq!(server.seen().len(), 4);
        assert!(server.seen()[0].head.starts_with("GET /healthz HTTP/1.1\r\n"));
    }

    #[test]
    fn a_timeout_reports_the_last_answer() {
        // Long enough for one attempt, even on a busy machine.
        const TIMEOUT_MS: u64 = 5_000;
        let server = Server::start(|_, stream| status(stream, 503));
        let (url, unused) = (server.url("/healthz"), format!("http://{}/", unused()));
        let [answered, refused]: [Error; 2] = [url, unused]
            .map(|url| std::thread::spawn(move || http(url, TIMEOUT_MS).wait().unwrap_err()))
            .map(|waiting| waiting.join().unwrap());
        assert_eq!(answered.exit_code(), 4);
        assert!(answered.to_string().contains("the service was not ready in time: at last http://"), "{answered}");
        assert!(answered.to_string().contains("/healthz answered 503; it had 5 s"), "{answered}");
        assert!(refused.to_string().contains("gave `connection refused`"), "{refused}");
    }

    #[test]
    fn a_timeout_shows_what_the_service_said() {
        let case = http(format!("http://{}/", unused()), 1).print("waiting for the database\n");
        let error = case.wait().unwrap_err();
        assert!(error.to_string().ends_with("it had 0.001 s; its output:\n| waiting for the database"), "{error}");
    }

    #[test]
    fn a_look_that_is_cut_short_does_not_hide_the_last_one() {
        let [short, long] = [BRIEF / 2, 2 * BRIEF];
        let said = |before: Option<&str>, left| unanswered(before.map(str::to_owned), left, "nothing".to_owned());
        assert_eq!(said(Some("refused"), short), "refused");
        assert_eq!(said(Some("refused"), long), "nothing");
        assert_eq!(said(None, short), "nothing");
    }

    #[test]
    fn a_service_that_does_not_answer_is_not_ready() {
        let server = Server::start(|_, _| {
            std::thread::sleep(FOREVER);
            Ok(false)
        });
        assert!(http(server.url("/"), 200).last().ends_with("did not answer"));
    }

    #[test]
    fn an_address_is_ready_when_it_accepts_connections() {
        let address = unused();
        assert_eq!(
            Case::new(ReadyBy::Tcp(address.to_string()), SHORT_MS).last(),
            format!("{address} gave `connection refused`")
        );
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Case::new(ReadyBy::Tcp(listener.local_addr().unwrap().to_string()), LONG_MS).wait().unwrap();
    }

    #[test]
    fn a_socket_is_ready_when_it_accepts_connections() {
        let case = Case::new(ReadyBy::Unix("app.sock".to_owned()), SHORT_MS);
        assert_eq!(case.last(), "there was no socket app.sock");
        let listener = UnixListener::bind(case.directory.path().join("app.sock")).unwrap();
        case.wait().unwrap();
        drop(listener);
        assert_eq!(case.last(), "nobody listened at the socket app.sock");
        let name = format!("memgate-test-{}", std::process::id());
        let case = Case::new(ReadyBy::Unix(format!("@{name}")), SHORT_MS);
        assert_eq!(case.last(), format!("nobody listened at the socket @{name}"));
        let address = net::SocketAddr::from_abstract_name(&name).unwrap();
        let _listener = UnixListener::bind_addr(&address).unwrap();
        case.wait().unwrap();
    }

    #[test]
    fn a_line_of_the_output_tells_it() {
        let case = |text: &str| {
            let case = Case::new(ReadyBy::Log("^listening on .*:80$".to_owned()), SHORT_MS);
            case.output.await_line(regex_lite::Regex::new("^listening on .*:80$").unwrap());
            case.print(text)
        };
        case("starting\nlistening on [::]:80\n").wait().unwrap();
        assert_eq!(case("listening on :8080\n").last(), "no line of its output had matched `^listening on .*:80$`");
    }

    #[test]
    fn a_command_tells_it_with_its_exit_code() {
        let script = "[ -e up ] || { echo starting; touch up; exit 7; }";
        let case = Case::new(words(&["sh", "-c", script]), LONG_MS);
        case.wait().unwrap();
        // Long enough for one attempt, even on a busy machine.
        let last = |command: &[&str]| Case::new(words(command), 2_000).last();
        let said = last(&["sh", "-c", "echo first; echo no response >&2; exit 2"]);
        assert!(said.ends_with("exit 2` exited with code 2 and said `no response`"), "{said}");
        assert_eq!(last(&["sh", "-c", "kill $$"]), "`sh -c kill $$` was ended by SIGTERM");
        assert!(last(&["/none"]).starts_with("`/none` could not be started: No such file"));
        let begun = Instant::now();
        assert_eq!(last(&["sleep", "1000"]), "`sleep 1000` still ran");
        assert!(begun.elapsed() < Duration::from_secs(100));
    }

    #[test]
    fn the_process_itself_tells_it() {
        let mut case = Case::new(ReadyBy::Notify, SHORT_MS);
        // A secret that has another form in quotes.
        case.secrets.add("\"pass\tword\"");
        assert_eq!(case.last(), "it had not sent READY=1");
        let (_, name) = case.notify.variable();
        let name = name.into_string().unwrap();
        let address = net::SocketAddr::from_abstract_name(&name[1..]).unwrap();
        let send = |text: &str| UnixDatagram::unbound().unwrap().send_to_addr(text.as_bytes(), &address).unwrap();
        send("STATUS=loading");
        assert_eq!(case.last(), "it had not sent READY=1; its status was `loading`");
        send("STATUS=\"as\" \"pass\tword\"");
        assert_eq!(case.last(), r#"it had not sent READY=1; its status was `\"as\" ***`"#);
        send("READY=1");
        case.wait().unwrap();
    }

    #[test]
    fn a_stranger_cannot_tell_it() {
        let case = Case::new(ReadyBy::Notify, 1000);
        let (_, name) = case.notify.variable();
        let script = "import socket, sys, os\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
            s.sendto(b'READY=1', '\\0' + sys.argv[1][1:])";
        // It is no child of this process once its parent has ended.
        let spawned = std::process::Command::new("setsid")
            .args(["--fork", "python3", "-c", &format!("{script}\nimport time; time.sleep(5)")])
            .arg(name)
            .status()
            .unwrap();
        assert!(spawned.success());
        let last = case.last();
        assert!(last.ends_with("had, which is not in its cgroup"), "{last}");
    }
}
