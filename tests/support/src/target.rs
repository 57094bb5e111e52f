//! The internal server that a request reaches at last: an HTTP/1.1 target with a route for each behaviour of
//! a real one.
//!
//! | route | does |
//! | --- | --- |
//! | `POST /echo` | streams the body back, with its length where that was known |
//! | `POST /sink` | takes the body: `{"received": N, "sha256": "…"}` |
//! | `POST /hook` | records method, path, headers and body; see [`Target::hooks`] |
//! | `GET /headers` | the request line and the headers as text |
//! | `GET /small` | 200 bytes of JSON |
//! | `GET /bytes/N`, `/chunked/N` | the [pattern](crate::pattern), with and without a length |
//! | `GET /drip/N/MS` | N pieces of one byte, MS apart, chunked |
//! | `GET /delay/MS` | answers after MS |
//! | `GET /hang` | never answers; see [`Target::wait_for_hangups`] |
//! | `GET /truncated`, `/truncated-chunked` | half of 100 000 bytes, then closes |
//! | `GET /close` | closes without a response |
//! | `GET /redirect?to=URL` | 302 with that location; `/redirect/CODE?to=URL` with that status |
//! | `GET /big-headers/N` | N bytes of response headers |
//! | `GET /status/N` | that status |
//!
//! The routes are in `target/routes.rs`. [`RawTarget`](crate::RawTarget) sends responses that no HTTP library
//! would write.

mod routes;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::ca::{Issued, ThrowawayCa};
use crate::tasks::AbortOnDrop;

/// The names that a target's certificate holds.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// A running target; it closes everything when dropped.
#[derive(Debug)]
pub struct Target {
    addr: SocketAddr,
    tls: bool,
    seen: Arc<Seen>,
    _serving: AbortOnDrop,
}

/// One request to `/hook`.
#[derive(Debug, Clone)]
pub struct Hook {
    /// Its method.
    pub method: Method,
    /// Its path and query, as they came.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its whole body.
    pub body: Bytes,
}

/// What the target has seen so far.
#[derive(Debug)]
struct Seen {
    requests: AtomicU64,
    accepted: AtomicU64,
    live: AtomicUsize,
    hooks: Mutex<Vec<Hook>>,
    hangups: watch::Sender<u64>,
}

impl Target {
    /// Serves plain HTTP on a free port of loopback.
    pub async fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST).await
    }

    /// Serves plain HTTP on a free port of this address.
    pub async fn start_on(ip: Ipv4Addr) -> Self {
        Self::serve(ip, None).await
    }

    /// Serves HTTPS as `localhost` and `127.0.0.1`, with a certificate of `ca`.
    pub async fn start_tls(ca: &ThrowawayCa) -> Self {
        Self::start_tls_with(&ca.issue(&NAMES)).await
    }

    /// Serves HTTPS with this certificate, whatever is wrong with it.
    pub async fn start_tls_with(issued: &Issued) -> Self {
        let config = issued.server_config(&["http/1.1"]);
        Self::serve(Ipv4Addr::LOCALHOST, Some(TlsAcceptor::from(config))).await
    }

    /// The same as [`Self::start_tls`], for clients with a certificate of `ca` alone.
    pub async fn start_mutual(ca: &ThrowawayCa) -> Self {
        let config = ca.issue(&NAMES).mutual_config(ca, &["http/1.1"]);
        Self::serve(Ipv4Addr::LOCALHOST, Some(TlsAcceptor::from(config))).await
    }

    async fn serve(ip: Ipv4Addr, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((ip, 0))
            .await
            .expect("an address of our own has a free port");
        let addr = listener
            .local_addr()
            .expect("a bound socket has an address");
        let seen = Arc::new(Seen {
            requests: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            live: AtomicUsize::new(0),
            hooks: Mutex::new(Vec::new()),
            hangups: watch::Sender::new(0),
        });
        let is_tls = tls.is_some();
        let serving = tokio::spawn(accept(listener, tls, Arc::clone(&seen)));
        Self {
            addr,
            tls: is_tls,
            seen,
            _serving: AbortOnDrop(serving),
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The port of [`Self::addr`].
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// The URL of `path` on it, by address.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.addr)
    }

    /// Requests that have reached it, counted at their heads.
    pub fn requests(&self) -> u64 {
        self.seen.requests.load(Ordering::Relaxed)
    }

    /// Connections that it ever accepted.
    pub fn accepted(&self) -> u64 {
        self.seen.accepted.load(Ordering::Relaxed)
    }

    /// Connections that are open at present.
    pub fn connections(&self) -> usize {
        self.seen.live.load(Ordering::Relaxed)
    }

    /// The requests to `/hook`, in the order of their ends.
    pub fn hooks(&self) -> Vec<Hook> {
        self.seen.hooks().clone()
    }

    /// Exchanges that the client left before they were complete: the connection closed while a
    /// body was still coming in, a response was being waited for, or was being written.
    pub fn hangups(&self) -> u64 {
        *self.seen.hangups.borrow()
    }

    /// Waits until there were `count` [hangups](Self::hangups) in all.
    ///
    /// # Panics
    ///
    /// Where that takes longer than `within`.
    pub async fn wait_for_hangups(&self, count: u64, within: Duration) {
        let mut hangups = self.seen.hangups.subscribe();
        let waited = tokio::time::timeout(within, hangups.wait_for(|now| *now >= count)).await;
        assert!(
            waited.is_ok(),
            "the target saw {} of {count} hangups within {within:?} ({} requests, {} open connections)",
            self.hangups(),
            self.requests(),
            self.connections(),
        );
    }

    /// Waits until `count` requests have reached it.
    ///
    /// # Panics
    ///
    /// Where that takes longer than `within`.
    pub async fn wait_for_requests(&self, count: u64, within: Duration) {
        let deadline = tokio::time::Instant::now() + within;
        while self.requests() < count {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{} of {count} requests reached the target within {within:?}",
                self.requests(),
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Seen {
    fn hooks(&self) -> std::sync::MutexGuard<'_, Vec<Hook>> {
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts an exchange as aborted by its client, unless it was marked complete.
///
/// hyper drops the service's future, or the response's body, as soon as the connection is gone: so
/// the drop is the moment at which the target learns of it.
struct Exchange {
    seen: Arc<Seen>,
    complete: bool,
}

impl Exchange {
    fn begin(seen: &Arc<Seen>) -> Self {
        seen.requests.fetch_add(1, Ordering::Relaxed);
        Self {
            seen: Arc::clone(seen),
            complete: false,
        }
    }

    fn complete(&mut self) {
        self.complete = true;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.complete {
            self.seen.hangups.send_modify(|count| *count += 1);
        }
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, seen: Arc<Seen>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => if let Ok((socket, _)) = accepted {
                seen.accepted.fetch_add(1, Ordering::Relaxed);
                connections.spawn(connection(socket, tls.clone(), Arc::clone(&seen)));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Counts a connection for as long as it is open.
struct Live(Arc<Seen>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection(socket: TcpStream, tls: Option<TlsAcceptor>, seen: Arc<Seen>) {
    seen.live.fetch_add(1, Ordering::Relaxed);
    let _live = Live(Arc::clone(&seen));
    let _ = socket.set_nodelay(true);
    match tls {
        None => http(socket, seen).await,
        Some(tls) => {
            if let Ok(socket) = tls.accept(socket).await {
                http(socket, seen).await;
            }
        }
    }
}

async fn http(socket: impl AsyncRead + AsyncWrite + Unpin, seen: Arc<Seen>) {
    let service = service_fn(|request| {
        let exchange = Exchange::begin(&seen);
        routes::answer(request, exchange)
    });
    // Some routes end their connection with an error: that is what they are for.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .await;
}
