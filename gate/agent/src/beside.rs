//! What a service needs: sidecars, which run beside it, such as a database, and commands that run before it, such as a
//! migration.
//!
//! Each has a cgroup of its own, so nothing of it is in the figures of the service.

mod error;
mod scratch;

use std::{
    cell::Cell,
    ffi::OsString,
    io::{self, PipeWriter},
    path::{Path, PathBuf},
    time::Duration,
};

pub use error::BesideError;
use memgate_evidence::{
    error::{Error, Result},
    plan::{Account, Before, Plan, Sidecar},
    secrets::Secrets,
};
use scratch::Scratch;
pub(crate) use scratch::remove_leftovers;

use crate::{
    cgroup::Cgroup,
    child,
    family::members,
    listeners::{self, Targets, When},
    output::Output,
    process::{CommandLine, Process},
    ready::{self, ReadyError, Signs, Waiting},
    run::RunLogs,
    wait::Exit,
};

/// The variables of memgate's own that a command beside the service gets.
pub(crate) const INHERITED: [&str; 6] = ["PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ"];

/// The time between two looks at a process.
const LOOK: Duration = Duration::from_millis(10);

/// The time between two looks whether the sidecars still run.
const WATCH: Duration = Duration::from_millis(50);

/// When the service needs its sidecars.
pub(crate) const NEEDED: &str = "while the service ran";

/// What runs beside a service. Dropping it kills all of it, the last first.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    running: Vec<Running>,
    /// Whether the service still needs them.
    is_over: Cell<bool>,
    /// What could not be done well, for the reader.
    pub(crate) notes: Vec<String>,
    /// Dropped last: what runs may write there.
    scratch: Option<Scratch>,
}

/// A running sidecar.
#[derive(Debug)]
struct Running {
    name: String,
    process: Process,
    stop_timeout: Duration,
}

impl Beside {
    /// Makes the fresh directory of a run whose service needs something. Returns the plan with the names of that
    /// directory and of the service's executable put in.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub(crate) fn prepare(plan: &Plan) -> Result<(Self, Plan)> {
        if plan.sidecars.is_empty() && plan.before.is_empty() && !scratch::is_named_in(plan) {
            return Ok((Self::default(), plan.clone()));
        }
        let scratch = Scratch::make(plan).map_err(BesideError::Scratch)?;
        let plan = scratch.named_in(plan);
        let mut beside = Self::default();
        beside.scratch = Some(scratch);
        Ok((beside, plan))
    }

    /// Starts the sidecars, each once the one before is ready, and then runs the commands before the service.
    ///
    /// Call it on the thread that lives longest, because they are killed when that thread ends.
    ///
    /// # Errors
    /// Fails with [`BesideError`] and [`ReadyError`] if one of them does not do what it is there for.
    pub(crate) async fn start(&mut self, plan: &Plan, logs: &RunLogs) -> Result<()> {
        for sidecar in &plan.sidecars {
            let log = logs.sidecar(&sidecar.name);
            self.start_one(sidecar, &plan.secrets, &log).await?;
        }
        for (index, before) in plan.before.iter().enumerate() {
            let log = logs.before(index);
            tokio::select! {
                ended = run_before(before, plan, &log) => ended?,
                error = self.failure("before the service began") => return Err(error),
            }
        }
        Ok(())
    }

    async fn start_one(&mut self, sidecar: &Sidecar, secrets: &Secrets, log: &Path) -> Result<()> {
        let own = self.scratch.as_ref().map_or_else(PathBuf::new, |scratch| scratch.of(&sidecar.name));
        let directory = sidecar.directory.clone().unwrap_or(own);
        let who = format!("the sidecar `{}`", sidecar.name);
        ready::is_free(&sidecar.ready, &directory).map_err(|error| self.taken(error, &sidecar.name))?;
        let targets = Targets::of_readiness(who.clone(), &sidecar.ready, &directory)?;
        let limit = |source| BesideError::Limit { name: sidecar.name.clone(), source };
        let cgroup = match sidecar.memory_max {
            Some(_) => Cgroup::create(sidecar.memory_max).map_err(limit)?,
            // It moves no other process.
            None => Cgroup::without_memory(),
        };
        let files = cgroup.files().clone();
        self.notes.extend(cgroup.notes.iter().cloned());
        let signs = Signs::of(&sidecar.ready.by)?;
        let account = sidecar.account.as_ref();
        let (output, pipe) = output_of(&who, log, account)?;
        let notify = signs.watch(&output);
        let mut env = environment(account, &sidecar.env);
        env.extend(notify.as_ref().map(ready::notify::NotifySocket::variable));
        let line = CommandLine { words: &sidecar.words, directory: &directory, env: &env, account, secrets };
        let process = Process::start(&line, cgroup, (output, pipe));
        let process = process.map_err(|source| not_started(who.clone(), &line, source))?;
        let pid = process.pid();
        // From here on it ends with the others.
        let (number, stop_timeout) = (self.running.len(), Duration::from_millis(sidecar.stop_timeout_ms));
        self.running.push(Running { name: sidecar.name.clone(), process, stop_timeout });
        let (others, own) = self.running.split_at(number);
        let ready = &sidecar.ready;
        let (output, notify) = (own[0].process.output(), notify.as_ref());
        let waiting = Waiting { who, ready, line, cgroup: &files, pid, output, notify };
        tokio::select! {
            ready = ready::wait_ready(&waiting) => ready.map(drop)?,
            error = failure(own, "before it was ready", &self.is_over) => return Err(error),
            error = failure(others, "before the service began", &self.is_over) => return Err(error),
        }
        let notes = targets.check(When::Ready, &files, pid).await;
        // What has ended listens nowhere.
        self.check("before the service began")?;
        self.notes.extend(targets.notes.into_iter().chain(notes?));
        Ok(())
    }

    /// The error for a place where something listens before the sidecar starts: another sidecar, if it is one.
    fn taken(&self, error: Error, name: &str) -> Error {
        let address = match error.kind() {
            Some(ReadyError::PortTaken { address }) => *address,
            _ => return error,
        };
        let listens = |one: &&Running| {
            let processes = members(one.process.cgroup().files(), one.process.pid());
            listeners::listen_at(address, &processes)
        };
        match self.running.iter().find(listens) {
            Some(other) => BesideError::Port { address, other: other.name.clone(), name: name.to_owned() }.into(),
            None => BesideError::Taken { address, name: name.to_owned() }.into(),
        }
    }

    /// Checks that all of them still run.
    ///
    /// # Errors
    /// Fails with [`BesideError::Ended`] if one has ended by itself.
    pub(crate) fn check(&self, when: &'static str) -> Result<()> {
        check(&self.running, when)
    }

    /// Waits until one of them ends by itself while the service needs it. `when` is that time, as words.
    pub(crate) async fn failure(&self, when: &'static str) -> Error {
        failure(&self.running, when, &self.is_over).await
    }

    /// The service does not need them any more: one that ends from now on is no failure.
    ///
    /// # Errors
    /// Fails with [`BesideError::Ended`] if one has ended before.
    pub(crate) fn is_over(&self) -> Result<()> {
        self.check(NEEDED)?;
        self.is_over.set(true);
        Ok(())
    }

    /// Ends them, the last first. Each gets SIGTERM and its time. Returns notes about those that did not end.
    pub(crate) async fn stop(&mut self) -> Vec<String> {
        self.is_over.set(true);
        while let Some(mut sidecar) = self.running.pop() {
            let in_time = sidecar.stop().await;
            self.notes.extend(in_time.err());
            self.notes.extend(sidecar.process.output().failure());
        }
        self.notes.extend(self.scratch.take().and_then(Scratch::remove));
        std::mem::take(&mut self.notes)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        while self.running.pop().is_some() {}
    }
}

/// Checks that all of these still run.
fn check(sidecars: &[Running], when: &'static str) -> Result<()> {
    sidecars.iter().try_for_each(|sidecar| sidecar.check(when))
}

/// Waits until one of these ends by itself before it is over.
async fn failure(sidecars: &[Running], when: &'static str, is_over: &Cell<bool>) -> Error {
    loop {
        if !is_over.get()
            && let Err(error) = check(sidecars, when)
        {
            return error;
        }
        tokio::time::sleep(WATCH).await;
    }
}

impl Running {
    fn check(&self, when: &'static str) -> Result<()> {
        let unwatchable = |source| BesideError::Unwatchable { name: self.name.clone(), source };
        let Some(exit) = self.process.ended().map_err(unwatchable)? else { return Ok(()) };
        let output = self.process.output();
        let (log, output) = (output.log().to_owned(), output.end());
        Err(BesideError::Ended { name: self.name.clone(), exit, when, output, log }.into())
    }

    /// Asks it to end, and kills what is left of it.
    async fn stop(&mut self) -> Result<(), String> {
        // One that cannot be watched is killed.
        if self.process.stop(self.stop_timeout).await.unwrap_or(true) {
            return Ok(());
        }
        let (name, after) = (&self.name, self.stop_timeout.as_millis());
        Err(format!("the sidecar `{name}` did not end within {after} ms of SIGTERM and was killed"))
    }
}

/// Runs a command to its end.
async fn run_before(before: &Before, plan: &Plan, log: &Path) -> Result<()> {
    let command = before.words.join(" ");
    let who = format!("`{command}`, which runs before the service,");
    let account = before.account.as_ref();
    let env = environment(account, &before.env);
    let directory = before.directory.as_ref().unwrap_or(&plan.directory);
    let line = CommandLine { words: &before.words, directory, env: &env, account, secrets: &plan.secrets };
    let output = output_of(&who, log, account)?;
    let process = Process::start(&line, Cgroup::without_memory(), output);
    let process = process.map_err(|source| not_started(who, &line, source))?;
    let ended = tokio::time::timeout(Duration::from_millis(before.timeout_ms), process.end(LOOK)).await;
    let (output, log) = (process.output().end(), log.to_owned());
    match ended {
        Ok(Ok(Exit::Code(0))) => Ok(()),
        Ok(Ok(exit)) => Err(BesideError::Failed { command, exit, output, log }.into()),
        Ok(Err(source)) => Err(BesideError::Unwatchable { name: command, source }.into()),
        Err(_) => {
            let seconds = Duration::from_millis(before.timeout_ms).as_secs_f64();
            Err(BesideError::TooLong { command, seconds, output, log }.into())
        }
    }
}

/// The whole environment of a command of this user with these variables.
fn environment(
    account: Option<&Account>,
    variables: &std::collections::BTreeMap<String, String>,
) -> Vec<(OsString, OsString)> {
    let mut env = child::inherited(&INHERITED, account);
    env.extend(variables.iter().map(|(name, value)| (name.into(), value.into())));
    env
}

fn output_of(who: &str, log: &Path, account: Option<&Account>) -> Result<(Output, PipeWriter), BesideError> {
    Output::to(log, account).map_err(|source| BesideError::Log { who: who.to_owned(), log: log.to_owned(), source })
}

fn not_started(who: String, line: &CommandLine<'_>, source: io::Error) -> BesideError {
    let program = line.words.first().cloned().unwrap_or_default();
    BesideError::NotStarted { who, program, directory: line.directory.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use memgate_evidence::plan::{Ready, ReadyBy};

    use super::*;

    /// A shell as a sidecar, which is ready when it prints `up`.
    fn sidecar(name: &str, script: &str) -> Sidecar {
        Sidecar {
            name: name.to_owned(),
            words: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: std::collections::BTreeMap::new(),
            directory: None,
            account: None,
            ready: Ready { by: ReadyBy::Log("up".to_owned()), timeout_ms: 600_000 },
            memory_max: None,
            stop_timeout_ms: 600_000,
        }
    }

    fn before(script: &str, timeout_ms: u64) -> Before {
        let words = ["sh", "-c", script].map(str::to_owned).to_vec();
        let (env, directory) = (std::collections::BTreeMap::new(), None);
        Before { words, env, directory, account: None, timeout_ms }
    }

    /// Starts these, and ends them. Returns how the start went, and the notes.
    async fn run(sidecars: &[Sidecar], before: &[Before], logs: &Path) -> (Result<()>, Vec<String>) {
        let (sidecars, before) = (sidecars.to_vec(), before.to_vec());
        let plan = Plan { sidecars, before, account: None, ..memgate_testing::plan() };
        let (mut beside, plan) = Beside::prepare(&plan).unwrap();
        let started = beside.start(&plan, &RunLogs::of(&plan, |name| logs.join(name))).await;
        (started, beside.stop().await)
    }

    #[tokio::test]
    async fn the_sidecar_that_ends_is_told_as_what_it_was() {
        let logs = tempfile::tempdir().unwrap();
        // The first one is ready, and ends when the second one has started.
        let go = logs.path().join("go");
        let [waits, stays] = ["echo up; until [ -e GO ]; do sleep 0.01; done; exit 3", "touch GO; exec sleep 1000"]
            .map(|script| script.replace("GO", &go.display().to_string()));
        let (started, _) = run(&[sidecar("one", &waits), sidecar("two", &stays)], &[], logs.path()).await;
        let error = started.unwrap_err().to_string();
        assert!(
            error.starts_with("launch: the sidecar `one` ended before the service began: it exited with code 3"),
            "{error}"
        );
        let one = "echo up; exec sleep 1000";
        let (started, notes) = run(&[sidecar("one", one), sidecar("two", "exit 4")], &[], logs.path()).await;
        let error = started.unwrap_err().to_string();
        assert!(
            error.starts_with("launch: the sidecar `two` ended before it was ready: it exited with code 4"),
            "{error}"
        );
        assert_eq!(notes, Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_a_shell_has_started_gets_its_time_and_no_more() {
        let logs = tempfile::tempdir().unwrap();
        let slow = "sh -c 'trap \"sleep 0.1; echo bye; exit\" TERM; echo up; while :; do sleep 0.01; done'; true";
        let (started, notes) = run(&[sidecar("one", slow)], &[], logs.path()).await;
        started.unwrap();
        assert_eq!(notes, Vec::<String>::new());
        let log = std::fs::read_to_string(logs.path().join("sidecar-one")).unwrap();
        assert!(log.ends_with("bye\n"), "{log}");
        let deaf = "trap '' TERM; echo up; while :; do sleep 0.01; done";
        let deaf = Sidecar { stop_timeout_ms: 300, ..sidecar("one", deaf) };
        let (started, notes) = run(&[deaf], &[], logs.path()).await;
        started.unwrap();
        assert_eq!(notes, ["the sidecar `one` did not end within 300 ms of SIGTERM and was killed"]);
    }

    #[tokio::test]
    async fn why_a_command_or_a_sidecar_is_not_run() {
        let logs = tempfile::tempdir().unwrap();
        let case = async |sidecars: &[Sidecar], before: &[Before], logs: &Path| {
            run(sidecars, before, logs).await.0.unwrap_err().to_string()
        };
        let error = case(&[], &[before("exec sleep 1000", 300)], logs.path()).await;
        assert_eq!(error, "launch: `sh -c exec sleep 1000` did not end within 0.3 s before the service");
        let error = case(&[], &[before("exit 5", 60_000)], logs.path()).await;
        assert_eq!(error, "launch: `sh -c exit 5` failed before the service: it exited with code 5");
        let error = case(&[sidecar("one", "")], &[], &logs.path().join("none")).await;
        assert!(error.starts_with("launch: the output of the sidecar `one` cannot go to "), "{error}");
        let one = Sidecar { words: vec!["/none/x".to_owned()], ..sidecar("one", "") };
        let error = case(&[one], &[], logs.path()).await;
        assert!(error.starts_with("launch: the sidecar `one` cannot be started: `/none/x` in /"), "{error}");
    }
}
