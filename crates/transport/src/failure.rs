//! Why a connection, a TLS handshake or a first response failed: one list of causes for relay and bridge.
//!
//! ```text
//! io::Error, rustls::Error, the resolver's error, a proxy's status --> Diagnosis { cause, found } --> text
//! ```
//!
//! Each cause has words for people: what failed, what that means, and one remedy. They are shown to callers, in
//! both logs, by `status`, `doctor` and `pair`, and in the guide. A library's own text is never shown: it names
//! types of this program, and no remedy.
//!
//! ```text
//! words    the text of each cause            network   names and TCP
//! tls      a handshake with a server         chain     what is wrong with a certificate chain
//! observer records a handshake               client    handshakes that clients of a server fail
//! redirect a redirect in place of the relay's response
//! ```

mod chain;
pub mod client;
mod network;
mod observer;
mod redirect;
mod tls;
mod words;

pub(crate) use chain::old_signature;
pub use network::{connect, ended, lookup, reach};
pub use observer::handshake;
pub(crate) use observer::{Observer, certificate_resolver};
pub use redirect::redirect;
pub use tls::{after_handshake, silent};

use runtime::peer_text::is_plain;
use std::fmt;

/// Longest text about what was found, in bytes. A peer chooses a part of it.
const FOUND_MAX_BYTES: usize = 160;

/// Why a connection failed. [`Cause::ALL`] has the order of the guide: the steps of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The resolver states that the name does not exist.
    NameUnknown,
    /// No name server answered.
    NameServerSilent,
    /// The name exists and has no address.
    NameWithoutAddress,
    /// No program listens on the port.
    ConnectionRefused,
    /// A router or the local network reports the host as absent.
    HostUnreachable,
    /// This machine has no route.
    NetworkUnreachable,
    /// Nothing answers the connection attempt.
    ConnectTimeout,
    /// This machine's own rules forbid the connection.
    ConnectForbidden,
    /// The connection was reset before it existed.
    ConnectReset,
    /// Another error of the system.
    ConnectFailed,
    /// The server closed the connection in the handshake.
    ClosedInHandshake,
    /// The connection was reset in the handshake.
    ResetInHandshake,
    /// The server accepted the connection and sent nothing.
    SilentInHandshake,
    /// The server began the handshake and did not finish it.
    StalledInHandshake,
    /// Only small packets arrive.
    LargePacketsLost,
    /// The server speaks plain HTTP on this port.
    PlainHttp,
    /// The server speaks another protocol on this port.
    OtherProtocol,
    /// No version of TLS in common.
    TlsVersion,
    /// No cipher suite or key exchange in common.
    CipherSuites,
    /// The server's TLS 1.2 lacks the extended master secret.
    ExtendedMasterSecret,
    /// The server does not serve the host name.
    ServerName,
    /// No application protocol in common.
    ApplicationProtocol,
    /// The server wants a client certificate, and there is none.
    ClientCertificateMissing,
    /// The server rejects the client certificate.
    ClientCertificateRejected,
    /// The server ended the handshake with another alert.
    ServerAlert,
    /// The server's messages are not valid TLS.
    TlsBroken,
    /// TLS could not be started here.
    TlsLocal,
    /// A certificate has expired.
    CertificateExpired,
    /// A certificate is not yet valid.
    CertificateNotYetValid,
    /// The certificate has other names.
    CertificateOtherName,
    /// The certificate has a common name and no alternative names.
    CertificateWithoutNames,
    /// The certificate has names, and the URL has an address.
    CertificateWithoutAddress,
    /// The CA is not trusted.
    UnknownIssuer,
    /// The certificate is signed by its own key.
    SelfSigned,
    /// The server does not send the intermediate certificate.
    MissingIntermediate,
    /// The certificate is that of a CA.
    CaCertificate,
    /// A key is too short.
    WeakKey,
    /// A signature uses SHA-1 or another unsupported algorithm.
    SignatureAlgorithm,
    /// A signature is wrong.
    BadSignature,
    /// A CA may not issue for this name.
    NameConstraint,
    /// A critical extension is unknown.
    CriticalExtension,
    /// The certificate is for another purpose.
    CertificatePurpose,
    /// The certificate is revoked.
    CertificateRevoked,
    /// The certificate cannot be read.
    CertificateMalformed,
    /// The chain is too long or too large.
    ChainTooLarge,
    /// Another rule that the certificate breaks.
    CertificateRejected,
    /// The server closed the connection before it responded.
    ClosedBeforeResponse,
    /// The connection was reset before a response.
    ResetBeforeResponse,
    /// The response is not HTTP.
    NotHttp,
    /// The head of the response is not valid.
    ResponseHeadInvalid,
    /// The head of the response is too large.
    ResponseHeadTooLarge,
    /// The proxy wants a login.
    ProxyLoginMissing,
    /// The proxy rejects the login.
    ProxyLoginRejected,
    /// The proxy rejects the login that an environment variable has.
    ProxyVariableLoginRejected,
    /// The proxy offers no scheme that can be used.
    ProxyLoginScheme,
    /// The messages of a login could not be made.
    ProxyLoginFailed,
    /// The proxy offered more than Basic before.
    ProxyLoginDowngrade,
    /// The proxy forbids the destination.
    ProxyForbids,
    /// The proxy cannot reach the destination.
    ProxyCannotReach,
    /// Another status of the proxy.
    ProxyRefuses,
    /// The proxy closed the connection.
    ProxyClosed,
    /// The proxy's response is not HTTP.
    ProxyNotHttp,
    /// The relay closed the connection before it responded.
    RelayClosedBeforeResponse,
    /// The connection to the relay was reset before a response.
    RelayResetBeforeResponse,
    /// The relay's response is not HTTP.
    RelayNotHttp,
    /// The head of the relay's response is not valid.
    RelayHeadInvalid,
    /// The head of the relay's response is too large.
    RelayHeadTooLarge,
    /// A redirect came in place of the relay's response.
    RelayRedirects,
    /// The server is no integration relay.
    NotRelay,
    /// The WebSocket upgrade is removed on the way.
    UpgradeRemoved,
    /// The relay has no capacity now, or is a standby.
    RelayBusy,
    /// A balancer cannot reach the relay.
    RelayUnreachable,
    /// The relay, or something before it, rejects the request.
    RelayRejects,
    /// The connection is cut after the same time again and again.
    CutAfterFixedTime,
}

/// The words of a cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Words {
    /// What failed.
    pub what: &'static str,
    /// What that means.
    pub means: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// A cause, and what was found in this case.
///
/// `Display` has both and no remedy: `status` and the logs have a field of its own for it. [`Self::with_remedy`]
/// has all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    cause: Cause,
    found: Option<String>,
}

impl Diagnosis {
    /// Returns a cause with what was found, such as the names of a certificate. Control characters are replaced,
    /// and a long text is truncated: a peer may have chosen it.
    pub fn new(cause: Cause, found: impl Into<String>) -> Self {
        Self {
            cause,
            found: Some(clean(&found.into())),
        }
    }

    /// Returns a cause with the reason that a peer stated, up to `max` bytes of it.
    pub fn explained(cause: Cause, reason: &str, max: usize) -> Self {
        Self {
            cause,
            found: Some(bounded(reason, max)),
        }
    }

    /// Returns the same of a response that the relay sent, or a server in its place: the words name the relay instead
    /// of a target.
    #[must_use]
    pub fn of_relay(self) -> Self {
        let cause = match self.cause {
            Cause::ClosedBeforeResponse => Cause::RelayClosedBeforeResponse,
            Cause::ResetBeforeResponse => Cause::RelayResetBeforeResponse,
            Cause::NotHttp => Cause::RelayNotHttp,
            Cause::ResponseHeadInvalid => Cause::RelayHeadInvalid,
            Cause::ResponseHeadTooLarge => Cause::RelayHeadTooLarge,
            // All other words name the server.
            cause => cause,
        };
        Self { cause, ..self }
    }

    /// Returns the cause.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// Returns what to do.
    pub fn remedy(&self) -> &'static str {
        self.cause.words().remedy
    }

    /// Splits a text that ends with the remedy of a cause, as [`Self::with_remedy`] makes it. A failure crosses the
    /// wire as one text, and `doctor` shows its remedy on a line of its own.
    pub fn split(text: &str) -> Option<(&str, &'static str)> {
        Cause::ALL.iter().find_map(|cause| {
            let remedy = cause.words().remedy;
            let what = text.strip_suffix(remedy)?.strip_suffix("; ")?;
            Some((what, remedy))
        })
    }

    /// Returns the whole text: what failed, what was found, and what to do.
    pub fn with_remedy(&self) -> String {
        format!("{self}; {}", self.remedy())
    }
}

impl From<Cause> for Diagnosis {
    fn from(cause: Cause) -> Self {
        Self { cause, found: None }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.cause.words().what)?;
        match &self.found {
            Some(found) => write!(f, " ({found})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Diagnosis {}

/// Returns a text of a peer that is safe in a log line and an error document, and not too long.
pub fn clean(text: &str) -> String {
    bounded(text, FOUND_MAX_BYTES)
}

/// Returns a text of a peer without control characters, of at most `max` bytes and three dots.
pub fn bounded(text: &str, max: usize) -> String {
    let mut clean = String::with_capacity(text.len().min(max));
    // Spaces are merged: a page of HTML would otherwise be mostly space.
    for word in text.split(|one: char| one.is_whitespace() || one.is_control()) {
        if word.is_empty() {
            continue;
        }
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.extend(word.chars().filter(|one| is_plain(*one)));
        if clean.len() > max {
            let end = clean.floor_char_boundary(max);
            clean.truncate(end);
            clean.push_str("...");
            break;
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagnosis_prints_cause_finding_and_remedy() {
        let plain = Diagnosis::from(Cause::ConnectionRefused);
        assert_eq!(plain.to_string(), "connection refused");
        let found = Diagnosis::new(Cause::CertificateOtherName, "it is for a.example");
        assert!(
            found.to_string().ends_with("(it is for a.example)"),
            "{found}"
        );
        let all = found.with_remedy();
        assert!(
            all.starts_with(&found.to_string()) && all.ends_with(found.remedy()),
            "{all}"
        );
        let split = Diagnosis::split(&all).unwrap();
        assert_eq!(split, (found.to_string().as_str(), found.remedy()));
        assert_eq!(Diagnosis::split("anything else"), None);
    }

    #[test]
    fn text_of_a_peer_is_one_bounded_line() {
        assert_eq!(clean("a\r\n\x1b[31m\tb\u{202e}c"), "a [31m bc");
        let long = clean(&"ä".repeat(500));
        assert!(
            long.len() <= FOUND_MAX_BYTES + 3 && long.ends_with("..."),
            "{long}"
        );
    }
}
