//! What the sources of a program say about its routes, addresses and variables. These are hints: what a service really
//! answers, only its answers tell.
//!
//! Known are net/http with the patterns of Go 1.22, and the routers that name a method or a path in a literal: chi, gin,
//! echo, fiber, gorilla/mux and httprouter.

use std::collections::BTreeSet;

use super::tokens::{Token, tokens};

/// A path that the sources hand to a router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// The method; `None` if the sources name none.
    pub(super) method: Option<&'static str>,
    /// The path, which begins with `/` and may have parameters.
    pub(super) path: String,
    /// The file and the line.
    pub(super) place: String,
}

/// Whether a part of a path stands for any text.
pub(super) fn has_parameter(path: &str) -> bool {
    path.contains(['{', '*', '<']) || path.split('/').any(|part| part.starts_with(':'))
}

/// What the sources say.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// Routes, each method and path once, in the order of the sources.
    pub(super) routes: Vec<Route>,
    /// Paths under which a router puts other routes, such as `/api`.
    pub(super) prefixes: BTreeSet<String>,
    /// Literals that are an address with a port, such as `:8080`, in the order of the sources.
    pub(super) addresses: Vec<String>,
    /// Variables that the sources read.
    pub(super) variables: BTreeSet<String>,
}

/// Functions that take a pattern of net/http, or a method and a path.
const HANDLE: [&str; 7] = ["HandleFunc", "Handle", "Handler", "HandlerFunc", "Method", "MethodFunc", "Add"];

/// Functions that take a path and a handler, with their methods.
const VERBS: [(&str, Option<&str>); 14] = [
    ("GET", Some("GET")),
    ("Get", Some("GET")),
    ("POST", Some("POST")),
    ("Post", Some("POST")),
    ("PUT", Some("PUT")),
    ("Put", Some("PUT")),
    ("PATCH", Some("PATCH")),
    ("Patch", Some("PATCH")),
    ("DELETE", Some("DELETE")),
    ("Delete", Some("DELETE")),
    ("HEAD", Some("HEAD")),
    ("Any", None),
    ("All", None),
    ("Path", None),
];

/// Functions that take a path under which others follow.
const GROUPS: [&str; 6] = ["Group", "Route", "Mount", "PathPrefix", "StripPrefix", "SetPrefix"];

/// Functions that take the name of a variable.
const VARIABLES: [&str; 2] = ["Getenv", "LookupEnv"];

/// The most routes that are kept. A program with more has generated some.
const MOST_ROUTES: usize = 400;

/// The most prefixes, addresses and variables that are kept, of each.
const MOST_OTHERS: usize = 100;

/// How far behind a pattern its methods are looked for, tokens.
const FARTHEST: usize = 400;

impl Hints {
    /// Adds those of a source. `file` is its name for people.
    pub(super) fn read(&mut self, file: &str, source: &str) {
        let tokens = tokens(source);
        for (at, (token, line)) in tokens.iter().enumerate() {
            match token {
                Token::Text(Some(text)) if is_address(text) => {
                    if self.addresses.len() < MOST_OTHERS && !self.addresses.contains(text) {
                        self.addresses.push(text.clone());
                    }
                }
                Token::Word(name) => {
                    let is_call = matches!(tokens.get(at + 1), Some((Token::Sign('('), _)));
                    let is_of_something = at > 0 && tokens[at - 1].0 == Token::Sign('.');
                    if is_call && is_of_something {
                        self.read_call(name, &tokens[at + 2..], &format!("{file}:{line}"));
                    }
                }
                Token::Text(_) | Token::Sign(_) => {}
            }
        }
    }

    /// Adds what a call of the function `name` says, whose arguments begin with these tokens.
    fn read_call(&mut self, name: &str, arguments: &[(Token<'_>, usize)], place: &str) {
        let first = literal(arguments.first());
        if VARIABLES.contains(&name) {
            keep(&mut self.variables, first.filter(|name| is_variable(name)).map(str::to_owned));
        } else if GROUPS.contains(&name) {
            keep(&mut self.prefixes, first.and_then(prefix));
        } else if HANDLE.contains(&name) {
            match (method_of(arguments), first) {
                (Some((method, path)), _) => self.add(Some(method), path, place),
                (None, Some(pattern)) if is_followed(arguments) => self.add_pattern(pattern, arguments, place),
                (None, _) => {}
            }
        } else if let Some((_, method)) = VERBS.iter().find(|(verb, _)| *verb == name)
            && let Some(path) = first
            && (is_followed(arguments) || name == "Path")
        {
            let method = method.or_else(|| methods_after(arguments));
            self.add(method, path, place);
        }
    }

    /// Adds a pattern of net/http: `[METHOD ][HOST]/[PATH]`.
    fn add_pattern(&mut self, pattern: &str, arguments: &[(Token<'_>, usize)], place: &str) {
        let (method, path) = match pattern.split_once([' ', '\t']) {
            Some((method, path)) => (known_method(method), path.trim_start()),
            None => (methods_after(arguments), pattern),
        };
        if path.ends_with('/') {
            keep(&mut self.prefixes, prefix(path));
        }
        self.add(method, path.strip_suffix("{$}").unwrap_or(path), place);
    }

    fn add(&mut self, method: Option<&'static str>, path: &str, place: &str) {
        let is_known = || self.routes.iter().any(|route| route.path == path && route.method == method);
        if self.routes.len() < MOST_ROUTES && is_path(path) && !is_known() {
            self.routes.push(Route { method, path: path.to_owned(), place: place.to_owned() });
        }
    }
}

/// Adds what there is, unless there are too many already.
fn keep(kept: &mut BTreeSet<String>, more: Option<String>) {
    if kept.len() < MOST_OTHERS {
        kept.extend(more);
    }
}

fn literal<'a>(token: Option<&'a (Token<'_>, usize)>) -> Option<&'a str> {
    match token {
        Some((Token::Text(text), _)) => text.as_deref(),
        _ => None,
    }
}

/// Whether another argument follows the first one.
fn is_followed(arguments: &[(Token<'_>, usize)]) -> bool {
    matches!(arguments.get(1), Some((Token::Sign(','), _)))
}

/// A method and a path that are the first two arguments: `"GET", "/x"` or `http.MethodGet, "/x"`.
fn method_of<'a>(arguments: &'a [(Token<'_>, usize)]) -> Option<(&'static str, &'a str)> {
    let comma = arguments.iter().take(4).position(|(token, _)| *token == Token::Sign(','))?;
    let method = method_in(&arguments[..comma])?;
    Some((method, literal(arguments.get(comma + 1))?))
}

/// The first method that these tokens name.
fn method_in(tokens: &[(Token<'_>, usize)]) -> Option<&'static str> {
    tokens.iter().find_map(|(token, _)| match token {
        Token::Text(Some(text)) => known_method(text),
        Token::Word(name) => known_method(&name.strip_prefix("Method")?.to_ascii_uppercase()),
        Token::Text(None) | Token::Sign(_) => None,
    })
}

fn known_method(name: &str) -> Option<&'static str> {
    ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"].into_iter().find(|known| *known == name)
}

/// The method that `.Methods(…)` behind the call names, as gorilla/mux has it. GET counts before others.
fn methods_after(arguments: &[(Token<'_>, usize)]) -> Option<&'static str> {
    let arguments = &arguments[..arguments.len().min(FARTHEST)];
    let mut open = 1_u32;
    let close = arguments.iter().position(|(token, _)| {
        match token {
            Token::Sign('(') => open += 1,
            Token::Sign(')') => open -= 1,
            Token::Word(_) | Token::Text(_) | Token::Sign(_) => {}
        }
        open == 0
    })?;
    let [(Token::Sign('.'), _), (Token::Word("Methods"), _), (Token::Sign('('), _), rest @ ..] =
        &arguments[close + 1..]
    else {
        return None;
    };
    let end = rest.iter().position(|(token, _)| *token == Token::Sign(')'))?;
    let named: Vec<_> = rest[..end].chunks(1).filter_map(method_in).collect();
    named.iter().find(|method| **method == "GET").or(named.first()).copied()
}

/// The path under which routes follow, without the slash at its end.
fn prefix(text: &str) -> Option<String> {
    let prefix = text.trim_end_matches('/');
    (is_path(prefix) && !prefix.contains(['{', '*', ':', '<'])).then(|| prefix.to_owned())
}

/// Whether the text can be the path of a URL, perhaps with parameters.
fn is_path(text: &str) -> bool {
    let may_be = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()+,;=@:{}*<>".contains(&byte);
    // In a URL there is no `>`; behind a `<` it ends the name of a parameter.
    let is_closed = text.find('>').is_none_or(|end| text[..end].contains('<'));
    text.starts_with('/') && !text.starts_with("//") && text.len() <= 200 && text.bytes().all(may_be) && is_closed
}

/// Whether the text is an address with a port other than 0: `:8080`, `127.0.0.1:8080`, `localhost:8080`.
pub(super) fn is_address(text: &str) -> bool {
    port_of(text).is_some()
}

/// The port of an address.
pub(super) fn port_of(text: &str) -> Option<u16> {
    let (host, port) = text.rsplit_once(':')?;
    let is_host = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte));
    // `::1` and `a:b:1` have no port, and `12:30` is a time.
    let is_plain = !host.contains(':') || host.ends_with(']');
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_time = port.len() == 2 && host.bytes().all(|byte| byte.is_ascii_digit()) && !host.is_empty();
    (is_host && is_plain && is_port && !is_time).then(|| port.parse().ok()).flatten().filter(|port| *port != 0)
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &str) -> Hints {
        let mut hints = Hints::default();
        hints.read("main.go", &format!("package main\nfunc main() {{\n{body}\n}}\n"));
        hints
    }

    fn routes(body: &str) -> Vec<String> {
        let show = |route: &Route| format!("{} {}", route.method.unwrap_or("-"), route.path);
        of(body).routes.iter().map(show).collect()
    }

    #[test]
    fn net_http_has_paths_and_patterns() {
        assert_eq!(routes(r#"http.HandleFunc("/hello", hello)"#), ["- /hello"]);
        assert_eq!(routes(r#"mux.Handle("POST /items/{id}", items)"#), ["POST /items/{id}"]);
        assert_eq!(routes("mux.HandleFunc(`GET /{$}`, root)"), ["GET /"]);
        assert_eq!(routes(r#"mux.HandleFunc("GET  /a", a); mux.HandleFunc("/a", a)"#), ["GET /a", "- /a"]);
        assert_eq!(routes(r#"mux.Handle("example.com/", h)"#), [""; 0], "a pattern with a host");
        assert_eq!(routes(r#"mux.HandleFunc(prefix+"/a", a)"#), [""; 0], "it is not known");
        assert_eq!(routes(r#"// http.HandleFunc("/no", no)"#), [""; 0]);
    }

    #[test]
    fn routers_name_methods_and_paths() {
        assert_eq!(
            routes(r#"r.Get("/a", a); e.POST("/b", b); g.DELETE("/c/:id", c)"#),
            ["GET /a", "POST /b", "DELETE /c/:id"]
        );
        assert_eq!(routes(r#"r.HandleFunc("/a", f(x, "y")).Methods("POST", "GET")"#), ["GET /a"]);
        assert_eq!(routes(r#"r.HandleFunc("/a", a).Methods(http.MethodPut)"#), ["PUT /a"]);
        assert_eq!(routes(r#"r.Handler(http.MethodGet, "/a", a); r.Method("POST", "/b", b)"#), ["GET /a", "POST /b"]);
        assert_eq!(routes(r#"client.Get("http://x/"); http.Get("/a"); cache.Get("key", &v)"#), [""; 0]);
    }

    #[test]
    fn groups_addresses_and_variables_are_found() {
        let hints = of(r#"api := e.Group("/api"); r.Route("/v1/", f); mux.Handle("/admin/", a)
            listen := flag.String("listen", "127.0.0.1:8080", "address"); serve(":9090"); t := "12:30"; u := "::1"
            dsn := os.Getenv("DATABASE_URL"); os.Getenv(name)"#);
        assert_eq!(hints.prefixes.iter().collect::<Vec<_>>(), ["/admin", "/api", "/v1"]);
        assert_eq!(hints.addresses, ["127.0.0.1:8080", ":9090"]);
        assert_eq!(hints.variables.iter().collect::<Vec<_>>(), ["DATABASE_URL"]);
    }

    #[test]
    fn no_source_makes_more_work_than_others() {
        let many: String = (1..5000_u32).fold(String::new(), |text, at| {
            text + &format!(
                "r.Get(\"/{at}\", a); e.Group(\"/g{at}\"); f(\":{at}\"); os.Getenv(\"V{at}\"); r.Handle(\"/h{at}\",\n"
            )
        });
        let hints = of(&many);
        let kept = [hints.routes.len(), hints.prefixes.len(), hints.addresses.len(), hints.variables.len()];
        assert_eq!(kept, [MOST_ROUTES, MOST_OTHERS, MOST_OTHERS, MOST_OTHERS]);
    }

    #[test]
    fn what_no_url_can_have_is_no_path() {
        let hints = of(r#"r.Get("/a>b", a); e.Group("/users/<id>"); r.Get("/users/<id>", a)"#);
        assert_eq!(hints.routes.iter().map(|route| route.path.as_str()).collect::<Vec<_>>(), ["/users/<id>"]);
        assert_eq!(hints.prefixes, BTreeSet::new());
    }

    #[test]
    fn a_place_is_a_file_and_a_line() {
        assert_eq!(of("\nhttp.HandleFunc(\"/a\", a)").routes[0].place, "main.go:4");
    }

    #[test]
    fn parameters_are_known() {
        for path in ["/a/{id}", "/a/:id", "/a/*", "/a/<id>"] {
            assert!(has_parameter(path), "{path}");
        }
        assert!(!has_parameter("/a/b:c") && !has_parameter("/"));
    }
}
