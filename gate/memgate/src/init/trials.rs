//! Starts a program as `memgate check` would, and makes an entry of memgate.yaml of what it shows.

use std::{
    collections::{BTreeSet, VecDeque},
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use memgate_agent::{
    Exit,
    trial::{self, Trial},
};
use memgate_evidence::{
    error::Result,
    plan::{Account, Plan},
    platform::Platform,
};
use tokio::time::Instant;

use super::{
    answers::{self, Answers},
    help,
    hints::{Hints, port_of},
    programs::{Program, shown},
    render::{self, Entry, How},
};
use crate::{narrator::Narrator, outdir::OutDirectory};

/// The most time for a service to listen.
const LISTEN: Duration = Duration::from_secs(15);

/// How long a service that listens may take to listen at further addresses.
const SETTLE: Duration = Duration::from_millis(500);

/// The most time for a program to print its help.
const HELP: Duration = Duration::from_secs(5);

/// The time for a service to end after SIGTERM.
const STOP: Duration = Duration::from_secs(2);

/// The interval at which a service is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How much of what a program prints is read for hints, bytes.
const PRINTED: usize = 64 << 10;

/// The most ways in which a program is started.
const MOST_WAYS: usize = 4;

/// The port of a service of which none is known.
const USUAL_PORT: u16 = 8080;

/// Where trials take place.
pub(super) struct Ground<'a> {
    /// The place of memgate.yaml.
    pub(super) file: &'a Path,
    /// The directory for logs, which belongs to memgate's user.
    pub(super) out: &'a Path,
    pub(super) out_directory: &'a OutDirectory,
    /// The user that services run as; `None` for memgate's own.
    pub(super) account: Option<&'a Account>,
    pub(super) narrator: &'a Narrator,
}

/// Why a way to start a program does not do.
struct Failure {
    what: String,
    /// The last lines that it printed.
    printed: Vec<String>,
    /// The first part of what it printed.
    text: String,
}

/// The entry of a program that is not started.
pub(super) fn without_a_run(program: &Program, hints: &Hints) -> Entry {
    let about = vec![format!("{}: not started. Everything here comes from its sources.", program.title())];
    guessed(program, hints, How::default(), None, about)
}

/// An entry of what the sources say.
fn guessed(program: &Program, hints: &Hints, how: How, port: Option<u16>, about: Vec<String>) -> Entry {
    let address = hints.addresses.first().and_then(|address| port_of(address));
    let base = format!("http://127.0.0.1:{}", port.or(address).unwrap_or(USUAL_PORT));
    let (mut requests, aside) = answers::unasked_routes(hints, &base);
    let root = format!("{base}/");
    let ready = match answers::health_in(hints) {
        Some(path) => format!("{base}{path}"),
        None if requests.contains(&root) => root,
        None => requests.first().cloned().unwrap_or_else(|| format!("{base}/healthz")),
    };
    let requests_note = match requests.is_empty() {
        true => "Put here what users ask for. The sources name no GET without a parameter.",
        false => "GETs that the sources name. Nobody has asked the service for them.",
    };
    if requests.is_empty() {
        requests.push(ready.clone());
    }
    Entry {
        about,
        how,
        ready,
        ready_note: "The service is ready when this answers with a status below 400; a guess.".to_owned(),
        rate: 100,
        rate_note: "The requests that start in a second; take production's rate.".to_owned(),
        requests,
        requests_note: with_unlisted(requests_note, answers::has_unlisted(hints)),
        aside,
        variables: hints.variables.clone(),
        is_open: true,
        ..blank(program)
    }
}

fn with_unlisted(note: &str, has_unlisted: bool) -> String {
    format!("{note}{}", if has_unlisted { " Paths for health and debugging are left out." } else { "" })
}

fn blank(program: &Program) -> Entry {
    Entry {
        name: program.name.clone(),
        dir: program.module.clone(),
        package: program.package.clone(),
        build_env: program.env.clone(),
        about: Vec::new(),
        printed: Vec::new(),
        how: How::default(),
        variables: BTreeSet::new(),
        ready: String::new(),
        ready_note: String::new(),
        rate: 1,
        rate_note: String::new(),
        requests: Vec::new(),
        requests_note: String::new(),
        aside: Vec::new(),
        is_open: false,
    }
}

impl Ground<'_> {
    /// Starts the program in a few ways until it listens, and asks it. The entry says what there is to complete if it
    /// does not listen, or does not answer.
    ///
    /// # Errors
    /// When the program cannot be started, and when its output directory is replaced.
    pub(super) async fn see(&self, program: &Program, hints: &Hints, executable: &Path) -> Result<Entry> {
        let mut ways = VecDeque::from([How::default()]);
        let mut failed: Vec<(How, Failure)> = Vec::new();
        let mut port = None;
        while let Some(how) = ways.pop_front().filter(|_| failed.len() < MOST_WAYS) {
            self.narrator.say(&format!("{}: starting it{}", program.name, with(&how)));
            let failure = match self.attempt(program, hints, &how, executable).await? {
                Ok(entry) => return Ok(entry),
                Err(failure) => failure,
            };
            self.narrator.say(&format!("{}: {}", program.name, failure.what));
            if failed.is_empty() {
                let text = self.help(program, hints, executable).await?;
                port = help::listen_option(&text).and_then(|option| option.port);
                ways.extend(other_ways(&failure.text, &text, hints, program, free_port(USUAL_PORT)));
            }
            failed.push((how, failure));
        }
        Ok(unstarted(program, hints, failed, port))
    }

    /// Starts the program in this way, and asks it if it listens.
    async fn attempt(
        &self,
        program: &Program,
        hints: &Hints,
        how: &How,
        executable: &Path,
    ) -> Result<Result<Entry, Failure>> {
        let mut trial = self.start(program, hints, how, executable).await?;
        let addresses = match listening(&mut trial).await? {
            Ok(addresses) => addresses,
            Err(failure) => {
                trial.stop(STOP).await;
                return Ok(Err(failure));
            }
        };
        let text = trial.printed_first(PRINTED);
        if let Some(address) = addresses.iter().find(|address| is_by_chance(address.port(), hints, how)) {
            let what = format!("it listened at {address}, a port that may be another at each start");
            let failure = Failure { what, printed: trial.printed().lines().to_vec(), text };
            trial.stop(STOP).await;
            return Ok(Err(failure));
        }
        let seen: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
        self.narrator.say(&format!("{}: it listens at {}; asking it", program.name, seen.join(", ")));
        let found = answers::ask(&addresses, hints, || trial.ended().is_none()).await?;
        let failure = Failure { what: String::new(), printed: trial.printed().lines().to_vec(), text };
        trial.stop(STOP).await;
        Ok(Ok(entry(program, hints, how.clone(), &seen, found, failure)))
    }

    /// Starts the program as a run of memgate.yaml would.
    async fn start(&self, program: &Program, hints: &Hints, how: &How, executable: &Path) -> Result<Trial> {
        self.out_directory.is_still_there()?;
        let log = self.out.join(format!("{}.log", program.name));
        Trial::start(&self.plan(program, hints, how, executable)?, &log).await
    }

    fn plan(&self, program: &Program, hints: &Hints, how: &How, executable: &Path) -> Result<Plan> {
        let entries = [guessed(program, hints, how.clone(), None, Vec::new())];
        let config = render::read(&render::file(&entries), self.file, &entries)?;
        let plan = config.plan(&program.name, Platform::host(), 1, executable.to_owned())?;
        Ok(Plan { account: self.account.cloned(), ..plan })
    }

    /// What the program prints if it is asked for help; nothing if it starts to serve instead.
    async fn help(&self, program: &Program, hints: &Hints, executable: &Path) -> Result<String> {
        let how = How { args: vec!["-h".to_owned()], ..How::default() };
        let mut trial = self.start(program, hints, &how, executable).await?;
        let until = Instant::now() + HELP;
        while trial.ended().is_none() && Instant::now() < until {
            tokio::time::sleep(LOOK).await;
        }
        let text = if trial.ended().is_some() { trial.printed_first(PRINTED) } else { String::new() };
        trial.stop(Duration::ZERO).await;
        Ok(text)
    }
}

/// The entry of a program that listens in none of these ways.
fn unstarted(program: &Program, hints: &Hints, mut failed: Vec<(How, Failure)>, port: Option<u16>) -> Entry {
    // What a command such as `serve` lacks, says more than the help without it.
    let shown = failed.iter().position(|(how, _)| how.is_command).unwrap_or(0);
    let (how, failure) = failed.remove(shown);
    let mut about = vec![format!("{}{}: {}.", program.title(), with(&how), failure.what)];
    let others: Vec<_> = failed.iter().map(|(how, _)| with(how)).filter(|with| !with.is_empty()).collect();
    if !others.is_empty() {
        about.push(format!("It did not listen{} either.", others.join(", or")));
    }
    if !failure.printed.is_empty() {
        about.push("The last lines that it printed:".to_owned());
    }
    let how = if how.is_command { how } else { How::default() };
    Entry { printed: failure.printed, ..guessed(program, hints, how, port, about) }
}

/// ` with …`: what is special about a way to start.
fn with(how: &How) -> String {
    let variables = how.env.iter().map(|(name, value)| format!("{name}={value}"));
    let words: Vec<_> = variables.chain(how.args.iter().cloned()).collect();
    let arguments = if words.is_empty() { String::new() } else { format!(" with `{}`", words.join(" ")) };
    match how.directory.as_os_str().is_empty() {
        true => arguments,
        false => format!("{arguments} in {}", shown(&how.directory)),
    }
}

/// Waits until the service listens, and a little longer for further addresses.
async fn listening(trial: &mut Trial) -> Result<Result<BTreeSet<SocketAddr>, Failure>> {
    let until = Instant::now() + LISTEN;
    loop {
        let what = match trial.ended() {
            Some(Exit::Code(0)) if trial.printed().is_empty() => {
                "it exited with code 0 before it listened, and printed nothing; its standard input is /dev/null, which \
                 is at its end at once"
                    .to_owned()
            }
            Some(exit) => format!("{exit} before it listened"),
            None if Instant::now() >= until => format!("it listened at no TCP address within {} s", LISTEN.as_secs()),
            None if trial.addresses()?.is_empty() => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            None => {
                tokio::time::sleep(SETTLE).await;
                match trial.ended() {
                    Some(exit) => format!("{exit} soon after it listened"),
                    None => return Ok(Ok(trial.addresses()?)),
                }
            }
        };
        return Ok(Err(Failure {
            what,
            printed: trial.printed().lines().to_vec(),
            text: trial.printed_first(PRINTED),
        }));
    }
}

/// The entry of a service that listens.
fn entry(program: &Program, hints: &Hints, how: How, seen: &[String], found: Answers, failure: Failure) -> Entry {
    let mut about = vec![format!("{}: it listened at {}.", program.title(), seen.join(", "))];
    about.extend(found.notes.iter().cloned());
    let (Some((ready, status)), Some(pace)) = (found.ready.clone(), found.pace) else {
        about.push("Nothing that memgate init asked for was answered as a load needs it.".to_owned());
        if !failure.printed.is_empty() {
            about.push("The last lines that it printed:".to_owned());
        }
        let port = seen.first().and_then(|address| port_of(address));
        let guess = Entry { printed: failure.printed, ..guessed(program, hints, how, port, about) };
        // Nobody could ask a service that speaks no HTTP.
        return if found.is_asked { without_a_load(guess, found) } else { guess };
    };
    let (rate, alone) = answers::rate(pace);
    let requests_note = match found.requests.is_empty() {
        true => "Nothing else that memgate init asked for answered 2xx. Put here what users ask for.",
        false => {
            "Each of these answered a GET with 2xx. Give each the `weight` that it has among your users' requests."
        }
    };
    Entry {
        about,
        how,
        ready_note: answered(status),
        rate,
        rate_note: format!(
            "The requests that start in a second. One connection alone got {alone:.0}/s here; take production's rate."
        ),
        requests: if found.requests.is_empty() { vec![ready.clone()] } else { found.requests },
        ready,
        requests_note: with_unlisted(requests_note, found.has_unlisted),
        aside: found.aside,
        ..blank(program)
    }
}

fn answered(status: u16) -> String {
    format!("The service is ready when this answers with a status below 400. It answered {status}.")
}

/// The entry of a service that was asked and answered nothing that can be a load. `guess` is what its sources say.
fn without_a_load(guess: Entry, found: Answers) -> Entry {
    let base = guess.ready.strip_suffix(path_of(&guess.ready)).unwrap_or_default().to_owned();
    let others = ["/", "/healthz"].map(|path| format!("{base}{path}"));
    let has_ended_it = |url: &String| found.ended.as_deref() == Some(path_of(url));
    let (ready, ready_note) = match found.ready {
        Some((ready, status)) => (ready, answered(status)),
        None => {
            let guessed = [guess.ready.clone()].into_iter().chain(others).find(|url| !has_ended_it(url));
            let note = "The service is ready when this answers with a status below 400. Nothing that memgate init asked \
                        for did. Name another URL, or write `tcp: HOST:PORT` in place of `http`.";
            (guessed.unwrap_or_else(|| guess.ready.clone()), note.to_owned())
        }
    };
    let (requests, note) = match found.requests.is_empty() {
        true => {
            (vec![ready.clone()], "Nothing that memgate init asked for can be the load. Put here what users ask for.")
        }
        false => {
            (found.requests, "Each of these answered a GET with 2xx, but later one failed or took more than 0.5 s.")
        }
    };
    Entry {
        ready,
        ready_note,
        requests,
        requests_note: with_unlisted(note, found.has_unlisted),
        aside: found.aside,
        ..guess
    }
}

/// The path of a URL with a host and a path.
fn path_of(url: &str) -> &str {
    let host = url.find("://").map_or(0, |end| end + 3);
    url[host..].find('/').map_or("", |start| &url[host + start..])
}

/// Whether nobody has named this port, and the kernel gives such ones to those who name none.
fn is_by_chance(port: u16, hints: &Hints, how: &How) -> bool {
    let text = port.to_string();
    let is_named = hints.addresses.iter().any(|address| port_of(address) == Some(port))
        || how.args.iter().chain(how.env.values()).any(|word| word.ends_with(&text));
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let ends: Vec<u16> = range.split_whitespace().filter_map(|end| end.parse().ok()).collect();
    !is_named && matches!(ends[..], [first, last] if (first..=last).contains(&port))
}

/// A port at which nothing listens: this one, or one of those after it.
fn free_port(first: u16) -> u16 {
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok() && trial::is_free(*port);
    (first..first.saturating_add(100)).find(is_free).unwrap_or(first)
}

/// Other ways to start a program that printed this when it was started without arguments, by its help and its sources.
fn other_ways(printed: &str, help: &str, hints: &Hints, program: &Program, port: u16) -> Vec<How> {
    let is_taken = printed.contains("address already in use");
    let lacks_file = ["no such file or directory", "cannot find the file", "pattern matches no files"]
        .iter()
        .any(|words| printed.contains(words));
    let mut ways = Vec::new();
    if let Some(command) = help::command(help).or_else(|| help::command(printed)).filter(|_| !is_taken) {
        let why = Some(format!("Its help names the command `{command}`."));
        ways.push(How { args: vec![command.to_owned()], is_command: true, why, ..How::default() });
    }
    let places = [&program.directory, &program.module].into_iter().filter(|place| !place.as_os_str().is_empty());
    if lacks_file {
        let why = Some("Elsewhere it does not find its files.".to_owned());
        ways.extend(places.map(|place| How { directory: place.clone(), why: why.clone(), ..How::default() }));
        ways.dedup();
    }
    let reason = |what: &str| match is_taken {
        true => Some(format!("Its usual port was taken when memgate init started it. {what}")),
        false => Some(what.to_owned()),
    };
    if let Some(option) = help::listen_option(help) {
        let why = reason("Its help names this option.");
        ways.push(How { args: option.arguments(port), why, ..How::default() });
    }
    let variable = |name: &str| {
        let value = if name.ends_with("PORT") { port.to_string() } else { format!("127.0.0.1:{port}") };
        let why = reason("Its sources read this variable.");
        How { env: [(name.to_owned(), value)].into(), why, ..How::default() }
    };
    const VARIABLES: [&str; 8] =
        ["PORT", "HTTP_PORT", "SERVER_PORT", "ADDR", "LISTEN_ADDR", "HTTP_ADDR", "LISTEN", "SERVER_ADDR"];
    ways.extend(VARIABLES.into_iter().filter(|name| hints.variables.contains(*name)).take(1).map(variable));
    ways
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{
        super::{hints::Route, render::Aside},
        *,
    };

    fn program() -> Program {
        Program {
            name: "api".to_owned(),
            module: PathBuf::from("services"),
            package: "./api".to_owned(),
            directory: PathBuf::from("services/api"),
            import_path: "example.com/services/api".to_owned(),
            env: [].into(),
            sources: Vec::new(),
            is_asked: false,
        }
    }

    fn ways(printed: &str, help: &str, variables: &[&str]) -> Vec<String> {
        let variables = variables.iter().map(|name| (*name).to_owned()).collect();
        let hints = Hints { variables, ..Hints::default() };
        other_ways(printed, help, &hints, &program(), 8081).iter().map(with).collect()
    }

    #[test]
    fn a_program_is_started_as_its_help_and_its_sources_say() {
        let help = "Usage:\n  serve   Serve\n  -listen string\n    \taddress (default \":80\")\n";
        assert_eq!(ways("usage", help, &[]), [" with `serve`", " with `-listen 127.0.0.1:8081`"]);
        let taken = "listen tcp :80: bind: address already in use";
        assert_eq!(ways(taken, help, &["PORT"]), [" with `-listen 127.0.0.1:8081`", " with `PORT=8081`"]);
        assert_eq!(ways("", "", &["HTTP_ADDR", "HOME"]), [" with `HTTP_ADDR=127.0.0.1:8081`"]);
        let lacks = "open templates/index.html: no such file or directory";
        assert_eq!(ways(lacks, "", &[]), [" in services/api", " in services"]);
        assert_eq!(ways("panic", "", &[]), [""; 0]);
    }

    #[test]
    fn of_several_failures_that_of_a_command_is_shown() {
        let failure =
            |what: &str| Failure { what: what.to_owned(), printed: vec![format!("| {what}")], text: String::new() };
        let serve = How { args: vec!["serve".to_owned()], is_command: true, ..How::default() };
        let option = How { args: vec!["-port".to_owned(), "8081".to_owned()], ..How::default() };
        let failed = vec![
            (How::default(), failure("usage")),
            (serve.clone(), failure("no configuration")),
            (option.clone(), failure("usage")),
        ];
        let entry = unstarted(&program(), &Hints::default(), failed, Some(5000));
        assert_eq!(
            entry.about[..2],
            ["services/api with `serve`: no configuration.", "It did not listen with `-port 8081` either."]
        );
        assert_eq!((entry.how, entry.printed), (serve, vec!["| no configuration".to_owned()]));
        assert!(entry.ready.starts_with("http://127.0.0.1:5000/"));
        let entry = unstarted(
            &program(),
            &Hints::default(),
            vec![(How::default(), failure("no database")), (option, failure("no database"))],
            None,
        );
        assert_eq!((entry.about[0].as_str(), entry.how), ("services/api: no database.", How::default()));
    }

    #[test]
    fn a_port_that_somebody_names_is_none_of_chance() {
        let hints = Hints { addresses: vec![":40000".to_owned()], ..Hints::default() };
        let named = How { args: vec!["127.0.0.1:41000".to_owned()], ..How::default() };
        assert!(!is_by_chance(40000, &hints, &How::default()));
        assert!(!is_by_chance(41000, &hints, &named));
        assert!(!is_by_chance(80, &hints, &How::default()));
        assert!(is_by_chance(42000, &hints, &How::default()), "it is in the usual range, 32768 to 60999");
    }

    #[test]
    fn an_entry_without_a_run_is_read_by_memgate() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("services")).unwrap();
        let entries = [without_a_run(&program(), &Hints::default())];
        let file = directory.path().join("memgate.yaml");
        render::read(&render::file(&entries), &file, &entries).unwrap();
        assert_eq!(entries[0].requests, ["http://127.0.0.1:8080/healthz"]);
        let route = |path: &str| Route { method: None, path: path.to_owned(), place: "main.go:1".to_owned() };
        let with = |paths: &[&str]| {
            let routes = paths.iter().map(|path| route(path)).collect();
            without_a_run(&program(), &Hints { routes, ..Hints::default() }).ready
        };
        assert_eq!(with(&["/a", "/", "/ready"]), "http://127.0.0.1:8080/ready");
        assert_eq!(with(&["/a", "/"]), "http://127.0.0.1:8080/");
        assert_eq!(with(&["/a", "/b"]), "http://127.0.0.1:8080/a");
    }

    /// The entry of a service at port 8080 with these answers, which memgate reads.
    fn entry_of(routes: &[&str], found: Answers) -> Entry {
        let route = |path: &&str| Route { method: None, path: (*path).to_owned(), place: "main.go:1".to_owned() };
        let hints = Hints { routes: routes.iter().map(route).collect(), ..Hints::default() };
        let failure = Failure { what: String::new(), printed: vec!["| up".to_owned()], text: String::new() };
        let seen = ["127.0.0.1:8080".to_owned()];
        let entries = [entry(&program(), &hints, How::default(), &seen, found, failure)];
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("services")).unwrap();
        render::read(&render::file(&entries), &directory.path().join("memgate.yaml"), &entries).unwrap();
        let [entry] = entries;
        entry
    }

    fn aside(path: &str, why: &str) -> Aside {
        Aside { method: "get", url: format!("http://127.0.0.1:8080{path}"), why: why.to_owned() }
    }

    #[test]
    fn a_service_behind_a_login_has_no_load_that_answered_401() {
        let aside = vec![aside("/", "answered 401"), aside("/items", "answered 401")];
        let found = Answers { is_asked: true, aside: aside.clone(), ..Answers::default() };
        let entry = entry_of(&["/", "/items"], found);
        assert!(entry.is_open && entry.aside == aside);
        assert_eq!(entry.requests, ["http://127.0.0.1:8080/"], "a load needs a request");
        assert!(entry.requests_note.starts_with("Nothing that memgate init asked for can be the load."));
        assert!(entry.ready_note.contains("Nothing that memgate init asked for did."), "{}", entry.ready_note);
    }

    #[test]
    fn a_readiness_that_was_found_stays_without_a_load() {
        let ready = Some(("http://127.0.0.1:8080/".to_owned(), 302));
        let found =
            Answers { is_asked: true, ready, aside: vec![aside("/healthz", "answered 401")], ..Answers::default() };
        let entry = entry_of(&["/healthz"], found);
        assert!(entry.is_open && entry.ready_note.ends_with("It answered 302."));
        assert_eq!((entry.ready.as_str(), entry.requests), ("http://127.0.0.1:8080/", vec![entry.ready.clone()]));
    }

    #[test]
    fn what_ended_a_service_is_not_in_its_file() {
        let found = |ready: Option<&str>| Answers {
            is_asked: true,
            ready: ready.map(|url| (url.to_owned(), 200)),
            ended: Some("/healthz".to_owned()),
            notes: vec!["It ended after GET /healthz.".to_owned()],
            ..Answers::default()
        };
        let entry = entry_of(&["/healthz", "/boom"], found(None));
        assert_eq!((entry.ready.as_str(), entry.requests), ("http://127.0.0.1:8080/", vec![entry.ready.clone()]));
        assert!(entry.about.contains(&"It ended after GET /healthz.".to_owned()));
        let entry = entry_of(&["/boom"], found(Some("http://127.0.0.1:8080/readyz")));
        assert_eq!(entry.requests, ["http://127.0.0.1:8080/readyz"]);
    }

    #[test]
    fn a_service_that_could_not_be_asked_has_what_its_sources_say() {
        let entry = entry_of(&["/items"], Answers::default());
        assert_eq!(entry.requests, ["http://127.0.0.1:8080/items"]);
        assert!(entry.is_open && entry.requests_note.contains("Nobody has asked"));
    }

    #[test]
    fn a_port_that_is_taken_is_not_free() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_ne!(free_port(port), port);
    }
}
