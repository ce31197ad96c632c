//! TLS by rustls, for the load and for whoever else connects to the service.
//!
//! The cryptography is that of *ring*. It needs a C compiler and nothing else; aws-lc, rustls' own choice, also needs
//! CMake on some platforms. A connection makes a whole handshake each time, as one of Go's `net/http` does by default.

use std::{io, path::Path, sync::Arc};

use memgate_evidence::{
    error::{Error, InputError, Result},
    plan,
};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use tokio_rustls::TlsConnector;

use super::{RequestFailure, TlsFailure, dial::Stream};

/// Makes TLS connections.
#[derive(Clone)]
pub(crate) struct Connector {
    inner: TlsConnector,
    is_http2: bool,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("is_http2", &self.is_http2).finish_non_exhaustive()
    }
}

impl Connector {
    /// A connector that accepts these certificates. With `is_http2`, it asks for HTTP/2 by ALPN, and accepts nothing
    /// else.
    ///
    /// # Errors
    /// Fails with [`Error::Input`] if the file has no certificates or cannot be read.
    pub(crate) fn new(tls: &plan::Tls, is_http2: bool) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match tls {
            plan::Tls::Insecure => Arc::new(Anything(Arc::clone(&provider))),
            plan::Tls::Ca(file) => Arc::new(Authorities::of(file, &provider)?),
        };
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let bug = |error: rustls::Error| {
            let help = "this is a bug in memgate; please report it";
            Error::caused(memgate_evidence::error::Stage::Load, "TLS cannot be set up", error, help)
        };
        let builder = builder.map_err(bug)?.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = builder.with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.alpn_protocols = if is_http2 { vec![b"h2".to_vec()] } else { vec![b"http/1.1".to_vec()] };
        Ok(Self { inner: TlsConnector::from(Arc::new(config)), is_http2 })
    }

    /// Makes a TLS connection of a plain one. `host` is the host of the URL: a name, which the service is told (SNI), or
    /// an address.
    pub(super) async fn connect(&self, stream: Box<dyn Stream>, host: &str) -> Result<Box<dyn Stream>, RequestFailure> {
        let unnamed = |_| RequestFailure::Tls(TlsFailure::OtherName);
        let name = ServerName::try_from(host.to_owned()).map_err(unnamed)?;
        let stream = self.inner.connect(name, stream).await.map_err(|error| self.failure(&error))?;
        match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Ok(Box::new(stream)),
            Some(_) | None if self.is_http2 => Err(RequestFailure::Tls(TlsFailure::NoHttp2)),
            Some(_) | None => Ok(Box::new(stream)),
        }
    }

    /// Why a handshake failed.
    fn failure(&self, error: &io::Error) -> RequestFailure {
        let reason = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        RequestFailure::Tls(match reason {
            None => return RequestFailure::from_io(error),
            Some(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => TlsFailure::OtherName,
            // Another authority may have the same name.
            Some(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            )) => TlsFailure::UnknownIssuer,
            Some(rustls::Error::InvalidCertificate(_)) => TlsFailure::Certificate,
            Some(rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol)) => {
                match self.is_http2 {
                    true => TlsFailure::NoHttp2,
                    false => TlsFailure::NoHttp1,
                }
            }
            Some(_) => TlsFailure::Handshake,
        })
    }
}

/// Accepts every certificate.
#[derive(Debug)]
struct Anything(Arc<CryptoProvider>);

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Accepts certificates by the authorities of a file, and those that are in the file themselves.
#[derive(Debug)]
struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    verifier: Arc<WebPkiServerVerifier>,
}

impl Authorities {
    fn of(file: &Path, provider: &Arc<CryptoProvider>) -> Result<Self> {
        let wrong = |why: &dyn std::fmt::Display| -> Error {
            let message = format!("The certificates of `load.tls.ca` in {} cannot be used: {why}.", file.display());
            InputError::new(message, "Name a PEM file with the certificates that the service's one is checked by.")
                .into()
        };
        let read = CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))?;
        let certificates = read.collect::<Result<Vec<_>, _>>().map_err(|error| wrong(&error))?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            roots.add(certificate.clone()).map_err(|error| wrong(&error))?;
        }
        if roots.is_empty() {
            return Err(wrong(&"it has no certificate"));
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        Ok(Self { certificates, verifier: verifier.build().map_err(|error| wrong(&error))? })
    }
}

impl ServerCertVerifier for Authorities {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.verifier.verify_server_cert(certificate, others, name, ocsp, now) {
            // `openssl req -x509` makes a certificate that is an authority and the service's own at once, which webpki
            // refuses (`CaUsedAsEndEntity`).
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_)))
                if self.certificates.iter().any(|own| own == certificate) =>
            {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}
