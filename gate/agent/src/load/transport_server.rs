//! A server for tests of connections: HTTP/1.1 or HTTP/2, over TCP or a unix socket, with TLS or without. It is hyper's.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{BodyExt as _, Either, Full, combinators::WithTrailers};
use hyper::{
    Request, Response, Version,
    body::{Bytes, Frame, Incoming},
    header::{HeaderMap, HeaderName, SET_COOKIE},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use super::dial::Stream;

/// A request that the server received.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Number of the connection, from 0.
    pub(super) connection: usize,
    /// Requests that the connection had at the same time, with this one.
    pub(super) at_once: usize,
    pub(super) version: Version,
    pub(super) uri: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

/// What the server does with a request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Answer {
    /// 200 after this time, with the connection's number as a cookie.
    After(Duration),
    /// This status.
    Status(u16),
    /// Nothing.
    Never,
    /// 200 with a body without an end.
    Endless,
    /// 200 with this status of gRPC in the trailers, after the message of the request.
    Grpc(u8),
    /// It resets the stream of HTTP/2.
    Reset,
    /// It ends the connection.
    Close,
}

/// How the server is reached.
#[derive(Debug, Default)]
pub(super) struct Kind {
    pub(super) http2: bool,
    pub(super) unix: Option<PathBuf>,
    /// A certificate with its key, PEM, and the protocols of ALPN.
    pub(super) tls: Option<(String, &'static [&'static str])>,
}

/// A server that ends when it is dropped.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    _runtime: tokio::runtime::Runtime,
}

/// A body with its trailers, if it has some, or one without an end.
type Body = Either<WithTrailers<Full<Bytes>, Ready<Option<Result<HeaderMap, Infallible>>>>, Endless>;

/// A body without an end.
struct Endless;

impl hyper::body::Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b' '; 4096])))))
    }
}

type Handler = Arc<dyn Fn(&Seen) -> Answer + Send + Sync>;

impl Server {
    pub(super) fn start(kind: Kind, handle: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (seen, handle): (Arc<Mutex<Vec<Seen>>>, Handler) = (Arc::default(), Arc::new(handle));
        let acceptor = kind.tls.as_ref().map(|(pem, protocols)| acceptor(pem, protocols));
        let all = Arc::clone(&seen);
        let (listener, socket) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            (listener, kind.unix.map(|path| UnixListener::bind(path).unwrap()))
        });
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            for connection in 0.. {
                let stream: Box<dyn Stream> = match &socket {
                    Some(socket) => Box::new(socket.accept().await.unwrap().0),
                    None => Box::new(listener.accept().await.unwrap().0),
                };
                tokio::spawn(serve(stream, acceptor.clone(), kind.http2, connection, Arc::clone(&all), handle.clone()));
            }
        });
        Self { address, seen, _runtime: runtime }
    }

    pub(super) fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://{}{path}", self.address)
    }

    /// The requests so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(
    stream: Box<dyn Stream>,
    acceptor: Option<TlsAcceptor>,
    http2: bool,
    connection: usize,
    all: Arc<Mutex<Vec<Seen>>>,
    handle: Handler,
) {
    let stream: Box<dyn Stream> = match acceptor {
        None => stream,
        // Some tests refuse the certificate.
        Some(acceptor) => match acceptor.accept(stream).await {
            Ok(stream) => Box::new(stream),
            Err(_) => return,
        },
    };
    let (running, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(tokio::sync::Notify::new()));
    let close = Arc::clone(&closed);
    let service = service_fn(move |request| {
        let (all, handle) = (Arc::clone(&all), Arc::clone(&handle));
        answer(request, connection, all, handle, Arc::clone(&running), Arc::clone(&close))
    });
    let stream = TokioIo::new(stream);
    // The client ends a connection as it likes.
    if http2 {
        tokio::select! {
            _ = http2::Builder::new(TokioExecutor::new()).serve_connection(stream, service) => {}
            () = closed.notified() => {}
        }
    } else {
        tokio::select! {
            _ = http1::Builder::new().serve_connection(stream, service) => {}
            () = closed.notified() => {}
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    connection: usize,
    all: Arc<Mutex<Vec<Seen>>>,
    handle: Handler,
    running: Arc<AtomicUsize>,
    close: Arc<tokio::sync::Notify>,
) -> Result<Response<Body>, std::io::Error> {
    let at_once = running.fetch_add(1, Ordering::Relaxed) + 1;
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    let (version, uri, headers) = (head.version, head.uri.to_string(), head.headers);
    let seen = Seen { connection, at_once, version, uri, headers, body };
    all.lock().unwrap().push(seen.clone());
    let mut response = Response::new(Either::Left(Full::new(Bytes::from_static(b"ok")).with_trailers(ready(None))));
    match handle(&seen) {
        Answer::After(time) => {
            tokio::time::sleep(time).await;
            response.headers_mut().insert(SET_COOKIE, format!("connection={connection}").parse().unwrap());
        }
        Answer::Status(status) => *response.status_mut() = status.try_into().unwrap(),
        Answer::Grpc(status) => {
            let trailers = HeaderMap::from_iter([(HeaderName::from_static("grpc-status"), u16::from(status).into())]);
            let message = Full::new(Bytes::from(seen.body));
            response = Response::new(Either::Left(message.with_trailers(ready(Some(Ok(trailers))))));
        }
        Answer::Endless => response = Response::new(Either::Right(Endless)),
        Answer::Never => std::future::pending::<()>().await,
        Answer::Reset => return Err(std::io::Error::other("a stream that a test resets")),
        Answer::Close => {
            close.notify_one();
            std::future::pending::<()>().await;
        }
    }
    running.fetch_sub(1, Ordering::Relaxed);
    Ok(response)
}

fn acceptor(pem: &str, protocols: &[&str]) -> TlsAcceptor {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let mut config = builder.with_single_cert(certificates, key).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

/// An authority, of which the certificate is in a file, and what it signs.
pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// An authority with its certificate in this file.
    pub(super) fn new(file: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(file, issuer.pem()).unwrap();
        Self(issuer)
    }

    /// A certificate for this name, with its key, PEM.
    pub(super) fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        change(&mut params);
        params.signed_by(&key, &self.0).unwrap().pem() + &key.serialize_pem()
    }
}

/// A certificate that is an authority and the service's own at once, as `openssl req -x509` makes it, with its key, PEM.
pub(super) fn self_signed(name: &str) -> String {
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().pem() + &key.serialize_pem()
}
