//! What a running service answers: which path says that it is ready, and which requests can be its load.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use memgate_agent::{
    load::RequestFailure,
    trial::{self, Answer},
};
use memgate_evidence::error::Result;

use super::{
    asker::{ANSWER, Asker, Unasked},
    hints::{Hints, Route, has_parameter},
    render::Aside,
};

/// The most time for all questions. What is left then is not asked.
const QUESTIONS: Duration = Duration::from_secs(25);

/// The least time for which the pace of one connection is measured, and the most.
const PACE: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(5)];

/// How often a request of the load is asked for again, to see whether it is always answered.
const AGAIN: u32 = 4;

/// The most addresses of a service that are asked.
const MOST_ADDRESSES: usize = 6;

/// The most requests of a load, and the most that are listed beside it.
const MOST_REQUESTS: usize = 30;

/// Paths that often say whether a service is ready, the best first.
const HEALTH: [&str; 15] = [
    "/readyz",
    "/healthz",
    "/health",
    "/ready",
    "/livez",
    "/live",
    "/-/ready",
    "/-/healthy",
    "/health/ready",
    "/api/health",
    "/api/healthz",
    "/ping",
    "/status",
    "/version",
    "/metrics",
];

/// A path that no service has.
const ABSENT: &str = "/memgate-init-asks-for-a-path-that-is-not-there";

/// Rates of a load, the highest first, requests/s.
const RATES: [u32; 9] = [500, 200, 100, 50, 20, 10, 5, 2, 1];

/// The share of what one connection alone gets that the proposed rate takes.
const SHARE: f64 = 0.3;

/// Words in the path of a request that changes or ends something.
const RISKY: [&str; 25] = [
    "quit",
    "exit",
    "shutdown",
    "stop",
    "kill",
    "restart",
    "reload",
    "delete",
    "remove",
    "reset",
    "drop",
    "purge",
    "flush",
    "logout",
    "signout",
    "panic",
    "crash",
    "abort",
    "terminate",
    "destroy",
    "unsubscribe",
    "drain",
    "rotate",
    "wipe",
    "clear",
];

/// What a service answers.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Whether it speaks HTTP somewhere, so that it was asked.
    pub(super) is_asked: bool,
    /// The URL that says that it is ready, and its status.
    pub(super) ready: Option<(String, u16)>,
    /// URLs that answered a GET with 2xx.
    pub(super) requests: Vec<String>,
    pub(super) aside: Vec<Aside>,
    /// How long a request of the load takes on one connection.
    pub(super) pace: Option<Duration>,
    /// The path after which the service ended, if it did.
    pub(super) ended: Option<String>,
    /// Whether there are paths for health or debugging, which stand nowhere.
    pub(super) has_unlisted: bool,
    /// What a reader should know.
    pub(super) notes: Vec<String>,
}

/// An address that speaks HTTP.
struct Server {
    base: String,
    /// Whether it answers any path with success, so that an answer does not say that there is such a path.
    answers_all: bool,
}

/// Asks the service at these addresses, for at most 30 s. `alive` tells whether it still runs.
///
/// # Errors
/// When a URL that has answered cannot be requested again.
pub(super) async fn ask(
    addresses: &BTreeSet<SocketAddr>,
    hints: &Hints,
    alive: impl FnMut() -> bool,
) -> Result<Answers> {
    ask_for(addresses, hints, Asker::new(alive, QUESTIONS)).await
}

async fn ask_for<A: FnMut() -> bool>(
    addresses: &BTreeSet<SocketAddr>,
    hints: &Hints,
    mut asker: Asker<A>,
) -> Result<Answers> {
    let mut answers = Answers { has_unlisted: has_unlisted(hints), ..Answers::default() };
    let mut servers = Vec::new();
    for address in addresses.iter().take(MOST_ADDRESSES) {
        servers.extend(server(*address, &mut asker, &mut answers.notes).await);
    }
    answers.is_asked = !servers.is_empty();
    let is_in_sources = |path: &str| hints.routes.iter().any(|route| route.path == path);
    answers.ready = ready(&servers, &mut asker, is_in_sources).await;
    let first = answers.ask_for_routes(&servers, hints, &mut asker).await;
    match asker.over() {
        Some(Unasked::Ended(path)) => {
            answers.notes.push(format!("It ended after GET {path}."));
            answers.ended = Some(path.clone());
            answers.put_requests_aside("answered 2xx, before the service ended");
            return Ok(answers);
        }
        Some(Unasked::Time) => {
            answers.notes.push("Its answers took so long that memgate init did not ask for everything.".to_owned());
        }
        Some(Unasked::Unfit) | None => {}
    }
    answers.ready = answers.ready.or(first);
    let urls = match (&answers.ready, answers.requests.is_empty()) {
        (Some((url, 200..300)), true) => vec![url.clone()],
        _ => answers.requests.clone(),
    };
    let [least, most] = PACE;
    answers.pace = tokio::time::timeout(most, trial::pace(&urls, least)).await.unwrap_or(Ok(None))?;
    if !asker.is_alive() {
        answers.notes.push("It ended while memgate init measured how fast it answers.".to_owned());
        answers.pace = None;
        answers.ready = answers.ready.filter(|(url, _)| !urls.contains(url));
        answers.put_requests_aside("answered 2xx, and the service ended while it was asked for many times");
    }
    Ok(answers)
}

impl Answers {
    /// Asks for the routes of the sources. Returns the first that can be a request of the load, and its status.
    async fn ask_for_routes<A: FnMut() -> bool>(
        &mut self,
        servers: &[Server],
        hints: &Hints,
        asker: &mut Asker<A>,
    ) -> Option<(String, u16)> {
        let mut first = None;
        for route in routes(hints).filter(|route| !is_unlisted(&route.path)) {
            let is_full = self.requests.len() >= MOST_REQUESTS;
            match question(&route, servers, hints, is_full, asker).await {
                Reply::Load(url, _) if self.requests.contains(&url) => {}
                Reply::Load(url, status) => {
                    first.get_or_insert_with(|| (url.clone(), status));
                    self.requests.push(url);
                }
                Reply::Aside(aside) if self.aside.len() < MOST_REQUESTS => self.aside.push(aside),
                Reply::Aside(_) | Reply::Nothing => {}
            }
        }
        first
    }

    /// Has no load after all, for this reason.
    fn put_requests_aside(&mut self, why: &str) {
        let asides = self.requests.drain(..).map(|url| Aside { method: "get", url, why: why.to_owned() });
        self.aside.extend(asides);
        self.aside.truncate(2 * MOST_REQUESTS);
    }
}

/// The routes of the sources, with `/`.
fn routes(hints: &Hints) -> impl Iterator<Item = Route> {
    let has_root = hints.routes.iter().any(|route| route.path == "/");
    let root = (!has_root).then(|| Route { method: None, path: "/".to_owned(), place: String::new() });
    hints.routes.iter().cloned().chain(root)
}

/// Whether users do not ask for a path: it says how the service is, or is for debugging.
fn is_unlisted(path: &str) -> bool {
    HEALTH.contains(&path) || path.starts_with("/debug/")
}

/// Whether the sources have such a path.
pub(super) fn has_unlisted(hints: &Hints) -> bool {
    hints.routes.iter().any(|route| is_unlisted(&route.path))
}

/// The server at an address, if it speaks HTTP there.
async fn server<A: FnMut() -> bool>(
    address: SocketAddr,
    asker: &mut Asker<A>,
    notes: &mut Vec<String>,
) -> Option<Server> {
    let base = format!("http://{address}");
    let root = asker.get(&base, "/").await;
    let absent = asker.get(&base, ABSENT).await;
    let (root, absent) = match (root, absent) {
        (Ok(root), Ok(absent)) => (root, absent),
        // Its end gets a note of its own.
        (Err(Unasked::Ended(_)), _) | (_, Err(Unasked::Ended(_))) => return None,
        (Err(why), _) | (_, Err(why)) => {
            notes.push(format!("At {address}: {why}."));
            return None;
        }
    };
    let why = match (root, absent) {
        (Ok(400), Ok(400)) => "it answers 400 to everything, as a server for HTTPS does".to_owned(),
        (Ok(_), _) | (_, Ok(_)) => return Some(Server { base, answers_all: matches!(absent, Ok(200..300)) }),
        (Err(RequestFailure::Timeout), _) | (_, Err(RequestFailure::Timeout)) => {
            format!("it gave no answer within {} s", ANSWER.as_secs())
        }
        (Err(failure), Err(_)) => format!("it speaks no HTTP/1.1 without TLS ({failure})"),
    };
    notes.push(format!("At {address} {why}."));
    None
}

/// The URL that says best that the service is ready, with its status below 400.
async fn ready<A: FnMut() -> bool>(
    servers: &[Server],
    asker: &mut Asker<A>,
    is_in_sources: impl Fn(&str) -> bool,
) -> Option<(String, u16)> {
    let mut second = None;
    for path in HEALTH {
        for server in servers.iter().filter(|server| !server.answers_all || is_in_sources(path)) {
            match asker.get(&server.base, path).await {
                Ok(Ok(status @ 200..300)) => return Some((format!("{}{path}", server.base), status)),
                Ok(Ok(status)) if status < 400 => {
                    second = second.or_else(|| Some((format!("{}{path}", server.base), status)));
                }
                Ok(_) | Err(_) => {}
            }
        }
    }
    for server in servers.iter().filter(|_| second.is_none()) {
        if let Ok(Ok(status)) = asker.get(&server.base, "/").await
            && status < 400
        {
            return Some((format!("{}/", server.base), status));
        }
    }
    second
}

/// What becomes of a route.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    /// A URL for the load, which answered with this status of 2xx.
    Load(String, u16),
    Aside(Aside),
    Nothing,
}

/// Asks for a route, and under the prefixes too if it is not there.
async fn question<A: FnMut() -> bool>(
    route: &Route,
    servers: &[Server],
    hints: &Hints,
    is_full: bool,
    asker: &mut Asker<A>,
) -> Reply {
    let Some(first) = servers.first() else { return Reply::Nothing };
    let put_aside = |base: &str, path: &str, why: &str| match route.place.is_empty() {
        true => Reply::Nothing,
        false => Reply::Aside(aside(route, base, path, why)),
    };
    let not_asked = why_unasked(route.method, &route.path).or(is_full.then_some("not asked: enough others answer"));
    if let Some(why) = not_asked {
        return put_aside(&first.base, &route.path, why);
    }
    let mut best: Option<Answer> = None;
    let mut is_absent = false;
    for path in paths(route, hints) {
        for server in servers {
            let answer = match asker.get(&server.base, &path).await {
                Ok(answer) => answer,
                Err(Unasked::Ended(ended)) if ended == path => {
                    return put_aside(&server.base, &path, "the service ended after this request");
                }
                // It is known that it is not at its own path.
                Err(Unasked::Time | Unasked::Unfit) if is_absent => continue,
                Err(why) => return put_aside(&server.base, &path, &why.to_string()),
            };
            let counts = !server.answers_all || (path == route.path && !route.place.is_empty());
            match answer {
                Ok(status @ 200..300) if counts => {
                    return match unsteady(&server.base, &path, asker).await {
                        None => Reply::Load(format!("{}{path}", server.base), status),
                        Some(why) => put_aside(&server.base, &path, &why),
                    };
                }
                Ok(404) => is_absent = true,
                answer => best = best.or(Some(answer)),
            }
        }
        // Only a path that is not there may lie under a prefix.
        if best.is_some() {
            break;
        }
    }
    let why = match best {
        None => "answered 404".to_owned(),
        Some(Ok(405)) => "answered 405: it is for another method".to_owned(),
        Some(answer) => shown(answer),
    };
    put_aside(&first.base, &route.path, &why)
}

/// The paths at which a route may be: its own, and those under the prefixes of the sources that may be asked.
fn paths(route: &Route, hints: &Hints) -> impl Iterator<Item = String> {
    let prefixes = hints.prefixes.iter().filter(move |prefix| !route.path.starts_with(prefix.as_str()));
    let joined = prefixes.map(move |prefix| format!("{prefix}{}", route.path));
    let joined = joined.filter(move |path| why_unasked(route.method, path).is_none() && !is_unlisted(path));
    [route.path.clone()].into_iter().chain(joined)
}

/// Asks again for what has answered 2xx. Why it is no request of a load, if it is not answered so each time.
async fn unsteady<A: FnMut() -> bool>(base: &str, path: &str, asker: &mut Asker<A>) -> Option<String> {
    for _ in 0..AGAIN {
        match asker.get(base, path).await {
            Ok(Ok(200..300)) => {}
            Ok(answer) => return Some(format!("answered 2xx, and at another time: {}", shown(answer))),
            Err(Unasked::Ended(_)) => {
                return Some("answered 2xx, and the service ended when it was asked again".to_owned());
            }
            Err(Unasked::Time | Unasked::Unfit) => {
                return Some("answered 2xx, and there was no time to ask again".to_owned());
            }
        }
    }
    None
}

/// An answer for people.
fn shown(answer: Answer) -> String {
    match answer {
        Ok(status) => format!("answered {status}"),
        Err(RequestFailure::Timeout) => format!("no answer within {} s", ANSWER.as_secs()),
        Err(failure) => failure.to_string(),
    }
}

/// Why a path is not asked, if it is not. The sources name it for this method.
fn why_unasked(method: Option<&str>, path: &str) -> Option<&'static str> {
    match method {
        Some("HEAD") => Some("not asked: it is for HEAD, which memgate's load does not send"),
        Some(method) if method != "GET" => Some("not asked: memgate init sends nothing but GET"),
        _ if has_parameter(path) => Some("not asked: give the parameter a value"),
        _ if is_risky(path) => Some("not asked: by its name it may change something"),
        _ => None,
    }
}

/// Whether one of the words of a path, or two of them in a row as in `/log-out`, say that it changes something.
fn is_risky(path: &str) -> bool {
    let words = words(path);
    let is_risky = |word: &str| RISKY.contains(&word);
    words.iter().any(|word| is_risky(word)) || words.windows(2).any(|pair| is_risky(&pair.concat()))
}

/// The words of a path in small letters: `delete`, `user` and `now` of `/deleteUser/now`.
fn words(path: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_small = false;
    for character in path.chars() {
        let begins = !character.is_alphanumeric() || (was_small && character.is_uppercase());
        was_small = character.is_lowercase();
        if begins {
            words.push(String::new());
        }
        if let Some(word) = words.last_mut().filter(|_| character.is_alphanumeric()) {
            word.extend(character.to_lowercase());
        }
    }
    words
}

fn aside(route: &Route, base: &str, path: &str, why: &str) -> Aside {
    let method = match route.method {
        Some("POST") => "post",
        Some("PUT") => "put",
        Some("PATCH") => "patch",
        Some("DELETE") => "delete",
        _ => "get",
    };
    let place = if route.place.is_empty() { String::new() } else { format!("{}: ", route.place) };
    Aside { method, url: format!("{base}{path}"), why: format!("{place}{why}") }
}

/// A rate of which the service has to answer a small share of what it can, requests/s; and what one connection alone
/// gets.
pub(super) fn rate(pace: Duration) -> (u32, f64) {
    let alone = 1.0 / pace.as_secs_f64().max(1e-6);
    let fits = |rate: &u32| f64::from(*rate) <= SHARE * alone;
    (RATES.into_iter().find(fits).unwrap_or(1), alone)
}

/// Of the routes of the sources, those for a GET that need nothing filled in, and the others with the reason. Nobody has
/// asked the service.
pub(super) fn unasked_routes(hints: &Hints, base: &str) -> (Vec<String>, Vec<Aside>) {
    let mut requests = Vec::new();
    let mut left = Vec::new();
    for route in hints.routes.iter().filter(|route| !is_unlisted(&route.path)) {
        match why_unasked(route.method, &route.path) {
            Some(why) => left.push(aside(route, base, &route.path, why)),
            None => requests.push(format!("{base}{}", route.path)),
        }
    }
    requests.truncate(MOST_REQUESTS);
    left.truncate(MOST_REQUESTS);
    (requests, left)
}

/// The path of the sources that says best that the service is ready.
pub(super) fn health_in(hints: &Hints) -> Option<&'static str> {
    HEALTH.into_iter().find(|path| hints.routes.iter().any(|route| route.path == *path))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        net::TcpListener,
        sync::{
            Arc, Mutex,
            atomic::{AtomicU32, Ordering},
        },
    };

    use super::*;

    fn route(method: Option<&'static str>, path: &str) -> Route {
        Route { method, path: path.to_owned(), place: "main.go:1".to_owned() }
    }

    #[test]
    fn what_may_change_something_is_not_asked() {
        let why = why_unasked;
        assert_eq!(why(Some("GET"), "/items"), None);
        assert_eq!(why(None, "/stopwatch/Undelete"), None, "a part of a word is none");
        for (method, path, reason) in [
            (Some("POST"), "/items", "nothing but GET"),
            (Some("HEAD"), "/items", "does not send"),
            (None, "/admin/shutdown", "by its name"),
            (None, "/Log-Out/me", "by its name"),
            (None, "/shutDown", "by its name"),
            (None, "/api/deleteUser", "by its name"),
            (None, "/api/userDELETE", "by its name"),
            (None, "/items/{id}", "give the parameter a value"),
        ] {
            assert!(why(method, path).unwrap().contains(reason), "{path}");
        }
    }

    /// A server for tests: it answers each path with the status of this function, and closes the connection on 0.
    fn serve(status: impl Fn(&str) -> u16 + Send + Sync + 'static) -> BTreeSet<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                // A connection is for one request, and the client makes a new one.
                let mut lines = Vec::new();
                loop {
                    let mut line = String::new();
                    if stream.read_line(&mut line).unwrap_or(0) <= 2 {
                        break;
                    }
                    lines.push(line);
                }
                let path = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or("/").to_owned();
                if status(&path) > 0 {
                    let answer =
                        format!("HTTP/1.1 {} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", status(&path));
                    stream.get_mut().write_all(answer.as_bytes()).unwrap();
                }
            }
        });
        BTreeSet::from([address])
    }

    async fn asked(routes: Vec<Route>, status: impl Fn(&str) -> u16 + Send + Sync + 'static) -> (Answers, Vec<String>) {
        let prefixes = BTreeSet::from(["/api".to_owned()]);
        asked_with(Hints { routes, prefixes, ..Hints::default() }, status).await
    }

    async fn asked_with(hints: Hints, status: impl Fn(&str) -> u16 + Send + Sync + 'static) -> (Answers, Vec<String>) {
        let addresses = serve(status);
        let mut answers = ask(&addresses, &hints, || true).await.unwrap();
        let base = format!("http://{}", addresses.first().unwrap());
        for request in &mut answers.requests {
            *request = request.replace(&base, "");
        }
        let show = |aside: &Aside| format!("{} {}", aside.url.replace(&base, ""), aside.why.replace("main.go:1: ", ""));
        let aside = answers.aside.iter().map(show).collect();
        answers.ready = answers.ready.map(|(url, status)| (url.replace(&base, ""), status));
        (answers, aside)
    }

    /// What the sources of `body` say.
    fn hints(body: &str) -> Hints {
        let mut hints = Hints::default();
        hints.read("main.go", &format!("package main\nfunc main() {{\n{body}\n}}\n"));
        hints
    }

    #[tokio::test]
    async fn no_path_that_is_not_asked_is_asked_under_a_prefix() {
        let hints = hints(
            r#"http.HandleFunc("/shutdown/", stop); r.Route("/logout", f); e.Group("/admin/reset"); r.Mount("/users/<id>", h)
            mux.HandleFunc("/debug/pprof/", pprof.Index); r.Get("/hello", h); r.Mount("/api", h)"#,
        );
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let (answers, _) = asked_with(hints, move |path| {
            seen.lock().unwrap().push(path.to_owned());
            if path.starts_with("/debug/") || path == "/api/hello" { 200 } else { 404 }
        })
        .await;
        let asked = asked.lock().unwrap();
        for word in ["shutdown", "logout", "reset", "users", "debug"] {
            assert!(!asked.iter().any(|path| path.contains(word)), "{word}: {asked:?}");
        }
        assert_eq!(answers.requests, ["/api/hello"]);
    }

    #[tokio::test]
    async fn all_questions_together_have_a_limit() {
        let hints = Hints { routes: (0..20).map(|at| route(None, &format!("/{at}"))).collect(), ..Hints::default() };
        let slow = |path: &str| {
            let is_slow = path.len() < 4;
            std::thread::sleep(Duration::from_millis(if is_slow { 100 } else { 0 }));
            if is_slow { 200 } else { 404 }
        };
        let addresses = serve(slow);
        let begun = std::time::Instant::now();
        let asker = Asker::new(|| true, Duration::from_secs(3));
        let answers = ask_for(&addresses, &hints, asker).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(3 + 5 + 5), "{:?}", begun.elapsed());
        assert!(answers.notes.iter().any(|note| note.contains("did not ask for everything")), "{:?}", answers.notes);
        let last = answers.aside.last().unwrap();
        assert_eq!(last.why, "main.go:1: not asked: the answers before took too long");
        assert!(last.url.ends_with("/19"), "{}", last.url);
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_requested_is_put_aside() {
        let (answers, aside) = asked(vec![route(None, "/a>b"), route(None, "/hello")], |path| match path {
            "/hello" => 201,
            _ => 404,
        })
        .await;
        assert_eq!(aside, ["/a>b not asked: memgate cannot request this path"]);
        assert_eq!(answers.ready.unwrap(), ("/hello".to_owned(), 201), "with the status that it answered");
    }

    #[tokio::test]
    async fn what_answers_is_the_load_and_the_rest_stands_beside_it() {
        let routes = vec![
            route(None, "/hello"),
            route(None, "/items"),
            route(None, "/login"),
            route(None, "/none"),
            route(None, "/broken"),
            route(Some("POST"), "/items"),
        ];
        let (answers, aside) = asked(routes, |path| match path {
            "/healthz" | "/hello" | "/api/items" => 200,
            "/login" => 405,
            "/broken" => 500,
            "/" => 302,
            _ => 404,
        })
        .await;
        assert_eq!(answers.ready.unwrap(), ("/healthz".to_owned(), 200));
        assert_eq!(answers.requests, ["/hello", "/api/items"]);
        assert_eq!(
            aside,
            [
                "/login answered 405: it is for another method",
                "/none answered 404",
                "/broken answered 500",
                "/items not asked: memgate init sends nothing but GET"
            ]
        );
        assert!(answers.pace.is_some() && answers.notes.is_empty());
    }

    #[tokio::test]
    async fn what_is_not_always_answered_is_no_load() {
        let asked_before = AtomicU32::new(0);
        let unstable = move |path: &str| match path {
            // The server asks twice for each request: whether it answers, and with what.
            "/unstable" if asked_before.fetch_add(1, Ordering::Relaxed) >= 4 => 503,
            "/unstable" | "/steady" => 200,
            _ => 404,
        };
        let (answers, aside) = asked(vec![route(None, "/unstable"), route(None, "/steady")], unstable).await;
        assert_eq!(answers.requests, ["/steady"]);
        assert_eq!(aside, ["/unstable answered 2xx, and at another time: answered 503"]);
    }

    #[tokio::test]
    async fn a_server_that_answers_everything_says_little() {
        let (answers, _) = asked(vec![route(None, "/hello")], |_| 200).await;
        assert_eq!(answers.ready.unwrap(), ("/".to_owned(), 200), "no source names a path for health");
        assert_eq!(answers.requests, ["/hello"]);
        let (answers, _) = asked(vec![route(None, "/healthz")], |_| 200).await;
        assert_eq!(answers.ready.unwrap().0, "/healthz");
    }

    #[tokio::test]
    async fn a_server_without_http_is_no_place_for_a_load() {
        let (answers, _) = asked(vec![], |_| 0).await;
        assert!(answers.ready.is_none() && answers.requests.is_empty());
        assert!(answers.notes[0].contains("speaks no HTTP/1.1 without TLS"), "{:?}", answers.notes);
        let (answers, _) = asked(vec![], |_| 400).await;
        assert!(answers.ready.is_none() && answers.notes[0].ends_with("as a server for HTTPS does."));
        // Its connections are made by the kernel, and nobody answers there.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = BTreeSet::from([silent.local_addr().unwrap()]);
        let answers = ask(&addresses, &hints(r#"r.Get("/a", a)"#), || true).await.unwrap();
        assert!(!answers.is_asked && answers.aside.is_empty());
        assert!(answers.notes[0].ends_with("it gave no answer within 2 s."), "{:?}", answers.notes);
    }

    /// The answers of a service that ends after it has answered this many questions.
    async fn asked_until(questions: u32) -> Answers {
        let addresses = serve(|path| if path == "/a" || path == "/b" { 200 } else { 404 });
        let hints = Hints { routes: vec![route(None, "/a"), route(None, "/b")], ..Hints::default() };
        let mut left = questions;
        let alive = move || {
            left = left.saturating_sub(1);
            left > 0
        };
        ask(&addresses, &hints, alive).await.unwrap()
    }

    #[tokio::test]
    async fn a_service_that_ends_is_asked_no_more() {
        let whys = |answers: &Answers| -> Vec<_> {
            answers.aside.iter().map(|aside| aside.why.replace("main.go:1: ", "")).collect()
        };
        // Two for the server, 15 for its health, and one for `/`; then `/a`.
        let answers = asked_until(19).await;
        assert_eq!(answers.notes, ["It ended after GET /a."]);
        assert_eq!(answers.ended.as_deref(), Some("/a"));
        assert_eq!(
            whys(&answers),
            ["the service ended after this request", "not asked: the service ended after GET /a"]
        );
        // `/a` and four more, and then `/b`.
        let answers = asked_until(24).await;
        assert_eq!(answers.notes, ["It ended after GET /b."]);
        assert_eq!(whys(&answers), ["the service ended after this request", "answered 2xx, before the service ended"]);
        let answers = asked_until(3).await;
        assert_eq!(answers.notes, ["It ended after GET /readyz."], "a question about health ends it");
        assert!(answers.requests.is_empty() && answers.ready.is_none() && answers.pace.is_none());
    }

    #[test]
    fn a_rate_is_a_small_share_of_what_one_connection_gets() {
        let of = |us| rate(Duration::from_micros(us)).0;
        assert_eq!([of(100), of(600), of(1400), of(2_000_000), of(10_000_000), of(0)], [500, 500, 200, 1, 1, 500]);
    }

    #[test]
    fn sources_alone_give_a_load() {
        let hints = Hints {
            routes: vec![route(None, "/healthz"), route(Some("GET"), "/a"), route(Some("PUT"), "/b")],
            ..Hints::default()
        };
        let (requests, aside) = unasked_routes(&hints, "http://127.0.0.1:1");
        assert_eq!(requests, ["http://127.0.0.1:1/a"]);
        assert_eq!(aside.iter().map(|aside| aside.method).collect::<Vec<_>>(), ["put"]);
        assert!(has_unlisted(&hints));
        assert_eq!(health_in(&hints), Some("/healthz"));
    }
}
