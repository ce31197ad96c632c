//! What a running service answers: which path says that it is ready, and which requests can be its load.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use memgate_agent::{
    load::RequestFailure,
    trial::{self, Answer},
};
use memgate_evidence::error::Result;
use tokio::time::Instant;

use super::{
    hints::{Hints, Route},
    render::Aside,
};

/// The most time for one answer.
const ANSWER: Duration = Duration::from_secs(2);

/// The most time for all questions about routes. What is left then is not asked.
const ALL_ANSWERS: Duration = Duration::from_secs(30);

/// How long the pace of one connection is measured.
const PACE: Duration = Duration::from_millis(500);

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
    /// The URL that says that it is ready, and its status.
    pub(super) ready: Option<(String, u16)>,
    /// URLs that answered a GET with 2xx.
    pub(super) requests: Vec<String>,
    pub(super) aside: Vec<Aside>,
    /// How long a request of the load takes on one connection.
    pub(super) pace: Option<Duration>,
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

/// Asks the service at these addresses. `alive` tells whether it still runs.
///
/// # Errors
/// When a URL cannot be requested.
pub(super) async fn ask(
    addresses: &BTreeSet<SocketAddr>,
    hints: &Hints,
    mut alive: impl FnMut() -> bool,
) -> Result<Answers> {
    let mut answers = Answers::default();
    let mut servers = Vec::new();
    for address in addresses.iter().take(MOST_ADDRESSES) {
        servers.extend(server(*address, &mut answers.notes).await?);
    }
    let is_in_sources = |path: &str| hints.routes.iter().any(|route| route.path == path);
    answers.ready = ready(&servers, is_in_sources).await?;
    let mut questions = Questions { servers: &servers, until: Instant::now() + ALL_ANSWERS, has_ended: None };
    answers.has_unlisted = has_unlisted(hints);
    for route in routes(hints).filter(|route| !is_unlisted(route)) {
        match questions.ask(&route, hints, &mut alive).await? {
            Reply::Load(url) if answers.requests.contains(&url) => {}
            Reply::Load(url) if answers.requests.len() < MOST_REQUESTS => answers.requests.push(url),
            Reply::Load(url) => answers.put_aside(Aside { method: "get", url, why: "enough others answer".to_owned() }),
            Reply::Aside(aside) => answers.put_aside(aside),
            Reply::Nothing => {}
        }
    }
    if let Some(path) = questions.has_ended {
        answers.notes.push(format!("It ended after GET {path}."));
        answers.requests.clear();
        return Ok(answers);
    }
    answers.keep_steady_ones().await?;
    if answers.ready.is_none() {
        answers.ready = answers.requests.first().map(|url| (url.clone(), 200));
    }
    let urls = match (&answers.ready, answers.requests.is_empty()) {
        (Some((url, 200..300)), true) => vec![url.clone()],
        _ => answers.requests.clone(),
    };
    answers.pace = trial::pace(&urls, PACE).await?;
    Ok(answers)
}

impl Answers {
    /// Asks for each request of the load again, and puts those aside that are not answered with 2xx each time.
    async fn keep_steady_ones(&mut self) -> Result<()> {
        for url in std::mem::take(&mut self.requests) {
            let mut other = None;
            for _ in 0..AGAIN {
                let answer = trial::get(&url, ANSWER).await?;
                other = other.or((!matches!(answer, Ok(200..300))).then_some(answer));
            }
            match other {
                None => self.requests.push(url),
                Some(answer) => {
                    let what = answer.map_or_else(|failure| failure.to_string(), |status| format!("answered {status}"));
                    self.put_aside(Aside {
                        method: "get",
                        url,
                        why: format!("answered 2xx, and at another time: {what}"),
                    });
                }
            }
        }
        Ok(())
    }

    fn put_aside(&mut self, aside: Aside) {
        if self.aside.len() < MOST_REQUESTS {
            self.aside.push(aside);
        }
    }
}

/// The routes of the sources, with `/`.
fn routes(hints: &Hints) -> impl Iterator<Item = Route> {
    let has_root = hints.routes.iter().any(|route| route.path == "/");
    let root = (!has_root).then(|| Route { method: None, path: "/".to_owned(), place: String::new() });
    hints.routes.iter().cloned().chain(root)
}

/// Whether users do not ask for a route: it says how the service is, or is for debugging.
fn is_unlisted(route: &Route) -> bool {
    HEALTH.contains(&route.path.as_str()) || route.path.starts_with("/debug/")
}

/// Whether there is such a route.
pub(super) fn has_unlisted(hints: &Hints) -> bool {
    hints.routes.iter().any(is_unlisted)
}

/// The server at an address, if it speaks HTTP there.
async fn server(address: SocketAddr, notes: &mut Vec<String>) -> Result<Option<Server>> {
    let base = format!("http://{address}");
    let root = trial::get(&format!("{base}/"), ANSWER).await?;
    let absent = trial::get(&format!("{base}{ABSENT}"), ANSWER).await?;
    let speaks = |answer: &Answer| matches!(answer, Ok(_) | Err(RequestFailure::Timeout));
    if !speaks(&root) && !speaks(&absent) {
        let why = root.err().map(|failure| failure.to_string()).unwrap_or_default();
        notes.push(format!("At {address} it speaks no HTTP/1.1 without TLS ({why})."));
        return Ok(None);
    }
    if root == Ok(400) && absent == Ok(400) {
        notes.push(format!("At {address} it answers 400 to everything, as a server for HTTPS does."));
        return Ok(None);
    }
    Ok(Some(Server { base, answers_all: matches!(absent, Ok(200..300)) }))
}

/// The URL that says best that the service is ready, with its status below 400.
async fn ready(servers: &[Server], is_in_sources: impl Fn(&str) -> bool) -> Result<Option<(String, u16)>> {
    let mut second = None;
    for path in HEALTH {
        for server in servers.iter().filter(|server| !server.answers_all || is_in_sources(path)) {
            let url = format!("{}{path}", server.base);
            match trial::get(&url, ANSWER).await? {
                Ok(status @ 200..300) => return Ok(Some((url, status))),
                Ok(status) if status < 400 => second = second.or(Some((url, status))),
                Ok(_) | Err(_) => {}
            }
        }
    }
    for server in servers.iter().filter(|_| second.is_none()) {
        let url = format!("{}/", server.base);
        if let Ok(status) = trial::get(&url, ANSWER).await?
            && status < 400
        {
            return Ok(Some((url, status)));
        }
    }
    Ok(second)
}

/// What becomes of a route.
#[derive(Debug, PartialEq, Eq)]
enum Reply {
    Load(String),
    Aside(Aside),
    Nothing,
}

struct Questions<'a> {
    servers: &'a [Server],
    until: Instant,
    /// The path after which the service ended.
    has_ended: Option<String>,
}

impl Questions<'_> {
    async fn ask(&mut self, route: &Route, hints: &Hints, alive: &mut impl FnMut() -> bool) -> Result<Reply> {
        let Some(first) = self.servers.first() else { return Ok(Reply::Nothing) };
        if let Some(aside) = unasked(route, &first.base) {
            return Ok(Reply::Aside(aside));
        }
        let refusal = match (&self.has_ended, Instant::now() < self.until) {
            (Some(path), _) => Some(format!("not asked: the service ended after GET {path}")),
            (None, false) => Some("not asked: the answers before took too long".to_owned()),
            (None, true) => None,
        };
        if let Some(why) = refusal {
            return Ok(Reply::Aside(aside(route, &first.base, &why)));
        }
        let prefixes = hints.prefixes.iter().filter(|prefix| !route.path.starts_with(prefix.as_str()));
        let paths = [route.path.clone()].into_iter().chain(prefixes.map(|prefix| format!("{prefix}{}", route.path)));
        let mut best: Option<Answer> = None;
        for path in paths {
            for server in self.servers {
                let url = format!("{}{path}", server.base);
                let answer = trial::get(&url, ANSWER).await?;
                if !alive() {
                    self.has_ended = Some(path);
                    return Ok(Reply::Aside(aside(route, &server.base, "the service ended after this request")));
                }
                let counts = !server.answers_all || (path == route.path && !route.place.is_empty());
                match answer {
                    Ok(200..300) if counts => return Ok(Reply::Load(url)),
                    Ok(404) => {}
                    answer => best = best.or(Some(answer)),
                }
            }
            // Only a path that is not there may lie under a prefix.
            if best.is_some() {
                break;
            }
        }
        if route.place.is_empty() {
            return Ok(Reply::Nothing);
        }
        let why = match best {
            None => "answered 404".to_owned(),
            Some(Ok(405)) => "answered 405: it is for another method".to_owned(),
            Some(Ok(status)) => format!("answered {status}"),
            Some(Err(RequestFailure::Timeout)) => format!("no answer within {} s", ANSWER.as_secs()),
            Some(Err(failure)) => failure.to_string(),
        };
        Ok(Reply::Aside(aside(route, &first.base, &why)))
    }
}

/// Why a route is not asked, if it is not.
fn unasked(route: &Route, base: &str) -> Option<Aside> {
    let is_word = |word: &str| RISKY.contains(&word);
    let mut words = route.path.split(|character: char| !character.is_alphanumeric());
    let why = match route.method {
        Some("HEAD") => "not asked: it is for HEAD, which memgate's load does not send",
        Some(method) if method != "GET" => "not asked: memgate init sends nothing but GET",
        _ if route.has_parameter() => "not asked: give the parameter a value",
        _ if words.any(|word| is_word(&word.to_ascii_lowercase())) => "not asked: by its name it may change something",
        _ => return None,
    };
    Some(aside(route, base, why))
}

fn aside(route: &Route, base: &str, why: &str) -> Aside {
    let method = match route.method {
        Some("POST") => "post",
        Some("PUT") => "put",
        Some("PATCH") => "patch",
        Some("DELETE") => "delete",
        _ => "get",
    };
    let place = if route.place.is_empty() { String::new() } else { format!("{}: ", route.place) };
    Aside { method, url: format!("{base}{}", route.path), why: format!("{place}{why}") }
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
    for route in hints.routes.iter().filter(|route| !is_unlisted(route)) {
        match unasked(route, base) {
            Some(aside) => left.push(aside),
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
        sync::atomic::{AtomicU32, Ordering},
    };

    use super::*;

    fn route(method: Option<&'static str>, path: &str) -> Route {
        Route { method, path: path.to_owned(), place: "main.go:1".to_owned() }
    }

    #[test]
    fn what_may_change_something_is_not_asked() {
        let why = |method, path: &str| unasked(&route(method, path), "http://a").map(|aside| aside.why);
        assert_eq!(why(Some("GET"), "/items"), None);
        assert_eq!(why(None, "/stopwatch"), None, "a part of a word is none");
        for (method, path, reason) in [
            (Some("POST"), "/items", "nothing but GET"),
            (Some("HEAD"), "/items", "does not send"),
            (None, "/admin/shutdown", "by its name"),
            (None, "/Log-Out/quit", "by its name"),
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
        let addresses = serve(status);
        let prefixes = BTreeSet::from(["/api".to_owned()]);
        let hints = Hints { routes, prefixes, ..Hints::default() };
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
    }

    #[tokio::test]
    async fn a_service_that_ends_is_asked_no_more() {
        let addresses = serve(|_| 200);
        let routes = vec![route(None, "/a"), route(None, "/b")];
        let answers = ask(&addresses, &Hints { routes, ..Hints::default() }, || false).await.unwrap();
        assert_eq!(answers.notes, ["It ended after GET /a."]);
        let why: Vec<_> = answers.aside.iter().map(|aside| aside.why.as_str()).collect();
        assert_eq!(
            why[..2],
            ["main.go:1: the service ended after this request", "main.go:1: not asked: the service ended after GET /a"]
        );
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
