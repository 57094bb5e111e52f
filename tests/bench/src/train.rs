//! Work for programs that record how often each of their branches runs. `cargo xtask profile` builds such programs,
//! and this gives them what relay and bridge do most: small requests at every rate, long bodies both ways, calls,
//! deliveries, and callers with TLS and HTTP/2. It measures nothing.
//!
//! A profile is about proportions, so each kind of work gets its share of time, and none is left out: what never runs
//! here is compiled for size.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use serde_json::json;
use support::setup::{Allow, Endpoint};
use support::{Ask, TestEnv};
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;
use tokio_rustls::TlsConnector;

use crate::bulk::{Bulk, Way};
use crate::load::Load;

/// How long.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of each kind of small requests
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
}

/// The name of the endpoint.
const ENDPOINT: &str = "app";
/// Keep-alive connections that are busy at the same time.
const CONNECTIONS: usize = 64;
/// Bytes of a long body.
const BODY_BYTES: u64 = 64 << 20;
/// Long bodies at the same time.
const TRANSFERS: usize = 4;
/// Requests a second where the programs are idle in between.
const SLOW_RATE: u32 = 200;
/// From SIGTERM until a program has ended and has written its counts.
const STOP: Duration = Duration::from_secs(60);

/// Does the work, then ends both programs in order.
pub(crate) async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let duration = Duration::from_secs(args.seconds);
    let (_target, target_addr) = crate::target::start().await?;
    let mut site = TestEnv::bare()
        .endpoint(Endpoint::new(ENDPOINT, format!("http://{target_addr}/")))
        .allow(Allow::loopback(target_addr.port()).methods(&["GET"]))
        .start()
        .await;
    let relay = site.relay.internal().addr();
    let key = site.caller.basic();
    let prefix = format!("/v1/endpoints/{ENDPOINT}");
    let small = Load::get(relay, &format!("{prefix}/small"), Some(&key));
    let bulk = Bulk {
        addr: relay,
        prefix: prefix.clone(),
        authorization: Some(key.clone()),
    };

    small.latencies(duration).await?;
    small.requests(CONNECTIONS, 2 * duration).await?;
    small.first_latencies(duration / 2).await?;
    small.spaced(SLOW_RATE, duration).await?;
    for way in [Way::Down, Way::Up] {
        transfers(&bulk, way, 1).await?;
        let long = bulk.keep_going(way, BODY_BYTES, TRANSFERS);
        let concurrent = small.latencies(duration / 2).await;
        spawn_blocking(|| long.stop()).await??;
        concurrent?;
    }
    let url = format!("http://{target_addr}/small");
    let wait = json!({ "url": url, "method": "GET", "mode": "wait" });
    let calls = Load::post(relay, "/v1/calls", &key, &wait.to_string());
    calls.latencies(duration / 4).await?;
    calls.requests(CONNECTIONS, duration / 2).await?;
    let deliver = json!({ "url": url, "method": "GET", "mode": "deliver", "bridge": "b1" });
    let deliveries = Load::post(relay, "/v1/calls", &key, &deliver.to_string());
    deliveries.latencies(duration / 4).await?;
    over_http2(&site, &format!("{prefix}/small"), duration / 4).await?;
    for path in ["/v1/calls?limit=100", "/v1/bridges"] {
        let ask = Ask::get(path).key(&site.admin);
        site.relay.internal().send(ask).await.expect_status(200);
    }

    for status in [
        site.terminate_bridge(STOP).await,
        site.terminate_relay(STOP).await,
    ] {
        if !status.success() {
            return Err(format!("a program did not end in order: {status}").into());
        }
    }
    Ok(())
}

async fn transfers(bulk: &Bulk, way: Way, count: u32) -> Result<(), Box<dyn Error>> {
    let bulk = bulk.clone();
    let done = spawn_blocking(move || {
        let mut carrier = bulk.connect()?;
        for _ in 0..count {
            carrier.transfer(way, BODY_BYTES)?;
        }
        std::io::Result::Ok(())
    });
    Ok(done.await??)
}

/// Requests one after the other on a TLS connection with HTTP/2, as the cloud's own callers send them.
async fn over_http2(site: &TestEnv, path: &str, duration: Duration) -> Result<(), Box<dyn Error>> {
    let public = site.relay.public();
    let mut tls = (*site.ca.client_config()).clone();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(public.addr()).await?;
    tcp.set_nodelay(true)?;
    let stream = TlsConnector::from(Arc::new(tls))
        .connect(ServerName::try_from("localhost")?, tcp)
        .await?;
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let began = Instant::now();
    while began.elapsed() < duration {
        let request = Request::get(public.url(path))
            .header("authorization", site.caller.basic())
            .body(Empty::<Bytes>::new())?;
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(format!("HTTP/2: {}", response.status()).into());
        }
        response.into_body().collect().await?;
    }
    connection.abort();
    Ok(())
}
