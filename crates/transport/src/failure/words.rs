//! The words of each cause. The guide has the same table (`Connection and TLS errors` in
//! `deploy/guide/troubleshooting.md`); a test compares them.

use super::{Cause, Words};

impl Cause {
    /// All causes, in the order of a connection's steps.
    pub const ALL: &[Self] = &[
        Self::NameUnknown,
        Self::NameServerSilent,
        Self::NameWithoutAddress,
        Self::ConnectionRefused,
        Self::HostUnreachable,
        Self::NetworkUnreachable,
        Self::ConnectTimeout,
        Self::ConnectForbidden,
        Self::ConnectReset,
        Self::ConnectFailed,
        Self::ProxyLoginMissing,
        Self::ProxyLoginRejected,
        Self::ProxyVariableLoginRejected,
        Self::ProxyLoginScheme,
        Self::ProxyLoginFailed,
        Self::ProxyLoginDowngrade,
        Self::ProxyForbids,
        Self::ProxyCannotReach,
        Self::ProxyRefuses,
        Self::ProxyClosed,
        Self::ProxyNotHttp,
        Self::ClosedInHandshake,
        Self::ResetInHandshake,
        Self::SilentInHandshake,
        Self::StalledInHandshake,
        Self::LargePacketsLost,
        Self::PlainHttp,
        Self::OtherProtocol,
        Self::TlsVersion,
        Self::CipherSuites,
        Self::ExtendedMasterSecret,
        Self::ServerName,
        Self::ApplicationProtocol,
        Self::ClientCertificateMissing,
        Self::ClientCertificateRejected,
        Self::ServerAlert,
        Self::TlsBroken,
        Self::TlsLocal,
        Self::CertificateExpired,
        Self::CertificateNotYetValid,
        Self::CertificateOtherName,
        Self::CertificateWithoutNames,
        Self::CertificateWithoutAddress,
        Self::UnknownIssuer,
        Self::SelfSigned,
        Self::MissingIntermediate,
        Self::CaCertificate,
        Self::WeakKey,
        Self::SignatureAlgorithm,
        Self::BadSignature,
        Self::NameConstraint,
        Self::CriticalExtension,
        Self::CertificatePurpose,
        Self::CertificateRevoked,
        Self::CertificateMalformed,
        Self::ChainTooLarge,
        Self::CertificateRejected,
        Self::ClosedBeforeResponse,
        Self::ResetBeforeResponse,
        Self::NotHttp,
        Self::ResponseHeadInvalid,
        Self::ResponseHeadTooLarge,
        Self::RelayClosedBeforeResponse,
        Self::RelayResetBeforeResponse,
        Self::RelayNotHttp,
        Self::RelayHeadInvalid,
        Self::RelayHeadTooLarge,
        Self::RelayRedirects,
        Self::NotRelay,
        Self::UpgradeRemoved,
        Self::RelayBusy,
        Self::RelayUnreachable,
        Self::RelayRejects,
        Self::CutAfterFixedTime,
    ];

    /// Returns the words of the cause.
    pub const fn words(self) -> Words {
        let (what, means, remedy) = match self {
            Self::NameUnknown => (
                "the name is unknown",
                "the resolver of this machine states that the name does not exist",
                "correct the host name, or add it to the DNS that this machine uses",
            ),
            Self::NameServerSilent => (
                "no name server answered",
                "the name servers are down or cannot be reached; nothing is known of the name",
                "check the name servers of this machine, and that the firewall allows DNS (port 53) to them",
            ),
            Self::NameWithoutAddress => (
                "the name has no address",
                "the name exists, without an A or AAAA record",
                "add an address to the name, or correct the host name",
            ),
            Self::ConnectionRefused => (
                "connection refused",
                "the host answers, and no program listens on this port; or a firewall rejects the connection",
                "check that the server runs, and that the port is correct",
            ),
            Self::HostUnreachable => (
                "host unreachable",
                "a router or the local network reports that the host is absent",
                "check the address, and that the host is switched on",
            ),
            Self::NetworkUnreachable => (
                "network unreachable",
                "this machine has no route to that network, or no address of its kind (IPv6)",
                "check the routes and the VPN of this machine",
            ),
            Self::ConnectTimeout => (
                "no response to the connection attempt",
                "a firewall drops the packets, or no host has this address",
                "allow connections from this machine to that address and port in the firewall",
            ),
            Self::ConnectForbidden => (
                "this machine forbids the connection",
                "a firewall on this machine, or the sandbox of the service, forbids it",
                "allow the connection in the local firewall, or in the unit of the service",
            ),
            Self::ConnectReset => (
                "the connection was reset while it was opened",
                "the server, or a firewall before it, ended it at once",
                "see the log of the server and of the firewall",
            ),
            Self::ConnectFailed => (
                "the connection failed",
                "the system reports another error",
                "check the network of this machine",
            ),
            Self::ProxyLoginMissing => (
                "it requires a user and password",
                "the proxy answers 407, and none is configured",
                "set proxy_credential, or http://user:password@host:port in HTTPS_PROXY",
            ),
            Self::ProxyLoginRejected => (
                "it does not accept the user and password",
                "the proxy answers 407 to the configured user",
                "store the proxy's user and password again: `integration-bridge credential set`",
            ),
            Self::ProxyVariableLoginRejected => (
                "it does not accept the user and password of the environment variable",
                "the proxy answers 407 to the user in HTTPS_PROXY or ALL_PROXY",
                "correct user and password in HTTPS_PROXY (or ALL_PROXY), and restart the bridge",
            ),
            Self::ProxyLoginScheme => (
                "it offers no authentication that can be used here",
                "the proxy answers 407; its schemes are not supported, excluded by proxy_auth, or need another form of user",
                "set proxy_auth = \"auto\", and give the user as DOMAIN\\user for NTLM or user@REALM for Negotiate",
            ),
            Self::ProxyLoginFailed => (
                "no login could be made for it",
                "the Kerberos server (KDC) gave no ticket, or a message of the proxy is not valid",
                "read the reason above; check user, password, kerberos.kdc, and the clock of this machine",
            ),
            Self::ProxyLoginDowngrade => (
                "it offers only Basic authentication, and offered more before",
                "an attacker on the way could do that to get the password, so it is not sent",
                "if the proxy was changed on purpose: `integration-bridge reload`",
            ),
            Self::ProxyForbids => (
                "it does not allow connections to that host and port",
                "the proxy answers 403 to CONNECT",
                "have the proxy's operator allow CONNECT to that host and port",
            ),
            Self::ProxyCannotReach => (
                "it could not reach that host",
                "the proxy answers 502, 503 or 504: it cannot resolve or reach the host",
                "check the host name and port; if the proxy is not for this host, add the host to NO_PROXY",
            ),
            Self::ProxyRefuses => (
                "it does not connect",
                "the proxy answers CONNECT with another status",
                "see the proxy's log",
            ),
            Self::ProxyClosed => (
                "it closed the connection",
                "the proxy ended the connection without a response to CONNECT",
                "check that host and port of the proxy are those of an HTTP proxy, and see its log",
            ),
            Self::ProxyNotHttp => (
                "its response is not that of an HTTP proxy",
                "another kind of server listens there, such as a SOCKS proxy or a web server",
                "correct host and port of the proxy",
            ),
            Self::ClosedInHandshake => (
                "the server closed the connection during the TLS handshake",
                "the port is not for TLS, or a firewall or the server rejects this machine or the host name",
                "check the port, and see the log of the server and of a firewall before it",
            ),
            Self::ResetInHandshake => (
                "the connection was reset during the TLS handshake",
                "a firewall, or the server, rejects the host name or this machine",
                "have the firewall allow TLS to this host name, and see the log of the server",
            ),
            Self::SilentInHandshake => (
                "the server accepted the connection and did not respond to the TLS handshake",
                "the server hangs, another protocol is on this port, or large packets are lost (MTU)",
                "check that the server runs and speaks TLS on this port; on a VPN or tunnel, lower the MTU of this \
                 machine (for example to 1400)",
            ),
            Self::StalledInHandshake => (
                "the server stopped in the middle of the TLS handshake",
                "the server hangs, or large packets are lost (MTU)",
                "on a VPN or tunnel, lower the MTU of this machine (for example to 1400); otherwise restart the server",
            ),
            Self::LargePacketsLost => (
                "large packets are lost on the way: the TLS handshake succeeds with small ones only",
                "the MTU of this machine is too large for a VPN or tunnel on the way, which sends no notice of it",
                "lower the MTU of this machine's network interface (for example to 1400), or allow ICMP \
                 \"fragmentation needed\"",
            ),
            Self::PlainHttp => (
                "the server speaks plain HTTP on this port, not TLS",
                "the URL begins with https://, and the port is for http://",
                "use the server's HTTPS port, or http:// in the URL of a target without TLS",
            ),
            Self::OtherProtocol => (
                "the server speaks another protocol on this port, not TLS",
                "the port belongs to another service, such as SSH or mail",
                "correct the port in the URL",
            ),
            Self::TlsVersion => (
                "the server supports no accepted TLS version",
                "TLS 1.2 and 1.3 are accepted (TLS 1.3 alone with tls_min = \"1.3\"), and the server is older",
                "enable TLS 1.2 or 1.3 at the server, or place a TLS proxy before it",
            ),
            Self::CipherSuites => (
                "no cipher suite or key exchange in common",
                "TLS needs ECDHE with AES-GCM or ChaCha20-Poly1305; RSA key exchange and CBC are not supported",
                "enable a cipher suite such as ECDHE-RSA-AES128-GCM-SHA256 at the server, with a certificate for the \
                 host name",
            ),
            Self::ExtendedMasterSecret => (
                "the TLS 1.2 of the server lacks the extended master secret",
                "an old TLS library, or a middlebox that terminates TLS, is on the way",
                "enable TLS 1.3 at the server, or exempt the host from TLS inspection",
            ),
            Self::ServerName => (
                "the server does not serve this host name",
                "the server has no certificate for the name in the TLS handshake (SNI)",
                "use the host name that the server is configured for",
            ),
            Self::ApplicationProtocol => (
                "the server accepts neither HTTP/1.1 nor HTTP/2",
                "server and client have no application protocol in common (ALPN)",
                "check that this port is for HTTP, or allow http/1.1 at the server",
            ),
            Self::ClientCertificateMissing => (
                "the server requires a client certificate",
                "the server asked for a certificate of this machine, and there is none",
                "store one with `integration-bridge credential set` (--kind certificate), and name it as the \
                 endpoint's credential",
            ),
            Self::ClientCertificateRejected => (
                "the server rejects the client certificate",
                "the certificate is expired, revoked, or of a CA that the server does not trust",
                "store a certificate that the server accepts, with its intermediate certificates",
            ),
            Self::ServerAlert => (
                "the server ended the TLS handshake with an alert",
                "the server rejects the handshake for a reason of its own",
                "see the log of the server",
            ),
            Self::TlsBroken => (
                "the server's messages are not valid TLS",
                "its TLS is defective, or a middlebox changes the bytes",
                "update the server, and exempt the host from TLS inspection",
            ),
            Self::TlsLocal => (
                "TLS could not be started on this machine",
                "the TLS settings cannot be used, or the system has no clock or random numbers",
                "see the log of this program",
            ),
            Self::CertificateExpired => (
                "the certificate has expired",
                "the server's certificate, or that of its issuer, is no longer valid",
                "renew the certificate at the server; if the date is in the future, correct this machine's clock",
            ),
            Self::CertificateNotYetValid => (
                "the certificate is not yet valid",
                "the clock of this machine, or that of the issuing CA, is wrong",
                "correct this machine's clock (NTP); if it is correct, wait or issue the certificate again",
            ),
            Self::CertificateOtherName => (
                "the certificate is for another name than the one in the URL",
                "the host of the URL is not among the names of the certificate",
                "use one of these names in the URL, or give the server a certificate with its host name",
            ),
            Self::CertificateWithoutNames => (
                "the certificate has no subject alternative name, only a common name",
                "clients have long ignored common names (RFC 9525)",
                "issue the certificate again with the host name as a subject alternative name",
            ),
            Self::CertificateWithoutAddress => (
                "the certificate is for names, and the URL has an IP address",
                "the address is not among the subject alternative names of the certificate",
                "use one of these names in the URL, or issue the certificate with the IP address",
            ),
            Self::UnknownIssuer => (
                "the issuer of the certificate is not trusted",
                "a private CA issued it, or a proxy inspects TLS with a CA of its own",
                "set ca_file to the certificate of that CA, or exempt the host from TLS inspection",
            ),
            Self::SelfSigned => (
                "the certificate is self-signed and not trusted",
                "the certificate is its own issuer",
                "set ca_file to this certificate, or give the server one of a CA",
            ),
            Self::MissingIntermediate => (
                "the issuer of the certificate is not trusted, and the server sends no intermediate certificate",
                "the server sends its own certificate alone; its issuer is a private CA, or an intermediate CA",
                "if the issuer is a root CA (your own, or that of a proxy that inspects TLS), set ca_file to its \
                 certificate; otherwise have the server send its intermediate certificates as well",
            ),
            Self::CaCertificate => (
                "the server uses the certificate of a CA as its own",
                "the certificate may issue others, and is not one of a server",
                "set ca_file to this certificate, or issue one for the server that is not a CA (basicConstraints CA:FALSE)",
            ),
            Self::WeakKey => (
                "the key of the certificate, or of its issuer, is too short",
                "RSA keys need at least 2048 bits",
                "issue the certificate again with an RSA key of 2048 bits or more, or an ECDSA key",
            ),
            Self::SignatureAlgorithm => (
                "the certificate has a signature algorithm that is not accepted",
                "SHA-1 and MD5 are broken; other algorithms are not supported",
                "issue the certificate again with SHA-256, and an RSA or ECDSA key (P-256, P-384)",
            ),
            Self::BadSignature => (
                "a signature of the certificate, or by its key, is wrong",
                "the CA has another key than the trusted CA of the same name, or the certificate is damaged",
                "set ca_file to the present certificate of the CA",
            ),
            Self::NameConstraint => (
                "the CA may not issue certificates for this name",
                "the name constraints of a CA in the chain exclude the name",
                "use a certificate of a CA that may issue for this name",
            ),
            Self::CriticalExtension => (
                "the certificate has a critical extension that is not supported",
                "a client must reject such a certificate (RFC 5280, 4.2)",
                "issue the certificate again without the extension, or with the extension not critical",
            ),
            Self::CertificatePurpose => (
                "the certificate is not for TLS servers",
                "its extended key usage lacks serverAuth",
                "issue the certificate again with extendedKeyUsage = serverAuth",
            ),
            Self::CertificateRevoked => (
                "the certificate is revoked",
                "its CA has withdrawn it",
                "give the server a new certificate",
            ),
            Self::CertificateMalformed => (
                "the certificate cannot be read",
                "its encoding breaks the standard (RFC 5280)",
                "issue the certificate again",
            ),
            Self::ChainTooLarge => (
                "the certificate chain of the server is too large",
                "the server sends more certificates than a client accepts (64 KiB)",
                "have the server send only its certificate and the intermediate certificates",
            ),
            Self::CertificateRejected => (
                "the certificate breaks a rule of certificates",
                "a certificate of the chain cannot be used",
                "issue the certificate again, with a current tool",
            ),
            Self::ClosedBeforeResponse => (
                "the target closed the connection before it responded",
                "the target ended, restarted, closes idle connections early, or expects TLS on this port",
                "see the log of the target; if it expects TLS on this port, its URL begins with https://",
            ),
            Self::ResetBeforeResponse => (
                "the connection was reset before the target responded",
                "the target ended, or a firewall on the way ended the connection",
                "see the log of the target and of the firewall",
            ),
            Self::NotHttp => (
                "the target's response is not HTTP/1.1",
                "another protocol is on this port: often TLS with an http:// URL",
                "check scheme and port of the URL; for TLS it begins with https://",
            ),
            Self::ResponseHeadInvalid => (
                "the head of the target's response is not valid",
                "a status line or header field breaks the rules of HTTP/1.1",
                "correct the target",
            ),
            Self::ResponseHeadTooLarge => (
                "the head of the target's response is too large",
                "the target sends too many or too long header fields",
                "reduce the header fields of the target, often cookies",
            ),
            Self::RelayClosedBeforeResponse => (
                "the relay closed the connection before it responded",
                "the relay ended or restarted, or a proxy on the way ended the connection",
                "try again; if it lasts, check the proxies on the way, and ask the operator of the relay",
            ),
            Self::RelayResetBeforeResponse => (
                "the connection was reset before the relay responded",
                "the relay ended, or a firewall on the way ended the connection",
                "try again; if it lasts, have the firewall allow connections to the relay's host",
            ),
            Self::RelayNotHttp => (
                "the relay's response is not HTTP/1.1",
                "another server is at relay.url, or a proxy on the way responds in place of the relay",
                "check host and port of relay.url, and exempt the relay's host from inspection",
            ),
            Self::RelayHeadInvalid => (
                "the head of the relay's response is not valid",
                "another server is at relay.url, or a proxy on the way responds or changes the response",
                "check host and port of relay.url, and have the proxy on the way pass responses on as they are",
            ),
            Self::RelayHeadTooLarge => (
                "the head of the relay's response is too large",
                "another server is at relay.url, or a proxy on the way adds many or long header fields",
                "check host and port of relay.url, and have the proxy on the way add fewer header fields",
            ),
            Self::RelayRedirects => (
                "a redirect came in place of the relay's response",
                "a proxy on the way sends this machine to its sign-in portal, or another server is at relay.url",
                "usually a proxy on the way requires a sign-in at its portal: exempt the relay's host from it; otherwise \
                 correct relay.url",
            ),
            Self::NotRelay => (
                "the server at this URL is no integration relay",
                "it answers 404 to the path of the tunnel",
                "correct relay.url, or have the proxy before the relay pass /v1/tunnel on",
            ),
            Self::UpgradeRemoved => (
                "the WebSocket upgrade was not accepted",
                "a proxy on the way removes the upgrade, or answers in place of the relay",
                "exempt the relay's host from inspection, or have the proxy pass Upgrade: websocket on",
            ),
            Self::RelayBusy => (
                "the relay is busy or a standby",
                "it answers 429 or 503; the bridge tries again",
                "wait; if it lasts, ask the operator of the relay",
            ),
            Self::RelayUnreachable => (
                "a proxy before the relay does not reach it",
                "a balancer answers 502 or 504 in place of the relay",
                "ask the operator of the relay to check the relay and its balancer",
            ),
            Self::RelayRejects => (
                "the request to open a tunnel was rejected",
                "the relay, or a proxy before it, does not accept the request",
                "read the reason above; without one, a proxy on the way answered: check its rules for the relay's host",
            ),
            Self::CutAfterFixedTime => (
                "the connection is cut after the same time again and again",
                "a proxy, balancer or firewall on the way limits how long a connection may last",
                "raise that limit for the relay's host: the tunnel is one long WebSocket connection",
            ),
        };
        Words {
            what,
            means,
            remedy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::fmt::Write as _;

    /// The section of the guide, and where its table begins and ends.
    const GUIDE: &str = "../../deploy/guide/troubleshooting.md";
    const SECTION: &str = "## Connection and TLS errors";
    const HEADER: &str = "| shown | means | do |\n| --- | --- | --- |\n";

    #[test]
    fn guide_has_the_words_of_every_cause() {
        let mut table = HEADER.to_owned();
        for cause in Cause::ALL {
            let Words {
                what,
                means,
                remedy,
            } = cause.words();
            writeln!(table, "| {what} | {means} | {remedy} |").unwrap();
        }
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(GUIDE);
        let guide = std::fs::read_to_string(path).unwrap();
        let section = guide.split(SECTION).nth(1).expect("the section");
        let section = section.split("\n## ").next().unwrap();
        let (_, shown) = section.split_once(HEADER).expect("the table");
        let shown = shown.split("\n\n").next().unwrap().trim_end();
        assert_eq!(
            format!("{HEADER}{shown}\n"),
            table,
            "the table of {SECTION:?} in the guide must be this one:\n{table}"
        );
    }

    #[test]
    fn words_are_plain_and_differ() {
        let mut seen = HashSet::new();
        for cause in Cause::ALL {
            let words = cause.words();
            assert!(seen.insert(words.what), "{cause:?}");
            let all = format!("{} {} {}", words.what, words.means, words.remedy);
            let lower = all.to_lowercase();
            for library in [
                "rustls",
                "hyper",
                "webpki",
                "tokio",
                "tungstenite",
                "os error",
                "serde",
            ] {
                assert!(!lower.contains(library), "{all}");
            }
            assert!(!all.contains('|') && !words.remedy.ends_with('.'), "{all}");
            // A detail on the wire has 512 bytes, and the name of the target is a part of it.
            assert!(words.what.len() + words.remedy.len() <= 300, "{all}");
        }
        assert_eq!(
            Cause::ALL.len(),
            Cause::CutAfterFixedTime as usize + 1,
            "one is missing"
        );
    }
}
