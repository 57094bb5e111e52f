//! Runs a TLS handshake with a server, and keeps what explains its failure.
//!
//! rustls names the rule that a certificate breaks, and not the certificate. A handshake therefore runs in a scope
//! of its own, into which verifier and certificate resolver write: they are shared by all connections of a config,
//! and the scope is not. Nothing is kept of a handshake that succeeds.
//!
//! ```text
//! handshake --scope--> verifier: rejected chain          --> tls::diagnose
//!                      resolver: certificate requested
//!                      socket:   first bytes of the server
//! ```

use super::{Cause, Diagnosis, tls};
use crate::read_ahead::{ClientStream, ReadAhead};
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use std::cell::RefCell;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// First bytes of a server that are kept: enough for `HTTP/1.1 ` and for the banners of mail and SSH servers.
const FIRST_BYTES_MAX: usize = 16;

/// Certificates of a rejected chain that are kept.
const CHAIN_MAX: usize = 8;

tokio::task_local! {
    static SEEN: RefCell<Seen>;
}

/// What was seen of a handshake.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The chain that was rejected, leaf first.
    pub(super) chain: Vec<CertificateDer<'static>>,
    /// Whether the server requested a client certificate.
    pub(super) requested: bool,
    /// Whether there was one to send.
    pub(super) has_certificate: bool,
    /// The first bytes that the server sent.
    pub(super) first: Vec<u8>,
    /// The error of the socket. Reading the first bytes takes it from the socket, and the handshake then sees a plain
    /// end.
    pub(super) error: Option<ErrorKind>,
}

fn note(add: impl FnOnce(&mut Seen)) {
    // Without a scope, as in a test of the config alone, there is nothing to explain.
    let _ = SEEN.try_with(|seen| add(&mut seen.borrow_mut()));
}

fn note_chain<'a>(chain: impl Iterator<Item = &'a CertificateDer<'a>>) {
    let chain = chain.take(CHAIN_MAX).map(|one| one.clone().into_owned());
    let chain = chain.collect();
    note(|seen| seen.chain = chain);
}

/// Makes a TLS connection to a server, within `limit`. It is read ahead after the handshake.
///
/// # Errors
/// Why there is none. A limit that passes is [`Cause::SilentInHandshake`] or [`Cause::StalledInHandshake`].
pub async fn handshake(
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    stream: TcpStream,
    limit: Duration,
) -> Result<ClientStream, Diagnosis> {
    let scope = async {
        let stream = ReadAhead::new(stream);
        let mut connecting = TlsConnector::from(config).connect(name.clone(), stream);
        let steps = poll_fn(|context| {
            // The server's first bytes are read here without being taken: one system call for each new
            // connection. It tells a plain HTTP server from a broken one.
            if let Some(stream) = connecting.get_ref() {
                peek(stream.get_ref(), context);
            }
            Pin::new(&mut connecting).poll(context)
        });
        let done = timeout(limit, steps).await;
        let seen = SEEN.with(RefCell::take);
        match done {
            Ok(Ok(mut stream)) => {
                stream.get_mut().0.enable();
                Ok(stream)
            }
            Ok(Err(error)) => Err(tls::diagnose(&error, &seen, &name)),
            Err(_) => Err(match seen.first.is_empty() {
                true => Diagnosis::new(Cause::SilentInHandshake, format!("for {limit:?}")),
                false => Diagnosis::new(Cause::StalledInHandshake, format!("for {limit:?}")),
            }),
        }
    };
    SEEN.scope(RefCell::default(), scope).await
}

/// Keeps the first bytes that a server sent, if there are any by now.
fn peek(stream: &TcpStream, context: &mut Context<'_>) {
    if SEEN.with(|seen| !seen.borrow().first.is_empty()) {
        return;
    }
    let mut space = [0; FIRST_BYTES_MAX];
    let mut space = ReadBuf::new(&mut space);
    match stream.poll_peek(context, &mut space) {
        Poll::Ready(Ok(_)) => note(|seen| seen.first.extend_from_slice(space.filled())),
        Poll::Ready(Err(error)) => note(|seen| seen.error = Some(error.kind())),
        Poll::Pending => {}
    }
}

/// A verifier, and the chain of each rejected certificate.
#[derive(Debug)]
pub(crate) struct Observer(Arc<dyn ServerCertVerifier>);

impl Observer {
    pub(crate) fn new(inner: Arc<dyn ServerCertVerifier>) -> Arc<Self> {
        Arc::new(Self(inner))
    }
}

impl ServerCertVerifier for Observer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.0.verify_server_cert(leaf, others, name, ocsp, now);
        if verified.is_err() {
            note_chain(std::iter::once(leaf).chain(others));
        }
        verified
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verified = self
            .0
            .verify_tls12_signature(message, certificate, signature);
        if verified.is_err() {
            note_chain(std::iter::once(certificate));
        }
        verified
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verified = self
            .0
            .verify_tls13_signature(message, certificate, signature);
        if verified.is_err() {
            note_chain(std::iter::once(certificate));
        }
        verified
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// The resolver of a config, and whether a server asked for a certificate: without one, many servers end the
/// handshake with an alert that says nothing of certificates.
#[derive(Debug)]
struct NotingResolver(Arc<dyn ResolvesClientCert>);

/// Returns a resolver that notes requests for a client certificate.
pub(crate) fn certificate_resolver(
    inner: Arc<dyn ResolvesClientCert>,
) -> Arc<dyn ResolvesClientCert> {
    Arc::new(NotingResolver(inner))
}

impl ResolvesClientCert for NotingResolver {
    fn resolve(&self, issuers: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let found = self.0.resolve(issuers, schemes);
        note(|seen| {
            seen.requested = true;
            seen.has_certificate = found.is_some();
        });
        found
    }

    fn only_raw_public_keys(&self) -> bool {
        self.0.only_raw_public_keys()
    }

    fn has_certs(&self) -> bool {
        self.0.has_certs()
    }
}
