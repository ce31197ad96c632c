//! A short run of a service without collectors and without load, to see where it listens and what it answers.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use memgate_evidence::{
    error::Result,
    plan::{Plan, Request},
};

use super::{
    cgroup::Cgroup,
    launch::{self, LaunchError, ServiceProcess},
    listeners,
    load::{Client, Endpoints, RequestFailure, RequestKind},
    log::LogEnd,
    ready,
    wait::Exit,
};

/// What the service answered: a status code, or why there is no answer.
pub type Answer = Result<u16, RequestFailure>;

/// A running service. Dropping it kills the service and everything that it has started.
#[derive(Debug)]
pub struct Trial(ServiceProcess);

impl Trial {
    /// Starts the plan's executable as a run does: as its user, in a cgroup of its own, and with its output in `log`.
    ///
    /// Call it on the thread that lives longest, because the service is killed when that thread ends.
    ///
    /// # Errors
    /// Fails if the executable cannot be started.
    pub async fn start(plan: &Plan, log: &Path) -> Result<Self> {
        let cgroup = Cgroup::create(plan.memory_max).map_err(LaunchError::Limit)?;
        Ok(Self(launch::spawn(plan, None, cgroup, log).await?.resume()?))
    }

    /// How the service has ended, if it has.
    pub fn ended(&mut self) -> Option<Exit> {
        self.0.ended()
    }

    /// The TCP addresses at which a client on this machine reaches the service and nobody else, in order.
    ///
    /// # Errors
    /// When the kernel does not tell, or the service has left its cgroup.
    pub fn addresses(&self) -> Result<BTreeSet<SocketAddr>> {
        Ok(listeners::addresses(self.0.cgroup().files(), self.0.pid())?)
    }

    /// The last lines of what the service has printed.
    pub fn printed(&self) -> LogEnd {
        self.0.output().end()
    }

    /// The first `most` bytes of what the service has printed.
    pub fn printed_first(&self, most: usize) -> String {
        self.0.output().start(most)
    }

    /// Ends the service: with SIGTERM, and after `timeout` with SIGKILL.
    pub async fn stop(mut self, timeout: Duration) {
        self.0.stop(timeout).await;
    }
}

/// Whether nothing listens at the port of the loopback device.
pub fn is_free(port: u16) -> bool {
    ready::addresses_are_free(&[SocketAddr::from((Ipv4Addr::LOCALHOST, port))]).is_ok()
}

/// Sends a GET on a connection of its own.
///
/// # Errors
/// Fails with [`Error::Input`](memgate_evidence::error::Error::Input) if the URL cannot be requested.
pub async fn get(url: &str, timeout: Duration) -> Result<Answer> {
    let mut endpoints = Endpoints::new();
    let kind = RequestKind::new(&get_request(url), &mut endpoints)?;
    let answer = tokio::time::timeout(timeout, Client::new(endpoints.len()).exchange(&kind, &endpoints)).await;
    Ok(answer.unwrap_or(Err(RequestFailure::Timeout)).map(|status| status.as_u16()))
}

/// How long a GET takes on one connection: the mean over as many rounds through the URLs as fit into `length`, at least
/// one. `None` if one is not answered within `length`.
///
/// # Errors
/// Fails like [`get()`].
pub async fn pace(urls: &[String], length: Duration) -> Result<Option<Duration>> {
    let mut endpoints = Endpoints::new();
    let mut kinds = Vec::new();
    for url in urls {
        kinds.push(RequestKind::new(&get_request(url), &mut endpoints)?);
    }
    let mut client = Client::new(endpoints.len());
    let start = Instant::now();
    let mut requests = 0;
    while requests == 0 || start.elapsed() < length {
        for kind in &kinds {
            let answer = tokio::time::timeout(length, client.exchange(kind, &endpoints)).await;
            if !matches!(answer, Ok(Ok(_))) {
                return Ok(None);
            }
            requests += 1;
        }
        if kinds.is_empty() {
            return Ok(None);
        }
    }
    Ok(Some(start.elapsed() / requests))
}

/// A GET for which every status is an answer.
fn get_request(url: &str) -> Request {
    Request { expect: (100..600).collect(), ..Request::get(url) }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::load::testserver::{Server, ok, status};

    fn plan(script: &str, directory: &Path) -> Plan {
        let mut plan = memgate_testing::plan();
        plan.executable = PathBuf::from("/bin/sh");
        plan.args = vec!["-c".to_owned(), script.to_owned()];
        plan.directory = directory.to_owned();
        plan.memory_max = None;
        plan
    }

    #[tokio::test]
    async fn a_service_is_watched_and_ends_with_its_trial() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let [ends, stays] =
            ["echo usage: none; exit 3", "exec sleep 1000"].map(|script| plan(script, directory.path()));
        let mut trial = Trial::start(&ends, &log).await.unwrap();
        let exit = loop {
            if let Some(exit) = trial.ended() {
                break exit;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(exit, Exit::Code(3));
        assert_eq!(trial.printed().lines(), ["| usage: none"]);
        assert_eq!(trial.printed_first(5), "usage");
        assert!(trial.addresses().unwrap().is_empty());
        let trial = Trial::start(&stays, &log).await.unwrap();
        let pid = trial.0.pid();
        drop(trial);
        assert!(!Path::new(&format!("/proc/{pid}/exe")).exists());
    }

    #[tokio::test]
    async fn an_answer_is_a_status_or_a_failure() {
        let server = Server::start(
            |request, stream| {
                if request.head.starts_with("GET /no ") { status(stream, 404) } else { ok(stream) }
            },
        );
        let timeout = Duration::from_secs(60);
        assert_eq!(get(&server.url("/no"), timeout).await.unwrap(), Ok(404));
        assert_eq!(get(&server.url("/"), timeout).await.unwrap(), Ok(200));
        assert!(pace(&[server.url("/")], Duration::from_millis(50)).await.unwrap().is_some());
        assert_eq!(pace(&[], Duration::from_millis(1)).await.unwrap(), None);
        assert!(get("http://", timeout).await.is_err());
        let silent = Server::start(|_, _| Ok(false));
        assert_eq!(get(&silent.url("/"), timeout).await.unwrap(), Err(RequestFailure::Closed));
    }
}
