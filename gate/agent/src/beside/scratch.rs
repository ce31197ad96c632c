//! The fresh directory of a run, `MEMGATE_TMP`, in which each sidecar has one of its own.
//!
//! Its owner holds a lock on it, as on a cgroup: one without a lock is what a killed memgate has left.

use std::{
    collections::BTreeMap,
    env, fs,
    fs::File,
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, lchown},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use memgate_evidence::plan::{Account, Before, Load, Plan, Ready, ReadyBy, Sidecar};

use crate::{
    child::may_write,
    launch::EXECUTABLE,
    ownership::{is_memgates, name, try_lock},
};

/// The variable with the directory.
const DIRECTORY: &str = "MEMGATE_TMP";

/// How long memgate waits for the last writes of killed processes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether a text of the plan has one of the names.
pub(super) fn is_named_in(plan: &Plan) -> bool {
    let text = format!("{plan:?}");
    [DIRECTORY, EXECUTABLE].iter().any(|name| parts(&text, name).count() > 1)
}

/// The parts of a text between the places where a variable stands. `$MEMGATE_SERVICE_URL` is another variable than
/// `$MEMGATE_SERVICE`.
fn parts<'a>(text: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let variable = format!("${name}");
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let goes_on = |at: usize| {
            text[at + variable.len()..].starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_')
        };
        let at = text.match_indices(&variable).map(|(at, _)| at).find(|at| !goes_on(*at));
        rest = at.map(|at| &text[at + variable.len()..]);
        Some(at.map_or(text, |at| &text[..at]))
    })
}

/// The directory. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    /// The lock is held while this is open. No process that memgate executes inherits it.
    lock: Option<File>,
}

impl Scratch {
    /// Makes the directory, which belongs to the service's user, and those of the sidecars, which belong to theirs.
    ///
    /// # Errors
    /// The system's reason.
    pub(super) fn make(plan: &Plan) -> io::Result<Self> {
        let parent = parent(&accounts(plan))?;
        let scratch = loop {
            let path = parent.join(name());
            make_directory(&path, None)?;
            // Until it is locked, another memgate may take the empty directory for a leftover and remove it.
            let lock = try_lock(&path);
            if let Ok(Some(lock)) = lock {
                break Self { path, lock: Some(lock) };
            }
            // It is empty, and may be gone.
            let _ = fs::remove_dir(&path);
            lock?;
        };
        for sidecar in &plan.sidecars {
            make_directory(&scratch.of(&sidecar.name), sidecar.account.as_ref())?;
        }
        give(&scratch.path, plan.account.as_ref())?;
        Ok(scratch)
    }

    /// The directory of a sidecar.
    pub(super) fn of(&self, sidecar: &str) -> PathBuf {
        self.path.join(sidecar)
    }

    /// Removes it. Returns a note if that fails.
    pub(super) fn remove(mut self) -> Option<String> {
        let path = std::mem::take(&mut self.path);
        let removed = remove(&path);
        // Only now: without the lock, another memgate removes it too.
        self.lock.take();
        removed.err().map(|error| format!("{} cannot be removed: {error}", path.display()))
    }

    /// The plan with the directory and the service's executable in place of `$MEMGATE_TMP` and `$MEMGATE_SERVICE`, and with
    /// both as variables.
    pub(super) fn named_in(&self, plan: &Plan) -> Plan {
        let names =
            Names { directory: self.path.display().to_string(), service: plan.executable.display().to_string() };
        let mut plan = plan.clone();
        names.put_into_all(&mut plan.args);
        names.put_into_variables(&mut plan.env);
        names.put_into_ready(&mut plan.ready);
        if let Some(watch) = &mut plan.watch {
            names.put_into_all(&mut watch.command);
            watch.argument.iter_mut().for_each(|argument| names.put_into(argument));
        }
        for Sidecar { words, env, ready, .. } in &mut plan.sidecars {
            names.put_into_all(words);
            names.put_into_variables(env);
            names.put_into_ready(ready);
        }
        for Before { words, env, .. } in &mut plan.before {
            names.put_into_all(words);
            names.put_into_variables(env);
        }
        match &mut plan.load {
            Load::Http(load) => load.transport.unix.iter_mut().for_each(|name| names.put_into(name)),
            Load::Command(command) => {
                names.put_into_all(&mut command.words);
                names.put_into_variables(&mut command.env);
                command.results.iter_mut().for_each(|results| names.put_into_path(&mut results.file));
            }
        }
        plan
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // If this fails, it is a leftover for the next memgate.
            let _ = remove(&self.path);
        }
    }
}

/// What the two names stand for.
struct Names {
    directory: String,
    service: String,
}

impl Names {
    fn put_into(&self, text: &mut String) {
        for (name, value) in [(DIRECTORY, self.directory.as_str()), (EXECUTABLE, &self.service)] {
            if text.contains(name) {
                *text = parts(text, name).collect::<Vec<_>>().join(value);
            }
        }
    }

    /// A path that is no text has no name in it.
    fn put_into_path(&self, path: &mut PathBuf) {
        if let Some(text) = path.to_str() {
            let mut text = text.to_owned();
            self.put_into(&mut text);
            *path = text.into();
        }
    }

    fn put_into_all(&self, words: &mut [String]) {
        words.iter_mut().for_each(|word| self.put_into(word));
    }

    fn put_into_variables(&self, env: &mut BTreeMap<String, String>) {
        env.values_mut().for_each(|value| self.put_into(value));
        env.insert(DIRECTORY.to_owned(), self.directory.clone());
        env.insert(EXECUTABLE.to_owned(), self.service.clone());
    }

    fn put_into_ready(&self, ready: &mut Ready) {
        match &mut ready.by {
            ReadyBy::Unix(name) => self.put_into(name),
            ReadyBy::Command(words) => self.put_into_all(words),
            ReadyBy::Http(_) | ReadyBy::Tcp(_) | ReadyBy::Log(_) | ReadyBy::Notify => {}
        }
    }
}

/// Removes the directories that a killed memgate has left. Returns a line for each that cannot be removed although it may
/// be. Their processes have ended: their cgroups are removed before.
pub(crate) fn remove_leftovers() -> Vec<String> {
    let usual = PathBuf::from("/tmp");
    let mut parents = vec![env::temp_dir()];
    parents.extend((!parents.contains(&usual)).then_some(usual));
    parents.iter().flat_map(|parent| leftovers_in(parent)).collect()
}

fn leftovers_in(parent: &Path) -> Vec<String> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let is_directory = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let left = entries.map(|entry| entry.path()).filter(|path| is_memgates(path) && is_directory(path));
    let removed = left.filter_map(|path| {
        // An owner that is about to lock it makes another one.
        let _lock = try_lock(&path).ok()??;
        match remove(&path) {
            Ok(()) => None,
            Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) => None,
            Err(error) => Some(format!("an earlier memgate left {}, which cannot be removed: {error}", path.display())),
        }
    });
    removed.collect()
}

/// The users of all processes of a run that have one of their own.
fn accounts(plan: &Plan) -> Vec<&Account> {
    let of_sidecars = plan.sidecars.iter().map(|sidecar| &sidecar.account);
    let of_before = plan.before.iter().map(|before| &before.account);
    [&plan.account].into_iter().chain(of_sidecars).chain(of_before).flatten().collect()
}

/// The directory for temporary files, if all of these users may use it.
///
/// # Errors
/// When it is relative, and the working directory is gone.
fn parent(accounts: &[&Account]) -> io::Result<PathBuf> {
    // Each process has a working directory of its own.
    let own = std::path::absolute(env::temp_dir())?;
    let reach = accounts.iter().all(|account| may_write(account, &own) && own.ancestors().all(is_open));
    Ok(if reach { own } else { "/tmp".into() })
}

/// Whether everybody can go through a directory.
fn is_open(directory: &Path) -> bool {
    fs::metadata(directory).is_ok_and(|found| found.mode() & 0o001 != 0)
}

fn make_directory(path: &Path, account: Option<&Account>) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o755).create(path)?;
    // memgate's umask may take more away.
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    give(path, account)
}

fn give(path: &Path, account: Option<&Account>) -> io::Result<()> {
    account.map_or(Ok(()), |account| lchown(path, Some(account.uid), Some(account.gid)))
}

/// Removes the directory and all that is in it. It follows no link.
fn remove(path: &Path) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.exists() => return Ok(()),
            // A process that is being killed may still have written something.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use memgate_evidence::plan::{CommandLoad, CommandResults, ResultsFormat};

    use super::*;

    fn plan() -> Plan {
        let sidecar = Sidecar {
            name: "redis".to_owned(),
            words: vec!["redis-server".to_owned(), "$MEMGATE_TMP/redis/a".to_owned()],
            env: [("A".to_owned(), "$MEMGATE_TMP/b:$MEMGATE_SERVICE".to_owned())].into(),
            directory: None,
            account: None,
            ready: Ready { by: ReadyBy::Unix("$MEMGATE_TMP/redis/s".to_owned()), timeout_ms: 1 },
            memory_max: None,
            stop_timeout_ms: 1,
        };
        let before = Before {
            words: ["$MEMGATE_SERVICE", "$MEMGATE", "$MEMGATE_SERVICE_URL $MEMGATE_TMPDIR $MEMGATE_TMP-$MEMGATE_TMP"]
                .map(str::to_owned)
                .to_vec(),
            env: BTreeMap::new(),
            directory: None,
            account: None,
            timeout_ms: 1,
        };
        let args = vec!["-redis=$MEMGATE_TMP/redis/s".to_owned()];
        Plan { sidecars: vec![sidecar], before: vec![before], args, account: None, ..memgate_testing::plan() }
    }

    #[test]
    fn the_directory_is_there_for_one_run() {
        let scratch = Scratch::make(&plan()).unwrap();
        let path = scratch.path.clone();
        assert!(is_memgates(&path) && scratch.of("redis").is_dir());
        assert!(is_named_in(&plan()) && !is_named_in(&memgate_testing::plan()));
        fs::write(scratch.of("redis").join("file"), "x").unwrap();
        assert_eq!(scratch.remove(), None);
        assert!(!path.exists());
        let dropped = Scratch::make(&plan()).unwrap().path.clone();
        assert!(!dropped.exists());
    }

    #[test]
    fn the_directory_and_the_executable_have_names_in_the_plan() {
        let scratch = Scratch::make(&plan()).unwrap();
        let (at, named) = (scratch.path.display().to_string(), scratch.named_in(&plan()));
        assert_eq!(named.args, [format!("-redis={at}/redis/s")]);
        assert_eq!(named.sidecars[0].words[1], format!("{at}/redis/a"));
        assert_eq!(named.sidecars[0].env["A"], format!("{at}/b:/srv/s"));
        assert_eq!(named.sidecars[0].ready.by, ReadyBy::Unix(format!("{at}/redis/s")));
        let others = format!("$MEMGATE_SERVICE_URL $MEMGATE_TMPDIR {at}-{at}");
        assert_eq!(named.before[0].words, ["/srv/s", "$MEMGATE", &others]);
        for env in [&named.env, &named.sidecars[0].env, &named.before[0].env] {
            assert_eq!((env["MEMGATE_TMP"].as_str(), env["MEMGATE_SERVICE"].as_str()), (at.as_str(), "/srv/s"));
        }
    }

    #[test]
    fn the_load_finds_what_is_in_the_directory() {
        let mut plan = plan();
        let Load::Http(load) = &mut plan.load else { panic!("{plan:?}") };
        load.transport.unix = Some("$MEMGATE_TMP/app.sock".to_owned());
        let results = CommandResults { format: ResultsFormat::K6, file: "$MEMGATE_TMP/r.json".into() };
        let command = CommandLoad { results: Some(results), ..CommandLoad::default() };
        let scratch = Scratch::make(&plan).unwrap();
        let Load::Http(load) = scratch.named_in(&plan).load else { panic!("{plan:?}") };
        assert_eq!(load.transport.unix, Some(scratch.path.join("app.sock").display().to_string()));
        plan.load = Load::Command(command);
        let Load::Command(command) = scratch.named_in(&plan).load else { panic!("{plan:?}") };
        assert_eq!(command.results.unwrap().file, scratch.path.join("r.json"));
    }

    #[test]
    fn what_has_an_owner_is_no_leftover_and_what_has_none_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let [owned, left, other] = ["0000000000000001", "0000000000000002", "x"]
            .map(|random| parent.path().join(format!("memgate-1-{random}")));
        for directory in [&owned, &left, &other] {
            fs::create_dir_all(directory.join("redis/data")).unwrap();
        }
        let link = parent.path().join("memgate-1-0000000000000003");
        std::os::unix::fs::symlink(&other, &link).unwrap();
        let _lock = try_lock(&owned).unwrap().unwrap();
        assert_eq!(leftovers_in(parent.path()), Vec::<String>::new());
        assert_eq!([&owned, &left, &other, &link].map(|path| path.exists()), [true, false, true, true]);
    }

    #[test]
    fn another_variable_that_begins_in_the_same_way_makes_no_directory() {
        let named = |text: &str| is_named_in(&Plan { args: vec![text.to_owned()], ..memgate_testing::plan() });
        let texts = ["$MEMGATE_TMPDIR", "$MEMGATE_SERVICE_URL", "$MEMGATE_TMP/a", "x$MEMGATE_SERVICE", "$MEMGATE_TMP"];
        assert_eq!(texts.map(named), [false, false, true, true, true]);
    }

    #[test]
    fn the_users_of_all_processes_count() {
        let account = |uid| Some(Account { name: String::new(), uid, gid: uid, groups: vec![], home: "/".into() });
        let mut plan = plan();
        plan.before[0].account = account(60003);
        plan.sidecars[0].account = account(60002);
        assert_eq!(accounts(&plan).iter().map(|account| account.uid).collect::<Vec<_>>(), [60002, 60003]);
        assert!(parent(&[]).unwrap().is_absolute());
    }

    #[test]
    fn each_user_has_its_own_directory() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: only root can give a directory away");
            return;
        }
        let account = |uid| Account { name: String::new(), uid, gid: uid, groups: vec![], home: "/".into() };
        let mut plan = Plan { account: Some(account(60001)), ..plan() };
        plan.sidecars[0].account = Some(account(60002));
        let scratch = Scratch::make(&plan).unwrap();
        let owner = |path: &Path| fs::metadata(path).unwrap().uid();
        assert_eq!([owner(&scratch.path), owner(&scratch.of("redis"))], [60001, 60002]);
    }
}
