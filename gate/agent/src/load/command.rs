//! A load from a command, such as `k6 run load.js`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use memgate_evidence::{error::Result, plan::CommandResults};

use super::{
    LoadError, Results,
    results::{Started, Times},
};
use crate::{
    Clock,
    cgroup::Cgroup,
    output::Output,
    process::{CommandLine, Process},
    wait::Exit,
};

/// How long the command may take to end after SIGTERM before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A running load command.
///
/// Dropping it kills the whole process group, and everything in its cgroup.
#[derive(Debug)]
pub struct LoadCommand {
    name: String,
    started: Started,
    /// Where it runs.
    directory: PathBuf,
    process: Process,
}

/// Starts a load command in its own process group and keeps its stdout and stderr in the file `log`.
///
/// The kernel kills the command when the calling thread ends (`PR_SET_PDEATHSIG`), so call this from a thread that lives
/// as long as the load.
///
/// # Errors
/// Fails with [`LoadError`] if the log cannot be made or the command cannot be started.
pub fn command(line: &CommandLine<'_>, log: &Path) -> Result<LoadCommand> {
    let Some(name) = line.words.first() else {
        return Err(LoadError::NoCommand.into());
    };
    let made = Output::to(log, line.account);
    let output = made.map_err(|source| LoadError::Log { log: log.to_owned(), source })?;
    let started = Started::now();
    let process = Process::start(line, Cgroup::without_memory(), output).map_err(|source| {
        LoadError::CommandNotStarted { name: name.clone(), directory: line.directory.to_owned(), source }
    })?;
    Ok(LoadCommand { name: name.clone(), started, directory: line.directory.to_owned(), process })
}

impl LoadCommand {
    /// Checks that the command still runs. Call it from time to time under load.
    ///
    /// # Errors
    /// Fails with [`LoadError::CommandEnded`] if it has ended, even with exit code 0, because then the service is not
    /// under load. The message contains the end of its output.
    pub fn check(&self) -> Result<()> {
        self.ended()?.map_or(Ok(()), |exit| Err(self.ended_early(exit).into()))
    }

    /// Ends the command, unless it has ended. It sends SIGTERM to the group, and SIGKILL to what is left of it when the
    /// whole group has ended or after 5 s. Returns the results that are to be read, if the command writes any.
    ///
    /// # Errors
    /// Fails with [`LoadError`] if the command cannot be watched.
    pub async fn stop(mut self, results: Option<&CommandResults>, clock: Clock) -> Result<Option<Results>> {
        self.process.stop(STOP_TIMEOUT).await.map_err(|source| self.unwatchable(source))?;
        let times = Times::of(self.started, clock);
        let here = |results: &CommandResults| CommandResults { file: self.directory.join(&results.file), ..*results };
        Ok(results.map(|results| Results::new(here(results), times)))
    }

    fn ended(&self) -> Result<Option<Exit>, LoadError> {
        self.process.ended().map_err(|source| self.unwatchable(source))
    }

    fn unwatchable(&self, source: nix::Error) -> LoadError {
        LoadError::Unwatchable { name: self.name.clone(), source }
    }

    fn ended_early(&self, exit: Exit) -> LoadError {
        let how = match exit {
            Exit::Code(code) => format!("with exit code {code}"),
            Exit::Signal(signal) => format!("by {signal}"),
            Exit::Unknown => "in an unknown way".to_owned(),
        };
        let output = self.process.output();
        LoadError::CommandEnded { name: self.name.clone(), how, output: output.end(), log: output.log().to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use memgate_evidence::{Phases, plan::ResultsFormat, secrets::Secrets};

    use super::*;

    /// The time between two looks at what has not happened yet.
    const POLL: Duration = Duration::from_millis(10);

    fn at_end<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    fn stop(command: LoadCommand) {
        assert!(at_end(command.stop(None, Clock::start().unwrap())).unwrap().is_none());
    }

    /// A shell as the load command, with the directory of its log.
    fn shell(script: &str) -> (LoadCommand, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let command = run(&["sh", "-c", script], directory.path()).unwrap();
        (command, directory)
    }

    fn run(words: &[&str], directory: &Path) -> Result<LoadCommand> {
        let words: Vec<String> = words.iter().copied().map(str::to_owned).collect();
        let env = [("PATH".into(), std::env::var_os("PATH").unwrap()), ("GREETING".into(), "hello".into())];
        let line = CommandLine { words: &words, directory, env: &env, account: None, secrets: &Secrets::default() };
        command(&line, &directory.join("load.log"))
    }

    fn log_of(directory: &tempfile::TempDir) -> String {
        std::fs::read_to_string(directory.path().join("load.log")).unwrap()
    }

    #[test]
    fn a_command_that_leaves_its_group_ends_too() {
        let script =
            "import os, time; os.setpgid(0, os.getpgid(os.getppid())); print('up', flush=True); time.sleep(1000)";
        let directory = tempfile::tempdir().unwrap();
        let command = run(&["python3", "-c", script], directory.path()).unwrap();
        eventually("the start", || log_of(&directory).contains("up"));
        let pid = command.process.pid().to_string();
        assert!(runs(&pid));
        drop(command);
        assert!(!runs(&pid));
    }

    #[test]
    fn what_the_command_starts_in_a_session_of_its_own_ends_with_it() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: making a cgroup needs root");
            return;
        }
        let (command, directory) = shell("setsid sleep 600 & echo $!; wait");
        eventually("the child is started", || log_of(&directory).ends_with('\n'));
        let log = log_of(&directory);
        assert!(runs(log.trim()));
        drop(command);
        eventually("the end of the child", || !runs(log.trim()));
    }

    fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < Duration::from_secs(100), "{what} has not happened");
            std::thread::sleep(POLL);
        }
    }

    /// Whether a process runs. One that has ended and is not reaped yet does not.
    fn runs(pid: &str) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
    }

    #[test]
    fn it_runs_in_its_directory_with_its_environment_until_it_is_stopped() {
        let (command, directory) =
            shell("trap 'echo got TERM; exit 0' TERM; pwd; echo $GREETING; echo up >&2; while :; do sleep 0.01; done");
        eventually("the start", || log_of(&directory).contains("up"));
        command.check().unwrap();
        stop(command);
        let log = log_of(&directory);
        let expected = format!("{}\nhello\nup\n", directory.path().canonicalize().unwrap().display());
        // The shell may also report the end of its `sleep`.
        assert!(log.starts_with(&expected) && log.ends_with("got TERM\n"), "{log}");
    }

    #[test]
    fn an_early_end_is_a_failure_of_the_load_whatever_the_exit_code() {
        for (script, how) in [
            ("echo first; echo no such script; exit 3", "with exit code 3"),
            ("echo done; exit 0", "with exit code 0"),
            ("kill -SEGV $$", "by SIGSEGV"),
        ] {
            let (command, directory) = shell(script);
            eventually("the end", || command.check().is_err());
            let error = command.check().unwrap_err();
            stop(command);
            assert!(matches!(error.kind(), Some(LoadError::CommandEnded { .. })));
            let message = error.to_string();
            assert!(message.contains(how), "{message}");
            assert!(log_of(&directory).lines().all(|line| message.contains(&format!("| {line}"))), "{message}");
        }
    }

    #[test]
    fn nothing_of_the_group_is_left_after_a_stop_or_a_drop() {
        for end in [stop, drop] {
            let (command, directory) = shell("sleep 1000 & echo $! $$ up; wait");
            eventually("the start", || log_of(&directory).contains("up"));
            let log = log_of(&directory);
            let pids: Vec<&str> = log.split_whitespace().take(2).collect();
            assert!(pids.iter().all(|pid| runs(pid)));
            end(command);
            eventually("the end of the group", || !pids.iter().any(|pid| runs(pid)));
        }
    }

    #[test]
    fn what_a_shell_has_started_has_the_time_to_end_well() {
        let script = "sh -c 'trap \"sleep 0.3; echo written; exit\" TERM; echo up; while :; do sleep 0.01; done'; true";
        let (command, directory) = shell(script);
        eventually("the start", || log_of(&directory).contains("up"));
        let begun = Instant::now();
        stop(command);
        assert!(log_of(&directory).ends_with("written\n"), "{}", log_of(&directory));
        assert!(begun.elapsed() < STOP_TIMEOUT, "it does not wait for more");
    }

    #[test]
    fn processes_of_an_ended_leader_are_killed() {
        let (command, directory) = shell("sleep 1000 & echo $! up");
        eventually("the end of the leader", || command.check().is_err());
        let log = log_of(&directory);
        let pid = log.split_whitespace().next().unwrap();
        assert!(runs(pid));
        drop(command);
        eventually("the end of the group", || !runs(pid));
    }

    #[test]
    fn it_dies_with_the_thread_that_started_it() {
        let (command, _directory) = std::thread::spawn(|| shell("exec sleep 1000")).join().unwrap();
        eventually("the end", || command.check().is_err());
        assert!(command.check().unwrap_err().to_string().contains("by SIGKILL"));
    }

    #[test]
    fn only_the_commands_own_output_is_in_the_message() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("load.log");
        std::fs::write(&log, "of an earlier run\n").unwrap();
        let command = run(&["false"], directory.path()).unwrap();
        eventually("the end", || command.check().is_err());
        assert!(!command.check().unwrap_err().to_string().contains("earlier"));
        assert_eq!(log_of(&directory), "");
    }

    #[test]
    fn its_results_are_read_where_it_runs() {
        let (command, directory) = shell("mkdir out; echo no JSON > out/results.json; echo up; exec sleep 1000");
        eventually("the start", || log_of(&directory).contains("up"));
        let results = CommandResults { format: ResultsFormat::K6, file: "out/results.json".into() };
        let phases = Phases { warmup: None, measure: None, tail: None, drain: None };
        let requests = at_end(async {
            let results = command.stop(Some(&results), Clock::start().unwrap()).await.unwrap().unwrap();
            results.read(phases).await.unwrap()
        });
        assert_eq!(requests.unwrap_err(), "`load.results.file` results.json: line 1: it is no sample of k6");
    }

    #[test]
    fn a_command_that_does_not_exist_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error = run(&["no-such-load-generator"], directory.path()).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains("no-such-load-generator"), "{error}");
        assert!(run(&[], directory.path()).is_err());
    }
}
