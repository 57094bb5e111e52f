//! Direct calls on loopback, which only a policy of these tests allows.

use super::*;
use crate::capacity::{BodyMemory, KeyMemory, TenantMemory};
use policy::{HostPattern, Methods, Ports, Rule};
use support::{RawTarget, Target as TestTarget};

fn direct() -> Direct {
    Direct::new(config::Direct::default())
}

/// Allows loopback, unlike any tenant's.
fn loopback(port: u16) -> Policy {
    let host = HostPattern::parse("127.0.0.1").unwrap();
    let rule = Rule {
        ports: Ports::parse(&[port]).unwrap(),
        ..Rule::new(host, Methods::parse(&["*"]).unwrap())
    };
    Policy::new(vec![rule], Vec::new()).unwrap()
}

fn request(url: String) -> DirectRequest {
    DirectRequest {
        tenant: "t".into(),
        caller: "k".into(),
        url,
        method: "POST".to_owned(),
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"{\"n\":1}"),
        deadline: Instant::now() + Duration::from_secs(5),
        response_max: 1000,
        memory: memory(),
        is_status_enough: false,
        progress: None,
    }
}

fn memory() -> Reservation {
    let pool = BodyMemory::new(1024 * 1024);
    Reservation::new(KeyMemory::new(&TenantMemory::new(&pool, 1), 1))
}

#[tokio::test]
async fn direct_call_has_its_own_host_and_body() {
    let target = TestTarget::start().await;
    let mut call = request(target.url("/hook?x=1"));
    call.headers.insert("x-own", HeaderValue::from_static("1"));
    call.headers
        .insert("connection", HeaderValue::from_static("x-own"));
    let response = direct().call(&loopback(target.port()), call).await.unwrap();
    assert_eq!(response.status, 200);
    let hook = target.hooks().pop().unwrap();
    assert_eq!(&hook.body[..], b"{\"n\":1}");
    assert_eq!(hook.path, "/hook?x=1");
    assert_eq!(hook.headers["host"], format!("127.0.0.1:{}", target.port()));
    assert_eq!(hook.headers["x-own"], "1");
}

#[tokio::test]
async fn redirect_is_passed_back_and_not_followed() {
    let target = TestTarget::start().await;
    let url = target.url("/redirect?to=http://169.254.169.254/latest");
    let response = direct().call(&loopback(target.port()), request(url)).await;
    let response = response.unwrap();
    assert_eq!(response.status, 302);
    assert_eq!(
        response.headers["location"],
        "http://169.254.169.254/latest"
    );
    assert_eq!(target.requests(), 1);
}

/// A delivery needs only the status: with it, the request was executed.
#[tokio::test]
async fn status_survives_a_failed_body() {
    let target = TestTarget::start().await;
    let policy = loopback(target.port());
    for path in ["/bytes/1001", "/truncated"] {
        let call = DirectRequest {
            is_status_enough: true,
            ..request(target.url(path))
        };
        let response = direct().call(&policy, call).await.unwrap();
        assert_eq!(response.status, 200, "{path}");
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stalling = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await.unwrap();
        let response = b"HTTP/1.1 201 Created\r\ncontent-length: 5\r\n\r\nab";
        stream.write_all(response).await.unwrap();
        // Until the caller closes the connection.
        let _ = stream.read(&mut head).await;
    });
    let call = DirectRequest {
        is_status_enough: true,
        deadline: Instant::now() + Duration::from_millis(700),
        ..request(format!("http://{addr}/"))
    };
    let response = direct().call(&loopback(addr.port()), call).await.unwrap();
    assert_eq!(response.status, 201);
    stalling.abort();
}

#[tokio::test]
async fn each_failure_has_its_code_and_execution() {
    let target = TestTarget::start().await;
    let policy = loopback(target.port());
    let end = |path: &'static str| {
        let (policy, url) = (policy.clone(), target.url(path));
        async move {
            let failure = direct().call(&policy, request(url)).await.unwrap_err();
            (failure.code, failure.execution)
        }
    };
    let executed = Execution::Executed;
    assert_eq!(end("/bytes/1001").await, (Code::ResponseTooLarge, executed));
    assert_eq!(end("/truncated").await.1, executed);
    let closed = (Code::TargetClosed, Execution::PossiblyExecuted);
    assert_eq!(end("/close").await, closed);
    let mut slow = request(target.url("/hang"));
    slow.deadline = Instant::now() + Duration::from_millis(200);
    let late = direct().call(&policy, slow).await.unwrap_err();
    assert_eq!(late.code, Code::TargetTimeout);
    assert_eq!(late.execution, Execution::PossiblyExecuted);
    let raw = RawTarget::start(b"nonsense\r\n\r\n").await;
    let url = format!("http://{}/", raw.addr());
    let odd = direct()
        .call(&loopback(raw.addr().port()), request(url))
        .await;
    assert_eq!(odd.unwrap_err().code, Code::TargetProtocol);
    let free = support::ports::free();
    let url = format!("http://127.0.0.1:{free}/");
    let down = direct()
        .call(&loopback(free), request(url))
        .await
        .unwrap_err();
    assert_eq!(down.code, Code::TargetRefused);
    assert_eq!(down.execution, Execution::NotDispatched);
}

#[tokio::test]
async fn unusable_response_has_its_code_and_limit() {
    let fields = "set-cookie: a=1\r\n".repeat(101);
    let large = "v".repeat(300_000);
    let ok = |rest: &str| format!("HTTP/1.1 200 OK\r\n{rest}");
    let chunked = "transfer-encoding: chunked\r\n\r\n";
    for (answer, code, words) in [
        (
            ok(&format!("{chunked}zz\r\nhello\r\n0\r\n\r\n")),
            Code::TargetProtocol,
            "a chunk size",
        ),
        (
            ok("transfer-encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
            Code::TargetProtocol,
            "a transfer coding other than chunked",
        ),
        (
            ok(&format!("{fields}content-length: 0\r\n\r\n")),
            Code::ResponseTooLarge,
            "at most 100 fields",
        ),
        (
            ok(&format!("x-big: {large}\r\ncontent-length: 0\r\n\r\n")),
            Code::ResponseTooLarge,
            "96 KiB",
        ),
    ] {
        let raw = RawTarget::start(answer).await;
        let call = request(format!("http://{}/", raw.addr()));
        let called = direct().call(&loopback(raw.addr().port()), call).await;
        let failure = called.unwrap_err();
        assert_eq!(failure.code, code, "{failure:?}");
        assert_eq!(failure.execution, Execution::Executed, "{failure:?}");
        assert!(failure.detail.contains(words), "{failure:?}");
    }
}

#[tokio::test]
async fn tenant_pattern_reaches_public_addresses_only() {
    let target = TestTarget::start().await;
    let direct = Direct::new(config::Direct::default());
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "10.0.0.1",
        "169.254.169.254",
        "2130706433",
        "0x7f000001",
    ] {
        let url = format!("http://{host}:{}/hook", target.port());
        // Even if a site administrator wrote a pattern for it.
        let pattern = format!("http://{host}:{}/*", target.port());
        let failure = match pattern::policy(&[pattern]) {
            Err(_) => continue,
            Ok(policy) => direct.call(&policy, request(url)).await.unwrap_err(),
        };
        assert!(failure.execution.is_safe_to_repeat(), "{host}: {failure:?}");
        assert!(
            matches!(failure.code, Code::RefusedByPolicy | Code::TargetDns),
            "{host}: {failure:?}"
        );
    }
    assert_eq!(target.requests(), 0);
}

#[tokio::test]
async fn tenant_has_a_concurrency_limit() {
    let target = TestTarget::start().await;
    let config = config::Direct {
        concurrent_per_tenant: 1,
        ..config::Direct::default()
    };
    let direct = Direct::new(config);
    let policy = loopback(target.port());
    let (first, second) = tokio::join!(
        direct.call(&policy, request(target.url("/delay/300"))),
        async {
            target.wait_for_requests(1, Duration::from_secs(5)).await;
            direct.call(&policy, request(target.url("/small"))).await
        }
    );
    assert_eq!(first.unwrap().status, 200);
    let second = second.unwrap_err();
    assert_eq!(
        (second.code, second.execution),
        (Code::Overloaded, Execution::NotSent)
    );
    direct
        .call(&policy, request(target.url("/small")))
        .await
        .unwrap();
}
