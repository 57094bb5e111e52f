//! Connections that fail: each cause has its own words, which name what to do, and no library's.

mod cases;
mod pki;
mod servers;

use cases::Cases;
use pki::{CA, LOCALHOST, Pki, Spec};
use servers::{Blackhole, Raw};
use support::ports;

/// The alert record of TLS 1.2 (RFC 5246, 7.2): fatal, with a description.
macro_rules! alert {
    ($description:literal) => {
        Raw::Answers(&[21, 3, 3, 0, 2, 2, $description])
    };
}

// Below the macro, which it uses.
mod relay_side;

#[tokio::test]
async fn certificate_faults_have_their_own_words() {
    let pki = Pki::new();
    let mut cases = Cases::default();
    let spec = Spec::default();
    let www: &[&str] = &[];
    let old = ("20200101000000Z", "20210101000000Z");
    let expired = pki.make(
        "expired",
        Spec {
            validity: old,
            ..spec
        },
    );
    cases
        .openssl(
            "expired",
            &expired,
            www,
            &["has expired", "2021-01-01", "renew"],
        )
        .await;
    let future = ("20980101000000Z", "20990101000000Z");
    let future = pki.make(
        "future",
        Spec {
            validity: future,
            ..spec
        },
    );
    cases
        .openssl(
            "future",
            &future,
            www,
            &["not yet valid", "2098-01-01", "clock"],
        )
        .await;
    let names = "subjectAltName=DNS:wiki.corp.example,DNS:ci.corp.example";
    let other = pki.make(
        "other",
        Spec {
            extensions: names,
            ..spec
        },
    );
    let words = &["another name", "wiki.corp.example, ci.corp.example"];
    cases.openssl("other-name", &other, www, words).await;
    let bare = pki.make(
        "bare",
        Spec {
            extensions: "basicConstraints=CA:FALSE",
            ..spec
        },
    );
    cases
        .openssl(
            "common-name",
            &bare,
            www,
            &["subject alternative name", "\"localhost\""],
        )
        .await;
    let fine = pki.make("fine", spec);
    cases
        .openssl(
            "address",
            &fine,
            www,
            &["IP address", "it is for localhost"],
        )
        .await;
    if let Some(case) = cases.all.last_mut() {
        case.url = case.url.replace("localhost", "127.0.0.1");
    }
    let own = pki.make(
        "own",
        Spec {
            signer: None,
            subject: "My Box",
            ..spec
        },
    );
    cases
        .openssl(
            "self-signed",
            &own,
            www,
            &["self-signed", "\"My Box\"", "ca_file"],
        )
        .await;

    let authority = Spec {
        signer: None,
        subject: "Other Root",
        extensions: CA,
        ..spec
    };
    let other_root = pki.make("other-root", authority);
    let leaf = pki.make(
        "unknown",
        Spec {
            signer: Some("other-root"),
            ..spec
        },
    );
    let chain = other_root.cert.to_str().unwrap();
    let words = &["not trusted", "\"Other Root\"", "ca_file", "TLS inspection"];
    cases
        .openssl("unknown-issuer", &leaf, &["-cert_chain", chain], words)
        .await;
    let issuing = Spec {
        subject: "Issuing CA",
        extensions: CA,
        ..spec
    };
    pki.make("issuing", issuing);
    let leaf = pki.make(
        "lone",
        Spec {
            signer: Some("issuing"),
            ..spec
        },
    );
    let words = &[
        "sends no intermediate",
        "\"Issuing CA\"",
        "intermediate certificates as well",
    ];
    cases.openssl("intermediate", &leaf, www, words).await;

    let ca_leaf = format!("{CA}\nsubjectAltName=DNS:localhost");
    let ca_leaf = pki.make(
        "ca-leaf",
        Spec {
            extensions: &ca_leaf,
            ..spec
        },
    );
    cases
        .openssl(
            "ca-as-leaf",
            &ca_leaf,
            www,
            &["certificate of a CA", "CA:FALSE"],
        )
        .await;
    let rsa = ["-newkey", "rsa:1024"];
    let weak = pki.make("weak", Spec { key: &rsa, ..spec });
    let low = ["-cipher", "DEFAULT@SECLEVEL=0"];
    cases
        .openssl("rsa-1024", &weak, &low, &["too short", "1024 bits", "2048"])
        .await;
    let rsa = ["-newkey", "rsa:2048"];
    let sha1 = pki.make(
        "sha1",
        Spec {
            key: &rsa,
            digest: "sha1",
            ..spec
        },
    );
    cases
        .openssl(
            "sha-1",
            &sha1,
            &low,
            &["signature algorithm", "SHA-1", "SHA-256"],
        )
        .await;
    let client = format!("{LOCALHOST}\nextendedKeyUsage=clientAuth");
    let client = pki.make(
        "client",
        Spec {
            extensions: &client,
            ..spec
        },
    );
    cases
        .openssl(
            "purpose",
            &client,
            www,
            &["not for TLS servers", "serverAuth"],
        )
        .await;
    let critical = format!("{LOCALHOST}\n1.2.3.4.5=critical,ASN1:NULL");
    let critical = pki.make(
        "critical",
        Spec {
            extensions: &critical,
            ..spec
        },
    );
    cases
        .openssl("critical", &critical, www, &["critical extension"])
        .await;
    let limited = format!("{CA}\nnameConstraints=critical,permitted;DNS:corp.example");
    let limited = Spec {
        subject: "Corp CA",
        extensions: &limited,
        ..spec
    };
    let limited = pki.make("limited", limited);
    let leaf = pki.make(
        "outside",
        Spec {
            signer: Some("limited"),
            ..spec
        },
    );
    let chain = limited.cert.to_str().unwrap();
    cases
        .openssl(
            "constraint",
            &leaf,
            &["-cert_chain", chain],
            &["may not issue", "this name"],
        )
        .await;
    cases.check(&pki).await;
}

#[tokio::test]
async fn handshake_faults_have_their_own_words() {
    let pki = Pki::new();
    let mut cases = Cases::default();
    let spec = Spec::default();
    let rsa = ["-newkey", "rsa:2048"];
    let rsa = pki.make("rsa", Spec { key: &rsa, ..spec });
    let low = "DEFAULT@SECLEVEL=0";
    for (name, version) in [("tls-1-0", "-tls1"), ("tls-1-1", "-tls1_1")] {
        let words = &["no accepted TLS version", "enable TLS 1.2 or 1.3"];
        cases
            .openssl(name, &rsa, &[version, "-cipher", low], words)
            .await;
    }
    let ciphers = "AES128-GCM-SHA256:AES256-SHA256@SECLEVEL=0";
    let words = &[
        "no cipher suite or key exchange",
        "ECDHE-RSA-AES128-GCM-SHA256",
    ];
    cases
        .openssl(
            "rsa-exchange",
            &rsa,
            &["-tls1_2", "-cipher", ciphers],
            words,
        )
        .await;
    let ciphers = "ECDHE-RSA-AES128-SHA256:ECDHE-RSA-AES256-SHA@SECLEVEL=0";
    cases
        .openssl("cbc", &rsa, &["-tls1_2", "-cipher", ciphers], words)
        .await;
    let root = pki.file("root.crt");
    let verify = [
        "-Verify",
        "1",
        "-verify_return_error",
        "-CAfile",
        root.to_str().unwrap(),
    ];
    let words = &["requires a client certificate", "credential set"];
    let old = [&verify[..], &["-tls1_2"]].concat();
    cases.openssl("client-cert-12", &rsa, &old, words).await;
    // With TLS 1.3 the alert arrives after the handshake.
    cases
        .openssl(
            "client-cert-13",
            &rsa,
            &[&verify[..], &["-tls1_3"]].concat(),
            words,
        )
        .await;
    if let Some(case) = cases.all.last_mut() {
        case.code = "target_closed";
    }

    let words = &["plain HTTP on this port", "HTTPS port"];
    cases
        .tls(
            "plain-http",
            Raw::Answers(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
            words,
        )
        .await;
    cases
        .tls(
            "ssh",
            Raw::Greets(b"SSH-2.0-OpenSSH_9.2\r\n"),
            &["another protocol", "SSH server"],
        )
        .await;
    let mail = Raw::Greets(b"220 mail.example ESMTP ready\r\n");
    cases
        .tls("smtp", mail, &["another protocol", "mail or FTP"])
        .await;
    let closed = &["closed the connection during the TLS handshake"];
    cases.tls("closes-later", Raw::ClosesLater, closed).await;
    cases
        .tls("closes-at-once", Raw::Closes, &["during the TLS handshake"])
        .await;
    cases
        .tls(
            "resets",
            Raw::Resets,
            &["reset during the TLS handshake", "firewall"],
        )
        .await;
    cases
        .tls(
            "silent",
            Raw::Silent,
            &["did not respond to the TLS handshake", "for 3s", "MTU"],
        )
        .await;
    // The begin of a record that promises more.
    let begun = Raw::Stalls(&[22, 3, 3, 1, 0, 2, 0, 0]);
    cases
        .tls(
            "stalls",
            begun,
            &["stopped in the middle of the TLS handshake", "MTU"],
        )
        .await;
    cases
        .tls("sni", alert!(112), &["does not serve this host name"])
        .await;
    cases
        .tls("alpn", alert!(120), &["neither HTTP/1.1 nor HTTP/2"])
        .await;
    cases
        .tls(
            "refuses",
            alert!(40),
            &["no cipher suite", "TLS alert handshake_failure"],
        )
        .await;
    cases
        .tls(
            "internal",
            alert!(80),
            &["TLS alert internal_error", "log of the server"],
        )
        .await;
    // A certificate message that is longer than any client accepts (64 KiB).
    let huge = Raw::Stalls(&[22, 3, 3, 0, 4, 11, 0xff, 0xff, 0xff]);
    cases
        .tls(
            "huge-chain",
            huge,
            &["certificate chain of the server is too large"],
        )
        .await;
    cases.check(&pki).await;
}

#[tokio::test]
async fn network_and_http_faults_have_their_own_words() {
    let pki = Pki::new();
    let mut cases = Cases::default();
    let refused = format!("https://127.0.0.1:{}/", ports::free());
    cases.add(
        "refused",
        refused,
        "target_refused",
        &["connection refused", "server runs"],
    );
    let unknown = "https://no-such-host.invalid/".to_owned();
    cases.add(
        "unknown",
        unknown,
        "target_dns",
        &["could not be resolved", "DNS"],
    );
    let hole = Blackhole::start().await;
    let url = format!("https://{}/", hole.address);
    cases.add(
        "dropped",
        url,
        "target_refused",
        &[
            "no response to the connection attempt",
            "within 3.0 s",
            "firewall",
        ],
    );

    let tls = pki.make("fine", Spec::default());
    cases
        .openssl(
            "tls-port",
            &tls,
            &[],
            &["before it responded", "expects TLS", "https://"],
        )
        .await;
    if let Some(case) = cases.all.last_mut() {
        case.url = case.url.replace("https", "http");
        case.code = "target_closed";
    }
    let ssh = Raw::Greets(b"SSH-2.0-OpenSSH_9.2\r\n");
    cases
        .http(
            "http-ssh",
            ssh,
            "target_protocol",
            &["not HTTP/1.1", "scheme and port"],
        )
        .await;
    let words = &["not HTTP/1.1"];
    cases
        .http(
            "http-09",
            Raw::Answers(b"<html>hello</html>\n"),
            "target_protocol",
            words,
        )
        .await;
    let status = Raw::Answers(b"HTTP/1.1 abc Bad\r\n\r\n");
    cases
        .http(
            "status",
            status,
            "target_protocol",
            &["head of the target's response", "status line"],
        )
        .await;
    let length = Raw::Answers(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n");
    cases
        .http("length", length, "target_protocol", &["Content-Length"])
        .await;
    let field = Raw::Answers(b"HTTP/1.1 200 OK\r\nBad\x01Name: x\r\n\r\n");
    cases
        .http("field", field, "target_protocol", &["a header field"])
        .await;
    let words = &["closed the connection before it responded"];
    cases
        .http("http-closes", Raw::ClosesLater, "target_closed", words)
        .await;
    let words = &["reset before the target responded"];
    cases
        .http("http-resets", Raw::Resets, "target_closed", words)
        .await;
    cases.check(&pki).await;
}
