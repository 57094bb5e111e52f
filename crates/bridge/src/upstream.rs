//! The HTTP client to targets: HTTP/1.1, and HTTP/2 with those that choose it.
//!
//! ```text
//! Approved --> pool (an idle connection whose address is approved again)
//!          \-> connect (TCP, TLS)  --> send --> the answer's head and body
//! ```
//!
//! There is no way in here without an [`Approved`], which only the policy makes. Nothing is
//! followed, repeated or decided here: that is the dispatcher's. An exchange moves the bytes of its
//! own [`Connection`], and closes it by dropping it; idle ones do not move. Those of HTTP/2 move in tasks of
//! their own.

mod body;
mod client_cert;
mod connect;
mod error;
mod http2;
mod pool;
mod request;
mod stream;
mod tls;
mod wire;

pub use body::RequestBody;
pub use client_cert::ClientCert;
pub use connect::{AnswerBody, Connection};
pub use pool::{Key, Reuse};
pub use request::request_head;

pub(crate) use body::Progress;
pub(crate) use connect::switched;
pub use error::BodyError;

pub(crate) use error::{closed_before_answer, request_failure, response_failure, untouched};
pub(crate) use http2::{Refused, refused};

use crate::config::Targets;
use policy::Approved;
use pool::Pool;
use protocol::Failure;
use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tls::TlsConfigs;
use tokio::net::TcpStream;
use transport::dial::Proxy;

/// Response header fields by HTTP/1.1; more are refused, as is a section above [`HEAD_BUFFER_BYTES`].
pub const RESPONSE_HEADERS_MAX: usize = 100;

/// Largest response header section, and what a connection buffers at most, in bytes.
pub const HEAD_BUFFER_BYTES: usize = 64 * 1024;

/// Targets that are remembered to want HTTP/1.1.
const WANT_HTTP1_MAX: usize = 256;

/// Connections to targets, and what is needed to make them.
#[derive(Debug)]
pub struct Upstream {
    pool: Arc<Pool>,
    tls: TlsConfigs,
    proxy: Proxy,
    connect_timeout: Duration,
    http2: bool,
    /// Targets that chose HTTP/2 and then wanted HTTP/1.1, [`WANT_HTTP1_MAX`] at most.
    want_http1: Mutex<HashSet<Key>>,
}

impl Upstream {
    /// Without any connection yet; certificates are read when the first HTTPS target needs them.
    pub fn new(targets: &Targets, proxy: Proxy) -> Self {
        Self {
            pool: Pool::new(
                targets.pool_idle_timeout.get(),
                targets.pool_idle_per_target.get(),
                targets.pool_idle_max.get(),
            ),
            tls: TlsConfigs::new(
                targets.ca_file.as_ref().map(|file| file.get().to_owned()),
                targets.tls_min.oldest(),
            ),
            proxy,
            connect_timeout: targets.connect_timeout.get(),
            http2: targets.http2,
            want_http1: Mutex::default(),
        }
    }

    /// The pool's key for an approved target.
    pub fn key(
        target: &policy::Target,
        ca_file: Option<&Path>,
        own: Option<&Arc<ClientCert>>,
    ) -> Key {
        Key::new(target, ca_file, own)
    }

    /// An idle connection that is good for such a request, and whose address `approve` allows.
    pub fn take_idle(
        &self,
        key: &Key,
        reuse: Reuse,
        approve: impl Fn(IpAddr) -> Option<Approved>,
    ) -> Option<(Approved, Connection)> {
        self.pool.take(key, reuse, approve)
    }

    /// A new connection to the first of the addresses that takes it, within this time or that of
    /// `[targets]`.
    ///
    /// # Errors
    /// `target_refused`, `target_tls`, and `overloaded` where this machine has no descriptor, port or memory
    /// left for it; nothing was dispatched.
    pub async fn connect(
        &self,
        approved: Vec<Approved>,
        key: &Key,
        within: Option<Duration>,
    ) -> Result<(Approved, Connection), Failure> {
        let within = within.unwrap_or(self.connect_timeout);
        let http2 = self.http2 && key.http2 && !self.want_http1().contains(key);
        connect::connect(approved, (key, http2), &self.tls, &self.proxy, within).await
    }

    fn want_http1(&self) -> MutexGuard<'_, HashSet<Key>> {
        let targets = self.want_http1.lock();
        targets.unwrap_or_else(PoisonError::into_inner)
    }

    /// What the target said of a request: one that wants HTTP/1.1 gets new connections of that kind.
    pub(crate) fn note(&self, key: &Key, refused: Refused) {
        if refused == Refused::WantsHttp1 {
            let mut targets = self.want_http1();
            if targets.len() >= WANT_HTTP1_MAX {
                targets.clear();
            }
            targets.insert(key.clone());
        }
    }

    /// A plain TCP stream to the first of the addresses that takes it, for raw streams.
    ///
    /// # Errors
    /// `target_refused`, `overloaded`; nothing was dispatched.
    pub(crate) async fn raw(
        &self,
        approved: Vec<Approved>,
        within: Option<Duration>,
    ) -> Result<TcpStream, Failure> {
        let within = within.unwrap_or(self.connect_timeout);
        connect::raw_stream(approved, &self.proxy, within).await
    }

    /// Puts a connection whose exchange is over back, once it can take another request.
    pub async fn give_back(&self, connection: Connection) {
        self.pool.put(connection).await;
    }
}
