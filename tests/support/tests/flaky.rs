//! The proxy applies the faults that are set, and no others.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use support::{Direction, FlakyProxy, pattern};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

/// Long enough for what must come, whatever the machine is busy with.
const SOON: Duration = Duration::from_secs(10);
/// Long enough to see that something does not come.
const A_WHILE: Duration = Duration::from_millis(150);

/// A server that sends back what it gets, after a greeting of one byte.
async fn echo_server(greeting: u8) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let addr = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                socket.write_all(&[greeting]).await?;
                let (mut from, mut to) = socket.split();
                tokio::io::copy(&mut from, &mut to).await
            });
        }
    });
    addr
}

/// Connects through the proxy and takes the greeting.
async fn greeted(proxy: &FlakyProxy) -> (TcpStream, u8) {
    let mut socket = TcpStream::connect(proxy.addr())
        .await
        .expect("the proxy accepts");
    let greeting = timeout(SOON, socket.read_u8())
        .await
        .expect("a greeting soon")
        .expect("one");
    (socket, greeting)
}

async fn round_trip(socket: &mut TcpStream, bytes: &[u8]) -> Duration {
    let began = Instant::now();
    socket.write_all(bytes).await.expect("it takes bytes");
    let mut back = vec![0; bytes.len()];
    timeout(SOON, socket.read_exact(&mut back))
        .await
        .expect("soon")
        .expect("all of it");
    assert_eq!(back, bytes);
    began.elapsed()
}

async fn is_silent(socket: &mut TcpStream) -> bool {
    timeout(A_WHILE, socket.read_u8()).await.is_err()
}

#[tokio::test]
async fn proxy_passes_bytes_and_end() {
    let proxy = FlakyProxy::start(echo_server(b'a').await).await;
    let (socket, _) = greeted(&proxy).await;
    let sent = pattern::bytes(3_000_000);
    let (mut from, mut to) = socket.into_split();
    let writer = tokio::spawn({
        let sent = sent.clone();
        async move {
            to.write_all(&sent).await.expect("it takes bytes");
            to.shutdown().await.expect("it takes the end");
        }
    });
    let mut back = Vec::new();
    timeout(SOON, from.read_to_end(&mut back))
        .await
        .expect("soon")
        .expect("to the end");
    writer.await.expect("no panic");
    assert_eq!(back.len(), sent.len());
    assert_eq!(back, sent);
    assert_eq!(proxy.moved_bytes(Direction::Upstream), 3_000_000);
    assert_eq!(proxy.moved_bytes(Direction::Downstream), 3_000_001);
    drop((from, proxy));
}

#[tokio::test]
async fn thawed_proxy_has_lost_nothing() {
    let proxy = FlakyProxy::start(echo_server(b'a').await).await;
    let (mut old, _) = greeted(&proxy).await;
    proxy.freeze(Direction::Both);
    old.write_all(b"while frozen")
        .await
        .expect("the kernel takes it");
    let mut new = TcpStream::connect(proxy.addr())
        .await
        .expect("accepted while frozen");
    assert!(is_silent(&mut old).await);
    assert!(is_silent(&mut new).await);
    proxy.thaw();
    let mut back = [0; 12];
    timeout(SOON, old.read_exact(&mut back))
        .await
        .expect("soon")
        .expect("all of it");
    assert_eq!(&back, b"while frozen");
    assert_eq!(
        timeout(SOON, new.read_u8())
            .await
            .expect("soon")
            .expect("a greeting"),
        b'a'
    );
}

#[tokio::test]
async fn directions_freeze_independently() {
    let proxy = FlakyProxy::start(echo_server(b'a').await).await;
    let (mut socket, _) = greeted(&proxy).await;
    proxy.freeze(Direction::Downstream);
    socket.write_all(b"x").await.expect("the kernel takes it");
    assert!(is_silent(&mut socket).await);
    assert_eq!(proxy.moved_bytes(Direction::Upstream), 1);
    proxy.thaw();
    assert_eq!(
        timeout(SOON, socket.read_u8())
            .await
            .expect("soon")
            .expect("the echo"),
        b'x'
    );
}

#[tokio::test]
async fn freeze_existing_spares_new_connections() {
    let proxy = FlakyProxy::start(echo_server(b'a').await).await;
    let (mut old, _) = greeted(&proxy).await;
    proxy.freeze_existing();
    let (mut new, _) = greeted(&proxy).await;
    round_trip(&mut new, b"served").await;
    old.write_all(b"x").await.expect("the kernel takes it");
    assert!(is_silent(&mut old).await);
    proxy.thaw();
    let echoed = timeout(SOON, old.read_u8()).await.expect("soon");
    assert_eq!(echoed.expect("the echo"), b'x');
}

#[tokio::test]
async fn frozen_proxy_holds_the_end() {
    let proxy = FlakyProxy::start(echo_server(b'a').await).await;
    let (mut socket, _) = greeted(&proxy).await;
    proxy.freeze(Direction::Both);
    socket.shutdown().await.expect("our own end");
    assert!(is_silent(&mut socket).await);
    assert_eq!(proxy.connections(), 1);
    proxy.thaw();
    let end = timeout(SOON, socket.read(&mut [0; 8]))
        .await
        .expect("soon")
        .expect("no error");
    assert_eq!(end, 0);
}

#[tokio::test]
async fn cut_is_an_end_and_reset_an_error() {
    let proxy = FlakyProxy::start(echo_server(b'a').await).await;
    let (mut socket, _) = greeted(&proxy).await;
    proxy.cut();
    let end = timeout(SOON, socket.read(&mut [0; 8]))
        .await
        .expect("soon")
        .expect("no error");
    assert_eq!(end, 0);

    let (mut socket, _) = greeted(&proxy).await;
    proxy.reset();
    let error = timeout(SOON, socket.read(&mut [0; 8]))
        .await
        .expect("soon")
        .expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);

    let (mut socket, _) = greeted(&proxy).await;
    round_trip(&mut socket, b"those that come later live").await;
    assert_eq!(proxy.accepted(), 3);
}

#[tokio::test]
async fn cut_after_passes_the_exact_byte_count() {
    let proxy = FlakyProxy::start(echo_server(b'a').await).await;
    for bytes in [1, 1_000, 100_000] {
        let (mut socket, _) = greeted(&proxy).await;
        proxy.cut_after(Direction::Downstream, bytes);
        let (mut from, mut to) = socket.split();
        let sent = pattern::bytes(400_000);
        let mut back = Vec::new();
        let (_, read) = tokio::join!(
            to.write_all(&sent),
            timeout(SOON, from.read_to_end(&mut back))
        );
        // Either ending will do here: our own writes may have met a closed socket.
        let _ = read.expect("it ends");
        assert_eq!(back.len() as u64, bytes);
        assert_eq!(back, sent[..back.len()]);
    }
    let (mut socket, _) = greeted(&proxy).await;
    round_trip(&mut socket, &pattern::bytes(200_000)).await;
}

#[tokio::test]
async fn delay_keeps_the_throughput() {
    let proxy = FlakyProxy::start(echo_server(b'a').await).await;
    let (socket, _) = greeted(&proxy).await;
    let mut socket = socket;
    let direct = round_trip(&mut socket, b"x").await;
    proxy.delay(Duration::from_millis(100));
    let delayed = round_trip(&mut socket, b"x").await;
    assert!(
        delayed >= Duration::from_millis(200),
        "{delayed:?} after {direct:?}"
    );

    let (mut from, mut to) = socket.split();
    let sent = pattern::bytes(5_000_000);
    let mut back = vec![0; sent.len()];
    let began = Instant::now();
    let (wrote, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut back));
    wrote.expect("all written");
    read.expect("all read");
    // One chunk a round trip would take a quarter of a minute.
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(back, sent);
}

#[tokio::test]
async fn rate_is_limited() {
    let proxy = FlakyProxy::start(echo_server(b'a').await).await;
    let (mut socket, _) = greeted(&proxy).await;
    proxy.rate(Some(100_000));
    let took = round_trip(&mut socket, &pattern::bytes(50_000)).await;
    assert!(took >= Duration::from_millis(400), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    proxy.rate(None);
    assert!(round_trip(&mut socket, &pattern::bytes(50_000)).await < Duration::from_secs(2));
}

#[tokio::test]
async fn refuse_affects_new_connections_only() {
    let proxy = FlakyProxy::start(echo_server(b'a').await).await;
    let (mut old, _) = greeted(&proxy).await;
    proxy.refuse(true).await;
    let error = TcpStream::connect(proxy.addr())
        .await
        .expect_err("no listener");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    round_trip(&mut old, b"still here").await;
    proxy.refuse(false).await;
    greeted(&proxy).await;
}

#[tokio::test]
async fn retarget_affects_new_connections() {
    let proxy = FlakyProxy::start(echo_server(b'a').await).await;
    let (mut old, _) = greeted(&proxy).await;
    proxy.retarget(echo_server(b'b').await);
    let (_new, greeting) = greeted(&proxy).await;
    assert_eq!(greeting, b'b');
    round_trip(&mut old, b"where it was").await;
    assert_eq!(proxy.connections(), 2);
}

#[tokio::test]
async fn dropped_proxy_closes_everything() {
    let proxy = FlakyProxy::start(echo_server(b'a').await).await;
    let addr = proxy.addr();
    let (mut socket, _) = greeted(&proxy).await;
    drop(proxy);
    assert!(matches!(
        timeout(SOON, socket.read(&mut [0; 8])).await.expect("soon"),
        Ok(0) | Err(_)
    ));
    let error = TcpStream::connect(addr).await.expect_err("no listener");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}
