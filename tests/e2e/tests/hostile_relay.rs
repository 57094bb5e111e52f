//! A hostile relay: whatever it requests, the bridge dials nothing outside the policy, sends no credential
//! elsewhere, stays within its memory limit, and ends the session with a reason.

use e2e::hostile_relay::{Came, HostileRelay, ask, begin, came, head, url};
use protocol::Code;
use protocol::frame::{BodyLength, HeadersBuilder, RequestTarget};
use protocol::session::EndReason;

use std::time::Instant;
use support::setup::Allow;
use support::{LONG_TIMEOUT, RawTarget, Target, TestEnv};
use transport::Session;

/// A bridge with a hostile relay, and targets that it may and may not reach.
struct HostileEnv {
    site: TestEnv,
    relay: HostileRelay,
    session: Session,
    /// It listens, and nothing allows it.
    forbidden: Target,
}

async fn start_hostile() -> HostileEnv {
    let forbidden = Target::start().await;
    let site = TestEnv::builder()
        .bridge(|bridge| {
            bridge
                .set("limits.streams_max", 200)
                .set("limits.request_max", "1MiB")
                .set("limits.memory_max", "200MiB")
        })
        .start()
        .await;
    let secret = site.dir().join("secret");
    std::fs::write(&secret, "never-to-be-seen").unwrap();
    let secret = secret.to_str().unwrap();
    // For a host of its own; another for the one that may be called.
    for (name, origin) in [
        ("vault", "https://vault.corp.example".to_owned()),
        ("own", site.target.url("").trim_end_matches('/').to_owned()),
    ] {
        let set = [
            "credential",
            "set",
            name,
            "--user",
            "me",
            "--secret-file",
            secret,
            "--origin",
            &origin,
        ];
        site.bridge.cli(&set).await.success();
    }
    site.bridge.cli(&["reload"]).await.success();
    let mut relay = HostileRelay::start(&site.ca).await;
    site.proxy().retarget(relay.addr);
    site.proxy().reset();
    let session = relay.session().await;
    HostileEnv {
        site,
        relay,
        session,
        forbidden,
    }
}

/// A relay gets informational heads, which callers do not.
#[tokio::test]
async fn informational_head_repeats_no_credential() {
    const BASIC: &str = "bWU6bmV2ZXItdG8tYmUtc2Vlbg==";
    let target = RawTarget::start(format!(
        "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nX-Echo: Basic {BASIC}\r\n\r\n\
         HTTP/1.1 204 No Content\r\nX-Echo: Basic {BASIC}\r\nX-Sum: 7\r\n\r\n"
    ))
    .await;
    let rule = Allow::loopback(target.addr().port());
    let site = TestEnv::builder().allow(rule).start().await;
    let secret = site.dir().join("secret");
    std::fs::write(&secret, "never-to-be-seen").unwrap();
    let (secret, origin) = (
        secret.to_str().unwrap(),
        format!("http://{}", target.addr()),
    );
    let set = [
        "credential",
        "set",
        "own",
        "--user",
        "me",
        "--secret-file",
        secret,
    ];
    let set = [&set[..], &["--origin", &origin]].concat();
    site.bridge.cli(&set).await.success();
    site.bridge.cli(&["reload"]).await.success();
    let mut relay = HostileRelay::start(&site.ca).await;
    site.proxy().retarget(relay.addr);
    site.proxy().reset();
    let session = relay.session().await;
    let mut asked = url("GET", &target.url("/"));
    asked.credential = Some("own".into());
    let (_send, mut recv) = begin(&session, &asked, true);
    for (status, kept) in [(103, &b"link"[..]), (204, b"x-sum")] {
        let head = tokio::time::timeout(LONG_TIMEOUT, recv.head()).await;
        let head = head.unwrap().unwrap();
        assert_eq!(head.status, status);
        let names: Vec<_> = head.headers.iter().map(|(name, _)| name).collect();
        assert_eq!(names, [kept]);
    }
    assert!(target.last_request().contains(BASIC));
}

#[tokio::test]
async fn hostile_relay_reaches_no_forbidden_target() {
    let fallen = start_hostile().await;
    let port = fallen.forbidden.port();
    let allowed = fallen.site.target.port();
    let mut wrong = vec![
        fallen.forbidden.url("/small"),
        format!("http://localhost:{port}/"),
        format!("http://127.1:{port}/"),
        format!("http://0x7f000001:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://[::1]:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
        format!("http://127.0.0.1:{allowed}@127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{allowed}\\@127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{allowed}#@127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{allowed} .example:{port}/"),
        format!("http://127.0.0.1:{port}/\r\nHost: 127.0.0.1:{allowed}"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://metadata.google.internal/".to_owned(),
        "http://[fd00:ec2::254]/".to_owned(),
        "http://[::ffff:169.254.169.254]/".to_owned(),
        "http://0.0.0.0/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "gopher://127.0.0.1/".to_owned(),
        String::new(),
        "x".repeat(20_000),
    ];
    wrong.push(format!("http://127.0.0.1:{port}"));
    let mut heads: Vec<_> = wrong.iter().map(|wrong| url("GET", wrong)).collect();
    heads.extend(
        [
            "../../small",
            "@127.0.0.1:1/",
            "//127.0.0.1:1/",
            "/../..\\x",
        ]
        .map(|rest| {
            head(
                "GET",
                RequestTarget::Endpoint {
                    name: "t".into(),
                    path_and_query: rest.into(),
                },
            )
        }),
    );
    heads.push(head(
        "GET",
        RequestTarget::Endpoint {
            name: "no-such".into(),
            path_and_query: "/".into(),
        },
    ));
    for host in ["127.0.0.1", "localhost", "169.254.169.254"] {
        let host = host.to_owned();
        heads.push(head(
            "CONNECT",
            RequestTarget::Connect {
                host: host.clone(),
                port,
            },
        ));
        heads.push(head(
            "CONNECT",
            RequestTarget::Connect {
                host,
                port: allowed,
            },
        ));
    }
    heads.push(url("CONNECT", &fallen.site.target.url("/small")));
    heads.push(url("GE T", &fallen.site.target.url("/small")));
    let before = fallen.site.target.requests();
    for head in &heads {
        let came = ask(&fallen.session, head).await;
        let code = came.code();
        let is_no = matches!(
            code,
            Some(Code::RefusedByPolicy | Code::InvalidRequest | Code::UnknownEndpoint)
        );
        // What stays below the endpoint is the target's to answer.
        let is_below = matches!(&head.target, RequestTarget::Endpoint { name, .. } if name == "t");
        assert!(is_no || is_below, "{:?} came to {came:?}", head.target);
    }
    assert_eq!(fallen.forbidden.accepted(), 0, "something was dialled");
    assert!(fallen.site.target.requests() <= before + 4);
    // An allowed request still works.
    let good = ask(
        &fallen.session,
        &url("GET", &fallen.site.target.url("/small")),
    )
    .await;
    assert!(matches!(good, Came::Answer { status: 200, .. }), "{good:?}");
}

#[tokio::test]
async fn hostile_relay_gets_redirects_back() {
    let fallen = start_hostile().await;
    for to in [
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        fallen.forbidden.url("/small"),
    ] {
        let from = fallen.site.target.url(&format!("/redirect?to={to}"));
        let came = ask(&fallen.session, &url("GET", &from)).await;
        let Came::Answer { status, fields } = came else {
            panic!("{came:?}");
        };
        assert_eq!(status, 302);
        assert!(fields.contains(&to), "{fields}");
    }
    assert_eq!(fallen.forbidden.accepted(), 0);
}

#[tokio::test]
async fn hostile_relay_gets_no_credential() {
    let fallen = start_hostile().await;
    for (name, to) in [
        ("vault", fallen.site.target.url("/headers")),
        ("own", fallen.forbidden.url("/headers")),
        ("own", "http://evil.example/".to_owned()),
        ("no-such", fallen.site.target.url("/headers")),
        ("../vault", fallen.site.target.url("/headers")),
    ] {
        let mut asked = url("GET", &to);
        asked.credential = Some(name.to_owned());
        let came = ask(&fallen.session, &asked).await;
        let code = came.code();
        assert!(
            matches!(code, Some(Code::RefusedByPolicy | Code::InvalidRequest)),
            "{name} to {to}: {came:?}"
        );
    }
    // TRACE would return the credential, so it is rejected.
    let mut asked = url("TRACE", &fallen.site.target.url("/echo"));
    asked.credential = Some("own".into());
    assert_eq!(
        ask(&fallen.session, &asked).await.code(),
        Some(Code::RefusedByPolicy)
    );
    let log = fallen.site.bridge.process().log();
    let log: String = log.iter().map(|line| format!("{line:?}")).collect();
    assert!(!log.contains("never-to-be-seen"));
}

#[tokio::test]
async fn injected_header_fields_reach_no_target() {
    let fallen = start_hostile().await;
    let before = fallen.site.target.requests();
    let evil: [(&[u8], &[u8]); 6] = [
        (b"x", b"1\r\nx-injected: 1"),
        (b"x\r\nx-injected: 1", b"1"),
        (b"x: 1\r\nx-injected", b"1"),
        (b"x", b"1\nx-injected: 1"),
        (b"x", b"a\0b"),
        (b" x", b"1"),
    ];
    for (name, value) in evil {
        let mut headers = HeadersBuilder::default();
        headers.push(name, value).unwrap();
        let mut asked = url("GET", &fallen.site.target.url("/headers"));
        asked.headers = headers.build();
        let came = ask(&fallen.session, &asked).await;
        assert_eq!(came.code(), Some(Code::InvalidRequest), "{came:?}");
    }
    assert_eq!(fallen.site.target.requests(), before);
    // The bridge writes the framing itself.
    let mut headers = HeadersBuilder::default();
    headers.push(b"transfer-encoding", b"chunked").unwrap();
    headers.push(b"content-length", b"5").unwrap();
    headers.push(b"host", b"evil.example").unwrap();
    headers.push(b"connection", b"x-gone").unwrap();
    let mut asked = url("POST", &fallen.site.target.url("/headers"));
    asked.headers = headers.build();
    assert!(matches!(
        ask(&fallen.session, &asked).await,
        Came::Answer { status: 200, .. }
    ));
}

#[tokio::test]
async fn hostile_relay_floods_stay_bounded() {
    let fallen = start_hostile().await;
    let process = fallen.site.bridge.process();
    process.reset_peak_rss();
    // A body without end.
    let mut asked = url("POST", &fallen.site.target.url("/sink"));
    asked.body = BodyLength::Unknown;
    let (mut send, recv) = begin(&fallen.session, &asked, false);
    let feeding = tokio::spawn(async move {
        let piece = bytes::Bytes::from(vec![b'x'; 16 * 1024]);
        while send
            .data(piece.clone())
            .await
            .is_ok_and(|end| end == transport::PumpEnd::Finished)
        {}
    });
    let endless = came(recv).await;
    assert_eq!(endless.code(), Some(Code::RequestTooLarge), "{endless:?}");
    feeding.abort();
    // More streams than were announced, all of which hang.
    let hang = url("GET", &fallen.site.target.url("/hang"));
    let mut hanging = Vec::new();
    for _ in 0..5_000 {
        match fallen.session.open(&hang, &[], true) {
            Ok(streams) => hanging.push(streams),
            Err(_) => break,
        }
    }
    assert!(hanging.len() <= 200, "{} streams", hanging.len());
    drop(hanging);
    // Fields up to what a frame takes.
    let mut headers = HeadersBuilder::default();
    for _ in 0..11 {
        headers.push(b"x-large", &[b'y'; 4_000]).unwrap();
    }
    let mut large = url("GET", &fallen.site.target.url("/small"));
    large.headers = headers.build();
    for _ in 0..50 {
        let _ = ask(&fallen.session, &large).await;
    }
    let peak = process.peak_rss_kib();
    assert!(peak < 100 * 1024, "{peak} KiB");
    let good = ask(
        &fallen.session,
        &url("GET", &fallen.site.target.url("/small")),
    )
    .await;
    assert!(matches!(good, Came::Answer { status: 200, .. }), "{good:?}");
}

#[tokio::test]
async fn protocol_violation_ends_session_with_reason() {
    let mut fallen = start_hostile().await;
    let process = fallen.site.bridge.process();
    fallen.session.close(EndReason::Protocol("nonsense".into()));
    process.wait_log("session down", LONG_TIMEOUT).await;
    let start = Instant::now();
    let next = fallen.relay.session().await;
    assert!(start.elapsed() < LONG_TIMEOUT);
    let good = ask(&next, &url("GET", &fallen.site.target.url("/small"))).await;
    assert!(matches!(good, Came::Answer { status: 200, .. }), "{good:?}");
}
