//! The kinds of requests, prepared for sending, and their addresses.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io,
    net::{SocketAddr, ToSocketAddrs},
};

use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri,
    body::Bytes,
    header::{HOST, HeaderName, HeaderValue, USER_AGENT},
    http::{
        response,
        uri::{PathAndQuery, Scheme},
    },
};
use memgate_evidence::{
    error::{Error, InputError, Result},
    plan,
};

use super::{
    LoadError, RequestFailure, grpc,
    values::{Captured, Template, Values, in_url},
};

/// Where requests go, and whether with TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The value of the `Host` field, such as `127.0.0.1:8080`.
    pub(crate) authority: String,
    /// Whether the URL is an `https://` one.
    pub(crate) is_tls: bool,
    /// The addresses of the host's name, in the order in which they are tried. Empty only if requests go to a unix
    /// socket.
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Endpoint {
    /// The host and port of an `http://` or `https://` URL, and the rest of the URL.
    ///
    /// # Errors
    /// Fails with [`Error::Input`] if the URL cannot be requested, and with [`LoadError::UnknownHost`] if its host has
    /// no address.
    pub(crate) fn of(url: &str) -> Result<(Self, PathAndQuery)> {
        let (endpoint, path, port) = Self::without_address(url)?;
        let addresses = resolve(endpoint.host(), port)?;
        Ok((Self { addresses, ..endpoint }, path))
    }

    /// As [`Self::of`], with the port, without looking up the host.
    fn without_address(url: &str) -> Result<(Self, PathAndQuery, u16)> {
        let uri: Uri = url.parse().map_err(|error| bad_url(url, &error))?;
        let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
        if !is_tls && uri.scheme() != Some(&Scheme::HTTP) {
            return Err(bad_url(url, &"it does not begin with http:// or https://"));
        }
        let (Some(host), false) = (uri.host(), uri.authority().is_some_and(|whole| whole.as_str().contains('@')))
        else {
            return Err(bad_url(url, &"user names and passwords are not supported"));
        };
        // A port that is none is not the usual one.
        if uri.authority().is_some_and(|whole| whole.as_str().len() > host.len()) && uri.port_u16().is_none() {
            return Err(bad_url(url, &"it has no port from 1 to 65535"));
        }
        let authority = uri.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok((Self { authority, is_tls, addresses: Vec::new() }, path, port))
    }

    /// The host without the port, and an address of IP version 6 without its brackets.
    pub(super) fn host(&self) -> &str {
        match self.authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((address, _)) => address,
            None => self.authority.split_once(':').map_or(&self.authority, |(host, _)| host),
        }
    }

    /// The host and port of `HOST:PORT`.
    ///
    /// # Errors
    /// Fails as [`Self::of`] does.
    pub(crate) fn at(address: &str) -> Result<Self> {
        Self::of(&format!("http://{address}/")).map(|(endpoint, _)| endpoint)
    }
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>> {
    let unknown = |source: io::Error| LoadError::UnknownHost { host: host.to_owned(), source };
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(unknown)?.collect();
    if addresses.is_empty() { Err(unknown(io::Error::other("it has no address")).into()) } else { Ok(addresses) }
}

fn bad_url(url: &str, reason: &dyn std::fmt::Display) -> Error {
    InputError::new(
        format!("`{url}` cannot be requested: {reason}."),
        "Write a URL such as http://127.0.0.1:8080/path.",
    )
    .into()
}

/// The distinct endpoints of the kinds of requests.
pub(crate) type Endpoints = Vec<Endpoint>;

/// A kind of request that is checked and ready to be copied and sent.
#[derive(Debug)]
pub(crate) struct RequestKind {
    /// The index in the endpoints.
    pub(super) endpoint: usize,
    method: Method,
    /// The path in HTTP/1.1, the whole URL in HTTP/2.
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
    expect: Expected,
    /// What differs from request to request.
    templates: Option<Box<Templates>>,
    /// What a client captures from an answer.
    pub(super) capture: BTreeMap<String, plan::Capture>,
}

/// The parts of a request that have values.
#[derive(Debug)]
struct Templates {
    path: Option<Template>,
    headers: Vec<(HeaderName, Template)>,
    body: Option<Template>,
    /// The names of the captured values that they need, in the order in which the configuration is checked.
    needs: BTreeSet<String>,
}

/// What counts as success.
#[derive(Debug)]
enum Expected {
    /// These status codes, or 200 to 399 if there are none.
    Http(Vec<u16>),
    /// These statuses of gRPC, or 0 if there are none.
    Grpc(Vec<u8>),
}

impl RequestKind {
    /// Checks a request of a plan, and adds its endpoint if it is new.
    ///
    /// # Errors
    /// Fails like [`Endpoint::of`], and with [`Error::Input`] if HTTP does not allow a method or a header field.
    pub(crate) fn new(request: &plan::Request, endpoints: &mut Endpoints) -> Result<Self> {
        let (endpoint, path) = Endpoint::of(&request.url)?;
        Self::at(request, endpoint, path, endpoints)
    }

    /// As [`Self::new`], if the host need not have an address.
    ///
    /// # Errors
    /// Fails as [`Self::new`], but for the address.
    pub(super) fn of_socket(request: &plan::Request, endpoints: &mut Endpoints) -> Result<Self> {
        let (endpoint, path, _) = Endpoint::without_address(&request.url)?;
        Self::at(request, endpoint, path, endpoints)
    }

    fn at(request: &plan::Request, endpoint: Endpoint, path: PathAndQuery, endpoints: &mut Endpoints) -> Result<Self> {
        let method = Method::from_bytes(request.method.as_bytes()).map_err(|_| {
            InputError::new(
                format!("`{}` is not an HTTP method.", request.method),
                "Use GET, POST, PUT, PATCH or DELETE.",
            )
        })?;
        let headers = headers(request, &endpoint.authority)?;
        let index = endpoints.iter().position(|known| *known == endpoint).unwrap_or_else(|| {
            endpoints.push(endpoint);
            endpoints.len() - 1
        });
        let (body, expect) = match &request.grpc {
            None => (Bytes::from(request.body.clone()), Expected::Http(request.expect.clone())),
            Some(grpc) => (grpc::body(&grpc.message), Expected::Grpc(grpc.expect.clone())),
        };
        let (templates, capture) = (None, request.capture.clone());
        Ok(Self { endpoint: index, method, uri: path.into(), headers, body, expect, templates, capture })
    }

    /// The same with the values that differ from request to request. A gRPC message has none.
    ///
    /// # Errors
    /// Fails with [`Error::Input`] if a value is not named as it should be, or if the rows do not have its column.
    pub(super) fn with_values(self, request: &plan::Request, rows: Option<&plan::Rows>) -> Result<Self> {
        let path = Template::new(self.uri.path_and_query().map_or("/", PathAndQuery::as_str), rows)?;
        let body = if request.grpc.is_none() { Template::new(&request.body, rows)? } else { None };
        let mut headers = Vec::new();
        for (name, value) in &request.headers {
            // The name was checked with the request's own fields.
            let name = HeaderName::from_bytes(name.as_bytes()).ok();
            headers.extend(name.zip(Template::new(value, rows)?));
        }
        let all = path.iter().chain(&body).chain(headers.iter().map(|(_, template)| template));
        let needs = all.flat_map(Template::needs).map(str::to_owned).collect();
        let is_plain = path.is_none() && body.is_none() && headers.is_empty();
        let templates = (!is_plain).then(|| Box::new(Templates { path, headers, body, needs }));
        Ok(Self { templates, ..self })
    }

    /// A value that it needs and that the client has not captured yet.
    pub(super) fn lacks(&self, captured: &Captured) -> Option<&str> {
        let needs = self.templates.iter().flat_map(|templates| &templates.needs);
        needs.map(String::as_str).find(|name| !captured.contains_key(*name))
    }

    /// Whether it is the same each time.
    pub(super) const fn is_plain(&self) -> bool {
        self.templates.is_none()
    }

    /// Whether something is captured from the body of the answer.
    pub(super) fn searches_body(&self) -> bool {
        self.capture.values().any(|source| matches!(source, plan::Capture::Json(_)))
    }

    /// A new request of the kind with these values.
    ///
    /// # Errors
    /// Fails with [`RequestFailure::Value`] if a value is missing, or if HTTP does not allow it there.
    pub(super) fn request_with(
        &self,
        values: Values<'_>,
        captured: &Captured,
    ) -> std::result::Result<Request<Bytes>, RequestFailure> {
        let mut request = self.request();
        let Some(templates) = &self.templates else { return Ok(request) };
        let unfit = |_| RequestFailure::Value;
        if let Some(path) = &templates.path {
            let mut parts = self.uri.clone().into_parts();
            let path = path.render(values, captured, in_url)?;
            parts.path_and_query = Some(path.parse().map_err(|_| RequestFailure::Value)?);
            *request.uri_mut() = Uri::from_parts(parts).map_err(|_| RequestFailure::Value)?;
        }
        for (name, value) in &templates.headers {
            let value = value.render(values, captured, |value| Cow::Borrowed(value))?;
            request.headers_mut().insert(name, HeaderValue::from_str(&value).map_err(unfit)?);
        }
        if let Some(body) = &templates.body {
            *request.body_mut() = body.render(values, captured, |value| Cow::Borrowed(value))?.into();
        }
        Ok(request)
    }

    /// The same for HTTP/2, which has scheme and host in the URL.
    ///
    /// # Errors
    /// Fails with [`Error::Input`] if the value of the field `Host` cannot be the host of a URL.
    pub(super) fn for_http2(self, endpoints: &[Endpoint]) -> Result<Self> {
        let Self { uri, mut headers, .. } = self;
        let scheme = if endpoints[self.endpoint].is_tls { Scheme::HTTPS } else { Scheme::HTTP };
        let host = headers.remove(HOST).unwrap_or(HeaderValue::from_static(""));
        let whole = Uri::builder().scheme(scheme).authority(host.as_bytes());
        let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let uri = whole.path_and_query(path).build().map_err(|error| {
            let message = format!("The header field `Host` {host:?} is no host of a URL: {error}.");
            InputError::new(message, "Write a host such as `example.com`, or leave the field out.")
        })?;
        Ok(Self { uri, headers, ..self })
    }

    /// A new request of the kind.
    pub(super) fn request(&self) -> Request<Bytes> {
        let mut request = Request::new(self.body.clone());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    /// Checks whether an answer counts as success. `trailers` are those of a gRPC answer.
    ///
    /// # Errors
    /// Fails with the status if it does not.
    pub(super) fn check(&self, head: &response::Parts, trailers: Option<&HeaderMap>) -> Result<(), RequestFailure> {
        let code = head.status.as_u16();
        let is_success = match &self.expect {
            Expected::Http(expected) if expected.is_empty() => (200..400).contains(&code),
            Expected::Http(expected) => expected.contains(&code),
            Expected::Grpc(_) if head.status != StatusCode::OK => false,
            Expected::Grpc(expected) => return grpc::check(&head.headers, trailers, expected),
        };
        if is_success { Ok(()) } else { Err(RequestFailure::Status(head.status)) }
    }
}

/// The header of a request: its own fields, with `Host` and `User-Agent` if it does not have them.
fn headers(request: &plan::Request, authority: &str) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    let wrong = |name: &str, reason: &dyn std::fmt::Display| {
        let message = format!("The header field `{name}` of {} {} is wrong: {reason}.", request.method, request.url);
        Error::from(InputError::new(message, "Names are letters, digits and `-`; values have no line breaks."))
    };
    headers.insert(HOST, HeaderValue::from_str(authority).map_err(|error| wrong("Host", &error))?);
    if request.grpc.is_some() {
        grpc::add_to(&mut headers);
    }
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("memgate/", env!("CARGO_PKG_VERSION"))));
    for (name, value) in &request.headers {
        let field = HeaderName::from_bytes(name.as_bytes()).map_err(|error| wrong(name, &error))?;
        headers.insert(field, HeaderValue::from_str(value).map_err(|error| wrong(name, &error))?);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(url: &str) -> plan::Request {
        plan::Request::get(url)
    }

    #[test]
    fn a_target_is_host_and_port() {
        let (endpoint, path) = Endpoint::of("http://127.0.0.1:8080/a/b?c=d").unwrap();
        assert_eq!(endpoint.authority, "127.0.0.1:8080");
        assert_eq!(endpoint.addresses, ["127.0.0.1:8080".parse().unwrap()]);
        assert_eq!((endpoint.host(), endpoint.is_tls), ("127.0.0.1", false));
        assert_eq!(path.as_str(), "/a/b?c=d");
        let (endpoint, path) = Endpoint::of("http://[::1]").unwrap();
        assert_eq!((endpoint.authority.as_str(), path.as_str()), ("[::1]", "/"));
        assert_eq!(endpoint.addresses, ["[::1]:80".parse().unwrap()]);
        assert_eq!(endpoint.host(), "::1");
        for url in ["http://127.0.0.1:99999/", "http://[::1]:/"] {
            assert!(Endpoint::of(url).unwrap_err().to_string().contains("no port from 1 to 65535"), "{url}");
        }
        let (endpoint, _) = Endpoint::of("https://127.0.0.1/").unwrap();
        assert_eq!((endpoint.addresses, endpoint.is_tls), (vec!["127.0.0.1:443".parse().unwrap()], true));
    }

    #[test]
    fn the_host_of_a_socket_needs_no_address() {
        let mut endpoints = Endpoints::new();
        RequestKind::of_socket(&get("http://no.such.host.invalid/a"), &mut endpoints).unwrap();
        assert_eq!((endpoints[0].authority.as_str(), &endpoints[0].addresses[..]), ("no.such.host.invalid", &[][..]));
    }

    #[test]
    fn http_2_has_the_host_in_the_url() {
        let mut plan = get("https://127.0.0.1:1/a?b");
        let request = |plan: &plan::Request| {
            let mut endpoints = Endpoints::new();
            let kind = RequestKind::new(plan, &mut endpoints).unwrap();
            kind.for_http2(&endpoints).map(|kind| kind.request())
        };
        let plain = request(&plan).unwrap();
        assert_eq!((plain.uri().to_string().as_str(), plain.headers().get(HOST)), ("https://127.0.0.1:1/a?b", None));
        plan.headers = BTreeMap::from([("Host".into(), "other.example".into())]);
        assert_eq!(request(&plan).unwrap().uri(), "https://other.example/a?b");
        plan.headers = BTreeMap::from([("Host".into(), "no host".into())]);
        assert_eq!(request(&plan).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn a_url_that_cannot_be_requested_is_named_with_the_reason() {
        for (url, reason) in [
            ("ftp://127.0.0.1/", "http://"),
            ("127.0.0.1:8080", "http://"),
            ("http://u:p@127.0.0.1/", "passwords"),
            ("http://a b/", "cannot be requested"),
        ] {
            let error = Endpoint::of(url).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{url}");
            assert!(error.to_string().contains(reason) && error.to_string().contains(url), "{error}");
        }
    }

    #[test]
    fn kinds_share_their_targets() {
        let mut endpoints = Endpoints::new();
        let kinds: Vec<RequestKind> = ["http://127.0.0.1:1/a", "http://127.0.0.1:2/", "http://127.0.0.1:1/b"]
            .iter()
            .map(|url| RequestKind::new(&get(url), &mut endpoints).unwrap())
            .collect();
        assert_eq!(kinds.iter().map(|kind| kind.endpoint).collect::<Vec<_>>(), [0, 1, 0]);
        assert_eq!(endpoints.len(), 2);
    }

    #[test]
    fn a_request_carries_its_own_fields_over_the_default_ones() {
        let mut plan = get("http://127.0.0.1:1/a");
        plan.headers = BTreeMap::from([("X-Tenant".into(), "7".into()), ("host".into(), "other".into())]);
        let request = RequestKind::new(&plan, &mut Endpoints::new()).unwrap().request();
        assert_eq!(request.headers()["host"], "other");
        assert_eq!(request.headers()["x-tenant"], "7");
        assert_eq!(request.uri(), "/a");
        plan.headers = BTreeMap::from([("X Tenant".into(), "7".into())]);
        assert!(RequestKind::new(&plan, &mut Endpoints::new()).unwrap_err().to_string().contains("X Tenant"));
        plan.headers = BTreeMap::from([("X".into(), "a\nb".into())]);
        assert_eq!(RequestKind::new(&plan, &mut Endpoints::new()).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn values_go_where_the_request_has_them() {
        let mut plan = get("https://127.0.0.1:1/${token}?n=${counter}");
        plan.headers = BTreeMap::from([("Authorization".into(), "Bearer ${token}".into()), ("X".into(), "y".into())]);
        plan.body = "{\"n\": ${counter}, \"t\": \"${token}\"}".into();
        let mut endpoints = Endpoints::new();
        let kind = RequestKind::new(&plan, &mut endpoints).unwrap().with_values(&plan, None).unwrap();
        let values = Values::of(1, 6, None);
        assert_eq!(kind.lacks(&Captured::new()), Some("token"));
        assert_eq!(kind.request_with(values, &Captured::new()).unwrap_err(), RequestFailure::Value);
        let captured = Captured::from([("token".to_owned(), "a b".to_owned())]);
        assert_eq!(kind.lacks(&captured), None);
        let request = kind.request_with(values, &captured).unwrap();
        assert_eq!(
            (request.uri().to_string().as_str(), &request.headers()["x"]),
            ("/a%20b?n=7", &"y".parse().unwrap())
        );
        assert_eq!(request.headers()["authorization"], "Bearer a b");
        assert_eq!(request.body()[..], *br#"{"n": 7, "t": "a b"}"#);
        // HTTP does not allow a line break in a header field.
        let broken = Captured::from([("token".to_owned(), "a\nb".to_owned())]);
        assert_eq!(kind.request_with(values, &broken).unwrap_err(), RequestFailure::Value);
        let request = kind.for_http2(&endpoints).unwrap().request_with(values, &captured).unwrap();
        assert_eq!(request.uri(), "https://127.0.0.1:1/a%20b?n=7");
        assert!(RequestKind::new(&get("http://127.0.0.1:1/"), &mut endpoints).unwrap().is_plain());
    }

    #[test]
    fn success_is_an_expected_status() {
        let expects = |plan: &plan::Request, status: u16| {
            let (mut head, ()) = hyper::Response::new(()).into_parts();
            head.status = status.try_into().unwrap();
            let checked = RequestKind::new(plan, &mut Endpoints::new()).unwrap().check(&head, None);
            assert!(checked.is_ok() || checked == Err(RequestFailure::Status(head.status)));
            checked.is_ok()
        };
        let mut plan = get("http://127.0.0.1:1/");
        assert!(expects(&plan, 200) && expects(&plan, 302) && !expects(&plan, 400) && !expects(&plan, 101));
        plan.expect = vec![404];
        assert!(expects(&plan, 404) && !expects(&plan, 200));
    }
}
