//! Fetches a file by HTTP or HTTPS, on a host without apt.
//!
//! The proxy is that of `https_proxy` for an address in HTTPS and of `http_proxy` for one in HTTP, else that of
//! `all_proxy`, unless `no_proxy` names the host. Either way memgate asks it for a tunnel to the mirror (CONNECT). In HTTPS
//! only the certificate authorities of the list that is compiled in count.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use ureq::{Proxy, ProxyProtocol};

use crate::stop::{PAUSE, Stop};

/// How long a mirror may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// For the connection, for the start of the answer, and for each part of it.
    part: Duration,
    /// For a whole file.
    whole: Duration,
}

/// 200 MB at 50 kB/s, and no minute without a byte.
const LIMITS: Limits = Limits { part: Duration::from_secs(60), whole: Duration::from_secs(4000) };

/// Why a file cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// memgate must end.
    #[error("memgate was interrupted")]
    Interrupted,
    /// The server does not answer, or not with the file.
    #[error("{0}")]
    Answer(String),
    /// The server has no such file.
    #[error("it has no such file")]
    Gone,
    /// The proxy makes no tunnel, or the certificate is not trusted. The other scheme of the address may do.
    #[error("{0}")]
    Barred(String),
    /// The file cannot be written.
    #[error("{0}")]
    Write(io::Error),
}

/// Fetches `uri` into a new file, at most `size` bytes and one more.
///
/// # Errors
/// When the server does not answer with the file, when the file cannot be written, or when memgate must end.
pub(crate) fn fetch(uri: &str, file: &Path, size: u64, stop: &Stop) -> Result<(), HttpError> {
    let (sender, receiver) = mpsc::channel();
    let (uri, file, asked) = (uri.to_owned(), file.to_owned(), stop.clone());
    // A read may block for long, and an interrupt must not wait for it.
    thread::spawn(move || sender.send(download(&uri, &file, size, LIMITS, &asked)));
    loop {
        match receiver.recv_timeout(PAUSE) {
            Ok(result) => return result,
            Err(mpsc::RecvTimeoutError::Timeout) if stop.is_asked() => return Err(HttpError::Interrupted),
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                return Err(HttpError::Answer("the download ended without a result".to_owned()));
            }
        }
    }
}

fn download(uri: &str, file: &Path, size: u64, limits: Limits, stop: &Stop) -> Result<(), HttpError> {
    let Limits { part, whole } = limits;
    let proxy = proxy(uri, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
    let config = ureq::Agent::config_builder().timeout_connect(Some(part)).timeout_recv_response(Some(part));
    let config = config.timeout_per_read(Some(part)).timeout_global(Some(whole)).proxy(proxy);
    let agent: ureq::Agent = config.build().into();
    let said = |error: &dyn std::fmt::Display| HttpError::Answer(error.to_string());
    let mut answer = agent.get(uri).call().map_err(refused)?;
    let mut body = answer.body_mut().as_reader().take(size.saturating_add(1));
    let mut file = File::create(file).map_err(HttpError::Write)?;
    let mut bytes = vec![0; 64 << 10];
    loop {
        if stop.is_asked() {
            return Err(HttpError::Interrupted);
        }
        match body.read(&mut bytes).map_err(|error| said(&error))? {
            0 => return file.flush().map_err(HttpError::Write),
            read => file.write_all(&bytes[..read]).map_err(HttpError::Write)?,
        }
    }
}

/// What kind of answer it is that is not the file.
fn refused(error: ureq::Error) -> HttpError {
    let said = error.to_string();
    match error {
        ureq::Error::StatusCode(404 | 410) => HttpError::Gone,
        ureq::Error::ConnectProxyFailed(_) => HttpError::Barred(said),
        // TLS has no other kind for a certificate that it does not trust.
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => HttpError::Barred(said),
        _ => HttpError::Answer(said),
    }
}

/// The proxy for an address, as the variables have it; `None` if they name none.
///
/// # Errors
/// When it is no HTTP proxy.
fn proxy(uri: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Proxy>, HttpError> {
    let either = |[small, large]: [&'static str; 2]| {
        let named = |name| variable(name).map(|value| (name, value));
        named(small).or_else(|| named(large))
    };
    let own = if uri.starts_with("https://") { ["https_proxy", "HTTPS_PROXY"] } else { ["http_proxy", "HTTP_PROXY"] };
    let Some((name, value)) = either(own).or_else(|| either(["all_proxy", "ALL_PROXY"])) else { return Ok(None) };
    let unfit = || HttpError::Answer(format!("the variable {name} names no proxy by http:// or https://"));
    let proxy = Proxy::new(&value).map_err(|_| unfit())?;
    if !matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https) {
        return Err(unfit());
    }
    let mut chosen = Proxy::builder(proxy.protocol()).host(proxy.host()).port(proxy.port());
    if let Some(user) = proxy.username() {
        chosen = chosen.username(user);
    }
    if let Some(password) = proxy.password() {
        chosen = chosen.password(password);
    }
    let exceptions = either(["no_proxy", "NO_PROXY"]).map(|(_, hosts)| hosts).unwrap_or_default();
    chosen = exceptions.split(',').map(str::trim).fold(chosen, ureq::ProxyBuilder::no_proxy);
    chosen.build().map(Some).map_err(|_| unfit())
}

#[cfg(test)]
mod tests {
    use std::{io::BufRead as _, net::TcpListener, thread::JoinHandle};

    use super::*;

    fn chosen(uri: &str, variables: &[(&str, &str)]) -> Result<Option<Proxy>, String> {
        let value =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        proxy(uri, value).map_err(|error| error.to_string())
    }

    #[test]
    fn the_scheme_chooses_the_proxy() {
        let both =
            [("https_proxy", "http://secure:1"), ("http_proxy", "u:p%40@plain:2"), ("all_proxy", "socks5://x:3")];
        for (uri, host, port) in [("https://mirror/", "secure", 1), ("http://mirror/", "plain", 2)] {
            let proxy = chosen(uri, &both).unwrap().unwrap();
            assert_eq!((proxy.host(), proxy.port()), (host, port));
        }
        let plain = chosen("http://mirror/", &both).unwrap().unwrap();
        assert_eq!((plain.username(), plain.password()), (Some("u"), Some("p@")));
        assert!(chosen("http://mirror/", &both[..1]).unwrap().is_none());
        let all = chosen("http://mirror/", &[("ALL_PROXY", "https://any")]).unwrap().unwrap();
        assert_eq!(all.protocol(), ProxyProtocol::Https);
        let socks = chosen("http://mirror/", &both[2..]).unwrap_err();
        assert_eq!(socks, "the variable all_proxy names no proxy by http:// or https://");
        let exceptions = [("http_proxy", "proxy"), ("no_proxy", "other, mirror,.example")];
        let proxy = chosen("http://mirror/", &exceptions).unwrap().unwrap();
        let is_direct = |uri: &str| proxy.is_no_proxy(&uri.parse().unwrap());
        assert!(is_direct("http://mirror/a") && is_direct("http://b.example/") && !is_direct("http://mirrors/"));
    }

    /// A server that gives each connection the next of these answers, and waits at the end of the last one.
    fn server(answers: &'static [&'static [u8]]) -> (String, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serve = move || {
            let mut open = Vec::new();
            let one = |answer: &&[u8]| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                io::BufReader::new(&stream).read_line(&mut line).unwrap();
                stream.write_all(answer).unwrap();
                open.push(stream);
                line
            };
            let asked = answers.iter().map(one).collect();
            // Until the other side gives up.
            let _ = open.last_mut().unwrap().read_to_end(&mut Vec::new());
            asked
        };
        (address, thread::spawn(serve))
    }

    #[test]
    fn a_mirror_that_stalls_is_given_up() {
        let (address, server) = server(&[b"HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\nabc"]);
        let file = tempfile::tempdir().unwrap();
        let limits = Limits { part: Duration::from_millis(300), whole: Duration::from_secs(600) };
        let uri = format!("http://{address}/a.deb");
        let error = download(&uri, &file.path().join("a"), 300, limits, &Stop::default()).unwrap_err();
        assert!(matches!(&error, HttpError::Answer(said) if said.contains("timeout")), "{error}");
        server.join().unwrap();
    }

    #[test]
    fn a_proxy_that_makes_no_tunnel_bars_the_way() {
        let (address, server) = server(&[b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"]);
        let proxy = chosen("http://mirror.example/", &[("http_proxy", address.as_str())]).unwrap();
        let agent: ureq::Agent = ureq::Agent::config_builder().proxy(proxy).build().into();
        let error = refused(agent.get("http://mirror.example/a.deb").call().unwrap_err());
        assert!(matches!(&error, HttpError::Barred(said) if said.contains("403")), "{error}");
        assert!(server.join().unwrap()[0].starts_with("CONNECT mirror.example:80 "));
    }
}
