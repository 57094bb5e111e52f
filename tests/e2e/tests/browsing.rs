//! Clients that browse through a named endpoint: redirects, cookies, and the hop headers that the relay
//! adds.

use e2e::accept_request;
use std::net::SocketAddr;
use std::time::Duration;
use support::recorder::{CASE, Message, Step};
use support::setup::{Endpoint, RelaySetup};
use support::{Answer, Ask, Recorder, TestEnv};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::process::Command;

/// Lets the relay add `Via` and `Forwarded`.
fn with_hop_headers(relay: RelaySetup) -> RelaySetup {
    relay
        .set("hop_headers.via", true)
        .set("hop_headers.forwarded", true)
}

/// The target below `/base/` as the endpoint `own`.
fn own(addr: SocketAddr) -> Endpoint {
    Endpoint::new("own", format!("http://{addr}/base/"))
}

/// The values of a field in a text of heads, in their order.
fn fields<'a>(heads: &'a str, name: &str) -> Vec<&'a str> {
    let fields = heads.lines().filter_map(|line| line.split_once(": "));
    let named = fields.filter(|(own, _)| own.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value).collect()
}

/// The values of a field in a response, byte for byte and in their order.
fn values<'a>(answer: &'a Answer, name: &str) -> Vec<&'a [u8]> {
    let values = answer.headers.get_all(name).iter();
    values.map(|value| value.as_bytes()).collect()
}

/// The values of a field in a request that the target got.
fn seen<'a>(request: &'a Message, name: &'a str) -> Vec<&'a str> {
    let values = request.values(name);
    values
        .map(|value| std::str::from_utf8(value).unwrap())
        .collect()
}

/// The one request of a case.
fn only(target: &Recorder, case: usize) -> Message {
    let mut requests = target.take(case);
    assert_eq!(requests.len(), 1);
    requests.remove(0)
}

/// A target that answers the first case so, and a world with it as the endpoint `own`.
async fn answering(
    fields: &[u8],
    change: impl FnOnce(RelaySetup) -> RelaySetup,
) -> (TestEnv, Recorder) {
    let target = Recorder::start().await;
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n";
    let answer = [&head[..], fields, b"\r\n"].concat();
    target.answer(1, vec![Step::ReadBody, Step::Send(answer)]);
    let builder = TestEnv::builder().endpoint(own(target.addr()));
    (builder.relay(change).start().await, target)
}

/// The first case of [`answering`], asked for at `/x`.
fn first_case(world: &TestEnv) -> Ask {
    let ask = Ask::get("/v1/endpoints/own/x").header(CASE, "1");
    ask.header("bridge-authorization", &world.caller.basic())
}

#[tokio::test]
async fn browser_follows_redirect_and_keeps_cookie() {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = target.local_addr().unwrap();
    let endpoint = own(addr).set("rewrite", vec!["location", "cookies"]);
    let world = TestEnv::builder().endpoint(endpoint).start().await;
    let key = format!("{}:{}", world.caller.client_id, world.caller.client_secret);
    let url = world.api.url("/v1/endpoints/own/sign-in");
    let mut browser = Command::new("curl");
    browser
        .args(["-sS", "--noproxy", "*", "--max-time", "60"])
        .args(["--include", "--location", "--cookie", "", "--user", &key])
        .arg(url);
    let serving = async {
        let (mut stream, first) = accept_request(&target).await;
        let answer = format!(
            "HTTP/1.1 302 Found\r\nLocation: http://{addr}/base/next?x=%2F\r\n\
             Set-Cookie: sid=1; Path=/base; HttpOnly; Domain=127.0.0.1\r\n\
             Set-Cookie: other=2; path=/v1/endpoints/t/; Domain=other.example\r\n\
             Connection: close\r\nContent-Length: 0\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        drop(stream);
        let (mut stream, second) = accept_request(&target).await;
        let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 7\r\n\r\nwelcome";
        stream.write_all(answer).await.unwrap();
        (first, second)
    };
    let (out, (first, second)) = tokio::join!(browser.output(), serving);
    let out = out.expect("curl is needed for this test");
    let shown = String::from_utf8(out.stdout).unwrap();
    assert!(
        first.starts_with("GET /base/sign-in HTTP/1.1\r\n"),
        "{first}"
    );
    assert_eq!(fields(&first, "cookie"), [""; 0]);
    assert_eq!(
        fields(&shown, "location"),
        ["/v1/endpoints/own/next?x=%2F"],
        "{shown}"
    );
    assert_eq!(
        fields(&shown, "set-cookie"),
        [
            "sid=1; Path=/v1/endpoints/own/; HttpOnly",
            "other=2; path=/v1/endpoints/own/"
        ],
        "{shown}"
    );
    assert!(
        second.starts_with("GET /base/next?x=%2F HTTP/1.1\r\n"),
        "{second}"
    );
    let mut cookies: Vec<&str> = fields(&second, "cookie")[0].split("; ").collect();
    cookies.sort_unstable();
    assert_eq!(cookies, ["other=2", "sid=1"]);
    assert!(shown.ends_with("welcome"), "{shown}");
}

#[tokio::test]
async fn rewrite_option_changes_its_own_fields_only() {
    for (word, location, cookie) in [
        ("location", "/v1/endpoints/own/a", "sid=1; Path=/base/"),
        ("cookies", "/base/a", "sid=1; Path=/v1/endpoints/own/"),
    ] {
        let target = Recorder::start().await;
        let answer = b"HTTP/1.1 201 Created\r\nLocation: /base/a\r\nContent-Location: /base/a\r\n\
                       Set-Cookie: sid=1; Path=/base/\r\nContent-Length: 0\r\n\r\n";
        target.answer(1, vec![Step::ReadBody, Step::Send(answer.to_vec())]);
        let endpoint = own(target.addr()).set("rewrite", vec![word]);
        let world = TestEnv::builder().endpoint(endpoint).start().await;
        let answer = world.api.send(first_case(&world)).await.expect_status(201);
        assert_eq!(answer.header("location"), Some(location), "{word}");
        assert_eq!(answer.header("content-location"), Some(location), "{word}");
        assert_eq!(answer.header("set-cookie"), Some(cookie), "{word}");
    }
}

#[tokio::test]
async fn response_is_unchanged_without_rewrite() {
    let target = Recorder::start().await;
    let addr = target.addr();
    let location = format!("http://{addr}/base/next?x=%2F#y");
    let cookies = [
        &b"sid=1; Path=/base; HttpOnly; Domain=127.0.0.1"[..],
        b"sid=2;pATh=/base/;  x ;; n=\xe9",
    ];
    let mut answer = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\n").into_bytes();
    for cookie in cookies {
        answer.extend_from_slice(b"Set-Cookie: ");
        answer.extend_from_slice(cookie);
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"Content-Length: 0\r\n\r\n");
    target.answer(1, vec![Step::ReadBody, Step::Send(answer)]);
    let world = TestEnv::builder().endpoint(own(addr)).start().await;
    let answer = world.api.send(first_case(&world)).await.expect_status(302);
    assert_eq!(values(&answer, "location"), [location.as_bytes()]);
    assert_eq!(values(&answer, "set-cookie"), cookies);
}

#[tokio::test]
async fn hop_headers_append_to_the_callers() {
    let (world, target) = answering(b"Via: 1.1 squid\r\n", with_hop_headers).await;
    for (origin, host, proto) in [
        (&world.api, "127.0.0.1", "http"),
        (&world.public, "localhost", "https"),
    ] {
        let forwarded = format!(
            "for=127.0.0.1;host=\"{host}:{}\";proto={proto}",
            origin.addr().port()
        );
        let answer = origin.send(first_case(&world)).await.expect_status(200);
        let request = only(&target, 1);
        assert_eq!(seen(&request, "via"), ["1.1 integration-relay"]);
        assert_eq!(seen(&request, "forwarded"), [&*forwarded]);
        let via = [&b"1.1 squid"[..], b"1.1 integration-relay"];
        assert_eq!(values(&answer, "via"), via);
        assert_eq!(values(&answer, "forwarded"), [b""; 0]);

        let ask = first_case(&world)
            .header("via", "1.0 fred, 1.1 p.example")
            .header("forwarded", "for=192.0.2.43")
            .header("forwarded", "for=\"[2001:db8::1]\"")
            .header("connection", "via, Forwarded");
        origin.send(ask).await.expect_status(200);
        let request = only(&target, 1);
        assert_eq!(
            seen(&request, "via"),
            ["1.0 fred, 1.1 p.example", "1.1 integration-relay"]
        );
        assert_eq!(
            seen(&request, "forwarded"),
            ["for=192.0.2.43", "for=\"[2001:db8::1]\"", &*forwarded]
        );
    }
}

#[tokio::test]
async fn hop_headers_name_http2_callers() {
    let (world, target) = answering(b"", with_hop_headers).await;
    let port = world.public.addr().port();
    let out = Command::new("curl")
        .args(["-sS", "--noproxy", "*", "--max-time", "60", "--http2"])
        .args(["--include", "--header", &format!("{CASE}: 1"), "--user"])
        .arg(format!(
            "{}:{}",
            world.caller.client_id, world.caller.client_secret
        ))
        .arg("--cacert")
        .arg(world.ca_file())
        .arg(format!("https://localhost:{port}/v1/endpoints/own/x"))
        .output()
        .await
        .expect("curl is needed for this test");
    let shown = String::from_utf8(out.stdout).unwrap();
    assert!(shown.starts_with("HTTP/2 200"), "{shown}");
    assert_eq!(fields(&shown, "via"), ["1.1 integration-relay"], "{shown}");
    let request = only(&target, 1);
    assert_eq!(seen(&request, "via"), ["2 integration-relay"]);
    let forwarded = seen(&request, "forwarded");
    assert_eq!(forwarded.len(), 1, "{forwarded:?}");
    // The name may lead to an address of either kind; the relay listens on this one.
    let host = format!(";host=\"localhost:{port}\";proto=https");
    assert_eq!(forwarded[0], format!("for=127.0.0.1{host}"));
}

#[tokio::test]
async fn hop_headers_are_off_by_default() {
    let (world, target) = answering(b"", |relay| relay).await;
    for origin in [&world.api, &world.public] {
        let answer = origin.send(first_case(&world)).await.expect_status(200);
        let request = only(&target, 1);
        let names = ["via", "forwarded", "x-forwarded-for", "x-forwarded-proto"];
        for name in names {
            assert_eq!(seen(&request, name), [""; 0], "{name}");
            assert_eq!(answer.header(name), None, "{name}");
        }
    }
    let ask = first_case(&world)
        .header("via", "1.0 fred")
        .header("forwarded", "for=192.0.2.43");
    world.api.send(ask).await.expect_status(200);
    let request = only(&target, 1);
    assert_eq!(seen(&request, "via"), ["1.0 fred"]);
    assert_eq!(seen(&request, "forwarded"), ["for=192.0.2.43"]);
}

#[tokio::test]
async fn endpoint_cannot_act_on_the_whole_origin() {
    let fields = b"Service-Worker-Allowed: /\r\nClear-Site-Data: \"*\"\r\nNEL: {}\r\n\
        Secure-Session-Registration: (ES256);path=\"x\"\r\nShared-Storage-Write: clear\r\n\
        Strict-Transport-Security: max-age=1\r\nAlt-Svc: h3=\":443\"\r\nReport-To: {}\r\n\
        Reporting-Endpoints: a=\"/b\"\r\nPublic-Key-Pins: x\r\nX-Frame-Options: DENY\r\n\
        Content-Security-Policy: default-src 'self'\r\n";
    let removed = [
        "service-worker-allowed",
        "clear-site-data",
        "nel",
        "secure-session-registration",
        "shared-storage-write",
        "strict-transport-security",
        "alt-svc",
        "report-to",
        "reporting-endpoints",
        "public-key-pins",
    ];
    let (world, _target) = answering(fields, |relay| relay).await;
    let excepted = format!("{}/own", world.tenant());
    let (other, _other_target) = answering(fields, |relay| {
        relay.set("endpoints.sandbox_except", vec![excepted])
    })
    .await;
    for (world, policies) in [
        (&world, &[&b"default-src 'self'"[..], b"sandbox"][..]),
        (&other, &[b"default-src 'self'"]),
    ] {
        for origin in [&world.api, &world.public] {
            let answer = origin.send(first_case(world)).await.expect_status(200);
            for name in removed {
                assert_eq!(answer.header(name), None, "{name}");
            }
            assert_eq!(answer.header("x-frame-options"), Some("DENY"));
            assert_eq!(values(&answer, "content-security-policy"), policies);
        }
    }
}

/// Over HTTP/1.1 only a caller that asks for trailers gets them.
#[tokio::test]
async fn trailers_cannot_act_on_the_whole_origin() {
    let target = Recorder::start().await;
    let answer = |trailers: &str| {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Clear-Site-Data, X-Sum\r\n\r\n\
             2\r\nok\r\n0\r\n{trailers}\r\n"
        );
        vec![Step::ReadBody, Step::Send(answer.into_bytes())]
    };
    target.answer(1, answer("Clear-Site-Data: \"*\"\r\nX-Sum: 1\r\n"));
    target.answer(2, answer("Clear-Site-Data: \"*\"\r\n"));
    let endpoint = own(target.addr());
    let world = TestEnv::builder().endpoint(endpoint).start().await;
    let quiet = Duration::from_secs(5);
    for (case, end) in [(1, "0\r\nx-sum: 1\r\n\r\n"), (2, "0\r\n\r\n")] {
        let ask = format!(
            "GET /v1/endpoints/own/x HTTP/1.1\r\nHost: x\r\nBridge-Authorization: {}\r\n\
             {CASE}: {case}\r\nTE: trailers\r\nConnection: close\r\n\r\n",
            world.caller.basic()
        );
        let shown = world.api.raw(ask.as_bytes(), quiet).await;
        let shown = String::from_utf8(shown).unwrap();
        assert!(shown.starts_with("HTTP/1.1 200"), "{shown}");
        assert!(shown.ends_with(&format!("\r\n2\r\nok\r\n{end}")), "{shown}");
        assert!(!shown.contains("\"*\""), "{shown}");
    }
}
