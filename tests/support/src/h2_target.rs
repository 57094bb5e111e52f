//! A target that uses HTTP/2 over TLS, or HTTP/1.1 where it does not offer HTTP/2. It records each request
//! unchanged, and responds with the steps that the test wrote.
//!
//! ```text
//! client ── TLS, ALPN ──> H2Target ── by the key ──> Steps: read, head, send, pause, reset, ...
//!                             └────────────────────> Seen:  head, body, trailers, how it ended
//! ```
//!
//! The key of a request is its field [`CASE`](crate::recorder::CASE), or its path where it has none.
//! The steps by HTTP/2 are in `h2_target/http2.rs`. By HTTP/1.1 (`h2_target/http1.rs`) a response is sent at
//! once.

mod http1;
mod http2;
mod record;
mod script;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::ca::ThrowawayCa;
use crate::tasks::AbortOnDrop;
use record::Shared;

pub use record::{BodyEnd, Ended, Seen};
pub use script::{Head, Step, whole};

/// The names that its certificate holds.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];
/// The name by which HTTP/2 is chosen (RFC 9113, 3.2).
const HTTP2: &[u8] = b"h2";
/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(5);

/// The target. It closes everything when dropped.
#[derive(Debug)]
pub struct H2Target {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _serving: AbortOnDrop,
}

impl H2Target {
    /// Listens on loopback with a certificate of `ca`, and offers these protocols by ALPN, the preferred
    /// one first. With none there is no ALPN, and HTTP/1.1 is used.
    pub async fn start(ca: &ThrowawayCa, alpn: &[&str]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("loopback has a free port");
        let addr = listener
            .local_addr()
            .expect("a bound socket has an address");
        let tls = TlsAcceptor::from(ca.server_config(&NAMES, alpn));
        let shared = Arc::new(Shared::default());
        let serving = tokio::spawn(accept(listener, tls, Arc::clone(&shared)));
        Self {
            addr,
            shared,
            _serving: AbortOnDrop(serving),
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `https://127.0.0.1:PORT` and `path`.
    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.addr)
    }

    /// Sets the script for requests with this key. Other requests get 404.
    pub fn answer(&self, key: &str, steps: Vec<Step>) {
        self.answers(key, vec![steps]);
    }

    /// Sets a script for each request with this key, in order. Later requests get the last one.
    pub fn answers(&self, key: &str, scripts: Vec<Vec<Step>>) {
        self.shared.set_scripts(key, scripts);
    }

    /// The requests with this key that have come since they were taken last, in their order.
    pub fn take(&self, key: &str) -> Vec<Seen> {
        self.shared.take(key)
    }

    /// Waits until this holds of the requests with this key that were not taken, and returns them.
    /// They can still be taken.
    ///
    /// # Panics
    ///
    /// Where that takes longer than `within`.
    pub async fn wait_until(
        &self,
        key: &str,
        within: Duration,
        holds: impl Fn(&[Seen]) -> bool,
    ) -> Vec<Seen> {
        let deadline = Instant::now() + within;
        loop {
            let seen = self.shared.seen(key);
            if holds(&seen) {
                return seen;
            }
            assert!(
                Instant::now() < deadline,
                "not so within {within:?}: {}",
                told(&seen)
            );
            sleep(POLL).await;
        }
    }
}

/// A line for each request.
fn told(seen: &[Seen]) -> String {
    let line = |seen: &Seen| {
        format!(
            "\n{:?} {} {} on connection {}: {} bytes, {:?}, {:?}",
            seen.version,
            seen.method,
            seen.path,
            seen.connection,
            seen.body.len(),
            seen.body_end,
            seen.ended
        )
    };
    let lines: String = seen.iter().map(line).collect();
    format!("{} requests{lines}", seen.len())
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        connections.spawn(connection(socket, tls.clone(), Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(socket: TcpStream, tls: TlsAcceptor, shared: Arc<Shared>) {
    let _ = socket.set_nodelay(true);
    let Ok(stream) = tls.accept(socket).await else {
        return;
    };
    let number = shared.connected();
    if stream.get_ref().1.alpn_protocol() == Some(HTTP2) {
        http2::serve(stream, number, shared).await;
    } else {
        http1::serve(stream, number, shared).await;
    }
}
