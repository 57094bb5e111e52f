//! Load balancers that pass TLS through and name their clients by the PROXY protocol: each client has its own limits, and its
//! own address in the audit record.

use std::net::IpAddr;
use std::process::Command;
use support::{ApiKey, Running, TIMEOUT, TestEnv, eventually, ports};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// The listed balancer, on loopback.
const BALANCER: [u8; 4] = [127, 0, 2, 1];

/// Failed attempts that one address may have in a minute.
const FAILURES_MAX: i64 = 5;

async fn site() -> TestEnv {
    let builder = TestEnv::builder().relay(|relay| {
        relay
            .set("listen.proxy_protocol_from", vec!["127.0.2.0/24"])
            .set("limits.auth_failures_per_minute", FAILURES_MAX)
            .set("audit.sums_every", "200ms")
    });
    builder.start().await
}

/// Sends a request with this key by TLS on a connection, and returns the status of its response.
async fn status(env: &TestEnv, stream: TcpStream, key: &ApiKey) -> String {
    let mut stream = env.tls(stream, &[]).await.unwrap();
    let request = format!(
        "GET /v1/keys HTTP/1.1\r\nHost: localhost\r\nAuthorization: {}\r\nConnection: close\r\n\r\n",
        key.basic()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n") {
        response.push(stream.read_u8().await.unwrap());
    }
    let line = String::from_utf8(response).unwrap();
    line.split(' ').nth(1).unwrap().to_owned()
}

/// Connects as the balancer, for a client with this address.
async fn balanced(env: &TestEnv, client: &str) -> TcpStream {
    let mut stream = env.connect_from(BALANCER.into()).await;
    let header = format!("PROXY TCP4 {client} 10.0.0.1 40000 443\r\n");
    stream.write_all(header.as_bytes()).await.unwrap();
    stream
}

/// Waits until the audit record has a denial of this address.
async fn denied(env: &TestEnv, address: &str) {
    eventually(TIMEOUT, address, async || {
        let page = env
            .get("/v1/audit?limit=1000&action=auth.denied", &env.admin)
            .await;
        let rows = page["audit"].as_array()?;
        let mut rows = rows.iter();
        rows.any(|row| row["detail"]["address"] == address)
            .then_some(())
    })
    .await;
}

/// Returns a key that exists, with another secret.
fn wrong(env: &TestEnv) -> ApiKey {
    ApiKey::new(env.caller.client_id.clone(), "ibs_wrong")
}

#[tokio::test]
async fn clients_of_a_balancer_have_their_own_limits() {
    let env = site().await;
    let wrong = wrong(&env);
    let mut statuses = Vec::new();
    for _ in 0..10 {
        let stream = balanced(&env, "203.0.113.7").await;
        statuses.push(status(&env, stream, &wrong).await);
    }
    assert!(statuses.contains(&"429".to_owned()), "{statuses:?}");
    let stream = balanced(&env, "203.0.113.8").await;
    assert_eq!(status(&env, stream, &wrong).await, "401");
    denied(&env, "203.0.113.7").await;
    denied(&env, "203.0.113.8").await;
}

#[tokio::test]
async fn only_a_listed_balancer_may_name_a_client() {
    let env = site().await;
    // From another address the header is the beginning of a broken handshake.
    let mut stream = env.connect_from([127, 0, 3, 1].into()).await;
    let header = b"PROXY TCP4 203.0.113.9 10.0.0.1 40000 443\r\n";
    stream.write_all(header).await.unwrap();
    assert!(env.tls(stream, &[]).await.is_err());
    // A listed one must send it.
    let stream = env.connect_from(BALANCER.into()).await;
    assert!(env.tls(stream, &[]).await.is_err());
    let log = env.relay.process();
    log.wait_log("does not begin with a PROXY header", TIMEOUT)
        .await;
    // A health check of the balancer counts as one of the balancer itself.
    let mut stream = env.connect_from(BALANCER.into()).await;
    stream.write_all(b"PROXY UNKNOWN\r\n").await.unwrap();
    assert_eq!(status(&env, stream, &wrong(&env)).await, "401");
    denied(&env, "127.0.2.1").await;
}

#[tokio::test]
async fn haproxy_names_its_clients_in_both_versions() {
    let env = site().await;
    for (option, client) in [
        ("send-proxy", [127, 0, 4, 1]),
        ("send-proxy-v2", [127, 0, 4, 2]),
    ] {
        let port = ports::free();
        let config = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             frontend relay\n bind 127.0.0.1:{port}\n default_backend relay\n\
             backend relay\n server relay1 {relay} {option} source 127.0.2.2\n",
            relay = env.public.addr()
        );
        let file = env.dir().join("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        // In the foreground.
        let mut command = Command::new("/usr/sbin/haproxy");
        command.arg("-db").arg("-f").arg(file);
        let _balancer = Running::spawn("haproxy", command);
        let stream = eventually(TIMEOUT, "haproxy listens", async || {
            let socket = TcpSocket::new_v4().ok()?;
            socket.bind((IpAddr::from(client), 0).into()).ok()?;
            socket.connect(([127, 0, 0, 1], port).into()).await.ok()
        })
        .await;
        assert_eq!(status(&env, stream, &wrong(&env)).await, "401");
        denied(&env, &IpAddr::from(client).to_string()).await;
    }
}
