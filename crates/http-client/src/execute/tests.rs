//! The request loop against targets that close connections.

use super::*;
use crate::client::{ClientOptions, PoolLimits};
use http::{Method, Uri, header};
use policy::{HostPattern, Methods, Policy, Ports, Rule};
use protocol::frame::BodyLength;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use transport::dial::Proxy;
use transport::tls::Oldest;

/// A target that serves a number of requests on each connection, and closes it when it has read one more.
struct Target {
    port: u16,
    requests: Arc<AtomicUsize>,
}

impl Target {
    async fn start<const N: usize>(served: [usize; N]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(AtomicUsize::new(0));
        let counter = requests.clone();
        tokio::spawn(async move {
            for count in served {
                let (stream, _) = listener.accept().await.unwrap();
                serve(stream, count, &counter).await;
            }
        });
        Self { port, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn candidate(&self, method: &str) -> Candidate {
        let host = HostPattern::parse("127.0.0.1").unwrap();
        let mut rule = Rule::new(host, Methods::Any);
        rule.ports = Ports::parse(&[self.port]).unwrap();
        let policy = Policy::new(vec![rule], Vec::new()).unwrap();
        let url = format!("http://127.0.0.1:{}/", self.port);
        policy.decide_url(method, &url).unwrap()
    }
}

/// Reads heads until the connection ends; responds to the first `count` of them.
async fn serve(mut stream: TcpStream, count: usize, requests: &AtomicUsize) {
    for number in 0.. {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return,
            }
        }
        requests.fetch_add(1, Ordering::SeqCst);
        if number >= count {
            return;
        }
        let response = b"HTTP/1.1 204 No Content\r\n\r\n";
        stream.write_all(response).await.unwrap();
    }
}

fn client() -> Client {
    Client::new(ClientOptions {
        ca_file: None,
        tls_oldest: Oldest::default(),
        proxy: Proxy::Direct,
        proxy_names: false,
        connect_timeout: Duration::from_secs(5),
        http2: false,
        title_case: true,
        pool: PoolLimits {
            idle_timeout: Duration::from_secs(30),
            age_max: Duration::from_secs(300),
            per_target_max: 4,
            total_max: 4,
        },
    })
}

/// Sends one request, and returns its connection to the pool.
async fn send(
    client: &Client,
    candidate: &Candidate,
    replay: Replay,
) -> Result<http::StatusCode, SendError> {
    let method: Method = candidate.method().parse().unwrap();
    let mut own = OwnRequest {
        approved: vec![candidate.approve("127.0.0.1".parse().unwrap()).unwrap()],
        head: |_: &Approved| {
            let mut head = Request::new(());
            *head.method_mut() = method.clone();
            *head.uri_mut() = Uri::from_static("/");
            let host = header::HeaderValue::from_static("target");
            head.headers_mut().insert(header::HOST, host);
            Ok(head)
        },
    };
    let plan = RequestPlan::new(candidate, Client::pool_key(candidate.target(), None, None));
    let mut attempts = Attempts::new(replay, 3);
    let opened = client.open(&plan, &own, attempts.reuse()).await.unwrap();
    let body = RequestBody::from_bytes(Bytes::new(), BodyLength::None);
    let executed = client
        .execute(&plan, opened, &mut own, body, &mut attempts)
        .await?;
    client.return_to_pool(executed.connection).await;
    Ok(executed.response.status())
}

fn is_closed(error: &SendError, was_reused: bool) -> bool {
    matches!(error, SendError::ConnectionClosed { reused, failure }
        if *reused == was_reused && failure.execution == Execution::PossiblyExecuted)
}

#[tokio::test]
async fn idempotent_request_is_replayed_once() {
    let target = Target::start([1, 1]).await;
    let (client, candidate) = (client(), target.candidate("GET"));
    let replay = || Replay::IfIdempotent(Bytes::new());
    assert_eq!(send(&client, &candidate, replay()).await.unwrap(), 204);
    // The idle connection closes with the second request, which then succeeds on a new one.
    assert_eq!(send(&client, &candidate, replay()).await.unwrap(), 204);
    assert_eq!(target.requests(), 3);
}

#[tokio::test]
async fn replayed_request_is_not_replayed_again() {
    let target = Target::start([1, 0, 1]).await;
    let (client, candidate) = (client(), target.candidate("GET"));
    let replay = || Replay::IfIdempotent(Bytes::new());
    send(&client, &candidate, replay()).await.unwrap();
    let error = send(&client, &candidate, replay()).await.unwrap_err();
    assert!(is_closed(&error, false), "{error:?}");
    assert_eq!(target.requests(), 3);
}

#[tokio::test]
async fn fresh_connection_that_closes_is_not_replayed() {
    let target = Target::start([0, 1]).await;
    let candidate = target.candidate("GET");
    let replay = Replay::IfIdempotent(Bytes::new());
    let error = send(&client(), &candidate, replay).await.unwrap_err();
    assert!(is_closed(&error, false), "{error:?}");
    assert_eq!(target.requests(), 1);
}

#[tokio::test]
async fn request_sent_once_takes_no_idle_connection() {
    let target = Target::start([2, 1]).await;
    let (client, get, post) = (client(), target.candidate("GET"), target.candidate("POST"));
    let replay = Replay::IfIdempotent(Bytes::new());
    send(&client, &get, replay).await.unwrap();
    let once = || Replay::IfUnsent(Some(Bytes::new()));
    let sending = tokio::time::timeout(Duration::from_millis(300), send(&client, &post, once()));
    // The target serves one connection at a time: a new one waits, and the idle one would not.
    assert!(sending.await.is_err());
    assert_eq!(target.requests(), 1);
}

#[tokio::test]
async fn failure_before_a_replay_hides_no_execution() {
    let target = Target::start([1, 1]).await;
    let (client, candidate) = (client(), target.candidate("GET"));
    let replay = || Replay::IfIdempotent(Bytes::new());
    send(&client, &candidate, replay()).await.unwrap();
    let heads = AtomicUsize::new(0);
    let mut own = OwnRequest {
        approved: vec![candidate.approve("127.0.0.1".parse().unwrap()).unwrap()],
        head: |_: &Approved| match heads.fetch_add(1, Ordering::SeqCst) {
            0 => Ok(Request::new(())),
            _ => Err(Failure::not_dispatched(Code::Cancelled, "cancelled")),
        },
    };
    let plan = RequestPlan::new(&candidate, Client::pool_key(candidate.target(), None, None));
    let mut attempts = Attempts::new(replay(), 3);
    let opened = client.open(&plan, &own, attempts.reuse()).await.unwrap();
    let body = RequestBody::from_bytes(Bytes::new(), BodyLength::None);
    let sent = client.execute(&plan, opened, &mut own, body, &mut attempts);
    // The target read the first attempt, so the second one's `not_dispatched` is not the whole truth.
    let error = sent.await.unwrap_err();
    assert!(is_closed(&error, true), "{error:?}");
    assert_eq!(heads.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn target_that_speaks_first_is_another_protocol() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target {
        port: listener.local_addr().unwrap().port(),
        requests: Arc::default(),
    };
    let (client, candidate) = (client(), target.candidate("POST"));
    let mut own = OwnRequest {
        approved: vec![candidate.approve("127.0.0.1".parse().unwrap()).unwrap()],
        head: |_: &Approved| Ok(Request::new(())),
    };
    let plan = RequestPlan::new(&candidate, Client::pool_key(candidate.target(), None, None));
    let mut attempts = Attempts::new(Replay::IfUnsent(Some(Bytes::new())), 3);
    let opened = client.open(&plan, &own, attempts.reuse()).await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
    // Lets the runtime see that the connection has something to read.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let body = RequestBody::from_bytes(Bytes::new(), BodyLength::None);
    let sent = client.execute(&plan, opened, &mut own, body, &mut attempts);
    let error = sent.await.unwrap_err();
    let failure = error.failure();
    assert_eq!(failure.code, Code::TargetProtocol, "{error:?}");
    assert_eq!(failure.execution, Execution::NotDispatched);
    assert_eq!(
        stream.read_u8().await.unwrap_err().kind(),
        std::io::ErrorKind::UnexpectedEof
    );
}
